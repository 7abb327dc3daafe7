"""The long form: a line a figure, nothing rounded, one unit a metric."""

from __future__ import annotations

import csv as standard
import io

import pytest
from leaderboards import run_of, told

from gapbench.report.csv import FIELDS, csv
from gapbench.report.runs import Run


def lines(*runs: Run, published: bool = False) -> list[dict[str, str]]:
    return list(standard.DictReader(io.StringIO(csv(runs, published))))


def test_a_line_a_metric_of_every_run_and_task() -> None:
    value = 2 / 3
    tasks = {"pope-mini": told({"pooled/accuracy": value, "pooled/f1": 1.0}), "gqa": told({"accuracy": 0.5}, done=7)}
    found = lines(run_of('m, "1"', tasks))
    assert list(found[0]) == list(FIELDS)
    assert [(line["task"], line["metric"], line["table"], line["partial"]) for line in found] == [
        ("pope-mini", "pooled/accuracy", "understanding", ""),
        ("pope-mini", "pooled/f1", "", ""),
        ("gqa", "accuracy", "understanding", "7/20"),
    ]
    first = found[0]
    assert (float(first["value"]), float(first["low"])) == (value, value - 0.1)
    assert (first["model"], first["protocol"], first["n"], first["clusters"]) == ('m, "1"', "abc", "20", "5")
    assert {line["source"] for line in found} == {""}
    assert found[2]["note"] == "partial: 7/20 items; not comparable with a complete gqa"


def test_what_papers_report_is_in_the_same_units() -> None:
    found = lines(published=True)
    assert len(found) == 193
    reported = {(line["table"], line["model"], line["metric"]): line for line in found}
    pope = reported["understanding", "HermesFlow", "pooled/accuracy"]
    assert (pope["value"], pope["task"], pope["low"], pope["n"]) == ("0.814", "pope", "", "")
    assert pope["source"] == "HermesFlow (arXiv 2502.12148), table 1"
    assert reported["training", "Pair-DPO (Iter. 3)", "perception"]["value"] == "1249.7"
    assert reported["gap", "Show-o", "gap"]["value"] == "0.087"
    assert "not released" in reported["coco", "Show-o", "fid"]["note"]
    assert all(line["source"] for line in found)


@pytest.mark.parametrize("published", [False, True])
def test_without_runs(published: bool) -> None:
    assert csv([], published).splitlines()[0] == ",".join(FIELDS)
    assert csv([], published).endswith("\n")
