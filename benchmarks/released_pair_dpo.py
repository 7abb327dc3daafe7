"""Pair-DPO on the schedule of the released HermesFlow code (arXiv 2502.12148), in our own words.

The yardstick of `pair_dpo_speed.py`. A step runs four forwards, winner and loser by policy and by reference, each of a
drawing and an answering row a pair. Both rows have the fixed length: prompts are padded on the left, captions on the
right. The head gives every position the whole vocabulary, the masks are float, the three pictures of a pair pass
through MAGVIT-v2 anew, the reference is run again in each step, and attention keeps all it needs for the gradient.

Left out is what would change the loss: there one draw of condition dropout each for winner and loser, log-likelihoods
summed over the batch before the sigmoid, captions in a format they were not sampled in, and a decay of norms and
embeddings. Texts are tokens before the clock starts, as worker processes would have them.

Shape suffixes: B pairs, R rows (2 B: drawings, then captions), L positions, N codes of an image.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gapbench.models.show_o.layout import Layout, visible_answering, visible_drawing
from gapbench.models.show_o.magvit import Magvit
from gapbench.models.unified.backbone import Backbone

IGNORED = -100  # no label


class Example(NamedTuple):
    """A pair as a released loader hands it over.

    pixels: (3,3,H,W) in [-1,1], of the real picture, the winner and the loser. prompt, question: token ids, the latter
    with the [sot] before it. captions: of winner and loser, without the end token, which follows both. masked_N: bool.
    """

    pixels: Tensor
    prompt: Sequence[int]
    question: Sequence[int]
    captions: tuple[Sequence[int], Sequence[int]]
    masked_N: Tensor


class Rows(NamedTuple):
    """ids (R,L), labels (R,L) of what each position predicts, visible (R,1,L,L) float32 to be added."""

    ids: Tensor
    labels: Tensor
    visible: Tensor


class Released:
    """A policy, at first a copy of the reference, on its way. The reference is held beside it."""

    def __init__(self, reference: Backbone, layout: Layout, magvit: Magvit, beta: float, learning_rate: float) -> None:
        self.layout, self.magvit, self.beta = layout, magvit, beta
        self.reference = reference
        self.policy = Backbone(copy.deepcopy(reference.phi).requires_grad_(True))
        self.optimizer = torch.optim.AdamW(self.policy.phi.parameters(), lr=learning_rate, weight_decay=0.0)

    def step(self, batch: Sequence[Example]) -> float:
        """One update; the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        real_BN = self._encode(batch, 0)
        winner, loser = (self._rows(batch, side, real_BN, self._encode(batch, 1 + side)) for side in (0, 1))
        policy = [self._log_likelihood(self.policy, rows) for rows in (winner, loser)]
        with torch.no_grad():
            reference = [self._log_likelihood(self.reference, rows) for rows in (winner, loser)]
        margin_2B = (policy[0] - reference[0]) - (policy[1] - reference[1])
        loss = -F.logsigmoid(self.beta * margin_2B).sum(dim=0).mean()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def _encode(self, batch: Sequence[Example], which: int) -> Tensor:
        """Codes (B,N), a picture at a time, as a released step has them."""
        return torch.cat([self.magvit.encode(each.pixels[which, None]) for each in batch])

    def _rows(self, batch: Sequence[Example], side: int, real_BN: Tensor, drawn_BN: Tensor) -> Rows:
        layout, device = self.layout, real_BN.device
        ids, labels, pads = [], [], []
        soi = layout.max_text + 1
        for each, codes_N in zip(batch, drawn_BN, strict=True):
            block = layout.prompt_block(each.prompt)
            pads.append(soi - len(block))
            hidden_N = torch.where(each.masked_N.to(device), layout.mask, codes_N + layout.image_offset)
            ids.append(layout.drawing_row(each.prompt, hidden_N.tolist()))
            scored_N = torch.where(each.masked_N.to(device), codes_N + layout.image_offset, IGNORED)
            labels.append([*[IGNORED] * soi, layout.soi, *scored_N.tolist(), layout.eoi])
        length = len(ids[0])
        prefix = layout.image_tokens + 3
        for each, codes_N in zip(batch, real_BN, strict=True):
            answer = [*each.captions[side], layout.eot]
            text = [*each.question, *answer]
            rest = length - prefix - len(text)
            if rest < 0:
                raise ValueError(f"a caption takes {len(text)} positions with its question; the row has {rest} fewer")
            ids.append([*layout.picture_prefix(codes_N[None])[0].tolist(), *text, *[layout.pad] * rest])
            before = prefix + len(each.question) - 1
            labels.append([*[IGNORED] * before, *answer, *[IGNORED] * (rest + 1)])
        count = len(batch)
        drawing = visible_drawing(torch.tensor(pads, device=device), soi, length)
        answering = visible_answering(prefix, length, device).expand(count, length, length)
        hidden = ~torch.cat([drawing, answering])[:, None]
        visible = torch.zeros(hidden.shape, device=device).masked_fill(hidden, torch.finfo(torch.float32).min)
        return Rows(torch.tensor(ids, device=device), torch.tensor(labels, device=device), visible)

    def _log_likelihood(self, backbone: Backbone, rows: Rows) -> Tensor:
        """(2,B) float32 of captions and drawings: sums over the labels."""
        positions = torch.arange(rows.ids.shape[1], device=rows.ids.device)[None]
        logits = backbone.logits(backbone.hidden(rows.ids, rows.visible, positions))
        count, soi = len(rows.ids) // 2, self.layout.max_text + 1
        found = []
        for part in ((slice(count, None), slice(None)), (slice(count), slice(soi, None))):
            labels = rows.labels[part]
            chosen = logits[part].log_softmax(dim=-1).gather(-1, labels.clamp(min=0)[:, :, None]).squeeze(-1)
            found.append((chosen * (labels != IGNORED)).sum(dim=1))
        return torch.stack(found)
