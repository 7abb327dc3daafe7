"""Candidates: what a model says of an item's image and draws of its caption, and how good each of these is.

    FOLDER/curation.json          all that can change a number; what was left out, once all is done
    FOLDER/candidates.RANK.jsonl  items that are done, appended chunk by chunk; one file a process
    FOLDER/candidates.jsonl       an item a line in the items' order; there once all is done

After HermesFlow (arXiv 2502.12148): captions of the real image over a grid of top-k and temperature, scored by their
likeness to the reference caption, and drawings of the caption, scored by the share of the item's questions that the
model itself, or a judge, answers rightly about them. The real image is encoded once and drawings stay the codes that
were sampled; to ask itself about them the model reads these codes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gapbench import judges
from gapbench.data.pictures import UNREADABLE
from gapbench.data.sources import digest
from gapbench.homologous import Homologous, HomologousQuestion
from gapbench.judges import DECODING, Judge
from gapbench.prompts import SHORT_ANSWER
from gapbench.records import Decoding, Failure, InputError, Picture, Prompt, Question, Sampling
from gapbench.run import Progress, Shard
from gapbench.tasks.base import Response
from gapbench.tasks.matching import Matching, matches, matching
from hermesflow import candidate_files
from hermesflow.candidate_files import FILE, read_candidates
from hermesflow.caption_scores import CaptionScorer, scorer
from hermesflow.precision import autocast
from hermesflow.records import Candidates, CaptionCandidate, ImageCandidate

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from gapbench.models.unified.answering import Said
    from hermesflow.learners import Model

SCHEMA = 1
CAPTION_QUESTION = "Give a caption for this image."
# (top_k, temperature): one greedy caption and the grid of HermesFlow's code.
WAYS: tuple[tuple[int | None, float], ...] = ((1, 1.0), *((k, t) for k in (2, 3, 4) for t in (0.1, 0.7, 2.0)))
UNREAD = "left out: items whose image cannot be read"
CHUNK = 8  # items that are worked on together; decides batches, and so the last bits of what is computed


@dataclass(frozen=True, slots=True)
class Curation:
    """How candidates are made and scored; the defaults are the paper's.

    ways: of the captions, top_k (1 is greedy, None the whole vocabulary) and temperature. images: drawings of each
    caption; drawing j has the seed `seed * images + j`. judge: of drawings, "self" or what gapbench.judges knows.
    matching: the rule by which the model's own answer means a choice (tasks/matching.py). scorer: of captions, see
    caption_scores.py. bfloat16: matrix products of drawing, captioning and answering on a CPU too, not on a GPU alone.
    """

    ways: tuple[tuple[int | None, float], ...] = WAYS
    caption_tokens: int = 100
    images: int = 16
    judge: str = "self"
    matching: str = "nearest"
    scorer: str = "bert"
    bfloat16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.images < 0 or self.caption_tokens < 1 or not (self.ways or self.images):
            raise InputError(f"{len(self.ways)} captions and {self.images} drawings make no candidates; ask for some")
        for top_k, temperature in self.ways:
            if temperature <= 0 or (top_k is not None and top_k < 1):
                raise InputError(
                    f"top_k {top_k}, temperature {temperature}: both must be more than 0; top_k 1 is greedy"
                )


# As the embedded world allows: exact scores, no weights but the model's, and what two CPU cores do in minutes.
MINIATURE = Curation(images=8, matching="exact", scorer="facts")


def curate(
    model: Model,
    items: Sequence[Homologous],
    how: Curation,
    folder: Path,
    progress: Progress | None = None,
    shard: Shard | None = None,
) -> Path:
    """The finished `candidates.jsonl` of the items: made, gone on with after a kill, or found complete.

    Its bytes depend on neither kills nor the number of processes. Raises InputError where the folder holds candidates
    of another request or cannot be written, two items have one id, no image can be read, or the model does not read
    pictures as codes.
    """
    if getattr(model.parts, "clip", None) is not None:
        raise InputError(
            f"{model.name}: reads pictures through CLIP-ViT; candidates need a model that reads image codes"
        )
    if twice := [name for name, times in Counter(item.id for item in items).items() if times > 1]:
        raise InputError(f"item {twice[0]!r} is there twice; keep one of them")
    shard = shard or Shard()
    work = Curator(model, how)
    about = {"schema": SCHEMA, "status": "running", "request": work.request(items)}
    if shard.leads:
        about = candidate_files.open_folder(folder, about)
    shard.wait()
    done = folder / FILE
    if not done.exists():
        _work_off(work, items, folder, progress, shard)
        shard.wait()
    if shard.leads:
        if not done.exists():
            candidate_files.merge(folder, items)
        if about["status"] != "complete":
            about = {**about, "status": "complete", "counts": _counts(read_candidates(done), work)}
            candidate_files.write_about(folder, about)
        if items and about["counts"].get(UNREAD) == len(items):
            what = f"none of {len(items)} images can be read, the first is {items[0].picture.key}"
            raise InputError(f"{folder}: {what}; correct them, and give a new folder")
    shard.wait()
    return done


def _work_off(
    work: Curator, items: Sequence[Homologous], folder: Path, progress: Progress | None, shard: Shard
) -> None:
    """This process's share of the chunks, but for those that are there."""
    chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)][shard.rank :: shard.world]
    there = candidate_files.index(folder)
    left = [chunk for chunk in chunks if not all(item.id in there for item in chunk)]
    if progress is not None:
        total = sum(map(len, chunks))
        progress.start("curate", total, total - sum(map(len, left)))
    for found in _made(work, left):
        candidate_files.append(folder / f"candidates.{shard.rank}.jsonl", found)
        if progress is not None:
            progress.advance(len(found))
    if progress is not None:
        progress.stop()


def _made(work: Curator, chunks: Sequence[Sequence[Homologous]]) -> Iterator[list[Candidates]]:
    """Candidates of each chunk, in order. On a CPU every core works on a chunk of its own: that is faster than all on
    one, whose matrices are small, and no bit depends on how many cores there are.
    """
    import torch

    if work.model.backbone.device.type != "cpu":
        yield from map(work.candidates, chunks)
        return
    cores = torch.get_num_threads()
    workers = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from workers.map(work.candidates, chunks)
    finally:
        workers.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)  # what a thread sets, some of torch's libraries take for all


# --- The work ---------------------------------------------------------------------------------------------------------


class _Drawn(NamedTuple):
    """A drawing of the item at `row` of a chunk; sampled: what an `ImageCandidate` tells of how it came about."""

    row: int
    seed: int
    codes: Tensor
    sampled: dict[str, tuple[float, ...]]


class Curator:
    """Makes candidates of a chunk of items at a time."""

    def __init__(self, model: Model, how: Curation) -> None:
        self.model, self.how = model, how
        device = str(model.backbone.device)
        if how.ways and how.caption_tokens > (room := model.caption_room(CAPTION_QUESTION)):
            raise InputError(f"{how.caption_tokens} tokens a caption: {model.name} has room for {room}; ask for fewer")
        self.scorer: CaptionScorer | None = scorer(how.scorer, device) if how.ways else None
        self.matching: Matching | None = None
        self.judge: Judge | None = None
        if how.images and how.judge == "self":
            self.matching = matching(how.matching, device)
        elif how.images:
            self.judge = judges.judge(how.judge, device)
        # 1 is greedy, and said so to the decoder.
        self.ways = [Decoding(how.caption_tokens, 0.0 if k == 1 else t, k, how.seed) for k, t in how.ways]

    def request(self, items: Sequence[Homologous]) -> dict[str, Any]:
        """All that can change a number, as it is read back from JSON."""
        asked = (
            [h.id, h.cluster, h.caption, [[q.text, list(q.choices), q.answer, q.skill] for q in h.questions]]
            for h in items
        )
        how = self.how
        told: dict[str, Any] = {
            # Its name may be its folder, which may be moved.
            "model": {key: value for key, value in self.model.describe().items() if key != "name"},
            "items": {"count": len(items), "digest": digest(asked)},
            "seed": how.seed,
            "chunk": CHUNK,
            "bfloat16": how.bfloat16,
        }
        if self.scorer:
            told["captions"] = {
                "question": CAPTION_QUESTION,
                "top_k, temperature": how.ways,
                "max_new_tokens": how.caption_tokens,
                "scorer": self.scorer.describe(),
            }
        if how.images:
            told["drawings"] = {
                "images": how.images,
                "sampling": asdict(self.model.settings(Sampling())),
                "judge": self.judge.describe() if self.judge else self._self_described(),
            }
        return json.loads(json.dumps(told))

    def _self_described(self) -> dict[str, Any]:
        told = {"name": "self", "reads": "the codes as sampled", "prompt": "{question}" + SHORT_ANSWER}
        return {**told, "decoding": asdict(DECODING), "matching": dict(self.matching.describe())}

    def candidates(self, items: Sequence[Homologous]) -> list[Candidates]:
        """One of each item, without what failed; where its image cannot be read, without captions and images."""
        codes = self._encoded(items)
        there = [row for row, each in enumerate(codes) if each is not None]
        captions = self._captions(items, codes, there)
        images = self._images(items, there)
        understood = self._understood(items, codes, there)
        return [
            Candidates(
                item.id,
                item.cluster,
                item.caption,
                tuple(q.skill for q in item.questions),
                () if codes[row] is None else tuple(codes[row].tolist()),
                tuple(captions.get(row, ())),
                tuple(images.get(row, ())),
                understood.get(row, ()),
            )
            for row, item in enumerate(items)
        ]

    def _fast(self) -> torch.autocast:
        return autocast(self.model.backbone.device, self.how.bfloat16)

    def _encoded(self, items: Sequence[Homologous]) -> list[Tensor | None]:
        opened: list[Image.Image | None] = []
        for item in items:
            try:
                image = item.picture.open()
                image.load()
            except UNREADABLE:
                image = None
            opened.append(image)
        encoded = self.model.encode([image for image in opened if image is not None])
        return [None if image is None else next(encoded) for image in opened]

    def _captions(
        self, items: Sequence[Homologous], codes: Sequence[Tensor | None], there: Sequence[int]
    ) -> dict[int, list[CaptionCandidate]]:
        if not self.scorer:
            return {}
        asked = [
            Question(f"{items[row].id}/{number}", CAPTION_QUESTION, (self.model.coded(codes[row]),))
            for row in there
            for number in range(len(self.ways))
        ]
        with self._fast():
            said = iter(list(self.model.say(asked, self.ways * len(there))))
        spoken: dict[int, list[tuple[Said, tuple[int | None, float]]]] = {}
        for row in there:
            by_way = zip(islice(said, len(self.ways)), self.how.ways, strict=True)
            spoken[row] = [(each, way) for each, way in by_way if not isinstance(each, Failure) and each.text]
        rows = [row for row in there if spoken[row]]
        scores = self.scorer.scores([(items[row], [each.text for each, _ in spoken[row]]) for row in rows])
        return {
            row: [
                CaptionCandidate(*each, score, *way)
                for (each, way), score in zip(spoken[row], of_row, strict=True)
                if score is not None
            ]
            for row, of_row in zip(rows, scores, strict=True)
        }

    def _images(self, items: Sequence[Homologous], there: Sequence[int]) -> dict[int, list[ImageCandidate]]:
        first = self.how.seed * self.how.images
        prompts = [
            (row, Prompt(items[row].id, items[row].caption, first + number))
            for row in there
            if not self.too_long(items[row].caption)
            for number in range(self.how.images)
        ]
        with self._fast():
            made = list(self._traced([prompt for _, prompt in prompts]))
        drawn = [
            _Drawn(row, prompt.seed, *each)
            for (row, prompt), each in zip(prompts, made, strict=True)
            if not isinstance(each, Failure)
        ]
        asked = [(number, q) for number, drawing in enumerate(drawn) for q in items[drawing.row].questions]
        if self.judge:
            verdicts = iter(self._by_judge(drawn, asked))
        else:
            seen = [self.model.coded(drawing.codes) for drawing in drawn]
            verdicts = iter(self._by_itself([(seen[number], question) for number, question in asked]))
        found: dict[int, list[ImageCandidate]] = {}
        for drawing in drawn:
            right = tuple(islice(verdicts, len(items[drawing.row].questions)))
            judged = [each for each in right if each is not None]
            if judged:
                candidate = ImageCandidate(
                    tuple(drawing.codes.tolist()),
                    drawing.seed,
                    right,
                    sum(judged) / len(judged),
                    **drawing.sampled,
                )
                found.setdefault(drawing.row, []).append(candidate)
        return found

    def _traced(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Tensor, dict[str, tuple[float, ...]]] | Failure]:
        """Codes, and how they were sampled where the model has steps."""
        if not hasattr(self.model, "draw_traced"):
            for codes in self.model.draw_codes(prompts, Sampling()):
                yield codes if isinstance(codes, Failure) else (codes.cpu(), {})
            return
        for made in self.model.draw_traced(prompts, Sampling()):
            if isinstance(made, Failure):
                yield made
                continue
            nats, thresholds = (tuple(round(x, 5) for x in each.tolist()) for each in (made.nats, made.thresholds))
            yield made.codes.cpu(), {"steps": tuple(made.steps.tolist()), "nats": nats, "thresholds": thresholds}

    def too_long(self, caption: str) -> bool:
        """Whether the model would draw its beginning alone, and be judged by an end that it never read."""
        return not self.model.draws_whole(caption)

    def _understood(
        self, items: Sequence[Homologous], codes: Sequence[Tensor | None], there: Sequence[int]
    ) -> dict[int, tuple[bool | None, ...]]:
        """Whether each question is answered rightly about the real image, by a model that judges its drawings."""
        if self.judge or not self.how.images:
            return {}
        pictures = {row: self.model.coded(codes[row]) for row in there}
        verdicts = iter(self._by_itself([(pictures[row], q) for row in there for q in items[row].questions]))
        return {row: tuple(islice(verdicts, len(items[row].questions))) for row in there}

    def _by_itself(self, asked: Sequence[tuple[Picture, HomologousQuestion]]) -> Iterator[bool | None]:
        """Whether the model's own answer to each question about a picture is right."""
        questions = [Question(picture.key, q.text + SHORT_ANSWER, (picture,), q.choices) for picture, q in asked]
        with self._fast():
            weighs = self.matching.weighs
            responses = self._weighed(questions) if weighs else list(self.model.answer(questions, DECODING))
        said = self.matching.said([question for _, question in asked], responses)
        for (_, question), response, text in zip(asked, responses, said, strict=True):
            yield None if isinstance(response, Failure) else matches(text, question.answer)

    def _weighed(self, questions: Sequence[Question]) -> list[Response]:
        if unchosen := [question for question in questions if not question.choices]:
            raise InputError(f"matching likelihood: {unchosen[0].text!r} has no choices to weigh; choose another rule")
        pairs = [(question, f" {choice}") for question in questions for choice in question.choices]
        found = self.model.log_likelihood([question for question, _ in pairs], [text for _, text in pairs])
        responses: list[Response] = []
        for question in questions:
            weights = tuple(islice(found, len(question.choices)))
            responses.append(next((each for each in weights if isinstance(each, Failure)), weights))
        return responses

    def _by_judge(
        self, drawn: Sequence[_Drawn], asked: Sequence[tuple[int, HomologousQuestion]]
    ) -> Iterator[bool | None]:
        """Whether the judge's answer is right, word for word; None where it could not judge."""
        keys = [self.model.coded(drawing.codes).key for drawing in drawn]
        pictures = [
            Picture(key, lambda image=image: image)
            for key, image in zip(keys, self.model.decode([drawing.codes for drawing in drawn]), strict=True)
        ]
        questions = [
            Question(f"{number}/{place}", question.text, (pictures[number],), question.choices)
            for place, (number, question) in enumerate(asked)
        ]
        for (_, question), said in zip(asked, self.judge.judge(questions), strict=True):
            yield None if isinstance(said, Failure) else matches(str(said), question.answer)


def _counts(candidates: Iterable[Candidates], work: Curator) -> dict[str, int]:
    """Images that could not be read leave nothing of their item; else a caption is left out that is empty or could not
    be scored, and a drawing that was not made or could not be judged.
    """
    how = work.how
    counts: Counter[str] = Counter(items=0, captions=0, drawings=0)
    for each in candidates:
        counts["items"] += 1
        if not each.codes:
            counts[UNREAD] += 1
            continue
        counts["captions"] += len(each.captions)
        counts["drawings"] += len(each.images)
        counts["left out: captions"] += len(how.ways) - len(each.captions)
        if how.images and work.too_long(each.caption):
            counts["left out: all drawings of captions that are too long"] += 1
        else:
            counts["left out: drawings"] += how.images - len(each.images)
    return dict(counts)
