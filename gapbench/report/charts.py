"""The gap in pictures, as HTML and SVG: dots and intervals by skill, and the table of understood against drawn.

Positions are percentages of a drawing as wide as its table's column, so the same page suits a screen, a telephone and
paper; every figure that is drawn also stands there as a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gapbench.report import table
from gapbench.report.elements import Markup, each, element, join

JSON = Mapping[str, Any]
Link = Callable[[str], str]  # from a skill, "" for all of them, to where its misses are shown

ALL = "all questions"
_MIDDLE = "15"  # of a row's drawing, in pixels
_CELLS = {
    "p11": "understood, drawn",
    "p10": "understood, not drawn",
    "p01": "drawn, not understood",
    "p00": "neither",
}


def number(value: float, digits: int = 3) -> str:
    """As in every table, with a minus sign as wide as a figure."""
    return table.number(value, digits).replace("-", "\N{MINUS SIGN}")


def interval(low: float, high: float, digits: int = 3) -> Markup:
    return element("small", f"[{number(low, digits)}, {number(high, digits)}]")


def estimate(told: JSON, digits: int = 3) -> Markup:
    return join(number(told["value"], digits), " ", interval(told["low"], told["high"], digits))


def with_overall(metrics: JSON, skills: Mapping[str, JSON]) -> list[tuple[str, JSON]]:
    """All questions first, then the skills, the widest gap first."""
    return [(ALL, metrics), *sorted(skills.items(), key=lambda pair: -pair[1]["gap"]["value"])]


# --- Dots by skill ----------------------------------------------------------------------------------------------------


def dots(rows: Sequence[tuple[str, JSON]]) -> Markup:
    """U and G of each row as two joined dots with their intervals. Rows are names with U, G and gap."""
    ticks = [element("text", f"{tick:g}", x=_percent(tick), y="14", class_="tick") for tick in (0, 0.25, 0.5, 0.75, 1)]
    axis = element("svg", *ticks, class_="plot axis", aria_hidden="true")
    head = element(
        "tr",
        element("th", "skill", scope="col"),
        element("th", axis, element("span", "U and G", class_="unseen"), scope="col", class_="drawing"),
        element("th", "U", scope="col", class_="wide"),
        element("th", "G", scope="col", class_="wide"),
        element("th", "gap", scope="col"),
        element("th", "n", scope="col", class_="wide"),
    )
    body = each(
        element(
            "tr",
            element("th", name, scope="row"),
            element("td", _plot(told), class_="drawing"),
            element("td", number(told["U"]["value"]), class_="wide"),
            element("td", number(told["G"]["value"]), class_="wide"),
            element("td", estimate(told["gap"])),
            element("td", str(told["U"]["n"]), class_="wide"),
            class_="overall" if name == ALL else None,
        )
        for name, told in rows
    )
    return element("table", element("thead", head), element("tbody", body), class_="dots")


def legend() -> Markup:
    u = element("svg", element("circle", class_="u", cx="8", cy="8", r="5.5"), class_="key", aria_hidden="true")
    g = element("svg", _diamond("8", "8"), class_="key", aria_hidden="true")
    told = "with their 95 % intervals; the bar between them is the gap"
    return element("p", element("span", u, "U"), element("span", g, "G"), element("span", told), class_="legend")


def _plot(told: JSON) -> Markup:
    u, g = told["U"], told["G"]
    grid = [_line("grid", tick, tick, "0", "30") for tick in (0, 0.25, 0.5, 0.75, 1)]
    return element(
        "svg",
        *grid,
        _line("bar", u["value"], g["value"]),
        *_whisker("u", u),
        *_whisker("g", g),
        element("circle", class_="u", cx=_percent(u["value"]), cy=_MIDDLE, r="5.5"),
        _diamond(_percent(g["value"]), _MIDDLE),
        class_="plot",
        role="img",
        aria_label=f"U {number(u['value'])}, G {number(g['value'])}",
    )


def _percent(value: float) -> str:
    return f"{100 * value:.2f}%"


def _line(kind: str, x1: float, x2: float, y1: str = _MIDDLE, y2: str = _MIDDLE) -> Markup:
    return element("line", class_=kind, x1=_percent(x1), x2=_percent(x2), y1=y1, y2=y2)


def _whisker(kind: str, told: JSON) -> list[Markup]:
    low, high = told["low"], told["high"]
    caps = [_line(f"whisker {kind}", end, end, "10", "20") for end in (low, high)]
    return [_line(f"whisker {kind}", low, high), *caps]


def _diamond(x: str, y: str) -> Markup:
    """SVG inside SVG: a path cannot be placed by percentages."""
    return element("svg", element("path", d="M0-6.5 6.5 0 0 6.5-6.5 0Z", class_="g"), x=x, y=y, class_="mark")


# --- Understood against drawn -----------------------------------------------------------------------------------------


def fourfold(metrics: JSON) -> Markup:
    """All questions by whether they are understood and drawn, with both margins."""
    u, g = metrics["U"], metrics["G"]
    rest = [element("td", number(1 - told["value"]), class_="margin") for told in (u, g)]
    head = [element("th", name, scope="col") for name in ("drawn", "not drawn", "")]
    rows = [
        _row("understood", _share("p11", metrics), _share("p10", metrics), element("td", estimate(u), class_="margin")),
        _row("not understood", _share("p01", metrics), _share("p00", metrics), rest[0]),
        _row("", element("td", estimate(g), class_="margin"), rest[1], element("td", class_="margin")),
    ]
    corner = element("td")
    return element(
        "table",
        element("thead", element("tr", corner, *head)),
        element("tbody", *rows),
        class_="fourfold",
    )


def shares(rows: Sequence[tuple[str, JSON]], link: Link) -> Markup:
    """The four shares of each row; p10 leads to the misses it counts."""
    head = [element("th", cell, " ", element("small", meaning), scope="col") for cell, meaning in _CELLS.items()]
    body = [
        _row(
            name,
            *(_share(cell, told, link("" if name == ALL else name) if cell == "p10" else None) for cell in _CELLS),
            overall=name == ALL,
        )
        for name, told in rows
    ]
    return element(
        "table",
        element("thead", element("tr", element("th", "skill", scope="col"), *head)),
        element("tbody", *body),
        class_="shares",
    )


def _row(name: str, *cells: Markup, overall: bool = False) -> Markup:
    return element("tr", element("th", name, scope="row"), *cells, class_="overall" if overall else None)


def _share(cell: str, told: JSON, link: str | None = None) -> Markup:
    share = told[cell]["value"]
    shade = element(
        "svg",
        element("rect", width="100%", height="100%", fill_opacity=f"{share:.3f}"),
        class_=f"shade {cell}",
        aria_hidden="true",
    )
    figure = number(share)
    value = element("a", figure, href=link) if link is not None else element("b", figure)
    return element("td", shade, value, " ", interval(told[cell]["low"], told[cell]["high"]), class_="share")
