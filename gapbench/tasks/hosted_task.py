"""How a task of lm-evaluation-harness judges responses, and what its metrics are in our records.

Our loop asks the model, writes records, resumes and shards; the harness filters responses and scores each document. So
a metric's value is the harness's own.

- What the harness has for a document by a metric, a number or what the metric needs to be computed over all documents,
  is in the record's details under "metrics", by the metric's name; after a comma stands the filter, if it has a name.
  None: no value, and the document does not count in that metric.
- A record's score is the document's first number in [0, 1] by a metric of which more is better. A task that has none,
  such as perplexity or BLEU, is told by its metrics alone, and what was answered scores 1.
- A response that the model failed to give is judged as an empty answer; where more is better it has no more than 0, and
  a text that was not weighed has no value otherwise.
- Where a task draws at random to score a document, as lm-eval's MMMU guesses a letter where it finds none, each of them
  has a stream of its own, so that a score does not depend on what was scored before it. The harness draws for all of
  them from one stream; of such documents its scores are others, alike but for chance. They have "by_chance" in the
  record's details.
- Intervals are cluster bootstraps; of metrics that are no means with few resamples, for those may take long to compute,
  and no more than the value alone where these do not vary.

Source: lm-eval 0.4.13, `evaluator.evaluate` and `_compute_task_aggregations`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from threading import Lock
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from gapbench import stats
from gapbench.harness_requests import Generation
from gapbench.records import Decoding, Estimate, Failure, InputError, Item, Judgement, Record, TextLikelihood
from gapbench.tasks.base import Drawings, Response

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from gapbench.tasks.hosted import Documents

RESAMPLES = 200
JUDGED_AT_ONCE = 32  # documents whose images are in memory together
NOT_WEIGHED = TextLikelihood(-1.0, 1, False)


@dataclass(frozen=True)
class HostedTask:
    """A task of lm-eval's, `task`: what it asks, `asked`, in requests of one `kind`; `generation` says how answers are
    decoded, where there are any; `told` is the protocol.
    """

    name: str
    version: str
    task: Any
    documents: Documents
    asked: Sequence[Item]
    kind: str
    generation: Generation | None
    told: Mapping[str, Any]

    side = "understanding"
    parts = ("",)

    @property
    def whole(self) -> int:
        return len(self.documents)

    @property
    def weighs(self) -> bool:
        return self.generation is None

    @property
    def decoding(self) -> Decoding | None:
        return self.generation.decoding if self.generation else None

    def items(self, part: str, drawings: Drawings) -> Sequence[Item]:
        return self.asked

    def protocol(self) -> Mapping[str, Any]:
        return self.told

    # --- judging -----------------------------------------------------------------------------------------------------

    def judge(self, items: Sequence[Item], responses: Sequence[Response]) -> list[Judgement]:
        judged = []
        for start in range(0, len(items), JUDGED_AT_ONCE):
            part = slice(start, start + JUDGED_AT_ONCE)
            judged += self._judge(items[part], responses[part])
        return judged

    def _judge(self, items: Sequence[Item], responses: Sequence[Response]) -> Iterator[Judgement]:
        from lm_eval.api.instance import Instance

        groups = []
        for item, response in zip(items, responses, strict=True):
            document = self.documents[int(item.id)]
            results = enumerate(self._results(item, response))
            groups.append([Instance(self.kind, document, (), i, resps=[result]) for i, result in results])
        every = [instance for group in groups for instance in group]
        for ensemble in self.task._filters:
            ensemble.apply(every)
        for item, response, group in zip(items, responses, groups, strict=True):
            try:
                with _own_randomness(f"{self.documents.where}/{item.id}") as drawn:
                    values = self._values(group)
                    details = {"by_chance": True} if drawn() else {}
            except Exception as error:  # of the task's own functions
                said = f"lm-eval cannot score it ({reason(error)})"
                raise InputError(f"{self.documents.where}, document {item.id}: {said}") from error
            failed = isinstance(response, Failure)
            if failed:
                values = {name: self._failed(name, value) for name, value in values.items()}
            yield Judgement(0.0 if failed else self._score(values), {"metrics": values, **details})

    def _results(self, item: Item, response: Response) -> list[Any]:
        """What a model of lm-eval's would have given."""
        failed = isinstance(response, Failure)
        if self.generation is not None:
            return ["" if failed else self.generation.ended(response)]
        likelihoods = [NOT_WEIGHED] * len(item.ask.asks) if failed else response
        if self.kind == "loglikelihood_rolling":
            return [found.total for found in likelihoods]
        return [(found.total, found.greedy) for found in likelihoods]

    def _values(self, group: Sequence[Instance]) -> dict[str, Any]:
        values = {}
        for ensemble in self.task._filters:
            results = [instance.filtered_resps[ensemble.name] for instance in group]
            for metric, value in self.task.process_results(group[0].doc, results).items():
                values[metric if ensemble.name == "none" else f"{metric},{ensemble.name}"] = _plain(value)
        return values

    def _failed(self, name: str, value: Any) -> Any:
        if _is_number(value) and self._more_is_better(name):
            return min(value, 0.0)
        return None if self.weighs else value

    def _score(self, values: Mapping[str, Any]) -> float:
        scores = (v for name, v in values.items() if _is_number(v) and 0 <= v <= 1 and self._more_is_better(name))
        return float(next(scores, 1.0))

    def _more_is_better(self, name: str) -> bool:
        return bool(self.task.higher_is_better().get(self._metric(name), True))

    def _metric(self, name: str) -> str:
        for ensemble in self.task._filters:
            name = name.removesuffix(f",{ensemble.name}")
        return name

    def prime(self) -> None:
        """Metrics that are several name those only once they were computed."""
        with suppress(InputError):  # that not even an empty answer can be scored will be said of a real one
            self.judge(self.asked[:1], [Failure("")])

    # --- metrics -----------------------------------------------------------------------------------------------------

    def metrics(self, records: Sequence[Record]) -> dict[str, Estimate]:
        """A metric that has no finite value is left out."""
        records = sorted(records, key=lambda record: int(record.item))  # as the harness has them
        names = dict.fromkeys(name for record in records for name in record.details["metrics"])
        found = {}
        for name in names:
            having = [r for r in records if r.details["metrics"].get(name) is not None]
            values = [record.details["metrics"][name] for record in having]
            if values and (estimate := self._estimate(name, values, [record.cluster for record in having])):
                found[name] = estimate
        return found

    def _estimate(self, name: str, values: Sequence[Any], clusters: Sequence[str]) -> Estimate | None:
        from lm_eval.api.metrics import mean, nanmean

        aggregate = self.task.aggregation().get(self._metric(name), mean)
        try:
            value = float(aggregate(values))
        except Exception as error:
            said = f"lm-eval cannot aggregate {name} of {len(values)} documents ({reason(error)})"
            raise InputError(f"{self.documents.where}: {said}") from error
        if not math.isfinite(value):
            return None
        if aggregate in (mean, nanmean, np.mean) and all(map(_is_number, values)):
            return stats.mean(values, clusters).valued(value)
        ids, resamples = _resampled(aggregate, values, clusters, value)
        low, high = stats.interval(value, resamples, len(ids))
        return stats.Resampled(value, low, high, len(values), len(ids), resamples, ids)


def _resampled(
    aggregate: Callable[[Sequence[Any]], Any], values: Sequence[Any], clusters: Sequence[str], whole: float
) -> tuple[list[str], np.ndarray]:
    """The clusters, and the aggregation over the first RESAMPLES of their resamples.

    A resample of which it has no finite value tells nothing, and has that of all together, `whole`.
    """
    groups: dict[str, list[Any]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        groups.setdefault(cluster, []).append(value)
    ids = sorted(groups)
    members = [groups[cluster] for cluster in ids]
    found = []
    for drawn in islice(chain.from_iterable(stats.weights(len(ids))), RESAMPLES):
        sample = [value for i in np.repeat(np.arange(len(ids)), drawn.astype(int)) for value in members[i]]
        try:
            value = float(aggregate(sample))
        except Exception:  # what is left may be too little for the task's own function
            value = whole
        found.append(value if math.isfinite(value) else whole)
    return ids, np.array(found)


def reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


_STREAMS = Lock()


@contextmanager
def _own_randomness(document: str) -> Iterator[Callable[[], bool]]:
    """The interpreter's and numpy's streams begin at the document's name, and go on afterwards as if nothing was.

    What it gives says whether something was drawn from them.
    """
    with _STREAMS:
        kept, kept_by_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        random.seed(document)
        np.random.seed(crc32(document.encode()))  # noqa: NPY002
        begun = _streams()
        try:
            yield lambda: _streams() != begun
        finally:
            random.setstate(kept)
            np.random.set_state(kept_by_numpy)  # noqa: NPY002


def _streams() -> tuple[Any, ...]:
    """Where the two streams are."""
    _, keys, *place = np.random.get_state()  # noqa: NPY002
    return random.getstate(), keys.tobytes(), place


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _plain(value: Any) -> Any:
    """A metric's value for one document as JSON can hold it; NaN is no value. Raises TypeError for what it cannot."""
    match value:
        case np.generic() | np.ndarray():
            return _plain(value.tolist())
        case float() if math.isnan(value):
            return None
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            return [_plain(each) for each in value]
        case set() | frozenset():
            return [_plain(each) for each in sorted(value)]
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
    raise TypeError(f"a record cannot hold a {type(value).__name__}")
