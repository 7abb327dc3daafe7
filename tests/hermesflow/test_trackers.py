"""Trackers: every step of a training once, whatever was killed, and one line where a package is missing."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from miniature_pairs import make_pairs

from gapbench.models import zoo
from gapbench.models.show_o.model import ShowO
from gapbench.records import InputError
from hermesflow import trackers
from hermesflow.train import Training, train

HOW = Training(steps=4, batch=2, masks=1, learning_rate=1e-3, save_every=2)
LINE = {"step": 3, "loss": 1.5, "generation": {"loss": 0.5, "margin": None}, "gradient_cosine": None}


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> ShowO:
    return zoo.load(str(tiny_checkpoint), "cpu", "float32")


class SummaryWriter:
    """Writes name, value and step, a line each, into a file as torch's names it."""

    made = 0

    def __init__(self, folder: str) -> None:
        SummaryWriter.made += 1
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.file = (Path(folder) / f"events.out.tfevents.{SummaryWriter.made}").open("w")

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.file.write(json.dumps([name, value, step]) + "\n")

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class Wandb(ModuleType):
    """A server with runs by id, which knows each run's history."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.errors = SimpleNamespace(Error=type("Error", (Exception,), {}))
        self.runs: dict[str, list[tuple[int, Mapping[str, float]]]] = {}
        self.asked: list[dict[str, Any]] = []
        self.finished = 0

    def init(self, **asked: Any) -> Any:
        self.asked.append(asked)
        history = self.runs.setdefault(asked["id"], [])

        def finish() -> None:
            self.finished += 1

        return SimpleNamespace(
            step=history[-1][0] + 1 if history else 0,
            log=lambda values, step: history.append((step, values)),
            finish=finish,
        )


@pytest.fixture
def tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    fake = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return fake


class Killed(Exception):
    pass


def train_killed_at(step: int, name: str, model: ShowO, folder: Path) -> None:
    """Killed in step `step`, and gone on with; steps since the last even one are made twice."""

    def stop(line: Mapping[str, Any]) -> None:
        tracked(line)
        if line["step"] == step:
            raise Killed

    with pytest.raises(Killed), trackers.by_name(name)(folder) as tracked:
        train(model, model, make_pairs(model, 4), HOW, folder, tracked=stop)
    with trackers.by_name(name)(folder) as tracked:
        train(model, model, make_pairs(model, 4), HOW, folder, tracked=tracked)


def lines(folder: Path) -> list[dict[str, float]]:
    return [trackers.scalars(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_numbers_of_a_line() -> None:
    assert trackers.scalars(LINE) == {"loss": 1.5, "generation/loss": 0.5}


def test_tensorboard_has_each_step_once_after_a_kill(tensorboard: None, model: ShowO, tmp_path: Path) -> None:
    train_killed_at(3, "tensorboard", model, tmp_path)
    (file,) = (tmp_path / "tensorboard").iterdir()
    told = [json.loads(line) for line in file.read_text().splitlines()]
    assert Counter(step for name, _, step in told if name == "loss") == {1: 1, 2: 1, 3: 1, 4: 1}
    expected = [
        [name, value, step] for step, line in enumerate(lines(tmp_path), start=1) for name, value in line.items()
    ]
    assert told == expected


def test_a_finished_training_leaves_its_files_alone(tensorboard: None, model: ShowO, tmp_path: Path) -> None:
    train_killed_at(3, "tensorboard", model, tmp_path)
    (file,) = (tmp_path / "tensorboard").iterdir()
    before = file.read_bytes()
    (tmp_path / "tensorboard" / "notes").write_text("mine")
    with trackers.by_name("tensorboard")(tmp_path) as tracked:
        train(model, model, make_pairs(model, 4), HOW, tmp_path, tracked=tracked)
    assert file.read_bytes() == before
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_wandb_has_each_step_once_after_a_kill(wandb: Wandb, model: ShowO, tmp_path: Path) -> None:
    train_killed_at(3, "wandb", model, tmp_path / "1" / "training")
    ((known, history),) = wandb.runs.items()
    assert [step for step, _ in history] == [1, 2, 3, 4]
    found, kept = [values for _, values in history], lines(tmp_path / "1" / "training")
    for values in (*found, *kept):
        values.pop("pairs_per_second")  # of a step that was made twice, the first told
    assert found == kept
    assert wandb.finished == 2
    assert [asked["id"] for asked in wandb.asked] == [known, known]
    asked = wandb.asked[1]
    assert (asked["resume"], asked["project"], asked["name"]) == ("allow", "hermesflow", f"{tmp_path.name}/1/training")
    assert asked["config"]["stage"]["batch"] == HOW.batch


def test_the_users_project(wandb: Wandb, model: ShowO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    with trackers.by_name("wandb")(tmp_path) as tracked:
        train(model, model, make_pairs(model, 2), replace(HOW, steps=1), tmp_path, tracked=tracked)
    assert wandb.asked[0]["project"] == "mine"


def test_what_wandb_refuses_is_one_line(wandb: Wandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**asked: Any) -> None:
        raise wandb.errors.Error("api_key not configured (no-tty)")

    monkeypatch.setattr(wandb, "init", refuse)
    (tmp_path / "stage.json").write_text("{}")
    refused = r"--track wandb: cannot begin \(api_key not .*\); `wandb login`"
    with pytest.raises(InputError, match=refused), trackers.by_name("wandb")(tmp_path) as tracked:
        tracked(LINE)


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_what_is_not_installed(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"--track {name}: not installed; `pip install {name}`"):
        trackers.by_name(name)


def test_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--track paper: unknown; there is tensorboard, wandb"):
        trackers.by_name("paper")
    with trackers.by_name(None)(tmp_path) as tracked:
        assert tracked is None
