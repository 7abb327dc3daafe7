"""The gap's numbers: exact values by hand, the identities that must hold, and who counts where something failed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapbench.records import (
    Record,
)
from gapbench.tasks import gap
from gapbench.tasks.gap import by_skill, metrics, rows

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


def told(item: str, number: int, kind: str, gold: str, said: Sequence[str | None]) -> list[Record]:
    """The records of one question of one item with its drawing: model and judge on the picture, then on the drawing."""
    U_self, U_judge, G_self, G_judge = said
    judge = {"said": U_judge, "right": U_judge == gold}
    details = {"answer": gold, "said": U_self, "judge": judge} | ({"type": kind} if kind else {})
    cluster = item[0]
    return [
        Record("gap", f"{item}/{number}", cluster, ("other",), 0, "", float(U_self == gold), details, "real"),
        Record("gap", f"{item}/{number}@0", cluster, ("other",), 0, "", float(G_self == gold), {"said": G_self}, "own"),
        Record(
            "gap", item, cluster, (), 0, "", 0.0, {"questions": [{"said": G_judge, "right": G_judge == gold}]}, "drawn"
        ),
    ]


def test_shares_of_yes_by_hand() -> None:
    records = [
        *told("a", 0, "", "yes", ("yes", "Yes.", "no", "no")),
        *told("b", 0, "", "no", ("yes", "cannot tell", "yes", "no")),
        *told("c", 0, "", "yes", (None, "yes", None, "yes")),
        *told("d", 0, "", "red", ("yes", "yes", "yes", "yes")),  # not to be answered with yes or no
    ]
    found = metrics(records)
    shares = {name: (e.value, e.n) for name, e in found.items() if name.startswith("yes/")}
    assert shares == {
        "yes/gold": (pytest.approx(2 / 3), 3),
        "yes/U_self": (pytest.approx(2 / 3), 3),
        "yes/U_judge": (pytest.approx(2 / 3), 3),
        "yes/G_judge": (pytest.approx(1 / 3), 3),
        "yes/G_self": (pytest.approx(1 / 3), 3),
    }
    assert not any(name.startswith("yes/") for name in metrics(records[-3:]))


def test_types_are_told_apart_by_hand() -> None:
    records = [
        *told("a", 0, "style", "x", ("x", "x", "x", "y")),
        *told("b", 0, "content", "x", ("x", "x", "x", "x")),
        *told("c", 0, "content", "x", ("y", "x", "x", "x")),
        *told("d", 0, "", "x", ("y", "y", "y", "y")),
    ]
    found = metrics(records)
    values = {name: (e.value, e.n) for name, e in found.items() if name.startswith("type/")}
    assert {name.split("/")[1] for name in values} == {"style", "content"}
    assert [values[f"type/style/{m}"] for m in ("U", "G", "gap", "p10")] == [(1, 1), (0, 1), (1, 1), (1, 1)]
    assert [values[f"type/content/{m}"] for m in ("U", "G", "gap", "p01")] == [(0.5, 2), (1, 2), (-0.5, 2), (0.5, 2)]
    assert set(by_skill(found)) == {"other"}


def test_macro_is_over_items_and_intervals_over_clusters() -> None:
    """Two images of one prompt are two items and one cluster."""
    records = [
        *told("a1", 0, "", "x", ("x", "x", "x", "x")),
        *told("a2", 0, "", "x", ("y", "x", "x", "x")),
        *(record for record in told("a2", 1, "", "x", ("y", "x", "x", "x")) if record.part != "drawn"),
    ]
    drawn = next(i for i, record in enumerate(records) if record.part == "drawn" and record.item == "a2")
    records[drawn] = replace(records[drawn], details={"questions": [{"said": "x", "right": True}] * 2})
    found = metrics(records)
    assert (found["U"].value, found["macro/U"].value) == (pytest.approx(1 / 3), 0.5)
    assert (found["U"].n, found["U"].clusters) == (3, 1)


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
