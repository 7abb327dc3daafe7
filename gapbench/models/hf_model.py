"""Any image-text-to-text model of transformers as a model of gapbench: pictures and texts in, texts out.

Answers are decoded from the raw logits, greedily or with one generator for each question: what a checkpoint's
generation config says of temperatures, penalties and lengths is left out, and its end tokens are kept. Texts are
weighed on the very path that answers take, `generate` being made to say them (hf_decoding.py), so that positions, masks
and caches are each class's own; a token costs a step.

Rows of one batch have equally many pictures and are padded on the left. Where many questions are asked about the same
pictures, what stands before them is computed once and its keys and values are shared. That is right only where a
token sees what stands before it and nothing else, and positions are counted one by one: the classes in SHARES, which
are tested one by one; and only where the cache keeps every position. M-RoPE (Qwen-VL) and prefixes that see what
follows (PaliGemma) are computed row by row.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from gapbench.data.pictures import UNREADABLE
from gapbench.models.base import R, in_batches, in_order
from gapbench.models.hf_decoding import Picked, Told
from gapbench.models.hf_prompts import Prompts, common_length
from gapbench.models.unified.likelihood import joined, windows
from gapbench.models.unified.sampling import Choice, Sampled, greedy, seed_of
from gapbench.records import Decoding, Failure, Picture, Question, TextLikelihood

if TYPE_CHECKING:
    from PIL import Image

ROWS_PER_BATCH = 16
SHARED_ROWS_PER_BATCH = 64
SHARED_FROM = 4  # rows about the same pictures; below, full batches of rows of their own are faster
SHARES = frozenset({"chameleon", "emu3", "idefics3", "internvl", "llava", "smolvlm"})
# Emu3 pads the pictures of a batch to one size and reads the padding too: a picture's codes depend on the others'.
ALONE = frozenset({"emu3"})


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt, and where a text is weighed its tokens. `ids`: the prompt's tokens, of a row without pictures."""

    text: str
    pictures: tuple[Picture, ...]
    ids: tuple[int, ...] = ()
    continuation: tuple[int, ...] = ()
    seed: int = 0


class ImageTextToText:
    def __init__(self, model: PreTrainedModel, processor: Any, name: str, provenance: Mapping[str, Any]) -> None:
        self.name, self.model, self.processor = name, model, processor
        self.tokenizer = processor.tokenizer
        self.prompts = Prompts(processor)
        self._provenance = provenance
        text = model.config.get_text_config()
        self.positions = getattr(text, "max_position_embeddings", None) or sys.maxsize
        self.shares = model.config.model_type in SHARES
        self._alone = model.config.model_type in ALONE
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        ends, own = model.generation_config.eos_token_id, self.tokenizer.eos_token_id
        self._ends = sorted({*(ends if isinstance(ends, list) else [ends]), own} - {None})
        # In place of the checkpoint's, which generate would fall back to for all that it is not told.
        starts = ("bos_token_id", "decoder_start_token_id")
        kept = {key: getattr(model.generation_config, key) for key in starts}
        model.generation_config = GenerationConfig(**kept, pad_token_id=self.tokenizer.pad_token_id)

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "family": "hf",
            **self._provenance,
            "class": type(self.model).__name__,
            "attention": self.model.config._attn_implementation,
            "chat_template": self.prompts.describe(),
            "end_tokens": self._ends,
            "logits": "raw: no penalties",
            "shared_prefixes": self.shares,
            "device": str(self.model.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
        }

    # --- answering ---------------------------------------------------------------------------------------------------

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> Iterator[str | Failure]:
        """An answer ends where the model's positions do, if not before."""

        def row(question: Question) -> Row | Failure:
            if not question.text.strip() and not question.pictures:
                return Failure("the question is empty")
            text = self.prompts.prompt(question)
            seed = seed_of(f"{question.id}\n{question.text}", decoding.seed)
            return self._row(text, question.pictures, seed=seed)

        def decode(rows: Sequence[Row], inputs: dict[str, Any], lengths: Sequence[int]) -> list[str]:
            # The last token is picked and never read, so it takes no position.
            limits = [min(decoding.max_new_tokens, self.positions - length + 1) for length in lengths]
            choose: Choice = greedy
            if decoding.temperature > 0:
                choose = Sampled([row.seed for row in rows], [decoding] * len(rows))
            picked = Picked(choose, max(limits))
            self._generate(inputs, picked, max(limits), self._ends)
            return [self._said(tokens[:limit]) for tokens, limit in zip(picked.tokens(), limits, strict=True)]

        yield from self._respond([row(question) for question in questions], decode)

    def _said(self, tokens: Sequence[int]) -> str:
        end = next((at for at, token in enumerate(tokens) if token in self._ends), len(tokens))
        return self.tokenizer.decode(tokens[:end], skip_special_tokens=True).strip()

    def log_likelihood(
        self, questions: Sequence[Question], continuations: Sequence[str]
    ) -> Iterator[TextLikelihood | Failure]:
        """How likely each continuation is after its prompt, every token of the head's vocabulary being possible.

        Prompt and continuation are joined as unified/likelihood.py does it; but white space at the end of a chat
        template stays the template's. A prompt without pictures that is too long loses its beginning; one with pictures
        is a Failure, for its beginning are the pictures.
        """
        if len(questions) != len(continuations):
            raise ValueError(f"{len(questions)} questions, but {len(continuations)} continuations")
        return self._likelihoods([self._weighed(*pair) for pair in zip(questions, continuations, strict=True)])

    def _weighed(self, question: Question, continuation: str) -> list[Row | Failure]:
        """What has to be weighed of a text: itself, in as many windows as it takes, or nothing of an empty one."""
        text = self.prompts.prompt(question)
        if question.template:
            after = self._tokens(text + continuation)[len(self._tokens(text)) :]
        else:
            _, after = joined(self._tokens, text, continuation)
            text = text.rstrip()
        if not after:
            return []
        row = self._row(text, question.pictures, tuple(after))
        if isinstance(row, Failure) or row.pictures:
            return [row]
        tokenizer = self.tokenizer
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        cut = windows(row.ids or (start,), after, self.positions)
        return [Row(text, (), tuple(tokens[:-count]), tuple(tokens[-count:])) for tokens, count in cut]

    def _likelihoods(self, parts: Sequence[Sequence[Row | Failure]]) -> Iterator[TextLikelihood | Failure]:
        def decode(rows: Sequence[Row], inputs: dict[str, Any], lengths: Sequence[int]) -> list[TextLikelihood]:
            told = Told([row.continuation for row in rows], self.model.device)
            self._generate(inputs, Picked(told, told.length), told.length, None)
            return told.likelihoods()

        found = self._respond([row for rows in parts for row in rows], decode)
        for rows in parts:
            these = list(islice(found, len(rows)))
            failure = next((each for each in these if isinstance(each, Failure)), None)
            totals, counts, hits = zip(*these, strict=True) if these and not failure else ((), (), ())
            yield failure or TextLikelihood(sum(totals, 0.0), sum(counts), all(hits))

    @torch.inference_mode()
    def _generate(self, inputs: dict[str, Any], picked: Picked, length: int, ends: list[int] | None) -> None:
        how = {"max_new_tokens": length, "eos_token_id": ends, "do_sample": False}
        self.model.generate(**inputs, **how, logits_processor=[picked])

    # --- batches -----------------------------------------------------------------------------------------------------

    def _respond(
        self,
        rows: Sequence[Row | Failure],
        decode: Callable[[Sequence[Row], dict[str, Any], Sequence[int]], list[R]],
    ) -> Iterator[R | Failure]:
        """What `decode` makes of rows, inputs for `generate` and prompts' lengths, in the rows' order."""

        def responses() -> Iterator[tuple[int, R | Failure]]:
            yield from ((number, row) for number, row in enumerate(rows) if isinstance(row, Failure))
            for numbers, shared in self._batches(rows):
                alone = self._alone and rows[numbers[0]].pictures
                size = SHARED_ROWS_PER_BATCH if shared else 1 if alone else ROWS_PER_BATCH

                def work(chunk: Sequence[int], shared: bool = shared) -> list[R | Failure]:
                    return self._decoded([rows[number] for number in chunk], shared, decode)

                yield from zip(numbers, in_batches(numbers, size, work), strict=True)

        return in_order(responses())

    def _batches(self, rows: Sequence[Row | Failure]) -> Iterator[tuple[list[int], bool]]:
        """Numbers of rows that may stand in one batch, and whether they are about the same pictures and share them."""
        groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for number, row in enumerate(rows):
            if isinstance(row, Row):
                groups[(self._begun(row.text), *(picture.key for picture in row.pictures))].append(number)
        rest: dict[tuple[bool, int], list[int]] = defaultdict(list)
        for (begun, *pictures), numbers in groups.items():
            if pictures and self.shares and len(numbers) >= (2 if self._alone else SHARED_FROM):
                yield numbers, True
            else:
                rest[(begun, len(pictures))] += numbers
        for numbers in rest.values():
            yield numbers, False

    def _decoded(
        self,
        rows: Sequence[Row],
        shared: bool,
        decode: Callable[[Sequence[Row], dict[str, Any], Sequence[int]], list[R]],
    ) -> list[R | Failure]:
        """A batch's responses. Where one of its rows cannot be, all of them are tried one by one."""
        try:
            images = self._images(rows)
            inputs = (self._shared(rows, images) if shared and len(rows) > 1 else None) or self._inputs(rows, images)
            lengths = inputs["attention_mask"].sum(dim=1).tolist()
            for row, length in zip(rows, lengths, strict=True):
                if length + max(1, len(row.continuation)) - 1 > self.positions:
                    raise ValueError(f"{length} tokens are too many for a model of {self.positions} positions")
        except ValueError as error:
            if len(rows) == 1:
                return [Failure(str(error))]
            return [response for row in rows for response in self._decoded([row], False, decode)]
        return decode(rows, inputs, lengths)

    # --- what the model reads ----------------------------------------------------------------------------------------

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    def _begun(self, text: str) -> bool:
        """Whether a template has written the start token already."""
        return bool(self.tokenizer.bos_token) and text.startswith(self.tokenizer.bos_token)

    def _row(
        self, text: str, pictures: tuple[Picture, ...], continuation: tuple[int, ...] = (), seed: int = 0
    ) -> Row | Failure:
        if pictures:
            return Row(text, pictures, (), continuation, seed)
        try:
            ids = tuple(self._processed([text], None)["input_ids"][0].tolist())
        except ValueError as error:
            return Failure(str(error))
        return Row(text, (), ids, continuation, seed)

    def _processed(self, texts: list[str], images: list[list[Image.Image]] | None) -> Mapping[str, Any]:
        return self.processor(
            text=texts,
            images=images,
            padding=True,
            padding_side="left",
            add_special_tokens=not self._begun(texts[0]),
            return_tensors="pt",
            **self.prompts.processor_arguments,
        )

    def _images(self, rows: Sequence[Row]) -> dict[str, Image.Image]:
        """The pictures in RGB, by key. Raises ValueError naming one that cannot be read."""
        images: dict[str, Image.Image] = {}
        for picture in {picture.key: picture for row in rows for picture in row.pictures}.values():
            try:
                images[picture.key] = picture.open().convert("RGB")
            except UNREADABLE as error:
                raise ValueError(f"{picture.key}: {error}") from error
        return images

    def _inputs(self, rows: Sequence[Row], images: Mapping[str, Image.Image]) -> dict[str, Any]:
        """What `generate` takes, on the model's device, every row with pictures of its own."""
        if not rows[0].pictures:
            return self._padded([row.ids for row in rows])
        shown = [[images[picture.key] for picture in row.pictures] for row in rows]
        told = self._processed([row.text for row in rows], shown)
        return {key: self._placed(value) for key, value in told.items() if value is not None}

    def _placed(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)

    def _padded(self, ids: Sequence[Sequence[int]], prefix: int = 0) -> dict[str, Tensor]:
        """Pads stand before a row's tokens, but behind the `prefix` first ones."""
        length, pad = max(map(len, ids)), self.tokenizer.pad_token_id
        gaps = [length - len(row) for row in ids]
        told = [[*row[:prefix], *[pad] * gap, *row[prefix:]] for row, gap in zip(ids, gaps, strict=True)]
        seen = [[1] * prefix + [0] * gap + [1] * (length - prefix - gap) for gap in gaps]
        device = self.model.device
        return {
            "input_ids": torch.tensor(told, device=device),
            "attention_mask": torch.tensor(seen, device=device),
        }

    @torch.inference_mode()
    def _shared(self, rows: Sequence[Row], images: Mapping[str, Image.Image]) -> dict[str, Any] | None:
        """As `_inputs` for rows about the same pictures, whose common beginning is in a cache; or None.

        The first row says what the pictures become; what stands behind them is tokenized without them.
        """
        first = self._inputs(rows[:1], images)
        ids = first.pop("input_ids")[0].tolist()
        picture = getattr(self.processor, "image_token_id", None)
        texts = [self._tokens(row.text) for row in rows]
        if not all(picture in text for text in texts):
            return None
        cuts = [len(text) - text[::-1].index(picture) for text in texts]
        tails = [text[cut:] for text, cut in zip(texts, cuts, strict=True)]
        stem = ids[: len(ids) - len(tails[0])]
        if stem + tails[0] != ids or len({tuple(text[:cut]) for text, cut in zip(texts, cuts, strict=True)}) > 1:
            return None
        whole = [stem + tail for tail in tails]
        common = min(common_length(whole), *(len(row) - 1 for row in whole))
        if common < len(stem) or max(map(len, whole)) > self.positions:
            return None
        first["attention_mask"] = first["attention_mask"][:, :common]
        begun = torch.tensor([ids[:common]], device=self.model.device)
        cache = self.model(input_ids=begun, **first, use_cache=True, logits_to_keep=1).past_key_values
        dense = type(cache) is DynamicCache and all(type(layer) is DynamicLayer for layer in cache.layers)
        if not dense or cache.get_seq_length() != common:
            return None
        cache.batch_repeat_interleave(len(rows))
        return {**self._padded(whole, common), "past_key_values": cache}
