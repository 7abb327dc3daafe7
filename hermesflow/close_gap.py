"""measure -> curate -> pair -> emphasise -> train -> measure, until the gap is closed or training stops helping.

    OUT/loop.json                 what was asked, how far it is, why it stopped
    OUT/before/, OUT/after/       runs of the gap that decides and of the panel, as `gapbench run` writes them
    OUT/K/candidates/             what the model made of each item in iteration K
    OUT/K/pairs.jsonl             the pairs chosen of it, with their weights; pairs.json counts what was dropped
    OUT/K/emphasis.md, .json      what the diagnostics say of each skill, and the weight that this gives
    OUT/K/training/               metrics.jsonl, the checkpoint, and the state to go on from
    OUT/K/follow/                 a run of the gap on validation items, before iteration K
    OUT/report.md                 before and after, skill by skill, with paired intervals
    OUT/checkpoint                the model that came out of it: a link to the last iteration's

Every stage writes its output before the next begins and finds it again, so that a loop that was killed goes on with the
same command, and ends with the same bytes.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapbench.data.sources import digest
from gapbench.manifest import finish, open_run, request_of
from gapbench.records import InputError, Sampling
from gapbench.report import runs
from gapbench.report.markdown import markdown
from gapbench.report.runs import Run
from gapbench.run import Progress, Runner, Shard
from gapbench.store import write_bytes, write_json
from gapbench.tasks.base import Task
from hermesflow import emphasis, pair_files, trackers
from hermesflow.checkpoints import held, writing
from hermesflow.curate import Curation, curate
from hermesflow.grounds import Grounds
from hermesflow.outcome import outcome_tables, stopped
from hermesflow.preferences import Rule
from hermesflow.records import NoPairs, Pair
from hermesflow.trackers import Tracking
from hermesflow.train import Training, train

if TYPE_CHECKING:
    from gapbench.homologous import Homologous
    from hermesflow.learners import Model

SCHEMA = 1
Loader = Callable[[str], "Model"]  # by zoo name or checkpoint folder


@dataclass(frozen=True, slots=True)
class Loop:
    """How to go about it. reference: of iteration K, the policy that K - 1 made ("previous"), or the base model.

    target: the loop stops early when the interval of the gap that it follows holds this. fresh_items: every iteration
    has a part of the items for itself, where the paper's makes new candidates of all and compares them with the last.
    """

    iterations: int = 3
    rule: str = "gap"  # of emphasis.RULES
    reference: str = "previous"
    target: float = 0.0
    fresh_items: bool = False
    curation: Curation = field(default_factory=Curation)
    pairs: Rule = field(default_factory=Rule)
    training: Training = field(default_factory=Training)


def close_gap(
    name: str,
    load: Loader,
    grounds: Grounds,
    how: Loop,
    folder: Path,
    progress: Progress | None = None,
    *,
    load_master: Loader | None = None,
    diagnostics: Path | None = None,
    tracking: Tracking | None = None,
    shard: Shard | None = None,
) -> dict[str, Any]:
    """Run the loop, or what is left of it; loop.json's content. Raises InputError for wrong input, in one line.

    name: of the base model, by which `load` finds it, to measure it and to curate with. load_master: what is trained,
    where `load` does not give float32: a step is smaller than other types tell apart.
    diagnostics: a run of the base model, or its diagnostics.json, whose needs weigh the first iteration's pairs in
    place of those of the run that it follows. shard: this process among those that share the loop.
    """
    shard = shard or Shard()
    given = diagnostics and emphasis.read_diagnostics(diagnostics)
    request = _request(name, grounds, how, given)
    if how.fresh_items and len(grounds.items) < how.iterations:
        raise InputError(f"{len(grounds.items)} items for {how.iterations} iterations; give more items or --same-items")
    if (known := _known(folder, request)) and known["status"] == "complete":
        return known
    base = load(name)
    if given:
        emphasis.read_diagnostics(diagnostics, base.describe())  # of this model and no other
    with held(folder) if shard.leads else nullcontext():
        state = _known(folder, request) or _begun(folder, request, grounds, shard)
        measured(base, grounds.judge, folder / "before", progress, shard)
        model, policy = base, name
        followed: list[Run] = []
        old: Sequence[Pair] = ()
        for iteration in range(1, how.iterations + 1):
            place = folder / str(iteration)
            followed.append(measured(model, [grounds.follow], place / "follow", progress, shard))
            if why := stopped(followed, how.target):
                state["stopped"] = why
                break
            found = given if given and iteration == 1 else emphasis.read_diagnostics(place / "follow")
            items = _items(grounds.items, iteration, how)
            candidates = curate(model, items, how.curation, place / "candidates", progress, shard)
            old = _pairs(candidates, () if how.fresh_items else old, found, how, place, shard)
            if not old:
                state["stopped"] = "no pairs left: nothing that it made is better than in the iteration before"
                break
            learner = _master(model, policy, load_master)
            reference = learner if how.reference == "previous" else _master(base, name, load_master)
            with (tracking or trackers.by_name(None))(place / "training") as tracked:
                policy = str(train(learner, reference, old, how.training, place / "training", progress, tracked))
            model = _named(load(policy), f"{name}, iteration {iteration}")
            if state["done"] < iteration:
                state["done"] = iteration
                _keep(folder, state, shard)
        after = measured(model, grounds.judge, folder / "after", progress, shard)
        return _finish(folder, state, grounds, runs.load(folder / "before"), after, policy, shard)


def _items(items: Sequence[Homologous], iteration: int, how: Loop) -> Sequence[Homologous]:
    """Those of an iteration. Kinds of items that come in turn come in turn in every part."""
    return items[iteration - 1 :: how.iterations] if how.fresh_items else items


def _master(model: Model, name: str, load_master: Loader | None) -> Model:
    return model if load_master is None or str(model.backbone.dtype) == "torch.float32" else load_master(name)


def _named(model: Model, name: str) -> Model:
    """By a name that is not where it lies, so that a folder may be moved and what is told of its runs can be read."""
    told = {key: value for key, value in model.parts.provenance.items() if key != "folder"}
    return type(model)(replace(model.parts, provenance={**told, "name": name}), name, model.defaults)


def _request(name: str, grounds: Grounds, how: Loop, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """All that decides what comes of it, as it is read back from JSON."""
    asked = ([h.id, h.caption, [[q.text, list(q.choices), q.answer] for q in h.questions]] for h in grounds.items)
    items = {"count": len(grounds.items), "digest": digest(asked)}
    request = {"model": name, "data": grounds.name, "items": items, **asdict(how)}
    if given:
        request["diagnostics"] = digest([given])
    return json.loads(json.dumps(request))


def _known(folder: Path, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """loop.json, None where there is none. Raises InputError where it is of another request."""
    file = folder / "loop.json"
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        known = dict(state["request"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: cannot be read ({error}); give another folder") from None
    if known != request:
        other = next(key for key in (*request, *known) if known.get(key) != request.get(key))
        raise InputError(f"--out {folder}: holds a loop with another {other}; give another folder")
    return state


def _begun(folder: Path, request: Mapping[str, Any], grounds: Grounds, shard: Shard) -> dict[str, Any]:
    """loop.json of a loop of which nothing is done yet. Hidden files are locks and what a kill left half written."""
    if shard.leads and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise InputError(f"--out {folder}: holds files but no loop; give an empty or a new folder")
    state = {"schema": SCHEMA, "status": "running", "request": request, "done": 0}
    if grounds.left_out:
        state["left_out"] = dict(grounds.left_out)
    _keep(folder, state, shard)
    return state


def _keep(folder: Path, state: Mapping[str, Any], shard: Shard) -> None:
    if shard.leads:
        with writing(folder / "loop.json"):
            write_json(folder / "loop.json", state)


def measured(
    model: Model, tasks: Sequence[Task], folder: Path, progress: Progress | None = None, shard: Shard | None = None
) -> Run:
    """A run of the tasks, begun, continued or found finished."""
    shard = shard or Shard()
    with _room(folder):
        opened, manifest = open_run(folder, "", request_of(model, tasks, Sampling(), None), shard)
        try:
            found = Runner(model, tasks, opened, Sampling(), shard=shard, progress=progress).run()
            if shard.leads and manifest["status"] != "complete":
                finish(opened, manifest, found, tasks)
        finally:
            opened.unlock()
    shard.wait()
    return runs.load(folder)


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """A full disk in one line; a run meets other errors of the system's too."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        with writing(folder):
            raise


def _pairs(
    candidates: Path, old: Sequence[Pair], diagnostics: Mapping[str, Any], how: Loop, place: Path, shard: Shard
) -> list[Pair]:
    """The iteration's weighted pairs, written down, or read where they were; none where no new ones could be made."""
    file = place / pair_files.FILE
    if shard.leads and not file.exists():
        with suppress(NoPairs) if old else nullcontext():
            pair_files.pair_up(candidates, old, how.pairs, diagnostics, how.rule, place)
    shard.wait()
    return pair_files.read_pairs(file) if file.exists() else []


def _finish(
    folder: Path, state: dict[str, Any], grounds: Grounds, before: Run, after: Run, policy: str, shard: Shard
) -> dict[str, Any]:
    tables, told = outcome_tables(before, after, grounds.gap)
    why = f"; {state['stopped']}" if "stopped" in state else ""
    head = f"{state['done']} of {state['request']['iterations']} iterations{why}\n\n"
    if shard.leads:
        with writing(folder / "report.md"):
            write_bytes(folder / "report.md", (head + markdown(tables)).encode())
        link = folder / "checkpoint"
        if state["done"] and not link.is_symlink():
            with writing(link):
                link.symlink_to(Path(policy).relative_to(folder))
    state |= {"status": "complete", "checkpoint": policy, "outcome": told}
    _keep(folder, state, shard)
    return state
