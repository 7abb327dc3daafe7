"""JourneyDB as its authors lay it out: annotations a line an image, and images in numbered folders."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gapbench.data.journeydb import ANNOTATIONS, QUESTIONS
from layouts.images import jpeg, pictures

STYLE = {"Question": "What is the mood?", "Options": {"A": "Calm", "B": "Wild"}, "Answer": "A"}
CONTENT = {"Question": "What is drawn?", "Options": ["A: shapes", "B: dogs", "C: a city"], "Answer": "A: shapes"}


def record(number: int, prompt: str | None = None, **changes: Any) -> dict[str, Any]:
    """A regular record, with fields replaced; those that are ... are taken out."""
    fields = {
        "img_path": f"./000/image-{number}.jpg",
        "prompt": f"prompt {number} --ar 2:3" if prompt is None else prompt,
        "Task1": {"Style": ["flat"], "Content": [], "Atmosphere": [], "Others": []},
        "Task2": {"Caption": f"Caption {number}."},
        "Task3": {QUESTIONS["style"]: [STYLE], QUESTIONS["content"]: [CONTENT]},
        **changes,
    }
    return {key: value for key, value in fields.items() if value is not ...}


def asking(number: int, **changes: Any) -> dict[str, Any]:
    """A record whose one content question has fields replaced."""
    question = {key: value for key, value in {**CONTENT, **changes}.items() if value is not ...}
    return record(number, Task3={QUESTIONS["style"]: [STYLE], QUESTIONS["content"]: [question]})


def write(root: Path, rows: Iterable[Any], split: str = "valid", packed: bool = False, images: bool = True) -> Path:
    """Below `root`; rows that are no dictionaries are lines as they stand."""
    folder, rows = root / split, list(rows)
    (folder / "imgs/000").mkdir(parents=True, exist_ok=True)
    file = folder / ANNOTATIONS[split]
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if packed:
        with tarfile.open(f"{file}.tgz", "w:gz") as archive:
            archive.add(file, f"./{file.name}")
        file.unlink()
    if images:
        for number, scene in enumerate(pictures(min(len(rows), 20))):
            (folder / f"imgs/000/image-{number}.jpg").write_bytes(jpeg(scene))
    return root
