"""POPE's files with a few pictures of the miniature world for photographs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from layouts.images import jpeg, pictures, write_shards

SPLITS = ("random", "popular", "adversarial")


def _rows(split: str, count: int) -> list[dict[str, Any]]:
    """Six questions a picture, yes and no in turn, as in the official files."""
    rows = []
    for number, scene in enumerate(pictures(count)):
        held = [thing.shape for thing in scene.things]
        for question in range(6):
            label = "no" if question % 2 else "yes"
            name = held[question % len(held)] if label == "yes" else f"{split} thing {question}"
            image = f"COCO_val2014_{number + 1:012d}.jpg"
            text = f"Is there a {name} in the image?"
            rows.append({"question_id": len(rows) + 1, "image": image, "text": text, "label": label})
    return rows


def write_own(folder: Path, count: int = 40) -> Path:
    (folder / "val2014").mkdir(parents=True)
    for number, scene in enumerate(pictures(count)):
        (folder / "val2014" / f"COCO_val2014_{number + 1:012d}.jpg").write_bytes(jpeg(scene))
    for split in SPLITS:
        lines = [json.dumps(row) for row in _rows(split, count)]
        end = "\n" if split == "random" else "\r\n"  # as in the official files
        (folder / f"coco_pope_{split}.json").write_bytes(end.join([*lines, ""]).encode())
    return folder


def write_parquet(folder: Path, count: int = 40) -> Path:
    scenes = pictures(count)
    table = [
        {
            "id": str(3 * split + number),
            "question_id": str(row["question_id"]),
            "question": row["text"],
            "answer": row["label"],
            "image_source": row["image"].removesuffix(".jpg"),
            "image": {"bytes": jpeg(scenes[number // 6]), "path": row["image"]},
            "category": name,
        }
        for split, name in enumerate(SPLITS)
        for number, row in enumerate(_rows(name, count))
    ]
    write_shards(folder / "data", "test", table)
    return folder
