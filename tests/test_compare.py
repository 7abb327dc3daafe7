"""Two runs of one model are no better than each other, and a model with damaged weights is worse."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gapbench import tasks
from gapbench.compare import Change, Comparison, _power, aligned, compare, outcomes, tables, verdict
from gapbench.manifest import finish, open_run, request_of
from gapbench.models import zoo
from gapbench.records import Estimate, InputError, Record, Sampling
from gapbench.report import runs
from gapbench.run import Runner, Shard
from gapbench.significance import Difference
from gapbench.tasks.base import Options

NAMES = ("gap-mini", "pope-mini", "geneval-mini")
ITEMS = 14


def run(path: Path, model: Any, seed: int = 0, limit: int = ITEMS) -> runs.Run:
    chosen = [tasks.load(name, Options(seed)) for name in NAMES]
    folder, manifest = open_run(path, "", request_of(model, chosen, Sampling(), limit), Shard())
    finish(folder, manifest, Runner(model, chosen, folder, Sampling(), limit).run(), chosen)
    return runs.load(path)


@pytest.fixture(scope="module")
def show_o(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    return run(tmp_path_factory.mktemp("runs") / "seed-0", zoo.load("show-o-mini", "cpu"))


def changed(comparison: Comparison, task: str, metric: str) -> Any:
    return next(c for c in comparison.changes if (c.task, c.metric) == (task, metric))


def test_a_run_does_not_differ_from_itself(show_o: runs.Run) -> None:
    found = compare(show_o, show_o)
    assert {change.task for change in found.changes} == set(NAMES)
    assert {(c.difference.value, c.difference.p, c.adjusted) for c in found.changes} == {(0.0, 1.0, 1.0)}
    assert {(f.only_first, f.only_second, f.mcnemar, f.sign_flip) for f in found.flips} == {(0, 0, 1.0, 1.0)}
    assert found.notes == []
    assert verdict(found).startswith("no significant difference (paired tests over clusters")


def test_two_seeds_do_not_differ_significantly(show_o: runs.Run, tmp_path: Path) -> None:
    # By the level of the test, one pair of seeds in twenty differs (0 and 1 do on so few items); 0 and 2 do not.
    found = compare(show_o, run(tmp_path / "seed-2", zoo.load("show-o-mini", "cpu"), seed=2))
    # Answers about real pictures are greedy and the same; drawings are others, and pair by their items.
    assert changed(found, "pope-mini", "pooled/accuracy").difference.value == 0
    assert changed(found, "geneval-mini", "overall").difference.error > 0
    assert not any(change.significant for change in found.changes)
    assert found.notes == []
    (of_geneval,) = (table for table in tables(found) if table.title.startswith("GenEval"))
    assert of_geneval.notes[-1].startswith(f"overall: {ITEMS} clusters show a difference of 0.")
    asked_for = round(changed(found, "geneval-mini", "overall").difference.value, 3) != 0
    assert ("needs " in of_geneval.notes[-1]) == asked_for


def test_damaged_weights_differ_significantly(show_o: runs.Run, tmp_path: Path) -> None:
    model = zoo.load("show-o-mini", "cpu")
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parts.phi.parameters():
            weight += weight.std() * torch.randn(weight.shape, generator=noise)
    found = compare(show_o, run(tmp_path / "damaged", model))
    for task, metric in (("pope-mini", "pooled/accuracy"), ("geneval-mini", "overall"), ("gap-mini", "G")):
        change = changed(found, task, metric)
        assert change.significant, (task, metric)
        assert change.difference.high < 0
    right = next(flips for flips in found.flips if flips.task == "pope-mini")
    assert right.n == changed(found, "pope-mini", "pooled/accuracy").first.n
    assert right.only_first > right.only_second
    assert max(right.mcnemar, right.sign_flip) < 0.01
    assert "significant differences: gap-mini gap" in verdict(found) or "differences: pope-mini" in verdict(found)
    headlines = {change.task: change.metric for change in found.changes if change.headline}
    assert headlines == {"gap-mini": "gap", "pope-mini": "pooled/accuracy", "geneval-mini": "overall"}
    assert [table.title for table in tables(found)] == ["Gap (mini)", "POPE (mini)", "GenEval (mini)"]
    assert json.dumps(found.told())


def test_what_cannot_be_compared_is_told(show_o: runs.Run, fake_model: Any, tmp_path: Path) -> None:
    path = Path(shutil.copytree(show_o.folder, tmp_path / "copy"))
    results = json.loads((path / "results.json").read_text())
    results["tasks"]["pope-mini"]["fingerprint"] = "0" * 12
    results["tasks"]["pope-mini"]["protocol"]["prompt"] = "another"
    results["tasks"]["gqa-mini"] = results["tasks"].pop("geneval-mini")
    (path / "results.json").write_text(json.dumps(results))
    other = replace(runs.load(path), label="copy")
    found = compare(show_o, other)
    assert {change.task for change in found.changes} == {"gap-mini"}
    assert found.notes == [
        "geneval-mini: only show-o-mini has it",
        "gqa-mini: only copy has it",
        "pope-mini: not compared, its protocols differ in prompt",
    ]
    for task in ("gap-mini", "pope-mini"):
        del results["tasks"][task]
    (path / "results.json").write_text(json.dumps(results))
    with pytest.raises(InputError, match="they have no task in common, so nothing compares"):
        compare(show_o, runs.load(path))


def test_runs_of_other_sizes_are_compared_where_both_are_whole(show_o: runs.Run, tmp_path: Path) -> None:
    smaller = run(tmp_path / "smaller", zoo.load("show-o-mini", "cpu"), limit=5)
    found = compare(show_o, smaller)
    assert f"pope-mini: on the 5 of {ITEMS} clusters that both have in full" in found.notes
    assert changed(found, "pope-mini", "pooled/accuracy").difference.clusters == 5
    assert {change.difference.value for change in found.changes} == {0.0}


def record(item: str, seed: int, score: float | None, part: str = "", **details: Any) -> Record:
    return Record("t", item, item.partition("/")[0], (), seed, "", score, details, part)


def test_clusters_that_one_has_in_part_are_left_out() -> None:
    whole = [record("a/1", 0, 1.0), record("a/2", 0, 1.0), record("b/1", 0, 0.0)]
    first, second, note = aligned(whole, whole[1:])
    assert [r.item for r in first] == [r.item for r in second] == ["b/1"]
    assert note == "on the 1 of 2 clusters that both have in full"
    assert aligned(whole, whole) == (whole, whole, "")


def test_outcomes_pair_drawings_by_the_order_of_their_seeds() -> None:
    found = outcomes([record("a", 5, 1.0), record("a", 4, 0.0), record("b", 4, None)])
    assert {key: outcome.right for key, outcome in found.items()} == {("right", "a", 0): False, ("right", "a", 1): True}


def test_outcomes_of_the_gap_are_questions() -> None:
    found = outcomes(
        [
            record("a/0", 0, 1.0, "real"),
            record("a/1", 0, 0.0, "real"),
            record("a", 0, 0.5, "drawn", questions=[{"right": False}, {"right": None}]),
            record("a/0@0", 0, 1.0, "own"),
        ]
    )
    assert {key: outcome.right for key, outcome in found.items()} == {
        ("understood", "a/0", 0): True,
        ("understood", "a/1", 0): False,
        ("drawn", "a/0", 0): False,
    }


def test_graded_answers_are_neither_right_nor_wrong() -> None:
    assert outcomes([record("a", 0, 1.0), record("b", 0, 0.6)]) == {}


def test_a_difference_of_rounding_is_not_said_to_need_clusters() -> None:
    score = Estimate(0.5, 0.4, 0.6, 9, 9)

    def told(value: float) -> str:
        seen = Difference(value, value - 0.02, value + 0.02, 1.0, 30, 0.01)
        (line,) = _power(Change("geneval", "overall", "overall", True, score, score, seen, 1.0))
        return line

    assert told(1e-16) == "overall: 30 clusters show a difference of 0.029 with power 0.8"
    assert told(0.01).endswith("with power 0.8; one of 0.010 needs 238")
