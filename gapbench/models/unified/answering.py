"""Image and text to text: answers and likelihoods of texts, many questions at once.

What stands in a row before a question's text is computed once for all questions about the same pictures; questions
about no picture share a cache of no positions. Rows that have ended leave the batch.

Shape suffixes: B questions, P rows of pictures, S pictures of a row, F features of a picture, L positions, K key
positions, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gapbench.models.base import R, in_batches, in_order
from gapbench.models.unified.backbone import Backbone, KeyValues, picture_cache, visible_causal
from gapbench.models.unified.likelihood import Window, joined, score, text_log_likelihood, windows
from gapbench.models.unified.sampling import Choice, Sampled, greedy, seed_of
from gapbench.records import Decoding, Failure, InputError, Picture, Question, TextLikelihood

SYSTEM_PROMPT = (  # Vicuna's, and so LLaVA's
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

Before = tuple[tuple[int, ...], ...]
"""The tokens of a row before each of its pictures: from its beginning, or since the picture before."""


class Asked(NamedTuple):
    """A question's number, and its pictures' row among the batch's prefixes."""

    number: int
    row: int


class Said(NamedTuple):
    """An answer, its tokens as they were chosen but for the end token, and whether it ended by itself."""

    text: str
    tokens: tuple[int, ...]
    ended: bool


Respond = Callable[[KeyValues, Sequence[Asked]], Iterable[tuple[int, R]]]
"""Picture prefixes and what is asked about them -> questions' numbers and responses."""


class Answerer:
    """Answers, and scores texts, about pictures. What its rows are a family says, in the methods left empty here."""

    name: str
    backbone: Backbone
    questions_per_batch = 32

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
                some = [questions[number] for number, _ in chunk]
                how = [ways[number] for number, _ in chunk]
                limits = [min(way.max_new_tokens, room - 1) for way in how]
                choose = greedy
                if any(way.temperature > 0 for way in how):
                    seeds = [seed_of(f"{q.id}\n{q.text}", way.seed) for q, way in zip(some, how, strict=True)]
                    choose = Sampled(seeds, how)
                texts = [self._text_row(q)[limit - room :] for q, limit in zip(some, limits, strict=True)]
                rows = torch.tensor([row for _, row in chunk])
                found = decode(self.backbone, pictures, rows, texts, self._end, max(limits), choose)
                return [self._said(tokens[:limit]) for tokens, limit in zip(found, limits, strict=True)]

            for (number, _), said in zip(asked, in_batches(asked, self.questions_per_batch, work), strict=True):
                yield number, said

        return in_order(self._responses(questions, answers))

    def _said(self, tokens: list[int]) -> Said:
        ended = tokens[-1] == self._end
        kept = tokens[:-1] if ended else tokens
        return Said(self._text(kept), tuple(kept), ended)

    def log_likelihood(
        self, questions: Sequence[Question], continuations: Sequence[str]
    ) -> Iterator[TextLikelihood | Failure]:
        """How likely each continuation is after its question, every token of the head's vocabulary being possible."""
        if len(questions) != len(continuations):
            raise ValueError(f"{len(questions)} questions, but {len(continuations)} continuations")

        def likelihoods(pictures: KeyValues, asked: Sequence[Asked]) -> Iterable[tuple[int, TextLikelihood]]:
            room = self._room(pictures.length)
            cut: list[tuple[Asked, Window]] = []
            for part in asked:
                before, after = self._continued(questions[part.number], continuations[part.number])
                cut += [(part, window) for window in windows(before, after, room)]
            # Like lengths share a batch; the longest come last, so that a batch halved for them stays so for few.
            cut.sort(key=lambda pair: len(pair[1].tokens))

            def work(chunk: Sequence[tuple[Asked, Window]]) -> list[TextLikelihood]:
                rows = torch.tensor([part.row for part, _ in chunk])
                return score(self.backbone, pictures, rows, [window for _, window in chunk])

            whole = {number: TextLikelihood(0.0, 0, True) for number, _ in asked}
            for (part, _), found in zip(cut, in_batches(cut, self.questions_per_batch, work), strict=True):
                total, tokens, is_greedy = whole[part.number]
                whole[part.number] = TextLikelihood(
                    total + found.total, tokens + found.tokens, is_greedy and found.greedy
                )
            return whole.items()

        return in_order(self._responses(questions, likelihoods))

    # --- batches -----------------------------------------------------------------------------------------------------

    def _responses(self, questions: Sequence[Question], respond: Respond[R]) -> Iterator[tuple[int, R | Failure]]:
        """Questions' numbers and responses, batch by batch. One that does not fit with its prefixes is halved."""
        befores = [self._before(question) for question in questions]
        for groups in self._batches(questions, befores):
            of_group = {numbers[0]: questions[numbers[0]].pictures for numbers in groups}
            if not any(of_group.values()):
                yield from respond(KeyValues(0), [Asked(number, 0) for numbers in groups for number in numbers])
                continue
            seen = self._read(picture for pictures in of_group.values() for picture in pictures)
            readable = []
            for numbers in groups:
                looks = [seen[picture.key] for picture in of_group[numbers[0]]]
                if failed := [each for each in looks if isinstance(each, Failure)]:
                    yield from ((number, failed[0]) for number in numbers)
                else:
                    readable.append((numbers, looks))

            def work(some: Sequence[tuple[list[int], list[Any]]]) -> list[list[tuple[int, R]]]:
                rows = [befores[numbers[0]] for numbers, _ in some]
                with torch.inference_mode():
                    prefixes = self._prefixes(rows, [looks for _, looks in some])
                asked = [Asked(number, row) for row, (numbers, _) in enumerate(some) for number in numbers]
                found = dict(respond(prefixes, asked))
                return [[(number, found[number]) for number in numbers] for numbers, _ in some]

            for found in in_batches(readable, len(readable), work):
                yield from found

    def _batches(self, questions: Sequence[Question], befores: Sequence[Before]) -> Iterator[list[list[int]]]:
        """Numbers of questions in groups of one prefix; prefixes of one length, about so many questions at a time."""
        groups: dict[Hashable, list[int]] = {}
        for number, (question, before) in enumerate(zip(questions, befores, strict=True)):
            same = (before, *(picture.key for picture in question.pictures)) if before else self._alone(number)
            groups.setdefault(same, []).append(number)
        alike: dict[Hashable, list[list[int]]] = {}
        for numbers in groups.values():
            alike.setdefault(tuple(map(len, befores[numbers[0]])), []).append(numbers)
        for of_one_length in alike.values():
            batch: list[list[int]] = []
            for numbers in of_one_length:
                if batch and sum(map(len, batch)) + len(numbers) > self.questions_per_batch:
                    yield batch
                    batch = []
                batch.append(numbers)
            yield batch

    # --- what a family says ------------------------------------------------------------------------------------------

    def _alone(self, number: int) -> Hashable:
        """The group of a question about no picture: one of all."""
        return None

    def _before(self, question: Question) -> Before:
        """What stands before each of a question's pictures."""
        raise NotImplementedError

    def _read(self, pictures: Iterable[Picture]) -> dict[str, Any]:
        """What is seen of pictures, by their keys, or the Failure of one that cannot be read."""
        raise NotImplementedError

    def _prefixes(self, befores: Sequence[Before], seen: Sequence[Sequence[Any]]) -> KeyValues:
        """Keys and values of rows of one length up to their pictures' ends, of what is seen of each row's pictures."""
        raise NotImplementedError

    def _room(self, taken: int) -> int:
        """Positions that are left for text. Raises InputError where it is too little."""
        raise NotImplementedError

    def _text_row(self, question: Question) -> list[int]:
        """The tokens of a row after its pictures, or of a whole one; at least one, to be continued from."""
        raise NotImplementedError

    def _continued(self, question: Question, continuation: str) -> tuple[list[int], list[int]]:
        """`_text_row` without white space at its end, and what a continuation's tokens have more."""
        raise NotImplementedError

    def _text(self, tokens: Sequence[int]) -> str:
        """The words among generated tokens."""
        raise NotImplementedError

    @property
    def _end(self) -> int:
        """The token that ends an answer."""
        raise NotImplementedError


class CausalAnswerer(Answerer):
    """All positions of a row see those before them, a picture's too, which come in as features, not as tokens.

    `parts` has a `text`, of which `words` are tokens' and `eos` ends an answer.
    """

    parts: Any
    positions: int  # that a row may have

    def _features(self, seen: Tensor) -> Tensor:
        """(P,S,F,D) of what is seen of each row's pictures (P,S,...)."""
        raise NotImplementedError

    def _prompt(self, question: Question) -> str:
        """What stands after a question's pictures, or all of its prompt where it has none."""
        raise NotImplementedError

    def _tokens(self, text: str, pictures: bool) -> list[int]:
        """Of the end of a row, after pictures, or of a whole one. At least one."""
        raise NotImplementedError

    def _text_row(self, question: Question) -> list[int]:
        return self._tokens(self._prompt(question), bool(question.pictures))

    def _continued(self, question: Question, continuation: str) -> tuple[list[int], list[int]]:
        about = bool(question.pictures)
        return joined(lambda text: self._tokens(text, about), self._prompt(question), continuation)

    def _text(self, tokens: Sequence[int]) -> str:
        return self.parts.text.words(tokens)

    @property
    def _end(self) -> int:
        return self.parts.text.eos

    def _room(self, taken: int) -> int:
        if self.positions < taken + 2:
            raise InputError(f"{self.name}: rows have {self.positions} positions; the pictures take {taken}")
        return self.positions - taken

    def _prefix(self, befores: Sequence[Before], seen: Sequence[Sequence[Tensor]]) -> Tensor:
        """Embeddings (P,L,D) of the rows up to their last pictures' features."""
        features_PSFD = self._features(torch.stack([torch.stack(list(of_row)) for of_row in seen]))
        parts = []
        for number in range(features_PSFD.shape[1]):
            ids = torch.tensor([before[number] for before in befores], device=self.backbone.device)
            parts += [self.backbone.embed(ids), features_PSFD[:, number]]
        return torch.cat(parts, dim=1)

    def _prefixes(self, befores: Sequence[Before], seen: Sequence[Sequence[Tensor]]) -> KeyValues:
        prefix_PLD = self._prefix(befores, seen)
        no_pads_1 = torch.zeros(1, dtype=torch.int64, device=self.backbone.device)
        return picture_cache(self.backbone, prefix_PLD, visible_causal(no_pads_1, prefix_PLD.shape[1])[0, 0])

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
        asked = Question("", question, tuple(pictures[:1]))
        prefix_BLD = self._prefix([self._before(asked)] * len(pictures), [[found[each.key]] for each in pictures])
        before = self._text_row(asked)
        labels = [[*tokens, self._end] if ended else [*tokens] for tokens, ended in captions]
        room = self._room(prefix_BLD.shape[1])
        if (longest := len(before) + max(map(len, labels)) - 1) > room:
            raise InputError(
                f"a caption takes {longest} positions, {self.name} has {room} after a picture; leave it out"
            )
        texts, scored = [[*before, *tokens] for tokens in labels], [len(tokens) for tokens in labels]
        return text_log_likelihood(self.backbone, prefix_BLD, texts, scored)


@torch.inference_mode()
def decode(
    backbone: Backbone,
    pictures: KeyValues,
    picture_of_B: Tensor,
    texts: Sequence[Sequence[int]],
    eot: int,
    max_new_tokens: int,
    choose: Choice = greedy,
) -> list[list[int]]:
    """Tokens generated for each text after its picture, up to and including `eot`, at most `max_new_tokens`.

    picture_of_B: row of `pictures` that each text is about; `KeyValues(0)` is no picture, whatever the row. Texts are
    token ids, each at least one.
    """
    device, prefix = backbone.device, pictures.length
    length = max(len(text) for text in texts)
    cache = pictures.select(picture_of_B.to(device), prefix + length + max_new_tokens)
    pads_B = torch.tensor([length - len(text) for text in texts], device=device)
    ids = torch.tensor([[eot] * (length - len(text)) + list(text) for text in texts], device=device)

    # Pads stand between the picture and a shorter text; they are hidden and take no position.
    keys = torch.arange(cache.capacity, device=device)
    seen_BK = (keys < prefix) | (keys >= prefix + pads_B[:, None])
    own_L1 = prefix + torch.arange(length, device=device)[:, None]
    key_K = keys[: prefix + length]
    # A pad's own row must see something, or its softmax is empty: all see themselves.
    visible = (seen_BK[:, None, None, : prefix + length] & (key_K <= own_L1)) | (key_K == own_L1)
    positions = prefix + (torch.arange(length, device=device) - pads_B[:, None]).clamp(min=0)

    answers: list[list[int]] = [[] for _ in texts]
    rows = torch.arange(len(texts), device=device)
    hidden = backbone.hidden(ids, visible, positions, cache)[:, -1]
    cache.keep(length)
    position_B = prefix + length - pads_B
    for step in range(max_new_tokens):
        tokens = choose(step, backbone.logits(hidden), rows)
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            answers[row].append(token)
        going = tokens != eot
        if step == max_new_tokens - 1 or not going.any():
            break
        if not going.all():
            going = going.nonzero().squeeze(-1)
            cache, tokens, rows = cache.select(going), tokens[going], rows[going]
            seen_BK, position_B = seen_BK[going], position_B[going]
        visible = seen_BK[:, None, None, : cache.length + 1]
        hidden = backbone.hidden(tokens[:, None], visible, position_B[:, None], cache)[:, -1]
        cache.keep(1)
        position_B = position_B + 1
    return answers
