"""Drawings made elsewhere: folders of images in the benchmarks' own layouts, and exactly what is wrong with them.

Every image is decoded before any is judged, for judging takes hours and a torn file should be known at once. An image
must be a plain RGB one: what a judge sees of transparency, of grey values or of 16 bits differs between programs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from gapbench.ahead import THREADS
from gapbench.data.pictures import UNREADABLE
from gapbench.records import InputError, Item, Record
from gapbench.responses import Answers, Found, match
from gapbench.run import PROMPTS_PER_CHUNK
from gapbench.tasks.base import Task

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

# Opens the image of an item and number from what `Found.response` says: a path, for some layouts with a part of it.
Open = Callable[[str], "Image.Image"]


def name_of(item: str, number: int) -> str:
    """What an image is called in messages: the prompt's id and which of its images it is, from 0."""
    return f"{item}/{number}"


# --- Layouts ----------------------------------------------------------------------------------------------------------


def geneval(folder: Path, prompts: Sequence[str]) -> tuple[list[Found], list[str]]:
    """GenEval's layout, 00000/samples/0000.png and on, with a metadata.jsonl that must be of the same prompt.

    Images of a prompt are taken in the order of their numbers. Also what is wrong: folders that are no prompt's, and
    prompts of other words.
    """
    found, bad = [], []
    for place in _folders(folder):
        if not re.fullmatch(r"\d{5}", place.name) or int(place.name) >= len(prompts):
            bad.append(f"{place}: an extra folder, prompts are 00000 to {len(prompts) - 1:05d}")
            continue
        asked = _prompt_in(place / "metadata.jsonl")
        if asked is not None and asked != prompts[int(place.name)]:
            bad.append(f"{place}: drawn for {asked!r}, prompt {place.name} is {prompts[int(place.name)]!r}")
            continue
        found += _numbered(place / "samples", place.name)
    return found, bad


def _prompt_in(file: Path) -> str | None:
    try:
        return json.loads(file.read_text(encoding="utf-8-sig").split("\n")[0])["prompt"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not a line of GenEval's metadata ({error})") from error


def by_seed(folder: Path) -> tuple[list[Found], list[str]]:
    """A run's own layout, ITEM/SEED.png: the images of each item in the order of their seeds."""
    found = [image for place in _folders(folder) for image in _numbered(place, unquote(place.name))]
    return found, []


def one_each(folder: Path) -> tuple[list[Found], list[str]]:
    """ITEM.png (or another suffix) in one folder, one image an item; numbers may have leading zeros."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            name = str(int(path.stem)) if path.stem.isdigit() else path.stem
            found.append(Found(name_of(name, 0), str(path)))
    return found, []


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _numbered(folder: Path, item: str) -> list[Found]:
    if not folder.is_dir():
        return []
    images = [p for p in folder.iterdir() if re.fullmatch(r"\d+", p.stem) and p.suffix.lower() in SUFFIXES]
    images.sort(key=lambda path: int(path.stem))
    return [Found(name_of(item, number), str(path)) for number, path in enumerate(images)]


def grids(folder: Path) -> tuple[list[Found], list[str]]:
    """DPG-Bench's layout: ITEM.png, two by two images of one prompt."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            found += [Found(name_of(path.stem, number), f"{path}#{number}") for number in range(4)]
    return found, []


def quarter(place: str) -> Image.Image:
    """One image of a grid, by the grid's path and its number in the official order. Raises InputError for odd sizes."""
    from gapbench.tasks.dpg import crops

    path, _, number = place.rpartition("#")
    try:
        return crops(opened(path))[int(number)]
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def located(task: str, folder: Path, prompts: Sequence[str]) -> tuple[list[Found], list[str], Open]:
    """The images of a folder in the task's own layout or in a run's, what is wrong with it, and what opens them."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no folder; drawings are scored by the folder that holds them")
    own = any(path.suffix.lower() in SUFFIXES for path in folder.iterdir())
    if task.startswith("geneval") and not own:
        samples = any((place / "samples").is_dir() for place in _folders(folder))
        return (*(geneval(folder, prompts) if samples else by_seed(folder)), opened)
    if own:
        return (*grids(folder), quarter) if task == "dpg" else (*one_each(folder), opened)
    return (*by_seed(folder), opened)


# --- What is there ----------------------------------------------------------------------------------------------------


def opened(path: str) -> Image.Image:
    from PIL import Image

    image = Image.open(path)
    image.load()
    return image


def checked(expected: Iterable[Item], found: Sequence[Found], bad: Sequence[str], open_image: Open = opened) -> Answers:
    """The images of the expected items, and what is missing, extra, twice there, broken or not RGB."""

    def fault(image: Found) -> str | None:
        try:
            mode = open_image(image.response).mode
        except InputError as error:
            return str(error)
        except UNREADABLE as error:
            return f"{image.response}: {error}"
        return None if mode == "RGB" else f"{image.response}: mode {mode}, not RGB; convert it as it is to be seen"

    with ThreadPoolExecutor(THREADS) as pool:
        faults = list(pool.map(fault, found))
    whole = [image for image, wrong in zip(found, faults, strict=True) if wrong is None]
    return match(names_of(expected), whole, [*bad, *filter(None, faults)])


def names_of(items: Iterable[Item]) -> list[str]:
    """The images that items of prompts ask for, each prompt's numbered from 0."""
    names: list[str] = []
    last, number = None, 0
    for item in items:
        number = number + 1 if item.id == last else 0
        last = item.id
        names.append(name_of(item.id, number))
    return names


def judged(task: Task, items: Sequence[Item], answers: Answers, open_image: Open = opened) -> Iterator[Record]:
    """A record of each image that is there, judged a chunk at a time."""
    there = [(item, name) for item, name in zip(items, names_of(items), strict=True) if name in answers.given]
    for start in range(0, len(there), PROMPTS_PER_CHUNK):
        chunk = there[start : start + PROMPTS_PER_CHUNK]
        with ThreadPoolExecutor(THREADS) as pool:
            images = list(pool.map(lambda pair: open_image(answers.given[pair[1]]), chunk))
        for (item, name), judgement in zip(chunk, task.judge([item for item, _ in chunk], images), strict=True):
            yield Record(
                task.name, item.id, item.cluster, item.skills, item.seed, answers.given[name], judgement.score,
                dict(judgement.details), item.part,
            )  # fmt: skip
