"""Candidates a second: the released HermesFlow code's schedule against ours, with the same outputs.

    uv run python -m benchmarks.pair_dpo_speed --part curation --size mini

Released: the captions of a picture one after the other, every token by running the whole row again; the drawings of a
caption together, every position recomputed in every step (`plain_show_o.py`). Ours: the two calls that
`hermesflow.curate` makes. Both in float32 on a CPU; on CUDA the released code runs in float32, as it does, and ours in
bfloat16, while `same` compares outputs where both run in float32. Reading and judging pictures is left out of both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from benchmarks import plain_show_o
from benchmarks.show_o_speed import agreement, timed
from gapbench.models.show_o.model import ShowO
from gapbench.models.show_o.sampling import ItemNoise
from gapbench.models.unified.sampling import Sampled, greedy, seed_of
from gapbench.records import Decoding, Prompt, Question, Sampling
from hermesflow.curate import CAPTION_QUESTION, WAYS, Curation


class Item(NamedTuple):
    """Codes (N,) of a picture, and a caption of it to draw."""

    codes: Tensor
    caption: str


def questions(model: ShowO, items: Sequence[Item]) -> list[Question]:
    """One for each way of captioning each item, as the curator asks them."""
    return [
        Question(f"{row}/{number}", CAPTION_QUESTION, (model.coded(item.codes),))
        for row, item in enumerate(items)
        for number in range(len(WAYS))
    ]


def ways(tokens: int) -> list[Decoding]:
    return [Decoding(tokens, 0.0 if k == 1 else temperature, k) for k, temperature in WAYS]


def say_released(model: ShowO, items: Sequence[Item], tokens: int) -> list[list[int]]:
    found = []
    how = ways(tokens) * len(items)
    for asked, way in zip(questions(model, items), how, strict=True):
        text = model._question_tokens(asked.text, asked.template, True)
        choose = Sampled([seed_of(f"{asked.id}\n{asked.text}", way.seed)], [way]) if way.temperature else greedy
        codes = asked.pictures[0].codes
        found.append(plain_show_o.answer(model.backbone, model.layout, codes, text, tokens, choose))
    return found


def say_ours(model: ShowO, items: Sequence[Item], tokens: int) -> list[list[int]]:
    said = model.say(questions(model, items), ways(tokens) * len(items))
    return [[*each.tokens, *[model.layout.eot] * each.ended] for each in said]


def draw_released(model: ShowO, items: Sequence[Item], images: int) -> list[Tensor]:
    settings = model.settings(Sampling())
    found = []
    for item in items:
        noise = ItemNoise(
            [seed_of(item.caption, seed) for seed in range(images)],
            settings.steps,
            model.layout.image_tokens,
            model.backbone.device,
        )
        texts = [model._tokens(item.caption)] * images
        found += plain_show_o.draw_codes(model.backbone, model.layout, texts, settings, noise)
    return found


def draw_ours(model: ShowO, items: Sequence[Item], images: int) -> list[Tensor]:
    prompts = [Prompt(str(row), item.caption, seed) for row, item in enumerate(items) for seed in range(images)]
    return list(model.draw_codes(prompts, Sampling()))


def measure(model: ShowO, items: Sequence[Item], tokens: int, repeats: int, images: int = Curation().images) -> None:
    device = model.backbone.device.type
    steps = model.settings(Sampling()).steps
    print(
        f"{len(items)} items: {len(WAYS)} captions of at most {tokens} tokens, {images} drawings of {steps} steps each"
    )
    work: dict[str, tuple[int, Callable[[], list], Callable[[], list]]] = {
        "captions": (
            len(WAYS) * len(items),
            lambda: say_released(model, items, tokens),
            lambda: say_ours(model, items, tokens),
        ),
        "drawings": (
            images * len(items),
            lambda: draw_released(model, items, images),
            lambda: draw_ours(model, items, images),
        ),
    }
    released, ours, same = {}, {}, {}
    for name, (_, theirs, mine) in work.items():
        found = mine()  # a warm-up too
        released[name], expected = timed(theirs, device, 1)
        alike = [len(a) == len(b) and agreement(a, b) == 1 for a, b in zip(found, expected, strict=True)]
        same[name] = sum(alike) / len(alike)
    if device == "cuda":
        model.backbone.phi.bfloat16()
    for name, (_, _, mine) in work.items():
        if device == "cuda":
            mine()
        ours[name], _ = timed(mine, device, repeats)
    print(f"{'a second':10} {'released':>10} {'ours':>10} {'ratio':>8}   same")
    for name, (count, _, _) in work.items():
        print(
            f"{name:10} {count / released[name]:10.3f} {count / ours[name]:10.3f} "
            f"{released[name] / ours[name]:7.1f}x   {same[name]:.1%}"
        )
    both = sum(released.values()) / sum(ours.values())
    print(
        f"{'items':10} {len(items) / sum(released.values()):10.3f} {len(items) / sum(ours.values()):10.3f} {both:7.1f}x"
    )
