"""GQA's files with a few pictures of the miniature world, and the questions of its language."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from gapbench.miniature.language import Query, random_query
from layouts.images import jpeg, pictures, write_shards

PER_IMAGE = 3
QUESTIONS, IMAGES = "testdev_balanced_instructions", "testdev_balanced_images"  # configs on the hub
_STRUCTURAL = {"exists": "verify", "related": "verify", "size": "choose", "side": "choose"}


def image_ids(count: int) -> list[str]:
    """Official ones begin with n; their order in the table of images is not that of the questions."""
    return [f"n{1000 + 7 * number % 1000}" for number in range(count)]


def entries(count: int) -> dict[str, dict[str, Any]]:
    """Official entries by question id; those about one image do not stand together."""
    found = {}
    scenes = pictures(count)
    for number in range(PER_IMAGE * count):
        image = number % count
        query = random_query(scenes[image], random.Random(f"{number}"))
        answer = query.answer(scenes[image].things)
        found[f"20{number:06d}"] = {
            "semantic": [{"operation": "select", "dependencies": [], "argument": f"thing ({number})"}],
            "entailed": [],
            "equivalent": [f"20{number:06d}"],
            "question": query.text,
            "imageId": image_ids(count)[image],
            "isBalanced": True,
            "groups": {"global": _group(query), "local": "14-thing"},
            "answer": answer,
            "semanticStr": f"select: thing ({number})",
            "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
            "types": {
                "detailed": query.kind,
                "semantic": {"related": "rel", "side": "rel", "exists": "obj"}.get(query.kind, "attr"),
                "structural": _STRUCTURAL.get(query.kind, "query"),
            },
            "fullAnswer": f"{answer.capitalize()}.",
        }
    return found


def _group(query: Query) -> str | None:
    return query.kind if query.kind in ("color", "shape") else None


def write_own(folder: Path, count: int = 40) -> Path:
    (folder / "images").mkdir(parents=True)
    for name, scene in zip(image_ids(count), pictures(count), strict=True):
        (folder / "images" / f"{name}.jpg").write_bytes(jpeg(scene))
    (folder / "testdev_balanced_questions.json").write_text(json.dumps(entries(count)))
    return folder


def question_rows(count: int) -> list[dict[str, Any]]:
    no_annotations = {"answer": None, "question": None, "fullAnswer": None}
    return [{"id": name} | entry | {"annotations": no_annotations} for name, entry in entries(count).items()]


def image_rows(count: int) -> list[dict[str, Any]]:
    shown = zip(image_ids(count), pictures(count), strict=True)
    found = [{"id": name, "image": {"bytes": jpeg(scene), "path": f"{name}.jpg"}} for name, scene in shown]
    return sorted(found, key=lambda row: row["id"], reverse=True)


def write_parquet(folder: Path, count: int = 40) -> Path:
    write_shards(folder / QUESTIONS, "testdev", question_rows(count))
    write_shards(folder / IMAGES, "testdev", image_rows(count), group=8)
    return folder
