"""A gap run with records and drawings made up, for the tests of gallery and page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leaderboards import COUNTS
from PIL import Image

from gapbench.records import Record
from gapbench.report.runs import Run
from gapbench.store import RunFolder
from gapbench.tasks.gap import metrics

EVIL = '</script><script>alert("1")</script>"><img src=x onerror=alert(2)>\u2028&amp;'


def item_records(
    name: str,
    asked: Sequence[tuple[str, bool, bool | None]],
    prompt: str = "a red cat",
    answer: str = "yes",
    error: str | None = None,
    question: str | None = "Is it red?",
) -> list[Record]:
    """The records of one homologous item. `asked`: of each question its skill, if understood, and if drawn."""
    real, own, verdicts = [], [], []
    for number, (skill, understood, drawn) in enumerate(asked):
        said = answer if understood else "no"
        details: dict[str, Any] = {"question": question, "answer": answer, "judge": {"said": answer, "right": True}}
        if question is None:
            del details["question"]
        real.append(Record("gap", f"{name}/{number}", name, (skill,), 0, said, float(understood), details, "real"))
        own.append(Record("gap", f"{name}/{number}@0", name, (skill,), 0, said, 1.0, {"answer": answer}, "own"))
        verdicts.append({"said": None if error or drawn is None else f"saw {skill}", "right": drawn})
    path = "" if error else f"images/gap/{name}/0.png"
    drawing = Record("gap", name, name, (), 0, path, 0.0, {"prompt": prompt, "questions": verdicts}, "drawn", error)
    return [*real, drawing, *own]


def gap_run(folder: Path, records: Sequence[Record], pictures: bool = True, label: str = "m") -> Run:
    """Written as a run is; every drawing is a plain square."""
    store = RunFolder(folder)
    store.append("gap", records)
    for record in records:
        if pictures and record.part == "drawn" and record.response:
            store.save_image("gap", record.item, 0, Image.new("RGB", (300, 200), "red"))
    told = {name: dataclasses.asdict(estimate) for name, estimate in metrics(records).items()}
    task = {"side": "both", "fingerprint": "f" * 12, "protocol": {"G_answerer": "eye"}, **COUNTS, "metrics": told}
    return Run(folder, label, {"model": label, "tasks": {"gap": task}}, {"started": "2026-01-02T03:04:05Z"})
