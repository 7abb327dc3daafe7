"""VILA-U's log-likelihoods of captions and of drawings, with gradients, one per sample.

A drawing's is exact: the sum over positions and depths of the log-probability of its codes, as the image part of the
training loss has it. <im_end> and [eos], which follow every image, are not counted. A caption's is the sum over its
tokens, and over [eos] if it ended by itself. Both are of the whole distribution: temperature 1, no top-k, no top-p.

Shape suffixes: B samples, R rows (B, or with guidance 2B: prompted, then unprompted), L positions, N of an image, D
depths, K codes, T width of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from gapbench.models.unified.backbone import Backbone
from gapbench.models.unified.likelihood import drawn_states
from gapbench.models.unified.sampling import guided
from gapbench.models.vila_u.depth import DepthTransformer
from gapbench.models.vila_u.vision import Quantizer


def image_states(
    backbone: Backbone,
    projector: nn.Module,
    quantizer: Quantizer,
    rows: Sequence[Sequence[int]],
    codes_RND: Tensor,
) -> Tensor:
    """(R,N,T): the hidden states that images' codes are drawn from, at <im_start> and all positions but the last.

    rows: token ids of the prompts, up to and with <im_start>.
    """
    return drawn_states(backbone, rows, projector(quantizer.features(codes_RND[:, :-1]).to(backbone.dtype)))


def image_log_probs(
    depth: DepthTransformer, quantizer: Quantizer, states_RNT: Tensor, codes_BND: Tensor, guidance: float = 1.0
) -> Tensor:
    """(B,N,D) float32: log-probabilities of the codes, given the states of `image_states`."""
    vectors_MDC = quantizer.vectors(codes_BND).flatten(0, 1).repeat(len(states_RNT) // len(codes_BND), 1, 1)
    logits_BNDK = guided(depth(states_RNT.flatten(0, 1), vectors_MDC).unflatten(0, states_RNT.shape[:2]), guidance)
    return -F.cross_entropy(logits_BNDK.movedim(-1, 1), codes_BND, reduction="none")
