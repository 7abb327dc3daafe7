"""The loop: what it leaves, when it stops, what an iteration takes from the one before, and what it never mixes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import loop_process
import pytest
from loop_process import HOW, Interrupted, Interruptions, content, load, loop, state, unfinished, write_model
from safetensors.torch import load_file, save_file

from gapbench.compare import compare
from gapbench.manifest import request_of
from gapbench.models import zoo
from gapbench.records import Decoding, InputError, Question, Sampling
from gapbench.report import runs
from hermesflow import emphasis, preferences
from hermesflow.curate import read_candidates
from hermesflow.grounds import Grounds
from hermesflow.homologous import train_items
from hermesflow.records import Pair, Pairs, pair_from
from hermesflow.reference import fingerprint


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


def stage(folder: Path, iteration: int) -> dict[str, Any]:
    return json.loads((folder / str(iteration) / "training" / "stage.json").read_text())["stage"]


def pairs(folder: Path, iteration: int) -> list[Pair]:
    lines = (folder / str(iteration) / "pairs.jsonl").read_text().split("\n")
    return [pair_from(line) for line in lines if line]


def diagnostics(folder: Path, iteration: int) -> dict[str, Any]:
    return json.loads((folder / str(iteration) / "follow" / "diagnostics.json").read_text())


# --- What it leaves ---------------------------------------------------------------------------------------------------


def test_everything_lies_where_it_is_said_to(whole: Path) -> None:
    names = set(content(whole))
    wanted = {"loop.json", "report.md", "checkpoint"}
    for place in ("before", "after", "1/follow", "2/follow"):
        wanted |= {f"{place}/{name}" for name in ("run.json", "results.json", "diagnostics.json")}
    wanted |= {"before/records/gap-mini.jsonl", "1/follow/records/gap-validation.jsonl"}
    for iteration in (1, 2):
        parts = ("pairs.jsonl", "pairs.json", "emphasis.md", "emphasis.json", "candidates/candidates.jsonl")
        wanted |= {f"{iteration}/{name}" for name in parts}
        wanted |= {f"{iteration}/training/{name}" for name in ("metrics.jsonl", "checkpoint/config.json")}
    assert wanted <= names
    assert not [name for name in names if "partial" in name or name.endswith("state.pt")]
    assert (whole / "checkpoint" / "config.json").samefile(whole / "2" / "training" / "checkpoint" / "config.json")


def test_loop_json_says_what_came_of_it(whole: Path, checkpoint: Path, grounds: Grounds) -> None:
    told = state(whole)
    assert (told["status"], told["done"], told["request"]["model"]) == ("complete", 2, str(checkpoint))
    assert "stopped" not in told
    assert Path(told["checkpoint"]).samefile(whole / "2" / "training" / "checkpoint")
    before, after = (runs.load(whole / name).estimates(grounds.gap) for name in ("before", "after"))
    for measure in ("U", "G", "gap", "p10"):
        found = told["outcome"]["all"][measure]
        assert (found["before"], found["after"]) == (before[measure].value, after[measure].value)
        assert found["difference"] == pytest.approx(found["after"] - found["before"])
    report = (whole / "report.md").read_text()
    assert report.startswith("2 of 2 iterations")
    assert "| all: gap |" in report


def test_before_and_after_are_runs_of_the_base_and_of_what_came_out(whole: Path, grounds: Grounds) -> None:
    before, after = runs.load(whole / "before"), runs.load(whole / "after")
    assert compare(before, after).changes
    for run, name in ((before, None), (after, state(whole)["checkpoint"])):
        model = load(name or state(whole)["request"]["model"])
        request = json.loads(json.dumps(request_of(model, grounds.judge, Sampling(), None)))
        assert run.manifest["request"]["model"]["weights"] == request["model"]["weights"]
        assert (run.manifest["request"]["tasks"], run.manifest["status"]) == (request["tasks"], "complete")
    weights = [run.manifest["request"]["model"]["weights"]["transformer"]["sha256"] for run in (before, after)]
    assert weights[0] != weights[1]


def test_what_came_out_is_drawn_with_as_the_base_was(whole: Path) -> None:
    model = zoo.load(str(whole / "checkpoint"), "cpu")
    assert (model.settings(Sampling()).steps, model.settings(Sampling()).guidance) == (3, 1.5)
    for place in ("before", "after", "1/follow", "2/follow"):
        drawn = runs.load(whole / place).manifest["request"]["sampling"]
        assert (drawn["steps"], drawn["guidance"]) == (3, 1.5), place


def test_runs_are_of_the_model_of_their_iteration(whole: Path) -> None:
    def weights(place: str) -> str:
        return runs.load(whole / place).manifest["request"]["model"]["weights"]["transformer"]["sha256"]

    assert weights("before") == weights("1/follow")
    assert len({weights(place) for place in ("before", "2/follow", "after")}) == 3


def test_fresh_items_are_each_in_one_iteration(checkpoint: Path, grounds: Grounds, tmp_path: Path) -> None:
    loop(checkpoint, tmp_path, replace(HOW, fresh_items=True), grounds)
    made = [read_candidates(tmp_path / str(iteration) / "candidates") for iteration in (1, 2)]
    ids = [[each.id for each in part] for part in made]
    every = [item.id for item in grounds.items]
    assert ids == [every[0::2], every[1::2]]
    assert "old pairs without candidates" not in (tmp_path / "2" / "pairs.json").read_text()
    few = replace(grounds, items=grounds.items[:1])
    with pytest.raises(InputError, match="1 items for 2 iterations; give more items or --same-items"):
        loop(checkpoint, tmp_path / "few", replace(HOW, fresh_items=True), few)


# --- Stopping ---------------------------------------------------------------------------------------------------------


class Silent:
    """A judge that finds nothing in any drawing."""

    def describe(self) -> dict[str, Any]:
        return {"name": "silent"}

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> Any:
        return (" " for _ in questions)


def test_a_gap_that_is_closed_is_not_trained_on(checkpoint: Path, grounds: Grounds, tmp_path: Path) -> None:
    found = loop(checkpoint, tmp_path, replace(HOW, target=1.0), grounds, stops=True)
    assert found == state(tmp_path)
    assert (found["done"], found["checkpoint"]) == (0, str(checkpoint))
    assert found["stopped"].startswith("closed: the gap is ")
    assert found["outcome"]["all"]["gap"]["difference"] == 0
    assert not (tmp_path / "1" / "training").exists()
    assert not (tmp_path / "checkpoint").exists()
    assert (tmp_path / "report.md").read_text().startswith(f"0 of 2 iterations; {found['stopped']}")


def test_what_no_longer_helps_is_not_gone_on_with(checkpoint: Path, tmp_path: Path) -> None:
    how = replace(HOW, target=-1.0, iterations=3)
    found = loop(checkpoint, tmp_path, how, loop_process.grounds(Silent()), stops=True)
    assert (found["done"], found["stopped"]) == (
        2,
        "no longer helping: G on validation items went from 0.000 to 0.000 in 2 iterations",
    )
    assert Path(found["checkpoint"]).samefile(tmp_path / "2" / "training" / "checkpoint")
    assert (tmp_path / "3" / "follow" / "results.json").exists()
    assert not (tmp_path / "3" / "candidates").exists()
    assert "no longer helping" in (tmp_path / "report.md").read_text()


def test_an_iteration_without_pairs_is_the_end(
    checkpoint: Path, grounds: Grounds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped = {"items without a pair": 10}
    monkeypatch.setattr(preferences, "renew", lambda *_: Pairs((), dropped))
    found = loop(checkpoint, tmp_path, on=grounds)
    assert (found["status"], found["done"]) == ("complete", 1)
    assert found["stopped"].startswith("no pairs")
    assert json.loads((tmp_path / "2" / "pairs.json").read_text()) == {"pairs": 0, "dropped": dropped}
    assert runs.load(tmp_path / "after").manifest["status"] == "complete"


def test_a_first_iteration_without_pairs_is_an_error(
    checkpoint: Path, grounds: Grounds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preferences, "choose", lambda *_: Pairs((), {}))
    with pytest.raises(InputError, match=r"no pair in 10 items .*; curate more items"):
        loop(checkpoint, tmp_path, on=grounds)


# --- What an iteration takes from the one before ----------------------------------------------------------------------


def test_the_reference_is_the_policy_before_or_the_base(
    whole: Path, checkpoint: Path, grounds: Grounds, tmp_path: Path
) -> None:
    base = fingerprint(load(str(checkpoint)).parts.phi)
    first = fingerprint(load(str(whole / "1" / "training" / "checkpoint")).parts.phi)
    assert [(stage(whole, k)["model"], stage(whole, k)["reference"]) for k in (1, 2)] == [(base, base), (first, first)]

    loop(checkpoint, tmp_path, replace(HOW, reference="base"), grounds)
    assert stage(tmp_path, 1) == stage(whole, 1)
    assert (stage(tmp_path, 2)["model"], stage(tmp_path, 2)["reference"]) == (first, base)


def test_the_second_iteration_renews_the_pairs_of_the_first(whole: Path) -> None:
    made = read_candidates(whole / "2" / "candidates")
    assert made != read_candidates(whole / "1" / "candidates")
    wanted = preferences.renew(made, pairs(whole, 1), HOW.pairs)
    plain = {"understanding_weight": 1.0, "generation_weight": 1.0}
    assert [replace(pair, **plain) for pair in pairs(whole, 2)] == list(wanted.pairs)
    assert list(wanted.pairs) != list(preferences.choose(made, HOW.pairs).pairs)
    told = json.loads((whole / "2" / "pairs.json").read_text())
    assert told == {"pairs": len(wanted.pairs), "dropped": wanted.dropped}


def test_emphasis_is_read_anew(whole: Path) -> None:
    for iteration in (1, 2):
        told = json.loads((whole / str(iteration) / "emphasis.json").read_text())
        now, other = (
            emphasis.weigh(pairs(whole, iteration), diagnostics(whole, k), HOW.rule) for k in (iteration, 3 - iteration)
        )
        assert told == json.loads(json.dumps(now.told))
        assert told["skills"] != json.loads(json.dumps(other.told))["skills"]
        assert pairs(whole, iteration) == list(now.pairs)


def test_each_iteration_begins_its_training_anew(whole: Path) -> None:
    """On the pairs that it chose, at the rates of a first step, and as likely as its reference."""
    rates = []
    for iteration in (1, 2):
        place = whole / str(iteration)
        text = (place / "pairs.jsonl").read_text().rstrip("\n")
        assert stage(whole, iteration)["pairs"] == hashlib.sha256(text.encode()).hexdigest()
        lines = [json.loads(line) for line in (place / "training" / "metrics.jsonl").read_text().splitlines()]
        assert lines[0]["generation"]["margin"] == pytest.approx(0, abs=1e-5)
        rates.append([line["learning_rate"] for line in lines])
    assert rates[0] == rates[1]


# --- Wrong input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"iterations": 3}, "iterations"),
        ({"rule": "uniform"}, "rule"),
        ({"reference": "base"}, "reference"),
        ({"target": 0.5}, "target"),
        ({"curation": replace(HOW.curation, seed=1)}, "curation"),
        ({"pairs": replace(HOW.pairs, per_item=2)}, "pairs"),
        ({"training": replace(HOW.training, seed=1)}, "training"),
    ],
)
def test_a_folder_of_another_request_is_refused(
    other: dict[str, Any], named: str, whole: Path, checkpoint: Path, grounds: Grounds
) -> None:
    with pytest.raises(InputError, match=f"holds a loop with another {named}; give another folder"):
        loop(checkpoint, whole, replace(HOW, **other), grounds)


def test_a_folder_of_other_models_and_items_is_refused(
    whole: Path, checkpoint: Path, tiny_checkpoint: Path, grounds: Grounds, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="another model"):
        loop(tiny_checkpoint, whole, on=grounds)
    with pytest.raises(InputError, match="another items"):
        loop(checkpoint, whole, on=replace(grounds, items=grounds.items[1:]))
    with pytest.raises(InputError, match="another items"):
        loop(checkpoint, whole, on=replace(grounds, items=train_items(len(grounds.items), 1)))


def test_folders_that_hold_something_else_are_refused(
    whole: Path, checkpoint: Path, grounds: Grounds, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files but no loop; give an empty or a new folder"):
        loop(checkpoint, tmp_path, on=grounds)
    told = state(whole)
    for text in ("{", "[]", json.dumps({**told, "request": None})):
        (tmp_path / "loop.json").write_text(text)
        with pytest.raises(InputError) as refused:
            loop(checkpoint, tmp_path, on=grounds)
        assert str(tmp_path) in str(refused.value)
        assert "\n" not in str(refused.value)
    (tmp_path / "loop.json").write_text(json.dumps({**told, "request": {**told["request"], "more": 1}}))
    with pytest.raises(InputError, match="holds a loop with another more"):
        loop(checkpoint, tmp_path, on=grounds)


def test_what_a_kill_left_half_written_is_no_file(checkpoint: Path, grounds: Grounds, tmp_path: Path) -> None:
    (tmp_path / ".loop.json.4711").write_text('{"schema"')
    with pytest.raises(Interrupted):
        loop(checkpoint, tmp_path, on=grounds, progress=Interruptions([("gap-mini real", 1)]))
    assert state(tmp_path)["status"] == "running"


def test_two_loops_do_not_share_a_folder(checkpoint: Path, grounds: Grounds, tmp_path: Path) -> None:
    class Second(Interruptions):
        def start(self, title: str, total: int, done: int) -> None:
            if title == "curate":  # runs and trainings have locks of their own
                with pytest.raises(InputError, match="another process"):
                    loop(checkpoint, tmp_path, on=grounds)
                raise Interrupted

    with pytest.raises(Interrupted):
        loop(checkpoint, tmp_path, on=grounds, progress=Second([]))


def test_a_model_that_was_changed_meanwhile_is_not_mixed_in(
    whole: Path, checkpoint: Path, grounds: Grounds, tmp_path: Path
) -> None:
    """The policy of iteration 1 is another than that which was followed."""
    unfinished(whole, tmp_path, "after", "2/training")
    file = tmp_path / "1" / "training" / "checkpoint" / "pytorch_model.safetensors"
    weights = load_file(file)
    weights["showo.lm_head.bias"] += 1
    save_file(weights, file)
    with pytest.raises(InputError, match=r"2/follow: it holds a run with model.weights.transformer.sha256"):
        loop(checkpoint, tmp_path, on=grounds)
