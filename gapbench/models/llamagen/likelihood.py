"""LlamaGen's log-likelihood of drawings, exact, with gradients.

The sum over an image's codes of the log-probability of each, as the training loss has it: of the whole distribution,
at temperature 1, without top-k and top-p. The unconditional distribution sees as many slots as the caption takes, as in
training and drawing, and so depends on the caption's length.

Shape suffixes: B images, N codes of an image.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from gapbench.models.llamagen.gpt import Condition, Gpt
from gapbench.models.unified.sampling import guided


def image_log_probs(gpt: Gpt, condition: Condition, codes_BN: Tensor, guidance: float = 1.0) -> Tensor:
    """(B,N) float32: log-probabilities of the codes; guidance of 1 or less is none."""
    is_guided = guidance > 1
    codes_RN = codes_BN.repeat(2, 1) if is_guided else codes_BN
    logits = gpt.image_logits(*condition.rows(both=is_guided), codes_RN)
    if is_guided:
        logits = guided(logits, guidance)
    return -F.cross_entropy(logits.transpose(1, 2), codes_BN, reduction="none")
