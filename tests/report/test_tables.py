"""What one run found, as tables for the terminal; and contact sheets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from leaderboards import run_of, told
from PIL import Image
from rich.console import Console

from gapbench import terminal
from gapbench.records import Record
from gapbench.report.gallery import contact_sheet
from gapbench.report.table import Column, Figure, Row, Table, number
from gapbench.report.tables import diagnosed, headlines, skill_table, summary

POPE = {"pooled/accuracy": 0.875, "pooled/f1": 0.5}
MEASURES = {"gap": 0.25, "U": 0.75, "G": 0.5, "p11": 0.5, "p10": 0.25, "p01": 0.0, "p00": 0.25}
GAP = {
    **MEASURES,
    **{f"count/{name}": value for name, value in MEASURES.items()},
    **{f"color/{name}": value + 0.1 for name, value in MEASURES.items()},
}


def results(tasks: dict) -> dict:
    return {"model": "m", "tasks": tasks}


def texts(row: Row) -> list[str | None]:
    return [cell.text if isinstance(cell, Figure) else cell for cell in row.cells]


def test_a_summary_of_one_run() -> None:
    pope, gap, skills = summary(results({"pope-mini": told(POPE), "gap-mini": told(GAP, "both")}))
    assert (pope.title, pope.label) == ("POPE (mini)", "POPE (mini)")
    assert [column.name for column in pope.columns] == ["value", "95 % interval", "n", "clusters"]
    assert [row.label for row in pope.rows] == ["accuracy", "F1"]
    assert texts(pope.rows[0]) == ["0.875", "[0.775, 0.975]", "20", "5"]
    assert pope.notes == []
    assert gap.rows[2].label == "gap = U - G"
    assert texts(gap.rows[2])[:2] == ["0.250", "[0.150, 0.350]"]
    assert [row.label for row in skills.rows] == ["color", "count"]  # the widest gap first
    assert texts(skills.rows[1]) == ["0.750", "0.500", "0.250", "[0.150, 0.350]", "0.250", "20"]


def test_notes_say_what_is_amiss() -> None:
    (table,) = summary(results({"pope": told(POPE, done=7, failed=2, unjudged=1)}))
    assert table.notes[0].startswith("partial: 7/20 items")
    assert table.notes[1].startswith("2 responses")
    assert table.notes[2] == "1 item that the judge could not decide counts on no side"
    (one,) = summary(results({"pope": told(POPE, failed=1)}))
    assert one.notes == ["1 response that the model failed to give counts as wrong"]
    (nothing,) = summary(results({"pope": told({}, done=0)}))
    assert (nothing.rows, nothing.columns) == ((), ())
    assert nothing.notes == ["partial: 0/20 items; not comparable with a complete pope"]


def test_what_only_a_server_can_score_says_how_to_get_its_file() -> None:
    (table,) = summary(results({"vqav2-testdev": told({})}))
    assert table.notes == [
        "20 answers, which only the evaluation server can score: `gapbench submission vqav2-testdev` makes its file of "
        "the run's records/vqav2-testdev.jsonl"
    ]


def test_a_task_of_lm_evals_shows_all_its_metrics() -> None:
    (table,) = summary(results({"lm-eval-arc_easy": told({"acc": 0.5, "acc_norm": 0.5})}))
    assert (table.title, [row.label for row in table.rows]) == ("lm-eval-arc_easy", ["acc", "acc_norm"])


def test_titles_name_the_suite() -> None:
    assert [headlines(name)[0] for name in ("pope", "dpg-mini", "lm-eval-a-b")] == [
        "POPE",
        "DPG-Bench (mini)",
        "lm-eval-a-b",
    ]


def test_a_run_that_was_diagnosed() -> None:
    gap, skills = diagnosed(run_of("m", {"pope": told(POPE), "gap": told(GAP, "both")}), {})
    assert (gap.title, skills.title) == ("Gap", "Gap by skill")
    of_benchmarks = {
        "protocol": {"U": ["pope"], "G": []},
        "overall": {"U": told({"U": 0.5})["metrics"]["U"]},
        "skills": {"object": told({"U": 0.75, "G": 0.5, "gap": 0.25})["metrics"]},
    }
    (table,) = diagnosed(run_of("m", {"pope": told(POPE)}), of_benchmarks)
    assert {row.label: texts(row) for row in table.rows} == {
        "all": ["0.500", None, None, None, None, "20"],
        "object": ["0.750", "0.500", "0.250", "[0.150, 0.350]", None, "20"],
    }
    assert table.notes[0].endswith("(U: pope; G: not measured)")


@pytest.mark.parametrize(
    ("value", "digits", "text"), [(-0.0004, 3, "0.000"), (-0.0006, 3, "-0.001"), (12.345, 1, "12.3")]
)
def test_numbers(value: float, digits: int, text: str) -> None:
    assert number(value, digits) == text


def test_the_terminal_shows_what_is_in_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=100, force_terminal=True, color_system="standard")
    monkeypatch.setattr(terminal, "out", console)
    rows = [
        Row("[red]m[/]", (Figure(0.5, 0.25, 0.75, 2, "best"), "[n]")),
        Row("other", (Figure(0.25, mark="tied"), None), "a paper"),
    ]
    with console.capture() as captured:
        terminal.show([Table("t", "model", [Column("U", "higher"), Column("n")], rows, ["a [note]"])])
    styled = captured.get()
    assert "\x1b[1m0.50\x1b[0m" in styled
    assert "\x1b[4m0.250\x1b[0m" in styled
    lines = [line.split() for line in re.sub(r"\x1b\[\d*m", "", styled).splitlines() if line.strip()]
    assert lines[0] == ["model", "U", "n"]
    assert lines[2] == ["[red]m[/]", "0.50", "[0.25,", "0.75]", "[n]"]
    assert lines[3] == ["other", "(reported)", "0.250", "-"]
    assert lines[4] == ["a", "[note]"]


def test_skills_in_order_of_their_gap() -> None:
    narrow, wide = {"U": 0.5, "G": 0.5, "gap": 0.0, "p10": 0.0}, {"U": 0.5, "G": 0.25, "gap": 0.25, "p10": 0.25}
    metrics = {f"{skill}/{name}": v for skill, m in (("object", narrow), ("text", wide)) for name, v in m.items()}
    assert [row.label for row in skill_table(told(metrics)["metrics"]).rows] == ["text", "object"]


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
