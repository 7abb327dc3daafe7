"""Janus and Janus-Pro as a model of gapbench: texts and pictures in, texts and pictures out.

Source: Janus (arXiv 2410.13848), Janus-Pro (arXiv 2501.17811) and deepseek-ai/Janus, through transformers' modules.
Pictures to answer about are seen by SigLIP; pictures are drawn in the codes of another tokenizer, with a head of their
own, by the same language model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gapbench.data.pictures import UNREADABLE
from gapbench.models.base import R, in_batches
from gapbench.models.janus import vision
from gapbench.models.janus.answering import Group, batches, picture_prefix, prefix_cache
from gapbench.models.janus.backbone import JanusBackbone
from gapbench.models.janus.drawing import ItemChoice, Sampler, draw_codes
from gapbench.models.janus.likelihood import image_log_probs
from gapbench.models.show_o.answering import Sampled, decode, greedy
from gapbench.models.show_o.backbone import KeyValues
from gapbench.models.show_o.likelihood import Window, joined, score, windows
from gapbench.models.show_o.magvit import to_images, to_pixels
from gapbench.models.show_o.model import Asked, CodedPicture, Said
from gapbench.models.show_o.sampling import seed_of
from gapbench.models.vila_u.likelihood import text_log_likelihood
from gapbench.records import Decoding, Failure, InputError, Picture, Prompt, Question, Sampling, TextLikelihood

if TYPE_CHECKING:
    from PIL import Image

    from gapbench.models.janus.checkpoint import Parts

QUESTIONS_PER_BATCH = 32
PICTURES_ENCODED_AT_ONCE = 16


class Janus:
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
        """The drawings as image codes, (N,) int64 each."""
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
        room = self.positions - (self.image_tokens - 1)
        return Failure(f"the prompt takes {len(row)} tokens; there is room for {room}") if len(row) > room else None

    def _draw_batch(self, batch: Sequence[tuple[Prompt, list[int]]], how: Sampler) -> list[Tensor]:
        seeds = [seed_of(prompt.text, prompt.seed) for prompt, _ in batch]
        choose = ItemChoice(seeds, self.image_tokens, how.temperature, self.backbone.device)
        rows = [row for _, row in batch]
        unprompted = [self.parts.text.unprompted(row) for row in rows]
        return list(draw_codes(self.backbone, rows, unprompted, self.image_tokens, how.guidance, choose))

    # --- answering ---------------------------------------------------------------------------------------------------

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> Iterator[str | Failure]:
        for said in self.say(questions, [decoding] * len(questions)):
            yield said if isinstance(said, Failure) else said.text

    def say(self, questions: Sequence[Question], ways: Sequence[Decoding]) -> Iterator[Said | Failure]:
        """Answers with their tokens, each decoded in its own way; what is asked about pictures shares their prefix."""
        if len(questions) != len(ways):
            raise ValueError(f"{len(questions)} questions, but {len(ways)} ways to decode")
        stretches = [self.parts.text.stretches(question) for question in questions]

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
                    self.parts.text.after_pictures(stretches[number][-1], bool(q.pictures))[limit - room :]
                    for (number, _), q, limit in zip(chunk, chosen, limits, strict=True)
                ]
                rows = torch.tensor([row for _, row in chunk])
                found = decode(self.backbone, pictures, rows, texts, self.parts.text.eos, max(limits), choose)
                return [self._said(tokens[:limit]) for tokens, limit in zip(found, limits, strict=True)]

            for (number, _), said in zip(asked, in_batches(asked, QUESTIONS_PER_BATCH, work), strict=True):
                yield number, said

        return self._in_order(questions, stretches, answers)

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
        stretches = [self.parts.text.stretches(question) for question in questions]

        def likelihoods(pictures: KeyValues, asked: Sequence[Asked]) -> Iterator[tuple[int, TextLikelihood]]:
            room = self._room(pictures.length)
            cut: list[tuple[Asked, Window]] = []
            for part in asked:
                about = bool(questions[part.number].pictures)
                before, after = joined(
                    lambda text, about=about: self.parts.text.after_pictures(text, about),
                    stretches[part.number][-1],
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

        return self._in_order(questions, stretches, likelihoods)

    def _in_order(
        self,
        questions: Sequence[Question],
        stretches: Sequence[Sequence[str]],
        respond: Callable[[KeyValues, Sequence[Asked]], Iterator[tuple[int, R]]],
    ) -> Iterator[R | Failure]:
        """Responses in the order of `questions`, each as soon as it and all before it are there.

        respond: the picture prefixes of a batch and what is asked about them -> questions' numbers and responses.
        """
        before = [self.parts.text.before_pictures(texts) for texts in stretches]
        done: dict[int, R | Failure] = {}
        due = 0
        for groups in batches(questions, before, QUESTIONS_PER_BATCH):
            pixels = self._read(picture for group in groups for picture in group.pictures)
            readable = []
            for group in groups:
                failed = [seen for each in group.pictures if isinstance(seen := pixels[each.key], Failure)]
                if failed:
                    done |= dict.fromkeys(group.numbers, failed[0])
                else:
                    readable.append(group)

            def work(some: Sequence[Group], pixels: dict[str, Any] = pixels) -> list[dict[int, R]]:
                prefixes = KeyValues(0)
                if some[0].pictures:
                    shown = torch.stack([torch.stack([pixels[each.key] for each in group.pictures]) for group in some])
                    with torch.inference_mode():
                        prefix = picture_prefix(self.backbone, [group.before for group in some], shown)
                        prefixes = prefix_cache(self.backbone, prefix)
                asked = [Asked(number, row) for row, group in enumerate(some) for number in group.numbers]
                found = dict(respond(prefixes, asked))
                return [{number: found[number] for number in group.numbers} for group in some]

            for found in in_batches(readable, len(readable), work):
                done |= found
            while due in done:
                yield done.pop(due)
                due += 1

    def _read(self, pictures: Iterable[Picture]) -> dict[str, Tensor | Failure]:
        """What the vision tower is shown of pictures, by their keys (3,S,S), and why some cannot be read."""
        found: dict[str, Tensor | Failure] = {}
        for picture in pictures:
            if picture.key not in found:
                try:
                    found[picture.key] = self.parts.frame.pixels(picture.open())
                except UNREADABLE as error:
                    found[picture.key] = Failure(f"{picture.key}: {error}")
        return found

    # --- the image tokenizer -----------------------------------------------------------------------------------------

    def encode(self, images: Sequence[Image.Image]) -> Iterator[Tensor]:
        """Codes (N,) int64 of pictures of any size. Full float32: with TF32, codes near a boundary flip."""

        def work(batch: Sequence[Image.Image]) -> list[Tensor]:
            pixels = torch.stack([to_pixels(image, self.resolution) for image in batch])
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                return list(vision.encode(self.vq, pixels.to(self.backbone.device)).cpu())

        return in_batches(images, PICTURES_ENCODED_AT_ONCE, work)

    def decode(self, codes: Sequence[Tensor]) -> Iterator[Image.Image]:
        """The pictures of codes (N,) int64 each."""

        @torch.inference_mode()
        def work(batch: Sequence[Tensor]) -> list[Image.Image]:
            return to_images(self.vq.decode(torch.stack(list(batch)).to(self.backbone.device)))

        return in_batches(codes, PICTURES_ENCODED_AT_ONCE, work)

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
        words = self.parts.text
        stretches = words.stretches(Question("", question, (Picture("", lambda: None),)))
        before = (
            sum(map(len, words.before_pictures(stretches))) + self.backbone.phi.config.vision_config.num_image_tokens
        )
        return self.positions - before - len(words.after_pictures(stretches[-1], True))

    def caption_log_likelihood(
        self, pictures: Sequence[Picture], question: str, captions: Sequence[tuple[Sequence[int], bool]]
    ) -> Tensor:
        """(B,) float32, differentiable: of captions, tokens and whether they ended by themselves, for one question.

        Raises InputError for a picture that cannot be read, or a caption that is too long.
        """
        if len(pictures) != len(captions):
            raise ValueError(f"{len(pictures)} pictures, but {len(captions)} captions")
        found = self._read(pictures)
        for seen in found.values():
            if isinstance(seen, Failure):
                raise InputError(f"{seen.reason}; leave it out")
        words = self.parts.text
        stretches = words.stretches(Question("", question, tuple(pictures[:1])))
        pixels_PS3HW = torch.stack([found[picture.key] for picture in pictures])[:, None]
        prefix_BLD = picture_prefix(self.backbone, [words.before_pictures(stretches)] * len(pictures), pixels_PS3HW)
        before = words.after_pictures(stretches[-1], True)
        labels = [[*tokens, words.eos] if ended else [*tokens] for tokens, ended in captions]
        room = self._room(prefix_BLD.shape[1])
        if (longest := len(before) + max(map(len, labels)) - 1) > room:
            raise InputError(
                f"a caption takes {longest} positions, {self.name} has {room} after a picture; leave it out"
            )
        texts, scored = [[*before, *tokens] for tokens in labels], [len(tokens) for tokens in labels]
        return text_log_likelihood(self.backbone, prefix_BLD, texts, scored)

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

    def _room(self, taken: int) -> int:
        """Positions that are left for text."""
        if self.positions < taken + 2:
            raise InputError(f"{self.name}: rows have {self.positions} positions; the pictures take {taken}")
        return self.positions - taken
