"""published.csv: exactly what is reported, number by number, and what is known of it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from gapbench.report.headlines import PAPER_TABLES
from gapbench.report.published import Reported, published, rows
from gapbench.report.table import Figure

# Columns whose names differ here from those of published_tables.md.
NAMES = {
    "VQAv2": "VQAv2(test)",
    "DPG": "DPG Average",
    "FID": "FID (lower)",
    "CLIP-Score": "CLIP-Score (higher)",
    "Gap": "Gap (lower)",
    "GenEval": "GenEval Overall",
}
PAPER = "HermesFlow (arXiv 2502.12148), table "


def tables_of(text: str) -> list[tuple[dict[tuple[str, str], str], str]]:
    """Of each section of the file: (model, column) -> number, and all of the section's text."""
    found = []
    for section in re.split("^## ", text, flags=re.MULTILINE)[1:]:
        head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in _rows(section))
        cells = {(line[0], name): cell for line in lines for name, cell in zip(head[1:], line[1:], strict=True)}
        found.append(({key: cell for key, cell in cells.items() if cell != "-"}, section))
    return found


def _rows(section: str) -> list[str]:
    return [line for line in section.splitlines() if line.startswith("|")]


def test_every_number_is_the_reported_one(shared: Path) -> None:
    sections = tables_of((shared / "spec" / "published_tables.md").read_text(encoding="utf-8"))
    assert len(sections) == len(PAPER_TABLES) == 5
    for number, ((cells, section), paper) in enumerate(zip(sections, PAPER_TABLES, strict=True), start=1):
        mine = [line for line in published() if line.table == paper.name]
        papers = [line for line in mine if line.source == f"{PAPER}{number}"]
        numbers = {(line.model, NAMES.get(line.column, line.column)): line.value for line in papers}
        sizes = {(line.model, column): line.params for line in papers for column in ("# Params", "# params")}
        params = {key: cell for key, cell in cells.items() if key[1].lower() == "# params"}
        assert numbers == {key: cell for key, cell in cells.items() if key not in params}
        assert {key: sizes[key] for key in params} == params
        for line in mine:  # of other sources, told below the table
            assert line in papers or line.value in section


def test_spots() -> None:
    found = {(line.table, line.model, line.column): line for line in published()}
    assert len(found) == len(published()) == 193
    assert Counter(line.table for line in published()) == {
        "understanding": 39,
        "generation": 96,
        "coco": 16,
        "gap": 12,
        "training": 30,
    }
    assert found["gap", "HermesFlow", "Gap"].value == "0.036"
    assert found["coco", "SD 2.1", "FID"].value == "8.03"
    assert found["generation", "Janus (autoregressive)", "Position"].value == "0.46"
    assert found["training", "DPO (Generation)", "GenEval"].value == "0.70"
    assert found["understanding", "Show-o", "POPE"].note.startswith("Show-o mixes two models")
    assert found["understanding", "Show-o (VQ tokens, 512 px)", "MME"].source == "Show-o (ICLR 2025), table 1"


def test_every_line_has_a_column_to_stand_in() -> None:
    columns = {(paper.name, column.name) for paper in PAPER_TABLES for column in paper.columns}
    assert {(line.table, line.column) for line in published()} == columns
    for line in published():
        assert isinstance(line, Reported)
        assert re.fullmatch(r"\d+\.\d+", line.value)
        assert line.source


def test_rows_keep_the_digits_that_were_printed() -> None:
    gap = next(paper for paper in PAPER_TABLES if paper.name == "gap")
    show_o = rows(gap)[2].row(params=True)
    assert (show_o.label, show_o.source) == ("Show-o", f"{PAPER}4")
    assert show_o.cells == ("1.3B", Figure(0.52), Figure(0.433), Figure(0.087))
    assert show_o.cells[1].text == "0.520"
    understanding = rows(PAPER_TABLES[0])
    assert [row.model for row in understanding][1] == "CoDI"
    assert [cell and cell.text for cell in understanding[1].row(params=True).cells] == [None] * 3 + ["12.8"] + [
        None
    ] * 3
