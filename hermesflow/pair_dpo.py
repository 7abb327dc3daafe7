"""The loss of Pair-DPO and nothing else: log-likelihoods in, a number to go down out.

Source: HermesFlow (arXiv 2502.12148). Per pair, then mean over the batch,

    L = w_und * -log sigmoid(beta d_und) + balance * w_gen * -log sigmoid(beta d_gen)
    d = (log pi - log ref)(winner) - (log pi - log ref)(loser)

which is equation (12) of its appendix and what its released code computes for a batch of one pair. A side that a pair
does not have adds nothing. Equation (6), printed as if it were the same, is kept as `product`, for an ablation only:
the log-sigmoid of a product cannot tell two margins that are right from two that are wrong.

Shape suffixes: B pairs, 2 winner and loser. Everything is float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gapbench.records import InputError


class Margins(NamedTuple):
    """What the loss needs of one side of a batch of pairs; where a pair lacks the side, the values do not matter.

    policy_B2, reference_B2: log-likelihoods of winner and loser; tokens_B2: how many tokens each is the sum over, at
    least 1; present_B: bool, whether the pair has this side; weight_B: how much the pair counts.
    """

    policy_B2: Tensor
    reference_B2: Tensor
    tokens_B2: Tensor
    present_B: Tensor
    weight_B: Tensor


@dataclass(frozen=True, slots=True)
class PairDPO:
    """beta: how far the policy may go from the reference. balance: weight of the generation side (lambda).

    anchor: weight of -log pi(winner) / tokens, added for each side; 0 is the paper's. per_token: divide each
    log-likelihood by its own number of tokens. product: the formula as printed, for an ablation.
    """

    beta: float = 0.2
    balance: float = 1.0
    anchor: float = 0.0
    per_token: bool = False
    product: bool = False

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise InputError(f"beta is {self.beta}; give a number above 0")
        for name in ("balance", "anchor"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)}; give a number of at least 0")
        if self.product and (self.anchor or self.balance != 1):
            raise InputError("product has neither anchor nor balance; leave them out")


class Term(NamedTuple):
    """One side: its share of the loss before `balance`, and what to log, detached.

    margin_B: beta d; gain_B2: log pi - log ref of winner and loser (both falling is seen here). Both NaN where absent.
    """

    loss: Tensor
    margin_B: Tensor
    gain_B2: Tensor

    @property
    def accuracy(self) -> Tensor:
        """Share of pairs whose margin is above 0, of those that have the side; NaN if none has."""
        margin = self.margin_B[~self.margin_B.isnan()]
        return (margin > 0).float().mean()


class Loss(NamedTuple):
    """total: what to minimise. The terms are those of the sum, of `product` too, where they are for the log alone."""

    total: Tensor
    understanding: Term | None
    generation: Term | None


def pair_dpo(understanding: Margins | None, generation: Margins | None, how: PairDPO) -> Loss:
    """The loss of a batch, from captions (understanding) and drawings (generation) of the same pairs in one order.

    None is a side that no pair of the batch has, or that is not trained.
    """
    if understanding is None and generation is None:
        raise ValueError("no side is given")
    sides = [None if side is None else _emptied(side) for side in (understanding, generation)]
    terms = [None if side is None else _term(side, how) for side in sides]
    if how.product:
        return Loss(_product(*sides, how), *terms)
    weighted = [term.loss * weight for term, weight in zip(terms, (1.0, how.balance), strict=True) if term is not None]
    return Loss(torch.stack(weighted).sum(), *terms)


def _emptied(side: Margins) -> Margins:
    """The same without what stands where a pair lacks the side, which may be anything and must not reach a gradient."""
    present_B1 = side.present_B[:, None]
    return Margins(
        side.policy_B2.where(present_B1, 0.0),
        side.reference_B2.where(present_B1, 0.0),
        side.tokens_B2.where(present_B1, 1.0),
        side.present_B,
        side.weight_B.where(side.present_B, 0.0),
    )


def _margin(side: Margins, how: PairDPO) -> tuple[Tensor, Tensor]:
    """beta d (B,) and log pi - log ref (B,2)."""
    gain_B2 = side.policy_B2 - side.reference_B2
    compared = gain_B2 / side.tokens_B2 if how.per_token else gain_B2
    return how.beta * (compared[:, 0] - compared[:, 1]), gain_B2


def _term(side: Margins, how: PairDPO) -> Term:
    margin_B, gain_B2 = _margin(side, how)
    each_B = -logsigmoid(margin_B)
    if how.anchor:
        each_B = each_B - how.anchor * side.policy_B2[:, 0] / side.tokens_B2[:, 0]
    return Term(
        (side.weight_B * each_B).mean(),
        margin_B.detach().masked_fill(~side.present_B, torch.nan),
        gain_B2.detach().masked_fill(~side.present_B[:, None], torch.nan),
    )


def _product(understanding: Margins | None, generation: Margins | None, how: PairDPO) -> Tensor:
    """Equation (6): only pairs with both sides have a product."""
    if understanding is None or generation is None:
        return 0.0 * (understanding or generation).policy_B2.sum()
    product_B = _margin(understanding, how)[0] * _margin(generation, how)[0]
    # A side that is absent has weight 0.
    return (understanding.weight_B * generation.weight_B * -logsigmoid(product_B)).mean()
