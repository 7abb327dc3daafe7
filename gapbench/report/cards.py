"""The gallery of what is understood and not drawn, as HTML: a card for each drawing, with the questions it misses.

All cards stand in the page; page.js hides those that the filters leave out.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from gapbench.records import Record
from gapbench.report.elements import Markup, each, element, join
from gapbench.report.gallery import Miss, MissedDrawing, Misses, thumbnail

_LONGEST = 600  # characters of a text of others that are shown


def gallery(found: Mapping[str, Misses], folders: Mapping[str, Path]) -> Markup:
    """The misses of each run by its name, the drawings lying in the run's folder."""
    cards = [
        _card(name, folders[name], drawing, len(found) > 1)
        for name, misses in found.items()
        for drawing in misses.drawings
    ]
    if not cards:
        return element("p", "There is nothing to show: all that is understood is drawn.", class_="remark")
    told = (
        "Questions that the model answers rightly about the real image (\N{CHECK MARK} its answer), while its own "
        "drawing of the image's caption does not satisfy them (\N{BALLOT X} the judge's answer). Drawings are chosen "
        "by the hashes of their ids, alike for every model."
    )
    skills = [skill for skill, _ in sum((Counter(misses.found) for misses in found.values()), Counter()).most_common()]
    totals = {name: dict(misses.found) for name, misses in found.items()}
    return join(
        element("p", told, class_="remark"),
        element("ul", *(_counts(name, misses) for name, misses in found.items()), class_="notes", id="counts"),
        _filters(list(found), [skill for skill in skills if skill]),
        element("p", role="status", id="status", hidden=True),
        element("div", *cards, id="cards", data_found=json.dumps(totals)),
    )


def _counts(name: str, misses: Misses) -> Markup:
    skills = sorted((skill for skill in misses.found if skill), key=lambda skill: -misses.found[skill])
    by_skill = ", ".join(f"{skill} {misses.shown[skill]:,} of {misses.found[skill]:,}" for skill in skills)
    return element("li", f"{name}: showing {misses.shown['']:,} of {misses.found['']:,} ({by_skill})")


def _filters(names: Sequence[str], skills: Sequence[str]) -> Markup:
    """Hidden until the script that makes them work shows them."""
    groups = [("skill", skills)]
    if len(names) > 1:
        groups.append(("run", names))
    search = element("input", type="search", id="search", placeholder="prompt, question or answer")
    return element(
        "div",
        *(
            element("div", *(_button(group, value) for value in ("", *values)), role="group", aria_label=group)
            for group, values in groups
        ),
        element("label", "Search ", search),
        id="filters",
        hidden=True,
    )


def _button(group: str, value: str) -> Markup:
    count = [" ", element("span")] if group == "skill" else []
    pressed = "false" if value else "true"
    told = (value or f"all {group}s", *count)
    return element("button", *told, type="button", data_filter=group, data_value=value, aria_pressed=pressed)


def _card(name: str, folder: Path, drawing: MissedDrawing, several: bool) -> Markup:
    prompt = _cut(str(drawing.record.details["prompt"]))
    told = f"{drawing.record.item}, seed {drawing.record.seed}" + (f", {name}" if several else "")
    return element(
        "article",
        element(
            "figure",
            _picture(folder, drawing.record, prompt),
            element("figcaption", element("p", prompt, class_="prompt"), element("small", told)),
        ),
        element("ul", *map(_miss, drawing.misses)),
        class_="card",
        data_run=name,
    )


def _picture(folder: Path, record: Record, prompt: str) -> Markup:
    if record.error is not None:
        return element("div", _cut(f"not drawn: {record.error}"), class_="absent")
    try:
        content = thumbnail(folder, record)
    except OSError:
        return element("div", "no picture of this drawing in the run's folder", class_="absent")
    url = "data:image/webp;base64," + base64.b64encode(content).decode()
    return element("img", src=url, alt=f"drawing of: {prompt}")


def _miss(miss: Miss) -> Markup:
    question = miss.question or f"question {miss.number} (this run did not write its text down)"
    said = "nothing was drawn" if miss.said is None else _cut(miss.said)
    answers = (
        ("real image", _cut(miss.answer), "right"),
        ("drawing", said, "wrong"),
        ("expected", _cut(miss.expected), None),
    )
    return element(
        "li",
        element("p", each(element("span", skill, class_="skill") for skill in miss.skills), " ", _cut(question)),
        element(
            "dl",
            *(
                element("div", element("dt", who), element("dd", answer, class_=verdict))
                for who, answer, verdict in answers
            ),
        ),
        data_skills=" ".join(miss.skills),
    )


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text):,} characters)"
