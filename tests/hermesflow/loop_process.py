"""A loop over a few scenes, for tests: in this process, or in others that are killed and gone on with.

    python loop_process.py CHECKPOINT FOLDER FILE:LINES ...

writes FOLDER/straight, and FOLDER/killed, by a process killed whenever FILE there has so many lines (0: is there).

What a model with random weights draws and says is never right, so that drawings are judged by chance, captions are
scored by their length, and no loop stops early unless it is asked to.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file, save_file
from stage_process import fork

from gapbench.homologous import Homologous
from gapbench.judges import ModelJudge
from gapbench.miniature.benchmarks import homologous_scenes
from gapbench.models import zoo
from gapbench.models.show_o.model import ShowO
from gapbench.records import Decoding, Question
from gapbench.run import Progress
from gapbench.tasks.gap import Gap, items_of
from gapbench.tasks.matching import Likelihood
from hermesflow.close_gap import Loop, close_gap
from hermesflow.curate import CHUNK, MINIATURE
from hermesflow.grounds import Grounds
from hermesflow.homologous import train_items
from hermesflow.preferences import Rule
from hermesflow.train import Training

HOW = Loop(
    iterations=2,
    curation=replace(MINIATURE, images=4, caption_tokens=6, ways=((1, 1.0), (None, 1.0), (None, 2.0))),
    pairs=Rule(image_threshold=0.0),
    training=Training(steps=3, batch=4, masks=2, learning_rate=1e-3, save_every=2),
)
HOW = replace(HOW, curation=replace(HOW.curation, matching="likelihood", scorer="length"))


class Chance:
    """Answers by chance, from the pixels and the question."""

    def describe(self) -> dict[str, Any]:
        return {"name": "chance"}

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> Iterator[str]:
        for question in questions:
            pixels = b"".join(picture.open().tobytes() for picture in question.pictures)
            yield question.choices[zlib.crc32(pixels + question.text.encode()) % len(question.choices)]


class ByLength:
    """Scores captions: the longer, the better."""

    def describe(self) -> dict[str, Any]:
        return {"name": "length"}

    def scores(self, told: Sequence[tuple[Homologous, Sequence[str]]]) -> list[list[float]]:
        return [[1 - 1 / (1 + len(text)) for text in texts] for _, texts in told]


def write_model(tiny: Path, folder: Path) -> Path:
    """The tiny checkpoint with settings of its own to draw with, and captions that mostly end by themselves."""
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "sampling": {"steps": 3, "guidance": 1.5}}))
    weights = load_file(folder / "pytorch_model.safetensors")
    weights["showo.lm_head.bias"][load(str(tiny)).layout.eot] += 8
    save_file(weights, folder / "pytorch_model.safetensors")
    return folder


def load(name: str) -> ShowO:
    return zoo.load(name, "cpu", "float32")


def gap_of(name: str, split: str, count: int, judge: Any) -> Gap:
    items = items_of(homologous_scenes(count, split))
    return Gap(name, items, ModelJudge(judge), f"miniature world 1, {split} split", Likelihood())


def grounds(judge: Any = None) -> Grounds:
    """judge: of the drawings that the loop follows."""
    follow = gap_of("gap-validation", "validation", 3, judge or Chance())
    return Grounds("a few scenes", train_items(CHUNK + 2), follow, [gap_of("gap-mini", "test", 4, Chance())])


def loop(
    checkpoint: Path,
    folder: Path,
    how: Loop = HOW,
    on: Grounds | None = None,
    progress: Progress | None = None,
    stops: bool = False,
) -> dict[str, Any]:
    """stops: whether the loop may stop early."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch("hermesflow.curate.scorer", return_value=ByLength()))
        if not stops:
            stack.enter_context(mock.patch("hermesflow.close_gap.stopped", return_value=""))
        return close_gap(str(checkpoint), load, on or grounds(), how, folder, progress)


# --- What a loop left -------------------------------------------------------------------------------------------------


def state(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "loop.json").read_text())


def content(folder: Path) -> dict[str, Any]:
    """All that a loop leaves, but for what a clock says and where the folder lies."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_symlink():
            found[name] = os.readlink(file)
        elif file.is_file() and not file.name.startswith("."):
            found[name] = file.read_bytes().replace(str(folder).encode(), b"OUT")
            if file.name == "metrics.jsonl":
                lines = [json.loads(line) for line in found[name].splitlines()]
                found[name] = [{k: v for k, v in line.items() if k != "pairs_per_second"} for line in lines]
            if file.name == "run.json":
                told = json.loads(found[name])
                found[name] = {key: told[key] for key in ("status", "request", "counts")}
    return found


def same(a: Path, b: Path) -> None:
    first, second = content(a), content(b)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name] == second[name], name


def unfinished(whole: Path, folder: Path, *lost: str) -> None:
    """A copy of the loop as it was before it ended, and before these parts of it."""
    shutil.copytree(whole, folder, symlinks=True, dirs_exist_ok=True)
    told = state(folder)
    begun = {"schema": told["schema"], "status": "running", "request": told["request"], "done": told["done"]}
    (folder / "loop.json").write_text(json.dumps(begun))
    for name in (*lost, "checkpoint", "report.md"):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


# --- Disturbed --------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


class Interruptions:
    """Progress that raises once a stage has gone so far; then waits for the next of the given points."""

    def __init__(self, points: Sequence[tuple[str, int]]) -> None:
        self.points = list(points)
        self.title, self.done = "", 0

    def start(self, title: str, total: int, done: int) -> None:
        self.title, self.done = title, 0

    def advance(self, count: int) -> None:
        self.done += count
        if self.points and self.points[0] == (self.title, self.done):
            del self.points[0]
            raise Interrupted

    def stop(self) -> None:
        pass


def work(checkpoint: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    loop(checkpoint, folder)


def kill_at(checkpoint: Path, folder: Path, moments: Sequence[str]) -> None:
    for moment in moments:
        name, _, lines = moment.partition(":")
        child = fork(lambda: work(checkpoint, folder))
        file = folder / name
        while not file.exists() or (int(lines) and file.read_bytes().count(b"\n") < int(lines)):
            assert os.waitpid(child, os.WNOHANG) == (0, 0), f"ended before {moment}"
            time.sleep(0.0005)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"not killed at {moment}"
        print(f"killed at {moment}", flush=True)
    child = fork(lambda: work(checkpoint, folder))
    assert os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    checkpoint, folder, *moments = sys.argv[1:]
    kill_at(Path(checkpoint), Path(folder) / "straight", [])
    kill_at(Path(checkpoint), Path(folder) / "killed", moments)
