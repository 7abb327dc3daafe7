"""The language model under a family, transformers' own, and the beginnings of rows, computed once for all that follows.

What every later token sees of a prefix does not change, so its keys and values are kept; and the head, wide as the
vocabulary, is applied only where a token is chosen. Nothing here is an approximation.

Shape suffixes: B rows, P rows of pictures, L new positions, K key positions, D width, V vocabulary, H heads, d head
width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class KeyValues:
    """Keys and values of all layers in buffers of fixed capacity; what is written stays only once it is kept.

    Drawing keeps the prompt alone and writes every step's image over the last step's; answering keeps each token.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def update(self, keys_BHLd: Tensor, values_BHLd: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        """Called by each attention layer: write behind what is kept, return everything up to there (B,H,K,d)."""
        if layer == len(self._keys):
            shape = (*keys_BHLd.shape[:2], self.capacity, keys_BHLd.shape[3])
            self._keys.append(keys_BHLd.new_empty(shape))
            self._values.append(values_BHLd.new_empty(shape))
        end = self.length + keys_BHLd.shape[2]
        if end > self.capacity:
            raise ValueError(f"{end} positions do not fit a cache of {self.capacity}")
        self._keys[layer][:, :, self.length : end] = keys_BHLd
        self._values[layer][:, :, self.length : end] = values_BHLd
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

    def get_seq_length(self, *_: object) -> int:
        return self.length

    def keep(self, positions: int) -> None:
        self.length += positions

    def select(self, rows_B: Tensor, capacity: int | None = None) -> KeyValues:
        """The kept part of the given rows, a row as often as it is named, with room for `capacity` positions."""
        chosen = KeyValues(capacity or self.capacity)
        chosen.length = self.length
        for source, target in ((self._keys, chosen._keys), (self._values, chosen._values)):
            for tensor in source:
                buffer = tensor.new_empty((len(rows_B), tensor.shape[1], chosen.capacity, tensor.shape[3]))
                buffer[:, :, : self.length] = tensor[rows_B, :, : self.length]
                target.append(buffer)
        return chosen


class Backbone:
    """Hidden states and logits of a causal language model (attention implementation `sdpa`, which takes bool masks).

    phi: a `PhiForCausalLM` in Show-o; in other families what is called alike, as a `LlamaForCausalLM`.
    """

    def __init__(self, phi: PreTrainedModel) -> None:
        self.phi = phi

    @property
    def device(self) -> torch.device:
        return self.phi.device

    @property
    def dtype(self) -> torch.dtype:
        return self.phi.dtype

    def embed(self, ids_BL: Tensor) -> Tensor:
        return self.phi.model.embed_tokens(ids_BL)

    def hidden(self, inputs: Tensor, visible: Tensor, positions_BL: Tensor, cache: KeyValues | None = None) -> Tensor:
        """Last hidden states (B,L,D) of token ids (B,L) or embeddings (B,L,D).

        visible: bool, broadcastable to (B,1,L,K), K counting the kept positions of `cache` first.
        """
        named = {"inputs_embeds": inputs} if inputs.is_floating_point() else {"input_ids": inputs}
        return self.phi.model(
            **named,
            attention_mask=visible,
            position_ids=positions_BL,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    def logits(self, hidden: Tensor, columns: slice = slice(None)) -> Tensor:
        """float32 logits (..., V) of hidden states (..., D), or of some columns of the vocabulary."""
        head = self.phi.lm_head
        return F.linear(hidden, head.weight[columns], None if head.bias is None else head.bias[columns]).float()


# --- Rows of several lengths ------------------------------------------------------------------------------------------


def left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids (B,L) and left pads (B,). Pads only align the rows: they are hidden and take no position."""
    length = max(map(len, rows))
    pads_B = torch.tensor([length - len(row) for row in rows], device=device)
    return torch.tensor([[0] * (length - len(row)) + list(row) for row in rows], device=device), pads_B


def visible_causal(pads_B: Tensor, length: int) -> Tensor:
    """(B,1,L,L) bool: rows with `pads_B` left pads are causal; a pad sees the pads before it, so no row is empty."""
    at = torch.arange(length, device=pads_B.device)
    query, key, pads = at[:, None], at[None, :], pads_B[:, None, None]
    return ((key <= query) & ((key >= pads) | (query < pads)))[:, None]


def positions_after(pads_B: Tensor, length: int) -> Tensor:
    """(B,L) int64: positions of rows with left pads, which take none."""
    return (torch.arange(length, device=pads_B.device) - pads_B[:, None]).clamp(min=0)


# --- Prefixes ---------------------------------------------------------------------------------------------------------


def prompt_cache(backbone: Backbone, rows: Sequence[Sequence[int]], room: int) -> tuple[KeyValues, Tensor, Tensor]:
    """Keys and values of causal rows, with room for more positions, their last hidden states (B,D) and left pads (B,).

    Equal rows are computed once.
    """
    distinct = list(dict.fromkeys(tuple(row) for row in rows))
    ids, pads = left_padded(distinct, backbone.device)
    length = ids.shape[1]
    cache = KeyValues(length)
    hidden = backbone.hidden(ids, visible_causal(pads, length), positions_after(pads, length), cache)[:, -1]
    cache.keep(length)
    index = {row: number for number, row in enumerate(distinct)}
    at = torch.tensor([index[tuple(row)] for row in rows], device=backbone.device)
    return cache.select(at, length + room), hidden[at], pads[at]


@torch.inference_mode()
def picture_cache(backbone: Backbone, inputs: Tensor, visible: Tensor) -> KeyValues:
    """Keys and values of the pictures' prefixes, ids (P,L) or embeddings (P,L,D) under a mask (L,L)."""
    length = inputs.shape[1]
    cache = KeyValues(length)
    positions = torch.arange(length, device=backbone.device)[None]
    backbone.hidden(inputs, visible[None, None], positions, cache)
    cache.keep(length)
    return cache
