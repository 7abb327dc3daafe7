"""What `generate` of transformers is given so that each row decodes in its own way.

`generate` knows one setting and one generator for a whole batch, and every class of models has its own way to prepare
positions, masks and caches for it. So its loop is kept, and a logits processor makes the choice: it picks the token of
every row from the raw logits, leaves that one alone possible, and keeps what it picked.

Shape suffixes: B rows, T new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from gapbench.models.unified.sampling import Choice
from gapbench.records import TextLikelihood


class Picked(LogitsProcessor):
    """Picks `length` tokens for each row. Whatever `generate` asks for beyond them is not looked at."""

    def __init__(self, choose: Choice, length: int) -> None:
        self._choose, self._length = choose, length
        self._tokens: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = len(self._tokens)
        if step == self._length:  # on a GPU `generate` looks a step late whether all rows have ended
            return scores
        tokens_B = self._choose(step, scores, torch.arange(len(scores)))
        self._tokens.append(tokens_B)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens_B[:, None], 0.0)

    def tokens(self) -> list[list[int]]:
        """What was picked for each row, which may go on after an end token."""
        return torch.stack(self._tokens, dim=1).tolist()


class Told:
    """A choice that is none: the tokens of given texts, whose likelihoods it notes."""

    def __init__(self, texts: Sequence[Sequence[int]], device: torch.device) -> None:
        self.length = max(map(len, texts))
        self._counts = [len(text) for text in texts]
        padded = [[*text, *[0] * (self.length - len(text))] for text in texts]
        self._target_BT = torch.tensor(padded, device=device)
        self._logs: list[Tensor] = []
        self._hits: list[Tensor] = []

    def __call__(self, step: int, logits_BV: Tensor, rows_B: Tensor) -> Tensor:
        target_B = self._target_BT[:, step]
        self._logs.append(logits_BV.log_softmax(dim=-1).gather(1, target_B[:, None]).squeeze(1))
        self._hits.append(logits_BV.argmax(dim=-1) == target_B)
        return target_B

    def likelihoods(self) -> list[TextLikelihood]:
        logs_BT, hits_BT = torch.stack(self._logs, dim=1).cpu().double(), torch.stack(self._hits, dim=1).cpu()
        return [
            TextLikelihood(float(log[:count].sum()), count, bool(hit[:count].all()))
            for log, hit, count in zip(logs_BT, hits_BT, self._counts, strict=True)
        ]
