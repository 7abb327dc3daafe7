"""Requests that are read, and those that are refused by name."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gapbench.records import Decoding
from gapbench.serve import protocol
from gapbench.serve.batching import Answer
from gapbench.serve.protocol import ChatRequest, Refusal

HELLO = [{"role": "user", "content": "hello"}]


def url_of(image: Image.Image, kind: str = "PNG") -> str:
    file = BytesIO()
    image.save(file, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(file.getvalue()).decode()


def shown(url: Any, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


CUT = url_of(Image.radial_gradient("L"))[: 22 + 4 * 200]  # 600 bytes of it
RED = url_of(Image.new("RGB", (3, 2), "red"))


def chat(messages: Any = HELLO, **more: Any) -> ChatRequest:
    return protocol.read_chat({"model": "m", "messages": messages, **more})


# --- what is read -----------------------------------------------------------------------------------------------------


def test_a_text_alone_is_answered_greedily() -> None:
    request = chat()
    assert (request.question.text, request.question.pictures) == ("hello", ())
    assert request.question.template
    assert request.decodings == (Decoding(protocol.NEW_TOKENS),)
    assert (request.stream, request.stop) == (False, ())


def test_pictures_and_texts_of_a_message() -> None:
    blue = url_of(Image.new("L", (5, 4)), "JPEG")
    parts = [{"type": "text", "text": "one"}, shown(RED, detail="low"), {"type": "text", "text": "two"}, shown(blue)]
    question = chat([{"role": "user", "content": parts}]).question
    assert question.text == "one\ntwo"
    assert [picture.open().size for picture in question.pictures] == [(3, 2), (5, 4)]
    assert question.pictures[0].open().getpixel((0, 0)) == (255, 0, 0)
    assert len({picture.key for picture in question.pictures}) == 2
    again = chat([{"role": "user", "content": parts}]).question
    assert again == question  # ids and keys are of what is asked
    assert chat([{"role": "user", "content": parts[:3]}]).question.id != question.id


def test_system_messages_stand_before_the_text() -> None:
    system = {"role": "system", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "short."}]}
    messages = [system, {"role": "developer", "content": ""}, {"role": "user", "content": "Why?", "type": "text"}]
    assert chat(messages).question.text == "Be\nshort.\n\nWhy?"
    assert chat([system, {"role": "user", "content": [shown(RED)]}]).question.text == "Be\nshort."


def test_decoding() -> None:
    assert chat(max_tokens=7, seed=5).decodings == (Decoding(7),)  # greedy ones share a batch whatever their seeds
    assert chat(max_completion_tokens=7, temperature=0.5, seed=5).decodings == (Decoding(7, 0.5, seed=5),)
    assert chat(temperature=2, seed=8, n=2, max_tokens=1).decodings == (
        Decoding(1, 2.0, seed=8),
        Decoding(1, 2.0, seed=9),
    )
    assert chat(n=3, temperature=1e-9).decodings == (Decoding(protocol.NEW_TOKENS),) * 3
    by_chance = {chat(temperature=1.0).decodings for _ in range(3)}
    assert len(by_chance) == 3


def test_what_changes_nothing_is_taken() -> None:
    neutral = {"top_p": 1.0, "tools": [], "logprobs": False, "response_format": {"type": "text"}, "user": "u"}
    assert chat(**neutral, logit_bias={}, presence_penalty=0.0) == chat()


def test_prompts() -> None:
    first, second = protocol.read_drawings({"prompt": "a b", "n": 2, "seed": 4, "size": "8x8", "quality": "auto"}, 8)
    assert (first.text, first.seed, second.seed) == ("a b", 4, 5)
    assert first.id != second.id
    assert protocol.read_drawings({"prompt": "a b", "seed": 4}, None) == [first]
    assert len({protocol.read_drawings({"prompt": "a"}, 8)[0].seed for _ in range(3)}) == 3


def test_a_body() -> None:
    assert protocol.read_body(b'{"a": 1, "b": null}') == {"a": 1}
    for body in (b"", b"[]", b"{", b'{"a": NaN}', b'{"a": ' + b"9" * 5000 + b"}", b"[" * 100_000, b"\xff\xfe\xfd"):
        with pytest.raises(Refusal) as refused:
            protocol.read_body(body)
        assert (refused.value.status, refused.value.code) == (400, "invalid_json")


# --- what is refused --------------------------------------------------------------------------------------------------

REFUSED = [
    ({"top_p": 0.9}, "top_p", "leave it out, or give 1"),
    ({"logprobs": True}, "logprobs", "or give false"),
    ({"tools": [{"type": "function"}]}, "tools", "leave it out"),
    ({"response_format": {"type": "json_object"}}, "response_format", '{"type": "text"}'),
    ({"frequency_penalty": 1}, "frequency_penalty", "leave it out"),
    ({"repetition_penalty": 1.1}, "repetition_penalty", "leave it out"),
    ({"temperature": -1}, "temperature", "from 0 to 2"),
    ({"temperature": 2.1}, "temperature", "from 0 to 2"),
    ({"temperature": "0"}, "temperature", "from 0 to 2"),
    ({"temperature": True}, "temperature", "from 0 to 2"),
    ({"temperature": float("inf")}, "temperature", "from 0 to 2"),
    ({"max_tokens": 0}, "max_tokens", "from 1 to"),
    ({"max_completion_tokens": 1.5}, "max_completion_tokens", "whole number"),
    ({"max_tokens": 10**9}, "max_tokens", "to 65536"),
    ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens", "one of the two"),
    ({"seed": -1}, "seed", "from 0"),
    ({"seed": False}, "seed", "whole number"),
    ({"n": 0}, "n", "from 1 to 128"),
    ({"n": 129}, "n", "from 1 to 128"),
    ({"stop": ["a", ""]}, "stop", "none empty"),
    ({"stop": 3}, "stop", "list of texts"),
    ({"stream": "yes"}, "stream", "true or false"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "only with stream"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "leave it out"),
    ({"messages": []}, "messages", "give a list"),
    ({"messages": "hi"}, "messages", "give a list"),
    ({"messages": ["hi"]}, "messages[0]", "role and content"),
    ({"messages": [{"content": "x"}]}, "messages[0].role", "give system"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages", "the last one"),
    ({"messages": [*HELLO, {"role": "assistant", "content": "x"}]}, "messages[0]", "no conversation"),
    ({"messages": [{"role": "assistant", "content": "x"}, *HELLO]}, "messages[0]", "no conversation"),
    ({"messages": [*HELLO, *HELLO]}, "messages[0]", "no conversation"),
    ({"messages": [{"role": "user", "content": "x", "name": "n"}]}, "messages[0].name", "leave it out"),
    ({"messages": [{"role": "user", "content": " "}]}, "messages[0].content", "ask something"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "ask something"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "a text, or a list"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content", "surrogate"),
    ({"messages": [{"role": "system", "content": [shown(RED)]}]}, "messages[0].content[0].type", "of type text"),
]
PARTS = [
    ({"type": "input_audio"}, "type", "text or image_url"),
    ("x", "type", "text or image_url"),
    ({"type": "text", "text": 3}, "text", "give a text"),
    ({"type": "image_url", "image_url": RED}, "image_url.url", "data:image/png"),
    (shown("https://example.com/a.png"), "image_url.url", "send the image itself"),
    (shown("file:///etc/passwd"), "image_url.url", "send the image itself"),
    (shown("data:image/png,abc"), "image_url.url", "send the image itself"),
    (shown(RED, detail="great"), "image_url.detail", "auto, low, high"),
    (shown("data:image/png;base64,@@@="), "image_url.url", "not base64"),
    (shown("data:image/png;base64,aGVsbG8="), "image_url.url", "not an image of PNG"),
    (shown(CUT), "image_url.url", "not an image of PNG"),
    (shown(url_of(Image.new("RGB", (4, 4)), "EPS")), "image_url.url", "not an image of PNG"),
]


@pytest.mark.parametrize(("more", "param", "says"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_wrong_chat(more: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(Refusal) as refused:
        chat(**{"messages": HELLO, **more})
    told = refused.value.body()["error"]
    assert (refused.value.status, told["param"], told["type"]) == (400, param, "invalid_request_error")
    assert says in told["message"]
    assert told["message"].startswith(f"{param}: ")
    assert "\n" not in told["message"]


@pytest.mark.parametrize(("part", "param", "says"), PARTS)
def test_a_wrong_part_of_a_message(part: Any, param: str, says: str) -> None:
    test_a_wrong_chat({"messages": [{"role": "user", "content": [part]}]}, f"messages[0].content[0].{param}", says)


@pytest.mark.parametrize(
    ("more", "param", "says"),
    [
        ({"prompt": None}, "prompt", "give a text"),
        ({"prompt": " "}, "prompt", "say what to draw"),
        ({"prompt": "\udc00"}, "prompt", "surrogate"),
        ({"size": "1024x1024"}, "size", "give auto or 8x8"),
        ({"size": 8}, "size", "give auto or 8x8"),
        ({"n": 11}, "n", "from 1 to 10"),
        ({"seed": 2**63}, "seed", "whole number"),
        ({"response_format": "url"}, "response_format", 'give "b64_json"'),
        ({"output_format": "webp"}, "output_format", 'give "png"'),
        ({"background": "transparent"}, "background", "opaque"),
        ({"style": "vivid"}, "style", "leave it out"),
        ({"stream": True}, "stream", "give false"),
    ],
)
def test_a_wrong_prompt(more: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(Refusal, match=f"^{param}: ") as refused:
        protocol.read_drawings({"model": "m", "prompt": "p", **more}, 8)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert says in str(refused.value)


def test_a_size_that_is_not_known() -> None:
    with pytest.raises(Refusal, match=r"give auto$"):
        protocol.read_drawings({"prompt": "p", "size": "8x8"}, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([*protocol.CHAT_READ, *protocol.CHAT_NEUTRAL, *protocol.IMAGE_READ, *protocol.IMAGE_NEUTRAL])
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "x"]), "content": JSON}) | JSON, max_size=3
)


@given(st.dictionaries(NAMES, JSON, max_size=4), MESSAGES | JSON)
def test_whatever_comes_is_read_or_refused(asked: dict[str, Any], messages: Any) -> None:
    for read in (protocol.read_chat, lambda asked: protocol.read_drawings(asked, 8)):
        told = {"error": {}}
        try:
            read({"messages": messages, "prompt": messages, **asked})
        except Refusal as refusal:
            told = refusal.body()
        assert "\n" not in json.dumps(told)


# --- replies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "ended", "text", "reason"),
    [
        ((), True, "one. two\n", "stop"),
        ((), None, "one. two\n", "stop"),
        ((), False, "one. two\n", "length"),
        (("\n", "."), False, "one", "stop"),
        (("three",), False, "one. two\n", "length"),
    ],
)
def test_how_an_answer_ends(stop: tuple[str, ...], ended: bool | None, text: str, reason: str) -> None:
    request = chat(stop=list(stop))
    (choice,) = protocol.completion(request, [Answer("one. two\n", ended)], {})["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, reason)


def test_usage_is_told_where_it_is_known() -> None:
    known = [Answer("a", True, 12, 3), Answer("b", True, 12, 4)]
    assert protocol.usage_of(known) == {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19}
    assert protocol.completion(chat(), known, {})["usage"]["total_tokens"] == 19
    for unknown in ([Answer("a")], [Answer("a", True, None, 3)], [known[0], Answer("b", True, 12, None)]):
        assert "usage" not in protocol.completion(chat(), unknown, {})
