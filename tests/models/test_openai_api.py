from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai_server import calls, completion, content_of, serving
from PIL import Image

from gapbench.api import Client, Endpoint, endpoint
from gapbench.miniature import benchmarks
from gapbench.models import zoo
from gapbench.models.base import Answers, Described, Draws
from gapbench.models.openai_api import OpenAIModel
from gapbench.prompts import SHORT_ANSWER
from gapbench.records import Decoding, Failure, InputError, Picture, Prompt, Question, Sampling

NOTHING = Sampling()


def model_at(url: str, cache: Path, **how: Any) -> OpenAIModel:
    client = Client(Endpoint("show-o-mini", url), cache=cache, pause=lambda seconds: None, **how)
    return OpenAIModel(f"openai:show-o-mini@{url}", client)


def test_it_gives_what_the_model_behind_it_gives(miniature_server: tuple[str, Path], tmp_path: Path) -> None:
    url, log = miniature_server
    scenes = benchmarks.homologous_scenes()[:4]
    questions = [
        Question(f"{h.id}/{k}", q.text + SHORT_ANSWER, (h.picture,), q.choices)
        for h in scenes
        for k, q in enumerate(h.queries)
    ]
    prompts = [Prompt(h.id, h.caption, 0) for h in scenes[:2]]
    local, served = zoo.load("show-o-mini", "cpu"), model_at(url, tmp_path)
    before = len(calls(log))
    assert list(served.answer(questions, Decoding())) == list(local.answer(questions, Decoding()))
    for theirs, ours in zip(served.draw(prompts, NOTHING), local.draw(prompts, NOTHING), strict=True):
        # The codes are equal; how their pixels round depends on the threads that decode them.
        assert np.abs(np.asarray(theirs, dtype=int) - np.asarray(ours, dtype=int)).max() <= 1
    received = calls(log)[before:]
    distinct = len({(q.text, q.pictures[0].key) for q in questions}) + len(prompts)
    faults = sum(call["fault"] != "-" for call in received)
    assert faults > distinct / 2
    assert len({call["sha256"] for call in received}) == distinct
    assert len(received) == distinct + faults
    assert max(call["under_way"] for call in received) <= 8


def test_the_zoo_loads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "openai:org/some-model@http://localhost:8000/v1"
    assert zoo.resolve(name).suite == "paper"
    assert "openai:gpt-4o" not in zoo.entries()
    model = zoo.load(name, device="cuda:7")  # where its drawings are judged
    assert isinstance(model, Answers)
    assert isinstance(model, Draws)
    assert isinstance(model, Described)
    assert not hasattr(model, "log_likelihood")
    assert model.describe() == {
        "name": name,
        "family": "openai_api",
        "model": "org/some-model",
        "server": "localhost:8000",
        "weights": None,
        "size": "auto",
    }
    with pytest.raises(InputError, match=r"--dtype bfloat16: .* leave --dtype out"):
        zoo.load(name, dtype="bfloat16")
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        zoo.load("openai:gpt-4o")
    with pytest.raises(InputError, match="nothing follows the colon; give openai:NAME"):
        zoo.load("openai:")


def test_the_text_goes_as_it_stands_with_the_decoding(tmp_path: Path) -> None:
    sent = []

    def respond(path: str, asked: dict[str, Any]) -> dict[str, Any]:
        sent.append(asked)
        return completion(" A red\ncircle. \n", "m")

    question = Question("q", "What?\nA. x", (Picture("p", lambda: Image.new("L", (2, 2))),) * 2, ("x", "y"))
    with serving(respond) as server:
        model = model_at(server.url, tmp_path)
        decoding = Decoding(max_new_tokens=9, temperature=0.7, seed=5)
        assert list(model.answer([question], decoding)) == ["A red\ncircle."]
    text, images = content_of(sent[0])
    assert (text, len(images)) == ("What?\nA. x", 2)
    assert [message["role"] for message in sent[0]["messages"]] == ["user"]
    assert (sent[0]["max_tokens"], sent[0]["temperature"], sent[0]["seed"]) == (9, 0.7, 5)
    assert "response_format" not in sent[0]


def test_what_cannot_be_asked_fails_alone(tmp_path: Path) -> None:
    def respond(path: str, asked: dict[str, Any]) -> dict[str, Any]:
        if path == "/chat/completions":
            return completion(content_of(asked)[0], "m")
        png = BytesIO()
        Image.new("RGBA", (8, 8), (1, 2, 3, 9)).save(png, "PNG")
        return {"data": [{"b64_json": base64.b64encode(png.getvalue()).decode()}]}

    with serving(respond) as server:
        model = model_at(server.url, tmp_path)
        questions = [Question("a", "a"), Question("b", "b", template=False), Question("c", "c")]
        first, second, third = model.answer(questions, Decoding())
        assert (first, third) == ("a", "c")
        assert "template" in second.reason
        drawings = list(model.draw([Prompt("a", " ", 0), Prompt("b", "b", 0)], NOTHING))
        assert drawings[0] == Failure("the prompt is empty")
        assert (drawings[1].mode, drawings[1].getpixel((0, 0))) == ("RGB", (1, 2, 3))
        assert len(server.received) == 3


def test_settings_that_no_server_takes(tmp_path: Path) -> None:
    model = model_at("http://localhost:1/v1", tmp_path)
    assert model.settings(NOTHING) == NOTHING
    with pytest.raises(InputError, match=r"--steps: .* leave it out"):
        model.settings(Sampling(steps=4))
    with pytest.raises(InputError, match="--guidance"):
        list(model.draw([Prompt("a", "a", 0)], Sampling(guidance=2.0)))
    with pytest.raises(InputError, match="top_k"):
        list(model.answer([Question("a", "a")], Decoding(temperature=1.0, top_k=5)))


def test_a_model_that_the_server_does_not_have(miniature_server: tuple[str, Path], tmp_path: Path) -> None:
    url, _ = miniature_server
    client = Client(endpoint(f"openai:gpt-4o@{url}"), cache=tmp_path, pause=lambda seconds: None)
    with pytest.raises(InputError, match=r"openai:gpt-4o at 127.0.0.1:\d+: no such model"):
        list(OpenAIModel(f"openai:gpt-4o@{url}", client).answer([Question("a", "a")], Decoding()))
