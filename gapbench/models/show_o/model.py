"""Show-o as a model of gapbench: texts and pictures in, texts and pictures out.

Source: Show-o (arXiv 2408.12528) and showlab/Show-o. Covers both published kinds of checkpoint, discrete image tokens
and CLIP-ViT features, at every resolution; HermesFlow's checkpoint is the first kind.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gapbench.models.base import in_batches
from gapbench.models.show_o.answering import Sampled, decode, discrete_picture_cache, greedy
from gapbench.models.show_o.backbone import Backbone, KeyValues
from gapbench.models.show_o.clip import clip_picture_cache
from gapbench.models.show_o.drawing import draw_codes
from gapbench.models.show_o.layout import SYSTEM_PROMPT, clip_question_text, question_text
from gapbench.models.show_o.magvit import to_images, to_pixels
from gapbench.models.show_o.sampling import ItemNoise, MaskGit, seed_of
from gapbench.records import Decoding, Failure, Picture, Prompt, Question, Sampling

if TYPE_CHECKING:
    from PIL import Image

    from gapbench.models.show_o.checkpoint import Parts

QUESTIONS_PER_BATCH = 64
PICTURES_ENCODED_AT_ONCE = 16
CODES_REMEMBERED = 50_000  # pictures; 8 KB each at 1,024 codes


class ShowO:
    """Answers about one picture and draws from one prompt."""

    def __init__(self, parts: Parts, name: str, sampling: Sampling) -> None:
        self.name, self.parts, self.layout = name, parts, parts.layout
        self.backbone = Backbone(parts.phi)
        self.side = round(self.layout.image_tokens**0.5)
        self.resolution = self.side * parts.magvit.downsampling
        self.images_per_batch = min(64, max(1, 16_384 // self.layout.image_tokens))
        self._defaults = sampling
        self._codes: OrderedDict[str, Tensor] = OrderedDict()

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "family": "show_o",
            **self.parts.provenance,
            "image_tokens": self.layout.image_tokens,
            "resolution": self.resolution,
            "clip_vit": self.parts.clip is not None,
            "device": str(self.backbone.device),
            "dtype": str(self.backbone.dtype).removeprefix("torch."),
        }

    # --- drawing -----------------------------------------------------------------------------------------------------

    def settings(self, sampling: Sampling) -> MaskGit:
        """The sampler's settings: those given, else the checkpoint's own."""

        def chosen(name: str) -> Any:
            given = getattr(sampling, name)
            return getattr(self._defaults, name) if given is None else given

        temperature = chosen("temperature")
        return MaskGit(chosen("steps"), chosen("guidance"), 1.0 if temperature is None else temperature)

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Image.Image | Failure]:
        for codes in self.draw_codes(prompts, sampling):
            if isinstance(codes, Failure):
                yield codes
            else:
                with torch.inference_mode():
                    yield to_images(self.parts.magvit.decode(codes[None], self.side, self.side))[0]

    def draw_codes(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Tensor | Failure]:
        """The drawings as image codes, (N,) int64 each: what a trainer keeps."""
        settings = self.settings(sampling)
        drawable = [prompt for prompt in prompts if prompt.text.strip()]
        drawn = in_batches(drawable, self.images_per_batch, lambda batch: self._draw_batch(batch, settings))
        for prompt in prompts:
            yield next(drawn) if prompt.text.strip() else Failure("the prompt is empty")

    def _draw_batch(self, prompts: Sequence[Prompt], settings: MaskGit) -> list[Tensor]:
        texts = [self._tokens(prompt.text) for prompt in prompts]
        seeds = [seed_of(prompt.text, prompt.seed) for prompt in prompts]
        noise = ItemNoise(seeds, settings.steps, self.layout.image_tokens, self.backbone.device)
        return list(draw_codes(self.backbone, self.layout, texts, settings, noise))

    # --- answering ---------------------------------------------------------------------------------------------------

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> Iterator[str | Failure]:
        answers: dict[int, str | Failure] = {}
        due = 0
        for batch in self._batches(questions, answers):
            self._answer_batch(questions, batch, decoding, answers)
            while due in answers:
                yield answers.pop(due)
                due += 1
        while due < len(questions):
            yield answers.pop(due)
            due += 1

    def _batches(
        self, questions: Sequence[Question], failures: dict[int, str | Failure]
    ) -> Iterator[list[tuple[Picture, list[int]]]]:
        """Questions by picture, in batches of whole pictures as far as they fit; notes those it cannot take."""
        groups: dict[str, tuple[Picture, list[int]]] = {}
        for number, question in enumerate(questions):
            if len(question.pictures) == 1:
                picture = question.pictures[0]
                groups.setdefault(picture.key, (picture, []))[1].append(number)
            else:
                failures[number] = Failure(f"Show-o answers about one picture, not {len(question.pictures)}")
        batch: list[tuple[Picture, list[int]]] = []
        for group in groups.values():
            if batch and sum(len(numbers) for _, numbers in batch) + len(group[1]) > QUESTIONS_PER_BATCH:
                yield batch
                batch = []
            batch.append(group)
        if batch:
            yield batch

    def _answer_batch(
        self,
        questions: Sequence[Question],
        batch: Sequence[tuple[Picture, list[int]]],
        decoding: Decoding,
        answers: dict[int, str | Failure],
    ) -> None:
        pictures, failures = self._picture_cache([picture for picture, _ in batch])
        numbers, rows = [], []
        row = 0
        for picture, group in batch:
            if picture.key in failures:
                answers.update(dict.fromkeys(group, failures[picture.key]))
                continue
            numbers += group
            rows += [row] * len(group)
            row += 1
        if pictures is None:
            return

        def work(chunk: Sequence[int]) -> list[list[int]]:
            asked = [questions[numbers[i]] for i in chunk]
            choose = greedy
            if decoding.temperature > 0:
                seeds = [seed_of(f"{q.id}\n{q.text}", decoding.seed) for q in asked]
                choose = Sampled(seeds, decoding.max_new_tokens, decoding.temperature, decoding.top_k)
            texts = [self._question_tokens(question.text) for question in asked]
            picture_of = torch.tensor([rows[i] for i in chunk])
            eot, limit = self.layout.eot, decoding.max_new_tokens
            return decode(self.backbone, pictures, picture_of, texts, eot, limit, choose)

        for number, tokens in zip(numbers, in_batches(range(len(numbers)), QUESTIONS_PER_BATCH, work), strict=True):
            answers[number] = self._text(tokens)

    def _picture_cache(self, pictures: Sequence[Picture]) -> tuple[KeyValues | None, dict[str, Failure]]:
        """The prefixes of those pictures that can be read, in order, and why the others cannot."""
        failures: dict[str, Failure] = {}
        readable, fresh = [], []
        use_clip = self.parts.clip is not None
        for picture in pictures:
            if not use_clip and picture.key in self._codes:
                readable.append(picture.key)
                continue
            try:
                image = picture.open()
                image.load()
            except (OSError, ValueError, SyntaxError) as error:  # what PIL raises for files that are no pictures
                failures[picture.key] = Failure(f"{picture.key}: {error}")
                continue
            readable.append(picture.key)
            fresh.append((picture.key, image))
        if not readable:
            return None, failures
        if use_clip:
            system = self._tokens(SYSTEM_PROMPT)
            images = [image for _, image in fresh]
            parts = self.parts
            cache = clip_picture_cache(self.backbone, self.layout, parts.clip, parts.projector, system, images)
            return cache, failures
        for (key, _), codes in zip(fresh, self.encode([image for _, image in fresh]), strict=True):
            self._codes[key] = codes
        codes = torch.stack([self._codes[key] for key in readable])
        while len(self._codes) > CODES_REMEMBERED:
            self._codes.popitem(last=False)
        return discrete_picture_cache(self.backbone, self.layout, codes), failures

    def encode(self, images: Sequence[Image.Image]) -> Iterator[Tensor]:
        """Codes (N,) int64 of pictures of any size. Full float32: with TF32, codes near a boundary flip."""

        def work(batch: Sequence[Image.Image]) -> list[Tensor]:
            pixels = torch.stack([to_pixels(image, self.resolution) for image in batch])
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                return list(self.parts.magvit.encode(pixels.to(self.backbone.device)).cpu())

        return in_batches(images, PICTURES_ENCODED_AT_ONCE, work)

    # --- text --------------------------------------------------------------------------------------------------------

    def _tokens(self, text: str) -> list[int]:
        return self.parts.tokenizer(text, add_special_tokens=False).input_ids

    def _question_tokens(self, question: str) -> list[int]:
        if self.parts.clip is not None:
            return self._tokens(clip_question_text(question))
        return [self.layout.eot, *self._tokens(question_text(question))]

    def _text(self, tokens: Sequence[int]) -> str:
        """The words among generated tokens; image and special tokens, which the head also offers, are no words."""
        words = [token for token in tokens if token < self.layout.text_vocabulary and token != self.layout.eot]
        return self.parts.tokenizer.decode(words, skip_special_tokens=True).strip()
