"""Our models in lm-eval: its command line, requests in any order, and what is refused in place of a made-up number."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from layouts import lm_eval as layout
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager
from PIL import Image

from gapbench.harness import GapbenchLM
from gapbench.harness_requests import Generation, generation_of, picture_key
from gapbench.models import zoo
from gapbench.records import Decoding, InputError, Question, TextLikelihood


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Any:
    return zoo.load(str(tiny_checkpoint), "cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return layout.write_tasks(tmp_path_factory.mktemp("tasks"))


def image(seed: int) -> Image.Image:
    return Image.frombytes("RGB", (20, 20), random.Random(seed).randbytes(1200))


def request(kind: str, *arguments: Any, images: Sequence[Image.Image] = (), doc: int = 0, idx: int = 0) -> Instance:
    aside = ({"visual": list(images)},) if images else ()
    return Instance(kind, {}, (*arguments, *aside), idx, metadata=("some", doc, 1))


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


def test_sampled_answers_to_a_documents_questions_are_draws_of_their_own(model: Any) -> None:
    """A task may ask several questions of one document, in the same words and about the same picture."""
    sampled = {"do_sample": True, "temperature": 2.0, "max_gen_toks": 9}
    asked = [request("generate_until", "what is it?", sampled, images=[image(0)], idx=idx) for idx in (0, 1, 0, 1)]
    ours = GapbenchLM(model)
    first = ours.generate_until(asked, disable_tqdm=True)
    assert len(set(first)) == 4
    assert ours.generate_until([asked[1], asked[0]], disable_tqdm=True) == [first[1], first[0]]


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


def test_a_cache_of_answers_tells_templates_apart(files: dict[str, Path], tmp_path: Path) -> None:
    def asked(template: bool) -> list[bool]:
        notebook = Notebook()
        simple_evaluate(
            GapbenchLM(notebook),
            tasks=[str(files["pictured"])],
            task_manager=TaskManager(include_defaults=False),
            apply_chat_template=template,
            use_cache=str(tmp_path / "cache"),
            bootstrap_iters=0,
            limit=6,
        )
        return [question.template for question, _ in notebook.asked]

    assert asked(template=False) == [False] * 6
    assert asked(template=True) == [True] * 6
    assert asked(template=False) == asked(template=True) == []  # all from the cache


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
        ({"do_sample": True, "temperature": float("nan")}, "no temperature below 0"),
        ({"until": 5}, "until is no text, nor a list of texts"),
        ({"until": ["a", 5]}, "until is no text, nor a list of texts"),
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
