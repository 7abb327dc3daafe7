from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from api_asks import KEY, Pauses, chats, client_of, echo, raised, sequence, text_of
from hypothesis import given
from hypothesis import strategies as st
from openai_server import Status, completion, serving

from gapbench.api import GONE, Reply
from gapbench.records import Failure
from gapbench.replies import LONGEST_WAIT, pause_after, wait_of

# --- tried again ------------------------------------------------------------------------------------------------------


def test_with_faults_the_results_are_those_without(tmp_path: Path) -> None:
    faults = ("429", "500", "408", "409", "cut", "malformed", "empty", "-")
    with serving(echo) as server:
        plain = list(client_of(server, tmp_path / "plain").chat(chats(60), text_of))
    with serving(echo, faults=faults) as server:
        client = client_of(server, tmp_path / "faults")
        assert list(client.chat(chats(60), text_of)) == plain == [f"q{n}" for n in range(60)]
        met = Counter(call["fault"] for call in server.received)
        assert set(met) == set(faults)
        assert client.calls == len(server.received) == 60 + sum(met[fault] for fault in faults if fault != "-")


def test_timeouts(tmp_path: Path) -> None:
    with serving(echo, faults=["timeout"], slow=0.6) as server:
        client = client_of(server, tmp_path, timeout=0.3)
        assert list(client.chat(chats(8), text_of)) == [f"q{n}" for n in range(8)]
        assert client.calls == len(server.received) == 16


@pytest.mark.parametrize(
    "bad",
    [
        b"[1]",
        b"<html>",
        b"\xff",
        b"{}",
        {"choices": []},
        {"choices": [{}]},
        {"error": {"message": "overloaded"}},
        completion(None, "m"),
        completion(" ", "m"),
        completion("no", "m", refusal="I must not"),
        {"choices": [{"message": {"content": "cut sh"}, "finish_reason": "content_filter"}]},
        Status(429, "slow down"),
        Status(418, "teapot", {"x-should-retry": "true"}),
    ],
)
def test_asked_again(tmp_path: Path, bad: Any) -> None:
    with serving(sequence(bad)) as server:
        client = client_of(server, tmp_path)
        assert list(client.chat(chats(1), text_of)) == ["q0"]
        assert client.calls == 2


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (Status(400, "content\npolicy " + "x" * 1000), "status 400: content policy xx"),
        (Status(413, "too large"), "status 413: too large"),
        (Status(422, "bad size"), "status 422: bad size"),
        (Status(500, "broken", {"x-should-retry": "false"}), "status 500: broken"),
    ],
)
def test_not_asked_again(tmp_path: Path, status: Status, reason: str) -> None:
    with serving(sequence(status)) as server:
        found = list(client_of(server, tmp_path, concurrency=1).chat(chats(2), text_of))
        assert len(server.received) == 2
    assert reason in found[0].reason
    assert "\n" not in found[0].reason
    assert len(found[0].reason) < 500
    assert found[1] == "q1"


def test_a_reply_that_cannot_be_read_is_asked_again(tmp_path: Path) -> None:
    said = []

    def read(reply: Reply) -> int:
        said.append(reply.text)
        return int(reply.text)

    with serving(sequence(completion("many", "m"), completion("7", "m"), completion("7", "m"))) as server:
        client = client_of(server, tmp_path, concurrency=1)
        assert list(client.chat(chats(3), read)) == [
            7,
            7,
            Failure(
                f"openai:m at {client.server} gave no good reply in 6 tries; the last time: its reply cannot be read "
                "(invalid literal for int() with base 10: 'q2')"
            ),
        ]
        assert len(server.received) == 2 + 1 + 6
    assert said == ["many", "7", "7", *["q2"] * 6]


def test_what_a_reader_raises_besides_ends_it(tmp_path: Path) -> None:
    def read(reply: Reply) -> int:
        raise KeyError("a bug")

    with serving(echo) as server, pytest.raises(KeyError, match="a bug"):
        list(client_of(server, tmp_path).chat(chats(30), read))


def test_pauses(tmp_path: Path) -> None:
    told = [
        Status(429, "x", {"retry-after": "7"}),
        Status(429, "x", {"retry-after-ms": "250"}),
        *[Status(500, "x")] * 3,
    ]
    pauses = Pauses()
    with serving(sequence(*told)) as server:
        assert list(client_of(server, tmp_path, pause=pauses).chat(chats(1), text_of)) == ["q0"]
    assert pauses[:2] == [7.0, 0.25]
    assert [round(pause / 2**tries, 3) for tries, pause in zip((2, 3, 4), pauses[2:], strict=True)] == [
        round(pauses[2] / 4, 3)
    ] * 3
    assert 3 <= pauses[2] <= 4


@given(st.integers(1, 60), st.text("0123456789abcdef", min_size=64, max_size=64))
def test_pauses_grow_to_a_limit_and_depend_on_the_request_alone(tries: int, asked: str) -> None:
    assert 0.75 <= pause_after(tries, asked) <= min(30, 2 ** (tries - 1))
    assert pause_after(tries, asked) <= pause_after(tries + 1, asked)
    assert pause_after(tries, asked) == pause_after(tries, asked)


def test_retry_after() -> None:
    assert wait_of({}) is None
    assert wait_of({"retry-after": "3.5"}) == 3.5
    assert wait_of({"retry-after": "100000"}) == LONGEST_WAIT
    for nonsense in ("soon", "-1", "nan", "Wed, 99 Foo"):
        assert wait_of({"retry-after": nonsense}) is None
    assert wait_of({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) is None
    assert wait_of({"retry-after": "Wed, 21 Oct 2965 07:28:00 GMT"}) == LONGEST_WAIT


# --- of no use to go on -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status(401, f"Incorrect API key provided: {KEY[:8]}***"), "refuses the key (401); set OPENAI_API_KEY"),
        (Status(403, f"{KEY} not here"), "status 403: [key] not here); set OPENAI_API_KEY"),
        (Status(404, "no model m"), "no such model or address (status 404: no model m)"),
        (Status(402, "top up"), "no money is left"),
        (Status(429, "quota", code="insufficient_quota"), "no money is left"),
        (Status(400, "no", code="unsupported_value", param="temperature"), "does not take temperature"),
    ],
)
def test_errors_that_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: Status, expected: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(sequence(None, *[status] * 99)) as server:
        client = client_of(server, tmp_path, concurrency=1)
        with closing(client.chat(chats(9), text_of)) as results:
            assert next(results) == "q0"
            message = raised(results)
        assert len(server.received) == 2
        assert server.received[0]["authorization"] == f"Bearer {KEY}"
    assert expected in message
    assert f"openai:m at {client.server}" in message
    assert KEY[:8] not in message


def test_a_server_that_is_gone(tmp_path: Path) -> None:
    for status in (Status(503, "down"), b"<html>", Status(429, "busy")):
        with serving(sequence(*[None] * 3, *[status] * 999)) as server:
            client = client_of(server, tmp_path / str(id(status)), concurrency=1, tries=2)
            message = raised(client.chat(chats(50), text_of))
            assert client.calls == 3 + 2 * GONE
        assert f"{GONE} requests in a row failed at all 2 tries" in message
        assert "What was answered is kept, and the same command goes on" in message


def test_a_success_between_starts_the_count_anew(tmp_path: Path) -> None:
    down = [Status(503, "down")] * (GONE - 1)
    with serving(sequence(*down, None, *down)) as server:
        found = list(client_of(server, tmp_path, concurrency=1, tries=1).chat(chats(2 * GONE), text_of))
    assert [isinstance(each, Failure) for each in found] == [*[True] * (GONE - 1), False] * 2
    assert "status 503: down" in found[0].reason


def test_a_model_that_says_nothing_is_no_server_that_is_gone(tmp_path: Path) -> None:
    with serving(lambda path, asked: completion("", "m")) as server:
        found = list(client_of(server, tmp_path, tries=2).chat(chats(2 * GONE), text_of))
    assert all("an empty reply (finish_reason stop)" in each.reason for each in found)


def test_no_server(tmp_path: Path) -> None:
    with serving(echo) as server:
        pass
    pauses = Pauses()
    message = raised(client_of(server, tmp_path, concurrency=1, pause=pauses).chat(chats(3), text_of))
    assert "no server there (ConnectError" in message
    assert sum(pauses) < 4


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with serving(echo) as server:
        message = raised(client_of(server, tmp_path / "file").chat(chats(3), text_of))
    assert "set GAPBENCH_CACHE to a folder that can be written" in message
