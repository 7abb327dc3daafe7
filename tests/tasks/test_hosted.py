"""lm-eval's tasks in our loop: the harness's own numbers, document by document, however the run was made."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval.tasks
import numpy as np
import pytest
from layouts import lm_eval as layout
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from gapbench import run, stats, tasks
from gapbench.harness import GapbenchLM
from gapbench.models import zoo
from gapbench.records import Decoding, Failure, InputError, Item, Question, Sampling, TextLikelihood, Weighing
from gapbench.run import Runner, Shard, check_sides
from gapbench.significance import difference
from gapbench.store import RunFolder
from gapbench.tasks import hosted
from gapbench.tasks.hosted_task import HostedTask


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Any:
    return zoo.load(str(tiny_checkpoint), "cpu")


@pytest.fixture(scope="module")
def files(model: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tasks, some of whose answers are what the model says."""
    folder = tmp_path_factory.mktemp("tasks")
    layout.write_tasks(folder)
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    (task,) = hosted.load(str(folder / "pictured.yaml"))
    items = sorted(task.items("", lambda item, seed: None), key=lambda item: int(item.id))
    said = list(model.answer([item.ask for item in items], Decoding(6)))
    for number, (row, answer) in enumerate(zip(rows, said, strict=True)):
        answer = answer.split(".")[0]
        row["answer"] = (answer, f"{answer.rpartition(' ')[0]} circle", "yes")[number % 3]
    return layout.write_files(folder, rows)


@cache
def loaded(path: Path) -> HostedTask:
    (task,) = hosted.load(str(path))
    return task


def measure(path: Path, model: Any, task: HostedTask, shard: Shard | None = None, limit: int | None = None) -> Any:
    folder = RunFolder(path, shard.rank if shard else None)
    return Runner(model, [task], folder, Sampling(), limit, shard).run()["tasks"][task.name]


# --- the harness's numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", layout.TASKS)
def test_numbers_are_the_harness_own(name: str, files: dict[str, Path], model: Any, tmp_path: Path) -> None:
    told = measure(tmp_path, model, loaded(files[name]))
    manager = TaskManager(include_defaults=False)
    theirs = simple_evaluate(GapbenchLM(model), tasks=[str(files[name])], task_manager=manager, bootstrap_iters=0)
    values = {key: value for key, value in theirs["results"][name].items() if "," in key and "_stderr" not in key}
    assert {metric.removesuffix(",none"): v for metric, v in values.items()} == {
        metric: estimate["value"] for metric, estimate in told["metrics"].items()
    }
    assert (told["done"], told["expected"], told["unjudged"]) == (24, 24, 0)
    for estimate in told["metrics"].values():
        assert estimate["low"] <= estimate["high"]
        assert estimate["clusters"] == (6 if "doc_to_image" in layout.TASKS[name] else 24)
    records = {record.item: record for record in RunFolder(tmp_path).records(f"lm-eval-{name}")}
    for sample in theirs["samples"][name]:
        record = records[str(sample["doc_id"])]
        suffix = "" if sample["filter"] == "none" else f",{sample['filter']}"
        for metric in sample["metrics"]:
            ours = record.details["metrics"][metric + suffix]
            assert ours == json.loads(json.dumps(sample[metric], default=lambda value: value.tolist()))
        if record.response.startswith("[["):
            weighed = [[found[0], found[-1]] for found in json.loads(record.response)]
            wanted = [each[0] for each in sample["resps"]]
            assert [first for first, _ in weighed] == [w if isinstance(w, float) else w[0] for w in wanted]


def test_numbers_that_are_no_chance(files: dict[str, Path], model: Any, tmp_path: Path) -> None:
    """What the other test compares is not all 0 or 1."""
    pictured = measure(tmp_path / "a", model, loaded(files["pictured"]))["metrics"]
    assert pictured["exact_match"]["value"] == pytest.approx(1 / 3)
    assert 1 < pictured["bleu"]["value"] < 99
    assert pictured["bleu"]["low"] < pictured["bleu"]["value"] < pictured["bleu"]["high"]
    choice = measure(tmp_path / "b", model, loaded(files["choice"]))["metrics"]
    assert len({choice[name]["value"] for name in ("acc", "acc_norm", "acc_mutual_info")} - {0.0, 1.0}) > 1
    columns = measure(tmp_path / "c", model, loaded(files["columns"]))["metrics"]
    assert columns["exact_match"] == pictured["exact_match"]


def test_what_is_asked(files: dict[str, Path]) -> None:
    pictured = loaded(files["pictured"])
    items = pictured.items("", lambda item, seed: None)
    assert [int(item.id) for item in items] == [n for p in range(6) for n in range(p, 24, 6)]
    assert len({item.cluster for item in items}) == 6
    first = items[0]
    assert first.ask.text.startswith("Is there a ")
    assert first.ask.text.endswith(" in the image? Answer yes or no.")
    assert not first.ask.template
    (picture,) = first.ask.pictures
    assert picture.open() is not picture.open()  # nothing holds it
    assert (pictured.decoding, pictured.weighs, pictured.whole) == (Decoding(6), False, 24)
    assert loaded(files["sampled"]).decoding == Decoding(12, 1.5, 40)

    choice = loaded(files["choice"])
    (ask,) = (item.ask for item in choice.items("", lambda item, seed: None) if item.id == "5")
    assert isinstance(ask, Weighing)
    row = json.loads((files["choice"].parent / "rows.jsonl").read_text().splitlines()[5])
    assert [text for _, text in ask.asks] == [f" {choice}" for choice in row["choices"]] * 2
    assert [question.text.count("Is there") for question, _ in ask.asks] == [3, 3, 3, 0, 0, 0]  # two examples before
    assert (choice.decoding, choice.weighs) == (None, True)
    blanks = loaded(files["blanks"]).items("", lambda item, seed: None)
    assert len({question.text for question, _ in blanks[0].ask.asks}) == 2
    assert len({text for _, text in blanks[0].ask.asks}) == 1


# --- in pieces --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["choice", "pictured_choice", "sampled", "pieces"])
def test_runs_in_pieces_are_the_uninterrupted_one(
    name: str, files: dict[str, Path], fake_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "QUESTIONS_PER_CHUNK", 5)
    task = loaded(files[name])
    model = fake_model()
    measure(tmp_path / "whole", model, task)
    wanted = (tmp_path / "whole" / "results.json").read_bytes()
    assert len(model.batches) > 2
    for cut in (0, 300, 2000):
        path = shutil.copytree(tmp_path / "whole", tmp_path / str(cut))
        (path / "results.json").unlink()
        os.truncate(path / "records" / f"lm-eval-{name}.jsonl", cut)
        again = fake_model()
        measure(path, again, task)
        assert (path / "results.json").read_bytes() == wanted
        assert set(again.batches) <= set(model.batches)
    barrier = threading.Barrier(3, timeout=60)
    with ThreadPoolExecutor(3) as pool:
        shards = [Shard(rank, 3, barrier.wait) for rank in range(3)]
        list(pool.map(lambda shard: measure(tmp_path / "shared", fake_model(), task, shard), shards))
    assert (tmp_path / "shared" / "results.json").read_bytes() == wanted


def test_a_finished_run_is_summed_up_anew(files: dict[str, Path], model: Any, tmp_path: Path) -> None:
    measure(tmp_path, model, loaded(files["sampled"]))
    wanted = (tmp_path / "results.json").read_bytes()
    metrics = json.loads(wanted)["tasks"]["lm-eval-sampled"]["metrics"]
    assert (
        metrics["length@1,whole"]["value"] * 2
        == metrics["length@2,whole"]["value"]
        == int(metrics["length@2,whole"]["value"])
    )  # a median
    (tmp_path / "results.json").unlink()
    (task,) = hosted.load(str(files["sampled"]))  # which judges nothing
    measure(tmp_path, model, task)
    assert (tmp_path / "results.json").read_bytes() == wanted


def test_a_limit_takes_pictures(files: dict[str, Path], fake_model: Any, tmp_path: Path) -> None:
    told = measure(tmp_path, fake_model(), loaded(files["pictured_choice"]), limit=2)
    assert (told["done"], told["asked"], told["expected"]) == (8, 8, 24)


# --- what a model fails to give ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", layout.TASKS)
def test_failures_are_wrong(name: str, files: dict[str, Path], fake_model: Any, tmp_path: Path) -> None:
    def fails(ask: Question) -> bool:
        return int(ask.id.split("/")[1]) % 2 == 0

    told = measure(tmp_path, fake_model(fails=fails), loaded(files[name]))
    records = RunFolder(tmp_path).records(f"lm-eval-{name}")
    failed = [record for record in records if record.error is not None]
    assert (told["failed"], told["unjudged"], len(failed)) == (12, 0, 12)
    assert all((record.score, record.response, record.error) == (0.0, "", "told to fail") for record in failed)
    kept = [list(record.details["metrics"]) for record in records]
    assert all(metrics == kept[0] for metrics in kept)
    for metric in ("acc", "acc_norm", "acc_mutual_info", "exact_match", "exact_match,word", "first"):
        if metric in kept[0]:
            assert told["metrics"][metric]["n"] == 24
            assert all(record.details["metrics"][metric] == 0 for record in failed)
    for metric in ("brier_score", "word_perplexity", "perplexity"):
        if metric in kept[0]:
            assert told["metrics"][metric]["n"] == 12


@pytest.mark.parametrize("name", ["pictured", "columns", "listed", "pictured_choice"])
def test_a_picture_that_cannot_be_read_is_a_failure(name: str, fake_model: Any, tmp_path: Path) -> None:
    files = layout.write_tasks(tmp_path / "tasks")
    (tmp_path / "tasks" / "2.png").write_bytes((tmp_path / "tasks" / "2.png").read_bytes()[:99])
    task = loaded(files[name])
    told = measure(tmp_path / "run", fake_model(), task)
    assert (told["done"], told["failed"]) == (24, 4)
    failed = [record for record in RunFolder(tmp_path / "run").records(task.name) if record.error is not None]
    assert sorted(int(record.item) for record in failed) == [2, 8, 14, 20]
    assert all("answer yes or no" in i.ask.text.lower() for i in task.asked if isinstance(i.ask, Question))


# --- judging ----------------------------------------------------------------------------------------------------------


def weighed(*totals: float) -> tuple[TextLikelihood, ...]:
    return tuple(TextLikelihood(total, 2, False) for total in totals)


def test_scores(files: dict[str, Path]) -> None:
    choice = loaded(files["choice"])
    item = next(item for item in choice.asked if item.id == "0")
    label = json.loads((files["choice"].parent / "rows.jsonl").read_text().splitlines()[0])["label"]
    best = [-9.0, -9.0, -9.0]
    best[label] = -1.0
    right, wrong, failed = choice.judge(
        [item] * 3, [weighed(*best, *[-5] * 3), weighed(*best[::-1][1:], -1.0, -5, -5, -5), Failure("broken")]
    )
    assert (right.score, right.details["metrics"]["acc"], right.details["metrics"]["acc_mutual_info"]) == (1, 1, 1)
    assert wrong.score == wrong.details["metrics"]["acc"]
    assert (failed.score, failed.details["metrics"]["acc"], failed.details["metrics"]["brier_score"]) == (0, 0, None)
    rolling = loaded(files["rolling"])
    assert [j.score for j in rolling.judge(rolling.asked[:2], [weighed(-30.0), Failure("broken")])] == [1, 0]
    pieces = loaded(files["pieces"])  # of its number of words, which may be 1, less is better
    (judged,) = pieces.judge(pieces.asked[:1], ["nothing"])
    assert (judged.details["metrics"]["words"], judged.score) == (1, 0)


def test_what_a_task_draws_at_random_is_the_documents_own(files: dict[str, Path], monkeypatch) -> None:
    """lm-eval's MMMU guesses a letter where it finds none."""
    task = loaded(files["pieces"])
    drawn = {"words": lambda: random.random(), "places": lambda: float(np.random.random())}  # noqa: NPY002
    monkeypatch.setattr(task.task, "process_results", lambda doc, results: {name: f() for name, f in drawn.items()})

    def judged(items: Sequence[Item]) -> dict[str, dict[str, float]]:
        answers = ["yes"] * len(items)
        return {i.id: j.details["metrics"] for i, j in zip(items, task.judge(items, answers), strict=True)}

    random.seed(7)
    whole = judged(task.asked)
    assert random.random() == random.Random(7).random()  # theirs is left alone
    assert len({values["words"] for values in whole.values()}) == len({v["places"] for v in whole.values()}) == 24
    assert judged(task.asked[::-1]) == whole
    assert {name: values for item in task.asked for name, values in judged([item]).items()} == whole
    for function in drawn.values():
        monkeypatch.setattr(task.task, "process_results", lambda doc, results, draw=function: {"words": draw()})
        assert task.judge(task.asked[:1], ["yes"])[0].details["by_chance"] is True
    monkeypatch.undo()
    assert list(task.judge(task.asked[:1], ["yes"])[0].details) == ["metrics"]


def test_an_interval_is_of_clusters(files: dict[str, Path]) -> None:
    task = loaded(files["pieces"])
    values = [["yes", ["a", "b"]]] * 9 + [["no", ["a"]]] * 9
    apart = task._estimate("pair", values, list("abcdefghijklmnopqr"))
    together = task._estimate("pair", values, list("aaaaaaaaabbbbbbbbb"))
    assert apart.value == together.value == 9 / 15
    assert (together.low, together.high) == (0.5, 2 / 3)
    assert together.low < apart.low < apart.value < apart.high < together.high
    assert (apart.clusters, together.clusters, together.n) == (18, 2, 18)
    assert task._estimate("pair", values, list("aaaaaaaaabbbbbbbbb")) == together
    assert task._estimate("words", [3, 3, 3], list("abc")).low == 3


def test_a_resample_draws_the_same_clusters_for_every_run(files: dict[str, Path]) -> None:
    task = loaded(files["pieces"])
    clusters = list("ccbbaaddeeff")
    said = [["yes", ["a", "b"]]] * 5 + [["no", ["a"]]] * 7
    one, other = task._estimate("pair", said, clusters), task._estimate("pair", said[::-1], clusters)
    assert len(one.resamples) == 200
    assert (difference(one, other).p, difference(one, one).p) == (1, 1)  # of reversed items the value is the same
    flags = [np.array([cluster == "a" for cluster in clusters], dtype=float), np.ones(12)]
    drawn = stats.bootstrap(stats.cluster_sums(np.stack(flags, axis=-1), clusters)[0], stats.ratio)[:200]
    shares = task._estimate("pair", [["y", ["x"] if c == "a" else []] for c in clusters], clusters)
    assert shares.resamples.tolist() == pytest.approx(drawn.tolist())


def test_payloads_are_json() -> None:
    from gapbench.tasks.hosted_task import _plain

    found = _plain({1: (np.float32(0.5), np.array([1, 2])), "b": [{"x", "w"}, float("nan"), None, True]})
    assert found == {"1": [0.5, [1, 2]], "b": [["w", "x"], None, None, True]}
    with pytest.raises(TypeError, match="cannot hold a object"):
        _plain([object()])


# --- names and errors -------------------------------------------------------------------------------------------------


@pytest.fixture
def only_ours(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness knows these tasks by name, and its own, which take seconds to look through, not at all."""
    folder = files["choice"].parent
    monkeypatch.setattr(
        lm_eval.tasks, "TaskManager", lambda include_path, include_defaults: TaskManager(None, folder, False)
    )
    hosted._manager.cache_clear()
    yield
    hosted._manager.cache_clear()


def names(chosen: str) -> list[str]:
    return [task.name for task in tasks.load_all(tasks.names("mini", chosen))]


@pytest.mark.usefixtures("only_ours")
def test_names(files: dict[str, Path]) -> None:
    assert tasks.names("mini", "lm-eval:choice, pope,lm-eval:choice") == ["lm-eval:choice", "pope-mini"]
    assert names(f"lm-eval:choice,pope,lm-eval:{files['rolling']}") == [
        "lm-eval-choice",
        "pope-mini",
        "lm-eval-rolling",
    ]
    group = files["choice"].with_name("group.yaml")
    group.write_text("group: both\ntask: [choice, pictured]\nmetadata: {version: 1.0}\n")
    assert names(f"lm-eval:{group}") == ["lm-eval-choice", "lm-eval-pictured"]
    odd = files["choice"].with_name("odd.yaml")
    odd.write_text(files["choice"].read_text().replace("task: choice", "task: a/b.1::c"))
    assert names(f"lm-eval:{odd}") == ["lm-eval-a-b-1--c"]
    group.unlink(), odd.unlink()
    with pytest.raises(InputError, match="lm-eval:chioce: lm-eval has no such task, did you mean lm-eval:choice;"):
        names("lm-eval:chioce")
    with pytest.raises(InputError, match="2 tasks are named lm-eval-choice"):
        names(f"lm-eval:choice,lm-eval:{files['choice']}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("metric: exact_match", "metric: [exact"), "cannot load it .ParserError"),
        (lambda text: text.replace("functions.images", "functions.pictures"), "no function 'pictures'"),
        (lambda text: text.replace("rows.jsonl", "nowhere.jsonl"), "cannot load it .*nowhere.jsonl"),
        (lambda text: text.replace("{{question}}", "{{question | nothing}}"), "cannot load it .*nothing"),
        (lambda text: text.replace('until: ["."]', "until: [], do_sample: true, top_p: 0.5"), "gen_kwargs top_p=0.5"),
        (lambda text: text + "repeats: 4\n", "asks each question 4 times; `gapbench lm-eval run`"),
        (lambda text: text + "unsafe_code: true\n", "--confirm_run_unsafe_code"),
        (lambda text: text + "doc_to_audio: file\n", "sounds"),
        (lambda text: text.replace("!function functions.images", "file"), "a picture of it is a str, not an image"),
        (lambda text: text.replace("!function functions.images", "choices"), "document 0: a picture of it is a str"),
    ],
)
def test_what_cannot_be_hosted(
    change: Callable[[str], str], says: str, files: dict[str, Path], request: pytest.FixtureRequest
) -> None:
    path = files["pictured"].with_name(f"bad{abs(hash(request.node.name))}.yaml")
    path.write_text(change(files["pictured"].read_text()))
    try:
        with pytest.raises(InputError, match=says) as caught:
            hosted.load(str(path))
        assert "\n" not in str(caught.value)
    finally:
        path.unlink()


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(InputError, match=r"lm-eval:no/where.yaml: the file cannot be read"):
        hosted.load("no/where.yaml")


def test_who_cannot_weigh(files: dict[str, Path], fake_model: Any) -> None:
    class Reader:
        answer = fake_model.answer

    class Scale:
        log_likelihood = fake_model.log_likelihood

    def check(model: Any, *chosen: str) -> None:
        check_sides(model, [loaded(files[name]) for name in chosen], "that")

    check(Reader(), "pictured")
    check(Scale(), "choice", "rolling")
    with pytest.raises(InputError, match="--model that: lm-eval-choice needs a model that weighs texts"):
        check(Reader(), "pictured", "choice")
    with pytest.raises(InputError, match="--model that: lm-eval-pictured needs a model that answers"):
        check(Scale(), "pictured")


def test_a_question_about_two_weighings_fails_as_one(fake_model: Any, tmp_path: Path, files: dict[str, Path]) -> None:
    seen: list[Sequence[Question]] = []

    class Counting(fake_model):
        def log_likelihood(self, questions: Sequence[Question], continuations: Sequence[str]) -> Any:
            seen.append(questions)
            return super().log_likelihood(questions, continuations)

    measure(tmp_path, Counting(), loaded(files["choice"]))
    assert [len(questions) for questions in seen] == [24 * 6]  # all of a chunk at once
