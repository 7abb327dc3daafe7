"""The language model under VILA-U, transformers' own Llama, and the projector of image features to its width.

Shape suffixes: B rows, L positions, V vocabulary, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gapbench.models.show_o.backbone import Backbone


class LlamaBackbone(Backbone):
    """Hidden states and logits of a `LlamaForCausalLM`, which is in `phi`'s place: all but its head is called alike."""

    def logits(self, hidden: Tensor, columns: slice = slice(None)) -> Tensor:
        """float32 logits (..., V) of hidden states (..., D), or of some columns of the vocabulary."""
        return F.linear(hidden, self.phi.lm_head.weight[columns]).float()


def visible_causal(pads_B: Tensor, length: int) -> Tensor:
    """(B,1,L,L) bool: rows with `pads_B` left pads are causal; a pad sees the pads before it, so no row is empty."""
    at = torch.arange(length, device=pads_B.device)
    query, key, pads = at[:, None], at[None, :], pads_B[:, None, None]
    return ((key <= query) & ((key >= pads) | (query < pads)))[:, None]


def positions_after(pads_B: Tensor, length: int) -> Tensor:
    """(B,L) int64: positions of rows with left pads, which take none."""
    return (torch.arange(length, device=pads_B.device) - pads_B[:, None]).clamp(min=0)
