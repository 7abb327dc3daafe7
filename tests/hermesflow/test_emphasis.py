"""Weights of pairs: exact values by hand, and what holds whatever was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapbench import stats
from gapbench.records import InputError
from gapbench.report.markdown import markdown
from gapbench.skills import SKILLS
from hermesflow.emphasis import CAP, FLOOR, RULES, bounded, shrink, taught, weigh
from hermesflow.records import CaptionCandidate, ImageCandidate, Pair, Preference

CAPTIONS = Preference(
    CaptionCandidate("a dog", (1,), True, 0.9, 1, 1.0), CaptionCandidate("a cat", (2,), True, 0.1, 1, 1.0)
)
SURE = 1e-6  # half an interval


def estimate(value: float, half: float = SURE, n: int = 100) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": n, "clusters": n}


def cells(p11: float, p10: float, p01: float, half: float = SURE) -> dict[str, Any]:
    values = {"U": p11 + p10, "G": p11 + p01, "p11": p11, "p10": p10, "p01": p01, "p00": 1 - p11 - p10 - p01}
    return {name: estimate(value, half) for name, value in values.items()}


def diagnostics(skills: Mapping[str, Any], overall: Mapping[str, Any], **other: Any) -> dict[str, Any]:
    return {"schema": 1, "run": "run-1", "model": "m", "overall": overall, "skills": skills} | other


def drawings(win: Sequence[bool | None], lose: Sequence[bool | None]) -> Preference[ImageCandidate]:
    return Preference(ImageCandidate((1,), 1, tuple(win), 1.0), ImageCandidate((2,), 2, tuple(lose), 0.0))


def pair(name: str, *skills: str, captions: bool = True, images: bool = True) -> Pair:
    """Its winning drawing is right about everything, its losing one about nothing."""
    drawn = drawings([True] * len(skills), [False] * len(skills))
    return Pair(name, name, "c", skills, (0,), CAPTIONS if captions else None, drawn if images else None)


def weights(pairs: Sequence[Pair]) -> tuple[list[float], list[float]]:
    return [p.understanding_weight for p in pairs], [p.generation_weight for p in pairs]


# Count is understood (0.8) and not drawn; color is drawn more than understood.
TOLD = diagnostics({"count": cells(0.2, 0.6, 0.0), "color": cells(0.4, 0.2, 0.2)}, cells(0.3, 0.4, 0.1))
PAIRS = [pair("a", "count"), pair("b", "color")]


def test_drawings_follow_p10_and_captions_what_is_drawn_or_neither() -> None:
    found = weigh(PAIRS, TOLD, "gap")
    understanding, generation = weights(found.pairs)
    assert generation == pytest.approx([1.5, 0.5], abs=1e-6)  # p10: 0.6 and 0.2
    # (p01 + 1 - U) / 2: (0 + 0.2) / 2 = 0.1 and (0.2 + 0.4) / 2 = 0.3
    assert understanding == pytest.approx([0.5, 1.5], abs=1e-6)


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [("uniform", (1.0, 1.0)), ("understanding", (1.0, 0.0)), ("generation", (0.0, 1.0))],
)
def test_the_other_rules_look_at_nothing(rule: str, wanted: tuple[float, float]) -> None:
    old = [replace(p, understanding_weight=3.0, generation_weight=7.0) for p in PAIRS]
    understanding, generation = weights(weigh(old, TOLD, rule).pairs)
    assert (understanding, generation) == ([wanted[0]] * 2, [wanted[1]] * 2)


def test_each_side_has_mean_1_over_the_pairs_that_have_it() -> None:
    pairs = [*PAIRS, pair("c", "count", captions=False), pair("d", "color", images=False)]
    found = weigh(pairs, TOLD, "gap").pairs
    # drawings: needs 0.6, 0.2, 0.6 over their mean 1.4 / 3; captions: 0.1, 0.3, 0.3 over 0.7 / 3
    assert [p.generation_weight for p in found[:3]] == pytest.approx([9 / 7, 3 / 7, 9 / 7], abs=1e-6)
    assert [found[i].understanding_weight for i in (0, 1, 3)] == pytest.approx([3 / 7, 9 / 7, 9 / 7], abs=1e-6)
    assert found[2].understanding_weight == found[3].generation_weight == 1.0


def test_a_drawing_is_weighed_by_what_tells_it_from_the_worse_one() -> None:
    both = replace(pair("a", "count", "color", "count"), images=drawings([True, True, False], [True, False, True]))
    assert taught(both) == ("color",)
    found = weigh([both, pair("b", "count")], TOLD, "gap").pairs
    assert [p.generation_weight for p in found] == pytest.approx([0.5, 1.5], abs=1e-6)
    # the captions of all three questions: (0.1 + 0.3 + 0.1) / 3 = 1/6 against 0.1
    assert [p.understanding_weight for p in found] == pytest.approx([1.25, 0.75], abs=1e-6)
    unknown = replace(both, images=drawings([None, True, True], [False, None, True]))
    assert taught(unknown) == both.skills
    assert taught(replace(both, images=None)) == both.skills


def test_what_was_not_measured_counts_as_all() -> None:
    pairs = [pair("a", "count"), pair("b", "color"), pair("c", "texture"), pair("d")]
    _, generation = weights(weigh(pairs, TOLD, "gap").pairs)
    assert generation == pytest.approx([1.5, 0.5, 1.0, 1.0], abs=1e-6)  # needs 0.6, 0.2, 0.4, 0.4


# --- Benchmarks -------------------------------------------------------------------------------------------------------


def sides(**values: float) -> dict[str, Any]:
    return {side: estimate(value) for side, value in values.items()}


def test_without_a_table_understanding_and_drawing_count_as_independent() -> None:
    skills = {"count": sides(U=0.8, G=0.25), "color": sides(U=0.5, G=0.6)}
    found = weigh(PAIRS, diagnostics(skills, sides(U=0.6, G=0.5)), "gap").pairs
    understanding, generation = weights(found)
    assert generation == pytest.approx([1.5, 0.5], abs=1e-5)  # 0.8 * 0.75 and 0.5 * 0.4
    # ((1 - U) G + 1 - U) / 2: (0.05 + 0.2) / 2 and (0.3 + 0.5) / 2
    assert understanding == pytest.approx([0.25 / 0.525, 0.8 / 0.525], abs=1e-5)


def test_a_side_without_benchmarks_leaves_it_to_the_other() -> None:
    drawn_alone = diagnostics({"count": sides(G=0.25), "color": sides(G=0.75)}, sides(G=0.5))
    understanding, generation = weights(weigh(PAIRS, drawn_alone, "gap").pairs)
    assert generation == pytest.approx([1.5, 0.5], abs=1e-5)
    assert understanding == [1.0, 1.0]
    asked_alone = diagnostics({"count": sides(U=0.25), "color": sides(U=0.75)}, sides(U=0.5))
    understanding, generation = weights(weigh(PAIRS, asked_alone, "gap").pairs)
    assert understanding == pytest.approx([1.5, 0.5], abs=1e-5)
    assert generation == [1.0, 1.0]


# --- Shrinkage --------------------------------------------------------------------------------------------------------


def test_values_are_shrunk_by_their_share_of_the_variance() -> None:
    # (0.3^2 + 0.3^2) / (t + 0.01) = 2 gives t = 0.08, so each value keeps 8/9 of its distance.
    found, spread = shrink(np.array([0.2, 0.8]), np.array([0.01, 0.01]), 0.5)
    assert found == pytest.approx([0.5 - 0.3 * 8 / 9, 0.5 + 0.3 * 8 / 9])
    assert spread == pytest.approx(math.sqrt(0.08))


def test_differences_that_chance_explains_shrink_to_nothing() -> None:
    found, spread = shrink(np.array([0.4, 0.6]), np.array([0.02, 0.02]), 0.5)
    assert found.tolist() == [0.5, 0.5]
    assert spread == 0.0
    noisy = {"count": cells(0.3, 0.5, 0.0, half=0.4), "color": cells(0.4, 0.2, 0.2, half=0.4)}
    assert weights(weigh(PAIRS, diagnostics(noisy, cells(0.3, 0.4, 0.1)), "gap").pairs) == ([1.0, 1.0], [1.0, 1.0])


def test_a_skill_with_three_questions_does_not_dominate() -> None:
    """Text was understood and never drawn, three times of three; count half the time, of hundreds."""
    few = asdict(stats.mean([1.0, 1.0, 1.0], ["a", "b", "c"]))
    assert few["low"] == pytest.approx(0.025 ** (1 / 3))  # none of 3, by Clopper and Pearson
    told = {
        "count": cells(0.5, 0.5, 0.0, 0.05),
        "color": cells(0.8, 0.2, 0.0, 0.05),
        "object": cells(0.9, 0.1, 0.0, 0.05),
    }
    told["text"] = {name: few if name in ("U", "p10") else estimate(0.0) for name in told["count"]}
    pairs = [pair(skill, skill) for skill in told]
    found = weigh(pairs, diagnostics(told, cells(0.7, 0.3, 0.0)), "gap")
    needs = {skill: row["drawings"]["need"] for skill, row in found.told["skills"].items()}
    assert needs["count"] == pytest.approx(0.5, abs=0.01)
    assert 0.3 < needs["text"] < 0.6  # 0.3 is what all skills need, 1.0 what three questions say
    told["text"] = cells(0.0, 1.0, 0.0, 0.05)
    known = weigh(pairs, diagnostics(told, cells(0.7, 0.3, 0.0)), "gap")
    assert known.told["skills"]["text"]["drawings"]["need"] > 0.95


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_doubt_toward_all_is_what_counts(value: float) -> None:
    """An interval [0, 1] doubts by 1 whether 0 is not 0.5, not by the half of its width."""
    told = {"count": cells(0.0, value, 0.0) | {"p10": estimate(value) | {"low": 0.0, "high": 1.0}}}
    found = weigh([pair("a", "count")], diagnostics(told, cells(0.3, 0.5, 0.0)), "gap")
    assert found.told["skills"]["count"]["drawings"]["need"] == 0.5


shares = st.floats(0.0, 1.0)


@given(st.lists(st.tuples(shares, st.floats(0.0, 0.3)), max_size=8), shares)
def test_shrunk_values_lie_between_their_own_and_that_of_all(told: list[tuple[float, float]], overall: float) -> None:
    values, variances = np.array([v for v, _ in told]), np.array([v for _, v in told])
    found, spread = shrink(values, variances, overall)
    assert np.all(found >= np.minimum(values, overall) - 1e-12)
    assert np.all(found <= np.maximum(values, overall) + 1e-12)
    kept = np.abs(found - overall) / np.maximum(np.abs(values - overall), 1e-6)
    order = np.argsort(variances)
    apart = np.abs(values - overall)[order] > 1e-3
    assert np.all(np.diff(kept[order][apart]) <= 1e-9)  # the less sure, the less is kept
    assert 0 <= spread <= 1


# --- Floor, cap and mean ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("needs", "wanted"),
    [
        ([], []),
        ([0.0, 0.0], [1.0, 1.0]),
        ([0.3, 0.3, 0.3], [1.0, 1.0, 1.0]),
        ([0.1, 0.3], [0.5, 1.5]),
        ([0.0, 0.1, 0.1], [0.25, 1.375, 1.375]),  # the floor's 0.25 comes from the others: 2.75 / 2
        ([9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [4.0, *[4 / 7] * 7]),  # the cap leaves 4 to the others
        ([1.0, *[0.0] * 8], [4.0, *[5 / 8] * 8]),
        ([1.0, 0.0], [1.75, 0.25]),
    ],
)
def test_weights_by_hand(needs: list[float], wanted: list[float]) -> None:
    assert bounded(needs) == pytest.approx(wanted, abs=2e-9)


@given(st.lists(st.one_of(shares, st.sampled_from([0.0, 1e-300, 1e-12, 1.0])), min_size=1, max_size=40))
def test_weights_have_mean_1_within_floor_and_cap_in_the_order_of_needs(needs: list[float]) -> None:
    found = bounded(needs)
    assert math.fsum(found) / len(found) == pytest.approx(1.0, abs=1e-8)
    assert all(FLOOR <= weight <= CAP for weight in found)
    assert [weight for _, weight in sorted(zip(needs, found, strict=True))] == sorted(found)
    free = [n / w for n, w in zip(needs, found, strict=True) if FLOOR < w < CAP and n > 1e-6 * max(needs)]
    assert not free or max(free) == pytest.approx(min(free), rel=1e-6)


tables = st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3).map(
    lambda parts: [p / (sum(parts) + 0.5) for p in parts]
)
measured = st.dictionaries(
    st.sampled_from(SKILLS[:5]), st.tuples(tables, st.floats(0.001, 0.5)), min_size=1, max_size=5
)
some_pairs = st.lists(
    st.tuples(st.lists(st.sampled_from(SKILLS[:6]), min_size=1, max_size=4), st.sampled_from(["both", "c", "i"])),
    min_size=1,
    max_size=12,
)


def made(rows: Sequence[tuple[list[str], str]]) -> list[Pair]:
    return [pair(str(n), *skills, captions=has != "i", images=has != "c") for n, (skills, has) in enumerate(rows)]


@given(measured, some_pairs, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_each_side_has_mean_1(told: dict[str, Any], rows: Any, random: Any) -> None:
    found = diagnostics({skill: cells(*t, half) for skill, (t, half) in told.items()}, cells(0.3, 0.3, 0.1))
    pairs = made(rows)
    weighed = weigh(pairs, found, "gap").pairs
    shuffled = random.sample(pairs, len(pairs))
    assert sorted(weigh(shuffled, found, "gap").pairs, key=lambda p: p.id) == sorted(weighed, key=lambda p: p.id)
    for side, weight in (("captions", "understanding_weight"), ("images", "generation_weight")):
        given_ = [getattr(p, weight) for p in weighed if getattr(p, side)]
        assert not given_ or math.fsum(given_) / len(given_) == pytest.approx(1.0, abs=1e-8)
        assert all(FLOOR <= w <= CAP for w in given_)
    assert [replace(p, understanding_weight=1.0, generation_weight=1.0) for p in weighed] == pairs


@given(st.lists(st.floats(0.0, 0.6), min_size=2, max_size=6), st.floats(0.001, 0.3))
def test_more_that_is_understood_and_not_drawn_is_never_less_weight(p10: list[float], half: float) -> None:
    skills = SKILLS[: len(p10)]
    found = diagnostics({s: cells(0.3, p, 0.1, half) for s, p in zip(skills, p10, strict=True)}, cells(0.3, 0.3, 0.1))
    _, generation = weights(weigh([pair(s, s) for s in skills], found, "gap").pairs)
    by_need = [weight for _, weight in sorted(zip(p10, generation, strict=True))]
    assert by_need == sorted(by_need)


# --- What was decided -------------------------------------------------------------------------------------------------


def test_all_that_was_decided_is_told() -> None:
    pairs = [*PAIRS, pair("c", "count", "texture", captions=False)]
    found = weigh(pairs, TOLD, "gap")
    told = json.loads(json.dumps(found.told))
    assert {key: told[key] for key in ("rule", "run", "model", "floor", "cap")} == {
        "rule": "gap",
        "run": "run-1",
        "model": "m",
        "floor": 0.25,
        "cap": 4.0,
    }
    assert list(told["skills"]) == ["overall", "count", "color", "texture"]
    count = told["skills"]["count"]
    assert count["p10"] == estimate(0.6)
    assert count["drawings"]["need"] == pytest.approx(0.6, abs=1e-6)
    assert (count["drawings"]["pairs"], count["captions"]["pairs"]) == (2, 1)
    generation = weights(found.pairs)[1]
    assert count["drawings"]["weight"] == pytest.approx((generation[0] + generation[2]) / 2)
    assert told["skills"]["texture"]["captions"] == {"need": pytest.approx(0.2, abs=1e-6), "pairs": 0, "weight": None}
    assert told["skills"]["overall"]["drawings"]["weight"] == pytest.approx(1.0)
    shown = markdown([found.table])
    assert "| count | 0.800 [0.800, 0.800] | 0.200 [0.200, 0.200] | 0.600 [0.600, 0.600] |" in shown
    assert "Not measured, taken as all: texture." in shown
    assert "run-1" in shown


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2, not 1"),
        ({"skills": {}}, "diagnostics of run-1: no skills"),
        ({"skills": {"count": []}}, "count: no estimates"),
        ({"skills": {"dogs": cells(0.2, 0.2, 0.2)}}, "unknown skill 'dogs'"),
        ({"skills": {"count": {"p10": {"value": 0.5}}}}, "count: p10 is no estimate"),
        ({"skills": {"count": {"p10": estimate(math.nan)}}}, "count: p10 is no estimate"),
        ({"skills": {"count": {"U": estimate(1.5)}}}, "count: U is no estimate"),
        ({"skills": {"count": {"U": estimate(0.5) | {"low": "0.4"}}}}, "count: U is no estimate"),
        ({"overall": sides(U=0.5, G=0.5)}, "count has p01 but overall has not"),
        ({"overall": {"p10": estimate(0.5)}, "skills": {"count": {}}}, "overall has p10 but no U"),
        ({"overall": None}, "overall: no estimates"),
    ],
)
def test_diagnostics_that_cannot_be_used_are_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        weigh(PAIRS, TOLD | change, "gap")
    assert "\n" not in str(error.value)


def test_wrong_input_is_refused_in_one_line() -> None:
    assert weigh(PAIRS, TOLD, "gap", "m").pairs == weigh(PAIRS, TOLD, "gap").pairs
    with pytest.raises(InputError, match="of the model m, not of other"):
        weigh(PAIRS, TOLD, "gap", "other")
    with pytest.raises(InputError, match="schema None, not 1"):
        weigh(PAIRS, {}, "gap")
    with pytest.raises(InputError, match="emphasis gaps: unknown; there is gap, uniform"):
        weigh(PAIRS, TOLD, "gaps")
    for rule in RULES:
        with pytest.raises(InputError, match="none of 0 pairs"):
            weigh([], TOLD, rule)
    with pytest.raises(InputError, match="emphasis generation: none of 1 pairs"):
        weigh([pair("a", "count", images=False)], TOLD, "generation")
