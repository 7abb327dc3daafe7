"""Pairs that the tiny checkpoint can have made, for tests of training."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gapbench.models.show_o.model import ShowO
from hermesflow.records import CaptionCandidate, ImageCandidate, Pair, Preference

QUESTION = "Give a caption for this image."
TEXTS = ("a red circle", "two green stars above a blue heart in the image", "three orange squares", "a cross")


def tokens(model: ShowO, text: str) -> list[int]:
    return model.parts.tokenizer(text, add_special_tokens=False).input_ids


def caption(model: ShowO, text: str, score: float = 0.5) -> CaptionCandidate:
    return CaptionCandidate(text, tuple(tokens(model, f" {text}")), True, score, 1, 1.0)


def drawing(codes: Sequence[int], score: float = 0.5) -> ImageCandidate:
    return ImageCandidate(tuple(codes), 0, (True,), score)


def pair(model: ShowO, number: int) -> Pair:
    """Pair `number`, with both sides."""
    random = torch.Generator().manual_seed(number)
    size = (3, model.layout.image_tokens)
    real, win, lose = torch.randint(model.layout.codebook_size, size, generator=random).tolist()
    texts = [TEXTS[(number + shift) % len(TEXTS)] for shift in range(3)]
    return Pair(
        f"item-{number}",
        f"cluster-{number}",
        texts[0],
        ("existence",),
        tuple(real),
        Preference(caption(model, texts[1], 0.9), caption(model, texts[2], 0.1)),
        Preference(drawing(win, 0.9), drawing(lose, 0.1)),
    )
