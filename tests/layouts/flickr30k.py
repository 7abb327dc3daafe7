"""Flickr30k's files with a few pictures of the miniature world for photographs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from gapbench.miniature.language import dense_caption, describe
from layouts.images import jpeg, pictures, write_shards


def rows(count: int) -> list[dict[str, Any]]:
    """File names are numbers from 36979 on, and the other ids small numbers in another order, as in the real data."""
    found = []
    for number, scene in enumerate(pictures(count)):
        captions = [f"{describe(scene, random.Random(n)).text.capitalize()} ." for n in range(4)]
        captions.append(dense_caption(scene, random.Random(number)))
        if number == 3:
            captions[1] = "A tab\tand a line\u2028separator are in this one , isn't it \u201cfine\u201d ?"
        filename = f"{36979 + 1_000_003 * number}.jpg"
        found.append({"filename": filename, "caption": captions, "img_id": str(count - 1 - number)})
    return found


def write_own(folder: Path, count: int = 40) -> Path:
    """The corpus as it is handed out: one file of captions, one folder of images."""
    (folder / "flickr30k-images").mkdir(parents=True)
    lines = []
    for row, scene in zip(rows(count), pictures(count), strict=True):
        (folder / "flickr30k-images" / row["filename"]).write_bytes(jpeg(scene))
        lines += [f"{row['filename']}#{n}\t{caption}" for n, caption in enumerate(row["caption"])]
    (folder / "results_20130124.token").write_bytes("\n".join([*lines, ""]).encode())
    return folder


def write_parquet(folder: Path, count: int = 40) -> Path:
    """lmms-eval's data set on the hub."""
    table = [
        {
            "image": {"bytes": jpeg(scene), "path": row["filename"]},
            "caption": row["caption"],
            "sentids": [str(5 * number + n) for n in range(5)],
            "img_id": row["img_id"],
            "filename": row["filename"],
        }
        for number, (row, scene) in enumerate(zip(rows(count), pictures(count), strict=True))
    ]
    write_shards(folder / "data", "test", table, group=7)
    return folder


def write_karpathy(folder: Path, count: int = 40) -> Path:
    """dataset_flickr30k.json, which stands beside either of the others; every second image is for testing."""
    images = [
        {
            "filename": row["filename"],
            "imgid": number,
            "split": "test" if number % 2 else ("train", "val")[number % 4 // 2],
            "sentids": [5 * number + n for n in range(5)],
            "sentences": [
                {"raw": text, "tokens": text.lower().split(), "imgid": number, "sentid": 5 * number + n}
                for n, text in enumerate(row["caption"])
            ],
        }
        for number, row in enumerate(rows(count))
    ]
    (folder / "dataset_flickr30k.json").write_text(json.dumps({"images": images, "dataset": "flickr30k"}))
    return folder
