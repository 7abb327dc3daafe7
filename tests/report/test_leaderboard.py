"""Leaderboards: what is bold deserves it, what does not compare stands apart, and units are those of papers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from leaderboards import answered, run_of, told

from gapbench import stats
from gapbench.records import InputError
from gapbench.report import marks as marking
from gapbench.report.leaderboard import leaderboard
from gapbench.report.marks import MEANING, marks
from gapbench.report.runs import Run
from gapbench.report.table import Figure, Table

POPE = {"pooled/accuracy": 0.7996, "pooled/f1": 0.5, "pooled/yes_ratio": 0.5}
GAP = {"gap": 0.25, "U": 0.75, "G": 0.5, "p10": 0.25, "p01": 0.0, "count/U": 0.75, "count/G": 0.5, "count/gap": 0.25}


def named(tables: list[Table], title: str) -> Table:
    (found,) = (table for table in tables if table.title == title)
    return found


def texts(table: Table) -> dict[str, list[str | None]]:
    return {row.label: [cell.text if isinstance(cell, Figure) else cell for cell in row.cells] for row in table.rows}


def marked(table: Table, column: str = "GQA") -> dict[str, str]:
    place = [column.name for column in table.columns].index(column)
    return {row.label: getattr(row.cells[place], "mark", "") for row in table.rows}


# --- Units, names, order ----------------------------------------------------------------------------------------------


def test_papers_units_and_digits() -> None:
    understanding = {
        "pope": told(POPE),
        "mme": told({"perception": 1232.94, "cognition": 300.0}),
        "flickr30k": told({"cider": 67.64}),
        "vqav2": told({"accuracy": 0.7472}),
        "gqa": told({"accuracy": 0.61}),
        "mmmu": told({"accuracy": 0.274}),
    }
    drawn = {"geneval": told({"overall": 0.534, "counting": 0.49}), "dpg": told({"overall": 67.482})}
    rest = {"coco": told({"fid": 9.24, "clip_score": 30.634}), "gap": told(GAP, "both")}
    tables = leaderboard([run_of("m", understanding | drawn | rest)])
    first, generation, coco, gap = tables[:4]
    assert [column.name for column in first.columns] == ["POPE", "MME", "Flickr30k", "VQAv2", "GQA", "MMMU"]
    assert texts(first) == {"m": ["80.0", "1232.9", "67.6", "74.7", "61.0", "27.4"]}
    assert texts(generation) == {"m": [None, None, "0.49", None, None, None, "0.53", "67.48"]}
    assert texts(coco) == {"m": ["9.24", "30.63"]}
    assert texts(gap) == {"m": ["0.750", "0.500", "0.250"]}
    assert [column.better for column in coco.columns + gap.columns] == ["lower", "higher", "higher", "higher", "lower"]
    assert first.rows[0].cells[0].low == pytest.approx(69.96)  # intervals are in the same units
    assert "POPE: accuracy pooled over the three splits, in percent" in first.notes
    assert "protocols: coco abc" in coco.notes
    assert any("fewer than 10,000 drawings" in note for note in coco.notes)


def test_a_table_a_task_unless_papers_tables_tell_all_of_it() -> None:
    tasks = {name: told({"overall": 0.5, "fid": 2.0, "accuracy": 0.5}) for name in ("geneval", "coco", "mmmu", "dpg")}
    titles = [table.title for table in leaderboard([run_of("m", tasks | {"geneval-rewritten": told({"overall": 1})})])]
    assert titles[3:] == ["MMMU", "DPG-Bench", "GenEval (rewritten)"]


def test_suites_stand_apart_and_protocols_too() -> None:
    runs = [
        run_of("a", {"gqa": told({"accuracy": 0.5}), "gqa-mini": told({"accuracy": 0.25})}),
        run_of("b", {"gqa": told({"accuracy": 0.75}, fingerprint="xyz")}),
        run_of("c", {"gqa": told({"accuracy": 1.0}, fingerprint="xyz"), "pope": told(POPE)}),
    ]
    tables = leaderboard(runs)
    assert [(table.title, list(texts(table))) for table in tables] == [
        ("Understanding", ["a"]),
        ("Understanding", ["b", "c"]),
        ("Understanding (mini)", ["a"]),
        ("GQA", ["a"]),
        ("GQA (mini)", ["a"]),
        ("GQA", ["b", "c"]),
        ("POPE", ["c"]),
    ]
    assert texts(tables[1]) == {"b": [None, "75.0"], "c": ["80.0", "100.0"]}
    assert "protocols: pope abc, gqa xyz" in tables[1].notes
    assert [table.notes[-1] for table in tables[3:6]] == ["protocol abc", "protocol abc", "protocol xyz"]


def test_the_gap_has_a_table_a_skill_and_run() -> None:
    tables = leaderboard([run_of("a", {"gap": told(GAP, "both")}), run_of("b", {"mme": told({"count/acc": 1.0})})])
    assert [table.title for table in tables] == [
        "Understanding",
        "The gap between understanding and generation",
        "Gap",
        "MME",
        "Gap by skill: a",
    ]
    assert texts(tables[-1]) == {"count": ["0.750", "0.500", "0.250", "[0.150, 0.350]", None, "20"]}
    assert [column.better for column in named(tables, "Gap").columns] == ["higher", "higher", "lower", "lower", ""]
    assert leaderboard([]) == []


def test_which_end_of_a_task_of_lm_evals_is_up() -> None:
    metrics = {"acc": 0.5, "exact_match,strict": 0.5, "word_perplexity,none": 9.0, "its_own": 1.0}
    (table,) = leaderboard([run_of("m", {"lm-eval-arc": told(metrics)})])
    assert [(column.name, column.better) for column in table.columns] == [
        ("acc", "higher"),
        ("exact_match,strict", "higher"),
        ("word_perplexity,none", "lower"),
        ("its_own", ""),
    ]


@pytest.mark.parametrize("published", [False, True])
def test_every_row_is_as_wide_as_its_table(published: bool) -> None:
    tasks: dict[str, Any] = {"gap": told(GAP, "both"), "pope": told(POPE), "coco-mini": told({}, done=0)}
    for table in leaderboard([run_of("a", tasks), run_of("b", {"gqa": told({"accuracy": 1})})], published):
        assert all(len(row.cells) == len(table.columns) for row in table.rows)


# --- Partial runs -----------------------------------------------------------------------------------------------------


def test_partial_runs_say_so_and_are_never_marked(tmp_path: Path) -> None:
    runs = [answered(tmp_path, name, lambda n, below=below: n < below) for name, below in (("a", 90), ("b", 20))]
    partial = answered(tmp_path, "c", lambda n: True, range(7))
    partial.tasks["gqa"]["expected"] = 100
    compact, whole = leaderboard([*runs, partial])
    assert texts(compact)["c"] == ["100.0 (7/100)"]
    assert marked(compact) == {"a": "best", "b": "", "c": ""}
    assert list(texts(whole)) == ["a", "b", "c (7/100)"]
    assert marked(whole, "accuracy") == {"a": "best", "b": "", "c (7/100)": ""}
    assert "c: partial: 7/100 items; not comparable with a complete gqa" in compact.notes


def test_what_found_nothing_still_stands_there() -> None:
    (table,) = leaderboard([run_of("m", {"geneval": told({}, done=0, failed=3)})])
    assert set(texts(table)["m"]) == {None}
    assert table.notes[0] == "m: partial: 0/20 items; not comparable with a complete geneval"
    assert table.notes[1] == "m: 3 responses that the model failed to give count as wrong"


# --- Marks ------------------------------------------------------------------------------------------------------------


def test_the_best_is_bold_only_if_all_others_differ(tmp_path: Path) -> None:
    below = {"a": 30, "b": 89, "c": 90}
    runs = {name: answered(tmp_path, name, lambda n, b=b: n < b) for name, b in below.items()}
    compact, whole = leaderboard(list(runs.values()))
    assert marked(compact) == {"a": "", "b": "tied", "c": "tied"}
    assert marked(whole, "accuracy") == marked(compact)
    assert MEANING in compact.notes
    compact, _ = leaderboard([runs["a"], runs["c"]])
    assert marked(compact) == {"a": "", "c": "best"}
    compact, _ = leaderboard([runs["a"]])
    assert marked(compact) == {"a": ""}
    assert MEANING not in compact.notes


def test_a_difference_must_survive_holms_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    column = [stats.mean([value, value], ["a", "b"]) for value in (0.25, 0.75, 0.5)]
    p_values = {0.25: 0.03, 0.5: 0.04}  # each below the level, but the smaller one not below half of it

    def difference(best: Any, other: Any) -> Any:
        return type("Difference", (), {"p": p_values[other.value]})

    monkeypatch.setattr(marking, "difference", difference)
    assert marks(column, "higher") == ["tied", "tied", "tied"]
    p_values[0.25] = 0.024
    assert marks(column, "higher") == ["", "best", ""]


def test_lower_is_better_where_it_is() -> None:
    rng = np.random.default_rng(0)
    clusters = list(range(200))
    column = [stats.mean(rng.random(200) < share, clusters) for share in (0.9, 0.1)]
    assert (marks(column, "higher"), marks(column, "lower")) == (["best", ""], ["", "best"])


@settings(max_examples=20)
@given(st.permutations(range(4)), st.integers(0, 99))
def test_marks_do_not_depend_on_the_order_of_runs(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    column = [stats.mean(rng.random(30) < share, list(range(30))) for share in rng.random(4)]
    found = marks(column, "higher")
    if len({estimate.value for estimate in column}) == 4:
        assert marks([column[place] for place in order], "higher") == [found[place] for place in order]
    best = max(range(4), key=lambda place: column[place].value)
    assert found[best] in ("best", "tied")
    assert found.count("best") == 1 or found.count("tied") >= 2


def test_without_a_pairing_there_are_no_marks_and_a_note_says_why(tmp_path: Path) -> None:
    a = answered(tmp_path, "a", lambda n: n < 90)
    others = answered(tmp_path, "b", lambda n: n < 10, range(1, 101))
    compact, _ = leaderboard([a, others])
    assert marked(compact) == {"a": "", "b": ""}
    (note,) = (note for note in compact.notes if note.startswith("No marks"))
    assert note.startswith("No marks under GQA: runs over other clusters do not pair")

    shutil.rmtree(others.folder)
    compact, _ = leaderboard([a, Run(others.folder, "b", others.results, {})])
    assert texts(compact) == {"a": ["90.0"], "b": ["9.0"]}  # what the results tell is shown all the same
    assert "No marks under GQA: b has no records that it can be resampled from" in compact.notes


def test_what_cannot_be_computed_again_has_no_marks() -> None:
    runs = [run_of(name, {"coco": told({"fid": 9.0, "clip_score": 30.0})}) for name in "ab"]
    with pytest.raises(InputError):
        runs[0].estimates("coco")
    (table,) = leaderboard(runs)
    assert [cell.mark for row in table.rows for cell in row.cells] == [""] * 4
    (note,) = (note for note in table.notes if note.startswith("No marks"))
    assert note.startswith("No marks under FID, CLIP-Score: ")
    assert note.endswith("FID cannot be computed again without its reference statistics")


# --- With what papers report ------------------------------------------------------------------------------------------


def test_reported_rows_stand_below_and_are_never_marked(tmp_path: Path) -> None:
    runs = [answered(tmp_path, name, lambda n, below=below: n < below) for name, below in (("a", 40), ("b", 10))]
    table = leaderboard(runs, published=True)[0]
    assert [row.label for row in table.rows if not row.source] == ["a", "b"]
    assert [row.source != "" for row in table.rows] == [False] * 2 + [True] * 11
    reported = [cell for row in table.rows[2:] for cell in row.cells if isinstance(cell, Figure)]
    assert {cell.mark for cell in reported} == {""}
    assert {cell.low for cell in reported} == {None}
    assert marked(table)["a"] == "best"  # of the measured, though others report more
    assert table.columns[0].name == "# params"
    assert texts(table)["HermesFlow"] == ["1.3B", "81.4", "1249.7", "69.2", "75.3", "61.7", "28.3"]
    assert texts(table)["a"] == [None, None, None, None, None, "40.0", None]
    assert sum("mixes two models" in note for note in table.notes) == 1


def test_reported_rows_are_never_beside_the_miniature() -> None:
    tasks = {f"{name}-mini": told({"accuracy": 0.5, "U": 0.5, "overall": 0.5, "fid": 1.0}) for name in ("gqa", "coco")}
    tables = leaderboard([run_of("m", tasks)], published=True)
    for table in tables:
        assert {bool(row.source) for row in table.rows} == {"(mini)" not in table.title}
    assert [len(table.rows) for table in tables[:5]] == [11, 13, 10, 4, 6]
    assert tables[:5] == leaderboard([], published=True)
