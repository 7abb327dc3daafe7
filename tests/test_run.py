"""The loop: the same results in one piece or many, in one process or several, and whatever a model fails to give."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapbench import cli, run, tasks
from gapbench.records import (
    Failure,
    InputError,
    Item,
    Judgement,
    Prompt,
    Question,
    Sampling,
    TextLikelihood,
    Weighing,
)
from gapbench.run import Runner, Shard, chunks, limited
from gapbench.store import RunFolder
from gapbench.tasks.base import Options, Task

NAMES = ("gap-mini", "pope-mini", "geneval-mini")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PROMPTS_PER_CHUNK", 3)
    monkeypatch.setattr(run, "QUESTIONS_PER_CHUNK", 12)


@cache
def task(name: str) -> Task:
    return tasks.load(name)


def measure(
    path: Path, model: Any, names: Sequence[str] = NAMES, limit: int | None = 5, shard: Shard | None = None
) -> dict[str, Any]:
    folder = RunFolder(path, shard.rank if shard else None)
    return Runner(model, [task(name) for name in names], folder, Sampling(), limit, shard).run()


def contents(path: Path) -> dict[str, Any]:
    """results.json and all drawings as bytes, and the records of each task by key."""
    found: dict[str, Any] = {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*.png")}
    found["results"] = (path / "results.json").read_bytes()
    for name in NAMES:
        found[name] = {record.key: record for record in RunFolder(path).records(name)}
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], tuple[Path, Any]]:
    """An uninterrupted run of all tasks and the model that it measured; made once."""
    made: list[tuple[Path, Any]] = []

    def make(fake_model: Any) -> tuple[Path, Any]:
        if not made:
            model, path = fake_model(), tmp_path_factory.mktemp("whole")
            measure(path, model)
            made.append((path, model))
        return made[0]

    return make


# --- chunks -----------------------------------------------------------------------------------------------------------


def items_of(sizes: Sequence[int], drawn: bool = False) -> list[Item]:
    names = [(f"cluster {c}", f"{c}/{k}") for c, size in enumerate(sizes) for k in range(size)]
    return [Item(n, c, (), Prompt(n, n, 0) if drawn else Question(n, n)) for c, n in names]


@given(st.lists(st.integers(1, 9), max_size=12), st.booleans())
def test_chunks_are_stretches_of_whole_clusters(sizes: list[int], drawn: bool) -> None:
    items = items_of(sizes, drawn)
    found = list(chunks(items))
    assert [item for chunk in found for item in chunk] == items
    size = 3 if drawn else 12
    assert all(len(chunk) >= size for chunk in found[:-1])
    assert all(len(chunk) < size + 9 for chunk in found)
    owners = [{item.cluster for item in chunk} for chunk in found]
    assert sum(map(len, owners)) == len(sizes)


@given(st.lists(st.integers(1, 9), max_size=12))
def test_chunks_of_what_is_weighed_are_counted_by_its_texts(counts: list[int]) -> None:
    items = [
        Item(str(n), str(n), (), Weighing(str(n), ((Question(str(n), ""), "yes"),) * count))
        for n, count in enumerate(counts)
    ]
    found = list(chunks(items))
    assert [item for chunk in found for item in chunk] == items
    texts = [[len(item.ask.asks) for item in chunk] for chunk in found]
    assert all(sum(each) >= 12 > sum(each[:-1]) for each in texts[:-1])
    assert all(sum(each[:-1]) < 12 for each in texts)


@given(st.lists(st.integers(1, 4), max_size=6), st.integers(1, 8))
def test_a_limit_takes_whole_clusters(sizes: list[int], limit: int) -> None:
    items = items_of(sizes)
    assert list(limited(items, limit)) == items_of(sizes[:limit])
    assert list(limited(items, None)) == items


# --- one piece or many ------------------------------------------------------------------------------------------------


def test_what_a_run_holds(whole: Any, fake_model: Any) -> None:
    path, model = whole(fake_model)
    found = contents(path)
    results = run.json.loads(found["results"])
    assert (results["model"], results["weights"]) == ("fake", model.describe()["weights"])
    assert list(results["tasks"]) == list(NAMES)
    for name, told in results["tasks"].items():
        records = found[name]
        assert told["done"] == told["asked"] == len(records) < told["expected"]
        assert len({record.cluster for record in records.values()}) == 5
        assert told["failed"] == told["unjudged"] == 0
        assert told["metrics"]
    drawn = [r for name in NAMES for r in found[name].values() if r.response.startswith("images/")]
    assert sorted(r.response for r in drawn) == sorted(n for n in found if n.endswith(".png"))
    assert len(drawn) == 5 + 5 * 4  # gap-mini draws once a caption, GenEval four times


def test_a_finished_run_asks_nothing_more(whole: Any, fake_model: Any, tmp_path: Path) -> None:
    path = shutil.copytree(whole(fake_model)[0], tmp_path / "run")
    model = fake_model()
    before = contents(path)
    (path / "results.json").unlink()
    measure(path, model)
    assert model.batches == []
    assert contents(path) == before


def cuts(path: Path) -> list[int]:
    """Places in a records file where a kill may have stopped it: in and between lines, parts and chunks."""
    content = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    middle = ends[len(ends) // 2]
    return [0, 5, ends[0], ends[0] + 7, ends[len(ends) // 4], middle - 1, middle, middle + 30, len(content) - 1]


@pytest.mark.parametrize("place", range(9))
@pytest.mark.parametrize("name", ["gap-mini", "geneval-mini"])
def test_a_resumed_run_is_the_uninterrupted_one(
    whole: Any, fake_model: Any, tmp_path: Path, name: str, place: int
) -> None:
    before, first = whole(fake_model)
    path = shutil.copytree(before, tmp_path / "run")
    (path / "results.json").unlink()
    records = path / "records" / f"{name}.jsonl"
    os.truncate(records, cuts(records)[place])
    if place % 2:  # drawings beyond the records may be there or not
        left = {record.response for record in RunFolder(path).records(name)}
        for drawing in path.glob(f"images/{name}/*/*.png"):
            if drawing.relative_to(path).as_posix() not in left:
                drawing.unlink()
    model = fake_model()
    measure(path, model)
    assert contents(path) == contents(before)
    assert set(model.batches) < set(first.batches)  # never another batch than the first time


def test_a_limited_run_goes_on_without_a_limit(fake_model: Any, tmp_path: Path) -> None:
    for limit, done in ((1, 4), (3, 12)):
        results = measure(tmp_path, fake_model(), ["geneval-mini"], limit)
        assert results["tasks"]["geneval-mini"]["done"] == done


# --- one process or several -------------------------------------------------------------------------------------------


def measure_together(path: Path, model: Callable[[], Any], world: int) -> list[dict[str, Any]]:
    """Threads for processes; they meet at a barrier as processes do."""
    barrier = threading.Barrier(world, timeout=60)

    def work(rank: int) -> dict[str, Any]:
        try:
            return measure(path, model(), shard=Shard(rank, world, barrier.wait))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(work, range(world)))


@pytest.mark.parametrize("world", [2, 5])
def test_several_processes_find_what_one_does(whole: Any, fake_model: Any, tmp_path: Path, world: int) -> None:
    first, *others = measure_together(tmp_path, fake_model, world)
    assert all(other == first for other in others)
    assert contents(tmp_path) == contents(whole(fake_model)[0])
    assert sorted(p.name for p in (tmp_path / "records").iterdir()) == sorted(f"{name}.jsonl" for name in NAMES)


def test_a_run_goes_on_with_another_number_of_processes(whole: Any, fake_model: Any, tmp_path: Path) -> None:
    before = whole(fake_model)[0]
    for started, world in ((2, 1), (1, 3)):
        path = tmp_path / f"{started} then {world}"
        shutil.copytree(before / "images", path / "images")
        for name in NAMES:
            records = list(RunFolder(before).records(name))
            for rank in range(started):
                folder = RunFolder(path, rank if started > 1 else None)
                folder.append(name, records[rank * 7 : rank * 7 + 5])
        torn = next((path / "records").glob("gap-mini*"))
        os.truncate(torn, torn.stat().st_size - 9)
        if world == 1:
            measure(path, fake_model())
        else:
            measure_together(path, fake_model, world)
        assert contents(path) == contents(before)


# --- what a model or a judge fails to give ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", ["some", "all"])
def test_failures_count_as_wrong_and_stop_nothing(fake_model: Any, tmp_path: Path, name: str, share: str) -> None:
    def fails(ask: Question | Prompt) -> bool:
        return share == "all" or sum(ask.id.encode()) % 3 == 0

    told = measure(tmp_path, fake_model(fails=fails), [name])["tasks"][name]
    records = RunFolder(tmp_path).records(name)
    failed = [record for record in records if record.error is not None]
    assert told["done"] == told["asked"] == len(records)
    assert told["failed"] == len(failed) > 0
    assert all((r.score, r.response) == (0.0, "") for r in failed)
    assert {r.error for r in failed} <= {"told to fail", "there is no drawing to ask about"}
    assert told["unjudged"] == 0
    assert told["metrics"]
    if share == "all":
        assert len(failed) == len(records)
        headline = {"gap-mini": ("U", "G", "G_self"), "pope-mini": ("pooled/accuracy",), "geneval-mini": ("overall",)}
        assert all(told["metrics"][metric]["value"] == 0 for metric in headline[name])
    else:
        assert len(failed) < len(records)


def test_a_caption_that_was_not_drawn_is_answered_wrongly_on_the_drawings_side_alone(
    fake_model: Any, tmp_path: Path
) -> None:
    model = fake_model(fails=lambda ask: isinstance(ask, Prompt))
    told = measure(tmp_path, model, ["gap-mini"])["tasks"]["gap-mini"]
    assert (told["metrics"]["G"]["value"], told["metrics"]["G_self"]["value"]) == (0, 0)
    assert told["metrics"]["U"]["value"] == told["metrics"]["gap"]["value"] > 0
    assert told["metrics"]["U_judge"]["value"] == 1


def test_of_what_is_weighed_one_failure_is_the_items(tmp_path: Path) -> None:
    class Scales:
        def log_likelihood(self, questions: Sequence[Question], continuations: Sequence[str]) -> Iterator[Any]:
            for text in continuations:
                yield Failure(f"no {text}") if text == "b" else TextLikelihood(-len(text) / 3, len(text), text == "cc")

    class Weighed:
        name, decoding = "weighed", None

        def judge(self, items: Sequence[Item], responses: Sequence[Any]) -> list[Judgement]:
            assert [isinstance(response, Failure) for response in responses] == [False, True, False]
            return [Judgement(0.5) for _ in items]

    texts = {"x": ("a", "cc"), "y": ("a", "b", "b2", "b"), "z": ("dddd",)}
    items = [Item(n, n, (), Weighing(n, tuple((Question(n, "?"), t) for t in each))) for n, each in texts.items()]
    runner = Runner(Scales(), [], RunFolder(tmp_path), Sampling())
    responses = list(runner._ask(Weighed(), items))
    assert responses == [((-1 / 3, 1, False), (-2 / 3, 2, True)), Failure("no b"), ((-4 / 3, 4, False),)]
    records = runner._judged(Weighed(), items, responses)
    assert [record.error for record in records] == [None, "no b", None]
    assert [record.response for record in records] == [
        f"[[{-1 / 3}, 1, false], [{-2 / 3}, 2, true]]",
        "",
        f"[[{-4 / 3}, 4, false]]",
    ]


class Moody:
    """The exact eye, which now and then does not answer."""

    def __init__(self, eye: Any, silent: Callable[[Question], bool]) -> None:
        self.eye, self.silent = eye, silent

    def judge(self, questions: Sequence[Question]) -> Iterator[str | Failure]:
        for question, said in zip(questions, self.eye.judge(questions), strict=True):
            yield Failure("no answer after 3 tries") if self.silent(question) else said

    def describe(self) -> dict[str, Any]:
        return {"name": "moody"}


def test_questions_that_the_judge_failed_are_left_out_and_counted(fake_model: Any, tmp_path: Path) -> None:
    eye = task("gap-mini").judge_model
    whole = measure(tmp_path / "whole", fake_model(), ["gap-mini"])["tasks"]["gap-mini"]
    for name, silent in {
        "on the real picture": lambda q: q.text.startswith("Is") and q.pictures[0].key.startswith("miniature-"),
        "on the drawing": lambda q: q.text.startswith("Is") and not q.pictures[0].key.startswith("miniature-"),
    }.items():
        gap = replace(task("gap-mini"), judge_model=Moody(eye, silent))
        runner = Runner(fake_model(), [gap], RunFolder(tmp_path / name), Sampling(), 5)
        told = runner.run()["tasks"]["gap-mini"]
        assert told["done"] == whole["done"]
        assert told["failed"] == 0
        assert told["unjudged"] > 0, name
        assert {told["metrics"][m]["n"] + told["unjudged"] for m in ("U", "G", "gap")} == {whole["metrics"]["U"]["n"]}
    gap = replace(task("gap-mini"), judge_model=Moody(eye, lambda question: True))
    silent = Runner(fake_model(), [gap], RunFolder(tmp_path / "silent"), Sampling(), 2).run()
    assert silent["tasks"]["gap-mini"]["metrics"] == {}
    assert silent["tasks"]["gap-mini"]["unjudged"] > 0


def test_a_task_that_a_model_cannot_do_is_refused(fake_model: Any) -> None:
    class Reader:
        answer = fake_model.answer

    run.check_sides(Reader(), [task("pope-mini")], "reader")
    for name in ("gap-mini", "geneval-mini"):
        with pytest.raises(InputError, match=f"--model reader: {name} needs a model that draws"):
            run.check_sides(Reader(), [task(name)], "reader")
    run.check_sides(fake_model(), [task(name) for name in NAMES], "fake")


def test_fingerprints_tell_protocols_apart() -> None:
    told = [run.fingerprint(run.protocol_of(t)) for t in map(task, NAMES)]
    assert len(set(told)) == 3
    for name in NAMES:  # drawings of another seed are another draw of the same number
        other = tasks.load(name, Options(1))
        assert run.protocol_of(other) != run.protocol_of(task(name)) or other.side == "understanding"
        assert run.fingerprint(run.protocol_of(other)) == run.fingerprint(run.protocol_of(task(name)))
    assert run.fingerprint({"a": 1, "b": 2}) == run.fingerprint({"b": 2, "a": 1})


# --- drawing and judging ----------------------------------------------------------------------------------------------


def test_judging_beside_the_model_finds_the_same(whole: Any, fake_model: Any, tmp_path: Path) -> None:
    path, _ = whole(fake_model)
    chosen = [task(name) for name in NAMES]
    Runner(fake_model(), chosen, RunFolder(tmp_path), Sampling(), 5, overlap=True).run()
    assert contents(tmp_path) == contents(path)


def test_a_judge_that_breaks_beside_the_model_ends_the_run(fake_model: Any, tmp_path: Path) -> None:
    class Broken:
        def judge(self, questions: Sequence[Question]) -> Iterator[str]:
            raise RuntimeError("out of order")

    gap = replace(task("gap-mini"), judge_model=Broken())
    with pytest.raises(RuntimeError, match="out of order"):
        Runner(fake_model(), [gap], RunFolder(tmp_path), Sampling(), 5, overlap=True).run()


def test_what_was_drawn_is_judged_and_not_drawn_again(whole: Any, fake_model: Any, tmp_path: Path) -> None:
    """Also where a kill came between the last drawing of a chunk and its first record."""
    path, _ = whole(fake_model)
    shutil.copytree(path / "images", tmp_path / "images")
    model = fake_model()
    Runner(model, [task(name) for name in NAMES], RunFolder(tmp_path), Sampling(), 5).run()
    assert contents(tmp_path) == contents(path)
    assert not any("@0" in name for batch in model.batches for name in batch if "/" not in name)
    # A chunk that lacks a drawing is drawn as a whole, so that its drawings are those of an uninterrupted run.
    (tmp_path / "again").mkdir()
    shutil.copytree(path / "images", tmp_path / "again" / "images")
    next((tmp_path / "again").glob("images/geneval-mini/*/*.png")).unlink()
    Runner(fake_model(), [task(name) for name in NAMES], RunFolder(tmp_path / "again"), Sampling(), 5).run()
    assert contents(tmp_path / "again") == contents(path)


# --- the real thing, killed -------------------------------------------------------------------------------------------

SETTINGS = ("--suite", "mini", "--tasks", "geneval,gap", "--limit", "18", "--steps", "24", "--device", "cpu")


def arguments(model: Path, out: Path) -> list[str]:
    return ["run", "--model", str(model), *SETTINGS, "--out", str(out)]


def environment() -> dict[str, str]:
    """With as many threads as here, for sums may depend on them."""
    import torch

    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


@pytest.fixture(scope="module")
def finished(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of a tiny checkpoint, made in this process before a test makes chunks small."""
    assert run.PROMPTS_PER_CHUNK == 64
    path = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["gapbench", *arguments(tiny_checkpoint, path)])
        cli.main()
    return path


def assert_same_run(path: Path, other: Path) -> None:
    drawings = {p.relative_to(path) for p in path.glob("images/**/*.png")}
    assert drawings == {p.relative_to(other) for p in other.glob("images/**/*.png")}
    assert len(drawings) == 18 * 4 + 18
    for name in ("results.json", *drawings):
        assert (path / name).read_bytes() == (other / name).read_bytes(), name


def test_a_killed_run_goes_on_with_the_same_command(tiny_checkpoint: Path, finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "killed"
    words = [sys.executable, "-m", "gapbench.cli", *arguments(tiny_checkpoint, path)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment()}
    with subprocess.Popen(words, **quiet) as victim:
        while not any(path.glob("images/geneval-mini/*/*.png")):
            assert victim.poll() is None, "it ended before it drew"
            time.sleep(0.02)
        victim.kill()  # while it saves the first chunk or draws the second
    assert not (path / "results.json").exists()
    assert RunFolder(path).manifest()["status"] == "running"
    assert 0 < len(list(path.glob("images/**/*.png"))) < 18 * 4 + 18
    subprocess.run(words, check=True, **quiet)
    assert RunFolder(path).manifest()["status"] == "complete"
    assert_same_run(path, finished)


@pytest.mark.slow
def test_processes_under_torchrun_find_what_one_does(tiny_checkpoint: Path, finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "together"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = [*launcher, "-m", "gapbench.cli", *arguments(tiny_checkpoint, path)]
    subprocess.run(words, check=True, timeout=600, env=environment())
    assert_same_run(path, finished)
    assert sorted(p.name for p in (path / "records").iterdir()) == ["gap-mini.jsonl", "geneval-mini.jsonl"]
