"""Homologous pairs of the miniature world, of scenes and of their negatives, without a model's curation."""

from __future__ import annotations

import random

from gapbench.miniature import tiles
from gapbench.miniature.language import describe
from gapbench.miniature.world import Scene, scenes
from gapbench.models.show_o.model import ShowO
from hermesflow.records import CaptionCandidate, ImageCandidate, Pair, Preference


def make_pairs(model: ShowO, count: int) -> list[Pair]:
    """Winner: what shows or tells the scene. Loser: what shows or tells another one."""
    found = scenes("train", 2 * count)
    return [_pair(model, n, found[n], found[count + n]) for n in range(count)]


def _pair(model: ShowO, number: int, scene: Scene, other: Scene) -> Pair:
    def caption(of: Scene, score: float) -> CaptionCandidate:
        text = describe(of, random.Random(number)).text
        tokens = model.parts.tokenizer(f" {text}", add_special_tokens=False).input_ids
        return CaptionCandidate(text, tuple(tokens), True, score, None, 1.0)

    def image(of: Scene, score: float) -> ImageCandidate:
        return ImageCandidate(codes_of(model, of), number, (score > 0.5,), score)

    return Pair(
        id=f"pair {number}",
        cluster=f"pair {number}",
        caption=describe(scene, random.Random(number)).text,
        skills=("existence",),
        codes=codes_of(model, scene),
        captions=Preference(caption(scene, 1.0), caption(other, 0.2)),
        images=Preference(image(scene, 1.0), image(other, 0.2)),
    )


def codes_of(model: ShowO, scene: Scene) -> tuple[int, ...]:
    """Cut to the model's book and number of codes, should they be smaller than the miniature's."""
    codes = tiles.codes_of(scene).tolist()[: model.layout.image_tokens]
    return tuple(code % model.layout.codebook_size for code in codes)
