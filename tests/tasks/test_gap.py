"""The gap: exact values by hand, the identities that must hold, and who counts where something failed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gapbench.records import Decoding, Failure, Picture, Prompt, Question, Record
from gapbench.tasks import gap
from gapbench.tasks.base import Options
from gapbench.tasks.gap import Gap, Homologous, HomologousQuestion, by_skill, matches, metrics, rows

# --- by hand ----------------------------------------------------------------------------------------------------------


def asked(item: str, number: int, skill: str, u: float, judge: bool | None, seeds: dict[int, float]) -> list[Record]:
    """The records of one question but the drawing's; `seeds` tells whether the model is right about its drawing."""
    real = Record("gap", f"{item}/{number}", item, (skill,), 0, "", u, {"judge": {"right": judge}}, "real")
    own = [Record("gap", f"{item}/{number}@{seed}", item, (skill,), 0, "", g, {}, "own") for seed, g in seeds.items()]
    return [real, *own]


def drawn(item: str, seed: int, *right: bool | None) -> Record:
    return Record("gap", item, item, (), seed, "", 0.0, {"questions": [{"right": r} for r in right]}, "drawn")


HAND = [
    *asked("a", 0, "count", 1.0, False, {0: 1.0}),
    *asked("a", 1, "color", 1.0, True, {0: 0.0}),
    *asked("a", 2, "color", 0.0, False, {0: 0.0}),
    drawn("a", 0, False, True, True),
    *asked("b", 0, "count", 1.0, False, {0: 0.0}),
    drawn("b", 0, False),
]


def values(records: Sequence[Record]) -> dict[str, float]:
    return {name: estimate.value for name, estimate in metrics(records).items()}


def test_values_by_hand() -> None:
    found = values(HAND)
    expected = {
        "gap": 1 / 4,
        "U": 3 / 4,
        "G": 2 / 4,
        "p11": 1 / 4,
        "p10": 2 / 4,
        "p01": 1 / 4,
        "p00": 0,
        "U_judge": 1 / 4,
        "G_self": 1 / 4,
        "answerer_effect": 2 / 4,
        "drawing_loss": -1 / 4,
        "macro/gap": 1 / 2,
        "macro/U": 5 / 6,
        "macro/G": 1 / 3,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert next(iter(found)) == "gap"
    skills = by_skill(found)
    assert skills == {
        "count": {"gap": 1, "U": 1, "G": 0, "p11": 0, "p10": 1, "p01": 0, "p00": 0},
        "color": {"gap": -0.5, "U": 0.5, "G": 1, "p11": 0.5, "p10": 0, "p01": 0.5, "p00": 0},
    }
    assert set(found) == {*expected, *(f"{s}/{m}" for s, measures in skills.items() for m in measures)}


def test_what_is_counted_by_hand() -> None:
    found = metrics(HAND)
    counts = {name: (found[name].n, found[name].clusters) for name in ("gap", "macro/U", "count/gap", "color/p01")}
    assert counts == {"gap": (4, 2), "macro/U": (4, 2), "count/gap": (2, 2), "color/p01": (2, 1)}


def test_several_drawings_of_one_item_are_averaged() -> None:
    seeds = {0: 1.0, 1: 1.0, 5: 1.0, 7: 0.0}
    records = [
        *asked("a", 0, "count", 1.0, True, seeds),
        *asked("a", 1, "count", 0.0, True, seeds),
        *(drawn("a", seed, seed == 0, seed != 7) for seed in seeds),
    ]
    found = values(records)
    wanted = {"U": 0.5, "G": 0.5, "gap": 0, "p11": 0.125, "p10": 0.375, "p01": 0.375, "p00": 0.125, "G_self": 0.75}
    assert {name: found[name] for name in wanted} == wanted
    assert metrics(records)["gap"].n == 2


def test_a_question_that_a_judge_failed_counts_on_no_side() -> None:
    more = [
        *asked("c", 0, "count", 0.0, None, {0: 1.0}),
        *asked("c", 1, "count", 0.0, True, {0: 1.0}),
        drawn("c", 0, True, None),
    ]
    assert rows(HAND + more)[1] == 2
    assert metrics(HAND + more) == metrics(HAND)
    assert metrics(more) == {}
    assert metrics([]) == {}


def test_a_question_counts_only_once_all_its_sides_are_there() -> None:
    for gone in range(len(HAND)):
        left = HAND[:gone] + HAND[gone + 1 :]
        expected = 4 - (3 if HAND[gone].part == "drawn" and HAND[gone].item == "a" else 1)
        assert len(rows(left)[0]) == expected, HAND[gone]
        assert rows(left)[1] == 0
    one_seed_short = [*asked("a", 0, "count", 1.0, True, {0: 1.0}), drawn("a", 0, True), drawn("a", 1, False)]
    assert rows(one_seed_short) == ([], 0)


# --- whatever the records ---------------------------------------------------------------------------------------------

QUESTION = st.tuples(
    st.sampled_from(("object", "count", "color")),
    st.booleans(),
    st.sampled_from((True, True, False, None)),
    st.lists(st.tuples(st.sampled_from((True, False, False, None)), st.booleans()), min_size=2, max_size=2),
)
ITEMS = st.lists(st.lists(QUESTION, min_size=1, max_size=4), min_size=1, max_size=6)


def records_of(items: list) -> list[Record]:
    found = []
    for number, questions in enumerate(items):
        name = f"item/{number}"
        for k, (skill, u, judge, seen) in enumerate(questions):
            found += asked(name, k, skill, float(u), judge, {seed: float(s) for seed, (_, s) in enumerate(seen)})
        found += [drawn(name, seed, *(seen[seed][0] for *_, seen in questions)) for seed in range(2)]
    return found


@settings(max_examples=40)
@given(ITEMS, st.randoms(use_true_random=False))
def test_identities(items: list, rng: random.Random) -> None:
    records = records_of(items)
    found = metrics(records)
    joined, unjudged = rows(records)
    assert len(joined) + unjudged == sum(map(len, items))
    assert bool(found) == bool(joined)
    blocks = [found, *by_skill(found).values()] if found else []
    for block in blocks:
        u, g, difference, p11, p10, p01, p00 = (block[m].value for m in gap.MEASURES)
        assert difference == pytest.approx(u - g, abs=1e-12)
        assert difference == pytest.approx(p10 - p01, abs=1e-12)
        assert (p11 + p10, p11 + p01, p11 + p10 + p01 + p00) == pytest.approx((u, g, 1), abs=1e-12)
        assert all(estimate.low <= estimate.high for estimate in block.values())
    if found:
        split = found["answerer_effect"].value + found["drawing_loss"].value
        assert split == pytest.approx(found["gap"].value, abs=1e-12)
        assert sum(block["U"].n for block in by_skill(found).values()) == found["U"].n == len(joined)
    shuffled = metrics(rng.sample(records, len(records)))
    assert list(shuffled) == list(found)
    for name, estimate in found.items():
        other = shuffled[name]
        assert (other.value, other.low, other.high) == pytest.approx((estimate.value, estimate.low, estimate.high))
        assert (other.n, other.clusters) == (estimate.n, estimate.clusters)


# --- asking and judging -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        ("red", "red", True),
        ("Red.", "red", True),
        ("  RED \n", "red", True),
        ("red .", "red", True),
        ("top  left", "Top left", True),
        ("it is red", "red", False),
        ("re d", "red", False),
        ("3", "three", False),
        ("", "red", False),
        (Failure("red"), "red", False),
    ],
)
def test_matching(said: str | Failure, answer: str, right: bool) -> None:
    assert matches(said, answer) is right


class Judge:
    """Says what it is told of a picture and question; fails where it is told nothing."""

    def __init__(self, **told: str) -> None:
        self.told, self.asked = told, []

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> Iterator[str | Failure]:
        for question in questions:
            (picture,) = question.pictures
            self.asked.append((picture.key, picture.open().getpixel((0, 0)), question.text.split("\n")[0]))
            said = self.told.get(question.text.split("?")[0])
            yield Failure("too many requests") if said is None else said


def picture(red: int) -> Image.Image:
    return Image.new("RGB", (1, 1), (red, 0, 0))


def homologous(judge: Judge, seeds: tuple[int, ...] = (0,)) -> Gap:
    questions = (
        HomologousQuestion("color?", "red", "color", ("red", "blue")),
        HomologousQuestion("count?", "two", "count"),
    )
    data = [
        Homologous(name, Picture(name, lambda n=number: picture(n)), f"caption of {name}", questions)
        for number, name in enumerate(("a", "b/c"))
    ]
    return Gap("gap-test", data, judge, "scripted", "by hand", seeds)


def no_drawings(item: str, seed: int) -> None:
    return None


def test_items_of_the_three_parts() -> None:
    task = homologous(Judge(), seeds=(3, 4))
    real = task.items("real", no_drawings)
    assert [item.id for item in real] == ["a/0", "a/1", "b/c/0", "b/c/1"]
    assert [item.ask.pictures[0].key for item in real] == ["a", "a", "b/c", "b/c"]
    prompts = task.items("drawn", no_drawings)
    assert [item.ask for item in prompts] == [
        Prompt(name, f"caption of {name}", seed) for name in ("a", "b/c") for seed in (3, 4)
    ]
    assert prompts[0].skills == ("count", "color")  # in the order of the table of skills
    own = task.items("own", lambda item, seed: Picture(f"{item} {seed}", lambda: picture(seed)))
    assert [item.id for item in own][:4] == ["a/0@3", "a/1@3", "a/0@4", "a/1@4"]
    assert [item.ask.pictures[0].key for item in own][:4] == ["a 3", "a 3", "a 4", "a 4"]
    for items in (real, prompts, own):
        assert {item.cluster for item in items} == {"a", "b/c"}
        assert len({(item.part, item.id, item.seed) for item in items}) == len(items)
    assert [item.ask.text for item in real] == [item.ask.text for item in own[:2] + own[4:6]]


def test_a_missing_drawing_cannot_be_opened_but_is_asked_about() -> None:
    own = homologous(Judge()).items("own", no_drawings)
    assert len(own) == 4
    with pytest.raises(OSError, match="no drawing"):
        own[0].ask.pictures[0].open()
    assert len({item.ask.pictures[0].key for item in own}) == 2


def test_real_answers_are_judged_beside_the_judges_own() -> None:
    task = homologous(Judge(color="Red.", count="three"))
    items = task.items("real", no_drawings)[:2]
    color, count = task.judge(items, ["blue", "Two."])
    assert (color.score, color.details["judge"]) == (0.0, {"said": "Red.", "right": True})
    assert (count.score, count.details["judge"]) == (1.0, {"said": "three", "right": False})


def test_drawings_are_judged_by_all_their_questions() -> None:
    judge = Judge(color="red", count="three")
    task = homologous(judge, seeds=(0, 1))
    items = task.items("drawn", no_drawings)
    responses = [picture(10), Failure("out of ink"), picture(30), picture(40)]
    judged = task.judge(items, responses)
    assert [j.score for j in judged] == [0.5, 0.0, 0.5, 0.5]
    assert [[q["right"] for q in j.details["questions"]] for j in judged] == [[True, False], [False, False]] + [
        [True, False]
    ] * 2
    # Each drawing is asked about under its own key, and the failed one is not shown.
    assert [pixel[0] for _, pixel, _ in judge.asked] == [10, 10, 30, 30, 40, 40]
    assert len({key for key, *_ in judge.asked}) == 3


def test_a_judge_that_fails_is_not_the_models_fault() -> None:
    task = homologous(Judge(color="red"))
    drawings = task.items("drawn", no_drawings)
    for judgement in task.judge(drawings, [picture(1), picture(2)]):
        assert judgement.score == 1.0  # of the one question that was judged
        assert [q["right"] for q in judgement.details["questions"]] == [True, None]
    real = task.judge(task.items("real", no_drawings), ["red", "two"] * 2)
    assert [j.details["judge"]["right"] for j in real] == [True, None] * 2
    assert real[1].details["judge"]["reason"] == "too many requests"
    silent = replace(task, judge_model=Judge())
    assert [j.score for j in silent.judge(drawings, [picture(1), picture(2)])] == [None, None]
    assert silent.judge(drawings, [Failure("out of ink")] * 2)[0].score == 0.0


def test_the_protocol_names_what_changes_numbers() -> None:
    task = homologous(Judge())
    told = task.protocol()
    for change in ({"seeds": (1,)}, {"judge_name": "other"}, {"source": "other"}):
        assert replace(task, **change).protocol() != told


def test_mini() -> None:
    task = gap.mini(Options(2))
    assert task.seeds == (2,)
    items = task.items("real", no_drawings)
    assert len({item.cluster for item in items}) == 150
    judged = task.judge(items[:40], [item.truth["answer"] for item in items[:40]])
    assert all(j.score == 1.0 and j.details["judge"]["right"] for j in judged)
