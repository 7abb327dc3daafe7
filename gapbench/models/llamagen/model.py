"""LlamaGen as a model of gapbench: captions, or ImageNet's classes, in, pictures out. It draws only.

Source: LlamaGen (arXiv 2406.06525) and FoundationVision/LlamaGen. Covers both published kinds of checkpoint, text- and
class-conditional, at every size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gapbench.models.llamagen.config import TEXT
from gapbench.models.llamagen.drawing import draw_codes
from gapbench.models.llamagen.likelihood import image_log_probs
from gapbench.models.llamagen.sampling import PUBLISHED, ItemChoice, Sampler
from gapbench.models.llamagen.vq import to_images, to_pixels
from gapbench.models.unified.pictures import decoded, drawn, encoded, shown
from gapbench.models.unified.sampling import code_after_code, seed_of
from gapbench.records import Failure, InputError, Prompt, Sampling

if TYPE_CHECKING:
    from PIL import Image

    from gapbench.models.llamagen.checkpoint import Parts


class LlamaGen:
    """Draws from a caption, or from the number or name of an ImageNet class."""

    def __init__(self, parts: Parts, name: str, sampling: Sampling) -> None:
        self.name, self.parts, self.gpt = name, parts, parts.gpt
        self.kind, self.image_tokens = parts.gpt.config.model_type, parts.gpt.config.block_size
        self.side = parts.gpt.config.side
        self.resolution = self.side * parts.vq.config.downsampling
        self.images_per_batch = min(64, max(1, 16_384 // self.image_tokens))
        self.defaults = sampling

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "family": "llamagen",
            **self.parts.provenance,
            "conditioned_on": "captions" if self.kind == TEXT else "classes",
            "image_tokens": self.image_tokens,
            "resolution": self.resolution,
            "device": str(self.gpt.device),
            "dtype": str(self.gpt.dtype).removeprefix("torch."),
        }

    # --- drawing -----------------------------------------------------------------------------------------------------

    def settings(self, sampling: Sampling) -> Sampler:
        """The sampler's settings: those given, else the checkpoint's own, else the reference's.

        Raises InputError for a number of steps: codes are drawn one after another.
        """
        return code_after_code(self.name, PUBLISHED[self.kind], self.defaults, sampling)

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Image.Image | Failure]:
        return shown(self.draw_codes(prompts, sampling), self.decode)

    def draw_codes(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Tensor | Failure]:
        """The drawings as image codes, (N,) int64 each."""
        how = self.settings(sampling)
        whys = [self.parts.conditions.refusal(prompt.text) for prompt in prompts]
        refusals = [None if why is None else Failure(why) for why in whys]
        yield from drawn(prompts, refusals, self.images_per_batch, lambda batch: self._draw_batch(batch, how))

    @torch.inference_mode()
    def _draw_batch(self, prompts: Sequence[Prompt], how: Sampler) -> list[Tensor]:
        number_of = {text: number for number, text in enumerate(dict.fromkeys(prompt.text for prompt in prompts))}
        of_B = torch.tensor([number_of[prompt.text] for prompt in prompts], device=self.gpt.device)
        seeds = [seed_of(prompt.text, prompt.seed) for prompt in prompts]
        choose = ItemChoice(seeds, self.image_tokens, self.gpt.device)
        return list(draw_codes(self.gpt, self.parts.conditions.conditions(list(number_of)), of_B, how, choose))

    # --- pictures and codes ------------------------------------------------------------------------------------------

    def encode(self, images: Sequence[Image.Image]) -> Iterator[Tensor]:
        """Codes (N,) int64 of pictures of any size."""
        encode = self.parts.vq.encode
        return encoded(images, lambda image: to_pixels(image, self.resolution), encode, self.gpt.device)

    def decode(self, codes: Sequence[Tensor]) -> Iterator[Image.Image]:
        """The pictures of codes (N,) int64 each."""
        vq, side = self.parts.vq, self.side
        return decoded(codes, lambda codes_BN: to_images(vq.decode(codes_BN, side, side)), self.gpt.device)

    # --- likelihoods for training ------------------------------------------------------------------------------------

    def image_log_likelihood(self, prompts: Sequence[str], codes_BN: Tensor, guidance: float | None = None) -> Tensor:
        """(B,) float32, differentiable: of codes as the drawings of prompts; an empty prompt is the unconditional one.

        guidance: of the distribution that they are weighed by, g of u + g (c - u); None, and 1 or less, is the prompted
        one alone. Raises InputError for a prompt that cannot be drawn.
        """
        self.parts.vq.check(codes_BN, self.image_tokens)
        if len(codes_BN) != len(prompts):
            raise ValueError(f"codes of {len(codes_BN)} images, but {len(prompts)} prompts")
        for prompt in prompts:
            if prompt.strip() and (refusal := self.parts.conditions.refusal(prompt)):
                raise InputError(f"{refusal}; leave it out")
        codes_BN = codes_BN.to(self.gpt.device).clone()  # drawn codes cannot be kept for gradients as they are
        condition = self.parts.conditions.conditions(prompts)
        return image_log_probs(self.gpt, condition, codes_BN, 1.0 if guidance is None else guidance).sum(dim=1)
