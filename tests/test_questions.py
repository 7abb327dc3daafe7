"""Questions from captions: what is asked, what is kept, and the command that adds them to homologous items."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gapbench import api, cli, homologous, questions
from gapbench.api import Chat, Endpoint, Reply
from gapbench.homologous import normal
from gapbench.questions import Caption, ElementQuestion, Generated, generate, validate
from gapbench.records import Failure, InputError
from gapbench.skills import skills_of

Answer = Callable[[Chat], "str | Failure | list[str]"]


@dataclass
class FakeClient:
    """As `api.Client`: asks again while `read` refuses, three times; `answer` may give a reply for each time."""

    answer: Answer
    model: str = "fake-2026"
    asked: list[Chat] = field(default_factory=list)

    def describe(self) -> dict[str, str]:
        return {"model": self.model.partition("-")[0], "server": "host"}

    def chat(self, requests: Sequence[Chat], read: Callable[[Reply], Any]) -> Iterator[Any]:
        self.asked += requests
        for request in requests:
            replies = self.answer(request)
            if isinstance(replies, Failure):
                yield replies
                continue
            replies = [replies] * 3 if isinstance(replies, str) else replies
            for text in replies:
                try:
                    yield read(Reply(text, self.model))
                    break
                except ValueError as error:
                    last = error
            else:
                yield Failure(f"no good reply: {last}")


def item(
    element: str = "dog",
    kind: str = "animal",
    text: str = "Is there a dog?",
    choices: Sequence[Any] = ("yes", "no"),
    answer: Any = "yes",
) -> dict[str, Any]:
    return {"element": element, "element_type": kind, "question": text, "choices": list(choices), "answer": answer}


WHICH = item(text="Which animal is there?", choices=("cat", "dog", "cow"), answer="dog")
RED = item("red ball", "color", "Is the ball red?")
REDS = item("red ball", "color", "What color is the ball?", ("red", "blue"), "red")
DOG = "A dog with a red ball"


def writer(**by_caption: Any) -> FakeClient:
    """A writer that knows the items, or the replies, of captions by their first word."""

    def answer(chat: Chat) -> str | Failure | list[str]:
        known = by_caption[chat.text.removeprefix("Description: ").split()[0]]
        items = isinstance(known, list) and all(isinstance(entry, dict) for entry in known)
        return json.dumps({"items": known}) if items else known

    return FakeClient(answer, "writer-1")


def checker(**said: str) -> FakeClient:
    """A checker that answers questions by their first word; the choice it is to take is given as text."""

    def answer(chat: Chat) -> str:
        question, *lines = chat.text.partition("Question: ")[2].splitlines()
        letters = {choice: letter for letter, choice in (line.split(". ", 1) for line in lines)}
        wanted = said.get(question.split()[0], "yes")
        return json.dumps({"choice": letters.get(wanted, wanted)})

    return FakeClient(answer, "checker-1")


# --- What is asked ----------------------------------------------------------------------------------------------------


def test_the_worked_examples_obey_their_own_rules() -> None:
    types = set()
    for description, items in questions.examples():
        kept, rejected = validate(items)
        assert rejected == {}, description
        assert len(kept) == len(items) >= 10
        types |= {entry["element_type"] for entry in items}
    assert types == set(questions.TYPES)


def test_the_right_choice_stands_at_every_place_in_the_examples() -> None:
    places = Counter(
        entry["choices"].index(entry["answer"])
        for _, items in questions.examples()
        for entry in items
        if len(entry["choices"]) == 4
    )
    assert min(places[place] for place in range(4)) >= 3


def test_the_request_for_questions() -> None:
    chat = questions.writing(DOG)
    assert chat.text == f"Description: {DOG}"
    assert (chat.temperature, chat.pictures) == (0, ())
    entry = chat.schema["properties"]["items"]["items"]
    assert entry["required"] == ["element", "element_type", "question", "choices", "answer"]
    assert entry["properties"]["element_type"]["enum"] == list(questions.TYPES)
    assert all(word in chat.system for word in questions.TYPES)
    # The examples show the very form that the reply is read in.
    assert questions.read_items(chat.system.splitlines()[-1]) == [*questions.examples()][-1][1]


def test_every_type_has_a_skill() -> None:
    assert all(len(skills_of("homologous", kind)) == 1 for kind in {*questions.TYPES, *questions.MERGED.values()})


def test_a_check_shows_the_caption_and_the_lettered_choices() -> None:
    question = ElementQuestion("dog", "animal/human", "Which animal is there?", ("cat", "dog", "cow"), "dog")
    letters = questions.lettered(question)
    assert sorted(letters.values()) == ["cat", "cow", "dog"]
    chat = questions.checking(DOG, question)
    shown = [f"{letter}. {letters[letter]}" for letter in "ABC"]
    assert chat.text.splitlines() == [f"Description: {DOG}", "", "Question: Which animal is there?", *shown]
    assert chat.schema["properties"]["choice"]["enum"] == ["A", "B", "C", "none"]
    assert "dog" not in chat.system
    # The order of the letters does not tell how the writer ordered the choices, nor which one is right.
    turned = ElementQuestion("dog", "animal/human", "Which animal is there?", ("dog", "cow", "cat"), "cow")
    assert set(questions.lettered(turned)) == {"A", "B", "C"}
    yes = [questions.lettered(ElementQuestion("", "", str(n), ("yes", "no"), "yes"))["A"] for n in range(40)]
    assert 10 < yes.count("yes") < 30


# --- What is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"items": [1]}',
        'Sure!\n```json\n{"items": [1]}\n```\nAnything else?',
        '<think>{"items": [2]} or {broken</think> {"about": "dog", "items": [1]} {"other": 3}',
    ],
)
def test_items_in_prose(text: str) -> None:
    assert questions.read_items(text) == [1]


@pytest.mark.parametrize(
    "text", ["", "[1]", "no {json}", '{"items": {"a": 1}}', '{"items": [{"element": "dog"}', "{" * 9]
)
def test_replies_without_items(text: str) -> None:
    with pytest.raises(ValueError, match="items"):
        questions.read_items(text)


@pytest.mark.parametrize(
    ("said", "choice"), [("A", "A"), (" (b) ", "B"), ("C.", "C"), ("d: cow", "D"), ("None", "none"), ("none.", "none")]
)
def test_choices(said: str, choice: str) -> None:
    assert questions.read_choice(json.dumps({"choice": said})) == choice


@pytest.mark.parametrize("said", ["E", "", "a cat", "cat", "nonesuch", 1, None, ["A"]])
def test_no_choices(said: Any) -> None:
    with pytest.raises(ValueError, match="choice"):
        questions.read_choice(json.dumps({"choice": said}))


# --- What is well formed ----------------------------------------------------------------------------------------------


def test_a_well_formed_question() -> None:
    kept, rejected = validate([item(" Dog", "Animal ", " Which one? ", [" Cat", "DOG. "], "dog")])
    assert kept == (ElementQuestion("Dog", "animal/human", "Which one?", ("Cat", "DOG."), "DOG."),)
    assert rejected == {}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("Is there a dog?", "not a question"),
        ({}, "not a question"),
        (item() | {"choices": "yes, no"}, "not a question"),
        (item() | {"element": None}, "not a question"),
        (item(choices=[1, 2], answer=1), "not a question"),
        (item(text="\ud83d?"), "not a question"),
        (item(text="  "), "empty text"),
        (item(element=""), "empty text"),
        (item(choices=["yes", "no", ". "]), "empty text"),
        (item(kind="vehicle"), "unknown type"),
        (item(choices=["yes"]), "not 2 to 4 choices"),
        (item(choices=["yes", "no", "a", "b", "c"]), "not 2 to 4 choices"),
        (item(choices=["yes", "no", "Yes. "]), "choices repeat"),
        (item(answer="maybe"), "answer not among the choices"),
    ],
)
def test_faults(entry: Any, reason: str) -> None:
    assert validate([entry]) == ((), {reason: 1})
    # A fault takes nothing from those that come after it.
    assert validate([entry, item()]) == (validate([item()]).questions, {reason: 1})


def test_one_yes_no_and_one_choice_question_per_element() -> None:
    other_yes = item(text="Can a dog be seen?")
    other_which = item(text="What is there?", choices=("dog", "cat"), answer="dog")
    kept, rejected = validate([item(), WHICH, other_yes, other_which, RED, REDS])
    assert [question.text for question in kept] == [
        "Is there a dog?",
        "Which animal is there?",
        "Is the ball red?",
        "What color is the ball?",
    ]
    assert rejected == {"second of its kind about an element": 2}
    # An orange is not the color orange.
    both = [item("orange", "food", "Is there an orange?"), item("orange", "color", "Is it orange?")]
    assert validate(both).rejected == {}


def test_questions_are_asked_once() -> None:
    again = item(element="hound", text="is  there a DOG?")
    assert validate([item(), again]).rejected == {"asked before": 1}
    assert validate([item(), RED], there=["Is there a dog? "]).questions == validate([RED]).questions


texts = st.sampled_from(["yes", "no", "Yes", "dog", "cat ", "red", "", ".", "animal", "color", "vehicle"])
items = st.lists(
    st.one_of(
        st.builds(item, texts, texts, texts, st.lists(texts, max_size=5), texts), st.none(), st.just({"choices": []})
    ),
    max_size=12,
)


@given(items, st.lists(texts, max_size=3))
def test_what_validation_promises(written: list[Any], there: list[str]) -> None:
    kept, rejected = validate(written, there)
    assert len(kept) + rejected.total() == len(written)
    for question in kept:
        assert question.answer in question.choices
        assert 2 <= len({normal(choice) for choice in question.choices}) == len(question.choices) <= 4
        assert all(map(normal, (question.text, question.element, *question.choices)))
        assert question.type in {*questions.TYPES, "animal/human"} - {"animal", "human"}
        assert sum(question.answer == choice for choice in questions.lettered(question).values()) == 1
    asked = [normal(question.text) for question in kept]
    assert len({*asked, *map(normal, there)}) == len(asked) + len(set(map(normal, there)))
    assert len({(normal(q.element), q.type, q.yes_no) for q in kept}) == len(kept)
    as_items = [item(q.element, "animal" if "/" in q.type else q.type, q.text, q.choices, q.answer) for q in kept]
    assert validate(as_items, there) == (kept, {})


# --- What the caption answers -----------------------------------------------------------------------------------------


def only(made: Iterator[Generated]) -> Generated:
    (found,) = made
    return found


def test_kept_is_what_the_caption_answers_as_written() -> None:
    check = checker(Is="none", Which="dog", What="blue")
    made = only(generate([Caption("1", DOG)], writer(A=[item(), WHICH, RED, REDS, item(kind="x")]), check))
    assert [question.text for question in made.questions] == ["Which animal is there?"]
    assert made.rejected == {
        "unknown type": 1,
        "not answered by the caption": 2,
        "answered otherwise by the caption": 1,
    }
    assert (made.written, made.writer, made.checkers) == (5, "writer-1", {"checker-1"})
    assert len(check.asked) == 4  # what is not well formed is not paid for


def test_a_letter_that_was_not_offered_is_another_answer() -> None:
    made = only(generate([Caption("1", DOG)], writer(A=[item()]), FakeClient(lambda chat: '{"choice": "D"}')))
    assert made.rejected == {"answered otherwise by the caption": 1}


def test_a_check_that_fails_keeps_nothing() -> None:
    made = only(generate([Caption("1", DOG)], writer(A=[item()]), FakeClient(lambda chat: Failure("timeout"))))
    assert (made.questions, made.rejected, made.checkers) == ((), {"check failed": 1}, frozenset())


def test_a_bad_reply_is_asked_again() -> None:
    good = json.dumps({"items": [item()]})
    write = FakeClient(lambda chat: ["Sorry?", '{"items": [', good])
    check = FakeClient(
        lambda chat: ["hm", json.dumps({"choice": next(c[0] for c in chat.text.split("\n") if ". yes" in c)})]
    )
    assert len(only(generate([Caption("1", DOG)], write, check)).questions) == 1


def test_a_failed_request_is_told_and_others_go_on() -> None:
    captions = [Caption("1", "A dog"), Caption("2", "B dog"), Caption("3", "C dog"), Caption("4", "D dog")]
    write = writer(A=[item()], B=Failure("refused"), C="nonsense", D=[item(), RED])
    made = list(generate(captions, write, checker()))
    assert [(each.id, len(each.questions), each.written) for each in made] == [
        ("1", 1, 1),
        ("2", 0, 0),
        ("3", 0, 0),
        ("4", 2, 2),
    ]
    assert made[1].failure == "refused"
    assert made[2].failure.startswith("no good reply: no JSON object")


def test_many_captions_stream_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal to one after the other, whatever the batch; and no more captions are taken than a batch holds."""
    captions = [Caption(str(n), f"{'ABC'[n % 3]} {n}") for n in range(10)]
    write = writer(A=[item(), WHICH], B=Failure("refused"), C=[RED, REDS])
    check = checker(Which="dog", What="red")
    alone = [only(generate([caption], write, check)) for caption in captions]
    monkeypatch.setattr(questions, "_BATCH", 4)
    taken = []
    made = generate((taken.append(caption) or caption for caption in captions), write, check)
    first = next(made)
    assert len(taken) == 4
    assert [first, *made] == alone
    assert [len(each.questions) for each in alone[:3]] == [2, 0, 2]


# --- The command ------------------------------------------------------------------------------------------------------

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    clients = {
        "write": writer(A=[item(), RED, item(kind="x")], B=Failure("refused"), C=[WHICH, REDS]),
        "check": checker(Which="dog", What="none"),
        "broke": FakeClient(lambda chat: (_ for _ in ()).throw(InputError("no money left"))),
    }
    monkeypatch.setattr(api, "endpoint", lambda name: Endpoint(name.removeprefix("openai:")))
    monkeypatch.setattr(api, "Client", lambda endpoint: clients[endpoint.model])

    def run(*words: object, model: str = "write") -> tuple[int, str, str]:
        options = ["--model", f"openai:{model}", "--check", "openai:check"]
        monkeypatch.setattr(sys, "argv", ["gapbench", "data", "questions", *map(str, words), *options])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


OLD = {"question": "Is there a dog?", "answer": "yes", "choices": ["yes", "no"], "skill": "object"}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four items: one with a question, one whose request fails with a question, one that fails without, one more."""
    folder = tmp_path / "source"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(folder / "images" / "1.png")
    rows = [
        {
            "id": "a",
            "image": "images/1.png",
            "caption": "A dog\u2028with a red ball",
            "questions": [OLD],
            "cluster": "k",
        },
        {"id": "b", "image": "images/1.png", "caption": "B", "questions": [OLD]},
        {"id": "b2", "image": "images/1.png", "caption": "B again"},
        {"id": "c", "image": str(folder / "images" / "1.png"), "caption": "C", "questions": []},
    ]
    text = "\ufeff" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"
    (folder / "homologous.jsonl").write_bytes(text.encode())
    return folder


def test_questions_are_added(command: Command, source: Path, tmp_path: Path) -> None:
    to = tmp_path / "deep" / "made"
    status, out, err = command(source, "--out", to)
    assert status == 0
    a, b, c = lines(to / "homologous.jsonl")
    new = {"question": "Is the ball red?", "choices": ["yes", "no"], "answer": "yes", "type": "color"}
    assert (a["id"], a["cluster"], a["questions"]) == ("a", "k", [OLD, new])
    assert a["caption"] == "A dog\u2028with a red ball"
    assert (b["id"], b["questions"]) == ("b", [OLD])
    assert [(q["question"], q["type"]) for q in c["questions"]] == [("Which animal is there?", "animal/human")]
    assert a["image"] == "../../source/images/1.png"
    for row in (a, b, c):
        assert (to / row["image"]).samefile(source / "images" / "1.png")
    assert c["image"] == str(source / "images" / "1.png")

    assert [item.id for item in homologous.read(to)] == ["a", "b", "c"]

    label = "TIFA's element types, written by writer (prompt 1), text-only check by checker"
    assert json.loads((to / "questions.json").read_text()) == {
        "questions": label,
        "prompt": "1",
        "writer": {"model": "writer", "server": "host", "snapshots": ["writer-1"]},
        "check": {"kind": "text-only", "model": "checker", "server": "host", "snapshots": ["checker-1"]},
        "captions": 4,
        "items": 3,
        "written": 5,
        "kept": 2,
        "rejected": {"unknown type": 1, "asked before": 1, "not answered by the caption": 1},
        "yes_no": 1,
        "yes": 1,
        "failed": {"b": "refused", "b2": "refused"},
        "left_out": ["b2"],
    }
    assert out.splitlines() == [
        f"questions: {label}",
        "4 captions, 5 questions written, 2 kept",
        "  rejected: 1 asked before",
        "  rejected: 1 unknown type",
        "  rejected: 1 not answered by the caption",
        "  yes is right in 1 of 1 yes/no questions (100.0%)",
        "  captions that failed: 2, such as b: refused",
        "  items left out, with no question: 1 (b2)",
        f"wrote {to / 'homologous.jsonl'}",
    ]
    assert err.startswith("questions: 4/4 in ")


def test_images_are_found_through_links(command: Command, source: Path, tmp_path: Path) -> None:
    (tmp_path / "far" / "away" / "made").mkdir(parents=True)
    (tmp_path / "made").symlink_to(tmp_path / "far" / "away" / "made")
    (tmp_path / "far" / "linked").symlink_to(source)
    assert command(tmp_path / "far" / "linked" / ".." / "source", "--out", tmp_path / "made")[0] == 0
    for row in lines(tmp_path / "made" / "homologous.jsonl"):
        assert (tmp_path / "made" / row["image"]).samefile(source / "images" / "1.png")


def test_the_same_command_again_gives_the_same_bytes(command: Command, source: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert command(source / "homologous.jsonl", "--out", tmp_path / "made")[0] == 0
        made = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
        assert sorted(made) == ["homologous.jsonl", "questions.json"]
    again = tmp_path / "again"
    assert command(source, "--out", again)[0] == 0
    assert {path.name: path.read_bytes() for path in again.iterdir()} == made


def test_nothing_is_written_over(command: Command, source: Path, tmp_path: Path) -> None:
    before = (source / "homologous.jsonl").read_bytes()
    status, _, err = command(source, "--out", source)
    assert (status, (source / "homologous.jsonl").read_bytes()) == (2, before)
    assert err == f"error: --out {source}: homologous.jsonl is there already, and would be lost; give another folder\n"
    made = tmp_path / "made"
    assert command(source, "--out", made)[0] == 0
    assert command(made, "--out", made)[0] == 2
    (made / "questions.json").unlink()  # now they may be anyone's
    assert command(source, "--out", made)[0] == 2
    (tmp_path / "file").touch()
    assert "cannot be made a folder" in command(source, "--out", tmp_path / "file")[2]


def test_no_half_file_is_left(command: Command, source: Path, tmp_path: Path) -> None:
    status, _, err = command(source, "--out", tmp_path / "made", model="broke")
    assert (status, err.splitlines()[-1]) == (2, "error: no money left")
    assert list((tmp_path / "made").iterdir()) == []


def test_no_question_at_all(command: Command, source: Path, tmp_path: Path) -> None:
    file = source / "homologous.jsonl"
    file.write_text(json.dumps({"id": "b", "image": "images/1.png", "caption": "B"}))
    status, _, err = command(source, "--out", tmp_path / "made")
    assert status == 2
    assert err.splitlines()[-1] == f"error: {file}: no item has a question (refused)"
    assert list((tmp_path / "made").iterdir()) == []


GOOD = {"id": "a", "image": "images/1.png", "caption": "A dog"}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "not JSON ("),
        ('"text"', "not a JSON object with id, image and caption"),
        (json.dumps(GOOD | {"id": 1}), "id must be a text that is not empty"),
        (json.dumps(GOOD | {"caption": " "}), "caption must be a text"),
        (json.dumps({"id": "x", "caption": "A dog"}), "image must be a text"),
        (json.dumps(GOOD | {"caption": "\ud83d"}), "not JSON ("),
        (json.dumps(GOOD | {"id": "x", "image": "images/2.png"}), "no image "),
        (json.dumps(GOOD), "item 'a' is there twice; keep one of them"),
        (json.dumps(GOOD | {"id": "x", "questions": {}}), "questions must be a list"),
        (json.dumps(GOOD | {"id": "x", "questions": [{"answer": "yes"}]}), "questions must be a list"),
    ],
)
def test_bad_lines(command: Command, source: Path, tmp_path: Path, line: str, fault: str) -> None:
    """Told before anything is asked."""
    file = source / "homologous.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n\n{line}\n")
    status, _, err = command(source, "--out", tmp_path / "made", model="broke")
    assert status == 2
    assert err.startswith(f"error: {file}:3: {fault}")
    assert err.count("\n") == 1


def test_bad_files(command: Command, source: Path, tmp_path: Path) -> None:
    file = source / "homologous.jsonl"
    file.write_text("\n")
    assert command(source, "--out", tmp_path / "made")[2] == f"error: {file}: no items in it\n"
    file.write_bytes(b"\xff\xfe")
    assert command(source, "--out", tmp_path / "made")[2].startswith(f"error: {file}: cannot be read as UTF-8 text (")
    file.unlink()
    status, _, err = command(source, "--out", tmp_path / "made")
    assert (status, err.startswith(f"error: {file}: cannot be read") or err) == (2, True)
