from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai_server import calls
from PIL import Image

from gapbench.api import Chat, Client, Endpoint, Reply
from gapbench.judges import judge
from gapbench.judges.api import CANNOT_TELL, STRICT, ApiJudge, Verdict, _read, chat_of, lettered
from gapbench.miniature import benchmarks
from gapbench.miniature.eye import Eye
from gapbench.records import Decoding, Failure, InputError, Picture, Question

PICTURE = Picture("p", lambda: Image.new("RGB", (2, 2)))
COLOR = Question("q", "What color is the cup?", (PICTURE,), ("red", "green", "blue"))
FREE = Question("f", "What is it?", (PICTURE,))


class Fake:
    """A client whose server says these things in turn, and which gives up where they cannot be read."""

    def __init__(self, *said: str) -> None:
        self.said, self.asked = said, []

    def chat(self, requests: Sequence[Chat], read: Any) -> Iterator[Any]:
        self.asked = list(requests)
        for chat, text in zip(requests, self.said, strict=True):
            try:
                yield read(Reply(text, "gpt-4o-2024-08-06", chat))
            except ValueError as error:
                yield Failure(str(error))

    def describe(self) -> dict[str, str]:
        return {"model": "gpt-4o", "server": "api.openai.com"}


def judged(question: Question, text: str) -> Verdict | Failure:
    (found,) = ApiJudge("openai:gpt-4o", Fake(text)).judge([question])
    return found


def test_what_the_judge_is_shown() -> None:
    chat = chat_of(COLOR)
    assert chat.system == STRICT
    assert chat.pictures == (PICTURE,)
    assert (chat.temperature, chat.seed) == (0.0, 0)
    assert chat.text.startswith("Question: What color is the cup?\n\nOptions:\nA. ")
    assert "\nnone. cannot tell\n" in chat.text
    assert list(chat.schema["properties"]) == chat.schema["required"] == ["reason", "choice"]
    assert chat.schema["properties"]["choice"]["enum"] == ["A", "B", "C", "none"]
    assert chat.schema["additionalProperties"] is False
    free = chat_of(FREE)
    assert "Options" not in free.text
    assert list(free.schema["properties"]) == ["reason", "answer"]
    for wanted in ("blurred", "broken", "incomplete", "is not there", "Do not guess"):
        assert wanted in STRICT


@given(
    st.text(max_size=20),
    st.lists(st.text("abcdef ", min_size=1, max_size=6), min_size=1, max_size=26, unique=True),
    st.randoms(use_true_random=False),
)
def test_letters_stand_for_all_choices_in_an_order_of_their_own(text: str, choices: list[str], rng: Any) -> None:
    letters = lettered(Question("q", text, choices=tuple(choices)))
    assert sorted(letters.values()) == sorted(choices)
    assert list(letters) == [chr(ord("A") + n) for n in range(len(choices))]
    rng.shuffle(choices)
    assert lettered(Question("another id", text, choices=tuple(choices))) == letters


def test_the_first_letter_is_no_choice_in_particular() -> None:
    first = Counter(lettered(Question("q", f"Is there a {n}?", choices=("yes", "no")))["A"] for n in range(400))
    assert 150 < first["yes"] < 250


@pytest.mark.parametrize(
    "form",
    [
        '{{"reason": "seen", "choice": "{0}"}}',
        '{{"choice": "{0}", "reason": "seen"}}',
        '```json\n{{"reason": "seen", "choice": "{0}"}}\n```',
        'I see {{a cup}}. {{"choice": 1}} {{"reason": "seen", "choice": " ({0})"}} That is it.',
        'First {{"reason": "no", "choice": "none"}}, better {{"reason": "seen", "choice": "{0}. so"}}',
    ],
)
def test_choices(form: str) -> None:
    for letter, choice in lettered(COLOR).items():
        for written in (letter, letter.lower()):
            found = judged(COLOR, form.format(written))
            assert found == choice
            assert (found.reason, found.snapshot) == ("seen", "gpt-4o-2024-08-06")


@pytest.mark.parametrize("said", ["none", "None", "NONE.", "none. cannot tell"])
def test_cannot_tell_is_an_answer_and_none_of_the_choices(said: str) -> None:
    found = judged(COLOR, json.dumps({"reason": "too blurred", "choice": said}))
    assert isinstance(found, Verdict)
    assert found == CANNOT_TELL
    assert found not in COLOR.choices
    among = Question("n", "How many?", (PICTURE,), ("none", "one"))
    assert judged(among, '{"reason": "", "choice": "none"}') == CANNOT_TELL


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A",
        "{",
        '{"choice": "D"}',
        '{"choice": "red"}',
        '{"choice": ""}',
        '{"choice": null}',
        '{"choice": 1}',
        '{"choice": "A or B"}',
        '{"answer": "A"}',
        '{"reason": "{\\"choice\\": \\"A\\"}"}',
        '["A"]',
        "{" * 5000,
    ],
)
def test_what_decides_nothing_is_no_reply(text: str) -> None:
    with pytest.raises(ValueError, match="choice"):
        _read(Reply(text, "m", chat_of(COLOR)))


def test_free_answers() -> None:
    assert judged(FREE, '{"reason": "r", "answer": " A (red) cup. "}') == "A (red) cup."
    assert judged(FREE, '{"reason": "r", "answer": "Cannot tell."}') == CANNOT_TELL
    assert isinstance(judged(FREE, '{"reason": "r", "answer": " "}'), Failure)


def test_answers_are_in_step_and_failures_their_own() -> None:
    many = Question("m", "Which?", (PICTURE,), tuple(f"choice {n}" for n in range(27)))
    said = ['{"choice": "A"}', "nonsense", '{"answer": "x"}']
    client = Fake(*said)
    found = list(ApiJudge("openai:gpt-4o", client).judge([COLOR, many, COLOR, FREE]))
    assert found[0] == lettered(COLOR)["A"]
    assert found[1] == Failure("27 choices are more than there are letters")
    assert isinstance(found[2], Failure)
    assert found[3] == "x"
    assert len(client.asked) == 3


def test_a_verdict_is_written_as_the_text_that_it_is() -> None:
    verdict = Verdict("red", "seen", "m-1")
    assert json.dumps({"said": verdict}) == '{"said": "red"}'
    assert isinstance(verdict, str)


def test_describe() -> None:
    told = dict(ApiJudge("openai:gpt-4o", Fake()).describe())
    assert len(told.pop("prompt_sha256")) == 64
    assert told == {
        "name": "openai:gpt-4o",
        "model": "gpt-4o",
        "server": "api.openai.com",
        "prompt": "strict 1",
        "choices": "lettered, in an order that depends on the question and on nothing else",
        "decoding": {"temperature": 0.0, "max_tokens": 512, "seed": 0},
    }
    json.dumps(told)


def test_by_name() -> None:
    found = judge("openai:eye@http://localhost:8000/v1")
    assert isinstance(found, ApiJudge)
    assert found.describe()["server"] == "localhost:8000"
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        judge("openai:gpt-4o")


def test_the_eye_behind_a_server_judges_as_the_eye(miniature_server: tuple[str, Path], tmp_path: Path) -> None:
    url, log = miniature_server
    scenes = benchmarks.homologous_scenes()[:6]
    pictures = [scenes[n - n % 2].picture for n in range(len(scenes))]  # of every second item another's picture
    questions = [
        Question(f"{h.id}/{k}", q.text, (picture,), q.choices)
        for h, picture in zip(scenes, pictures, strict=True)
        for k, q in enumerate(h.queries)
    ]
    client = Client(Endpoint("eye", url), cache=tmp_path, pause=lambda seconds: None)
    before = len(calls(log))
    found = list(ApiJudge(f"openai:eye@{url}", client).judge(questions))
    direct = list(Eye().answer(questions, Decoding()))
    expected = [a if a in q.choices else CANNOT_TELL for a, q in zip(direct, questions, strict=True)]
    assert found == expected
    assert CANNOT_TELL in expected
    assert len(set(expected)) > 4
    assert {each.snapshot for each in found} == {"eye-snapshot"}
    received = calls(log)[before:]
    distinct = len({(q.text, q.pictures[0].key) for q in questions})
    assert len({call["sha256"] for call in received}) == distinct
    assert client.calls == len(received) == distinct + sum(call["fault"] != "-" for call in received)
