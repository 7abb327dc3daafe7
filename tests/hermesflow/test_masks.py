"""Which codes are hidden: from seed, pair and visit alone, in the shares that were asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gapbench.records import InputError
from hermesflow.likelihood import Masks


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
