"""MMMU's tables with a few pictures of the miniature world for figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layouts.images import jpeg, pictures, write_shards

SUBJECTS = ("Accounting", "Art_Theory", "Math", "Physics")
IMAGES = 7  # columns


def rows(count: int) -> dict[str, list[dict[str, Any]]]:
    """Of each subject in turn: every fifth question open, every third about two pictures, one gold a list."""
    found: dict[str, list[dict[str, Any]]] = {subject: [] for subject in SUBJECTS}
    scenes = pictures(2 * count)
    for number in range(count):
        subject = SUBJECTS[number % len(SUBJECTS)]
        is_open, two = number % 5 == 4, number % 3 == 2
        options = [] if is_open else ["$6", "Company's loss", "a\u2028line", "<image 2>" if two else 'the "NASA" value']
        question = f"<image 1> What is the value {number}?" + (" Compare <image 2>." if two and is_open else "")
        shown = [{"bytes": jpeg(scenes[2 * number + n]), "path": f"{number}_{n}.png"} for n in range(2 if two else 1)]
        gold = ("['24/7', '3.429']" if number == 4 else str(number)) if is_open else "ABCD"[number % 4]
        found[subject].append(
            {
                "id": f"validation_{subject}_{len(found[subject]) + 1}",
                "question": question,
                "options": repr(options),
                "explanation": "",
                **{f"image_{n + 1}": shown[n] if n < len(shown) else None for n in range(IMAGES)},
                "img_type": "['Tables']",
                "answer": gold,
                "topic_difficulty": "Medium",
                "question_type": "open" if is_open else "multiple-choice",
                "subfield": "",
            }
        )
    return found


def write_parquet(folder: Path, count: int = 40) -> Path:
    """MMMU/MMMU of the hub: a folder with one file a subject."""
    for subject, questions in rows(count).items():
        write_shards(folder / subject, "validation", questions, shards=1, group=4)
    return folder


def write_merged(folder: Path, count: int = 40) -> Path:
    """lmms-eval's copy: all subjects in one table."""
    write_shards(folder / "data", "validation", [row for questions in rows(count).values() for row in questions])
    return folder
