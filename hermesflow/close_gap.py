"""measure -> curate -> pair -> emphasise -> train -> measure, until the gap is closed or training stops helping.

    OUT/loop.json                 what was asked, how far it is, why it stopped
    OUT/before/, OUT/after/       runs of the gap that decides and of the panel, as `gapbench run` writes them
    OUT/K/candidates/             what the model made of each item in iteration K
    OUT/K/pairs.jsonl             the pairs chosen of it, with their weights; pairs.json counts what was dropped
    OUT/K/emphasis.md, .json      what the diagnostics say of each skill, and the weight that this gives
    OUT/K/training/               metrics.jsonl, the checkpoint, and the state to go on from
    OUT/K/follow/                 a run of the gap on validation items, before iteration K
    OUT/report.md                 before and after, skill by skill, with paired intervals
    OUT/checkpoint                the model that came out of it

Every stage writes its output before the next begins and finds it again, so that a loop that was killed goes on with the
same command, and ends with the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapbench.manifest import finish, open_run, request_of
from gapbench.records import InputError, Sampling
from gapbench.report import runs
from gapbench.report.markdown import markdown
from gapbench.report.runs import Run
from gapbench.run import Progress, Runner, Shard
from gapbench.store import write_bytes, write_json
from gapbench.tasks.base import Task
from hermesflow import emphasis, preferences
from hermesflow.curate import Curation, curate, read_candidates
from hermesflow.grounds import Grounds
from hermesflow.outcome import outcome_tables, stopped
from hermesflow.preferences import Rule
from hermesflow.records import Pair, pair_from, to_json
from hermesflow.train import Training, train

if TYPE_CHECKING:
    from gapbench.models.show_o.model import ShowO

SCHEMA = 1
Loader = Callable[[str], "ShowO"]  # by zoo name or checkpoint folder


@dataclass(frozen=True, slots=True)
class Loop:
    """How to go about it. reference: of iteration K, the policy that K - 1 made ("previous"), or the base model.

    target: the loop stops early when the interval of the gap that it follows holds this.
    """

    iterations: int = 3
    rule: str = "gap"  # of emphasis.RULES
    reference: str = "previous"
    target: float = 0.0
    curation: Curation = field(default_factory=Curation)
    pairs: Rule = field(default_factory=Rule)
    training: Training = field(default_factory=Training)


def close_gap(
    name: str, load: Loader, grounds: Grounds, how: Loop, folder: Path, progress: Progress | None = None
) -> dict[str, Any]:
    """Run the loop, or what is left of it; loop.json's content. Raises InputError for wrong input, in one line.

    name: of the base model, by which `load` finds it.
    """
    state = _open(folder, name, grounds, how)
    base = load(name)
    _measured(base, grounds.judge, folder / "before", progress)
    model, policy = base, name
    followed: list[Run] = []
    old: Sequence[Pair] = ()
    for iteration in range(1, how.iterations + 1):
        place = folder / str(iteration)
        followed.append(_measured(model, [grounds.follow], place / "follow", progress))
        if why := stopped(followed, how.target):
            state["stopped"] = why
            break
        diagnostics = json.loads((place / "follow" / "diagnostics.json").read_text(encoding="utf-8"))
        candidates = curate(model, grounds.items, how.curation, place / "candidates", progress)
        old = _pairs(candidates, old, diagnostics, how, place)
        reference = model if how.reference == "previous" else base
        policy = str(train(model, reference, old, how.training, place / "training", progress))
        model = load(policy)
        state["done"] = iteration
        write_json(folder / "loop.json", state)
    after = _measured(model, grounds.judge, folder / "after", progress)
    return _finish(folder, state, grounds, runs.load(folder / "before"), after, policy)


def _open(folder: Path, name: str, grounds: Grounds, how: Loop) -> dict[str, Any]:
    request = json.loads(json.dumps({"model": name, "data": grounds.name, "items": len(grounds.items), **asdict(how)}))
    file = folder / "loop.json"
    if not file.exists():
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"--out {folder}: holds files but no loop; give an empty or a new folder")
        state = {"schema": SCHEMA, "status": "running", "request": request, "done": 0}
        write_json(file, state)
        return state
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    if state.get("request") != request:
        other = next(key for key in request if state.get("request", {}).get(key) != request[key])
        raise InputError(f"--out {folder}: holds a loop with another {other}; give another folder")
    return state


def _measured(model: ShowO, tasks: Sequence[Task], folder: Path, progress: Progress | None) -> Run:
    """A run of the tasks, begun, continued or found finished."""
    opened, manifest = open_run(folder, "", request_of(model, tasks, Sampling(), None), Shard())
    found = Runner(model, tasks, opened, Sampling(), progress=progress).run()
    if manifest["status"] != "complete":
        finish(opened, manifest, found, tasks)
    opened.unlock()
    return runs.load(folder)


def _pairs(candidates: Path, old: Sequence[Pair], diagnostics: dict[str, Any], how: Loop, place: Path) -> list[Pair]:
    """The iteration's weighted pairs, written down, or read where they were."""
    file = place / "pairs.jsonl"
    if file.exists():
        # Only "\n" ends a line: captions may hold the other separators that str.splitlines knows.
        return [pair_from(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    made = read_candidates(candidates)
    found = preferences.renew(made, old, how.pairs) if old else preferences.choose(made, how.pairs)
    weighed = emphasis.weigh(found.pairs, diagnostics, how.rule)
    write_json(place / "pairs.json", {"pairs": len(found.pairs), "dropped": dict(found.dropped)})
    write_json(place / "emphasis.json", weighed.told)
    write_bytes(place / "emphasis.md", markdown([weighed.table]).encode())
    write_bytes(
        file, "".join(to_json(pair) + "\n" for pair in weighed.pairs).encode()
    )  # last: it says that all is there
    return list(weighed.pairs)


def _finish(
    folder: Path, state: dict[str, Any], grounds: Grounds, before: Run, after: Run, policy: str
) -> dict[str, Any]:
    tables, told = outcome_tables(before, after, grounds.gap)
    write_bytes(folder / "report.md", markdown(tables).encode())
    state |= {"status": "complete", "checkpoint": policy, "outcome": told}
    write_json(folder / "loop.json", state)
    return state
