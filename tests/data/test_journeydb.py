"""JourneyDB's records, regular and irregular, and samples of its prompts."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import journeydb as layout

from gapbench.data import journeydb
from gapbench.data.journeydb import QUESTIONS, read_journeydb, sample
from gapbench.homologous import HomologousQuestion
from gapbench.records import InputError

STYLE = HomologousQuestion("What is the mood?", "Calm", "scene", ("Calm", "Wild"), "style")
CONTENT = HomologousQuestion("What is drawn?", "shapes", "other", ("shapes", "dogs", "a city"), "content")


def read(root: Path, **more: Any) -> tuple[list, dict[str, int]]:
    left_out: Counter[str] = Counter()
    return list(read_journeydb(root, "valid", **more).read(left_out)), dict(left_out)


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_record_by_hand(tmp_path: Path) -> None:
    found, left_out = read(layout.write(tmp_path, [layout.record(0), layout.record(1, "prompt 0 --ar 2:3")]))
    assert left_out == {}
    first, second = found
    assert (first.id, first.caption) == ("000/image-0", "Caption 0.")
    assert first.questions == second.questions == (STYLE, CONTENT)
    assert first.picture.open().size == (96, 96)
    assert first.cluster == second.cluster
    assert "prompt 0" not in first.cluster


def test_only_the_first_image_of_each_prompt_is_asked_about(tmp_path: Path) -> None:
    rows = [layout.record(0, "p"), layout.record(1, "q"), layout.record(2, "p"), layout.record(3, "r")]
    data = read_journeydb(layout.write(tmp_path, rows), "valid")
    for _ in range(2):
        assert [item.id[-1] for item in data] == ["0", "1", "3"]


IRREGULAR = [
    ("{", "records that are not JSON"),
    ('{"img_path": "\\ud800"}', "records that are not JSON"),
    ("[]", "records without an image path"),
    (layout.record(1, img_path=...), "records without an image path"),
    (layout.record(1, img_path="../valid/imgs/000/image-1.jpg"), "records whose image path leads out of imgs/"),
    (layout.record(1, img_path="/000/image-1.jpg"), "records whose image path leads out of imgs/"),
    (layout.record(1, img_path="./"), "records whose image path leads out of imgs/"),
    (layout.record(1, img_path="./001/image-1.jpg"), "records whose image is not there"),
    (layout.record(1, ""), "records without a prompt"),
    (layout.record(1, Task2=...), "records without a caption"),
    (layout.record(1, Task2={"Caption": " "}), "records without a caption"),
    (layout.record(1, Task2="A caption."), "records without a caption"),
]


@pytest.mark.parametrize(("row", "reason"), IRREGULAR)
def test_irregular_records_are_left_out_and_counted(tmp_path: Path, row: Any, reason: str) -> None:
    found, left_out = read(layout.write(tmp_path, [layout.record(0), row, layout.record(2)]))
    assert [item.id[-1] for item in found] == ["0", "2"]
    assert left_out == {reason: 1}


NO_STYLE, NO_CONTENT = (f"records without a list of {kind} questions" for kind in ("style", "content"))
NO_QUESTION = "records without a usable question"


@pytest.mark.parametrize(
    ("task", "questions", "reasons"),
    [
        (..., 0, {NO_STYLE: 1, NO_CONTENT: 1, NO_QUESTION: 1}),
        ([], 0, {NO_STYLE: 1, NO_CONTENT: 1, NO_QUESTION: 1}),
        ({QUESTIONS["style"]: [], QUESTIONS["content"]: []}, 0, {NO_STYLE: 1, NO_CONTENT: 1, NO_QUESTION: 1}),
        ({QUESTIONS["style"]: [layout.STYLE]}, 1, {NO_CONTENT: 1}),
        (
            {QUESTIONS["content"]: [layout.CONTENT, "?"], QUESTIONS["style"]: {}},
            1,
            {NO_STYLE: 1, "questions without a text": 1},
        ),
    ],
)
def test_missing_and_empty_lists(tmp_path: Path, task: Any, questions: int, reasons: dict[str, int]) -> None:
    found, left_out = read(layout.write(tmp_path, [layout.record(0), layout.record(1, Task3=task)]))
    assert [len(item.questions) for item in found] == [2, questions][: 1 + bool(questions)]
    assert left_out == reasons


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Question": ...}, "without a text"),
        ({"Question": "."}, "without a text"),
        ({"Options": ...}, "without readable options"),
        ({"Options": "A: shapes, B: dogs"}, "without readable options"),
        ({"Options": {"A": "shapes", "B": None}}, "without readable options"),
        ({"Options": ["shapes", ""]}, "without readable options"),
        ({"Options": {"A": "shapes"}}, "with less than two options"),
        ({"Options": ["A: shapes", "B: Shapes."]}, "with the same option twice"),
        ({"Options": {"A": "shapes", "a": "dogs"}}, "with the same option twice"),
        ({"Answer": ...}, "without an answer"),
        ({"Answer": ["A"]}, "without an answer"),
        ({"Answer": "D"}, "whose answer is none of their options"),
        ({"Answer": "cats"}, "whose answer is none of their options"),
        ({"Answer": "B: shapes"}, "whose answer is none of their options"),
    ],
)
def test_irregular_questions_are_left_out_and_counted(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    found, left_out = read(layout.write(tmp_path, [layout.asking(0, **changes)]))
    assert [item.questions for item in found] == [(STYLE,)]
    assert left_out == {f"questions {reason}": 1}


@pytest.mark.parametrize(
    ("options", "answer", "choices", "right"),
    [
        ({"A": "shapes", "B": "dogs"}, "B", ("shapes", "dogs"), "dogs"),
        ({"a": "shapes", "b": "dogs"}, "(b)", ("shapes", "dogs"), "dogs"),
        ({"A": "A: shapes", "B": "B: dogs"}, "B: dogs", ("shapes", "dogs"), "dogs"),
        (["shapes", "dogs"], "Dogs.", ("shapes", "dogs"), "dogs"),
        (["A) shapes", "B) dogs"], "b", ("shapes", "dogs"), "dogs"),
        (["A. Lincoln", "Z. Deschanel"], "A", ("A. Lincoln", "Z. Deschanel"), "A. Lincoln"),
        ({"A": "B", "B": "A"}, "A", ("B", "A"), "B"),
    ],
)
def test_forms_of_options_and_answers(
    tmp_path: Path, options: Any, answer: str, choices: tuple[str, ...], right: str
) -> None:
    found, left_out = read(layout.write(tmp_path, [layout.asking(0, Options=options, Answer=answer)]))
    assert left_out == {}
    assert (found[0].questions[1].choices, found[0].questions[1].answer) == (choices, right)


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_archive_holds_what_the_file_does(tmp_path: Path) -> None:
    rows = [layout.record(n) for n in range(3)] + ["{"]
    plain = read(layout.write(tmp_path / "plain", rows))
    packed = read(layout.write(tmp_path / "hub" / "data", rows, packed=True).parent)
    assert [[(h.id, h.questions) for h in found] for found, _ in (plain, packed)] == [
        [(f"000/image-{n}", (STYLE, CONTENT)) for n in range(3)]
    ] * 2
    assert plain[1] == packed[1]


def test_a_byte_order_mark_and_other_line_ends(tmp_path: Path) -> None:
    file = (
        layout.write(tmp_path, [layout.record(0), layout.record(1, "one\u2028prompt")])
        / "valid/valid_anno_repath.jsonl"
    )
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n\r\n"))
    found, left_out = read(tmp_path)
    assert (len(found), left_out) == (2, {})


def test_a_torn_archive_is_told(tmp_path: Path) -> None:
    rows = [layout.record(n, f"{random.Random(n).random()}") for n in range(400)]
    file = layout.write(tmp_path, rows, packed=True) / "valid/valid_anno_repath.jsonl.tgz"
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"tgz: cannot be read \(.*\); download it again"):
        read(tmp_path)
    file.write_bytes(b"no archive at all")
    with pytest.raises(InputError, match="tgz: cannot be read"):
        read(tmp_path)


def test_data_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither valid/valid_anno_repath\.jsonl nor"):
        read_journeydb(tmp_path, "valid")
    with pytest.raises(InputError, match="--split test's answers are held back; choose valid or train"):
        read_journeydb(tmp_path, "test")
    with pytest.raises(InputError, match="--split dev: there is no such split; choose valid or train"):
        read_journeydb(tmp_path, "dev")
    layout.write(tmp_path, [layout.record(0), "{"], images=False)
    with pytest.raises(
        InputError, match=r"no usable record in it \(1 records whose image is not there, 1 records that"
    ):
        read(tmp_path)
    assert len(read(tmp_path, pictures=False)[0]) == 1
    layout.write(tmp_path, [], split="train")
    with pytest.raises(InputError, match="it is empty"):
        list(read_journeydb(tmp_path, "train"))


# --- samples ----------------------------------------------------------------------------------------------------------

PROMPTS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=20)


@given(PROMPTS, st.integers(1, 10), st.integers(0, 3), st.randoms(use_true_random=False))
def test_a_sample_depends_on_names_and_seed_alone(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str], size: int, seed: int, rng: random.Random
) -> None:
    root = tmp_path_factory.mktemp("journeydb")
    rows = [layout.record(number, prompt) for number, prompt in enumerate(prompts)]

    def chosen(rows: list, size: int) -> list[str]:
        found = sample(read_journeydb(layout.write(root, rows), "valid"), size, seed)
        assert found.prompts == len(set(prompts))
        return [item.id for item in found.items]

    first = chosen(rows, size)
    assert len(first) == min(size, len(set(prompts)))
    assert len({prompts[int(name.rpartition("-")[2])] for name in first}) == len(first)
    assert chosen(rng.sample(rows, len(rows)), size) == first
    assert chosen(rows, size + 1)[: len(first)] == first


def test_prompts_and_their_images_are_chosen_evenly(tmp_path: Path) -> None:
    prompts = "aaaabcdefg"  # one prompt with four images, six with one
    data = read_journeydb(layout.write(tmp_path, [layout.record(n, p) for n, p in enumerate(prompts)]), "valid")
    counts = Counter(sample(data, 1, seed).items[0].id[-1] for seed in range(700))
    for name in "456789":
        assert 60 < counts[name] < 145  # 100 expected, standard deviation 9.3
    for name in "0123":
        assert 8 < counts[name] < 45  # 25 expected, standard deviation 4.9


def test_an_image_that_cannot_be_decoded_leaves_its_prompt_out(tmp_path: Path) -> None:
    root = layout.write(tmp_path, [layout.record(n) for n in range(3)] + ["{"])
    torn = root / "valid/imgs/000/image-1.jpg"
    torn.write_bytes(torn.read_bytes()[:200])
    found = sample(read_journeydb(root, "valid"), 3, 0)
    assert sorted(item.id[-1] for item in found.items) == ["0", "2"]
    assert found.left_out == {"records that are not JSON": 1, "records whose image cannot be decoded": 1}


def test_progress_is_told_in_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journeydb, "_MEGABYTE", 1000)
    data = read_journeydb(layout.write(tmp_path, [layout.record(n % 20, str(n)) for n in range(60)]), "valid")
    steps: list[int] = []
    sample(data, 1, 0, steps.append)
    assert sum(steps) == data.megabytes > 20
