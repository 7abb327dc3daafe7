"""VILA-U as a model of gapbench: texts and pictures in, texts and pictures out.

Source: VILA-U (arXiv 2409.04429) and mit-han-lab/vila-u. One language model reads pictures as the sums of their
residual codes' vectors, and draws them position by position, a depth transformer choosing each position's codes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gapbench.models.unified.answering import Before, CausalAnswerer
from gapbench.models.unified.backbone import Backbone
from gapbench.models.unified.pictures import CodedPicture, decoded, drawn, encoded, read_codes, shown
from gapbench.models.unified.sampling import code_after_code, seed_of
from gapbench.models.vila_u import drawing, likelihood
from gapbench.models.vila_u.sampling import ItemChoice, Sampler
from gapbench.models.vila_u.text import BETWEEN_PICTURES, after_pictures, question_text
from gapbench.models.vila_u.vision import to_images, to_pixels
from gapbench.records import Failure, Picture, Prompt, Question, Sampling

if TYPE_CHECKING:
    from PIL import Image

    from gapbench.models.vila_u.checkpoint import Parts

CODES_REMEMBERED = 10_000  # pictures; 8 KB each at 256 pixels, 93 KB at 384


class VilaU(CausalAnswerer):
    """Answers, and scores texts, about any number of pictures; draws from one prompt."""

    def __init__(self, parts: Parts, name: str, sampling: Sampling) -> None:
        self.name, self.parts, self.positions = name, parts, parts.positions
        self.backbone = Backbone(parts.llama)
        self.side = parts.vision.sizes.siglip.side
        self.resolution = parts.vision.sizes.siglip.image_size
        self.images_per_batch = max(1, 8192 // parts.vision.positions)
        self.defaults = sampling
        self._codes: OrderedDict[str, Tensor] = OrderedDict()

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "family": "vila_u",
            **self.parts.provenance,
            "image_positions": self.parts.vision.positions,
            "codes_per_position": self.parts.vision.quantizer.depth,
            "resolution": self.resolution,
            "device": str(self.backbone.device),
            "dtype": str(self.backbone.dtype).removeprefix("torch."),
        }

    # --- drawing -----------------------------------------------------------------------------------------------------

    def settings(self, sampling: Sampling) -> Sampler:
        """The sampler's settings: those given, else the checkpoint's own, else the reference's.

        Raises InputError for a number of steps: codes are drawn one after another.
        """
        return code_after_code(self.name, Sampler(), self.defaults, sampling)

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Image.Image | Failure]:
        return shown(self.draw_codes(prompts, sampling), self.decode)

    def draw_codes(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Tensor | Failure]:
        """The drawings as image codes, (N,D) int64 each."""
        how = self.settings(sampling)
        rows = [self.parts.text.drawing_row(prompt.text) for prompt in prompts]
        both = list(zip(prompts, rows, strict=True))
        refusals = [self._undrawable(prompt, row) for prompt, row in both]
        yield from drawn(both, refusals, self.images_per_batch, lambda batch: self._draw_batch(batch, how))

    def _undrawable(self, prompt: Prompt, row: Sequence[int]) -> Failure | None:
        if not prompt.text.strip():
            return Failure("the prompt is empty")
        room = self.positions - self.parts.vision.positions
        return Failure(f"the prompt takes {len(row)} tokens; there is room for {room}") if len(row) > room else None

    def _draw_batch(self, batch: Sequence[tuple[Prompt, list[int]]], how: Sampler) -> list[Tensor]:
        parts = self.parts
        seeds = [seed_of(prompt.text, prompt.seed) for prompt, _ in batch]
        choose = ItemChoice(seeds, parts.vision.positions, parts.vision.quantizer.depth, how, self.backbone.device)
        rows, unprompted = [row for _, row in batch], parts.text.drawing_row("")
        models = (self.backbone, parts.projector, parts.vision, parts.depth)
        return list(drawing.draw_codes(*models, rows, unprompted, how.guidance, choose))

    # --- answering ---------------------------------------------------------------------------------------------------

    def _before(self, question: Question) -> Before:
        return self.parts.text.before_pictures(len(question.pictures), question.template)

    def _read(self, pictures: Iterable[Picture]) -> dict[str, Tensor | Failure]:
        return read_codes(pictures, self._codes, CODES_REMEMBERED, self.encode)

    def _features(self, seen: Tensor) -> Tensor:
        features = self.parts.vision.quantizer.features(seen.to(self.backbone.device))
        return self.parts.projector(features.to(self.backbone.dtype))

    def _prompt(self, question: Question) -> str:
        if question.pictures:
            return after_pictures(question.text) if question.template else f"{BETWEEN_PICTURES}{question.text}"
        return question_text(question.text) if question.template else question.text

    def _tokens(self, text: str, pictures: bool) -> list[int]:
        words = self.parts.text
        return words.tokens(text or BETWEEN_PICTURES) if pictures else [words.bos, *words.tokens(text)]

    # --- pictures and codes ------------------------------------------------------------------------------------------

    def encode(self, images: Sequence[Image.Image]) -> Iterator[Tensor]:
        """Codes (N,D) int64 of pictures of any size."""
        encode = self.parts.vision.encode
        return encoded(images, lambda image: to_pixels(image, self.resolution), encode, self.backbone.device)

    def decode(self, codes: Sequence[Tensor]) -> Iterator[Image.Image]:
        """The pictures of codes (N,D) int64 each."""
        vision = self.parts.vision
        return decoded(codes, lambda codes_BND: to_images(vision.decode(codes_BND)), self.backbone.device)

    def coded(self, codes: Tensor) -> CodedPicture:
        """Codes (N,D) int64 as a picture to ask about; equal codes are one picture."""
        return CodedPicture.of(codes, self.decode)

    # --- likelihoods for training ------------------------------------------------------------------------------------

    def image_log_likelihood(self, prompts: Sequence[str], codes_BND: Tensor, guidance: float | None = None) -> Tensor:
        """(B,) float32, differentiable: of codes as the drawings of prompts; an empty prompt is the unconditional one.

        guidance: of the distribution that they are weighed by, g of u + g (c - u); None is the prompted one alone.
        """
        quantizer = self.parts.vision.quantizer
        quantizer.check(codes_BND)
        if codes_BND.shape[:2] != (len(prompts), self.parts.vision.positions):
            raise ValueError(f"codes of shape {tuple(codes_BND.shape)} are no drawings of {len(prompts)} prompts")
        codes_BND = codes_BND.to(self.backbone.device).clone()  # drawn codes cannot be kept for gradients as they are
        rows, codes_RND = [self.parts.text.drawing_row(prompt) for prompt in prompts], codes_BND
        guidance = 1.0 if guidance is None else guidance
        if guidance != 1:
            rows, codes_RND = [*rows, *[self.parts.text.drawing_row("")] * len(rows)], codes_BND.repeat(2, 1, 1)
        states_RNT = likelihood.image_states(self.backbone, self.parts.projector, quantizer, rows, codes_RND)
        logs_BND = likelihood.image_log_probs(self.parts.depth, quantizer, states_RNT, codes_BND, guidance)
        return logs_BND.sum(dim=(1, 2))
