"""What the released code of HermesFlow gets wrong and no other test here holds ours to: one test a defect, named after
what is right.

Those about pairs, likelihoods, the loss, the order and the loop stand beside what they test.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from miniature_pairs import make_pairs
from safetensors.torch import load_file

from gapbench.models import zoo
from gapbench.models.show_o.model import ShowO
from hermesflow.curate import MINIATURE, curate
from hermesflow.homologous import train_items
from hermesflow.pair_files import pair_up
from hermesflow.preferences import Rule
from hermesflow.records import candidates_from, pair_from
from hermesflow.train import Stage, Training, train

QUICK = Training(steps=3, batch=2, masks=2, learning_rate=1e-3, save_every=2)


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> ShowO:
    return zoo.load(str(tiny_checkpoint), "cpu", "float32")


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "pytorch_model.safetensors")


def test_each_stage_reads_what_the_one_before_wrote_and_twice_is_once(model: ShowO, tmp_path: Path) -> None:
    """Released: captions are written under a name that nobody reads, as what is no JSON, and once more a call."""
    how = replace(MINIATURE, images=3, ways=((1, 1.0),), caption_tokens=4, matching="likelihood")
    items = train_items(4)
    for _ in range(2):
        candidates = curate(model, items, how, tmp_path / "candidates")
        lines = candidates.read_text().splitlines()
        assert [candidates_from(line).id for line in lines] == [json.loads(line)["id"] for line in lines]
        assert [json.loads(line)["id"] for line in lines] == [item.id for item in items]
        paired = pair_up(candidates, (), Rule(image_threshold=0.0), None, "uniform", tmp_path / "pairs")
        found = [pair_from(line) for line in paired.file.read_text().splitlines()]
        assert found
        assert found == list(paired.emphasis.pairs)


def test_training_is_on_the_pairs_that_it_is_given(model: ShowO, tmp_path: Path) -> None:
    """Released: half of them come from a file of a fixed name, which no script writes."""
    pairs = make_pairs(model, 4)
    first, same, other = (
        weights(train(model, model, some, QUICK, tmp_path / str(number)))
        for number, some in enumerate((pairs[:2], pairs[:2], pairs[2:]))
    )
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_what_is_computed_in_bfloat16_is_the_loss(
    model: ShowO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Released: autocast wraps a `forward` that nothing calls; and policy, mask and reference have types that clash."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    computed = []
    stage = Stage(model, model, make_pairs(model, 2), replace(QUICK, bfloat16=True), 3, tmp_path)
    layer = stage.model.parts.phi.model.layers[0].mlp.fc1
    layer.register_forward_hook(lambda *told: computed.append((told[2].dtype, torch.is_grad_enabled())))
    stage.step()
    assert set(computed) == {(torch.bfloat16, True)}
    assert {value.dtype for value in stage.parameters.values()} == {torch.float32}
    assert {value.grad.dtype for value in stage.parameters.values()} == {torch.float32}


def test_a_reference_of_another_type_does_not_clash(model: ShowO, tiny_checkpoint: Path, tmp_path: Path) -> None:
    reference = zoo.load(str(tiny_checkpoint), "cpu", "bfloat16")
    trained = weights(train(model, reference, make_pairs(model, 2), QUICK, tmp_path))
    assert {value.dtype for value in trained.values()} == {torch.float32}
    assert all(value.isfinite().all() for value in trained.values())


def test_training_encodes_no_picture_anew(model: ShowO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Released: drawings are read from resized PNGs and encoded once more, to codes that nobody sampled."""
    pairs = make_pairs(model, 2)

    def refuse(*_: Any) -> Iterator[Any]:
        raise AssertionError("a picture was encoded")

    monkeypatch.setattr(type(model.parts.magvit.encoder), "forward", refuse)
    with pytest.raises(AssertionError, match="encoded"):
        list(model.encode([train_items(1)[0].picture.open()]))
    train(model, model, pairs, QUICK, tmp_path)


def test_a_training_needs_nothing_that_it_was_not_given(
    model: ShowO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Released: it draws samples now and then, of prompts from a file that is not there."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    train(model, model, make_pairs(model, 2), replace(QUICK, steps=5), tmp_path / "stage")
    assert len((tmp_path / "stage" / "metrics.jsonl").read_text().splitlines()) == 5
    assert not list(Path.cwd().iterdir())


class Read(Training):
    """Notes which of its settings are asked for."""

    asked: ClassVar[set[str]] = set()

    def __getattribute__(self, name: str) -> Any:
        Read.asked.add(name)
        return super().__getattribute__(name)


def test_every_setting_of_a_training_is_read(model: ShowO, tmp_path: Path) -> None:
    """Released: ten keys of its configuration are read by nothing."""
    how = Read(batch=2, epochs=1.0, masks=1, save_every=1)
    Read.asked.clear()
    Stage(model, model, make_pairs(model, 2), how, 1, tmp_path).run(tmp_path / "checkpoint")
    assert {field.name for field in fields(Training)} - Read.asked == set()
