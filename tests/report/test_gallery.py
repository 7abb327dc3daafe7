"""Which drawings are shown of what is understood and not drawn, and how they are made small."""

from __future__ import annotations

import io
import random
from dataclasses import replace
from pathlib import Path

import pytest
from galleries import gap_run, item_records
from PIL import Image

from gapbench.records import Record
from gapbench.report.gallery import THUMBNAIL, thumbnail, understood_not_drawn


def misses(records: list[Record], per_skill: int = 40) -> dict[str, list[int]]:
    return {
        drawing.record.item: [miss.number for miss in drawing.misses]
        for drawing in understood_not_drawn(records, per_skill).drawings
    }


def test_a_miss_is_understood_and_judged_not_drawn() -> None:
    asked = [("color", True, False), ("color", True, True), ("count", False, False), ("count", True, None)]
    assert misses(item_records("a", asked)) == {"a": [0]}
    (drawing,) = understood_not_drawn(item_records("a", asked), 40).drawings
    (miss,) = drawing.misses
    assert (miss.skills, miss.question, miss.answer) == (("color",), "Is it red?", "yes")
    assert (miss.said, miss.expected) == ("saw color", "yes")
    assert misses(item_records("a", [("color", True, True)])) == {}


def test_a_drawing_that_failed_is_missed() -> None:
    records = item_records("a", [("color", True, False)], error="too dark")
    (drawing,) = understood_not_drawn(records, 40).drawings
    assert (drawing.record.error, drawing.misses[0].said) == ("too dark", None)


def test_some_of_each_skill_are_shown_and_all_are_counted() -> None:
    records = [r for n in range(9) for r in item_records(f"i{n}", [("color", True, False), ("count", n < 2, False)])]
    found = understood_not_drawn(records, 3)
    assert found.found == {"": 11, "color": 9, "count": 2}
    assert found.shown == {"": 5, "color": 3, "count": 2}
    assert len(found.drawings) <= 5


def test_the_choice_depends_on_items_alone() -> None:
    records = [r for n in range(20) for r in item_records(f"i{n}", [("color", True, False)])]
    first = misses(records, 4)
    shuffled = random.Random(0).sample(records, len(records))
    assert list(misses(shuffled, 4).items()) == list(first.items())
    assert list(misses(records, 7))[:4] == list(first)
    assert list(first) != sorted(f"i{n}" for n in range(20))[:4]


def test_runs_without_the_questions_text() -> None:
    (drawing,) = understood_not_drawn(item_records("a", [("color", True, False)], question=None), 40).drawings
    assert drawing.misses[0].question is None


def test_of_weighed_choices_the_chosen_one_is_the_answer() -> None:
    real, *others = item_records("a", [("color", True, False)], answer="red")
    weighed = replace(real, response="[[-0.5, 1, true], [-2.0, 1, false]]", details={**real.details, "said": "red"})
    spoken = replace(real, response="a bright red", details={**real.details, "said": "red"})
    for record, answer in ((weighed, "red"), (spoken, "a bright red")):
        (drawing,) = understood_not_drawn([record, *others], 40).drawings
        assert drawing.misses[0].answer == answer


def test_a_thumbnail_is_small_and_keeps_its_shape(tmp_path: Path) -> None:
    records = item_records("a", [("color", True, False)])
    run = gap_run(tmp_path, records)
    drawing = next(record for record in records if record.part == "drawn")
    with Image.open(io.BytesIO(thumbnail(run.folder, drawing))) as small:
        assert (small.format, small.size) == ("WEBP", (THUMBNAIL, 171))
        red, green, blue = small.convert("RGB").getpixel((9, 9))
        assert red > 240
        assert max(green, blue) < 20


@pytest.mark.parametrize("path", ["../outside.png", "/etc/hostname", "images/gap/none.png", "images", "broken.png"])
def test_what_is_no_drawing_of_the_run_is_not_read(tmp_path: Path, path: str) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "outside.png")
    folder = tmp_path / "run"
    records = item_records("a", [("color", True, False)])
    gap_run(folder, records)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    drawing = replace(next(record for record in records if record.part == "drawn"), response=path)
    with pytest.raises(OSError, match=r"."):
        thumbnail(folder, drawing)
