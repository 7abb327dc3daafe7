"""Drawings in folders, in the benchmarks' own layouts or a run's: where each lies, and what opens it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from gapbench.records import InputError
from gapbench.responses import Found

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

# Opens the image of an item and number from what `Found.response` says: a path, for some layouts with a part of it.
Open = Callable[[str], "Image.Image"]


def name_of(item: str, number: int) -> str:
    """What an image is called in messages: the prompt's id and which of its images it is, from 0."""
    return f"{item}/{number}"


def opened(path: str) -> Image.Image:
    from PIL import Image

    image = Image.open(path)
    image.load()
    return image


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


def item_folder(item: str) -> str:
    """The name of an item's folder in a run. Ids may hold any character; the awkward ones are quoted."""
    name = quote(item, safe="")
    if not name.strip("."):  # "..", which quoting leaves as it is
        name = name.replace(".", "%2E") or "%"
    return name


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


def crops(image: Image.Image, resolution: int | None = None) -> list[Image.Image]:
    """The four images of a 2x2 grid, as the official script numbers them: along the rows.

    Raises InputError where the grid is not of (2R, 2R) pixels; the official script would cut it wrongly in silence.
    """
    r = resolution or image.width // 2
    if image.size != (2 * r, 2 * r):
        wanted = f"{2 * r}x{2 * r}" if resolution else "square and of even size"
        file = getattr(image, "filename", "") or "image"
        raise InputError(f"{file}: {image.width}x{image.height} pixels; a grid of four images must be {wanted}")
    corners = ((0, 0), (r, 0), (0, r), (r, r))
    return [image.crop((x, y, x + r, y + r)) for x, y in corners]


def quarter(place: str) -> Image.Image:
    """One image of a grid, by the grid's path and its number in the official order. Raises InputError for odd sizes."""
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
