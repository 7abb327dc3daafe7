"""How good a caption is that a model gave of an item's image.

bert        cosine of BERT-large's [CLS] vectors of caption and reference: the score of HermesFlow (2502.12148)
bertscore   BERTScore's F1 (Zhang et al., ICLR 2020), by the package bert-score
questions   share of the item's questions that the caption alone answers rightly, asked of a server's model
facts       of the miniature world alone: F1 of what the caption says against what the picture shows, exactly
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from gapbench import hub
from gapbench.api import Client, endpoint
from gapbench.homologous import Homologous
from gapbench.judges.sentences import FILES, Sentences
from gapbench.models.base import in_batches
from gapbench.questions import LETTERS, PROMPT_VERSION, ElementQuestion, checking, lettered, read_choice
from gapbench.records import Failure, InputError

if TYPE_CHECKING:
    import numpy as np

SCORERS = ("bert[:FOLDER]", "bertscore[:FOLDER]", "questions:openai:NAME[@URL]", "facts")
BERT = "google-bert/bert-large-uncased"
BERTSCORE = "FacebookAI/roberta-large"
BERT_TOKENS = 512
_BATCH = 64
_ADVICE = "Give the folder of such a model with the scorer's name, as in bert:FOLDER, or choose another scorer"


class CaptionScorer(Protocol):
    """Greater is better. None where a caption could not be scored."""

    def scores(self, captioned: Sequence[tuple[Homologous, Sequence[str]]]) -> list[list[float | None]]:
        """A score for each caption of each item, none of them empty."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """All that can change a score."""
        ...


def scorer(name: str, device: torch.device | str | None = None) -> CaptionScorer:
    """By a name of SCORERS. Raises InputError where there is no such scorer."""
    kind, _, place = name.partition(":")
    if name == "facts":
        return Facts()
    if kind == "bert" and (place or name == kind):
        return BertCosine(place or BERT, device)
    if kind == "bertscore" and (place or name == kind):
        return BertScore(place or BERTSCORE, device)
    if kind == "questions" and place:
        return Answered(Client(endpoint(place)))
    raise InputError(f"caption scorer {name}: unknown; there is {', '.join(SCORERS)}")


class _FirstToken(Sentences):
    """Vectors of the first token, [CLS], in place of means over all."""

    @torch.inference_mode()
    def _embedded(self, texts: Sequence[str]) -> list[np.ndarray]:
        tokenizer, network = self._loaded
        with hub.silent("transformers"):
            length = min(BERT_TOKENS, tokenizer.model_max_length, network.config.max_position_embeddings)
            tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        first_BD = network(**tokens.to(self.device)).last_hidden_state[:, 0]
        return list(torch.nn.functional.normalize(first_BD, dim=-1).cpu().numpy())

    @cached_property
    def _folder(self) -> Path:
        return _folder(self.model)


class BertCosine:
    """model: a repository of the hub, or a folder in transformers' layout. Cosine of [CLS] states, no pooling head."""

    def __init__(self, model: str = BERT, device: torch.device | str | None = None) -> None:
        self._sentences = _FirstToken(model, device)

    def describe(self) -> Mapping[str, Any]:
        told = self._sentences.describe()
        return {**told, "name": "bert", "model": told["name"], "pooling": "[CLS]", "tokens": BERT_TOKENS}

    def scores(self, captioned: Sequence[tuple[Homologous, Sequence[str]]]) -> list[list[float | None]]:
        texts = list(dict.fromkeys(t for item, captions in captioned for t in (item.caption, *captions)))
        vectors = dict(zip(texts, self._sentences.embed(texts), strict=True))
        return [[float(vectors[item.caption] @ vectors[text]) for text in texts] for item, texts in captioned]


class BertScore:
    """F1 of greedily matched token states, without weights by rarity and not rescaled.

    States are those of the layer that bert-score recommends for a model that it knows by its name, else the last.
    """

    def __init__(self, model: str = BERTSCORE, device: torch.device | str | None = None) -> None:
        self.model = model
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def describe(self) -> Mapping[str, Any]:
        weights = next(self._place / name for name in FILES[1] if (self._place / name).is_file())
        return {
            "name": "bertscore",
            "model": self._place.resolve().name if Path(self.model).is_dir() else self.model,
            "weights": hub.fingerprint(weights),
            "layer": self._layer,
            "package": version("bert-score"),
        }

    def scores(self, captioned: Sequence[tuple[Homologous, Sequence[str]]]) -> list[list[float | None]]:
        pairs = [(text, item.caption) for item, texts in captioned for text in texts]
        found = iter(list(in_batches(pairs, _BATCH, self._f1)))
        return [list(islice(found, len(texts))) for _, texts in captioned]

    def _f1(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        with hub.silent("transformers"):
            _, _, f1 = self._loaded.score([text for text, _ in pairs], [reference for _, reference in pairs])
        return f1.tolist()

    @cached_property
    def _place(self) -> Path:
        folder = _folder(self.model)
        if not any((folder / name).is_file() for name in FILES[1]):
            raise InputError(f"{folder} has none of {', '.join(FILES[1])}")
        return folder

    @cached_property
    def _layer(self) -> int:
        from bert_score.utils import model2layers
        from transformers import AutoConfig

        known = model2layers.get(self.model, model2layers.get(Path(self.model).name))
        return known or AutoConfig.from_pretrained(self._place, local_files_only=True).num_hidden_layers

    @cached_property
    def _loaded(self) -> Any:
        from bert_score import BERTScorer
        from transformers.utils import logging

        bar = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            with hub.silent("transformers"):
                return BERTScorer(str(self._place), num_layers=self._layer, device=str(self.device), batch_size=_BATCH)
        except Exception as error:  # what a damaged file makes transformers raise has no common class
            raise InputError(
                f"{self._place}: BERTScore's model cannot be read: {' '.join(str(error).split())}"
            ) from None
        finally:
            if bar:
                logging.enable_progress_bar()


class Answered:
    """A language model reads the caption and no picture, and may say that it leaves a question open, which is wrong.

    Asked are questions with two to four choices, as `gapbench data questions` checks its own.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def describe(self) -> Mapping[str, Any]:
        return {"name": "questions", "model": self._client.model, "prompt": f"check {PROMPT_VERSION}"}

    def scores(self, captioned: Sequence[tuple[Homologous, Sequence[str]]]) -> list[list[float | None]]:
        asked = [_askable(item) for item, _ in captioned]
        chats = [
            checking(text, question)
            for (_, texts), questions in zip(captioned, asked, strict=True)
            for text in texts
            for question in questions
        ]
        replies = iter(list(self._client.chat(chats, lambda reply: read_choice(reply.text))))
        return [
            [self._share(questions, islice(replies, len(questions))) for _ in texts]
            for (_, texts), questions in zip(captioned, asked, strict=True)
        ]

    @staticmethod
    def _share(questions: Sequence[ElementQuestion], replies: Any) -> float | None:
        right = [
            lettered(question).get(letter) == question.answer
            for question, letter in zip(questions, replies, strict=True)
            if not isinstance(letter, Failure)
        ]
        return sum(right) / len(right) if right else None


def _askable(item: Homologous) -> list[ElementQuestion]:
    found = [
        ElementQuestion("", "other", q.text, q.choices, q.answer)
        for q in item.questions
        if 2 <= len(q.choices) <= len(LETTERS)
    ]
    if not found:
        raise InputError(f"item {item.id!r}: no question with two to four choices; choose another caption scorer")
    return found


class Facts:
    """The exact eye reads the picture, and `truth` compares."""

    def describe(self) -> Mapping[str, Any]:
        return {"name": "facts", "version": "1"}

    def scores(self, captioned: Sequence[tuple[Homologous, Sequence[str]]]) -> list[list[float | None]]:
        from gapbench.miniature import captions, eye

        found: list[list[float | None]] = []
        for item, texts in captioned:
            scene = eye.read(item.picture.open())
            if not scene.things:
                raise InputError(
                    f"item {item.id!r}: not a picture of the miniature world; choose another caption scorer"
                )
            found.append([captions.truth(captions.read(text), scene) for text in texts])
        return found


def _folder(model: str) -> Path:
    folder = Path(model)
    return folder if folder.is_dir() else hub.fetch(model, FILES, "main", _ADVICE)[0].parent
