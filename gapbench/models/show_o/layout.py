"""Show-o's token layout and omni-attention masks; the one place that knows either.

Source: Show-o (arXiv 2408.12528), `prompting_utils` of showlab/Show-o, restated. Four kinds of rows:

    drawing        [t2i] [sot] text [eot]  [soi] codes [eoi]            (the reference pads it on the left)
    answering      [mmu] [soi] codes [eoi]  [sot] text ...
    with CLIP-ViT  [mmu] system prompt [soi] features [eoi]  text ...
    text alone     [sot] text ...            (the reference's language-modelling rows: no task token, plain causality)

sot and eot are both the tokenizer's end-of-text token. Ids run: text vocabulary, ten special tokens, one id per image
code, and the mask token last. Nobody attends to padding and rotary positions are relative, so this package leaves left
pads out; `drawing_row` can put them back to compare with the reference.

Shape suffixes: B rows, L positions, N codes of an image. Masks are bool, [row, query, key], True where attended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SPECIAL = ("pad", "soi", "eoi", "sov", "eov", "t2i", "mmu", "t2v", "v2v", "lvg")


@dataclass(frozen=True, slots=True)
class Layout:
    """Token ids and lengths of one checkpoint.

    text_vocabulary: ids that the text tokenizer may give (50295 for Phi-1.5); special tokens follow it.
    image_tokens: codes per image, N. max_text: longest prompt in tokens, counted as the reference counts (M).
    """

    text_vocabulary: int
    codebook_size: int
    image_tokens: int
    eot: int
    max_text: int = 128

    def special(self, name: str) -> int:
        return self.text_vocabulary + SPECIAL.index(name)

    @property
    def pad(self) -> int:
        return self.special("pad")

    @property
    def soi(self) -> int:
        return self.special("soi")

    @property
    def eoi(self) -> int:
        return self.special("eoi")

    @property
    def image_offset(self) -> int:
        """Id of image code 0."""
        return self.text_vocabulary + len(SPECIAL)

    @property
    def mask(self) -> int:
        """Id of a masked image position."""
        return self.image_offset + self.codebook_size

    @property
    def vocabulary(self) -> int:
        return self.mask + 1

    def prompt_block(self, text: Sequence[int]) -> list[int]:
        """[t2i] [sot] text [eot], without pads; the empty prompt is the unconditional one.

        A text that is too long loses its end: at most max_text - 2 text tokens are kept.
        """
        text = list(text)
        if not text or text[0] != self.eot:
            text = [self.eot, *text]
        block = [self.special("t2i"), *text, self.eot]
        limit = self.max_text + 1
        return block if len(block) <= limit else [*block[: limit - 1], self.eot]

    def drawing_row(self, text: Sequence[int], image: Sequence[int], padded: bool = True) -> list[int]:
        """A whole drawing row; `image` holds token ids. `padded` puts the reference's left pads in front."""
        block = self.prompt_block(text)
        pads = [self.pad] * (self.max_text + 1 - len(block)) if padded else []
        return [*pads, *block, self.soi, *image, self.eoi]

    def image_block(self, codes_BN: Tensor) -> Tensor:
        """Codes (B,N), -1 where masked -> token ids (B,N+2) of [soi] codes [eoi]."""
        ids = torch.where(codes_BN < 0, self.mask, codes_BN + self.image_offset)
        edge = ids.new_full((len(ids), 1), 0)
        return torch.cat([edge + self.soi, ids, edge + self.eoi], dim=1)

    def picture_prefix(self, codes_BN: Tensor) -> Tensor:
        """Codes (B,N) -> ids (B,N+3) of [mmu] [soi] codes [eoi], what all questions about an image share."""
        task = codes_BN.new_full((len(codes_BN), 1), self.special("mmu"))
        return torch.cat([task, self.image_block(codes_BN)], dim=1)


def question_text(question: str) -> str:
    """The reference's captioning and answering format for discrete image tokens; a [sot] stands before it."""
    return f"USER: \n{question} ASSISTANT:"


def clip_question_text(question: str) -> str:
    """The format of the CLIP-ViT variant, as its tuning used it."""
    return f"USER: {question} ASSISTANT:"


def visible_drawing(pads_B: Tensor, soi: int, length: int) -> Tensor:
    """Drawing rows with `pads_B` left pads, [soi] at `soi`: text is causal, the image block sees all but pads.

    Pad rows see the pads before them, so that no row is empty.
    """
    q = torch.arange(length, device=pads_B.device)[:, None]
    k = torch.arange(length, device=pads_B.device)[None, :]
    pads = pads_B[:, None, None]
    causal = (k <= q) & ((k >= pads) | (q < pads))
    return torch.where(q >= soi, k >= pads, causal)


def visible_answering(prefix: int, length: int, device: torch.device | None = None) -> Tensor:
    """(L,L): the first `prefix` positions, [mmu] to [eoi], see each other and are seen by all; the text is causal.

    Without a picture `prefix` is 0.
    """
    k = torch.arange(length, device=device)
    return (k[None, :] <= k[:, None]) | (k[None, :] < prefix)


def visible_clip(system: int, features: int, length: int, device: torch.device | None = None) -> Tensor:
    """(L,L): causal, but the image features, after [mmu], `system` tokens and [soi], are seen by all."""
    k = torch.arange(length, device=device)
    image = (k >= system + 2) & (k < system + 2 + features)
    return (k[None, :] <= k[:, None]) | image[None, :]


def visible_packed(segment_BL: Tensor) -> Tensor:
    """Several texts about one image in one row: segment 0 is the shared prefix, 1.. the texts, -1 padding.

    Every text sees the prefix and, causally, itself: the same as one answering row per text.
    """
    k = torch.arange(segment_BL.shape[1], device=segment_BL.device)
    same = segment_BL[:, :, None] == segment_BL[:, None, :]
    shared = (segment_BL == 0)[:, None, :]
    return (same & (k[None, None, :] <= k[None, :, None])) | (shared & (segment_BL >= 0)[:, :, None])


def visible_branches(segment_BL: Tensor, image_BL: Tensor) -> Tensor:
    """Rows of one beginning with several ends: segment 0 the beginning, 1.. the ends, blind to each other, -1 padding.

    Text is causal; the positions of a segment's image, where `image_BL` is True, see each other in full.
    """
    k = torch.arange(segment_BL.shape[1], device=segment_BL.device)
    same = segment_BL[:, :, None] == segment_BL[:, None, :]
    shared = (segment_BL == 0)[:, None, :]
    image = same & image_BL[:, :, None] & image_BL[:, None, :]
    return ((same | shared) & (k[None, None, :] <= k[None, :, None])) | image
