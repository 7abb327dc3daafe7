"""The loop: items -> responses -> records -> results, in chunks, over any number of processes, and again after a kill.

A chunk is a fixed stretch of a task's items, the same in every run and on every machine. It is the unit that a process
takes, that a model is handed and that is written down; a chunk that a kill left half done is answered again as a whole
and only what is missing is kept. So a batch never depends on what ran before, and neither does a number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from gapbench.ahead import Ahead
from gapbench.data.pictures import file_picture
from gapbench.records import (
    Failure,
    InputError,
    Item,
    Picture,
    Prompt,
    Record,
    RecordKey,
    Sampling,
    TextLikelihood,
    Weighing,
)
from gapbench.store import SCHEMA, Located, Records, RunFolder, write_json
from gapbench.tasks.base import Items, Response, Task

if TYPE_CHECKING:
    from PIL import Image

QUESTIONS_PER_CHUNK = 256
PROMPTS_PER_CHUNK = 64
SEEDS = ("seeds", "first_seed")  # of a protocol


class Progress(Protocol):
    def start(self, title: str, total: int, done: int) -> None: ...
    def advance(self, count: int) -> None: ...
    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Shard:
    """This process among those that share the run."""

    rank: int = 0
    world: int = 1
    wait: Callable[[], None] = lambda: None  # until all processes are here

    @property
    def leads(self) -> bool:
        return self.rank == 0


def chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items in stretches of whole clusters (as they stand in order), the last one as short as it is."""
    chunk: list[Item] = []
    asked = 0
    for item in items:
        size = PROMPTS_PER_CHUNK if isinstance(item.ask, Prompt) else QUESTIONS_PER_CHUNK
        if asked >= size and item.cluster != chunk[-1].cluster:
            yield chunk
            chunk, asked = [], 0
        chunk.append(item)
        asked += len(item.ask.asks) if isinstance(item.ask, Weighing) else 1
    if chunk:
        yield chunk


def limited(items: Iterable[Item], limit: int | None) -> Iterator[Item]:
    """The items of the first `limit` clusters; those of one cluster stand together."""
    clusters, last = 0, None
    for item in items:
        clusters += item.cluster != last
        last = item.cluster
        if limit is not None and clusters > limit:
            return
        yield item


class Runner:
    """One model on some tasks, into one folder."""

    def __init__(
        self,
        model: Any,
        tasks: Sequence[Task],
        folder: RunFolder,
        sampling: Sampling,
        limit: int | None = None,
        shard: Shard | None = None,
        progress: Progress | None = None,
        overlap: bool = False,
    ) -> None:
        """`overlap`: judge in a thread beside the model, which pays where the model runs on a GPU."""
        self.model, self.tasks, self.folder = model, tasks, folder
        self.sampling, self.limit = sampling, limit
        self.shard = shard or Shard()
        self.progress, self.overlap = progress, overlap

    def run(self) -> dict[str, Any]:
        """Ask all that is not recorded yet; write and return results.json (its content, on every process)."""
        for task in self.tasks:
            for part in task.parts:
                self._run_part(task, part)
                self.shard.wait()  # a later part looks at what all processes drew
        if self.shard.leads:
            for task in self.tasks:
                self.folder.merge(task.name)
            write_json(self.folder.path / "results.json", results(self.model, self.tasks, self.folder, self.limit))
        self.shard.wait()
        return json.loads((self.folder.path / "results.json").read_text())

    def _run_part(self, task: Task, part: str) -> None:
        done = self.folder.index(task.name)
        items = task.items(part, drawings_of(task, self.folder, done))
        # Items are gone through twice: to count what is missing, and chunk by chunk; they need not fit into memory.
        counted = [(len(chunk), any(key_of(item) not in done for item in chunk)) for chunk in self._mine(items)]
        asked = sum(size for size, lacks in counted if lacks)
        if not asked:
            return
        if self.progress:
            total = sum(size for size, _ in counted)
            self.progress.start(f"{task.name} {part}".strip(), total, total - asked)

        def finish(chunk: Sequence[Item], responses: Sequence[Response]) -> None:
            records = self._judged(task, chunk, responses)
            self.folder.append(task.name, [record for record in records if record.key not in done])

        with Ahead() as ahead, ThreadPoolExecutor(1, thread_name_prefix="judge") as judge:
            todo = (chunk for chunk, (_, lacks) in zip(self._mine(items), counted, strict=True) if lacks)
            judging: Future[None] | None = None
            for chunk in ahead.over(todo):
                responses = []
                for response in self._ask(task, chunk):
                    responses.append(response)
                    if self.progress:
                        self.progress.advance(1)
                if judging is not None:
                    judging.result()
                if self.overlap:
                    judging = judge.submit(finish, chunk, responses)
                else:
                    finish(chunk, responses)
            if judging is not None:
                judging.result()
        if self.progress:
            self.progress.stop()

    def _mine(self, items: Items) -> Iterator[list[Item]]:
        """This process's chunks."""
        every = chunks(limited(items, self.limit))
        return (chunk for number, chunk in enumerate(every) if number % self.shard.world == self.shard.rank)

    def _ask(self, task: Task, chunk: Sequence[Item]) -> Iterator[Response]:
        asks = [item.ask for item in chunk]
        if isinstance(asks[0], Prompt):
            return self._drawn(task, chunk) or self.model.draw(asks, self.sampling)
        if isinstance(asks[0], Weighing):
            return self._weigh(asks)
        return self.model.answer(asks, task.decoding)

    def _drawn(self, task: Task, chunk: Sequence[Item]) -> Iterator[Image.Image] | None:
        """A chunk's drawings, where an earlier process drew all of them and was killed before they were judged."""
        paths = [self.folder.image_path(task.name, item.id, item.seed) for item in chunk]
        return (file_picture(path).open() for path in paths) if all(path.exists() for path in paths) else None

    def _weigh(self, asks: Sequence[Weighing]) -> Iterator[tuple[TextLikelihood, ...] | Failure]:
        """The likelihoods of each item's texts; where the model fails on one of them, its item fails."""
        questions, texts = zip(*(pair for ask in asks for pair in ask.asks), strict=True)
        likelihoods = iter(self.model.log_likelihood(questions, texts))
        for ask in asks:
            found = tuple(islice(likelihoods, len(ask.asks)))
            yield next((each for each in found if isinstance(each, Failure)), found)

    def _judged(self, task: Task, items: Sequence[Item], responses: Sequence[Response]) -> list[Record]:
        # Drawings are on disk before they are judged: what was drawn once is never drawn again.
        texts = [self._text(task, item, response) for item, response in zip(items, responses, strict=True)]
        judgements = task.judge(items, responses)
        return [
            Record(
                task=task.name,
                item=item.id,
                cluster=item.cluster,
                skills=item.skills,
                seed=item.seed,
                response=text,
                score=judgement.score,
                details=dict(judgement.details),
                part=item.part,
                error=response.reason if isinstance(response, Failure) else None,
            )
            for item, response, text, judgement in zip(items, responses, texts, judgements, strict=True)
        ]

    def _text(self, task: Task, item: Item, response: Response) -> str:
        """The response as a record holds it; a drawing is saved."""
        match response:
            case Failure():
                return ""
            case str():
                return response
            case tuple():
                return json.dumps(response)
        return self.folder.save_image(task.name, item.id, item.seed, response)


def key_of(item: Item) -> RecordKey:
    return RecordKey(item.part, item.id, item.seed)


def drawings_of(
    task: Task, folder: RunFolder, done: Mapping[RecordKey, Located]
) -> Callable[[str, int], Picture | None]:
    """Drawings that earlier parts of the task recorded, as pictures."""

    def find(item: str, seed: int) -> Picture | None:
        places = (done.get(RecordKey(part, item, seed)) for part in task.parts)
        path = next((place.drawing for place in places if place and place.drawing), None)
        return file_picture((folder.path / path).resolve()) if path else None

    return find


def results(model: Any, tasks: Sequence[Task], folder: RunFolder, limit: int | None) -> dict[str, Any]:
    """Every metric as an estimate. Nothing in it depends on when, where or in how many pieces the run was made."""
    described = model.describe()
    told = {"schema": SCHEMA, "model": described["name"], "weights": described.get("weights"), "tasks": {}}
    for task in tasks:
        recorded = folder.index(task.name)
        places, expected, asked = [], 0, 0
        for part in task.parts:
            items = task.items(part, drawings_of(task, folder, recorded))
            expected += len(items)
            for item in limited(items, limit):
                asked += 1
                if (place := recorded.get(key_of(item))) is not None:
                    places.append(place)
        done = Records(places)
        protocol = protocol_of(task)
        told["tasks"][task.name] = {
            "side": task.side,
            "protocol": protocol,
            "fingerprint": fingerprint(protocol),
            "expected": getattr(task, "whole", expected),
            "asked": asked,
            "done": len(done),
            "failed": sum(record.error is not None for record in done),
            "unjudged": unjudged(task, done),
            "metrics": {name: asdict(e) for name, e in task.metrics(done).items()} if done else {},
        }
    return told


def unjudged(task: Task, records: Sequence[Record]) -> int:
    """What counts on no side because its judge failed: records, unless the task joins several and counts for itself."""
    if hasattr(task, "unjudged"):
        return task.unjudged(records)
    return sum(record.score is None for record in records)


def protocol_of(task: Task) -> dict[str, Any]:
    """Everything about a task that can change a number."""
    decoding = {"decoding": asdict(task.decoding)} if task.decoding else {}
    return {"task": task.name, "version": task.version, **task.protocol(), **decoding}


def fingerprint(protocol: Mapping[str, Any]) -> str:
    """Short name of a protocol: two numbers compare only where it is equal. Seeds are no part of it."""
    told = {name: value for name, value in protocol.items() if name not in SEEDS}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def check_sides(model: Any, tasks: Sequence[Task], name: str) -> None:
    """Raises InputError where a task needs what the model cannot do. A task of `Weighing`s has `weighs`."""
    for task in tasks:
        reads = ("log_likelihood", "weighs texts") if getattr(task, "weighs", False) else ("answer", "answers")
        for side, method, does in (("understanding", *reads), ("generation", "draw", "draws")):
            if task.side in (side, "both") and not hasattr(model, method):
                raise InputError(f"--model {name}: {task.name} needs a model that {does}")
