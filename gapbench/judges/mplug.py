"""mPLUG's VQA model, the judge of DPG-Bench, rebuilt from transformers' modules.

Li et al., EMNLP 2022, arXiv 2205.12005. Weights: damo/mplug_visual-question-answering_coco_large_en on ModelScope, the
same files in a repository of the hub: config.yaml, config_bert.json, pytorch_model.bin, vocab.txt (Apache-2.0).

A picture, resized to a square, goes through CLIP's ViT-L/14; a question through six layers of BERT. Six layers of
fusion let the question look at the picture; each `stride_layer`-th of them is a connected one, in which both attend to
both. Both together are the memory that a decoder of twelve layers answers from, with a beam search of its own.

Shapes: Q questions, I tokens of a picture, T tokens of a question, M = I + T, D width of BERT.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gapbench.judges.mplug_decoding import Decoder, beam_search
from gapbench.judges.mplug_network import REPO, Checkpoint, Network, build, load_tokenizer, read_checkpoint
from gapbench.models.base import in_batches
from gapbench.records import Decoding, Failure, Picture, Question

if TYPE_CHECKING:
    from transformers import BertTokenizer

QUESTION_TOKENS = 25  # with [CLS] and [SEP]; the rest is cut off
QUESTIONS_PER_BATCH = 64
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class MPlug:
    """Answers questions about one picture each. Loaded on first use; see `describe` for what numbers depend on.

    place: a folder with the four published files, or a repository of the hub that has them. dtype: float32 unless
    given, as officially.
    """

    def __init__(
        self, place: str | Path = REPO, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self.place = place
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = dtype or torch.float32

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> Iterator[str | Failure]:
        """`decoding` changes nothing: the model comes with its own beam search. Questions of one picture that stand
        together share its features.
        """
        seen: dict[str, Tensor | Failure] = {}

        def work(batch: Sequence[Question]) -> list[str | Failure]:
            nonlocal seen
            pictures = {picture.key: picture for question in batch for picture in question.pictures[:1]}
            new = self._see([picture for key, picture in pictures.items() if key not in seen])
            seen = {key: seen[key] if key in seen else new[key] for key in pictures}
            return self._answer(batch, seen)

        return in_batches(questions, QUESTIONS_PER_BATCH, work)

    def describe(self) -> dict[str, Any]:
        checkpoint = self._checkpoint
        return {
            "name": "mplug_visual-question-answering_coco_large_en",
            "weights": checkpoint.sha256,
            "picture": f"{checkpoint.side}x{checkpoint.side}, bicubic, aspect ignored",
            "question_tokens": QUESTION_TOKENS,
            "stride_layer": checkpoint.stride,
            **checkpoint.search,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return read_checkpoint(self.place)

    @cached_property
    def _tokenizer(self) -> BertTokenizer:
        return load_tokenizer(self._checkpoint.vocabulary)

    @cached_property
    def _network(self) -> Network:
        return build(self._checkpoint).to(self.device, self.dtype).eval()

    @torch.inference_mode()
    def _see(self, pictures: Sequence[Picture]) -> dict[str, Tensor | Failure]:
        """Features (I,D) of each picture by its key, or why it cannot be read."""
        side = self._checkpoint.side
        found: dict[str, Tensor | Failure] = {}
        pixels = []
        for picture in pictures:
            try:
                pixels.append(preprocess(picture.open(), side))
            except Exception as error:  # decoders raise much besides OSError on broken files
                found[picture.key] = Failure(f"picture {picture.key} cannot be read: {error}")
        if pixels:
            read = [picture.key for picture in pictures if picture.key not in found]
            features = self._network.see(torch.stack(pixels).to(self.device, self.dtype))
            found |= dict(zip(read, features, strict=True))
        return found

    @torch.inference_mode()
    def _answer(self, questions: Sequence[Question], seen: Mapping[str, Tensor | Failure]) -> list[str | Failure]:
        answers: list[str | Failure] = []
        for question in questions:
            if len(question.pictures) != 1:
                answers.append(Failure(f"mPLUG answers about one picture, not {len(question.pictures)}"))
            elif not question.text.strip():
                answers.append(Failure("the question is empty"))
            else:
                features = seen[question.pictures[0].key]
                answers.append(features if isinstance(features, Failure) else "")
        asked = [number for number, answer in enumerate(answers) if answer == ""]
        if not asked:
            return answers
        ids_QT, mask_QT = tokenize(self._tokenizer, [questions[number].text for number in asked])
        image_QID = torch.stack([seen[questions[number].pictures[0].key] for number in asked])
        memory_QMD, mask_QM = self._network.fuse(image_QID, ids_QT.to(self.device), mask_QT.to(self.device))
        decoder = Decoder(self._network.decoder, memory_QMD, mask_QM)
        search = self._checkpoint.search
        sequences = beam_search(
            decoder.step, len(asked), self.device, search["beams"], search["max_tokens"], search["min_tokens"]
        )
        for number, ids in zip(asked, sequences, strict=True):
            answers[number] = read_answer(self._tokenizer, ids)
        return answers


def preprocess(image: Image.Image, side: int) -> Tensor:
    """(3,side,side) float32: RGB, bicubic to a square whatever the aspect, CLIP's normalisation."""
    image = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy((pixels - np.float32(MEAN)) / np.float32(STD)).permute(2, 0, 1)


def tokenize(tokenizer: BertTokenizer, questions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Ids and mask (Q,25), in lower case. Always padded to one length, so that a batch does not change a shape."""
    found = tokenizer(
        list(questions), padding="max_length", truncation=True, max_length=QUESTION_TOKENS, return_tensors="pt"
    )
    return found["input_ids"], found["attention_mask"]


def read_answer(tokenizer: BertTokenizer, ids: Sequence[int]) -> str:
    """The text of a hypothesis without [CLS], [SEP] and [PAD]; what followed a [SEP] stays, as in the original."""
    special = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id}
    return tokenizer.decode([token for token in ids if token not in special]).strip()
