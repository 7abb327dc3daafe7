"""Pairs of candidates: exact choices by hand, what is counted, and what holds whatever the scores are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapbench.records import InputError
from hermesflow.preferences import Rule, as_trusted, choose, renew
from hermesflow.records import Candidates, CaptionCandidate, ImageCandidate, Pair, Preference

NAN = math.nan


def caption(text: str, score: float, ended: bool = True) -> CaptionCandidate:
    return CaptionCandidate(text, (1, 2), ended, score, 1, 1.0)


def drawing(code: int, score: float, right: tuple[bool | None, ...] = (True, False)) -> ImageCandidate:
    return ImageCandidate((code,), code, right, score)


def item(name: str, captions: Sequence[CaptionCandidate] = (), images: Sequence[ImageCandidate] = ()) -> Candidates:
    return Candidates(
        name, f"cluster of {name}", f"caption of {name}", ("count", "color"), (7,), (*captions,), (*images,)
    )


def of_scores(name: str, captions: Sequence[float] = (), images: Sequence[float] = (), first: int = 0) -> Candidates:
    """Captions "0", "1", ... and drawings with these codes, of these scores."""
    said = [caption(str(n), score) for n, score in enumerate(captions, first)]
    return item(name, said, [drawing(n, score) for n, score in enumerate(images, first)])


def told(pair: Pair) -> tuple[tuple[str, str] | None, tuple[int, int] | None]:
    """Which caption is over which, and which drawing."""
    said, drawn = pair.captions, pair.images
    return said and (said.win.text, said.lose.text), drawn and (drawn.win.seed, drawn.lose.seed)


# --- choose -----------------------------------------------------------------------------------------------------------


def test_best_over_worst_on_each_side() -> None:
    found = choose([of_scores("a", [0.2, 0.9, 0.1], [0.5, 0.0, 0.75])], Rule())
    (pair,) = found.pairs
    assert told(pair) == (("1", "2"), (2, 1))
    assert (pair.id, pair.cluster, pair.caption, pair.skills, pair.codes) == (
        "a",
        "cluster of a",
        "caption of a",
        ("count", "color"),
        (7,),
    )
    assert (pair.understanding_weight, pair.generation_weight) == (1.0, 1.0)
    assert found.dropped == {}


def test_of_equal_scores_the_first_made_wins_and_loses() -> None:
    (pair,) = choose([of_scores("a", [0.5, 0.9, 0.1, 0.9, 0.1], [0.0, 1.0, 0.0, 1.0])], Rule()).pairs
    assert told(pair) == (("1", "2"), (1, 0))


@pytest.mark.parametrize(("best", "kept"), [(0.6, False), (0.6000001, True)])
def test_the_best_drawing_must_be_above_the_threshold(best: float, kept: bool) -> None:
    found = choose([of_scores("a", [0.1, 0.2], [0.0, best])], Rule())
    assert told(found.pairs[0])[1] == ((1, 0) if kept else None)
    assert found.dropped == ({} if kept else {"drawings: none above 0.6": 1})


@pytest.mark.parametrize(("margin", "kept"), [(0.0, True), (0.25, False), (0.2, True)])
def test_margins_are_to_be_exceeded(margin: float, kept: bool) -> None:
    rule = Rule(image_margin=margin, caption_margin=margin)
    found = choose([of_scores("a", [0.75, 0.5], [1.0, 0.75])], rule)
    assert len(found.pairs) == kept
    reasons = dict.fromkeys(("captions: best not better than worst", "drawings: best not better than worst"), 1)
    assert found.dropped == ({} if kept else {**reasons, "items without a pair": 1})


def test_a_filtered_item_is_absent_and_takes_nothing_from_its_neighbours() -> None:
    """The released code writes a record that fails its filter with the choice of the record before (C3)."""
    items = [
        of_scores("good", [0.1, 0.9], [0.0, 1.0]),
        of_scores("alike", [0.5, 0.5], [1.0, 1.0]),
        of_scores("captions", [0.1, 0.9], [0.0, 0.3]),
    ]
    found = choose(items, Rule())
    assert {pair.id: told(pair) for pair in found.pairs} == {
        "good": (("1", "0"), (1, 0)),
        "captions": (("1", "0"), None),
    }
    assert found.dropped == {
        "captions: best not better than worst": 1,
        "drawings: best not better than worst": 1,
        "drawings: none above 0.6": 1,
        "items without a pair": 1,
    }


def test_a_caption_that_was_cut_off_loses_but_never_wins() -> None:
    """The released code trains on captions cut at 100 tokens as if they had ended there (C6)."""
    captions = [caption("a dog on a", 0.9, ended=False), caption("a dog", 0.5), caption("a a a", 0.1, ended=False)]
    (pair,) = choose([item("a", captions)], Rule()).pairs
    assert told(pair) == (("a dog", "a a a"), None)
    found = choose([item("a", [replace(c, ended=False) for c in captions])], Rule())
    assert found.dropped["captions: none ended by itself"] == 1


def test_identical_texts_are_no_pair() -> None:
    found = choose([item("a", [caption("a dog", 0.5), caption(" a  dog", 0.6)])], Rule())
    assert found.dropped["captions: best not better than worst"] == 1
    same = [caption("a dog", 0.5, ended=False), caption("a dog", 0.5), caption("a cat", 0.2)]
    (pair,) = choose([item("a", same)], Rule()).pairs
    assert pair.captions == Preference(same[1], same[2])


def test_what_has_no_score_takes_no_part_and_is_counted() -> None:
    images = [drawing(0, NAN), drawing(1, 1.0, (None, True)), drawing(2, 0.5), drawing(3, 0.75)]
    found = choose([item("a", [caption("x", NAN)], images), item("b", [], [drawing(0, NAN)])], Rule())
    assert told(found.pairs[0]) == (None, (3, 2))
    assert found.dropped == {
        "captions: no score known": 1,
        "captions: none made": 1,
        "drawings: no score known": 1,
        "items without a pair": 1,
        "single captions without a score": 1,
        "single drawings without a score": 3,
    }


def test_several_pairs_of_an_item_go_best_over_worst_then_second_over_second() -> None:
    images = [1.0, 0.9, 0.7, 0.65, 0.1, 0.2, 0.65]
    found = choose([of_scores("a", [0.9, 0.1, 0.5, 0.5], images)], Rule(per_item=9))
    assert [(pair.id, *told(pair)) for pair in found.pairs] == [
        ("a", ("0", "1"), (0, 4)),
        ("a#2", None, (1, 5)),
        ("a#3", None, (2, 3)),
    ]
    assert found.dropped == {}  # which counts items, and each has its first pair


scores = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.65, 0.75, 1.0]), max_size=8)
rules = st.builds(Rule, image_margin=st.sampled_from([0.0, 0.2]), per_item=st.integers(1, 4))


@given(scores, scores, st.lists(st.booleans(), min_size=8, max_size=8), rules)
def test_no_winner_of_a_chosen_pair_is_the_loser_of_another(
    said: list[float], drawn: list[float], ended: list[bool], rule: Rule
) -> None:
    made = of_scores("a", said, drawn)
    made = replace(made, captions=tuple(replace(c, ended=e) for c, e in zip(made.captions, ended, strict=False)))
    pairs = choose([made], rule).pairs
    for side in ("captions", "images"):
        sides = [getattr(pair, side) for pair in pairs if getattr(pair, side)]
        winners, losers = [s.win for s in sides], [s.lose for s in sides]
        everyone = winners + losers
        assert all(everyone.count(each) == 1 for each in everyone)
    assert all(pair.captions.win.ended for pair in pairs if pair.captions)
    assert all(pair.images.win.score > 0.6 for pair in pairs if pair.images)


def test_an_id_that_is_there_twice_is_refused() -> None:
    with pytest.raises(InputError, match="item a: is there twice"):
        choose([of_scores("a"), of_scores("a")], Rule())
    with pytest.raises(InputError, match="a#2"):
        choose([of_scores("a#2", [0, 1]), of_scores("a", [0, 1])], Rule(per_item=2))


@pytest.mark.parametrize(
    "wrong", [{"image_threshold": 1.0}, {"caption_margin": -0.1}, {"image_margin": NAN}, {"per_item": 0}]
)
def test_a_wrong_rule_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Rule(**wrong)


# --- renew ------------------------------------------------------------------------------------------------------------

OLD = choose([of_scores("a", [0.3, 0.6], [0.25, 0.75], first=100)], Rule()).pairs  # 101 over 100 on both sides


@pytest.mark.parametrize(
    ("best", "loser"),
    [(0.9, 101), (0.75, 100), (0.7, 100)],
    ids=["better than the winner", "as good as it", "worse than it"],
)
def test_a_new_drawing_goes_over_the_old_winner_else_over_the_old_loser(best: float, loser: int) -> None:
    (pair,) = renew([of_scores("a", [], [best, 0.0])], OLD, Rule()).pairs
    assert told(pair) == (None, (0, loser))


@pytest.mark.parametrize(("best", "loser"), [(0.7, "101"), (0.5, "100")])
def test_captions_go_by_the_same_rule(best: float, loser: str) -> None:
    (pair,) = renew([of_scores("a", [0.0, best])], OLD, Rule()).pairs
    assert told(pair) == (("1", loser), None)


def test_what_beats_neither_is_absent() -> None:
    """The paper's rule, and the released code, make it the winner over what is better (C5)."""
    old = [replace(OLD[0], images=Preference(drawing(1, 0.9), drawing(0, 0.8)))]
    found = renew([of_scores("a", [0.3, 0.2], [0.7, 0.0])], old, Rule())
    assert not found.pairs
    assert found.dropped == {
        "captions: no better than in the iteration before": 1,
        "drawings: no better than in the iteration before": 1,
        "items without a pair": 1,
    }


def test_items_are_joined_by_id_whatever_their_order() -> None:
    """The released code joins its lists by position (C4)."""
    old = choose([of_scores(name, [], [0.0, 0.65], first=100 * n) for n, name in enumerate("ab", 1)], Rule()).pairs
    new = [of_scores("b", [], [0.7]), of_scores("c", [], [0.7, 0.0]), of_scores("a", [], [0.65])]
    found = renew(new, old, Rule())
    assert [(pair.id, told(pair)[1]) for pair in found.pairs] == [("b", (0, 201)), ("c", (0, 1)), ("a", (0, 100))]
    assert renew(new[:1], old, Rule()).dropped["old pairs without candidates"] == 1


def test_a_side_that_the_old_pair_lacks_is_chosen_anew() -> None:
    old = [replace(OLD[0], captions=None)]
    (pair,) = renew([of_scores("a", [0.1, 0.2], [0.8])], old, Rule()).pairs
    assert told(pair) == (("1", "0"), (0, 101))


def test_further_pairs_renew_their_own() -> None:
    rule = Rule(per_item=2)
    old = choose([of_scores("a", [], [0.9, 0.7, 0.2, 0.1], first=100)], rule).pairs
    found = renew([of_scores("a", [], [0.8, 0.75])], old, rule)
    assert [(pair.id, told(pair)[1]) for pair in found.pairs] == [("a", (0, 103)), ("a#2", (1, 101))]


def test_the_same_text_again_is_no_pair_however_it_is_scored() -> None:
    found = renew([item("a", [caption("100", 0.5)])], OLD, Rule())  # the old loser's text
    assert not found.pairs
    (pair,) = renew([item("a", [caption("101", 0.9)])], OLD, Rule()).pairs  # the old winner's
    assert told(pair)[0] == ("101", "100")


@given(scores, scores, scores, scores, rules)
def test_winners_are_always_better_than_losers(
    said: list[float], drawn: list[float], said_anew: list[float], drawn_anew: list[float], rule: Rule
) -> None:
    first = choose([of_scores("a", said, drawn)], rule)
    second = renew([of_scores("a", said_anew, drawn_anew, first=50)], first.pairs, rule)
    third = renew([of_scores("a", said, drawn, first=90)], second.pairs, rule)
    for pair in (*first.pairs, *second.pairs, *third.pairs):
        assert pair.captions or pair.images
        if pair.captions:
            assert pair.captions.win.score - pair.captions.lose.score > rule.caption_margin
        if pair.images:
            assert pair.images.win.score - pair.images.lose.score > rule.image_margin
            assert pair.images.win.score > rule.image_threshold
    for found in (first, second, third):
        absent = sum(found.dropped.get(reason, 0) for reason in found.dropped if reason.startswith("captions:"))
        assert absent == (not found.pairs or found.pairs[0].id != "a" or found.pairs[0].captions is None)


def test_another_caption_or_other_questions_than_the_old_pairs_are_refused() -> None:
    for change in ({"caption": "another"}, {"skills": ("count",)}):
        with pytest.raises(InputError, match="item a: has another caption or other questions"):
            renew([replace(of_scores("a"), **change)], OLD, Rule())
    with pytest.raises(InputError, match="pair a: is there twice"):
        renew([], [*OLD, *OLD], Rule())


# --- Whom to trust ----------------------------------------------------------------------------------------------------

MEASURED = {
    "overall": {"U": {"value": 0.9}},
    "skills": {"object": {"U": {"value": 0.9}}, "count": {"U": {"value": 0.6}}},
}


def judged(understood: tuple[bool | None, ...], *rights: tuple[bool | None, ...]) -> Candidates:
    """An item of three questions: two of objects, one of a count."""
    images = [replace(drawing(number, 0.5), right=right) for number, right in enumerate(rights)]
    return replace(item("a", [], images), skills=("object", "object", "count"), understood=understood)


@pytest.mark.parametrize(
    ("understood", "trust", "scores"),
    [
        ((True, True, True), 0.0, [2 / 3, 1 / 3]),
        ((True, True, True), 0.85, [0.5, 0.5]),
        ((True, False, True), 0.85, [1.0, 0.0]),
        ((False, None, True), 0.0, [1.0, 0.0]),
    ],
)
def test_verdicts_count_on_what_is_understood(
    understood: tuple[bool | None, ...], trust: float, scores: list[float]
) -> None:
    (found,) = as_trusted([judged(understood, (True, False, True), (False, True, False))], trust, MEASURED)
    assert [image.score for image in found.images] == pytest.approx(scores)


def test_what_nothing_is_understood_of_has_no_score() -> None:
    (found,) = as_trusted([judged((False, False, True), (True, True, True), (False, False, False))], 0.85, MEASURED)
    assert all(math.isnan(image.score) for image in found.images)
    assert choose([found], Rule()).dropped["drawings: no score known"] == 1


def test_another_judge_is_trusted_with_all() -> None:
    one = judged((), (True, False, True))
    assert list(as_trusted([one], 0.85, MEASURED)) == [one]


def test_a_skill_that_was_not_measured_is_taken_as_all() -> None:
    one = replace(judged((True,) * 3, (True, False, True)), skills=("object", "count", "other"))
    (found,) = as_trusted([one], 0.85, MEASURED)
    assert found.images[0].score == 1.0
    (found,) = as_trusted([one], 0.95, None)
    assert found.images[0].score == pytest.approx(2 / 3)
