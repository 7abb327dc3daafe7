"""How mPLUG answers: a beam search of its own, and a decoder that looks at each question once for all its beams.

Source: modelscope's `predictor.py` for mPLUG, beam 5, at most 10 tokens. It differs from the usual beam search in what
a finished beam does: its hypothesis is stored, but the beam goes on.

Shapes: Q questions, B beams, T tokens so far, M tokens of memory, H heads, D width, V words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, scaled_dot_product_attention

if TYPE_CHECKING:
    from transformers import BertLMHeadModel

CLS, SEP = 101, 102
BEAMS, MAX_TOKENS, MIN_TOKENS = 5, 10, 1
LENGTH_POWER = 0.6
FORBIDDEN = -1e20

# The last tokens of all beams, and which of the question's beams each of them continues -> logits of the next.
Step = Callable[[Tensor, Tensor], Tensor]


def beam_search(
    step: Step,
    questions: int,
    device: torch.device,
    beams: int = BEAMS,
    max_tokens: int = MAX_TOKENS,
    min_tokens: int = MIN_TOKENS,
) -> list[list[int]]:
    """For each question the best hypothesis: CLS, what follows, and SEP where the beam had ended.

    A hypothesis scores its log-probability over ((5 + length) / 6) ** 0.6. A question is done when its best beam ends
    or is full; then all its beams are stored as they stand, and the best of all stored ones, the first among equals,
    is its answer. Beams that ended earlier were stored with their score of then, and grew on behind their SEP.
    """
    sequences_QBT = torch.full((questions, beams, 1), CLS, device=device)
    logps_QB = torch.full((questions, beams), -torch.inf, device=device)
    logps_QB[:, 0] = 0  # all beams are alike at first, and one is enough
    origins_QB = torch.arange(beams, device=device).expand(questions, beams)
    stored: list[list[tuple[float, list[int]]]] = [[] for _ in range(questions)]
    answers: list[list[int]] = [[] for _ in range(questions)]

    for t in range(max_tokens):
        next_QBV = log_softmax(step(sequences_QBT[..., -1], origins_QB).float(), dim=-1)
        if t < min_tokens:
            next_QBV[..., SEP] = FORBIDDEN
        penalty = ((5 + t + 1) / 6) ** LENGTH_POWER
        scores = (logps_QB[..., None] + next_QBV) / penalty
        scores_QB, index = scores.flatten(1).topk(beams)
        logps_QB = scores_QB * penalty
        words = next_QBV.shape[-1]
        origins_QB, tokens_QB = index // words, index % words
        grown = sequences_QBT.gather(1, origins_QB[..., None].expand(-1, -1, t + 1))
        sequences_QBT = torch.cat([grown, tokens_QB[..., None]], dim=-1)

        found = zip(scores_QB.tolist(), (tokens_QB == SEP).tolist(), sequences_QBT.tolist(), strict=True)
        for question, (values, ended, sequences) in enumerate(found):
            if answers[question]:
                continue
            done = ended[0] or t + 1 == max_tokens
            hypotheses = zip(values, sequences, ended, strict=True)
            stored[question] += [(value, sequence) for value, sequence, end in hypotheses if end or done]
            if done:
                answers[question] = max(stored[question], key=lambda hypothesis: hypothesis[0])[1]
        if all(answers):
            break
    return answers


class Decoder:
    """Steps of a BERT decoder over `memory`. What it looks at has its keys and values computed once a question, and
    each token of a beam once a beam.
    """

    def __init__(self, model: BertLMHeadModel, memory_QMD: Tensor, mask_QM: Tensor) -> None:
        """mask: True where the memory is to be seen."""
        self.model = model
        self.heads = model.config.num_attention_heads
        self.mask = mask_QM[:, None, None, :]
        self.seen = [
            (
                self._split(layer.crossattention.self.key(memory_QMD)),
                self._split(layer.crossattention.self.value(memory_QMD)),
            )
            for layer in model.bert.encoder.layer
        ]
        self.past: list[tuple[Tensor, Tensor] | None] = [None] * len(self.seen)
        self.length = 0

    def step(self, tokens_QB: Tensor, origins_QB: Tensor) -> Tensor:
        """Logits (Q,B,V) of what follows `tokens`, each of which continues the beam `origins` of the step before."""
        questions, beams = tokens_QB.shape
        first = beams * torch.arange(questions, device=tokens_QB.device)
        rows = (first[:, None] + origins_QB).flatten()
        positions = torch.full_like(tokens_QB, self.length)
        x_QBD = self.model.bert.embeddings(input_ids=tokens_QB, position_ids=positions)
        for number, (layer, (keys, values)) in enumerate(zip(self.model.bert.encoder.layer, self.seen, strict=True)):
            own = layer.attention.self
            query, key, value = (
                self._split(project(x_QBD).flatten(0, 1)[:, None]) for project in (own.query, own.key, own.value)
            )
            if self.past[number] is not None:
                past_keys, past_values = self.past[number]
                key = torch.cat([past_keys[rows], key], dim=2)
                value = torch.cat([past_values[rows], value], dim=2)
            self.past[number] = key, value
            looked = self._join(scaled_dot_product_attention(query, key, value)).view_as(x_QBD)
            x_QBD = layer.attention.output(looked, x_QBD)
            # The beams of a question are so many queries to one memory.
            query = self._split(layer.crossattention.self.query(x_QBD))
            looked = self._join(scaled_dot_product_attention(query, keys, values, attn_mask=self.mask))
            x_QBD = layer.crossattention.output(looked, x_QBD)
            x_QBD = layer.output(layer.intermediate(x_QBD), x_QBD)
        self.length += 1
        return self.model.cls(x_QBD)

    def _split(self, x: Tensor) -> Tensor:
        """(N,L,D) -> (N,H,L,D/H)"""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _join(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)
