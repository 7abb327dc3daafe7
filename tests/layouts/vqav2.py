"""VQAv2's files with a few pictures of the miniature world for photographs."""

from __future__ import annotations

import json
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

from gapbench.miniature.benchmarks import VqaRow, vqa_rows
from layouts.images import write_shards

SPLITS = {
    "val": ("v2_OpenEnded_mscoco_val2014_questions.json", "val2014", "validation"),
    "testdev": ("v2_OpenEnded_mscoco_test-dev2015_questions.json", "test2015", "testdev"),
    "test": ("v2_OpenEnded_mscoco_test2015_questions.json", "test2015", "test"),
}
INFO = {"description": "made up, in the form of VQAv2", "version": "2.0", "year": 2017}


def rows(count: int) -> list[VqaRow]:
    """Three to five questions a picture."""
    return [row for row in vqa_rows(count) if row.question_id % 1000 < 3 + row.image_id % 3]


def question(row: VqaRow) -> dict[str, Any]:
    image = 42 + 31 * row.image_id
    return {"image_id": image, "question": row.text, "question_id": 1000 * image + row.question_id % 1000}


def annotation(row: VqaRow) -> dict[str, Any]:
    ids = question(row)
    return {
        "question_type": row.question_type,
        "multiple_choice_answer": Counter(row.answers).most_common(1)[0][0],
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": number}
            for number, answer in enumerate(row.answers, start=1)
        ],
        "image_id": ids["image_id"],
        "answer_type": row.answer_type,
        "question_id": ids["question_id"],
    }


def image_name(row: VqaRow, split: str = "val") -> str:
    return f"COCO_{SPLITS[split][1]}_{question(row)['image_id']:012d}.jpg"


def jpeg(row: VqaRow) -> bytes:
    file = BytesIO()
    row.picture.open().save(file, format="JPEG", quality=95)
    return file.getvalue()


def write_own(folder: Path, count: int = 40, split: str = "val") -> Path:
    name, images, _ = SPLITS[split]
    (folder / images).mkdir(parents=True)
    asked = rows(count)
    for row in {row.image_id: row for row in asked}.values():
        (folder / images / image_name(row, split)).write_bytes(jpeg(row))
    write_questions(folder / name, [question(row) for row in asked])
    if split == "val":
        write_annotations(folder / "v2_mscoco_val2014_annotations.json", [annotation(row) for row in asked])
    return folder


def write_questions(path: Path, entries: list[Any], **form: Any) -> Path:
    document = {"info": INFO, "task_type": "Open-Ended", "data_type": "mscoco", "license": {}, "questions": entries}
    path.write_text(json.dumps(document, **form), encoding="utf-8")
    return path


def write_annotations(path: Path, entries: list[Any], **form: Any) -> Path:
    document = {"info": INFO, "license": {}, "data_subtype": "val2014", "annotations": entries, "data_type": "mscoco"}
    path.write_text(json.dumps(document, **form), encoding="utf-8")
    return path


def table(count: int = 40, split: str = "val") -> list[dict[str, Any]]:
    """The hub's rows, each with its image once more."""
    files = {row.image_id: {"bytes": jpeg(row), "path": image_name(row, split)} for row in rows(count)}
    none = dict.fromkeys(("question_type", "multiple_choice_answer", "answers", "answer_type"))
    return [
        {**(annotation(row) if split == "val" else none), **question(row), "image": files[row.image_id]}
        for row in rows(count)
    ]


def write_parquet(folder: Path, count: int = 40, split: str = "val") -> Path:
    # Rows of one image stand in two row groups now and then.
    write_shards(folder / "data", SPLITS[split][2], table(count, split), group=22)
    return folder
