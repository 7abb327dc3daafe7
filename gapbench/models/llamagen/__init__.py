"""LlamaGen: see model.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gapbench.records import Sampling

if TYPE_CHECKING:
    from gapbench.models.llamagen.model import LlamaGen
    from gapbench.models.zoo import Entry


def load(entry: Entry, device: str | None, dtype: str | None) -> LlamaGen:
    """The checkpoint in a folder or on the hub. Raises InputError where one of its parts is missing or wrong."""
    from gapbench.models import zoo
    from gapbench.models.llamagen import files

    found, place, kind = zoo.found(entry, device, dtype, files.local_files, files.hub_files)
    # Only now: these take seconds to import, and what is missing should be said at once.
    from gapbench.models.llamagen import checkpoint
    from gapbench.models.llamagen.model import LlamaGen

    parts = checkpoint.load(found, place, kind, entry.name)
    return LlamaGen(parts, name=entry.name, sampling=Sampling(guidance=entry.guidance, temperature=1.0))
