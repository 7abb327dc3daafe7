"""The CLIP-ViT variant: features in place of codes, and the same answers with and without its cached prefix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import load_folder
from PIL import Image

from gapbench.models.show_o.clip import clip_pixels, clip_prefix
from gapbench.models.show_o.layout import visible_clip
from gapbench.models.show_o.model import ShowO
from gapbench.models.unified.answering import SYSTEM_PROMPT
from gapbench.records import Decoding, Picture, Prompt, Question, Sampling

ASKED = ("Is there a circle in the image?", "What color is the heart?", "How many red stars are there?")


@pytest.fixture
def model(clip_folder: Path) -> ShowO:
    return ShowO(load_folder(clip_folder), "tiny", Sampling(steps=3, guidance=1.0))


def picture(seed: int) -> Picture:
    array = np.random.default_rng(seed).integers(0, 256, (30, 44, 3), dtype=np.uint8)
    return Picture(f"noise-{seed}", lambda: Image.fromarray(array))


@torch.inference_mode()
def recomputed(model: ShowO, question: Question, limit: int) -> str:
    """Everything at every token, under one mask over the whole row."""
    parts, backbone = model.parts, model.backbone
    system = model._tokens(SYSTEM_PROMPT)
    pixels = clip_pixels(question.pictures[0].open(), parts.clip.config.image_size)[None]
    row, _ = clip_prefix(backbone, model.layout, parts.clip, parts.projector, system, pixels)
    features = row.shape[1] - len(system) - 3
    row = torch.cat([row, backbone.embed(torch.tensor([model._question_tokens(question.text)]))], dim=1)
    tokens: list[int] = []
    while len(tokens) < limit and (not tokens or tokens[-1] != model.layout.eot):
        length = row.shape[1]
        visible = visible_clip(len(system), features, length)[None, None]
        last = backbone.logits(backbone.hidden(row, visible, torch.arange(length)[None])[:, -1])
        tokens.append(int(last.argmax()))
        row = torch.cat([row, backbone.embed(torch.tensor([tokens[-1:]]))], dim=1)
    return model._text(tokens)


def test_cached_answers_equal_recomputing_everything(model: ShowO) -> None:
    questions = [Question(f"{seed}/{text}", text, (picture(seed),)) for seed in range(3) for text in ASKED]
    answers = list(model.answer(questions, Decoding(max_new_tokens=5)))
    assert answers == [recomputed(model, question, 5) for question in questions]


def test_the_prefix_is_task_system_features(model: ShowO) -> None:
    system = [5, 6, 7]
    pixels = torch.stack([clip_pixels(picture(seed).open(), 28) for seed in range(2)])
    parts = model.parts
    embeddings, visible = clip_prefix(model.backbone, model.layout, parts.clip, parts.projector, system, pixels)
    assert embeddings.shape == (2, 1 + 3 + 1 + 4 + 1, 64)  # [mmu] system [soi] four patches [eoi]
    first = model.backbone.embed(torch.tensor([model.layout.special("mmu"), *system, model.layout.soi]))
    assert torch.equal(embeddings[0, :5], first)
    assert torch.equal(embeddings[1, -1], model.backbone.embed(torch.tensor(model.layout.eoi)))
    features = parts.clip(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    torch.testing.assert_close(embeddings[:, 5:-1], parts.projector(features), atol=1e-5, rtol=1e-5)
    assert torch.equal(visible, visible_clip(3, 4, 10))


def test_it_draws_with_image_codes(model: ShowO) -> None:
    (drawing,) = model.draw([Prompt("a", "a red circle", 0)], Sampling())
    assert drawing.size == (model.resolution, model.resolution)
    assert model.describe()["clip_vit"]


def test_pixels_are_those_of_clips_processor() -> None:
    from transformers import CLIPImageProcessor

    image = picture(1).open()
    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    want = processor(image, return_tensors="pt").pixel_values[0]
    # The processor's backend may resize in floating point; grey levels then differ by less than one.
    torch.testing.assert_close(clip_pixels(image, 28), want, atol=0.02, rtol=0)
