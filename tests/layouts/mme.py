"""MME's files with a few pictures of the miniature world: its subtasks in turn, whatever they are called."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from gapbench.miniature.picture import render
from gapbench.miniature.world import SHAPES, Scene
from layouts.images import jpeg, pictures, write_shards

# In the order of the hub's table. Folders with images/ and questions_answers_YN/ are the official five.
SUBTASKS = (
    "code_reasoning",
    "artwork",
    "celebrity",
    "numerical_calculation",
    "text_translation",
    "position",
    "color",
    "count",
    "existence",
    "landmark",
    "OCR",
    "posters",
    "scene",
    "commonsense_reasoning",
)
NESTED = ("artwork", "celebrity", "landmark", "posters", "scene")
PNG = ("code_reasoning", "numerical_calculation", "text_translation", "commonsense_reasoning")


class Image(NamedTuple):
    subtask: str
    name: str
    data: bytes
    questions: tuple[tuple[str, str], ...]


@cache
def _png(scene: Scene) -> bytes:
    file = BytesIO()
    render(scene).save(file, format="PNG")
    return file.getvalue()


def images(count: int) -> list[Image]:
    """`count` images, those of a subtask together, each with a question answered Yes and one answered No."""
    found = []
    for number, scene in enumerate(pictures(count)):
        subtask = SUBTASKS[number % len(SUBTASKS)]
        name = f"{number // len(SUBTASKS) + 1:04d}" + (".png" if subtask in PNG else ".jpg")
        held = {thing.shape for thing in scene.things}
        shapes = (next(s for s in SHAPES if s in held), next(s for s in SHAPES if s not in held))
        space = "  " if subtask == "color" else " "  # some official questions have two
        texts = [f"Is there a {shape} in the image?{space}Please answer yes or no." for shape in shapes]
        data = _png(scene) if subtask in PNG else jpeg(scene)
        found.append(Image(subtask, name, data, tuple(zip(texts, ("Yes", "No"), strict=True))))
    return sorted(found, key=lambda image: (SUBTASKS.index(image.subtask), image.name))


def write_own(folder: Path, count: int = 40) -> Path:
    for subtask, name, data, questions in images(count):
        inside = folder / "MME_Benchmark_release_version" / subtask
        to_images, to_texts = inside, inside
        if subtask in NESTED:
            to_images, to_texts = inside / "images", inside / "questions_answers_YN"
        for place in (to_images, to_texts):
            place.mkdir(parents=True, exist_ok=True)
        (to_images / name).write_bytes(data)
        lines = "".join(f"{question}\t{answer}\n" for question, answer in questions)
        (to_texts / name).with_suffix(".txt").write_bytes(lines.encode())
    return folder


def rows(count: int) -> list[dict]:
    return [
        {
            "question_id": f"{subtask}/{name}",
            "image": {"bytes": data, "path": name},
            "question": question,
            "answer": answer,
            "category": subtask,
        }
        for subtask, name, data, questions in images(count)
        for question, answer in questions
    ]


def write_parquet(folder: Path, count: int = 40) -> Path:
    write_shards(folder / "data", "test", rows(count))
    return folder
