"""A training's metrics in TensorBoard or Weights & Biases, as its metrics.jsonl has them, each step once.

A training that goes on tells again, first, the lines that it kept. TensorBoard's files are made of them anew; Weights &
Biases is told those that its run does not have yet.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from gapbench.records import InputError
from gapbench.store import write_json
from hermesflow.checkpoints import writing

PROJECT = "hermesflow"  # of Weights & Biases, unless WANDB_PROJECT names another

Tracked = Callable[[Mapping[str, Any]], None]  # is told every line of metrics
Tracking = Callable[[Path], AbstractContextManager[Tracked | None]]  # of a training, by its folder


def by_name(name: str | None) -> Tracking:
    """`tensorboard`, `wandb`, or None for none. Raises InputError where there is no such tracker, or it is not
    installed.
    """
    if name is None:
        return lambda folder: nullcontext()
    if name == "tensorboard":
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError("--track tensorboard: not installed; `pip install tensorboard`") from None
        return partial(_opened, TensorBoard, SummaryWriter)
    if name == "wandb":
        try:
            import wandb
        except ImportError:
            raise InputError("--track wandb: not installed; `pip install wandb`") from None
        return partial(_opened, WeightsAndBiases, wandb)
    raise InputError(f"--track {name}: unknown; there is tensorboard, wandb")


@contextmanager
def _opened(kind: Callable[[Any, Path], Any], package: Any, folder: Path) -> Iterator[Tracked]:
    tracker = kind(package, folder)
    try:
        yield tracker
    finally:
        tracker.close()


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics by name, those of a side as `generation/loss`; without the step."""
    found: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{inner}": number for inner, number in scalars(value).items()}
        elif value is not None and name != "step":
            found[name] = value
    return found


class TensorBoard:
    """FOLDER/tensorboard, made anew with the first line. `summary_writer` is torch's class."""

    def __init__(self, summary_writer: Any, folder: Path) -> None:
        self._make, self._place, self._writer = summary_writer, folder / "tensorboard", None

    def __call__(self, line: Mapping[str, Any]) -> None:
        with writing(self._place):
            if self._writer is None:
                for old in self._place.glob("events.out.tfevents.*"):
                    old.unlink()
                self._writer = self._make(str(self._place))
            for name, value in scalars(line).items():
                self._writer.add_scalar(name, value, line["step"])
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases:
    """A run of its own, found again by the id in FOLDER/wandb.json. `wandb` is the package."""

    def __init__(self, wandb: Any, folder: Path) -> None:
        self._wandb, self._folder, self._run, self._next = wandb, folder, None, 0

    def __call__(self, line: Mapping[str, Any]) -> None:
        if self._run is None:
            self._open()
        if line["step"] >= self._next:
            self._run.log(scalars(line), step=line["step"])

    def _open(self) -> None:
        file = self._folder / "wandb.json"
        with writing(file):
            if not file.exists():
                write_json(file, {"id": secrets.token_hex(4)})
            known = json.loads(file.read_text(encoding="utf-8"))["id"]
            stage = json.loads((self._folder / "stage.json").read_text(encoding="utf-8"))
        try:
            self._run = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name="/".join(self._folder.resolve().parts[-3:]),
                id=known,
                resume="allow",
                dir=str(self._folder),
                config=stage,
            )
        except self._wandb.errors.Error as error:
            advice = "`wandb login`, or set WANDB_MODE=offline"
            raise InputError(f"--track wandb: cannot begin ({error}); {advice}") from None
        self._next = self._run.step  # of a run that goes on, the first that it does not have

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
