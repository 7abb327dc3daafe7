"""Folders of images: which of those that are asked about are there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gapbench.records import InputError, Picture

if TYPE_CHECKING:
    from PIL import Image

UNREADABLE = (OSError, ValueError, SyntaxError)  # what PIL raises for files that are no pictures
_NAMED = 3  # how many missing images an error names


def file_picture(path: Path, key: str | None = None) -> Picture:
    """A picture that is decoded from its file when it is opened; by default its path tells it from others."""

    def decode() -> Image.Image:
        from PIL import Image

        return Image.open(path)

    return Picture(key or str(path), decode)


def image_folder(folder: Path, names: Sequence[str]) -> Path:
    """The first of the sub-folders `names` that is there, else the folder itself."""
    return next((folder / name for name in names if (folder / name).is_dir()), folder)


def present(folder: Path, names: Iterable[str], allow_partial: bool) -> set[str]:
    """Those of the image files `names` that `folder` holds.

    Raises InputError naming the first missing ones, unless a part of the data was asked for; and where all are missing.
    """
    wanted = dict.fromkeys(names)
    have = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    missing = [name for name in wanted if name not in have]
    if missing and (len(missing) == len(wanted) or not allow_partial):
        few = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        how = "" if len(missing) == len(wanted) else ", or measure what is there with --allow-partial"
        raise InputError(f"{folder}: {len(missing)} of {len(wanted)} images are missing ({few}); add them{how}")
    return wanted.keys() - set(missing)
