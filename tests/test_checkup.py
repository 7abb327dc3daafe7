"""`gapbench data`: what is there, whether it is whole, and what it asks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants
from layouts import pope as layout

from gapbench import cli
from gapbench.data.sources import SOURCES
from gapbench.tasks import pope

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def data_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gapbench", "data", *map(str, words)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return command


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """POPE over two pictures, which is taken for the official data."""
    folder = layout.write_own(tmp_path / "data" / "pope", 2)
    monkeypatch.setattr(pope, "ROWS", 12)
    rows = pope.read(folder, allow_partial=True).data.rpartition(" ")[2]
    monkeypatch.setattr(pope, "OFFICIAL_ROWS", (rows,))
    return folder.parent


def test_whole_data(data_command: Command, whole: Path) -> None:
    status, out, _ = data_command("check", "pope", "--data", whole)
    assert status == 0
    assert out.startswith("pope: 36 of 36 questions, 2 pictures, all of them decode; random 12, popular 12, advers")


def test_a_broken_picture_is_named(data_command: Command, whole: Path) -> None:
    picture = whole / "pope" / "val2014" / "COCO_val2014_000000000002.jpg"
    picture.write_bytes(picture.read_bytes()[:-500])
    status, out, err = data_command("check", "pope", "--data", whole)
    assert status == 2
    assert "36 of 36 questions, 2 pictures, 1 broken" in out
    assert "COCO_val2014_000000000002: image file is truncated" in out
    assert err.endswith("error: data check: 1 fault, named above\n")


def test_missing_data(data_command: Command, whole: Path) -> None:
    (whole / "pope" / "val2014" / "COCO_val2014_000000000002.jpg").unlink()
    status, out, _ = data_command("check", "pope", "--data", whole)
    assert status == 2
    assert "1 of 2 images are missing (COCO_val2014_000000000002.jpg)" in out
    status, out, _ = data_command("check", "pope")
    assert status == 2
    assert out.startswith("pope: no data here. Give --data DIR")
    status, _, err = data_command("check", "pop")
    assert status == 2
    assert err.startswith("error: pop: no task with data of its own; there are ")


def test_where(data_command: Command, whole: Path) -> None:
    _, out, _ = data_command("where", "pope", "--data", whole)
    assert out.startswith(
        f"pope: {whole / 'pope'} (--data)\n  hub      lmms-lab-encoder/POPE at {SOURCES['pope'].revision}"
    )
    assert "  licence  MIT" in out
    assert data_command("where", "pope")[1].startswith("pope: not here\n")


def test_ids_need_no_pictures(data_command: Command, shared: Path) -> None:
    status, out, _ = data_command("ids", "pope", "--data", shared / "data/understanding/pope")
    asked = [json.loads(line) for line in out.splitlines()]
    assert (status, len(asked)) == (0, 9000)
    assert asked[0] == {
        "id": "random/1",
        "pictures": ["COCO_val2014_000000310196"],
        "prompt": pope.prompt("Is there a snowboard in the image?"),
    }
