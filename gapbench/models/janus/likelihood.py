"""Janus' log-likelihood of drawings, with gradients: exact, code by code, of the whole softmax at temperature 1.

Shape suffixes: B images, R rows (B, or with guidance 2B: prompted, then unprompted), N codes of an image, C code book.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from gapbench.models.janus.backbone import JanusBackbone
from gapbench.models.vila_u.backbone import positions_after, visible_causal
from gapbench.models.vila_u.sampling import guided


def image_log_probs(
    backbone: JanusBackbone, rows: Sequence[Sequence[int]], codes_BN: Tensor, guidance: float = 1.0
) -> Tensor:
    """(B,N) float32: log-probabilities of the codes, each given those before it.

    rows: token ids up to and with [boi]; the prompts', and with guidance other than 1 then the unprompted ones.
    """
    length, device = max(map(len, rows)), backbone.device
    pads_R = torch.tensor([length - len(row) for row in rows], device=device)
    ids_RL = torch.tensor([[0] * (length - len(row)) + list(row) for row in rows], device=device)
    images = backbone.embed_codes(codes_BN[:, :-1]).repeat(len(rows) // len(codes_BN), 1, 1)
    inputs = torch.cat([backbone.embed(ids_RL), images], dim=1)
    whole = inputs.shape[1]
    hidden = backbone.hidden(inputs, visible_causal(pads_R, whole), positions_after(pads_R, whole))
    logits_BNC = guided(backbone.code_logits(hidden[:, length - 1 :]), guidance)
    return -F.cross_entropy(logits_BNC.movedim(-1, 1), codes_BN, reduction="none")
