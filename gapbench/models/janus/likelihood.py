"""Janus' log-likelihood of drawings, with gradients: exact, code by code, of the whole softmax at temperature 1.

Shape suffixes: B images, R rows (B, or with guidance 2B: prompted, then unprompted), N codes of an image, C code book,
D width of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from gapbench.models.janus.backbone import JanusBackbone
from gapbench.models.unified.likelihood import drawn_states
from gapbench.models.unified.sampling import guided


def image_log_probs(
    backbone: JanusBackbone, rows: Sequence[Sequence[int]], codes_BN: Tensor, guidance: float = 1.0
) -> Tensor:
    """(B,N) float32: log-probabilities of the codes, each given those before it.

    rows: token ids up to and with [boi]; the prompts', and with guidance other than 1 then the unprompted ones.
    """
    images_RND = backbone.embed_codes(codes_BN[:, :-1]).repeat(len(rows) // len(codes_BN), 1, 1)
    logits_BNC = guided(backbone.code_logits(drawn_states(backbone, rows, images_RND)), guidance)
    return -F.cross_entropy(logits_BNC.movedim(-1, 1), codes_BN, reduction="none")
