"""The page: whole in one file, deaf to the net, and whatever a model says stands there as text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import Page, browser
from galleries import EVIL, gap_run, item_records
from leaderboards import run_of, told

from gapbench.report.html import page
from gapbench.report.leaderboard import leaderboard
from gapbench.report.runs import Run
from gapbench.report.table import Column, Figure, Row, Table

SKILLS = ("color", "count", "object")
CARDS = "[...document.querySelectorAll('#cards > article')].filter(card => !card.hidden)"


def records(count: int = 6, **change: Any) -> list[Any]:
    return [
        record
        for n in range(count)
        for record in item_records(f"item-{n}", [(skill, True, n % 3 == k) for k, skill in enumerate(SKILLS)], **change)
    ]


class Parsed(HTMLParser):
    """Tags with their attributes, and the text of the page outside style and script."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._in = "", [""]
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("style", "script"):
            self._in.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._in[-1] == tag:
            self._in.pop()

    def handle_data(self, data: str) -> None:
        if not self._in[-1]:
            self.text += data


def test_it_asks_nothing_of_the_net(tmp_path: Path) -> None:
    content = page([gap_run(tmp_path, records())], [])
    parsed = Parsed(content)
    for tag, attributes in parsed.tags:
        for name in ("src", "href"):
            if value := attributes.get(name):
                assert value.startswith(("data:", "#")), (tag, value)
    assert "url(" not in content
    assert "@import" not in content
    (policy,) = [a["content"] for t, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy


def test_what_others_wrote_stands_there_as_text(tmp_path: Path) -> None:
    run = gap_run(tmp_path, records(prompt=EVIL, answer=EVIL, question=EVIL), label=EVIL)
    table = Table(EVIL, EVIL, [Column(EVIL)], [Row(EVIL, (EVIL,), source=EVIL)], [EVIL])
    plain = Parsed(page([gap_run(tmp_path / "plain", records())], [table]))
    content = page([run], [table])
    found = Parsed(content)
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert [tag for tag, _ in found.tags].count("img") == [tag for tag, _ in plain.tags].count("img") == 6
    assert "onerror" not in {name for _, attributes in found.tags for name in attributes}
    assert found.text.count(EVIL) >= 3 * 12  # question and both answers of each miss


def test_equal_runs_give_equal_pages(tmp_path: Path) -> None:
    runs = [replace(gap_run(tmp_path / name, records()), folder=tmp_path / "a") for name in ("a", "b")]
    assert page(runs[:1], []) == page(runs[1:], [])


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    text = Parsed(page([gap_run(tmp_path, records(9))], [], entries=2)).text
    assert "m: showing 6 of 18 (" in text
    assert "color 2 of 6" in text


def test_a_run_without_its_pictures(tmp_path: Path) -> None:
    found = Parsed(page([gap_run(tmp_path, records(), pictures=False)], []))
    assert "img" not in {tag for tag, _ in found.tags}
    assert found.text.count("no picture of this drawing in the run's folder") == 6


def test_a_drawing_that_failed_says_why(tmp_path: Path) -> None:
    found = Parsed(page([gap_run(tmp_path, item_records("a", [("color", True, False)], error="too dark"))], []))
    assert "not drawn: too dark" in found.text
    assert "nothing was drawn" in found.text


def test_an_older_run_that_did_not_keep_its_questions(tmp_path: Path) -> None:
    text = Parsed(page([gap_run(tmp_path, records(question=None))], [])).text
    assert "question 0 (this run did not write its text down)" in text


def test_runs_without_a_gap_have_tables_alone() -> None:
    run = run_of("m", {"pope": told({"pooled/accuracy": 0.875})})
    found = Parsed(page([run], leaderboard([run])))
    assert {a.get("id") for tag, a in found.tags if tag == "section"} == {"tables", "protocols"}
    assert "Understood" not in found.text


def test_published_tables_alone() -> None:
    found = Parsed(page([], leaderboard([], published=True)))
    assert {a.get("id") for tag, a in found.tags if tag == "section"} == {"tables"}
    assert "HermesFlow" in found.text
    assert found.text.count("reported") >= 5


def test_figures_and_marks() -> None:
    rows = [Row("a", (Figure(0.5, 0.25, 0.75, 2, "best"),)), Row("b", (Figure(-0.25, mark="tied"),)), Row("c", (None,))]
    rows.append(Row("d", (Figure(-0.0001),)))
    content = page([], [Table("T", "model", [Column("gap", "lower")], rows)])
    assert "<b>0.50</b> <small>[0.25, 0.75]</small>" in content
    assert "<u>\N{MINUS SIGN}0.250</u>" in content
    assert "<td>0.000</td>" in content
    assert '<abbr title="lower is better">' in content


# --- In a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def shown(chromium: Page, tmp_path: Path) -> Iterator[str]:
    """The address of a page of two runs, one of whose model answers with markup."""
    runs: list[Run] = [gap_run(tmp_path / "a", records(), label="first")]
    runs.append(gap_run(tmp_path / "b", records(answer=EVIL, prompt=EVIL, question=EVIL), label=EVIL))
    file = tmp_path / "page.html"
    file.write_text(page(runs, leaderboard(runs)), encoding="utf-8")
    chromium.complaints.clear()
    yield file.as_uri()
    assert chromium.complaints == []


def test_it_opens_without_a_complaint(chromium: Page, shown: str) -> None:
    chromium.open(shown)
    assert chromium.run(f"{CARDS}.length") == 12
    assert chromium.run("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert chromium.run("document.querySelectorAll('table').length") >= 4
    assert chromium.run("document.getElementById('status').textContent") == "Showing 24 of 24"


def test_the_filters_work(chromium: Page, shown: str) -> None:
    chromium.open(shown)
    chromium.run("document.querySelector('[data-filter=skill][data-value=count]').click()")
    assert chromium.run("location.hash") == "#skill=count"
    assert chromium.run(f"{CARDS}.length") == 8  # of each run's six items two draw the count rightly
    visible = "[...document.querySelectorAll('#cards li')].filter(row => !row.hidden && !row.closest('article').hidden)"
    assert set(chromium.run(f"{visible}.map(row => row.dataset.skills)")) == {"count"}
    assert chromium.run("document.querySelector('[data-value=count]').getAttribute('aria-pressed')") == "true"
    assert chromium.run("document.querySelector('[data-filter=skill]').getAttribute('aria-pressed')") == "false"
    chromium.run("document.querySelector('[data-filter=run][data-value=first]').click()")
    assert chromium.run(f"{CARDS}.map(card => card.dataset.run)") == ["first"] * 4
    chromium.run("document.querySelector('[data-filter=skill][data-value=\"\"]').click()")
    search = (
        "(() => { const s = document.getElementById('search'); s.value = '%s'; s.dispatchEvent(new Event('input')) })()"
    )
    chromium.run(search % "saw COUNT")
    assert chromium.run(f"{CARDS}.length") == 4
    chromium.run(search % "nowhere")
    assert chromium.run(f"{CARDS}.length") == 0
    assert chromium.run("document.getElementById('status').textContent") == "0 match, of 12 on this page and 12 in all"


def test_an_address_holds_a_view(chromium: Page, shown: str) -> None:
    chromium.open(f"{shown}#skill=object&run=first")
    assert chromium.run(f"{CARDS}.length") == 4
    chromium.run("document.querySelectorAll('td.share a')[0].click()")
    assert chromium.run("location.hash") == "#skill=&run=first"
    assert chromium.run(f"{CARDS}.length") == 6


@pytest.mark.parametrize("width", [360, 1200])
def test_it_is_no_wider_than_its_window(chromium: Page, shown: str, width: int) -> None:
    chromium.open(shown)
    chromium.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    try:
        assert chromium.run("document.documentElement.scrollWidth <= innerWidth")
        assert chromium.run("innerWidth") == width
    finally:
        chromium.call("Emulation.clearDeviceMetricsOverride")


def test_markup_of_a_model_shows_as_text(chromium: Page, shown: str) -> None:
    chromium.open(f"{shown}#skill=color")
    assert chromium.run("document.querySelectorAll('script').length") == 1
    said = chromium.run(f"{CARDS}.filter(card => card.dataset.run !== 'first')[0].querySelector('dd').textContent")
    assert said == EVIL
    assert "<script>" in re.sub(r"\s+", " ", chromium.run("document.body.innerText"))
