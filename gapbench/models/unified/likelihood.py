"""Likelihoods: of texts after questions as they are measured, of captions and drawings as they are trained.

How prompt and continuation are joined, and how texts are cut that are longer than the model's positions, are the rules
of lm-evaluation-harness (`TemplateLM._encode_pair`; `get_rolling_token_windows` with a context of one token), so that
numbers compare with those of other models there.

Shape suffixes: B windows or samples, R rows, L positions, N of an image, M scored tokens of all windows, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gapbench.models.unified.backbone import Backbone, KeyValues, left_padded, positions_after, visible_causal
from gapbench.records import TextLikelihood

LOGITS_AT_ONCE = 2048  # scored tokens; half a gigabyte at 58,498 columns


class Window(NamedTuple):
    """Token ids of which the last `scored` are to be predicted from those before them, one at least."""

    tokens: Sequence[int]
    scored: int


def joined(tokenize: Callable[[str], list[int]], prompt: str, continuation: str) -> tuple[list[int], list[int]]:
    """Tokens of the prompt without white space at its end, and what the whole text's tokens have more."""
    before = tokenize(prompt.rstrip())
    return before, tokenize(prompt + continuation)[len(before) :]


def windows(before: Sequence[int], continuation: Sequence[int], room: int) -> Iterator[Window]:
    """Every token of `continuation` in one window, `before` having one token at least.

    A window is conditioned on as much as `room` positions hold: a prompt loses its beginning, [sot] first, and where
    the continuation is too long as well, a full window is conditioned on the one token before it.
    """
    tokens = [*before, *continuation]
    start = len(before)
    while start < len(tokens):
        end = min(start + room, len(tokens))
        # One token more than there is room for: the last one is predicted and never read.
        yield Window(tokens[max(0, end - room - 1) : end], end - start)
        start = end


@torch.inference_mode()
def score(
    backbone: Backbone, pictures: KeyValues, picture_of_B: Tensor, windows: Sequence[Window]
) -> list[TextLikelihood]:
    """The likelihood of each window's end under the whole head's vocabulary.

    picture_of_B: row of `pictures` that each window is about; `KeyValues(0)` is no picture, whatever the row.
    """
    device, prefix = backbone.device, pictures.length
    inputs = [list(window.tokens[:-1]) for window in windows]
    length = max(map(len, inputs))
    # Pads stand at the end, where causality hides them from all that is scored.
    ids_BL = torch.tensor([[*row, *[0] * (length - len(row))] for row in inputs], device=device)
    at_K = torch.arange(prefix + length, device=device)
    visible, positions = (at_K <= at_K[prefix:, None])[None, None], at_K[None, prefix:]
    # Nothing reads a text's own keys and values again, so without a picture none need to be held.
    cache = pictures.select(picture_of_B.to(device), prefix + length) if prefix else None
    hidden_BLD = backbone.hidden(ids_BL, visible, positions, cache)

    counts = [window.scored for window in windows]
    row_M = [row for row, count in enumerate(counts) for _ in range(count)]
    at_M = [at for row, count in zip(inputs, counts, strict=True) for at in range(len(row) - count, len(row))]
    hidden_MD = hidden_BLD[torch.tensor(row_M, device=device), torch.tensor(at_M, device=device)]
    target_M = torch.tensor([token for tokens, count in windows for token in tokens[-count:]], device=device)
    logs, hits = [], []
    for hidden, target in zip(hidden_MD.split(LOGITS_AT_ONCE), target_M.split(LOGITS_AT_ONCE), strict=True):
        logits = backbone.logits(hidden)
        logs.append(logits.log_softmax(dim=-1).gather(1, target[:, None]).squeeze(1))
        hits.append(logits.argmax(dim=-1) == target)
    by_window = zip(torch.cat(logs).cpu().double().split(counts), torch.cat(hits).cpu().split(counts), strict=True)
    return [TextLikelihood(float(log.sum()), len(log), bool(hit.all())) for log, hit in by_window]


def text_log_likelihood(
    backbone: Backbone, prefix_BLD: Tensor, texts: Sequence[Sequence[int]], scored: Sequence[int]
) -> Tensor:
    """(B,) float32: the sum over the last `scored` tokens of each text, which follows a prefix of embeddings."""
    length, device = max(map(len, texts)), backbone.device
    # Pads stand at the end, where causality hides them from all that is scored.
    ids_BL = torch.tensor([[*text, *[0] * (length - len(text))] for text in texts], device=device)
    inputs = torch.cat([prefix_BLD, backbone.embed(ids_BL[:, :-1])], dim=1)
    no_pads_1, whole = torch.zeros(1, dtype=torch.int64, device=device), inputs.shape[1]
    hidden = backbone.hidden(inputs, visible_causal(no_pads_1, whole), positions_after(no_pads_1, whole))
    hidden = hidden[:, prefix_BLD.shape[1] - 1 :]
    at_BL = torch.arange(length, device=device)
    ends_B1 = torch.tensor([[len(text)] for text in texts], device=device)
    counts_B1 = torch.tensor([[count] for count in scored], device=device)
    counted_BL = (at_BL >= ends_B1 - counts_B1) & (at_BL < ends_B1)
    logs = -F.cross_entropy(backbone.logits(hidden[counted_BL]), ids_BL[counted_BL], reduction="none")
    return torch.zeros(ids_BL.shape, device=device).masked_scatter(counted_BL, logs).sum(dim=1)


def drawn_states(backbone: Backbone, rows: Sequence[Sequence[int]], image_RND: Tensor) -> Tensor:
    """(R,N+1,D): the hidden states that an image's codes are drawn from, at a row's last token and all of `image_RND`.

    rows: token ids of the prompts, up to what an image begins with. image_RND: embeddings of all codes but the last.
    """
    ids_RL, pads_R = left_padded(rows, backbone.device)
    inputs = torch.cat([backbone.embed(ids_RL), image_RND], dim=1)
    whole = inputs.shape[1]
    hidden = backbone.hidden(inputs, visible_causal(pads_R, whole), positions_after(pads_R, whole))
    return hidden[:, ids_RL.shape[1] - 1 :]
