"""Image and text to text: decoding after Show-o's answering rows.

The rows before a question see only each other, so a picture's keys and values are computed once and shared by all
questions about it; questions about no picture share a cache of no positions. Rows that have ended leave the batch.

Shape suffixes: B questions, L positions, V vocabulary, P pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from gapbench.models.show_o.backbone import Backbone, KeyValues
from gapbench.models.show_o.layout import Layout, visible_answering
from gapbench.models.show_o.sampling import pick
from gapbench.records import Decoding


class Choice(Protocol):
    """Picks the next token of every row."""

    def __call__(self, step: int, logits_BV: Tensor, rows_B: Tensor) -> Tensor:
        """Raw float32 logits of the rows still decoding, and which rows of the batch these are -> tokens (B,)."""
        ...


def greedy(step: int, logits_BV: Tensor, rows_B: Tensor) -> Tensor:
    return logits_BV.argmax(dim=-1)


def next_token_probs(logits_BV: Tensor, temperature: float, top_k: int | None) -> Tensor:
    """Softmax of logits / temperature over the `top_k` largest (ties with the k-th stay, as in the reference)."""
    logits_BV = logits_BV / temperature
    if top_k is not None:
        smallest = logits_BV.topk(min(top_k, logits_BV.shape[-1])).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < smallest, -torch.inf)
    return logits_BV.softmax(dim=-1)


class Sampled:
    """Sampling with one generator per question, one uniform a token; each question is decoded in its own way."""

    def __init__(self, seeds: Sequence[int], ways: Sequence[Decoding]) -> None:
        length = max(way.max_new_tokens for way in ways)
        draws = [torch.rand(length, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        self._uniform_BT = torch.stack(draws)
        settings = [(way.temperature, way.top_k) for way in ways]
        self._settings = list(dict.fromkeys(settings))
        self._setting_B = torch.tensor([self._settings.index(each) for each in settings])

    def __call__(self, step: int, logits_BV: Tensor, rows_B: Tensor) -> Tensor:
        tokens_B = greedy(step, logits_BV, rows_B)
        rows_B = rows_B.cpu()
        for number, (temperature, top_k) in enumerate(self._settings):
            at = (self._setting_B[rows_B] == number).nonzero().squeeze(-1)
            if temperature > 0 and len(at):
                uniform = self._uniform_BT[rows_B[at], step].to(logits_BV.device)
                at = at.to(logits_BV.device)
                tokens_B[at] = pick(next_token_probs(logits_BV[at], temperature, top_k), uniform)
        return tokens_B


@torch.inference_mode()
def picture_cache(backbone: Backbone, inputs: Tensor, visible: Tensor) -> KeyValues:
    """Keys and values of the pictures' prefixes, ids (P,L) or embeddings (P,L,D) under a mask (L,L)."""
    length = inputs.shape[1]
    cache = KeyValues(length)
    positions = torch.arange(length, device=backbone.device)[None]
    backbone.hidden(inputs, visible[None, None], positions, cache)
    cache.keep(length)
    return cache


def discrete_picture_cache(backbone: Backbone, layout: Layout, codes_PN: Tensor) -> KeyValues:
    """`picture_cache` of [mmu] [soi] codes [eoi]."""
    prefix = layout.picture_prefix(codes_PN.to(backbone.device))
    length = prefix.shape[1]
    return picture_cache(backbone, prefix, visible_answering(length, length, backbone.device))


@torch.inference_mode()
def decode(
    backbone: Backbone,
    pictures: KeyValues,
    picture_of_B: Tensor,
    texts: Sequence[Sequence[int]],
    eot: int,
    max_new_tokens: int,
    choose: Choice = greedy,
) -> list[list[int]]:
    """Tokens generated for each text after its picture, up to and including `eot`, at most `max_new_tokens`.

    picture_of_B: row of `pictures` that each text is about; `KeyValues(0)` is no picture, whatever the row. Texts are
    token ids, each at least one.
    """
    device, prefix = backbone.device, pictures.length
    length = max(len(text) for text in texts)
    cache = pictures.select(picture_of_B.to(device), prefix + length + max_new_tokens)
    pads_B = torch.tensor([length - len(text) for text in texts], device=device)
    ids = torch.tensor([[eot] * (length - len(text)) + list(text) for text in texts], device=device)

    # Pads stand between the picture and a shorter text; they are hidden and take no position.
    keys = torch.arange(cache.capacity, device=device)
    seen_BK = (keys < prefix) | (keys >= prefix + pads_B[:, None])
    own_L1 = prefix + torch.arange(length, device=device)[:, None]
    key_K = keys[: prefix + length]
    # A pad's own row must see something, or its softmax is empty: all see themselves.
    visible = (seen_BK[:, None, None, : prefix + length] & (key_K <= own_L1)) | (key_K == own_L1)
    positions = prefix + (torch.arange(length, device=device) - pads_B[:, None]).clamp(min=0)

    answers: list[list[int]] = [[] for _ in texts]
    rows = torch.arange(len(texts), device=device)
    hidden = backbone.hidden(ids, visible, positions, cache)[:, -1]
    cache.keep(length)
    position_B = prefix + length - pads_B
    for step in range(max_new_tokens):
        tokens = choose(step, backbone.logits(hidden), rows)
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            answers[row].append(token)
        going = tokens != eot
        if step == max_new_tokens - 1 or not going.any():
            break
        if not going.all():
            going = going.nonzero().squeeze(-1)
            cache, tokens, rows = cache.select(going), tokens[going], rows[going]
            seen_BK, position_B = seen_BK[going], position_B[going]
        visible = seen_BK[:, None, None, : cache.length + 1]
        hidden = backbone.hidden(tokens[:, None], visible, position_B[:, None], cache)[:, -1]
        cache.keep(1)
        position_B = position_B + 1
    return answers
