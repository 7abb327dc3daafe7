"""What the families share: results in order, pictures remembered, files found; and that no family needs another."""

from __future__ import annotations

import ast
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import gapbench.models
from gapbench.models.base import in_order
from gapbench.models.unified.backbone import left_padded, positions_after, visible_causal
from gapbench.models.unified.files import weights_in
from gapbench.models.unified.pictures import CodedPicture, drawn, read_codes
from gapbench.models.unified.sampling import chosen, guided
from gapbench.records import Failure, InputError, Picture, Sampling

ROOM = Path(gapbench.models.__file__).parent
FAMILIES = sorted(path.parent.name for path in ROOM.glob("*/model.py"))


def test_families_are_found() -> None:
    assert FAMILIES == ["janus", "llamagen", "show_o", "vila_u"]


@pytest.mark.parametrize("place", ["unified", *FAMILIES])
def test_no_family_imports_another(place: str) -> None:
    for file in (ROOM / place).rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        rooms = {name.split(".")[2] for name in names if name.startswith("gapbench.models.")}
        assert not rooms & ({*FAMILIES} - {place}), file


@given(st.permutations(range(8)))
def test_results_come_in_order_and_as_soon_as_they_can(numbers: list[int]) -> None:
    taken: list[int] = []

    def found() -> Iterator[tuple[int, str]]:
        for number in numbers:
            taken.append(number)
            yield number, f"result {number}"

    for at, result in enumerate(in_order(found())):
        assert result == f"result {at}"
        assert len(taken) == 1 + max(numbers.index(number) for number in range(at + 1))


def test_codes_are_read_once_and_the_latest_remembered() -> None:
    opened: list[str] = []

    def picture(key: str) -> Picture:
        return Picture(key, lambda: opened.append(key) or Image.new("L", (1, 1), ord(key)))

    def encode(images: Sequence[Image.Image]) -> list[Tensor]:
        return [torch.tensor([image.getpixel((0, 0))]) for image in images]

    def broken() -> Image.Image:
        raise OSError("truncated file")

    known, remembered = CodedPicture("k", broken, codes=torch.tensor([7])), OrderedDict()
    found = read_codes([picture("a"), known, picture("b"), Picture("x", broken), picture("a")], remembered, 2, encode)
    bad = found.pop("x")
    assert {key: codes.tolist() for key, codes in found.items()} == {"a": [97], "k": [7], "b": [98]}
    assert bad == Failure("x: truncated file")
    assert opened == ["a", "b"]
    assert list(remembered) == ["a", "b"]

    found = read_codes([picture("b"), picture("c")], remembered, 2, encode)
    assert {key: codes.tolist() for key, codes in found.items()} == {"b": [98], "c": [99]}
    assert opened == ["a", "b", "c"]
    assert list(remembered) == ["b", "c"]


def test_what_is_refused_keeps_its_place() -> None:
    sizes: list[int] = []

    def work(items: Sequence[int]) -> list[Tensor]:
        sizes.append(len(items))
        return [torch.tensor(item) for item in items]

    refusals = [Failure("odd") if number % 2 else None for number in range(7)]
    found = list(drawn(range(7), refusals, 3, work))
    assert [each if isinstance(each, Failure) else int(each) for each in found] == [
        0, Failure("odd"), 2, Failure("odd"), 4, Failure("odd"), 6,
    ]  # fmt: skip
    assert sizes == [3, 1]


def test_the_first_value_given_counts_even_zero() -> None:
    assert chosen("guidance", Sampling(), Sampling(guidance=0.0), Sampling(guidance=2.0)) == 0.0
    assert chosen("steps", Sampling(), Sampling()) is None


def test_guidance_of_one_needs_no_unprompted_rows() -> None:
    rows = torch.tensor([[1.0], [3.0], [0.5], [1.0]])
    assert guided(rows, 1).tolist() == rows.tolist()
    assert guided(rows, 3).tolist() == [[0.5 + 3 * 0.5], [1.0 + 3 * 2.0]]


def test_left_pads_are_hidden_and_take_no_position() -> None:
    ids, pads = left_padded([[5, 6, 7], [8]], torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert positions_after(pads, 3).tolist() == [[0, 1, 2], [0, 0, 0]]
    first, second = visible_causal(pads, 3)[:, 0].int().tolist()
    assert first == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert second == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


def test_weights_are_a_file_or_an_indexs_shards(tmp_path: Path) -> None:
    names = ("model.safetensors", "model.safetensors.index.json")
    assert weights_in(tmp_path, names) == ([], ["model.safetensors or model.safetensors.index.json"])
    index = tmp_path / names[1]
    index.write_text(json.dumps({"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "a.safetensors"}}))
    (tmp_path / "a.safetensors").touch()
    assert weights_in(tmp_path, names) == (
        [tmp_path / "a.safetensors", tmp_path / "b.safetensors"],
        ["b.safetensors"],
    )
    index.write_text(json.dumps({"weight_map": {"x": "../a.safetensors"}}))
    with pytest.raises(InputError, match="weight_map does not name the files of tensors"):
        weights_in(tmp_path, names)
    (tmp_path / names[0]).touch()
    assert weights_in(tmp_path, names) == ([tmp_path / names[0]], [])
