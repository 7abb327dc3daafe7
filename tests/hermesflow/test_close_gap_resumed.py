"""The loop, disturbed: it goes on with the same call, and ends with the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import loop_process
import pytest
from loop_process import HOW, Interrupted, Interruptions, loop, same, state, unfinished, write_model

from hermesflow import close_gap as module
from hermesflow import pair_files
from hermesflow.close_gap import close_gap
from hermesflow.grounds import Grounds

SCRIPT = Path(loop_process.__file__)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tiny_checkpoint, tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def grounds() -> Grounds:
    return loop_process.grounds()


@pytest.fixture(scope="module")
def whole(checkpoint: Path, grounds: Grounds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A loop of two iterations that nothing disturbed."""
    folder = tmp_path_factory.mktemp("loops") / "whole"
    loop(checkpoint, folder, on=grounds)
    return folder


def test_interrupted_in_every_stage_it_ends_with_the_same_bytes(
    whole: Path, checkpoint: Path, grounds: Grounds, tmp_path: Path
) -> None:
    one = [("gap-validation drawn", 2), ("curate", 8), ("reference", 3), ("training", 1), ("training", 3)]
    points = [("gap-mini real", 20), ("gap-mini own", 44), *one, *one, ("gap-mini drawn", 1)]
    progress = Interruptions(points)
    for _ in points:
        with pytest.raises(Interrupted):
            loop(checkpoint, tmp_path, on=grounds, progress=progress)
    loop(checkpoint, tmp_path, on=grounds, progress=progress)
    assert not progress.points
    same(tmp_path, whole)


@pytest.mark.parametrize(("where", "name"), [(pair_files, "pairs.jsonl"), (module, "report.md")])
def test_a_file_that_could_not_be_written_comes_with_the_next_call(
    where: ModuleType,
    name: str,
    whole: Path,
    checkpoint: Path,
    grounds: Grounds,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = where.write_bytes

    def failing(path: Path, content: bytes) -> None:
        if path.name == name:
            raise Interrupted
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(where, "write_bytes", failing)
        with pytest.raises(Interrupted):
            loop(checkpoint, tmp_path, on=grounds)
    assert state(tmp_path)["status"] == "running"
    loop(checkpoint, tmp_path, on=grounds)
    same(tmp_path, whole)


@pytest.mark.slow
def test_killed_at_ten_moments_it_ends_with_the_same_bytes(checkpoint: Path, tmp_path: Path) -> None:
    moments = [
        "before/run.json:0",
        "before/records/gap-mini.jsonl:1",
        "1/follow/images:0",
        "1/candidates/candidates.0.jsonl:8",
        "1/pairs.json:0",
        "1/training/reference.jsonl:4",
        "1/training/metrics.jsonl:2",
        "2/emphasis.json:0",
        "2/training/checkpoint:0",
        "after/records/gap-mini.jsonl:1",
    ]
    path = os.pathsep.join([str(SCRIPT.parents[2]), str(SCRIPT.parent), str(SCRIPT.parents[1])])
    command = [sys.executable, str(SCRIPT), str(checkpoint), str(tmp_path), *moments]
    ran = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.count("killed at") == len(moments)
    same(tmp_path / "straight", tmp_path / "killed")


def test_a_loop_that_has_ended_is_left_as_it_is(whole: Path, checkpoint: Path, grounds: Grounds) -> None:
    def stamps() -> dict[Path, tuple[int, int]]:
        return {file: (file.lstat().st_mtime_ns, file.lstat().st_ino) for file in whole.rglob("*") if file.is_file()}

    def refuse(name: str) -> Any:
        raise AssertionError("a model was loaded")

    before, told = stamps(), state(whole)
    assert close_gap(str(checkpoint), refuse, grounds, HOW, whole) == told
    assert {file: stamp for file, stamp in stamps().items() if file.name != ".lock"} == {
        file: stamp for file, stamp in before.items() if file.name != ".lock"
    }


def test_how_far_it_is_never_goes_back(whole: Path, checkpoint: Path, grounds: Grounds, tmp_path: Path) -> None:
    unfinished(whole, tmp_path, "after")
    seen: list[int] = []

    class Watching(Interruptions):
        def start(self, title: str, total: int, done: int) -> None:
            seen.append(state(tmp_path)["done"])

    real = module.write_json

    def write(path: Path, value: Any) -> None:
        real(path, value)
        if path.name == "loop.json":
            seen.append(value["done"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "write_json", write)
        loop(checkpoint, tmp_path, on=grounds, progress=Watching([]))
    assert set(seen) == {2}


def test_a_folder_that_was_moved_is_gone_on_with(
    whole: Path, checkpoint: Path, grounds: Grounds, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        loop(checkpoint, tmp_path / "a", on=grounds, progress=Interruptions([("curate", 8)]))
    unfinished(whole, tmp_path / "b", "after", "2/training")
    for name in ("a", "b"):
        (tmp_path / name).rename(tmp_path / f"moved {name}")
        loop(checkpoint, tmp_path / f"moved {name}", on=grounds)
        same(tmp_path / f"moved {name}", whole)
