"""LlamaGen: see model.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gapbench.records import InputError, Sampling

if TYPE_CHECKING:
    from gapbench.models.llamagen.model import LlamaGen
    from gapbench.models.zoo import Entry


def load(entry: Entry, device: str | None, dtype: str | None) -> LlamaGen:
    """The checkpoint in a folder or on the hub. Raises InputError where one of its parts is missing or wrong."""
    from gapbench.models import zoo
    from gapbench.models.llamagen import files

    place = zoo.device_of(device)
    kind = zoo.dtype_of(dtype, place)
    if entry.folder is not None:
        found = files.local_files(entry.folder)
    else:
        try:
            found = files.hub_files(entry.repo, entry.target, entry.revision)
        except InputError as error:
            raise InputError(f"{entry.name}: {error}") from None

    # Only now: these take seconds to import, and what is missing should be said at once.
    from gapbench.models.llamagen import checkpoint
    from gapbench.models.llamagen.model import LlamaGen

    parts = checkpoint.load(found, place, kind, entry.name)
    return LlamaGen(parts, name=entry.name, sampling=Sampling(guidance=entry.guidance, temperature=1.0))
