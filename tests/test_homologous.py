"""homologous.jsonl: what is written is read again, and every fault is named with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gapbench import homologous
from gapbench.homologous import Homologous, HomologousQuestion, normal, read, write
from gapbench.records import InputError, Picture
from gapbench.skills import SKILLS

COUNT = {"question": "How many dogs?", "choices": ["1", "2"], "answer": "2", "type": "counting"}
ITEM = {"id": "a/1", "image": "images/a.png", "caption": "Two dogs.", "questions": [COUNT]}


def folder_of(path: Path, *lines: Any, end: str = "\n") -> Path:
    (path / "images").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 1), (200, 0, 0)).save(path / "images/a.png")
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    (path / homologous.FILE).write_bytes(end.join([*texts, ""]).encode())
    return path


def with_question(**changes: Any) -> dict[str, Any]:
    question = {key: value for key, value in {**COUNT, **changes}.items() if value is not ...}
    return {**ITEM, "questions": [question]}


# --- reading ----------------------------------------------------------------------------------------------------------


def test_an_item_by_hand(tmp_path: Path) -> None:
    free = {"question": "What is on the sign?", "answer": "stop", "skill": "text"}
    folder = folder_of(
        tmp_path, ITEM, {**ITEM, "id": "b", "cluster": "c", "questions": [free, COUNT | {"skill": "other"}]}
    )
    first, second = read(folder)
    assert (first.id, first.cluster, first.caption) == ("a/1", "a/1", "Two dogs.")
    assert first.questions == (HomologousQuestion("How many dogs?", "2", "count", ("1", "2"), "counting"),)
    assert first.picture.open().getpixel((0, 0)) == (200, 0, 0)
    assert second.cluster == "c"
    assert second.questions == (
        HomologousQuestion("What is on the sign?", "stop", "text"),
        HomologousQuestion("How many dogs?", "2", "other", ("1", "2"), "counting"),
    )
    assert read(folder / homologous.FILE) == [first, second]


def test_an_answer_is_spelt_as_its_choice(tmp_path: Path) -> None:
    item = with_question(choices=["Dark  red.", "blue"], answer="dark red")
    assert read(folder_of(tmp_path, item))[0].questions[0].answer == "Dark  red."


def test_marks_and_other_separators(tmp_path: Path) -> None:
    captions = ["one\u2028line", "byte mark\ufeff", "two\x85lines"]
    lines = [{**ITEM, "id": str(n), "caption": caption} for n, caption in enumerate(captions)]
    folder = folder_of(tmp_path, *lines, "", end="\r\n")
    file = folder / homologous.FILE
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert [item.caption for item in read(folder)] == captions


@pytest.mark.parametrize(
    ("kind", "skill"),
    [
        ("object", "object"),
        ("human", "object"),
        ("animal", "object"),
        ("animal/human", "object"),
        ("food", "object"),
        ("activity", "action"),
        ("attribute", "other"),
        ("counting", "count"),
        ("color", "color"),
        ("material", "texture"),
        ("spatial", "position"),
        ("location", "scene"),
        ("shape", "shape"),
        ("other", "other"),
        ("style", "scene"),
        ("content", "other"),
    ],
)
def test_every_type_has_a_skill(tmp_path: Path, kind: str, skill: str) -> None:
    (question,) = read(folder_of(tmp_path, with_question(type=kind)))[0].questions
    assert (question.skill, question.type) == (skill, kind)


FAULTS = [
    ("{", "not JSON"),
    ('{"id": "a", "id": "b"}', "a key is there twice"),
    ('{"id": "\\ud800"}', "not JSON .*surrogate"),
    ("[1]", "not a JSON object"),
    ({k: v for k, v in ITEM.items() if k != "id"}, "no 'id'"),
    ({k: v for k, v in ITEM.items() if k != "image"}, "no 'image'"),
    ({k: v for k, v in ITEM.items() if k != "caption"}, "no 'caption'"),
    ({**ITEM, "id": 7}, "id must be a text that is not empty"),
    ({**ITEM, "caption": " "}, "caption must be a text"),
    ({**ITEM, "cluster": ""}, "cluster must be a text"),
    ({**ITEM, "image": "images/b.png"}, r"no image .*images/b\.png"),
    ({**ITEM, "questions": []}, "no questions"),
    ({k: v for k, v in ITEM.items() if k != "questions"}, "no questions"),
    ({**ITEM, "questions": ["Is it?"]}, "question 1: not a JSON object"),
    (with_question(question=...), "question 1: no 'question'"),
    (with_question(answer=...), "question 1: no 'answer'"),
    (with_question(answer=2), "question 1: answer must be a text"),
    (with_question(choices="1, 2"), "choices must be a list of texts"),
    (with_question(choices=[1, 2]), "choices must be a list of texts"),
    (with_question(choices=["2", " ."]), "choices must be a list of texts"),
    (with_question(choices=["2"]), "one choice is none"),
    (with_question(choices=["2", "1", "2"]), "choice '2' is there twice"),
    (with_question(choices=["Two", "two ."], answer="two"), r"choice 'two \.' is there twice"),
    (with_question(answer="3"), "answer '3' is none of the choices '1', '2'"),
    (with_question(type=...), "neither skill nor type"),
    (with_question(type="mood"), "unknown type 'mood'"),
    (with_question(skill="counting"), "unknown skill 'counting'; there are object, count"),
]


@pytest.mark.parametrize(("line", "message"), FAULTS)
def test_faults_name_file_and_line(tmp_path: Path, line: Any, message: str) -> None:
    folder = folder_of(tmp_path, {**ITEM, "id": "first"}, "", line)
    with pytest.raises(InputError, match=rf"{homologous.FILE}:3: .*{message}") as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_an_id_that_is_there_twice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r":2: item 'a/1' is there twice"):
        read(folder_of(tmp_path, ITEM, ITEM))


def test_files_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no items in it"):
        read(folder_of(tmp_path))
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "absent.jsonl")


def test_images_need_not_be_there_where_nothing_is_seen(tmp_path: Path) -> None:
    (item,) = read(folder_of(tmp_path, {**ITEM, "image": "images/b.png"}), pictures=False)
    with pytest.raises(OSError, match=r"b\.png"):
        item.picture.open()


# --- writing ----------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(normal)


@st.composite
def questions(draw: st.DrawFn) -> HomologousQuestion:
    choices = draw(st.one_of(st.just([]), st.lists(TEXT, min_size=2, max_size=4, unique_by=normal)))
    answer = draw(st.sampled_from(choices)) if choices else draw(TEXT)
    kind = draw(st.sampled_from(("", "counting", "style")))
    return HomologousQuestion(draw(TEXT), answer, draw(st.sampled_from(SKILLS)), tuple(choices), kind)


@given(st.lists(st.tuples(TEXT, TEXT, TEXT, st.lists(questions(), min_size=1, max_size=3)), max_size=4))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    folder = tmp_path_factory.mktemp("written") / "new"
    items = [
        Homologous(
            f"{number}{name}",
            Picture(name, lambda n=number: Image.new("RGB", (1, 1), (n, 0, 0))),
            caption,
            tuple(asked),
            cluster,
        )
        for number, (name, caption, cluster, asked) in enumerate(rows)
    ]
    assert write(folder, items) == len(items)
    if not items:
        return
    found = read(folder)
    assert [(h.id, h.caption, h.cluster, h.questions) for h in found] == [
        (h.id, h.caption, h.cluster, h.questions) for h in items
    ]
    assert [h.picture.open().getpixel((0, 0))[0] for h in found] == list(range(len(items)))


def test_images_from_files_are_copied_as_they_are(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), (3, 200, 90)).save(tmp_path / "photo.JPG", quality=70)
    folder = folder_of(tmp_path, {**ITEM, "image": "photo.JPG"})
    write(tmp_path / "copy", read(folder))
    row = json.loads((tmp_path / "copy" / homologous.FILE).read_text())
    assert row["image"] == "images/000000.jpg"
    assert "cluster" not in row
    assert (tmp_path / "copy/images/000000.jpg").read_bytes() == (tmp_path / "photo.JPG").read_bytes()


def test_nothing_is_written_over_and_no_half_is_left(tmp_path: Path) -> None:
    (item,) = read(folder_of(tmp_path, ITEM))
    with pytest.raises(InputError, match=r"homologous\.jsonl is there already; give another folder"):
        write(tmp_path, [item])
    (tmp_path / "images/a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a\.png cannot be opened"):
        write(tmp_path / "broken", [item])
    assert not list((tmp_path / "broken").glob("*.jsonl*")) + list((tmp_path / "broken").glob(".*"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "file", [item])
