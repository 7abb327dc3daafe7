"""Janus and Janus-Pro: see model.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gapbench.records import Sampling

if TYPE_CHECKING:
    from gapbench.models.janus.model import Janus
    from gapbench.models.zoo import Entry


def load(entry: Entry, device: str | None, dtype: str | None) -> Janus:
    """The checkpoint in a folder or on the hub. Raises InputError where one of its parts is missing or wrong."""
    from gapbench.models import zoo
    from gapbench.models.janus import files

    found, place, kind = zoo.found(entry, device, dtype, files.local_files, files.hub_files)
    # Only now: these take seconds to import, and what is missing should be said at once.
    from gapbench.models.janus import checkpoint
    from gapbench.models.janus.model import Janus

    parts = checkpoint.load(found, place, kind, entry.name)
    guidance = found.guidance if entry.guidance is None else entry.guidance
    return Janus(parts, name=entry.name, sampling=Sampling(guidance=guidance, temperature=1.0))
