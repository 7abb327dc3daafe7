"""The loss: the released code's numbers for one pair, and everything that it gets wrong for several."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gapbench.records import InputError
from hermesflow.pair_dpo import Margins, PairDPO, pair_dpo

LN2 = math.log(2)
margins = st.floats(-50, 50, allow_nan=False, width=32)


def side(
    policy: list[list[float]],
    reference: list[list[float]] | None = None,
    tokens: list[list[float]] | None = None,
    present: list[bool] | None = None,
    weight: list[float] | None = None,
) -> Margins:
    count = len(policy)
    return Margins(
        torch.tensor(policy, requires_grad=True),
        torch.zeros(count, 2) if reference is None else torch.tensor(reference),
        torch.ones(count, 2) if tokens is None else torch.tensor(tokens),
        torch.tensor(present or [True] * count),
        torch.tensor(weight or [1.0] * count),
    )


def with_margin(*delta: float) -> Margins:
    return side([[each, 0.0] for each in delta])


def cost(z: float) -> float:
    return math.log1p(math.exp(-z))


def test_golden_scalars(shared: Path) -> None:
    golden = json.loads((shared / "golden" / "showo" / "pair_dpo.json").read_text())
    policy, reference = golden["policy_log_probs"], golden["reference_log_probs"]

    def margins(kind: str) -> Margins:
        both = [
            [list(pair) for pair in zip(p[f"{kind}_win"], p[f"{kind}_lose"], strict=True)] for p in (policy, reference)
        ]
        return side(*both)

    loss = pair_dpo(margins("txt"), margins("img"), PairDPO(beta=golden["beta"]))
    assert loss.total.item() == pytest.approx(golden["loss"], abs=1e-4)
    for term, kind in ((loss.understanding, "txt"), (loss.generation, "img")):
        assert term.loss.item() == pytest.approx(sum(golden[f"loss_{kind}"]) / 2, abs=1e-4)
        assert (term.margin_B / golden["beta"]).tolist() == pytest.approx(golden[f"delta_{kind}"], abs=1e-3)


def test_starts_at_two_ln_2_and_the_product_at_one() -> None:
    same = [[-40.0, -31.0], [-7.5, -9.25]]
    sides = side(same, same), side(same, same)
    assert pair_dpo(*sides, PairDPO()).total.item() == pytest.approx(2 * LN2)
    assert pair_dpo(*sides, PairDPO(product=True)).total.item() == pytest.approx(LN2)


def test_mean_of_each_pair_s_two_costs() -> None:
    understanding = side([[-10.0, -12.0], [-3.0, -8.0]], [[-11.0, -11.0], [-4.0, -4.0]])  # d: 2, 5
    generation = side([[-90.0, -95.0], [-80.0, -70.0]], [[-91.0, -91.0], [-71.0, -71.0]])  # d: 5, -10
    loss = pair_dpo(understanding, generation, PairDPO(beta=0.2, balance=3.0))
    assert loss.understanding.loss.item() == pytest.approx((cost(0.4) + cost(1.0)) / 2)
    assert loss.generation.loss.item() == pytest.approx((cost(1.0) + cost(-2.0)) / 2)
    assert loss.total.item() == pytest.approx((cost(0.4) + cost(1.0)) / 2 + 3 * (cost(1.0) + cost(-2.0)) / 2)
    assert loss.understanding.gain_B2.tolist() == [[1.0, -1.0], [1.0, -4.0]]
    assert loss.generation.margin_B.tolist() == pytest.approx([1.0, -2.0])
    assert (loss.understanding.accuracy, loss.generation.accuracy) == (1.0, 0.5)


@given(st.lists(st.tuples(margins, margins), min_size=1, max_size=5))
def test_a_batch_is_the_mean_of_its_pairs(deltas: list[tuple[float, float]]) -> None:
    """Log-likelihoods that are summed over the batch before the sigmoid, as in the released code, are not."""
    whole = pair_dpo(with_margin(*(u for u, _ in deltas)), with_margin(*(g for _, g in deltas)), PairDPO()).total
    alone = [pair_dpo(with_margin(u), with_margin(g), PairDPO()).total.item() for u, g in deltas]
    assert whole.item() == pytest.approx(sum(alone) / len(alone), rel=1e-5)


@pytest.mark.parametrize("how", [PairDPO(), PairDPO(anchor=0.5, per_token=True), PairDPO(product=True)])
def test_an_absent_side_adds_nothing_whatever_stands_there(how: PairDPO) -> None:
    nan, inf = math.nan, math.inf
    tokens, reference = [[2.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [inf, 0.0]]
    understanding = side([[-2.0, -3.0], [nan, -inf]], reference, tokens, present=[True, False], weight=[1.0, nan])
    generation = side([[-9.0, -8.0], [-6.0, -8.0]], tokens=[[2.0, 2.0]] * 2)
    loss = pair_dpo(understanding, generation, how)
    loss.total.backward()
    assert understanding.policy_B2.grad[1].tolist() == [0.0, 0.0]
    assert understanding.policy_B2.grad[0].abs().min() > 0
    assert generation.policy_B2.grad.isfinite().all()
    one = pair_dpo(side([[-2.0, -3.0]], tokens=[[2.0, 2.0]]), None, how)
    assert loss.understanding.loss.item() == pytest.approx(one.understanding.loss.item() / 2)
    assert math.isnan(loss.understanding.margin_B[1])
    assert loss.understanding.gain_B2[1].isnan().all()
    assert loss.understanding.accuracy == 1.0
    if not how.product:
        assert loss.total.item() == pytest.approx((loss.understanding.loss + loss.generation.loss).item())


def test_one_side_alone() -> None:
    alone = pair_dpo(None, with_margin(3.0, -1.0), PairDPO())
    assert (alone.understanding, alone.total.item()) == (None, alone.generation.loss.item())
    zero = side([[3.0, 0.0], [-1.0, 0.0]], weight=[0.0, 0.0])
    assert pair_dpo(zero, with_margin(3.0, -1.0), PairDPO()).total.item() == alone.total.item()
    with pytest.raises(ValueError, match="no side"):
        pair_dpo(None, None, PairDPO())


def test_weights_count_each_pair_s_sides() -> None:
    understanding = side([[5.0, 0.0], [-5.0, 0.0]], weight=[2.0, 0.5])
    generation = side([[10.0, 0.0], [0.0, 0.0]], weight=[0.0, 3.0])
    loss = pair_dpo(understanding, generation, PairDPO())
    assert loss.total.item() == pytest.approx((2 * cost(1.0) + 0.5 * cost(-1.0)) / 2 + 3 * LN2 / 2)


def gradients(understanding: Margins, generation: Margins, how: PairDPO) -> tuple[Tensor, Tensor]:
    loss = pair_dpo(understanding, generation, how).total
    assert loss.isfinite()
    return torch.autograd.grad(loss, (understanding.policy_B2, generation.policy_B2))


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize("understood", [-1000.0, 1000.0])
@pytest.mark.parametrize("drawn", [-1000.0, 1000.0])
def test_finite_far_out(understood: float, drawn: float, product: bool) -> None:
    """-log(sigmoid(z)), as released, is infinite from z = -104 on, and its gradient is nan before."""
    how = PairDPO(beta=1.0, product=product)
    for gradient in gradients(with_margin(understood), with_margin(drawn), how):
        assert gradient.isfinite().all()
    if not product:
        wrong = max(-understood, 0.0) + max(-drawn, 0.0)
        assert pair_dpo(with_margin(understood), with_margin(drawn), how).total.item() == pytest.approx(wrong, abs=1e-6)


def test_understanding_does_not_move_with_drawings() -> None:
    first = gradients(with_margin(1.0), with_margin(-4.0), PairDPO())[0]
    assert torch.equal(first, gradients(with_margin(1.0), with_margin(9.0), PairDPO())[0])
    assert not torch.equal(first, gradients(with_margin(1.0), with_margin(-4.0), PairDPO(product=True))[0])


@given(margins, margins)
def test_the_product_cannot_tell_two_right_from_two_wrong(u: float, g: float) -> None:
    how = PairDPO(product=True)
    right = pair_dpo(with_margin(u), with_margin(g), how).total
    assert right == pair_dpo(with_margin(-u), with_margin(-g), how).total
    assert right.item() == pytest.approx(float(-torch.nn.functional.logsigmoid(torch.tensor(0.04 * u * g))), rel=1e-5)
    if min(u, g) > 0.1:
        assert pair_dpo(with_margin(u), with_margin(g), PairDPO()).total < 2 * LN2
        assert pair_dpo(with_margin(-u), with_margin(-g), PairDPO()).total > 2 * LN2


def test_the_product_needs_both_sides_of_a_pair() -> None:
    how = PairDPO(product=True)
    lone = with_margin(3.0)
    loss = pair_dpo(lone, None, how).total
    assert (loss.item(), torch.autograd.grad(loss, lone.policy_B2)[0].tolist()) == (0.0, [[0.0, 0.0]])
    absent = side([[4.0, 0.0], [5.0, 0.0]], present=[True, False])
    assert pair_dpo(absent, with_margin(2.0, 3.0), how).total.item() == pytest.approx(cost(0.04 * 8) / 2)


def test_anchor_holds_the_winner_up() -> None:
    understanding = side([[-6.0, -1.0]], [[-6.0, -1.0]], tokens=[[3.0, 9.0]])
    generation = side([[-40.0, -50.0]], [[-40.0, -50.0]], tokens=[[8.0, 8.0]])
    loss = pair_dpo(understanding, generation, PairDPO(anchor=0.5, balance=2.0)).total
    assert loss.item() == pytest.approx(LN2 + 0.5 * 2.0 + 2 * (LN2 + 0.5 * 5.0))


def test_per_token_divides_each_by_its_own_length() -> None:
    understanding = side([[-6.0, -10.0]], [[-9.0, -20.0]], tokens=[[3.0, 5.0]])  # 3/3 - 10/5
    loss = pair_dpo(understanding, None, PairDPO(per_token=True))
    assert loss.understanding.margin_B.item() == pytest.approx(0.2 * -1.0)
    assert loss.understanding.gain_B2.tolist() == [[3.0, 10.0]]
    assert pair_dpo(understanding, None, PairDPO()).understanding.margin_B.item() == pytest.approx(0.2 * -7.0)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"beta": 0.0}, "beta is 0.0"),
        ({"beta": math.nan}, "beta"),
        ({"balance": -1.0}, "balance is -1.0"),
        ({"anchor": -0.1}, "anchor is -0.1"),
        ({"product": True, "anchor": 1.0}, "product"),
        ({"product": True, "balance": 2.0}, "product"),
    ],
)
def test_options_that_make_no_loss(wrong: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        PairDPO(**wrong)
