from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapbench.records import InputError
from hermesflow.records import CaptionCandidate, ImageCandidate, Pair, Preference
from hermesflow.schedule import frequency, learning_rate, reweighted, visits, with_weight

CAPTION, IMAGE = CaptionCandidate("", (1,), True, 1.0, None, 1.0), ImageCandidate((1,), 0, (), 1.0)
CAPTIONS, IMAGES = Preference(CAPTION, CAPTION), Preference(IMAGE, IMAGE)


def pair(name: str, understanding: float = 1.0, generation: float = 1.0, **sides: None) -> Pair:
    given = {"captions": CAPTIONS, "images": IMAGES, **sides}
    return Pair(name, name, "", (), (1,), **given, understanding_weight=understanding, generation_weight=generation)


def test_learning_rate_by_hand() -> None:
    rates = [learning_rate(step, 6, 8.0, 0.5) for step in range(6)]
    assert rates[:3] == pytest.approx([8 / 3, 16 / 3, 8.0])
    assert rates[3:] == pytest.approx([8 * 0.5 * (1 + c) for c in (2**-0.5, 0.0, -(2**-0.5))])


@given(steps=st.integers(2, 3000), warm_up=st.floats(0, 0.999))
def test_the_peak_is_reached_before_the_end(steps: int, warm_up: float) -> None:
    rates = [learning_rate(step, steps, 2e-5, warm_up) for step in range(steps)]
    top = rates.index(max(rates))
    assert rates[top] == 2e-5
    assert top < steps - 1
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates) > 0


@given(count=st.integers(1, 9), total=st.integers(1, 40), cut=st.integers(0, 40), seed=st.integers(0, 3))
def test_with_equal_weights_each_pass_has_each_pair_once(count: int, total: int, cut: int, seed: int) -> None:
    order = visits([2.0] * count, total, seed)
    assert len(order) == total
    for start in range(0, total - count + 1, count):
        assert sorted(order[start : start + count]) == [(n, start // count) for n in range(count)]
    assert visits([2.0] * count, cut, seed)[: min(cut, total)] == order[: min(cut, total)]


@given(weights=st.lists(st.floats(0.01, 5), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_a_pass_has_each_pair_as_often_as_its_weight_says(weights: list[float], seed: int) -> None:
    times = Counter(visit.pair for visit in visits(weights, len(weights), seed))
    for number, weight in enumerate(weights):
        wanted = len(weights) * weight / sum(weights)
        assert wanted - 1 < times[number] < wanted + 1
    order = visits(weights, 200 * len(weights), seed)
    share = sum(visit.pair == 0 for visit in order) / len(order)
    assert share == pytest.approx(weights[0] / sum(weights), abs=0.08)


def test_visits_of_a_pair_are_numbered_and_orders_differ() -> None:
    order = visits([1, 3], 400, 0)
    for number in (0, 1):
        assert [v.visit for v in order if v.pair == number] == list(range(sum(v.pair == number for v in order)))
    assert visits([1] * 9, 18, 0)[:9] != visits([1] * 9, 18, 0)[9:]
    assert visits([1] * 9, 9, 0) != visits([1] * 9, 9, 1)


def test_sides_without_weight_are_left_out_and_counted() -> None:
    both, drawn, neither = pair("a"), pair("b", understanding=0), pair("c", 0, 1, images=None)
    kept, without = with_weight([both, drawn, neither], product=False)
    assert kept == [both, replace(drawn, captions=None)]
    assert without == {"captions": 2, "drawings": 0, "pairs": 1}


@pytest.mark.parametrize(
    ("pairs", "product", "told"),
    [
        ([], False, "no pairs to train on: 0 given"),
        ([pair("a", 0, 0)], False, "no pairs to train on: 1 given, none has a side with a weight above 0"),
        ([pair("a"), pair("a")], False, "pair a is there twice"),
        ([pair("a", -1.0)], False, "pair a: a weight is -1.0"),
        ([pair("a", float("nan"))], False, "pair a: a weight is nan"),
        ([pair("a"), pair("b", images=None)], True, "pair b: product needs both sides"),
    ],
)
def test_pairs_that_cannot_be_trained_on(pairs: list[Pair], product: bool, told: str) -> None:
    with pytest.raises(InputError, match=told):
        with_weight(pairs, product)


def test_what_a_pair_gets_by_coming_often_is_taken_from_its_weights() -> None:
    pairs = [pair("a", 3.0, 1.0), pair("b", 5.0, 1.0, captions=None), pair("c", 0.5, 2.5)]
    often = [frequency(each) for each in pairs]
    assert often == [2.0, 1.0, 1.5]
    for before, after, share in zip(pairs, reweighted(pairs, often), often, strict=True):
        times = len(pairs) * share / sum(often)  # in a pass, on average
        assert times * after.understanding_weight == pytest.approx(before.understanding_weight)
        assert times * after.generation_weight == pytest.approx(before.generation_weight)
