"""Answering POPE-shaped work, 18 questions a picture: a whole run of ours against one question at a time.

    uv run python -m benchmarks.answering                      # show-o-mini; two minutes on two cores
    uv run python -m benchmarks.answering --model show-o --device cuda --pictures 64

One at a time: what lmms-eval does with a model that answers one request after the other: the picture is opened, encoded
and read anew for each question. Ours: `gapbench run`'s loop, from JPEG files to judged records on disk. Answers are
compared one by one. Memory: the peak of a process of its own for each number of questions, with records and metrics.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from gapbench.data.pictures import file_picture
from gapbench.miniature import benchmarks
from gapbench.miniature.language import Query
from gapbench.miniature.world import SHAPES, scenes
from gapbench.models import zoo
from gapbench.records import Decoding, Item, Question, Sampling
from gapbench.run import Runner
from gapbench.store import RunFolder
from gapbench.tasks import pope
from gapbench.tasks.base import QuestionTask, Stream

QUESTIONS = 18  # a picture: six in each of POPE's three splits
ITEMS = (1_000, 5_000, 20_000)


def write_pictures(folder: Path, count: int) -> None:
    for number, scene in enumerate(scenes("test", count, seed=5)):
        benchmarks.picture_of(scene, "").open().save(folder / f"{number}.jpg", quality=95)


def items(folder: Path, count: int) -> Iterator[Item]:
    for number, scene in enumerate(scenes("test", count, seed=5)):
        picture = file_picture(folder / f"{number}.jpg", str(number))
        held = {thing.shape for thing in scene.things}
        for question in range(QUESTIONS):
            split, shape = pope.SPLITS[question % 3], SHAPES[question % len(SHAPES)]
            name, text = f"{split}/{number}-{question}", Query("exists", (None, shape)).text
            truth = {"label": "yes" if shape in held else "no", "split": split}
            yield Item(name, str(number), ("object",), Question(name, pope.prompt(text), (picture,)), truth)


def task_of(folder: Path, count: int) -> QuestionTask:
    asked = Stream(count * QUESTIONS, partial(items, folder, count))
    return QuestionTask(
        "pope", "1", asked, len(asked), Decoding(128), pope.judge_item, pope.metrics, {"data": "made up"}
    )


def one_at_a_time(model: Any, task: QuestionTask) -> list[str]:
    answers = []
    for item in task.asked:
        model._codes.clear()  # what it remembers of a picture would be shared by the next question
        answers += model.answer([item.ask], task.decoding)
    return answers


def peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_speed(model: Any, count: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_pictures(folder, count)
        task = task_of(folder, count)
        Runner(model, [task], RunFolder(folder / "warm-up"), Sampling()).run()
        model._codes.clear()
        started = time.perf_counter()
        Runner(model, [task], RunFolder(folder / "run"), Sampling()).run()
        ours = time.perf_counter() - started
        answers = [record.response for record in RunFolder(folder / "run").records("pope")]
        started = time.perf_counter()
        plain = one_at_a_time(model, task)
        single = time.perf_counter() - started
    n = len(plain)
    same = sum(a == b for a, b in zip(plain, answers, strict=True))
    print(f"{n} questions on {count} pictures     one at a time          ours    ratio   same answers")
    print(f"questions per second {n / single:25.1f} {n / ours:13.1f} {single / ours:7.1f}x   {same}/{n}")


def measure_memory(model: Any, number: int) -> None:
    """Of this process, which is a new one."""
    count = -(-number // QUESTIONS)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_pictures(folder, count)
        before = peak_mebibytes()
        Runner(model, [task_of(folder, count)], RunFolder(folder / "run"), Sampling()).run()
    print(f"{count * QUESTIONS:6} questions: peak {peak_mebibytes():6.0f} MiB, {before:6.0f} MiB of it before the run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="show-o-mini")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        measure_memory(zoo.load(args.model, args.device), args.memory)
        return
    # Memory first: a child's peak begins at what its parent holds when it is started.
    for number in ITEMS:
        command = [sys.executable, "-m", "benchmarks.answering", "--memory", str(number)]
        subprocess.run([*command, "--model", args.model, "--device", args.device], check=True)
    model = zoo.load(args.model, args.device)
    import torch

    machine = torch.cuda.get_device_name() if args.device != "cpu" else f"{platform.machine()} CPU"
    print(f"{args.model}, {machine}, {torch.get_num_threads()} threads, torch {torch.__version__}", flush=True)
    measure_speed(model, args.pictures)


if __name__ == "__main__":
    main()
