"""VILA-U as a model of gapbench: texts and pictures in, texts and pictures out.

Source: VILA-U (arXiv 2409.04429) and mit-han-lab/vila-u. One language model reads pictures as the sums of their
residual codes' vectors, and draws them position by position, a depth transformer choosing each position's codes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gapbench.data.pictures import UNREADABLE
from gapbench.models.base import R, in_batches
from gapbench.models.show_o.answering import Sampled, decode, greedy
from gapbench.models.show_o.backbone import KeyValues
from gapbench.models.show_o.likelihood import Window, joined, score, windows
from gapbench.models.show_o.model import Asked, CodedPicture, Said
from gapbench.models.show_o.sampling import seed_of
from gapbench.models.vila_u import drawing, likelihood
from gapbench.models.vila_u.answering import batches, picture_prefix, prefix_cache
from gapbench.models.vila_u.backbone import LlamaBackbone
from gapbench.models.vila_u.sampling import ItemChoice, Sampler
from gapbench.models.vila_u.text import BETWEEN_PICTURES, after_pictures, question_text
from gapbench.models.vila_u.vision import to_images, to_pixels
from gapbench.records import Decoding, Failure, InputError, Picture, Prompt, Question, Sampling, TextLikelihood

if TYPE_CHECKING:
    from PIL import Image

    from gapbench.models.vila_u.checkpoint import Parts

QUESTIONS_PER_BATCH = 32
PICTURES_ENCODED_AT_ONCE = 16
CODES_REMEMBERED = 10_000  # pictures; 8 KB each at 256 pixels, 93 KB at 384


class VilaU:
    """Answers, and scores texts, about any number of pictures; draws from one prompt."""

    def __init__(self, parts: Parts, name: str, sampling: Sampling) -> None:
        self.name, self.parts = name, parts
        self.backbone = LlamaBackbone(parts.llama)
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
        if sampling.steps is not None:
            raise InputError(f"--steps {sampling.steps}: {self.name} draws code after code; leave --steps out")

        def chosen(name: str) -> float:
            values = (getattr(from_, name) for from_ in (sampling, self.defaults, Sampler()))
            return next(value for value in values if value is not None)

        return Sampler(chosen("guidance"), chosen("temperature"))

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Image.Image | Failure]:
        for codes in self.draw_codes(prompts, sampling):
            if isinstance(codes, Failure):
                yield codes
            else:
                yield from self.decode([codes])

    def draw_codes(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Tensor | Failure]:
        """The drawings as image codes, (N,D) int64 each."""
        how = self.settings(sampling)
        rows = [self.parts.text.drawing_row(prompt.text) for prompt in prompts]
        failures = [self._undrawable(prompt, row) for prompt, row in zip(prompts, rows, strict=True)]
        drawable = [
            (prompt, row) for prompt, row, failure in zip(prompts, rows, failures, strict=True) if failure is None
        ]
        drawn = in_batches(drawable, self.images_per_batch, lambda batch: self._draw_batch(batch, how))
        for failure in failures:
            yield next(drawn) if failure is None else failure

    def _undrawable(self, prompt: Prompt, row: Sequence[int]) -> Failure | None:
        if not prompt.text.strip():
            return Failure("the prompt is empty")
        room = self.parts.positions - self.parts.vision.positions
        return Failure(f"the prompt takes {len(row)} tokens; there is room for {room}") if len(row) > room else None

    def _draw_batch(self, batch: Sequence[tuple[Prompt, list[int]]], how: Sampler) -> list[Tensor]:
        parts = self.parts
        seeds = [seed_of(prompt.text, prompt.seed) for prompt, _ in batch]
        choose = ItemChoice(seeds, parts.vision.positions, parts.vision.quantizer.depth, how, self.backbone.device)
        rows, unprompted = [row for _, row in batch], parts.text.drawing_row("")
        models = (self.backbone, parts.projector, parts.vision, parts.depth)
        return list(drawing.draw_codes(*models, rows, unprompted, how.guidance, choose))

    # --- answering ---------------------------------------------------------------------------------------------------

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> Iterator[str | Failure]:
        for said in self.say(questions, [decoding] * len(questions)):
            yield said if isinstance(said, Failure) else said.text

    def say(self, questions: Sequence[Question], ways: Sequence[Decoding]) -> Iterator[Said | Failure]:
        """Answers with their tokens, each decoded in its own way; what is asked about pictures shares their prefix."""
        if len(questions) != len(ways):
            raise ValueError(f"{len(questions)} questions, but {len(ways)} ways to decode")

        def answers(pictures: KeyValues, asked: Sequence[Asked]) -> Iterator[tuple[int, Said]]:
            room = self._room(pictures.length)

            def work(chunk: Sequence[Asked]) -> list[Said]:
                chosen = [questions[number] for number, _ in chunk]
                how = [ways[number] for number, _ in chunk]
                limits = [min(way.max_new_tokens, room - 1) for way in how]
                choose = greedy
                if any(way.temperature > 0 for way in how):
                    seeds = [seed_of(f"{q.id}\n{q.text}", way.seed) for q, way in zip(chosen, how, strict=True)]
                    choose = Sampled(seeds, how)
                texts = [
                    self._tokens(self._prompt(q), bool(q.pictures))[limit - room :]
                    for q, limit in zip(chosen, limits, strict=True)
                ]
                rows = torch.tensor([row for _, row in chunk])
                found = decode(self.backbone, pictures, rows, texts, self.parts.text.eos, max(limits), choose)
                return [self._said(tokens[:limit]) for tokens, limit in zip(found, limits, strict=True)]

            for (number, _), said in zip(asked, in_batches(asked, QUESTIONS_PER_BATCH, work), strict=True):
                yield number, said

        return self._in_order(questions, answers)

    def _said(self, tokens: list[int]) -> Said:
        ended = tokens[-1] == self.parts.text.eos
        kept = tokens[:-1] if ended else tokens
        return Said(self.parts.text.words(kept), tuple(kept), ended)

    def log_likelihood(
        self, questions: Sequence[Question], continuations: Sequence[str]
    ) -> Iterator[TextLikelihood | Failure]:
        """How likely each continuation is after its question, every token of the head's vocabulary being possible."""
        if len(questions) != len(continuations):
            raise ValueError(f"{len(questions)} questions, but {len(continuations)} continuations")

        def likelihoods(pictures: KeyValues, asked: Sequence[Asked]) -> Iterator[tuple[int, TextLikelihood]]:
            room = self._room(pictures.length)
            cut: list[tuple[Asked, Window]] = []
            for part in asked:
                question = questions[part.number]
                about = bool(question.pictures)
                before, after = joined(
                    lambda text, about=about: self._tokens(text, about),
                    self._prompt(question),
                    continuations[part.number],
                )
                cut += [(part, window) for window in windows(before, after, room)]
            # Like lengths share a batch; the longest come last, so that a batch halved for them stays so for few.
            cut.sort(key=lambda pair: len(pair[1].tokens))

            def work(chunk: Sequence[tuple[Asked, Window]]) -> list[TextLikelihood]:
                rows = torch.tensor([part.row for part, _ in chunk])
                return score(self.backbone, pictures, rows, [window for _, window in chunk])

            whole = {number: TextLikelihood(0.0, 0, True) for number, _ in asked}
            for (part, _), found in zip(cut, in_batches(cut, QUESTIONS_PER_BATCH, work), strict=True):
                total, tokens, is_greedy = whole[part.number]
                whole[part.number] = TextLikelihood(
                    total + found.total, tokens + found.tokens, is_greedy and found.greedy
                )
            yield from whole.items()

        return self._in_order(questions, likelihoods)

    def _in_order(
        self,
        questions: Sequence[Question],
        respond: Callable[[KeyValues, Sequence[Asked]], Iterator[tuple[int, R]]],
    ) -> Iterator[R | Failure]:
        """Responses in the order of `questions`, each as soon as it and all before it are there.

        respond: the picture prefixes of a batch and what is asked about them -> questions' numbers and responses.
        """
        done: dict[int, R | Failure] = {}
        due = 0
        for groups in batches(questions, QUESTIONS_PER_BATCH):
            codes = self._read(picture for group in groups for picture in group.pictures)
            readable, rows = [], []
            for group in groups:
                of_group = [codes[picture.key] for picture in group.pictures]
                if failed := [each for each in of_group if isinstance(each, Failure)]:
                    done |= dict.fromkeys(group.numbers, failed[0])
                else:
                    readable.append(group)
                    rows.append(of_group)
            prefixes = KeyValues(0)
            if any(rows):
                codes_PSND = torch.stack([torch.stack(of_group) for of_group in rows])
                with torch.inference_mode():
                    prefixes = prefix_cache(self.backbone, self._prefix(codes_PSND, groups[0].template))
            asked = [Asked(number, row) for row, group in enumerate(readable) for number in group.numbers]
            for number, response in respond(prefixes, asked) if asked else ():
                done[number] = response
                while due in done:
                    yield done.pop(due)
                    due += 1
        while due < len(questions):
            yield done.pop(due)
            due += 1

    def _read(self, pictures: Iterable[Picture]) -> dict[str, Tensor | Failure]:
        """Codes (N,D) of pictures by their keys, and why some cannot be read."""
        found: dict[str, Tensor | Failure] = {}
        fresh: dict[str, Image.Image] = {}
        for picture in pictures:
            if isinstance(picture, CodedPicture):
                found[picture.key] = picture.codes.cpu()
            elif picture.key in self._codes:
                found[picture.key] = self._codes[picture.key]
            elif picture.key not in found and picture.key not in fresh:
                try:
                    image = picture.open()
                    image.load()
                except UNREADABLE as error:
                    found[picture.key] = Failure(f"{picture.key}: {error}")
                else:
                    fresh[picture.key] = image
        for key, codes in zip(fresh, self.encode(list(fresh.values())), strict=True):
            found[key] = self._codes[key] = codes
        while len(self._codes) > CODES_REMEMBERED:
            self._codes.popitem(last=False)
        return found

    def encode(self, images: Sequence[Image.Image]) -> Iterator[Tensor]:
        """Codes (N,D) int64 of pictures of any size. Full float32: with TF32, codes near a boundary flip."""

        def work(batch: Sequence[Image.Image]) -> list[Tensor]:
            pixels = torch.stack([to_pixels(image, self.resolution) for image in batch])
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                return list(self.parts.vision.encode(pixels.to(self.backbone.device)).cpu())

        return in_batches(images, PICTURES_ENCODED_AT_ONCE, work)

    def decode(self, codes: Sequence[Tensor]) -> Iterator[Image.Image]:
        """The pictures of codes (N,D) int64 each."""

        @torch.inference_mode()
        def work(batch: Sequence[Tensor]) -> list[Image.Image]:
            return to_images(self.parts.vision.decode(torch.stack(list(batch)).to(self.backbone.device)))

        return in_batches(codes, PICTURES_ENCODED_AT_ONCE, work)

    def coded(self, codes: Tensor) -> CodedPicture:
        """Codes (N,D) int64 as a picture to ask about; equal codes are one picture."""
        return CodedPicture.of(codes, self.decode)

    # --- likelihoods for training ------------------------------------------------------------------------------------

    def caption_log_likelihood(
        self, pictures: Sequence[Picture], question: str, captions: Sequence[tuple[Sequence[int], bool]]
    ) -> Tensor:
        """(B,) float32, differentiable: of captions, tokens and whether they ended by themselves, for one question.

        Raises InputError for a picture that cannot be read, or a caption that is too long.
        """
        if len(pictures) != len(captions):
            raise ValueError(f"{len(pictures)} pictures, but {len(captions)} captions")
        found = self._read(pictures)
        for codes in found.values():
            if isinstance(codes, Failure):
                raise InputError(f"{codes.reason}; leave it out")
        codes_PSND = torch.stack([found[picture.key] for picture in pictures])[:, None]
        prefix_BLT = self._prefix(codes_PSND, template=True)
        before = self._tokens(after_pictures(question), True)
        labels = [[*tokens, self.parts.text.eos] if ended else [*tokens] for tokens, ended in captions]
        room = self._room(prefix_BLT.shape[1])
        if (longest := len(before) + max(map(len, labels)) - 1) > room:
            raise InputError(
                f"a caption takes {longest} positions, {self.name} has {room} after a picture; leave it out"
            )
        texts, scored = [[*before, *tokens] for tokens in labels], [len(tokens) for tokens in labels]
        return likelihood.text_log_likelihood(self.backbone, prefix_BLT, texts, scored)

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

    # --- text --------------------------------------------------------------------------------------------------------

    def _prompt(self, question: Question) -> str:
        """What stands after a question's pictures, or all of its prompt where it has none."""
        if question.pictures:
            return after_pictures(question.text) if question.template else f"{BETWEEN_PICTURES}{question.text}"
        return question_text(question.text) if question.template else question.text

    def _tokens(self, text: str, pictures: bool) -> list[int]:
        """Of the end of a row, after pictures, or of a whole one. At least one, to be continued from."""
        words = self.parts.text
        return words.tokens(text or BETWEEN_PICTURES) if pictures else [words.bos, *words.tokens(text)]

    def _prefix(self, codes_PSND: Tensor, template: bool) -> Tensor:
        parts = self.parts
        quantizer = parts.vision.quantizer
        return picture_prefix(self.backbone, parts.projector, quantizer, parts.text, codes_PSND, template)

    def _room(self, taken: int) -> int:
        """Positions that are left for text."""
        if self.parts.positions < taken + 2:
            raise InputError(f"{self.name}: rows have {self.parts.positions} positions; the pictures take {taken}")
        return self.parts.positions - taken
