"""A report as one HTML page that stands alone: it asks nothing of the net, and shows what came from others as text.

The page's policy forbids every resource from outside and every style and script but its own two, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import cycle
from typing import Any
from urllib.parse import urlencode

from gapbench.report import cards, charts
from gapbench.report.elements import Markup, each, element, escaped, join
from gapbench.report.gallery import understood_not_drawn
from gapbench.report.runs import Run
from gapbench.report.table import Column, Figure, Row, Table, reported_by

ENTRIES = 40


@dataclass(frozen=True, slots=True)
class _Gap:
    """A gap as one run measured it; `name` tells it from the others of the page."""

    run: Run
    task: str
    name: str
    told: Mapping[str, Any]

    @property
    def metrics(self) -> Mapping[str, Any]:
        return self.told["metrics"]

    def rows(self) -> list[tuple[str, Mapping[str, Any]]]:
        from gapbench.tasks.gap import MEASURES, by_skill

        skills = {skill: found for skill, found in by_skill(self.metrics).items() if set(MEASURES) <= set(found)}
        return charts.with_overall(self.metrics, skills)

    def link(self, skill: str) -> str:
        """The fragment that shows this gap's misses of a skill; page.js reads it."""
        return "#" + urlencode({"skill": skill, "run": self.name})


def page(runs: Sequence[Run], tables: Sequence[Table], entries: int = ENTRIES) -> str:
    """The page about `runs`; `tables` is their leaderboard.

    entries: the most questions of a skill that each run's gallery of misses shows. Equal runs give equal pages.
    Raises InputError where a run's records cannot be read.
    """
    gaps = _gaps(runs)
    counted = [gap for gap in gaps if gap.metrics]
    sections = [
        _section("tables", "Results", each(map(_table, tables))) if tables else Markup(),
        _section("skills", "Understood and drawn, by skill", _skills(counted)) if counted else Markup(),
        _section("shares", "Understood against drawn", _shares(counted)) if counted else Markup(),
        _section("gallery", "Understood, not drawn", _gallery(counted, entries)) if counted else Markup(),
        _section("protocols", "Protocols", _protocols(runs), _versions(runs)) if runs else Markup(),
    ]
    models = ", ".join(dict.fromkeys(str(run.results["model"]) for run in runs)) or "Reported results"
    return _document(f"{models}: gapbench", join(_head(models, runs, gaps), *sections))


def _gaps(runs: Sequence[Run]) -> list[_Gap]:
    found = [(run, task, told) for run in runs for task, told in run.tasks.items() if told["side"] == "both"]
    several = len({task for _, task, _ in found}) > 1
    return [_Gap(run, task, f"{run.label}, {task}" if several else run.label, told) for run, task, told in found]


def _document(title: str, body: Markup) -> str:
    files = resources.files("gapbench.report")
    style, script = (files.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    head = join(
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=Markup(policy)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Markup(style)),
    )
    content = join(element("main", body), element("script", Markup(script)))
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>{content}</body>\n</html>\n'


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _section(name: str, title: str, *content: str) -> Markup:
    return element("section", element("h2", title), *content, id=name)


def _scrolling(name: str, content: Markup) -> Markup:
    """What may be wider than the page scrolls by itself, by keyboard too."""
    return element("div", content, class_="scrolling", role="region", aria_label=name, tabindex="0")


# --- Head -------------------------------------------------------------------------------------------------------------


def _head(models: str, runs: Sequence[Run], gaps: Sequence[_Gap]) -> Markup:
    parts = [element("p", "gapbench", class_="kind"), element("h1", models)]
    if not runs:
        return element("header", *parts)
    if gaps:
        parts.append(element("p", "The gap between understanding and drawing", class_="subtitle"))
        judges = dict.fromkeys(str(gap.told["protocol"].get("G_answerer", "the judge")) for gap in gaps)
        explained = (
            "U: the share of questions about real images that the model answers rightly. G: the share of the same "
            f"questions that its drawings of these images' captions satisfy, as judged by {', '.join(judges)}. "
            "gap = U \N{MINUS SIGN} G."
        )
        parts += [element("ul", *map(_headline, gaps), class_="headlines"), element("p", explained, class_="remark")]
    head = [element("th", name, scope="col") for name in ("run", "model", "started", "responses", "tasks")]
    rows = [
        element(
            "tr",
            element("th", run.folder.resolve().name, scope="row"),
            element("td", str(run.results["model"])),
            element("td", str(run.manifest.get("started", "")).replace("T", " ").replace("Z", " UTC")),
            element("td", f"{sum(told['done'] for told in run.tasks.values()):,}"),
            element("td", ", ".join(run.tasks)),
        )
        for run in runs
    ]
    table = element("table", element("thead", element("tr", *head)), element("tbody", *rows), class_="words")
    return element("header", *parts, _scrolling("runs", table))


def _headline(gap: _Gap) -> Markup:
    name = element("b", gap.name)
    if not gap.metrics:
        return element("li", name, element("span", "no question counts yet"))
    u, g, width = (gap.metrics[measure] for measure in ("U", "G", "gap"))
    figures = [
        element("span", element("i", label), " ", figure)
        for label, figure in (
            ("U", charts.number(u["value"])),
            ("G", charts.number(g["value"])),
            ("gap", join(element("strong", charts.number(width["value"])), " ", _interval_of(width))),
        )
    ]
    done, expected = gap.told["done"], gap.told["expected"]
    partial = [element("span", f"partial: {done:,} of {expected:,} items")] if done != expected else []
    return element("li", name, *figures, *partial)


def _interval_of(told: Mapping[str, Any]) -> Markup:
    return charts.interval(told["low"], told["high"])


# --- Tables -----------------------------------------------------------------------------------------------------------

_SIGNS = "\N{DAGGER}\N{DOUBLE DAGGER}\N{SECTION SIGN}\N{PILCROW SIGN}"
_ENDS = {"higher": ("\N{UPWARDS ARROW}", "higher is better"), "lower": ("\N{DOWNWARDS ARROW}", "lower is better")}


def _table(table: Table) -> Markup:
    head = [element("th", table.label, scope="col"), *map(_column, table.columns)]
    signs = dict(zip(reported_by(table), cycle(_SIGNS), strict=False))
    measured = [_table_row(row, "") for row in table.rows if not row.source]
    reported = [_table_row(row, signs[row.source]) for row in table.rows if row.source]
    bodies = [element("tbody", *measured)] if measured else []
    if reported:
        apart = element("th", "reported", colspan=str(len(head)), scope="rowgroup")
        bodies.append(element("tbody", element("tr", apart), *reported, class_="reported"))
    content = element("table", element("thead", element("tr", *head)), *bodies)
    told = [f"{sign} Reported by {source}" for source, sign in signs.items()]
    notes = [element("li", note) for note in (*told, *table.notes)]
    shown = [element("h3", table.title), _scrolling(table.title, content)]
    return element("div", *shown, element("ul", *notes, class_="notes") if notes else "", class_="table")


def _column(column: Column) -> Markup:
    if not column.better:
        return element("th", column.name, scope="col")
    arrow, meaning = _ENDS[column.better]
    return element("th", column.name, "\N{NO-BREAK SPACE}", element("abbr", arrow, title=meaning), scope="col")


def _table_row(row: Row, sign: str) -> Markup:
    signed = [element("sup", sign)] if sign else []
    return element("tr", element("th", row.label, *signed, scope="row"), *map(_cell, row.cells))


def _cell(cell: Figure | str | None) -> Markup:
    if cell is None:
        return element("td", "\N{EN DASH}", class_="nothing")
    if isinstance(cell, str):
        return element("td", cell)
    value = charts.number(cell.value, cell.digits)
    told = {"best": element("b", value), "tied": element("u", value), "": escaped(value)}[cell.mark]
    if cell.low is None or cell.high is None:
        return element("td", told)
    return element("td", told, " ", charts.interval(cell.low, cell.high, cell.digits))


# --- The gap ----------------------------------------------------------------------------------------------------------


def _skills(gaps: Sequence[_Gap]) -> Markup:
    figures = (
        element("article", element("h3", gap.name), _scrolling(f"gap by skill: {gap.name}", charts.dots(gap.rows())))
        for gap in gaps
    )
    return join(charts.legend(), *figures)


def _shares(gaps: Sequence[_Gap]) -> Markup:
    remark = (
        "Of all questions, how many the model answers rightly about the real image (understood), and how many its "
        "drawing satisfies (drawn). gap = p10 \N{MINUS SIGN} p01. A figure of p10 leads to what it counts."
    )
    figures = (
        element(
            "article",
            element("h3", gap.name),
            element(
                "div",
                _scrolling(f"all questions: {gap.name}", charts.fourfold(gap.metrics)),
                _scrolling(f"understood against drawn: {gap.name}", charts.shares(gap.rows(), gap.link)),
                class_="beside",
            ),
        )
        for gap in gaps
    )
    return join(element("p", remark, class_="remark"), *figures)


def _gallery(gaps: Sequence[_Gap], entries: int) -> Markup:
    found = {gap.name: understood_not_drawn(gap.run.records(gap.task), entries) for gap in gaps}
    return cards.gallery(found, {gap.name: gap.run.folder for gap in gaps})


# --- Protocols --------------------------------------------------------------------------------------------------------


def _protocols(runs: Sequence[Run]) -> Markup:
    """Each protocol once, with the runs that followed it."""
    found: dict[tuple[str, str], list[str]] = {}
    protocols = {}
    for run in runs:
        for task, told in run.tasks.items():
            key = task, str(told["fingerprint"])
            found.setdefault(key, []).append(run.label)
            protocols[key] = told["protocol"]
    return each(
        element(
            "details",
            element(
                "summary",
                element("b", task),
                " ",
                element("code", fingerprint),
                *([element("small", " ", ", ".join(labels))] if len(runs) > 1 else []),
            ),
            element("pre", json.dumps(protocols[task, fingerprint], indent=1, ensure_ascii=False)),
        )
        for (task, fingerprint), labels in found.items()
    )


def _versions(runs: Sequence[Run]) -> Markup:
    return each(
        element(
            "details",
            element("summary", element("b", "versions and settings"), " ", run.label),
            element("pre", json.dumps(_settings(run.manifest), indent=1, ensure_ascii=False)),
        )
        for run in runs
    )


def _settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest without what the page tells elsewhere: protocols and counts."""
    told = {name: value for name, value in manifest.items() if name not in ("request", "counts", "schema")}
    request = manifest.get("request", {})
    return told | {name: value for name, value in request.items() if name != "tasks"}
