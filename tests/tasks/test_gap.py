"""The gap as it is asked and judged, on the miniature, on one's own items and on JourneyDB, and whole runs of it."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from layouts import journeydb as layout
from PIL import Image

from gapbench import homologous as files
from gapbench import judges, run, tasks
from gapbench.homologous import Homologous, HomologousQuestion
from gapbench.judges import ModelJudge
from gapbench.miniature.eye import Eye
from gapbench.miniature.picture import render
from gapbench.miniature.world import random_scene
from gapbench.models import zoo
from gapbench.records import (
    Failure,
    InputError,
    Picture,
    Prompt,
    Question,
    Sampling,
    TextLikelihood,
    Weighing,
)
from gapbench.run import Runner, Shard
from gapbench.store import RunFolder
from gapbench.tasks import gap
from gapbench.tasks.base import Options
from gapbench.tasks.gap import Gap
from gapbench.tasks.matching import Exact, Likelihood, Nearest

# --- asking and judging -----------------------------------------------------------------------------------------------


class Judge:
    """Says what it is told of a picture and question; fails where it is told nothing."""

    def __init__(self, **told: str) -> None:
        self.told, self.asked = told, []

    def judge(self, questions: Sequence[Question]) -> Iterator[str | Failure]:
        for question in questions:
            (picture,) = question.pictures
            self.asked.append((picture.key, picture.open().getpixel((0, 0)), question.text, question.choices))
            said = self.told.get(question.text.split("?")[0])
            yield Failure("too many requests") if said is None else said

    def describe(self) -> Mapping[str, Any]:
        return {"name": "scripted", "told": self.told}


def picture(red: int) -> Image.Image:
    return Image.new("RGB", (1, 1), (red, 0, 0))


def homologous(judge: Judge, seeds: tuple[int, ...] = (0,)) -> Gap:
    questions = (
        HomologousQuestion("color?", "red", "color", ("red", "blue")),
        HomologousQuestion("count?", "two", "count"),
    )
    data = [
        Homologous(name, Picture(name, lambda n=number: picture(n)), f"caption of {name}", questions)
        for number, name in enumerate(("a", "b/c"))
    ]
    return Gap("gap-test", data, judge, "by hand", seeds=seeds)


def no_drawings(item: str, seed: int) -> None:
    return None


def test_items_of_the_three_parts() -> None:
    task = homologous(Judge(), seeds=(3, 4))
    real = list(task.items("real", no_drawings))
    assert [item.id for item in real] == ["a/0", "a/1", "b/c/0", "b/c/1"]
    assert [item.ask.pictures[0].key for item in real] == ["a", "a", "b/c", "b/c"]
    prompts = list(task.items("drawn", no_drawings))
    assert [item.ask for item in prompts] == [
        Prompt(name, f"caption of {name}", seed) for name in ("a", "b/c") for seed in (3, 4)
    ]
    assert prompts[0].skills == ("count", "color")  # in the order of the table of skills
    own = list(task.items("own", lambda item, seed: Picture(f"{item} {seed}", lambda: picture(seed))))
    for part, found in {"real": real, "drawn": prompts, "own": own}.items():
        assert len(task.items(part, no_drawings)) == len(found)
    assert [item.id for item in own][:4] == ["a/0@3", "a/1@3", "a/0@4", "a/1@4"]
    assert [item.ask.pictures[0].key for item in own][:4] == ["a 3", "a 3", "a 4", "a 4"]
    for items in (real, prompts, own):
        assert {item.cluster for item in items} == {"a", "b/c"}
        assert len({(item.part, item.id, item.seed) for item in items}) == len(items)
    assert [item.ask.text for item in real] == [item.ask.text for item in own[:2] + own[4:6]]


def test_a_missing_drawing_cannot_be_opened_but_is_asked_about() -> None:
    own = list(homologous(Judge()).items("own", no_drawings))
    assert len(own) == 4
    with pytest.raises(OSError, match="no drawing"):
        own[0].ask.pictures[0].open()
    assert len({item.ask.pictures[0].key for item in own}) == 2


def test_real_answers_are_judged_beside_the_judges_own() -> None:
    task = homologous(Judge(color="Red.", count="three"))
    items = list(task.items("real", no_drawings))[:2]
    color, count = task.judge(items, ["blue", "Two."])
    assert (color.score, color.details["judge"]) == (0.0, {"said": "Red.", "right": True})
    assert (count.score, count.details["judge"]) == (1.0, {"said": "three", "right": False})
    assert (count.details["question"], count.details["answer"], count.details["said"]) == ("count?", "two", "Two.")
    # The judge adds its own prompt to the bare question.
    assert [asked[2:] for asked in task.judge_model.asked] == [("color?", ("red", "blue")), ("count?", ())]
    assert items[0].ask.text.startswith("color?\n")


def test_drawings_are_judged_by_all_their_questions() -> None:
    judge = Judge(color="red", count="three")
    task = homologous(judge, seeds=(0, 1))
    items = list(task.items("drawn", no_drawings))
    responses = [picture(10), Failure("out of ink"), picture(30), picture(40)]
    judged = task.judge(items, responses)
    assert [j.score for j in judged] == [0.5, 0.0, 0.5, 0.5]
    assert [[q["right"] for q in j.details["questions"]] for j in judged] == [[True, False], [False, False]] + [
        [True, False]
    ] * 2
    # Each drawing is asked about under its own key, and the failed one is not shown.
    assert [pixel[0] for _, pixel, *_ in judge.asked] == [10, 10, 30, 30, 40, 40]
    assert len({key for key, *_ in judge.asked}) == 3


def test_a_judge_that_fails_is_not_the_models_fault() -> None:
    task = homologous(Judge(color="red"))
    drawings = list(task.items("drawn", no_drawings))
    for judgement in task.judge(drawings, [picture(1), picture(2)]):
        assert judgement.score == 1.0  # of the one question that was judged
        assert [q["right"] for q in judgement.details["questions"]] == [True, None]
    real = task.judge(list(task.items("real", no_drawings)), ["red", "two"] * 2)
    assert [j.details["judge"]["right"] for j in real] == [True, None] * 2
    assert real[1].details["judge"]["reason"] == "too many requests"
    silent = replace(task, judge_model=Judge())
    assert [j.score for j in silent.judge(drawings, [picture(1), picture(2)])] == [None, None]
    assert silent.judge(drawings, [Failure("out of ink")] * 2)[0].score == 0.0


class Verdict(str):
    reason, snapshot = "a red thing", "gpt-4o-2024-08-06"


def test_what_a_judge_saw_and_its_snapshot_are_written_down() -> None:
    task = homologous(Judge(color=Verdict("red"), count="two"))
    judged = task.judge(list(task.items("real", no_drawings))[:2], ["red", "two"])
    assert [j.details["judge"] for j in judged] == [
        {"said": "red", "right": True, "reason": "a red thing", "snapshot": "gpt-4o-2024-08-06"},
        {"said": "two", "right": True},
    ]
    assert type(judged[0].details["judge"]["said"]) is str


def test_the_protocol_names_what_changes_numbers() -> None:
    task = homologous(Judge())
    told = task.protocol()
    assert (told["U_answerer"], told["G_answerer"], told["judge"]) == ("self", "scripted", {"told": {}})
    assert told["data"].startswith("by hand: 2 items, 4 questions (")
    assert (told["images_per_prompt"], told["drawn_from"]) == (1, "caption")
    first, second = task.data
    for change in (
        {"seeds": (1,)},
        {"judge_model": Judge(color="red")},
        {"source": "other"},
        {"matching": Likelihood()},
        {"about": {"questions": "other"}},
        {"data": [second, first]},
        {"data": [first, replace(second, caption="other")]},
        {"data": [first, replace(second, questions=second.questions[:1])]},
    ):
        assert replace(task, **change).protocol() != told


def test_mini() -> None:
    task = gap.mini(Options(2))
    assert task.seeds == (2,)
    items = list(task.items("real", no_drawings))
    assert len({item.cluster for item in items}) == 150
    judged = task.judge(items[:40], [item.truth["question"].answer for item in items[:40]])
    assert all(j.score == 1.0 and j.details["judge"]["right"] for j in judged)
    told = task.protocol()
    assert (told["G_answerer"], told["matching"]["rule"]) == ("eye", "exact")


def test_mini_obeys_judge_and_matching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "judge", lambda name, device: Judge(name=name, device=device))
    task = gap.mini(Options(judge="other", device="cuda:1", matching="likelihood"))
    assert task.judge_model.told == {"name": "other", "device": "cuda:1"}
    assert task.weighs
    assert gap.mini(Options(pictures=False)).judge_model is None


# --- one's own data ---------------------------------------------------------------------------------------------------


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "judge", lambda name, device: Judge(name=name, device=device))


def miniature(folder: Path, count: int = 3, **changes: Any) -> Path:
    """Items of the miniature world as files, their questions cut to three."""
    items = [replace(item, questions=item.questions[:3], **changes) for item in list(gap.mini(Options()).data)[:count]]
    files.write(folder, items)
    return folder


def test_a_folder_of_items(tmp_path: Path, no_server: None) -> None:
    folder = miniature(tmp_path / "data" / "gap")
    task = tasks.load("gap", Options(4, tmp_path / "data"))
    assert (task.name, task.seeds, task.judge_model.told["name"]) == ("gap", (4,), "openai:gpt-4o")
    assert [h.id for h in task.data] == ["test-0000", "test-0001", "test-0002"]
    for place in (folder, folder / files.FILE):
        same = tasks.load("gap", Options(data=place, matching="exact", judge="a judge"))
        assert same.judge_model.told["name"] == "a judge"
        assert same.protocol()["data"] == replace(task, matching=Exact()).protocol()["data"]
    told = same.protocol()
    assert told["data"].startswith("homologous.jsonl: 3 items, 9 questions (")
    assert "questions" not in told
    (folder / "questions.json").write_text(json.dumps({"questions": "by a model"}))
    assert tasks.load("gap", Options(data=folder, matching="exact")).protocol()["questions"] == "by a model"
    (folder / "questions.json").write_text("[]")
    with pytest.raises(InputError, match=r"questions\.json: does not say"):
        tasks.load("gap", Options(data=folder))


def test_items_of_a_cluster_stand_together(tmp_path: Path, no_server: None) -> None:
    row = {"image": "a.png", "caption": "c", "questions": [{"question": "q", "answer": "a", "skill": "text"}]}
    lines = [json.dumps({"id": name, "cluster": name[0], **row}) for name in ("x1", "y1", "x2", "z1", "y2")]
    (tmp_path / files.FILE).write_text("\n".join(lines))
    task = gap.real(Options(data=tmp_path, pictures=False))
    assert [h.id for h in task.data] == ["x1", "x2", "y1", "y2", "z1"]
    assert task.judge_model is None
    assert [item.cluster for item in task.items("drawn", no_drawings)] == ["x", "x", "y", "y", "z"]
    with pytest.raises(InputError, match=r"homologous\.jsonl:1: no image"):
        gap.real(Options(data=tmp_path))


def test_the_default_rule(tmp_path: Path, no_server: None) -> None:
    folder = miniature(tmp_path / "choices")
    rules = {weighs: type(gap.real(Options(data=folder, weighs=weighs)).matching) for weighs in (True, False)}
    assert rules == {True: Likelihood, False: Nearest}
    assert isinstance(gap.real(Options(data=folder, weighs=True, matching="exact")).matching, Exact)
    free = {"question": "what is it?", "answer": "a dog", "skill": "object"}
    row = {"id": "free", "image": str(folder / "images/000000.png"), "caption": "c", "questions": [free]}
    with (folder / files.FILE).open("a") as file:
        file.write(json.dumps(row))
    assert isinstance(gap.real(Options(data=folder, weighs=True)).matching, Nearest)
    task = gap.real(Options(data=folder, matching="likelihood"))
    with pytest.raises(InputError, match="--matching likelihood: free/0 has no choices to weigh"):
        list(task.items("real", no_drawings))


def test_journeydb_as_it_is_laid_out(tmp_path: Path, no_server: None) -> None:
    rows = [layout.record(0, "p"), layout.record(1, "q"), layout.record(2, "p"), "{", layout.asking(3, Answer="?")]
    task = gap.real(Options(data=layout.write(tmp_path, rows), weighs=True))
    told = task.protocol()
    assert told["data"].startswith("JourneyDB valid, first image of each prompt: 3 items, 5 questions (")
    assert told["left_out"] == {"questions whose answer is none of their options": 1, "records that are not JSON": 1}
    assert told["matching"]["rule"] == "likelihood"
    real = list(task.items("real", no_drawings))
    assert [item.id for item in real] == [f"000/image-{name}" for name in ("0/0", "0/1", "1/0", "1/1", "3/0")]
    assert isinstance(real[0].ask, Weighing)
    assert [text for _, text in real[0].ask.asks] == [" Calm", " Wild"]
    assert {question.text for question, _ in real[0].ask.asks} == {
        "What is the mood?\nAnswer the question using a single word or phrase."
    }
    judged = replace(task, judge_model=Judge(**{"What is the mood": "calm"})).judge(
        real[:1], [(TextLikelihood(-1.0, 1, True), TextLikelihood(-2.0, 1, False))]
    )
    assert judged[0].score == 1.0
    assert (judged[0].details["said"], judged[0].details["type"], judged[0].details["judge"]["right"]) == (
        "Calm",
        "style",
        True,
    )
    assert len({item.cluster for item in task.items("drawn", no_drawings)}) == 3


def test_data_that_are_not_there(tmp_path: Path) -> None:
    both = r"homologous\.jsonl \(`gapbench data homologous` makes it of JourneyDB\), or JourneyDB's valid/"
    with pytest.raises(InputError, match=rf"gap: give --data DIR \(or GAPBENCH_DATA\) with {both}"):
        tasks.load("gap")
    with pytest.raises(InputError, match=rf"gap: .* has neither {both}"):
        tasks.load("gap", Options(data=tmp_path))
    miniature(tmp_path)
    with pytest.raises(InputError, match="--matching guess: unknown"):
        tasks.load("gap", Options(data=tmp_path, matching="guess"))


# --- whole runs -------------------------------------------------------------------------------------------------------


class Weigher:
    """Weighs and draws by the item alone, as every model should."""

    def describe(self) -> dict[str, Any]:
        return {"name": "weigher"}

    def log_likelihood(
        self, questions: Sequence[Question], continuations: Sequence[str]
    ) -> Iterator[TextLikelihood | Failure]:
        for question, text in zip(questions, continuations, strict=True):
            try:
                seen = zlib.crc32(question.pictures[0].open().tobytes())
            except OSError as error:
                yield Failure(str(error))
                continue
            rng = random.Random(f"{question.text}/{text}/{seen}")
            yield TextLikelihood(-9 * rng.random(), 1 + rng.randrange(3), False)

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Image.Image | Failure]:
        for prompt in prompts:
            rng = random.Random(f"{prompt.text}/{prompt.seed}")
            yield render(random_scene(rng)) if rng.random() < 0.6 else Failure("out of ink")


class Moody:
    """The exact eye, which now and then does not answer."""

    def judge(self, questions: Sequence[Question]) -> Iterator[str | Failure]:
        for question, said in zip(questions, ModelJudge(Eye()).judge(questions), strict=True):
            silent = zlib.crc32(f"{question.text}{question.pictures[0].open().tobytes()}".encode()) % 5 == 0
            yield Failure("no answer after 3 tries") if silent else said

    def describe(self) -> Mapping[str, Any]:
        return {"name": "moody"}


def measured(path: Path, model: Any, task: Gap, *shards: Shard) -> dict[str, Any]:
    """The results of processes one after the other, part by part, the leading one last."""
    if not shards:
        return Runner(model, [task], RunFolder(path), Sampling()).run()["tasks"][task.name]
    runners = [Runner(model, [task], RunFolder(path, shard.rank), Sampling(), shard=shard) for shard in shards]
    for part in task.parts:
        for runner in runners:
            runner._run_part(task, part)
    return runners[0].run()["tasks"][task.name]


def test_a_run_does_not_depend_on_shards_and_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "judge", lambda name, device: Moody())
    folder = miniature(tmp_path / "data", 8)
    task = gap.real(Options(data=folder, weighs=True))
    whole = measured(tmp_path / "whole", Weigher(), task)
    assert whole["protocol"]["matching"]["rule"] == "likelihood"
    assert (whole["expected"], whole["done"]) == (8 * (3 + 1 + 3), 8 * (3 + 1 + 3))
    assert whole["unjudged"] > 0
    assert whole["failed"] > 0
    assert whole["metrics"]["U"]["n"] + whole["unjudged"] == 24
    records = {r.key: r for r in RunFolder(tmp_path / "whole").records("gap")}
    weighed = next(r for r in records.values() if r.part == "real" and not r.error)
    assert all(len(row) == 3 for row in json.loads(weighed.response))
    monkeypatch.setattr(run, "QUESTIONS_PER_CHUNK", 4)
    monkeypatch.setattr(run, "PROMPTS_PER_CHUNK", 2)
    shared = measured(tmp_path / "shared", Weigher(), task, Shard(0, 3), Shard(1, 3), Shard(2, 3))
    assert shared == whole
    assert {r.key: r for r in RunFolder(tmp_path / "shared").records("gap")} == records


def test_show_o_mini_weighs_the_choices(tmp_path: Path) -> None:
    folder = miniature(tmp_path / "data", 2)
    model = zoo.load("show-o-mini", "cpu")
    task = tasks.load("gap", Options(data=folder, judge="eye", weighs=True))
    run.check_sides(model, [task], "show-o-mini")
    told = measured(tmp_path / "run", model, task)
    assert (told["failed"], told["unjudged"], told["done"]) == (0, 0, 2 * 7)
    assert told["metrics"]["U_judge"]["value"] == 1.0
    weighed = [r.details["said"] for r in RunFolder(tmp_path / "run").records("gap") if r.part == "real"]
    asked = [item.ask for item in replace(task, matching=Exact()).items("real", no_drawings)]
    assert weighed == list(model.answer(asked, task.decoding))  # it was trained to say one of these choices


def test_a_model_that_cannot_weigh_is_refused(tmp_path: Path, no_server: None, fake_model: Any) -> None:
    class Speaks:
        answer, draw = fake_model.answer, fake_model.draw

    task = gap.real(Options(data=miniature(tmp_path), matching="likelihood"))
    with pytest.raises(InputError, match="--model speaks: gap needs a model that weighs texts"):
        run.check_sides(Speaks(), [task], "speaks")
    run.check_sides(Speaks(), [replace(task, matching=Exact())], "speaks")
