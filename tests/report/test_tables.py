"""Tables and contact sheets: what is partial says so, what does not compare stands apart, names break nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gapbench.records import Record
from gapbench.report.gallery import contact_sheet
from gapbench.report.tables import Table, leaderboard, markdown, summary


def estimate(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 20, "clusters": 5}


def told(side: str, metrics: dict[str, float], **change: Any) -> dict[str, Any]:
    counts = {"expected": 20, "asked": 20, "done": 20, "failed": 0, "unjudged": 0}
    estimates = {name: estimate(value) for name, value in metrics.items()}
    return {"side": side, "fingerprint": "abc", "protocol": {}, **counts, "metrics": estimates, **change}


def results(model: str, **tasks: Any) -> dict[str, Any]:
    return {"model": model, "tasks": {name.replace("_", "-"): task for name, task in tasks.items()}}


POPE = {"pooled/accuracy": 0.875, "pooled/f1": 0.5}
MEASURES = {"gap": 0.25, "U": 0.75, "G": 0.5, "p11": 0.5, "p10": 0.25, "p01": 0.0, "p00": 0.25}
GAP = {
    **MEASURES,
    **{f"count/{name}": value for name, value in MEASURES.items()},
    **{f"color/{name}": value + 0.1 for name, value in MEASURES.items()},
}


def test_a_summary_of_one_run() -> None:
    pope, gap, skills = summary(results("m", pope_mini=told("understanding", POPE), gap_mini=told("both", GAP)))
    assert pope.title == "POPE (mini)"
    assert list(pope.rows[0]) == ["accuracy", "0.875", "[0.775, 0.975]", "20", "5"]
    assert [row[0] for row in pope.rows] == ["accuracy", "F1"]
    assert pope.notes == []
    assert gap.rows[2][:3] == ["gap = U - G", "0.250", "[0.150, 0.350]"]
    assert [row[0] for row in skills.rows] == ["color", "count"]  # the widest gap first
    assert list(skills.rows[1]) == ["count", "0.750", "0.500", "0.250", "[0.150, 0.350]", "0.250", "20"]


def test_notes_say_what_is_amiss() -> None:
    amiss = told("understanding", POPE, done=7, failed=2, unjudged=1)
    (table,) = summary(results("m", pope=amiss))
    assert table.notes[0].startswith("partial: 7/20 items")
    assert table.notes[1].startswith("2 responses")
    assert table.notes[2].startswith("1 items that the judge could not decide")
    (nothing,) = summary(results("m", pope=told("understanding", {}, done=0)))
    assert nothing.rows == []
    assert nothing.notes == ["partial: 0/20 items; not comparable with a complete pope"]


def test_a_leaderboard_marks_partial_runs() -> None:
    whole, part = told("understanding", POPE), told("understanding", POPE, done=7)
    (table,) = leaderboard([results("a", pope=whole), results("b", pope=part)])
    assert [row[0] for row in table.rows] == ["a", "b (7/20)"]
    assert table.rows[0][1] == "0.875 [0.775, 0.975]"
    assert table.rows[0][table.columns.index("precision")] == "-"
    assert table.notes == ["b: partial: 7/20 items; not comparable with a complete pope", "protocol abc"]


def test_other_protocols_stand_in_other_tables() -> None:
    other = told("understanding", POPE, fingerprint="xyz")
    runs = [results("a", pope=told("understanding", POPE)), results("b", pope=other), results("c", pope=other)]
    tables = leaderboard(runs)
    assert [[row[0] for row in table.rows] for table in tables] == [["a"], ["b", "c"]]
    assert [table.notes[-1] for table in tables] == ["protocol abc", "protocol xyz"]


def test_models_without_a_task_are_not_in_its_table() -> None:
    runs = [results("a", pope=told("understanding", POPE)), results("b", gap_mini=told("both", GAP))]
    pope, gap, skills = leaderboard(runs)
    assert [[row[0] for row in table.rows] for table in (pope, gap)] == [["a"], ["b"]]
    assert list(gap.columns[:4]) == ["model", "U", "G", "gap"]
    assert skills.title == "Gap (mini) by skill: b"
    assert leaderboard([]) == []


@pytest.mark.parametrize("runs", [1, 2])
def test_every_row_is_as_wide_as_its_table(runs: int) -> None:
    found = [results(f"m{i}", gap_mini=told("both", GAP), pope=told("understanding", POPE)) for i in range(runs)]
    for table in (*leaderboard(found), *summary(found[0])):
        assert all(len(row) == len(table.columns) for row in table.rows)


def test_markdown_escapes_what_would_break_a_table() -> None:
    name = "a|b<script>\\|\nc"
    text = markdown([Table(f"of {name}", [name, "n"], [[name, "1"]], [name])])
    escaped = "a\\|b&lt;script>\\\\\\| c"
    assert text.splitlines() == [
        f"### of {escaped}",
        "",
        f"| {escaped} | n |",
        "| --- | ---: |",
        f"| {escaped} | 1 |",
        "",
        escaped,
    ]


def drawing(item: str, score: float | None, error: str | None = None) -> Record:
    return Record("t", item, item, (), 0, "" if error else f"{item}.png", score, {}, error=error)


def test_a_contact_sheet_shows_drawings_and_where_one_failed(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (0, 0, 255)).save(tmp_path / "good.png")
    Image.new("L", (300, 200), 100).save(tmp_path / "grey.png")
    drawings = [
        (drawing("good", 1.0), "a blue picture"),
        (drawing("bad", 0.0, "out of ink"), "word " * 200),
        (drawing("grey", None), "日本 é"),
    ]
    sheet = contact_sheet(drawings, tmp_path, columns=2)
    path = tmp_path / "sheet.png"
    sheet.save(path)
    with Image.open(path) as image:
        colors = {color: count for count, color in image.convert("RGB").getcolors(1 << 20)}
    assert colors[(0, 0, 255)] > 100 * 100
    assert colors[(100, 100, 100)] > 100 * 100
    narrow = contact_sheet(drawings[:1], tmp_path)
    assert sheet.height > narrow.height


def test_a_task_of_lm_evals_shows_all_its_metrics() -> None:
    name, estimate = "lm-eval-arc_easy", {"value": 0.5, "low": 0.4, "high": 0.6, "n": 20, "clusters": 20}
    told = {"side": "understanding", "fingerprint": "f", "expected": 20, "asked": 20, "done": 20, "failed": 0}
    told |= {"unjudged": 0, "metrics": {"acc": estimate, "acc_norm": estimate}}
    run = {"model": "m", "tasks": {name: told}}
    (table,) = summary(run)
    assert (table.title, [row[0] for row in table.rows]) == (name, ["acc", "acc_norm"])
    (table,) = leaderboard([run])
    assert list(table.columns) == ["model", "acc", "acc_norm"]
