"""Show-o's log-likelihoods of the two sides of pairs, with gradients.

Winner and loser of a pair stand in one row, as two ends of one beginning: of a caption's, the picture and the question;
of a drawing's, the prompt. The ends do not see each other, so this equals a row for each (see `visible_branches`).

A caption's log-likelihood is the sum over the tokens that were sampled, in the format they were sampled in, and over
the end token if the caption ended by itself. A drawing's is the weighted sum over its views (see views.py), which
are the same for policy and reference.

Shape suffixes: B pairs, 2 winner and loser, R rows, L positions, K views, N codes of an image, M scored tokens, D
width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gapbench.models.show_o.layout import Layout, question_text, visible_branches
from gapbench.models.show_o.model import ShowO
from gapbench.models.unified.backbone import Backbone
from gapbench.records import InputError
from hermesflow.records import CaptionCandidate, Pair
from hermesflow.views import Masks, States, Views

RAREST = 10.0  # -log of the least probability of not being kept: a code's threshold is known to bfloat16 alone

# --- Rows -------------------------------------------------------------------------------------------------------------


class Target(NamedTuple):
    """A token to be predicted at a position of an end; -1 is the last position of the beginning."""

    at: int
    token: int


class Row(NamedTuple):
    """Token ids of a beginning and of winner's and loser's end.

    picture: so many of the beginning's first ids see each other in full. drawn: so do all ids of an end.
    """

    start: list[int]
    ends: tuple[list[int], list[int]]
    targets: tuple[list[Target], list[Target]]
    picture: int
    drawn: bool


def caption_row(
    layout: Layout, codes: Sequence[int], text: Sequence[int], captions: Sequence[tuple[Sequence[int], bool]]
) -> Row:
    """[mmu] [soi] codes [eoi] text, then a caption's tokens, and [eot] where it ended by itself.

    text: ids up to the first token of the caption, with the [sot] before them if the format has it; at least one.
    """
    picture = layout.picture_prefix(torch.tensor([list(codes)]))[0].tolist()
    labels = [[*tokens, layout.eot] if ended else list(tokens) for tokens, ended in captions]
    win, lose = ([Target(at - 1, token) for at, token in enumerate(tokens)] for tokens in labels)
    # The last token is predicted and never read.
    return Row([*picture, *text], (labels[0][:-1], labels[1][:-1]), (win, lose), len(picture), drawn=False)


def drawing_row(
    layout: Layout,
    prompt: Sequence[int],
    images: Sequence[Sequence[int]],
    hidden_2N: Tensor,
    full_vocabulary: bool = False,
) -> Row:
    """[t2i] [sot] prompt [eot], then [soi] codes [eoi], some hidden, which are predicted.

    full_vocabulary: [soi] and [eoi] are predicted too, as the released code of HermesFlow has it.
    """
    codes_2N = torch.tensor([list(codes) for codes in images])
    ends = layout.image_block(codes_2N.masked_fill(hidden_2N, -1)).tolist()
    targets = []
    for whole, hidden_N in zip(layout.image_block(codes_2N).tolist(), hidden_2N, strict=True):
        predicted = [1 + at for at in hidden_N.nonzero().flatten().tolist()]
        if full_vocabulary:
            predicted = [0, *predicted, len(hidden_N) + 1]
        targets.append([Target(at, whole[at]) for at in predicted])
    return Row(layout.prompt_block(prompt), tuple(ends), tuple(targets), 0, drawn=True)


class Discarded(NamedTuple):
    """Of all targets: at_M bool, those that were sampled and not kept, whatever their tokens became later; threshold_M
    and noise_M float32, see `Views`.
    """

    at_M: Tensor
    threshold_M: Tensor
    noise_M: Tensor

    @staticmethod
    def of(views: Sequence[Views]) -> Discarded | None:
        """In the order of the targets of the views' rows; None where all is kept."""
        if all(v.threshold_K2 is None for v in views):
            return None
        parts = []
        for hidden_K2N, scored_K2N, _, *limits in views:
            by_code = [limit_K2[:, :, None].expand_as(hidden_K2N) for limit_K2 in limits]
            parts.append([each[hidden_K2N] for each in (~scored_K2N, *by_code)])
        return Discarded(*map(torch.cat, zip(*parts, strict=True)))

    def log_likelihood(self, logits_MC: Tensor) -> Tensor:
        """Of those that were discarded, in their order: the log of the probability that a code is sampled and, with
        Gumbel noise added, is less likely than the threshold.

        Which codes would have been kept is taken as it stands, without gradient: through the last steps' noise, of next
        to no scale, its variance would have no bound.
        """
        at = self.at_M.to(logits_MC.device)
        threshold_L1, noise_L1 = (limit_M.to(at.device)[at][:, None] for limit_M in (self.threshold_M, self.noise_M))
        log_LC = logits_MC[at].log_softmax(dim=-1)
        above_LC = ((log_LC.detach() - threshold_L1) / noise_L1).nan_to_num(torch.inf, torch.inf, -torch.inf)
        return (log_LC - above_LC.exp().clamp(max=RAREST)).logsumexp(dim=-1)


def log_likelihood(
    backbone: Backbone,
    rows: Sequence[Row],
    columns: slice = slice(None),
    unprompted: Sequence[Row] = (),
    guidance: float = 0.0,
    discarded: Discarded | None = None,
) -> Tensor:
    """(R,2) float32: the sum of the log-probabilities of the winner's and the loser's targets.

    columns: the part of the vocabulary that is possible; all targets must be in it. unprompted: with `guidance` g, the
    same rows without their prompts, and the logits are (1 + g) times the rows' less g times those of these. discarded:
    the targets that count by not having been kept; to the gradient alone.
    """
    hidden_MD, target_M, counts = _scored(backbone, [*rows, *unprompted])
    logits_MC = backbone.logits(hidden_MD, columns)
    if unprompted:
        with_MC, without_MC = logits_MC.chunk(2)
        logits_MC, target_M = (1 + guidance) * with_MC - guidance * without_MC, target_M[: len(with_MC)]
    log_M = -F.cross_entropy(logits_MC, target_M - (columns.start or 0), reduction="none")
    if discarded is not None:
        # By its gradient alone: the value jumps where a code's likelihood passes a threshold, and would drown margins.
        log_L = discarded.log_likelihood(logits_MC)
        log_M = log_M.masked_scatter(discarded.at_M.to(log_M.device), log_L - log_L.detach())
    return torch.stack([part.sum() for part in log_M.split(counts[: 2 * len(rows)])]).view(len(rows), 2)


def _scored(backbone: Backbone, rows: Sequence[Row]) -> tuple[Tensor, Tensor, list[int]]:
    """Hidden states (M,D) that predict the rows' targets (M,), and how many each of the 2R ends has."""
    device = backbone.device
    lengths = [len(row.start) + sum(map(len, row.ends)) for row in rows]
    length = max(lengths)
    ids, positions, segments, images, at, tokens = [], [], [], [], [], []
    for number, (row, whole) in enumerate(zip(rows, lengths, strict=True)):
        start, (win, lose) = len(row.start), map(len, row.ends)
        pads = length - whole
        ids.append([*row.start, *row.ends[0], *row.ends[1], *[0] * pads])
        positions.append([*range(start), *range(start, start + win), *range(start, start + lose), *[0] * pads])
        segments.append([*[0] * start, *[1] * win, *[2] * lose, *[-1] * pads])
        picture = [*[True] * row.picture, *[False] * (start - row.picture)]
        images.append([*picture, *[row.drawn] * (win + lose), *[False] * pads])
        for offset, targets in zip((start, start + win), row.targets, strict=True):
            at += [number * length + (start if target.at < 0 else offset) + target.at for target in targets]
            tokens += [target.token for target in targets]
    counts = [len(targets) for row in rows for targets in row.targets]

    visible = visible_branches(torch.tensor(segments, device=device), torch.tensor(images, device=device))
    inputs = torch.tensor(ids, device=device)
    hidden_RLD = backbone.hidden(inputs, visible[:, None], torch.tensor(positions, device=device))
    hidden_MD = hidden_RLD.flatten(0, 1)[torch.tensor(at, device=device)]
    return hidden_MD, torch.tensor(tokens, device=device), counts


def caption_log_likelihood(backbone: Backbone, rows: Sequence[Row]) -> Tensor:
    """(R,2) float32 of `caption_row`s, every token of the vocabulary being possible."""
    return log_likelihood(backbone, rows)


def image_log_likelihood(
    backbone: Backbone,
    layout: Layout,
    prompts: Sequence[Sequence[int]],
    images: Sequence[Sequence[Sequence[int]]],
    views: Sequence[Views],
    full_vocabulary: bool = False,
    guidance: float = 0.0,
) -> Tensor:
    """(B,2) float32, the weighted sum over the views, of each prompt's two images (codes), drawn with `guidance`.

    Only image codes are possible, unless `full_vocabulary`, which is the released code's.
    """

    def rows_of(prompts: Sequence[Sequence[int]]) -> list[Row]:
        return [
            drawing_row(layout, prompt, pair, hidden_2N, full_vocabulary)
            for prompt, pair, of_pair in zip(prompts, images, views, strict=True)
            for hidden_2N in of_pair.hidden_K2N
        ]

    rows, unprompted = rows_of(prompts), rows_of([[]] * len(prompts)) if guidance else []
    codes = slice(layout.image_offset, layout.image_offset + layout.codebook_size)
    columns = slice(None) if full_vocabulary else codes
    by_row = log_likelihood(backbone, rows, columns, unprompted, guidance, Discarded.of(views))
    by_pair = by_row.split([len(of_pair.weight_K2) for of_pair in views])
    return torch.stack(
        [(rows * v.weight_K2.to(rows.device)).sum(dim=0) for rows, v in zip(by_pair, views, strict=True)]
    )


# --- Pairs ------------------------------------------------------------------------------------------------------------


class Likelihood(NamedTuple):
    """Of one side of a batch of pairs: log-likelihoods (B,2) float32, how many tokens each is the sum over (B,2), by
    the views' weights for drawings, and whether the pair has the side (B,). Where it has not, 0 and 1.
    """

    log_B2: Tensor
    tokens_B2: Tensor
    present_B: Tensor


class Likelihoods:
    """The log-likelihoods of pairs under a Show-o, whose gradients they have unless they are taken without.

    question: what the captions were sampled for. guidance: of drawings. The distribution that is sampled from is the
    guided one, so a preference among its samples is about that; 0 takes the prompted logits alone, as the released
    code of HermesFlow does.
    """

    def __init__(
        self, model: ShowO, views: Masks | States, question: str, full_vocabulary: bool = False, guidance: float = 0.0
    ) -> None:
        if model.parts.clip is not None:
            raise InputError(f"{model.name}: CLIP-ViT checkpoints do not read image codes, so pairs cannot train them")
        self.backbone, self.layout, self.views = model.backbone, model.layout, views
        self.question, self.full_vocabulary, self.guidance = question, full_vocabulary, guidance
        self._tokenizer = model.parts.tokenizer
        self._text = [self.layout.eot, *self._tokens(question_text(question))]

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    @property
    def network(self) -> torch.nn.Module:
        return self.backbone.phi

    def told(self) -> dict[str, Any]:
        """All that values depend on besides the weights and the pair."""
        views = {"kind": type(self.views).__name__.lower(), **asdict(self.views)}
        del views["sets"]  # which set a value was taken under, its visit says
        about = {"question": self.question, "full_vocabulary": self.full_vocabulary, "guidance": self.guidance}
        return {"views": views, **about}

    def same_as(self, visit: int) -> int:
        """The first visit that sees the same of a drawing."""
        return self.views.of(visit)

    def captions(self, pairs: Sequence[Pair]) -> Likelihood:
        """The understanding side."""
        there = [number for number, pair in enumerate(pairs) if pair.captions is not None]
        rows = [self._caption_row(pairs[number]) for number in there]
        tokens = [[float(len(targets)) for targets in row.targets] for row in rows]
        return placed(
            caption_log_likelihood(self.backbone, rows) if rows else None, tokens, there, len(pairs), self.device
        )

    def images(self, pairs: Sequence[Pair], visits: Sequence[int]) -> Likelihood:
        """The generation side, as each pair's visit (numbered from 0) views it."""
        there = [number for number, pair in enumerate(pairs) if pair.images is not None]
        if not there:
            return placed(None, [], there, len(pairs), self.device)
        prompts, images, views = [], [], []
        for number in there:
            pair, visit = pairs[number], visits[number]
            dropped = self.views.without_prompt(pair.id, visit)
            prompts.append([] if dropped else self._tokens(pair.caption))
            images.append([self._codes(pair, image.codes) for image in (pair.images.win, pair.images.lose)])
            views.append(self.views.views(pair, visit))
        log_B2 = image_log_likelihood(
            self.backbone, self.layout, prompts, images, views, self.full_vocabulary, self.guidance
        )
        edges = 2 * self.full_vocabulary
        tokens = [[count + edges for count in of_pair.tokens] for of_pair in views]
        return placed(log_B2, tokens, there, len(pairs), self.device)

    def check(self, pairs: Sequence[Pair]) -> None:
        """Raises InputError, naming the pair, for one that this model cannot have made."""
        for pair in pairs:
            if pair.captions is not None:
                self._caption_row(pair)
            if pair.images is not None:
                for image in (pair.images.win, pair.images.lose):
                    self._codes(pair, image.codes)
                self.views.check(pair)

    def _caption_row(self, pair: Pair) -> Row:
        captions = [self._caption(pair, caption) for caption in (pair.captions.win, pair.captions.lose)]
        row = caption_row(self.layout, self._codes(pair, pair.codes), self._text, captions)
        room = self.backbone.phi.config.max_position_embeddings
        if (longest := len(row.start) + max(map(len, row.ends))) > room:
            raise InputError(f"pair {pair.id}: a caption takes {longest} positions, the model has {room}; leave it out")
        return row

    def _caption(self, pair: Pair, caption: CaptionCandidate) -> tuple[Sequence[int], bool]:
        check_caption(pair, caption, self.layout.vocabulary)
        return caption.tokens, caption.ended

    def _codes(self, pair: Pair, codes: Sequence[int]) -> Sequence[int]:
        check_codes(pair, codes, self.layout.image_tokens, self.layout.codebook_size)
        return codes

    def _tokens(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids


def check_caption(pair: Pair, caption: CaptionCandidate, vocabulary: int) -> None:
    """Raises InputError, naming the pair, for one that a model of that many tokens cannot have said."""
    if not caption.tokens and not caption.ended:
        raise InputError(f"pair {pair.id}: a caption has no tokens; leave it out")
    if wrong := [token for token in caption.tokens if not 0 <= token < vocabulary]:
        raise InputError(f"pair {pair.id}: token {wrong[0]} is none of the model's {vocabulary}")


def check_codes(pair: Pair, codes: Sequence[int], image_tokens: int, codebook_size: int) -> None:
    """Raises InputError, naming the pair, for an image that a model of these sizes cannot have made."""
    if len(codes) != image_tokens:
        raise InputError(f"pair {pair.id}: an image of {len(codes)} codes; the model's have {image_tokens}")
    if wrong := [code for code in codes if not 0 <= code < codebook_size]:
        raise InputError(f"pair {pair.id}: image code {wrong[0]}; the model has {codebook_size}")


def placed(
    log_B2: Tensor | None, tokens: Sequence[Sequence[float]], there: Sequence[int], count: int, device: torch.device
) -> Likelihood:
    """Of `count` pairs, of which those `there` have the side."""
    logs, lengths = torch.zeros((count, 2), device=device), torch.ones((count, 2), device=device)
    present_B = torch.zeros(count, dtype=torch.bool, device=device)
    if log_B2 is not None:
        present_B[list(there)] = True
        lengths[present_B] = torch.tensor(tokens, device=device)
        logs = logs.masked_scatter(present_B[:, None], log_B2)
    return Likelihood(logs, lengths, present_B)
