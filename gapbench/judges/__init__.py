"""Heavy models that judge, behind small functions; each is loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gapbench.models.base import Answers


def answerer(name: str, device: str | None = None) -> Answers:
    """Any model that answers, by its name or folder, as the judge of another's drawings."""
    from gapbench.models import zoo

    return zoo.load(name, device)
