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
        "dpg": {
            "entity - whole": ("object",),
            "entity - part": ("object",),
            "attribute - color": ("color", "binding"),
            "attribute - shape": ("shape", "binding"),
            "attribute - texture": ("texture", "binding"),
            "relation - spatial": ("position",),
            "relation - non-spatial": ("action",),
            "other - count": ("count",),
            "other - text": ("text",),
            "global -": ("scene",),
            "*": ("other",),
        },
        # TIFA's types of elements, as written and as merged, one skill each; "attribute" is any but color, material and
        # shape. Then JourneyDB's two kinds, both of many skills: style (art, mood, palette) is about the whole picture,
        # as DPG's "global" is; content may ask for anything in it.
        "homologous": {
            "object": ("object",),
            "human": ("object",),
            "animal": ("object",),
            "animal/human": ("object",),
            "food": ("object",),
            "activity": ("action",),
            "attribute": ("other",),
            "counting": ("count",),
            "color": ("color",),
            "material": ("texture",),
            "spatial": ("position",),
            "location": ("scene",),
            "shape": ("shape",),
            "other": ("other",),
            "style": ("scene",),
            "content": ("other",),
        },
        "coco": {"caption": ("other",)},
        # The miniature's subjects, by name; the real ones all need knowledge.
        "mmmu": {"Color": ("color",), "Count": ("count",), "Shape": ("shape",), "*": ("knowledge",)},
        "flickr30k": {"caption": ("other",)},
        # By subtask; the others are about posters, people, places, works of art and reasoning.
        "mme": {
            "existence": ("object",),
            "count": ("count",),
            "position": ("position",),
            "color": ("color",),
            "scene": ("scene",),
            "OCR": ("text",),
            "text_translation": ("text",),
            "*": ("knowledge",),
        },
        # By semantic type. Attributes and relations are of many kinds (colors and materials, places and deeds).
        "gqa": {"obj": ("object",), "cat": ("object",), "global": ("scene",), "*": ("other",)},
        # By question type; what the others ask for, their first words do not tell.
        "vqav2": {
            "how many": ("count",),
            "how many people are": ("count",),
            "how many people are in": ("count",),
            "what color": ("color",),
            "what color is": ("color",),
            "what color is the": ("color",),
            "what color are the": ("color",),
            "what is the color of the": ("color",),
            "where is the": ("position",),
            "where are the": ("position",),
            "is there": ("object",),
            "is there a": ("object",),
            "are there": ("object",),
            "are there any": ("object",),
            "what animal is": ("object",),
            "what sport is": ("action",),
            "what room is": ("scene",),
            "what number is": ("text",),
            "what brand": ("text",),
            "what is the name": ("text",),
            "*": ("other",),
        },
    }
)


def skills_of(benchmark: str, category: str) -> tuple[str, ...]:
    """The skills of a benchmark's category; its row "*" is for all others. Raises KeyError where there is neither."""
    rows = _TABLE[benchmark]
    if category not in rows and "*" not in rows:
        raise KeyError(f"the skill table has no row for {benchmark}/{category}")
    return rows.get(category) or rows["*"]
