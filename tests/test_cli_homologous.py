"""`gapbench data homologous`: a folder of items from JourneyDB, and what is said about it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from layouts import journeydb as layout

from gapbench import cli, homologous


class Said(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["gapbench", "data", "homologous", *map(str, words)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code
        return Said(status, *capsys.readouterr())

    return run


def test_a_sample_is_written_and_told(command: Callable[..., Said], tmp_path: Path) -> None:
    rows = [layout.record(n, f"prompt {n // 2}") for n in range(10)]
    root, out = layout.write(tmp_path / "journeydb", [*rows, "{", layout.asking(4, Answer="D")]), tmp_path / "out"
    said = command(root, "--items", 3, "--seed", 2, "--out", out)
    assert said.status == 0, said.err
    lines = said.out.splitlines()
    assert lines[:3] == [
        "3 of 6 usable prompts, 6 questions (3 content, 3 style)",
        "  left out: 1 records that are not JSON",
        "  left out: 1 questions whose answer is none of their options",
    ]
    assert "may be passed on" in lines[3]
    assert lines[4] == f"wrote {out / homologous.FILE}"
    items = homologous.read(out)
    assert len({item.cluster for item in items}) == 3
    for item in items:
        assert Path(item.picture.key).read_bytes() == (root / f"valid/imgs/{item.id}.jpg").read_bytes()
        assert [q.type for q in item.questions] == ["style", "content"]
    again = command(root, "--items", 3, "--seed", 2, "--out", out)
    assert (again.status, again.out) == (2, "")
    assert "is there already" in again.err


def test_fewer_prompts_than_wanted_are_told(command: Callable[..., Said], tmp_path: Path) -> None:
    root = layout.write(tmp_path / "journeydb", [layout.record(n, "one") for n in range(3)], split="train")
    said = command(root, "--split", "train", "--out", tmp_path / "out")
    assert said.out.splitlines()[:2] == [
        "1 of 1 usable prompts, 2 questions (1 content, 1 style)",
        "  less than the 1000 that were asked for: no more are usable here",
    ]


def test_wrong_input_is_one_line(command: Callable[..., Said], tmp_path: Path) -> None:
    for words, message in {
        (tmp_path, "--out", tmp_path / "out"): "neither valid/valid_anno_repath.jsonl",
        (tmp_path, "--split", "test", "--out", tmp_path / "out"): "answers are held back",
    }.items():
        said = command(*words)
        assert (said.status, said.out) == (2, "")
        assert message in said.err
        assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
