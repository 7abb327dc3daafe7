"""Our models in lm-eval: its command line, requests in any order, and what is refused in place of a made-up number."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
from layouts import lm_eval as layout
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager
from PIL import Image

from gapbench import cli, harness
from gapbench.harness import GapbenchLM
from gapbench.harness_requests import Generation, generation_of, picture_key
from gapbench.models import zoo
from gapbench.records import Decoding, InputError, Question, TextLikelihood
from gapbench.store import RunFolder


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Any:
    return zoo.load(str(tiny_checkpoint), "cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return layout.write_tasks(tmp_path_factory.mktemp("tasks"))


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Exit status of a command line."""
    monkeypatch.setattr(sys, "argv", ["gapbench", *words])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def image(seed: int) -> Image.Image:
    return Image.frombytes("RGB", (20, 20), random.Random(seed).randbytes(1200))


def request(kind: str, *arguments: Any, images: Sequence[Image.Image] = (), doc: int = 0, idx: int = 0) -> Instance:
    aside = ({"visual": list(images)},) if images else ()
    return Instance(kind, {}, (*arguments, *aside), idx, metadata=("some", doc, 1))


# --- the command line -------------------------------------------------------------------------------------------------


def test_both_directions_give_the_same_numbers(
    tiny_checkpoint: Path, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        lm_eval.tasks, "TaskManager", partial(TaskManager, include_defaults=False)
    )  # those take seconds
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    names = ("choice", "pictured", "sampled")
    model = ("--model", "gapbench", "--model_args", f"model={tiny_checkpoint},device=cpu")
    told = ("--tasks", ",".join(str(files[name]) for name in names), "--output_path", str(tmp_path / "theirs"))
    assert call(monkeypatch, "lm-eval", "run", *model, *told, "--log_samples") == 0
    (folder,) = (tmp_path / "theirs").iterdir()
    assert folder.name == str(tiny_checkpoint).replace("/", "__")
    (found,) = folder.glob("results_*.json")
    theirs = json.loads(found.read_text())
    assert theirs["config"]["gapbench"]["name"] == str(tiny_checkpoint)

    hosted = ",".join(f"lm-eval:{files[name]}" for name in names)
    ours = tmp_path / "ours"
    place = ("--model", str(tiny_checkpoint), "--device", "cpu", "--out", str(ours))
    assert call(monkeypatch, "run", *place, "--suite", "mini", "--tasks", hosted) == 0
    results = json.loads((ours / "results.json").read_text())["tasks"]
    assert list(results) == [f"lm-eval-{name}" for name in names]
    compared = 0
    for name in names:
        metrics = results[f"lm-eval-{name}"]["metrics"]
        for metric, estimate in metrics.items():
            key = metric if "," in metric else f"{metric},none"
            assert theirs["results"][name][key] == estimate["value"]
        records = {record.item: record for record in RunFolder(ours).records(f"lm-eval-{name}")}
        (samples,) = folder.glob(f"samples_{name}_*.jsonl")
        for sample in map(json.loads, samples.read_text().splitlines()):
            record = records[str(sample["doc_id"])]
            if name == "choice":
                weighed = json.loads(record.response)
                assert [[str(total), str(greedy)] for total, _, greedy in weighed] == [r[0] for r in sample["resps"]]
            else:
                until = {"pictured": ".", "sampled": " e"}[name]
                assert record.response.split(until)[0] == sample["resps"][0][0]
            compared += 1
    assert compared == 24 + 24 + 2 * 24


def test_the_harness_own_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, files: dict[str, Path]
) -> None:
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(TaskManager, include_defaults=False))
    before = list(sys.argv)
    assert call(monkeypatch, "lm-eval", "--help") == 0
    assert "Language Model Evaluation Harness" in capsys.readouterr().out
    assert call(monkeypatch, "lm-eval", "run", "--help") == 0
    assert "--apply_chat_template" in capsys.readouterr().out
    folder = str(files["choice"].parent)
    assert call(monkeypatch, "lm-eval", "validate", "--tasks", "choice", "--include_path", folder) == 0
    assert call(monkeypatch, "lm-eval", "validate", "--tasks", "nothing", "--include_path", folder) == 1
    assert call(monkeypatch, "lm-eval", "run", "--no_such_flag", "1") == 2
    capsys.readouterr()
    for arguments, says in {
        "model=nowhere,device=cpu": "error: --model nowhere: no such model or folder",
        f"model={tiny_checkpoint},device=cpu,dtpye=float32,x=1": "error: --model_args dtpye, x: unknown; there are",
        "device=cpu": "error: --model_args: say which model",
    }.items():
        words = ("--model", "gapbench", "--model_args", arguments, "--tasks", str(files["choice"]))
        assert call(monkeypatch, "lm-eval", "run", *words) == 2
        assert says in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.undo()
    assert sys.argv == before


def test_the_harness_own_models_stay() -> None:
    code = (
        "import gapbench.harness; from lm_eval.api.registry import get_model; get_model('dummy'); get_model('gapbench')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_imports_no_harness() -> None:
    code = (
        "import sys; from gapbench import cli, tasks; sys.exit(any(m in sys.modules for m in ('lm_eval', 'datasets')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_model_args_count_before_flags(monkeypatch: pytest.MonkeyPatch, fake_model: Any) -> None:
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(harness.zoo, "load", lambda *arguments: given.append(arguments) or fake_model())
    flags = {"batch_size": 1, "max_batch_size": None, "device": "cuda:0"}
    GapbenchLM.create_from_arg_obj({"model": "m", "device": "cpu", "dtype": "float32"}, flags)
    GapbenchLM.create_from_arg_string("model=m", flags)  # cuda:0 is what the harness says where nobody asked
    GapbenchLM.create_from_arg_string("model=m", {"device": "cuda:1"})
    GapbenchLM.create_from_arg_obj({"model": "m", "device": "cpu"}, {"device": "cuda:1"})
    assert given == [("m", "cpu", "float32"), ("m", None, None), ("m", "cuda:1", None), ("m", "cpu", None)]


# --- requests ---------------------------------------------------------------------------------------------------------


def weighings() -> list[Instance]:
    pictures = [(), (image(0),), (image(1),)]
    texts = ("a red star left of", "is there a circle?", "")
    return [
        request("loglikelihood", text, after, images=shown, doc=3 * p + t, idx=i)
        for p, shown in enumerate(pictures)
        for t, text in enumerate(texts)
        for i, after in enumerate((" a heart", " yes", " no, a blue one"))
    ]


def questions() -> list[Instance]:
    """Sampled and greedy; one asked twice."""
    sampled = {"do_sample": True, "temperature": 2.0, "max_gen_toks": 9, "until": ["."]}
    asked = [
        request("generate_until", "what is it?", kwargs, images=shown, doc=doc)
        for doc, (shown, kwargs) in enumerate(
            [
                ((), sampled),
                ((image(0),), sampled),
                ((image(1),), {"max_gen_toks": 5}),
                ((image(0),), sampled),
                ((), {}),
            ]
        )
    ]
    return [*asked, asked[1]]


def texts() -> list[Instance]:
    return [request("loglikelihood_rolling", text, doc=n) for n, text in enumerate(("a", "a red star", "no. yes", ""))]


@pytest.mark.parametrize("made", [weighings, questions, texts])
def test_results_do_not_depend_on_order(made: Callable[[], list[Instance]], model: Any) -> None:
    requests = made()
    ours = GapbenchLM(model)
    ask = getattr(ours, requests[0].request_type)
    wanted = ask(requests, disable_tqdm=True)
    assert len(set(wanted)) > len(wanted) // 2
    order = random.Random(0).sample(range(len(requests)), len(requests))
    assert [requests[i] is requests[1] for i in order].count(True) <= 2
    found = ask([requests[i] for i in order], disable_tqdm=True)
    if made is questions:  # the first of two equal requests has the first answer
        assert sorted(found[k] for k, i in enumerate(order) if i in (1, 5)) == sorted((wanted[1], wanted[5]))
        assert wanted[1] != wanted[5]
        assert {i: found[k] for k, i in enumerate(order) if i not in (1, 5)} == {
            i: wanted[i] for i in range(len(requests)) if i not in (1, 5)
        }
    else:
        for k, i in enumerate(order):
            assert found[k] == pytest.approx(wanted[i], rel=1e-5)


class Notebook:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Question, Any]] = []

    def describe(self) -> dict[str, Any]:
        return {"name": "a/notebook"}

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> Any:
        for question in questions:
            self.asked.append((question, decoding))
            yield f"{question.text}|one. two"

    def log_likelihood(self, questions: Sequence[Question], continuations: Sequence[str]) -> Any:
        for question, text in zip(questions, continuations, strict=True):
            self.asked.append((question, text))
            yield TextLikelihood(-1.5, 2, True)


def test_what_a_model_is_asked() -> None:
    notebook = Notebook()
    ours = GapbenchLM(notebook)
    same, other = (image(0), image(0).copy()), image(1)
    asked = [
        request("generate_until", "<image>\none <image>?", {"until": "."}, images=[same[0], other], doc=7),
        request("generate_until", "<image>", {"max_new_tokens": 3}, images=[same[1]], doc=8),
        request("generate_until", "<image>", {"until": ["|", ""], "top_k": 5}, doc=9),
    ]
    assert ours.generate_until(asked, disable_tqdm=True) == ["one ?|one", "|one. two", "<image>"]
    (first, second, third) = (question for question, _ in sorted(notebook.asked, key=lambda pair: pair[0].id))
    assert [question.text for question in (first, second, third)] == ["one ?", "", "<image>"]
    assert not any(question.template for question in (first, second, third))
    assert [picture.key for picture in first.pictures] == [picture_key(same[0]), picture_key(other)]
    assert second.pictures[0].key == first.pictures[0].key != first.pictures[1].key
    assert second.pictures[0].open() is same[1]
    assert {decoding for _, decoding in notebook.asked} == {Decoding(256), Decoding(3)}

    notebook.asked.clear()
    assert ours.loglikelihood([request("loglikelihood", "a ", " b", images=[other])], disable_tqdm=True) == [
        (-1.5, True)
    ]
    assert ours.loglikelihood_rolling([request("loglikelihood_rolling", "a b")], disable_tqdm=True) == [-1.5]
    assert [(question.text, text) for question, text in notebook.asked] == [("a ", " b"), ("", "a b")]


@pytest.mark.parametrize("multiturn", [True, False])
def test_a_chat_template(files: dict[str, Path], multiturn: bool) -> None:
    notebook = Notebook()
    told = simple_evaluate(
        GapbenchLM(notebook),
        tasks=[str(files["choice"])],
        task_manager=TaskManager(include_defaults=False),
        apply_chat_template=True,
        fewshot_as_multiturn=multiturn,
        system_instruction="Look well.",
        bootstrap_iters=0,
        limit=2,
    )
    assert told["results"]["choice"]["sample_len"] == 2
    conditional = [question for question, _ in notebook.asked if question.text]
    alone = [question for question, _ in notebook.asked if not question.text]
    assert all(question.template for question in conditional)
    assert not any(question.template for question in alone)
    assert (len(conditional), len(alone)) == (6, 6)
    assert all(text[0] == " " != text[1] for question, text in notebook.asked if question.template)
    assert conditional[0].text.startswith("Look well.\n\nIs there a")
    assert conditional[0].text.count("\n\n") == (5 if multiturn else 3)


def test_chat_templates_are_named_or_refused() -> None:
    ours = GapbenchLM(Notebook())
    assert ours.tokenizer_name == "gapbench-a__notebook"
    assert (ours.chat_template(False), "a/notebook" in ours.chat_template(True)) == ("", True)
    with pytest.raises(InputError, match="--apply_chat_template other: a model has one template"):
        ours.chat_template("other")
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Answer:"}]
    with pytest.raises(InputError, match="gen_prefix"):
        ours.apply_chat_template(turns, add_generation_prompt=False)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_model_that_cannot() -> None:
    class Painter:
        def describe(self) -> dict[str, Any]:
            return {"name": "painter"}

    ours = GapbenchLM(Painter())
    for kind, does in (("loglikelihood", "weighs"), ("loglikelihood_rolling", "weighs"), ("generate_until", "answers")):
        with pytest.raises(InputError, match=f"--model_args model=painter: these tasks need a model that {does}"):
            getattr(ours, kind)([])


def test_a_failure_is_named(fake_model: Any) -> None:
    ours = GapbenchLM(fake_model(fails=lambda question: question.id == "some/4"))
    weighed = [request("loglikelihood", "a", " b", doc=n) for n in (3, 4)]
    with pytest.raises(InputError, match=r"^some, document 4: fake failed its loglikelihood request \(told to fail\)$"):
        ours.loglikelihood(weighed, disable_tqdm=True)
    with pytest.raises(
        InputError, match=r"^some, document 4: fake failed its generate_until request \(told to fail\)$"
    ):
        ours.generate_until([request("generate_until", "a", {}, doc=n) for n in (3, 4)], disable_tqdm=True)
    assert len(ours.loglikelihood(weighed[:1], disable_tqdm=True)) == 1


def test_pictures_that_are_none(fake_model: Any, tmp_path: Path) -> None:
    ours = GapbenchLM(fake_model())
    image(0).save(tmp_path / "torn.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "torn.png").read_bytes()[:400])
    with pytest.raises(InputError, match="some, document 0: its picture cannot be read"):
        ours.generate_until([request("generate_until", "a", {}, images=[Image.open(tmp_path / "torn.png")])])
    with pytest.raises(InputError, match="some, document 0: a picture of it is a str, not an image"):
        ours.generate_until([request("generate_until", "a", {}, images=["a.png"])])
    with pytest.raises(InputError, match="some: it has sounds"):
        ours.generate_until([Instance("generate_until", {}, ("a", {}, {"audio": [1]}), 0, metadata=("some", 0, 1))])


def test_keys_are_of_pixels() -> None:
    paletted = image(0).quantize(8)
    recoloured = paletted.copy()
    recoloured.putpalette(list(range(24)))
    grey = image(0).convert("L")
    found = [image(0), image(1), image(0).resize((10, 40)), grey, paletted, recoloured]
    assert len({picture_key(each) for each in found}) == 6
    assert picture_key(image(0)) == picture_key(image(0).copy())


# --- gen_kwargs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "decoding", "until"),
    [
        ({}, Decoding(256), ()),
        ({"until": None, "max_gen_toks": 7, "do_sample": False, "temperature": 0.0}, Decoding(7), ()),
        ({"until": "\n", "max_new_tokens": 7, "temperature": 0, "top_p": 0.5, "seed": 3}, Decoding(7), ("\n",)),
        ({"until": ["a", "", "b"], "max_gen_toks": 7, "max_new_tokens": 9}, Decoding(7), ("a", "b")),
        ({"do_sample": False, "temperature": 0.7}, Decoding(256), ()),
        ({"temperature": 0.7}, Decoding(256, 0.7), ()),
        ({"do_sample": True, "top_k": 3, "seed": 5}, Decoding(256, 1.0, 3, 5), ()),
        ({"do_sample": True, "temperature": 0.5, "top_k": 0, "top_p": 1.0}, Decoding(256, 0.5), ()),
        ({"num_beams": 1, "repetition_penalty": 1.0}, Decoding(256), ()),
    ],
)
def test_gen_kwargs(given: dict[str, Any], decoding: Decoding, until: tuple[str, ...]) -> None:
    assert generation_of(given) == Generation(decoding, until)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"num_beams": 4}, "num_beams=4: not known here; there are until"),
        ({"do_sample": True, "top_p": 0.9, "min_p": 0.1}, "top_p=0.9, min_p=0.1: not known"),
        ({"max_length": 90}, "max_length=90"),
        ({"max_gen_toks": "many"}, "not numbers"),
        ({"max_gen_toks": 0}, "there must be a token"),
        ({"do_sample": True, "temperature": -1}, "no temperature below 0"),
    ],
)
def test_gen_kwargs_that_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        generation_of(given)


def test_answers_end_before_the_first_of_their_ends() -> None:
    ended = Generation(Decoding(), ("\n\n", "Q:")).ended
    assert [ended(text) for text in ("a\nb\n\nc Q:", "a Q: b\n\nc", "Q:", "a")] == ["a\nb", "a ", "", "a"]
