"""Show-o as a model of gapbench: texts and pictures in, texts and pictures out.

Source: Show-o (arXiv 2408.12528) and showlab/Show-o. Covers both published kinds of checkpoint, discrete image tokens
and CLIP-ViT features, at every resolution; HermesFlow's checkpoint is the first kind.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from gapbench.models.base import R
from gapbench.models.show_o.answering import discrete_picture_cache
from gapbench.models.show_o.clip import clip_picture_cache
from gapbench.models.show_o.drawing import draw_codes
from gapbench.models.show_o.layout import clip_question_text, question_text
from gapbench.models.show_o.sampling import MASKED, ItemNoise, MaskGit, Trace
from gapbench.models.unified.answering import SYSTEM_PROMPT, Answerer, Before, Respond
from gapbench.models.unified.backbone import Backbone, KeyValues
from gapbench.models.unified.likelihood import joined
from gapbench.models.unified.pictures import (
    CodedPicture,
    decoded,
    drawn,
    encoded,
    loaded,
    read,
    read_codes,
    shown,
    to_images,
    to_pixels,
)
from gapbench.models.unified.sampling import chosen, seed_of
from gapbench.records import Failure, InputError, Picture, Prompt, Question, Sampling

if TYPE_CHECKING:
    from PIL import Image

    from gapbench.models.show_o.checkpoint import Parts

CODES_REMEMBERED = 50_000  # pictures; 8 KB each at 1,024 codes


class Drawn(NamedTuple):
    """Codes (N,) int64, the step that fixed each (N,) int64, of each step -log p of what it fixed (T,) float32, and of
    each but the last the least score that it kept (T-1,) float32.
    """

    codes: Tensor
    steps: Tensor
    nats: Tensor
    thresholds: Tensor


class ShowO(Answerer):
    """Answers, and scores texts, about one picture or none; draws from one prompt.

    Its rows hold one picture: a question about several is answered from the first, as LLaVA-1.5 is measured on MMMU.
    """

    questions_per_batch = 64

    def __init__(self, parts: Parts, name: str, sampling: Sampling) -> None:
        self.name, self.parts, self.layout = name, parts, parts.layout
        self.backbone = Backbone(parts.phi)
        self.side = round(self.layout.image_tokens**0.5)
        self.resolution = self.side * parts.magvit.downsampling
        self.images_per_batch = min(64, max(1, 16_384 // self.layout.image_tokens))
        self.defaults = sampling
        self._codes: OrderedDict[str, Tensor] = OrderedDict()

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "family": "show_o",
            **self.parts.provenance,
            "image_tokens": self.layout.image_tokens,
            "resolution": self.resolution,
            "clip_vit": self.parts.clip is not None,
            "of_several_pictures": "the first",
            "device": str(self.backbone.device),
            "dtype": str(self.backbone.dtype).removeprefix("torch."),
        }

    # --- training ----------------------------------------------------------------------------------------------------

    frozen = ()  # beginnings of the names of what in `network` is not trained

    @property
    def network(self) -> nn.Module:
        """What is trained."""
        return self.parts.phi

    def with_network(self, network: nn.Module) -> ShowO:
        return ShowO(replace(self.parts, phi=network), self.name, self.defaults)

    def draws_whole(self, prompt: str) -> bool:
        """Whether no end of the prompt is cut off."""
        return len(self._tokens(prompt)) <= self.layout.max_text - 2

    def caption_room(self, question: str) -> int:
        """Tokens that an answer to a question about one picture may have, within the model's positions."""
        picture, start = self.layout.image_tokens + 3, 1  # [mmu] [soi] codes [eoi], [sot]
        positions = self.backbone.phi.config.max_position_embeddings
        return positions - picture - start - len(self._tokens(question_text(question)))

    # --- drawing -----------------------------------------------------------------------------------------------------

    def settings(self, sampling: Sampling) -> MaskGit:
        """The sampler's settings: those given, else the checkpoint's own."""
        steps, guidance = (chosen(name, sampling, self.defaults) for name in ("steps", "guidance"))
        return MaskGit(steps, guidance, chosen("temperature", sampling, self.defaults, Sampling(temperature=1.0)))

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Image.Image | Failure]:
        return shown(self.draw_codes(prompts, sampling), self.decode)

    def draw_codes(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Tensor | Failure]:
        """The drawings as image codes, (N,) int64 each."""
        for each in self.draw_traced(prompts, sampling):
            yield each if isinstance(each, Failure) else each.codes

    def draw_traced(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Drawn | Failure]:
        """The drawings as image codes, and how they came about: what a trainer keeps."""
        settings = self.settings(sampling)
        refusals = [None if prompt.text.strip() else Failure("the prompt is empty") for prompt in prompts]
        yield from drawn(prompts, refusals, self.images_per_batch, lambda batch: self._draw_batch(batch, settings))

    def _draw_batch(self, prompts: Sequence[Prompt], settings: MaskGit) -> list[Drawn]:
        texts = [self._tokens(prompt.text) for prompt in prompts]
        seeds = [seed_of(prompt.text, prompt.seed) for prompt in prompts]
        noise = ItemNoise(seeds, settings.steps, self.layout.image_tokens, self.backbone.device)
        free_BN = torch.full((len(texts), self.layout.image_tokens), MASKED, device=self.backbone.device)
        trace = Trace.of(free_BN, settings.steps)
        codes_BN = draw_codes(self.backbone, self.layout, texts, settings, noise, free_BN, trace)
        parts = (codes_BN, trace.step_BN, trace.nats(settings.steps), trace.threshold_BT)
        return [Drawn(*of_one) for of_one in zip(*parts, strict=True)]

    # --- answering ---------------------------------------------------------------------------------------------------

    def _responses(self, questions: Sequence[Question], respond: Respond[R]) -> Iterator[tuple[int, R | Failure]]:
        return super()._responses([replace(each, pictures=each.pictures[:1]) for each in questions], respond)

    def _before(self, question: Question) -> Before:
        return ((),) if question.pictures else ()

    def _read(self, pictures: Iterable[Picture]) -> dict[str, Any]:
        if self.parts.clip is not None:
            return read(pictures, loaded)
        return read_codes(pictures, self._codes, CODES_REMEMBERED, self.encode)

    def _prefixes(self, befores: Sequence[Before], seen: Sequence[Sequence[Any]]) -> KeyValues:
        firsts, parts = [of_row[0] for of_row in seen], self.parts
        if parts.clip is None:
            return discrete_picture_cache(self.backbone, self.layout, torch.stack(firsts))
        system = self._tokens(SYSTEM_PROMPT)
        return clip_picture_cache(self.backbone, self.layout, parts.clip, parts.projector, system, firsts)

    # --- pictures and codes ------------------------------------------------------------------------------------------

    def encode(self, images: Sequence[Image.Image]) -> Iterator[Tensor]:
        """Codes (N,) int64 of pictures of any size."""
        encode = self.parts.magvit.encode
        return encoded(images, lambda image: to_pixels(image, self.resolution), encode, self.backbone.device)

    def decode(self, codes: Sequence[Tensor]) -> Iterator[Image.Image]:
        """The pictures of codes (N,) int64 each."""
        magvit, side = self.parts.magvit, self.side
        return decoded(codes, lambda codes_BN: to_images(magvit.decode(codes_BN, side, side)), self.backbone.device)

    def coded(self, codes: Tensor) -> CodedPicture:
        """Codes (N,) int64 as a picture to ask about; equal codes are one picture."""
        return CodedPicture.of(codes, self.decode)

    # --- text --------------------------------------------------------------------------------------------------------

    def _tokens(self, text: str) -> list[int]:
        # Not verbose: it warns of texts longer than the model's positions, which are cut where they are used.
        return self.parts.tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    def _prompt(self, text: str, template: bool) -> str:
        if not template:
            return text
        return question_text(text) if self.parts.clip is None else clip_question_text(text)

    def _after_picture(self, tokens: list[int], picture: bool) -> list[int]:
        """What of a row stands after the picture, or the whole row where there is none: [sot] and the text.

        The CLIP-ViT variant has no [sot] after a picture; an empty text gets one, to be continued from.
        """
        return tokens if tokens and picture and self.parts.clip is not None else [self.layout.eot, *tokens]

    def _question_tokens(self, text: str, template: bool = True, picture: bool = True) -> list[int]:
        return self._after_picture(self._tokens(self._prompt(text, template)), picture)

    def _text_row(self, question: Question) -> list[int]:
        return self._question_tokens(question.text, question.template, bool(question.pictures))

    def _continued(self, question: Question, continuation: str) -> tuple[list[int], list[int]]:
        before, after = joined(self._tokens, self._prompt(question.text, question.template), continuation)
        return self._after_picture(before, bool(question.pictures)), after

    def _room(self, taken: int) -> int:
        positions = self.backbone.phi.config.max_position_embeddings
        if positions < taken + 2:
            raise InputError(f"{self.name}: max_position_embeddings is {positions}; a picture takes {taken}")
        return positions - taken

    @property
    def _end(self) -> int:
        return self.layout.eot

    def _text(self, tokens: Sequence[int]) -> str:
        """The words among generated tokens; image and special tokens, which the head also offers, are no words."""
        words = [token for token in tokens if token < self.layout.text_vocabulary and token != self.layout.eot]
        return self.parts.tokenizer.decode(words, skip_special_tokens=True).strip()
