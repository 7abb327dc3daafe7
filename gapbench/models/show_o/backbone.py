"""The language model under Show-o, transformers' own Phi, and the two economies that its masks allow.

What every later token sees of a prefix does not change, so its keys and values are computed once; and the head, 58,498
columns wide, is applied only where a token is chosen. Nothing here is an approximation.

Shape suffixes: B rows, L new positions, K key positions, D width, V vocabulary, H heads, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PhiForCausalLM


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
    """Hidden states and logits of a `PhiForCausalLM` (attention implementation `sdpa`, which takes bool masks)."""

    def __init__(self, phi: PhiForCausalLM) -> None:
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
        return F.linear(hidden, head.weight[columns], head.bias[columns]).float()
