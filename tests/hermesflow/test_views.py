"""What is hidden and what is predicted: from seed, pair and visit alone, in the shares that were asked for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gapbench.records import InputError
from hermesflow.records import ImageCandidate, Pair, Preference
from hermesflow.views import Masks, States


@given(st.integers(0, 2**31), st.text(max_size=8), st.integers(0, 50), st.integers(1, 8), st.integers(1, 64), st.data())
def test_masks_hide_shares_within_their_rates(
    seed: int, name: str, visit: int, count: int, image_tokens: int, data: st.DataObject
) -> None:
    low = data.draw(st.floats(0, 1))
    high = data.draw(st.floats(low, 1))
    masks = Masks(seed, count, (low, high))
    masked_KN = masks.draw(name, visit, image_tokens)
    assert (masked_KN.shape, masked_KN.dtype) == ((count, image_tokens), torch.bool)
    hidden = masked_KN.sum(dim=1).tolist()
    assert hidden == sorted(hidden, reverse=True), "a part of the rates each, the highest first"
    for number in hidden:
        assert max(1, low * image_tokens - 0.51) <= number <= max(1, high * image_tokens + 0.51)
    assert torch.equal(masked_KN, Masks(seed, count, (low, high)).draw(name, visit, image_tokens))


def test_masks_of_visits_pairs_and_seeds_differ() -> None:
    masks = Masks(seed=3, count=2)
    drawn = [masks.draw(name, visit, 256) for name in ("a", "b") for visit in range(3)]
    drawn.append(Masks(seed=4, count=2).draw("a", 0, 256))
    assert len({tuple(mask.flatten().tolist()) for mask in drawn}) == len(drawn)
    few = Masks(seed=3, count=2, sets=3)
    assert torch.equal(few.draw("a", 4, 256), masks.draw("a", 1, 256))
    assert few.without_prompt("a", 7) == masks.without_prompt("a", 1)


def test_strata_and_condition_dropout_have_their_shares() -> None:
    """Shares of 1,000 pairs: a quarter of the arc each, whose mean of cos is by hand; a tenth without prompt."""
    masks = Masks()
    share_K = torch.stack([masks.draw(str(n), 0, 1024).float().mean(dim=1) for n in range(1000)]).mean(dim=0)
    edges = torch.sin(torch.pi / 2 * torch.arange(5) / 4)
    assert torch.allclose(share_K, edges.diff() * 4 * 2 / torch.pi, atol=0.01)
    assert sum(masks.without_prompt(str(n), 0) for n in range(1000)) == pytest.approx(100, abs=30)


def test_every_code_is_hidden_as_often() -> None:
    often_N = torch.stack([Masks(count=1).draw(str(n), 0, 16).squeeze(0).float() for n in range(2000)]).mean(dim=0)
    assert often_N.max() - often_N.min() < 0.1


@pytest.mark.parametrize(
    "wrong",
    [{"count": 0}, {"sets": 0}, {"rates": (0.5, 0.4)}, {"rates": (-0.1, 1.0)}, {"rates": (0.0, 1.1)}]
    + [{"condition_dropout": share} for share in (-0.1, 1.5, float("nan"))],
)
def test_masks_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="masks: "):
        Masks(**wrong)


# --- The sampler's own states -----------------------------------------------------------------------------------------


def drawn(steps: tuple[int, ...], nats: tuple[float, ...], other: tuple[int, ...] | None = None) -> Pair:
    def image(steps: tuple[int, ...]) -> ImageCandidate:
        thresholds = tuple(-float(step) for step in range(1, len(nats)))
        return ImageCandidate(tuple(range(len(steps))), 0, (True,), 1.0, steps, nats, thresholds)

    return Pair("a", "a", "a caption", (), (), None, Preference(image(steps), image(other or steps)))


def test_all_states_are_the_whole_drawing_once() -> None:
    views = States(count=3).views(drawn((0, 2, 1, 1), (1.0, 0.5, 0.2), (2, 1, 0, 0)), 0)
    assert views.scored_K2N.sum(dim=0).tolist() == [[1] * 4] * 2
    assert views.scored_K2N[1].tolist() == [[False, False, True, True], [False, True, False, False]]
    assert views.hidden_K2N[1].tolist() == [[False, True, True, True], [True, True, False, False]]
    assert views.weight_K2.tolist() == [[1.0, 1.0]] * 3
    assert views.threshold_K2.tolist() == [[-1.0] * 2, [-2.0] * 2, [-math.inf] * 2]
    assert views.noise_K2[:, 0].tolist() == pytest.approx([2 / 3, 2 / 9, 0])
    assert views.tokens == [4.0, 4.0]


@given(
    st.lists(st.floats(0, 20), min_size=2, max_size=12).flatmap(
        lambda nats: st.tuples(st.just(tuple(nats)), st.lists(st.integers(0, len(nats) - 1), min_size=1, max_size=12))
    ),
    st.integers(1, 4),
)
def test_each_code_counts_once_on_average(of: tuple[tuple[float, ...], list[int]], count: int) -> None:
    nats, steps = of
    states, pair, visits = States(seed=5, count=count), drawn(tuple(steps), nats), 300
    total_2N = torch.zeros(2, len(steps))
    for visit in range(visits):
        views = states.views(pair, visit)
        assert not (views.scored_K2N & ~views.hidden_K2N).any()
        total_2N += (views.scored_K2N * views.weight_K2[:, :, None]).sum(dim=0)
    # A step's weight is at most (1 + 1 / FLOOR) times the number of steps, over K.
    spread = ((5 * len(nats) + 1) / count / visits) ** 0.5
    assert (total_2N / visits - 1).abs().max() < 5 * spread


def test_states_are_drawn_from_seed_pair_visit_and_side() -> None:
    pair = drawn(tuple(range(16)), (0.5,) * 16)
    few = States(seed=1, count=4, sets=3)
    found = [few.views(pair, visit).scored_K2N for visit in range(4)]
    assert torch.equal(found[0], found[3])
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0][:, 0], found[0][:, 1])
    assert not torch.equal(found[0], States(seed=2, count=4).views(pair, 0).scored_K2N)


def test_a_step_of_many_nats_is_visited_more_often() -> None:
    pair, states = drawn((0, 1, 2, 3, 4, 5), (6.0, 0.0, 0.0, 0.0, 0.0, 0.0)), States(count=1)
    first = sum(bool(states.views(pair, visit).scored_K2N[0, 0, 0]) for visit in range(500)) / 500
    assert first == pytest.approx(6.25 / 7.5, abs=0.06)


@pytest.mark.parametrize(
    ("steps", "thresholds"), [((), (-1.0, -2.0)), ((0, 1), (-1.0, -2.0)), ((0, 1, 3), (-1.0, -2.0)), ((0, 1, 2), ())]
)
def test_steps_that_do_not_fit_the_codes(steps: tuple[int, ...], thresholds: tuple[float, ...]) -> None:
    image = ImageCandidate((1, 2, 3), 0, (True,), 1.0, steps, (0.1, 0.2, 0.3), thresholds)
    pair = Pair("a", "a", "a caption", (), (), None, Preference(image, image))
    with pytest.raises(InputError, match="pair a: does not tell the steps of its drawings"):
        States().check(pair)


@pytest.mark.parametrize("wrong", [{"count": 0}, {"sets": 0}])
def test_wrong_states(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="states"):
        States(**wrong)
