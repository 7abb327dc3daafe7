"""VILA-U's log-likelihoods of captions and of drawings, with gradients, one per sample.

A drawing's is exact: the sum over positions and depths of the log-probability of its codes, as the image part of the
training loss has it. <im_end> and [eos], which follow every image, are not counted. A caption's is the sum over its
tokens, and over [eos] if it ended by itself. Both are of the whole distribution: temperature 1, no top-k, no top-p.

Shape suffixes: B samples, R rows (B, or with guidance 2B: prompted, then unprompted), L positions, N of an image, D
depths, K codes, T width of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gapbench.models.vila_u.backbone import LlamaBackbone, positions_after, visible_causal
from gapbench.models.vila_u.depth import DepthTransformer
from gapbench.models.vila_u.sampling import guided
from gapbench.models.vila_u.vision import Quantizer


def image_states(
    backbone: LlamaBackbone,
    projector: nn.Module,
    quantizer: Quantizer,
    rows: Sequence[Sequence[int]],
    codes_RND: Tensor,
) -> Tensor:
    """(R,N,T): the hidden states that images' codes are drawn from, at <im_start> and all positions but the last.

    rows: token ids of the prompts, up to and with <im_start>.
    """
    length, device = max(map(len, rows)), backbone.device
    pads_R = torch.tensor([length - len(row) for row in rows], device=device)
    ids_RL = torch.tensor([[0] * (length - len(row)) + list(row) for row in rows], device=device)
    image_RNT = projector(quantizer.features(codes_RND[:, :-1]).to(backbone.dtype))
    inputs = torch.cat([backbone.embed(ids_RL), image_RNT], dim=1)
    whole = inputs.shape[1]
    return backbone.hidden(inputs, visible_causal(pads_R, whole), positions_after(pads_R, whole))[:, length - 1 :]


def image_log_probs(
    depth: DepthTransformer, quantizer: Quantizer, states_RNT: Tensor, codes_BND: Tensor, guidance: float = 1.0
) -> Tensor:
    """(B,N,D) float32: log-probabilities of the codes, given the states of `image_states`."""
    vectors_MDC = quantizer.vectors(codes_BND).flatten(0, 1).repeat(len(states_RNT) // len(codes_BND), 1, 1)
    logits_BNDK = guided(depth(states_RNT.flatten(0, 1), vectors_MDC).unflatten(0, states_RNT.shape[:2]), guidance)
    return -F.cross_entropy(logits_BNDK.movedim(-1, 1), codes_BND, reduction="none")


def text_log_likelihood(
    backbone: LlamaBackbone, prefix_BLT: Tensor, texts: Sequence[Sequence[int]], scored: Sequence[int]
) -> Tensor:
    """(B,) float32: the sum over the last `scored` tokens of each text, which follows a prefix of embeddings."""
    length, device = max(map(len, texts)), backbone.device
    # Pads stand at the end, where causality hides them from all that is scored.
    ids_BL = torch.tensor([[*text, *[0] * (length - len(text))] for text in texts], device=device)
    inputs = torch.cat([prefix_BLT, backbone.embed(ids_BL[:, :-1])], dim=1)
    no_pads_1, whole = torch.zeros(1, dtype=torch.int64, device=device), inputs.shape[1]
    hidden = backbone.hidden(inputs, visible_causal(no_pads_1, whole), positions_after(no_pads_1, whole))
    hidden = hidden[:, prefix_BLT.shape[1] - 1 :]
    at_BL = torch.arange(length, device=device)
    ends_B1 = torch.tensor([[len(text)] for text in texts], device=device)
    counts_B1 = torch.tensor([[count] for count in scored], device=device)
    counted_BL = (at_BL >= ends_B1 - counts_B1) & (at_BL < ends_B1)
    logs = -F.cross_entropy(backbone.logits(hidden[counted_BL]), ids_BL[counted_BL], reduction="none")
    return torch.zeros(ids_BL.shape, device=device).masked_scatter(counted_BL, logs).sum(dim=1)
