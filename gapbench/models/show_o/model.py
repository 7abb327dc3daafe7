"""Show-o as a model of gapbench: texts and pictures in, texts and pictures out.

Source: Show-o (arXiv 2408.12528) and showlab/Show-o. Covers both published kinds of checkpoint, discrete image tokens
and CLIP-ViT features, at every resolution; HermesFlow's checkpoint is the first kind.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from gapbench.data.pictures import UNREADABLE
from gapbench.models.base import R, in_batches
from gapbench.models.show_o.answering import Sampled, decode, discrete_picture_cache, greedy
from gapbench.models.show_o.backbone import Backbone, KeyValues
from gapbench.models.show_o.clip import clip_picture_cache
from gapbench.models.show_o.drawing import draw_codes
from gapbench.models.show_o.layout import SYSTEM_PROMPT, clip_question_text, question_text
from gapbench.models.show_o.likelihood import Window, joined, score, windows
from gapbench.models.show_o.magvit import to_images, to_pixels
from gapbench.models.show_o.sampling import MASKED, ItemNoise, MaskGit, Trace, seed_of
from gapbench.records import Decoding, Failure, InputError, Picture, Prompt, Question, Sampling, TextLikelihood

if TYPE_CHECKING:
    from PIL import Image

    from gapbench.models.show_o.checkpoint import Parts

QUESTIONS_PER_BATCH = 64
PICTURES_ENCODED_AT_ONCE = 16
CODES_REMEMBERED = 50_000  # pictures; 8 KB each at 1,024 codes


class Asked(NamedTuple):
    """A question's number, and its picture's row among the batch's prefixes."""

    number: int
    row: int


class Said(NamedTuple):
    """An answer, its tokens as they were chosen but for the end token, and whether it ended by itself."""

    text: str
    tokens: tuple[int, ...]
    ended: bool


class Drawn(NamedTuple):
    """Codes (N,) int64, the step that fixed each (N,) int64, and of each step -log p of what it fixed (T,) float32."""

    codes: Tensor
    steps: Tensor
    nats: Tensor


@dataclass(frozen=True, slots=True)
class CodedPicture(Picture):
    """A picture of which the codes (N,) int64 are known: a Show-o reads these, and its pixels are never encoded."""

    codes: Tensor = field(kw_only=True, compare=False, repr=False)

    @staticmethod
    def of(codes: Tensor, decode: Callable[[Sequence[Tensor]], Iterator[Image.Image]]) -> CodedPicture:
        """decode: to pixels, for who asks for these. Equal codes are one picture."""
        key = f"codes {hashlib.sha256(codes.cpu().numpy().tobytes()).hexdigest()[:32]}"
        return CodedPicture(key, lambda: next(decode([codes])), codes=codes)


class ShowO:
    """Answers, and scores texts, about one picture or none; draws from one prompt.

    Its rows hold one picture: a question about several is answered from the first, as LLaVA-1.5 is measured on MMMU.
    """

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

        def chosen(name: str) -> Any:
            given = getattr(sampling, name)
            return getattr(self.defaults, name) if given is None else given

        temperature = chosen("temperature")
        return MaskGit(chosen("steps"), chosen("guidance"), 1.0 if temperature is None else temperature)

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Image.Image | Failure]:
        for codes in self.draw_codes(prompts, sampling):
            if isinstance(codes, Failure):
                yield codes
            else:
                yield from self.decode([codes])

    def draw_codes(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Tensor | Failure]:
        """The drawings as image codes, (N,) int64 each."""
        for drawn in self.draw_traced(prompts, sampling):
            yield drawn if isinstance(drawn, Failure) else drawn.codes

    def draw_traced(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Drawn | Failure]:
        """The drawings as image codes, and how they came about: what a trainer keeps."""
        settings = self.settings(sampling)
        drawable = [prompt for prompt in prompts if prompt.text.strip()]
        drawn = in_batches(drawable, self.images_per_batch, lambda batch: self._draw_batch(batch, settings))
        for prompt in prompts:
            yield next(drawn) if prompt.text.strip() else Failure("the prompt is empty")

    def _draw_batch(self, prompts: Sequence[Prompt], settings: MaskGit) -> list[Drawn]:
        texts = [self._tokens(prompt.text) for prompt in prompts]
        seeds = [seed_of(prompt.text, prompt.seed) for prompt in prompts]
        noise = ItemNoise(seeds, settings.steps, self.layout.image_tokens, self.backbone.device)
        free_BN = torch.full((len(texts), self.layout.image_tokens), MASKED, device=self.backbone.device)
        trace = Trace.of(free_BN)
        codes_BN = draw_codes(self.backbone, self.layout, texts, settings, noise, free_BN, trace)
        parts = (codes_BN, trace.step_BN, trace.nats(settings.steps))
        return [Drawn(*of_one) for of_one in zip(*parts, strict=True)]

    # --- answering ---------------------------------------------------------------------------------------------------

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> Iterator[str | Failure]:
        for said in self.say(questions, [decoding] * len(questions)):
            yield said if isinstance(said, Failure) else said.text

    def say(self, questions: Sequence[Question], ways: Sequence[Decoding]) -> Iterator[Said | Failure]:
        """Answers with their tokens, each decoded in its own way; what is asked about a picture shares its prefix."""
        if len(questions) != len(ways):
            raise ValueError(f"{len(questions)} questions, but {len(ways)} ways to decode")

        def answers(pictures: KeyValues, asked: Sequence[Asked]) -> Iterator[tuple[int, Said]]:
            room = self._room(pictures)

            def work(chunk: Sequence[Asked]) -> list[Said]:
                chosen = [questions[number] for number, _ in chunk]
                how = [ways[number] for number, _ in chunk]
                limits = [min(way.max_new_tokens, room - 1) for way in how]
                choose = greedy
                if any(way.temperature > 0 for way in how):
                    seeds = [seed_of(f"{q.id}\n{q.text}", way.seed) for q, way in zip(chosen, how, strict=True)]
                    choose = Sampled(seeds, how)
                texts = [
                    self._question_tokens(q.text, q.template, bool(q.pictures))[limit - room :]
                    for q, limit in zip(chosen, limits, strict=True)
                ]
                picture_of = torch.tensor([row for _, row in chunk])
                found = decode(self.backbone, pictures, picture_of, texts, self.layout.eot, max(limits), choose)
                return [self._said(tokens[:limit]) for tokens, limit in zip(found, limits, strict=True)]

            for (number, _), said in zip(asked, in_batches(asked, QUESTIONS_PER_BATCH, work), strict=True):
                yield number, said

        return self._in_order(questions, answers)

    def _said(self, tokens: Sequence[int]) -> Said:
        ended = tokens[-1] == self.layout.eot
        return Said(self._text(tokens), tuple(tokens[:-1] if ended else tokens), ended)

    def log_likelihood(
        self, questions: Sequence[Question], continuations: Sequence[str]
    ) -> Iterator[TextLikelihood | Failure]:
        """How likely each continuation is after its question, every token of the head's vocabulary being possible."""
        if len(questions) != len(continuations):
            raise ValueError(f"{len(questions)} questions, but {len(continuations)} continuations")

        def likelihoods(pictures: KeyValues, asked: Sequence[Asked]) -> Iterator[tuple[int, TextLikelihood]]:
            room = self._room(pictures)
            cut: list[tuple[Asked, Window]] = []
            for part in asked:
                question = questions[part.number]
                prompt = self._prompt(question.text, question.template)
                before, continuation = joined(self._tokens, prompt, continuations[part.number])
                before = self._after_picture(before, bool(question.pictures))
                cut += [(part, window) for window in windows(before, continuation, room)]
            # Like lengths share a batch; the longest come last, so that a batch halved for them stays so for few.
            cut.sort(key=lambda pair: len(pair[1].tokens))

            def work(chunk: Sequence[tuple[Asked, Window]]) -> list[TextLikelihood]:
                picture_of = torch.tensor([part.row for part, _ in chunk])
                return score(self.backbone, pictures, picture_of, [window for _, window in chunk])

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
        for pictures, asked in self._batches(questions, done):
            for number, response in respond(pictures, asked):
                done[number] = response
                while due in done:
                    yield done.pop(due)
                    due += 1
        while due < len(questions):
            yield done.pop(due)
            due += 1

    def _batches(
        self, questions: Sequence[Question], failures: dict[int, Any]
    ) -> Iterator[tuple[KeyValues, list[Asked]]]:
        """Questions with their picture prefixes, in batches of whole pictures as far as they fit, those about none
        being one batch; notes those whose picture cannot be read.
        """
        alone: list[Asked] = []
        groups: dict[str, tuple[Picture, list[int]]] = {}
        for number, question in enumerate(questions):
            if not question.pictures:
                alone.append(Asked(number, 0))
            else:
                picture = question.pictures[0]
                groups.setdefault(picture.key, (picture, []))[1].append(number)
        if alone:
            yield KeyValues(0), alone
        batch: list[tuple[Picture, list[int]]] = []
        for group in groups.values():
            if batch and sum(len(numbers) for _, numbers in batch) + len(group[1]) > QUESTIONS_PER_BATCH:
                yield from self._with_pictures(batch, failures)
                batch = []
            batch.append(group)
        yield from self._with_pictures(batch, failures)

    def _with_pictures(
        self, batch: Sequence[tuple[Picture, list[int]]], failures: dict[int, Any]
    ) -> Iterator[tuple[KeyValues, list[Asked]]]:
        """The batch with its prefixes, unless no picture of it can be read."""
        pictures, unreadable = self._picture_cache([picture for picture, _ in batch])
        for picture, numbers in batch:
            if picture.key in unreadable:
                failures.update(dict.fromkeys(numbers, unreadable[picture.key]))
        if pictures is not None:
            readable = [numbers for picture, numbers in batch if picture.key not in unreadable]
            yield pictures, [Asked(number, row) for row, numbers in enumerate(readable) for number in numbers]

    def _picture_cache(self, pictures: Sequence[Picture]) -> tuple[KeyValues | None, dict[str, Failure]]:
        """The prefixes of those pictures that can be read, in order, and why the others cannot."""
        failures: dict[str, Failure] = {}
        readable, fresh = [], []
        use_clip = self.parts.clip is not None
        coded = {} if use_clip else {p.key: p.codes for p in pictures if isinstance(p, CodedPicture)}
        for picture in pictures:
            if not use_clip and (picture.key in coded or picture.key in self._codes):
                readable.append(picture.key)
                continue
            try:
                image = picture.open()
                image.load()
            except UNREADABLE as error:
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
        codes = torch.stack([coded[key].cpu() if key in coded else self._codes[key] for key in readable])
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

    def decode(self, codes: Sequence[Tensor]) -> Iterator[Image.Image]:
        """The pictures of codes (N,) int64 each."""

        @torch.inference_mode()
        def work(batch: Sequence[Tensor]) -> list[Image.Image]:
            codes_BN = torch.stack(list(batch)).to(self.backbone.device)
            return to_images(self.parts.magvit.decode(codes_BN, self.side, self.side))

        return in_batches(codes, PICTURES_ENCODED_AT_ONCE, work)

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

    def _room(self, pictures: KeyValues) -> int:
        """Positions that are left for text."""
        positions = self.backbone.phi.config.max_position_embeddings
        if positions < pictures.length + 2:
            raise InputError(f"{self.name}: max_position_embeddings is {positions}; a picture takes {pictures.length}")
        return positions - pictures.length

    def _text(self, tokens: Sequence[int]) -> str:
        """The words among generated tokens; image and special tokens, which the head also offers, are no words."""
        words = [token for token in tokens if token < self.layout.text_vocabulary and token != self.layout.eot]
        return self.parts.tokenizer.decode(words, skip_special_tokens=True).strip()
