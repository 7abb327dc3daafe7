"""What the model is called with, and who gets which result."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from typing import Any, NamedTuple

import pytest
from echo_model import Echo
from hypothesis import given, settings
from hypothesis import strategies as st

from gapbench.records import Decoding, Failure, Prompt, Question, Sampling
from gapbench.serve.batching import Answer, Ask, Batches, Closed, Full

GREEDY = Decoding()


def asked(text: str, way: Decoding = GREEDY) -> Ask:
    return Ask(Question(text, text), way)


def drawn(text: str, seed: int = 0) -> Ask:
    return Ask(Prompt(text, text, seed), Sampling())


def answered(batches: Batches, asks: Sequence[Ask]) -> list[Any]:
    """The results of asks that are queued together, and the end of the batches."""
    futures = batches.submit(asks)
    batches.close()
    return [future.result(0) for future in futures]


class Said(NamedTuple):
    text: str
    tokens: tuple[int, ...]
    ended: bool


def test_asks_of_equal_settings_are_one_call_in_their_order(echo: Any) -> None:
    longer = Decoding(max_new_tokens=9)
    asks = [asked("a"), drawn("x"), asked("b", longer), asked("c"), drawn("y", 7), asked("d", longer)]
    results = answered(Batches(echo, most=len(asks), wait=60), asks)
    assert echo.calls == [["a", "c"], ["x", "y"], ["b", "d"]]
    assert [results[k].text for k in (0, 2, 3, 5)] == ["a | 32 0 0", "b | 9 0 0", "c | 32 0 0", "d | 9 0 0"]
    assert results[4].getpixel((0, 0)) == (7, 1, 0)


def test_a_call_has_no_more_than_it_may(echo: Any) -> None:
    batches = Batches(echo, most=3, wait=60)
    futures = batches.submit([asked(str(k)) for k in range(7)])
    batches.close()  # whatever is queued is answered
    assert [len(call) for call in echo.calls] == [3, 3, 1]
    assert [future.result(0).text[0] for future in futures] == list("0123456")


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([1, 2]), st.booleans()), max_size=12))
def test_everyone_gets_what_it_asked_for(kinds: list[tuple[str, int, bool]]) -> None:
    echo = Echo()
    asks = [drawn(t * 3, n) if draws else asked(f"{t}{k}", Decoding(n)) for k, (t, n, draws) in enumerate(kinds)]
    results = answered(Batches(echo, most=5, wait=60), asks)
    for (what, way), result in zip(asks, results, strict=True):
        if isinstance(what, Prompt):
            assert result.getpixel((0, 0)) == (what.seed, 3, 0)
        else:
            assert result == Answer(f"{what.text} | {way.max_new_tokens} 0 0")
    assert sum(map(len, echo.calls)) == len(asks)


def test_a_model_that_says_more_mixes_seeds_and_tells_tokens() -> None:
    class Sayer:
        def __init__(self) -> None:
            self.calls: list[list[int]] = []

        def say(self, questions: Sequence[Question], ways: Sequence[Decoding]) -> Iterator[Said | Failure]:
            self.calls.append([way.seed for way in ways])
            for question in questions:
                ended = question.text != "endless"
                yield Failure("no") if question.text == "fail" else Said(question.text, (5, 6), ended)

    class Counter(Sayer):
        def prompt_tokens(self, question: Question) -> int:
            return 10 + len(question.text)

    ways = [Decoding(temperature=1.0, seed=seed) for seed in (3, 4, 5)]
    asks = [asked("a", ways[0]), asked("endless", ways[1]), asked("fail", ways[2]), asked("b", Decoding(9))]
    for kind, prompt_tokens in ((Sayer, (None, None)), (Counter, (11, 17))):
        model = kind()
        first, second, third, last = answered(Batches(model, most=4, wait=60), asks)
        assert model.calls == [[3, 4, 5], [0]]
        assert first == Answer("a", True, prompt_tokens[0], 2)
        assert second == Answer("endless", False, prompt_tokens[1], 2)
        assert third == Failure("no")
        assert last.text == "b"


def test_one_that_breaks_the_model_breaks_no_other(echo: Any) -> None:
    batches = Batches(echo, most=4, wait=60)
    futures = batches.submit([asked("a"), asked("raise"), asked("fail"), asked("b")])
    wait(futures, 60)
    assert [futures[k].result().text[0] for k in (0, 3)] == ["a", "b"]
    assert futures[2].result() == Failure("told to fail")
    assert str(futures[1].exception()) == "told to\nraise"
    (after,) = batches.submit([asked("c")])
    batches.close()
    assert after.result(0).text[0] == "c"


def test_a_model_that_forgets_one_is_an_error_of_that_one() -> None:
    class Forgets:
        def answer(self, questions: Sequence[Question], decoding: Decoding) -> Iterator[str]:
            yield from (question.text for question in questions if question.text != "b")

    batches = Batches(Forgets(), most=2, wait=60)
    first, second = batches.submit([asked("a"), asked("b")])
    assert first.result(60).text == "a"
    assert isinstance(second.exception(60), ValueError)
    batches.close()


def test_a_full_queue_takes_all_of_a_request_or_nothing(echo: Any) -> None:
    echo.gate.clear()
    batches = Batches(echo, room=3, wait=0)
    batches.submit([asked("at work")])
    assert echo.entered.wait(60)
    batches.submit([asked("a"), asked("b")])
    with pytest.raises(Full):
        batches.submit([asked("c"), asked("d")])
    (last,) = batches.submit([asked("e")])
    with pytest.raises(Full):
        batches.submit([asked("f")])
    echo.gate.set()
    assert last.result(60).text == "e | 32 0 0"
    batches.close()
    assert echo.calls == [["at work"], ["a", "b", "e"]]
    with pytest.raises(Closed):
        batches.submit([asked("g")])


def test_what_nobody_waits_for_is_not_asked(echo: Any) -> None:
    echo.gate.clear()
    batches = Batches(echo, wait=0)
    batches.submit([asked("at work")])
    assert echo.entered.wait(60)
    first, second = batches.submit([asked("a"), asked("b")])
    assert first.cancel()
    echo.gate.set()
    assert second.result(60).text == "b | 32 0 0"
    batches.close()
    assert echo.calls == [["at work"], ["b"]]


def test_the_model_lives_in_one_thread() -> None:
    class Where:
        def __init__(self) -> None:
            self.threads: set[int] = set()

        def answer(self, questions: Sequence[Question], decoding: Decoding) -> Iterator[str]:
            self.threads.add(threading.get_ident())
            yield from ("" for _ in questions)

    model = Where()
    batches = Batches(model, wait=0)
    for k in range(5):
        batches.submit([asked(str(k))])[0].result(60)
    batches.close()
    assert len(model.threads) == 1
    assert threading.get_ident() not in model.threads
