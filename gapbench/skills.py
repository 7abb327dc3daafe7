"""The one table from every benchmark's own categories to skills."""

from __future__ import annotations

from types import MappingProxyType

SKILLS = (
    "object",
    "count",
    "color",
    "position",
    "binding",
    "texture",
    "shape",
    "action",
    "text",
    "scene",
    "knowledge",
    "other",
)

_TABLE = MappingProxyType(
    {
        "pope": {"random": ("object",), "popular": ("object",), "adversarial": ("object",)},
        "geneval": {
            "single_object": ("object",),
            "two_object": ("object",),
            "counting": ("count",),
            "colors": ("color",),
            "position": ("position",),
            "color_attr": ("color", "binding"),
        },
        "mmmu": {"": ("knowledge",)},
    }
)


def skills_of(benchmark: str, category: str) -> tuple[str, ...]:
    """The skills of a benchmark's category. Raises KeyError naming both where the table lacks them."""
    try:
        return _TABLE[benchmark][category]
    except KeyError:
        raise KeyError(f"the skill table has no row for {benchmark}/{category}") from None
