"""When a loop stops and what came of it, on runs made by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from gapbench.records import Estimate, InputError, Record
from gapbench.report import runs
from gapbench.report.markdown import markdown
from gapbench.report.runs import Run
from gapbench.tasks.gap import MEASURES, metrics
from hermesflow.outcome import outcome_tables, stopped, told_table

TASK = "gap-mini"
Rights = Sequence[tuple[str, float, bool | None]]  # of an item's questions: skill, understood, drawn


def item(name: str, questions: Rights) -> list[Record]:
    found = []
    for number, (skill, understood, _) in enumerate(questions):
        asked, details = f"{name}/{number}", {"judge": {"right": True}, "answer": "2"}
        found.append(Record(TASK, asked, name, (skill,), 0, "", understood, details, "real"))
        found.append(Record(TASK, f"{asked}@0", name, (skill,), 0, "", 0.0, {}, "own"))
    drawn = {"questions": [{"right": right} for _, _, right in questions]}
    return [*found, Record(TASK, name, name, (), 0, "", 0.0, drawn, "drawn")]


def run(folder: Path, items: Sequence[Rights], more: Sequence[Record] = ()) -> Run:
    records = {TASK: [record for number, rights in enumerate(items) for record in item(f"item {number}", rights)]}
    if more:
        records["pope-mini"] = list(more)
    (folder / "records").mkdir(parents=True)
    told = {}
    for task, lines in records.items():
        (folder / "records" / f"{task}.jsonl").write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines))
        told[task] = {"side": "both", "protocol": {}, "fingerprint": "f", "metrics": {}}
    told[TASK]["metrics"] = {name: asdict(e) for name, e in metrics(records[TASK]).items()}
    (folder / "run.json").write_text(json.dumps({"status": "complete"}))
    (folder / "results.json").write_text(json.dumps({"model": folder.name, "tasks": told}))
    return runs.load(folder)


# --- What came of it --------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(tmp_path: Path) -> tuple[Run, Run]:
    """Of 40 items, all are understood and their colors drawn; half of the counts are learnt."""
    before = [[("color", 1.0, True), ("count", 1.0, False)]] * 40
    after = [[("color", 1.0, True), ("count", 1.0, number < 20)] for number in range(40)]
    return run(tmp_path / "a", before), run(tmp_path / "b", after)


def test_differences_by_hand(counted: tuple[Run, Run]) -> None:
    _, told = outcome_tables(*counted, TASK)
    assert list(told) == ["all", "count", "color"]
    assert all(list(told[skill]) == list(MEASURES) for skill in told)
    found = {skill: {measure: tuple(told[skill][measure].values())[:3] for measure in MEASURES} for skill in told}
    assert found["all"]["U"] == pytest.approx((1, 1, 0))
    assert found["all"]["G"] == pytest.approx((0.5, 0.75, 0.25))
    assert found["all"]["gap"] == pytest.approx((0.5, 0.25, -0.25))
    assert found["count"]["G"] == pytest.approx((0, 0.5, 0.5))
    assert found["count"]["p10"] == pytest.approx((1, 0.5, -0.5))
    assert found["count"]["p11"] == pytest.approx((0, 0.5, 0.5))
    assert found["color"]["gap"] == pytest.approx((0, 0, 0))


def test_intervals_are_of_after_less_before(counted: tuple[Run, Run]) -> None:
    _, told = outcome_tables(*counted, TASK)
    drawn, gap = told["count"]["G"], told["count"]["gap"]
    assert 0 < drawn["low"] < 0.5 < drawn["high"]
    assert gap["low"] < -0.5 < gap["high"] < 0
    assert drawn["p"] == pytest.approx(gap["p"])
    assert drawn["p"] < 1e-4
    same = told["color"]["G"]
    assert same["low"] <= 0 <= same["high"]
    assert same["p"] == 1
    _, back = outcome_tables(*reversed(counted), TASK)
    assert back["count"]["G"]["difference"] == -0.5
    assert back["count"]["G"]["high"] < 0


def test_intervals_are_paired(tmp_path: Path) -> None:
    """Every second item is drawn, before and after; six more are afterwards. Only pairing sees that."""
    before = [[("count", 1.0, number % 2 == 0)] for number in range(60)]
    after = [[("count", 1.0, number % 2 == 0 or number < 12)] for number in range(60)]
    first, second = run(tmp_path / "a", before), run(tmp_path / "b", after)
    _, told = outcome_tables(first, second, TASK)
    assert told["all"]["G"]["difference"] == pytest.approx(0.1)
    assert told["all"]["G"]["low"] > 0
    assert first.estimates(TASK)["G"].high > second.estimates(TASK)["G"].low


def test_tables_show_each_skill_and_every_task(counted: tuple[Run, Run], tmp_path: Path) -> None:
    tables, told = outcome_tables(*counted, TASK)
    assert [row.label for row in tables[0].rows[:5]] == ["all: U", "all: G", "all: gap", "all: p10", "count: U"]
    text = markdown(tables)
    assert "| count: gap | 1.000 | 0.500 | -0.500 | [-0." in text
    assert "| before | after |" in text
    assert markdown([told_table(told)]) == markdown(tables[:1])
    assert json.loads(json.dumps(told)) == told

    asked = [
        Record(
            "pope-mini", f"{n}", f"{n}", ("object",), 0, "yes", 1.0, {"split": "random", "label": "yes", "said": "yes"}
        )
        for n in range(4)
    ]
    both = [run(tmp_path / name, [[("count", 1.0, True)]] * 3, asked) for name in "cd"]
    assert [table.title for table in outcome_tables(*both, TASK)[0]][1:] == ["Gap (mini)", "POPE (mini)"]


def test_a_skill_that_one_run_could_not_judge_is_left_out_of_both(tmp_path: Path) -> None:
    plain = [[("count", 1.0, False)]] * 6
    before = run(tmp_path / "a", [*plain, [("color", 1.0, True), ("count", 1.0, True)]])
    after = run(tmp_path / "b", [*[[("count", 1.0, True)]] * 6, [("color", 1.0, None), ("count", 1.0, False)]])
    assert "color/G" in before.estimates(TASK)
    assert "color/G" not in after.estimates(TASK)
    tables, told = outcome_tables(before, after, TASK)
    assert list(told) == ["all", "count"]
    assert (told["all"]["G"]["before"], told["all"]["G"]["after"]) == (0, 1)
    assert tables[0].notes == ("Without 1 of 7 items, of which the judge left questions open before or after.",)


def test_where_nothing_could_be_judged_there_is_nothing_to_tell(tmp_path: Path) -> None:
    before, after = (run(tmp_path / name, [[("count", 1.0, right)]] * 3) for name, right in (("a", True), ("b", None)))
    tables, told = outcome_tables(before, after, TASK)
    assert told == {}
    assert "Without 3 of 3 items" in markdown(tables)


# --- When to stop -----------------------------------------------------------------------------------------------------


def followed(gap: tuple[float, float, float], drawn: float = 0.5) -> Run:
    told = {"gap-validation": {"metrics": {"gap": dict(zip(("value", "low", "high"), gap, strict=True))}}}
    estimates = {"gap-validation": {"G": Estimate(drawn, 0.0, 1.0, 9, 9)}}
    return Run(Path("run"), "run", {"tasks": told}, {}, estimates)


@pytest.mark.parametrize(
    ("gap", "target", "why"),
    [
        ((0.1, 0.02, 0.18), 0.0, ""),
        ((0.1, 0.0, 0.2), 0.0, "closed: the gap is 0.100 [0.000, 0.200], which holds 0"),
        ((0.1, 0.02, 0.18), 0.05, "closed: the gap is 0.100 [0.020, 0.180], which holds 0.05"),
        ((-0.1, -0.2, -0.02), 0.0, "closed: the gap is -0.100 [-0.200, -0.020], which lies below 0"),
    ],
)
def test_the_gap_is_closed_where_its_interval_reaches_the_target(
    gap: tuple[float, float, float], target: float, why: str
) -> None:
    assert stopped([followed(gap)], target) == why


@pytest.mark.parametrize(
    ("drawn", "why"),
    [
        ([0.5], ""),
        ([0.5, 0.6], ""),
        ([0.5, 0.4], ""),
        ([0.5, 0.7, 0.6], ""),
        ([0.5, 0.7, 0.5], "no longer helping: G on validation items went from 0.500 to 0.500 in 2 iterations"),
        ([0.5, 0.7, 0.8, 0.6], "no longer helping: G on validation items went from 0.700 to 0.600 in 2 iterations"),
        ([0.5, 0.4, 0.6], ""),
    ],
)
def test_training_no_longer_helps_where_no_more_is_drawn(drawn: list[float], why: str) -> None:
    assert stopped([followed((0.4, 0.3, 0.5), value) for value in drawn], 0.0) == why


def test_a_closed_gap_is_told_before_drawings_that_no_longer_improve(tmp_path: Path) -> None:
    items = [[("count", float(number < 10), number < 10)] for number in range(20)]
    runs_of_it = [run(tmp_path / name, items) for name in "abc"]
    assert stopped(runs_of_it, 0.0).startswith("closed: the gap is 0.000")
    assert stopped(runs_of_it, -1.0).startswith("no longer helping: G")


def test_a_gap_is_not_closed_by_understanding_less(tmp_path: Path) -> None:
    before = run(tmp_path / "a", [[("count", 1.0, number < 10)] for number in range(20)])
    after = run(tmp_path / "b", [[("count", float(number < 10), number < 10)] for number in range(20)])
    assert stopped([after], 0.0).startswith("closed")
    assert stopped([before, after], 0.0) == ""


def test_runs_of_which_nothing_was_judged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"b: no question of gap-mini could be judged; see to its judge") as refused:
        stopped([run(tmp_path / "b", [[("count", 1.0, None)]] * 3)], 0.0)
    assert "\n" not in str(refused.value)
