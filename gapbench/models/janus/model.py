"""Janus and Janus-Pro as a model of gapbench: texts and pictures in, texts and pictures out.

Source: Janus (arXiv 2410.13848), Janus-Pro (arXiv 2501.17811) and deepseek-ai/Janus, through transformers' modules.
Pictures to answer about are seen by SigLIP; pictures are drawn in the codes of another tokenizer, with a head of their
own, by the same language model.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from gapbench.models.janus import vision
from gapbench.models.janus.backbone import JanusBackbone
from gapbench.models.janus.drawing import ItemChoice, Sampler, draw_codes
from gapbench.models.janus.likelihood import image_log_probs
from gapbench.models.unified.answering import Before, CausalAnswerer
from gapbench.models.unified.pictures import CodedPicture, decoded, drawn, encoded, read, shown, to_images, to_pixels
from gapbench.models.unified.sampling import code_after_code, seed_of
from gapbench.records import Failure, InputError, Picture, Prompt, Question, Sampling

if TYPE_CHECKING:
    from PIL import Image

    from gapbench.models.janus.checkpoint import Parts


class Janus(CausalAnswerer):
    """Answers, and scores texts, about any number of pictures; draws from one prompt."""

    def __init__(self, parts: Parts, name: str, sampling: Sampling) -> None:
        self.name, self.parts = name, parts
        self.backbone = JanusBackbone(parts.network)
        self.vq = parts.network.model.vqmodel
        self.side = self.vq.config.num_patches
        self.resolution = self.side * vision.downsampling(self.vq)
        self.images_per_batch = min(64, max(1, 16_384 // self.image_tokens))
        self.defaults = sampling

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "family": "janus",
            **self.parts.provenance,
            "image_tokens": self.image_tokens,
            "resolution": self.resolution,
            "resolution_seen": self.parts.frame.side,
            "device": str(self.backbone.device),
            "dtype": str(self.backbone.dtype).removeprefix("torch."),
        }

    @property
    def image_tokens(self) -> int:
        """Codes of a drawing."""
        return self.side**2

    @property
    def codebook_size(self) -> int:
        return self.vq.config.num_embeddings

    @property
    def positions(self) -> int:
        """Of the language model's rows."""
        return self.backbone.phi.config.text_config.max_position_embeddings

    @property
    def longest_prompt(self) -> int:
        """Tokens of a bare prompt that can be drawn; nobody looks at a drawing's last code."""
        return self.positions - (self.image_tokens - 1) - len(self.parts.text.drawing_row(""))

    # --- drawing -----------------------------------------------------------------------------------------------------

    def settings(self, sampling: Sampling) -> Sampler:
        """The sampler's settings: those given, else the checkpoint's own, else the reference's.

        Raises InputError for a number of steps: codes are drawn one after another.
        """
        return code_after_code(self.name, Sampler(), self.defaults, sampling)

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Image.Image | Failure]:
        return shown(self.draw_codes(prompts, sampling), self.decode)

    def draw_codes(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Tensor | Failure]:
        """The drawings as image codes, (N,) int64 each."""
        how = self.settings(sampling)
        rows = [self.parts.text.drawing_row(prompt.text) for prompt in prompts]
        both = list(zip(prompts, rows, strict=True))
        refusals = [self._undrawable(prompt, row) for prompt, row in both]
        yield from drawn(both, refusals, self.images_per_batch, lambda batch: self._draw_batch(batch, how))

    def _undrawable(self, prompt: Prompt, row: Sequence[int]) -> Failure | None:
        if not prompt.text.strip():
            return Failure("the prompt is empty")
        room = self.positions - (self.image_tokens - 1)
        return Failure(f"the prompt takes {len(row)} tokens; there is room for {room}") if len(row) > room else None

    def _draw_batch(self, batch: Sequence[tuple[Prompt, list[int]]], how: Sampler) -> list[Tensor]:
        seeds = [seed_of(prompt.text, prompt.seed) for prompt, _ in batch]
        choose = ItemChoice(seeds, self.image_tokens, how.temperature, self.backbone.device)
        rows = [row for _, row in batch]
        unprompted = [self.parts.text.unprompted(row) for row in rows]
        return list(draw_codes(self.backbone, rows, unprompted, self.image_tokens, how.guidance, choose))

    # --- answering ---------------------------------------------------------------------------------------------------

    def _alone(self, number: int) -> Hashable:
        return number // self.questions_per_batch

    def _before(self, question: Question) -> Before:
        return self.parts.text.before_pictures(self.parts.text.stretches(question))

    def _read(self, pictures: Iterable[Picture]) -> dict[str, Tensor | Failure]:
        """What the vision tower is shown of pictures, (3,S,S) each."""
        return read(pictures, lambda picture: self.parts.frame.pixels(picture.open()))

    def _features(self, seen: Tensor) -> Tensor:
        return self.backbone.features(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])

    def _prompt(self, question: Question) -> str:
        return self.parts.text.stretches(question)[-1]

    def _tokens(self, text: str, pictures: bool) -> list[int]:
        return self.parts.text.after_pictures(text, pictures)

    # --- the image tokenizer -----------------------------------------------------------------------------------------

    def encode(self, images: Sequence[Image.Image]) -> Iterator[Tensor]:
        """Codes (N,) int64 of pictures of any size."""
        to_codes = partial(vision.encode, self.vq)
        return encoded(images, lambda image: to_pixels(image, self.resolution), to_codes, self.backbone.device)

    def decode(self, codes: Sequence[Tensor]) -> Iterator[Image.Image]:
        """The pictures of codes (N,) int64 each."""
        return decoded(codes, lambda codes_BN: to_images(self.vq.decode(codes_BN)), self.backbone.device)

    def coded(self, codes: Tensor) -> CodedPicture:
        """Codes (N,) int64 as a picture to ask about, which is seen decoded; equal codes are one picture."""
        return CodedPicture.of(codes, self.decode)

    # --- training ----------------------------------------------------------------------------------------------------

    frozen = ("model.vqmodel.",)  # beginnings of the names of what in `network` is not trained

    @property
    def network(self) -> nn.Module:
        """What is trained."""
        return self.parts.network

    def with_network(self, network: nn.Module) -> Janus:
        return Janus(replace(self.parts, network=network), self.name, self.defaults)

    def draws_whole(self, prompt: str) -> bool:
        """Whether the prompt is drawn at all: none is cut."""
        return self._undrawable(Prompt("", prompt, 0), self.parts.text.drawing_row(prompt)) is None

    def caption_room(self, question: str) -> int:
        """Tokens that an answer to a question about one picture may have, within the model's positions."""
        asked = Question("", question, (Picture("", lambda: None),))
        picture = self.backbone.phi.config.vision_config.num_image_tokens
        return self.positions - sum(map(len, self._before(asked))) - picture - len(self._text_row(asked))

    def image_log_likelihood(self, prompts: Sequence[str], codes_BN: Tensor, guidance: float | None = None) -> Tensor:
        """(B,) float32, differentiable: of codes as the drawings of prompts, at temperature 1.

        guidance: of the distribution that they are weighed by, g of u + g (c - u); None is the prompted one alone.
        Raises InputError for a prompt that is too long.
        """
        if codes_BN.shape != (len(prompts), self.image_tokens):
            raise ValueError(f"codes of shape {tuple(codes_BN.shape)} are no drawings of {len(prompts)} prompts")
        if codes_BN.numel() and not 0 <= int(codes_BN.min()) <= int(codes_BN.max()) < self.codebook_size:
            raise ValueError(f"codes must lie in 0..{self.codebook_size - 1}")
        rows = [self.parts.text.drawing_row(prompt) for prompt in prompts]
        for prompt, row in zip(prompts, rows, strict=True):
            if failure := self._undrawable(Prompt("", prompt, 0), row):
                raise InputError(f'prompt "{prompt[:60]}": {failure.reason}; leave it out')
        guidance = 1.0 if guidance is None else guidance
        if guidance != 1:
            rows += [self.parts.text.unprompted(row) for row in rows]
        # Drawn codes come from inference mode, where nothing can be kept for gradients.
        codes_BN = codes_BN.to(self.backbone.device).clone()
        return image_log_probs(self.backbone, rows, codes_BN, guidance).sum(dim=1)
