"""Programs that speak JSON lines: one that behaves, and others that crash, hang, babble and lie."""

from __future__ import annotations

import ast
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from gapbench import cli
from gapbench.models import command, command_example, command_process, zoo
from gapbench.models.base import Answers, Described, Draws
from gapbench.records import Decoding, Failure, InputError, Picture, Prompt, Question, Sampling

EXAMPLE = shlex.join(["command:" + sys.executable, command_example.__file__])
NOTHING = Sampling()
# What every program of these tests does but for `act`, which replies to a list of requests in its own way.
FRAME = """
import json, os, sys, time
from pathlib import Path
here = Path(__file__).parent
with (here / "starts").open("a") as file:
    file.write(f"{{os.getpid()}}\\n")
starts = len((here / "starts").read_text().split())
def say(**reply):
    print(json.dumps(reply), flush=True)
def read():
    line = sys.stdin.readline()
    if not line:
        (here / "ended").touch()
        sys.exit()
    return json.loads(line)
say(**{{"gapbench": 1, "name": "p", "answers": True, "draws": False, "seconds": 1, **{hello}}})
{act}
"""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """A model of a program whose body after the first line is given."""
    made = []

    def make(act: str, **hello: Any) -> Any:
        file = tmp_path / "program.py"
        file.write_text(FRAME.format(act=act, hello=hello))
        made.append(zoo.load(shlex.join(["command:" + sys.executable, str(file)])))
        return made[-1]

    yield make
    for model in made:
        model.close()


def questions(count: int) -> list[Question]:
    return [Question(str(k), f"question {k}") for k in range(count)]


def starts(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "starts").read_text().split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def refused(name: str, **how: Any) -> str:
    with pytest.raises(InputError) as error:
        zoo.load(name, **how)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- a program that behaves -------------------------------------------------------------------------------------------


def test_the_example_gives_what_its_functions_give() -> None:
    model = zoo.load(EXAMPLE, "cuda:7")  # where its drawings are judged
    assert isinstance(model, Answers)
    assert isinstance(model, Draws)
    assert isinstance(model, Described)
    prompts = [Prompt(str(k), f"text {k}", k) for k in range(40)]
    prompts.insert(3, Prompt("empty", " ", 0))
    drawn = list(model.draw(prompts, NOTHING))
    assert drawn.pop(3) == Failure("the prompt is empty")
    assert drawn == [command_example.draw(f"text {k}", k, {}) for k in range(40)]
    pictures = [Picture(str(k), lambda image=image: image) for k, image in enumerate(drawn)]
    answers = list(model.answer([Question(p.key, "colour?", (p,)) for p in pictures], Decoding()))
    assert answers == ["#{:02x}{:02x}{:02x}".format(*image.getpixel((32, 32))) for image in drawn]
    assert len(set(answers)) == 40
    model.close()


def test_the_example_runs_on_old_pythons() -> None:
    source = Path(command_example.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported - {"PIL"} <= set(sys.stdlib_module_names)


def test_what_it_says_of_itself(program: Callable[..., Any], tmp_path: Path) -> None:
    model = program("read()", describe={"weights": {"sha256": "0"}, "beams": 3})
    assert model.describe() == {
        "name": "p",
        "family": "command",
        "command": shlex.join([sys.executable, str(tmp_path / "program.py")]),
        "weights": {"sha256": "0"},
        "describe": {"weights": {"sha256": "0"}, "beams": 3},
    }
    assert not hasattr(model, "draw")
    assert model.settings(Sampling(steps=3)) == Sampling(steps=3)


def test_requests_as_they_are_sent(program: Callable[..., Any]) -> None:
    model = program("while True:\n    asked = read()\n    say(id=asked['id'], text=json.dumps(asked))")
    picture = Picture("x", lambda: Image.new("L", (2, 1), 7))
    first, second = model.answer(
        [Question("a/1", "Wer? \ud83d\n", (picture, picture), ("x", "y")), Question("b", "c", template=False)],
        Decoding(9, 0.5, 4, 3),
    )
    png = json.loads(first)["pictures"][0]
    assert json.loads(first) == {
        "id": 1, "kind": "answer", "item": "a/1", "text": "Wer? \ud83d\n", "template": True, "choices": ["x", "y"],
        "pictures": [png, png], "max_new_tokens": 9, "temperature": 0.5, "top_k": 4, "seed": 3,
    }  # fmt: skip
    assert command._drawing({"png": png}).getpixel((1, 0)) == (7, 7, 7)
    assert (json.loads(second)["id"], json.loads(second)["template"], json.loads(second)["pictures"]) == (2, False, [])


def test_replies_in_any_order_of_the_window(program: Callable[..., Any], tmp_path: Path) -> None:
    act = """
while True:
    time.sleep(0.05)  # time for more than the window to come, if it would
    asked = [json.loads(line) for line in os.read(0, 2**20).splitlines()]
    if not 0 < len(asked) <= 4:
        sys.exit("the window is 4")
    for one in reversed(asked):
        say(id=one["id"], text=f" {one['text']}! ")
"""
    model = program(act, window=4)
    assert list(model.answer(questions(12), Decoding())) == [f"question {k}!" for k in range(12)]
    assert len(starts(tmp_path)) == 1


def test_large_requests_and_replies_do_not_block(program: Callable[..., Any]) -> None:
    # Replies of 3 MB before anything is read: neither side's pipe holds a tenth of that.
    act = """
while True:
    asked = [read()]
    say(id=asked[0]["id"], text="x" * 3_000_000)
"""
    model = program(act)
    long = [Question(str(k), "y" * 3_000_000) for k in range(6)]
    assert [len(answer) for answer in model.answer(long, Decoding())] == [3_000_000] * 6


def test_an_unreadable_picture_fails_alone(program: Callable[..., Any]) -> None:
    def missing() -> Image.Image:
        raise FileNotFoundError("no such picture")

    model = program("while True:\n    say(id=read()['id'], text='yes')")
    asked = [Question("a", "a"), Question("b", "b", (Picture("b", missing),)), Question("c", "c")]
    assert list(model.answer(asked, Decoding())) == ["yes", Failure("no such picture"), "yes"]


def test_drawings_by_path_and_what_is_no_picture(program: Callable[..., Any], tmp_path: Path) -> None:
    Image.new("RGBA", (3, 2), (1, 2, 3, 4)).save(tmp_path / "a.png")
    Image.new("RGB", (3, 2)).save(tmp_path / "b.bmp")
    act = """
for reply in ({"path": str(here / "a.png")}, {"path": str(here / "none.png")}, {"png": "AAAA"}, {"png": "?"},
              {"path": str(here / "b.bmp")}, {"error": ""}, {"error": "CUDA out of memory"}):
    say(id=read()["id"], **reply)
read()
"""
    model = program(act, answers=False, draws=True)
    assert not hasattr(model, "answer")
    drawn = list(model.draw([Prompt(str(k), "x", 0) for k in range(7)], NOTHING))
    assert (drawn[0].mode, drawn[0].size, drawn[0].getpixel((0, 0))) == ("RGB", (3, 2), (1, 2, 3))
    assert all(one.reason.startswith("the program's picture cannot be read: ") for one in drawn[1:5])
    assert drawn[5:] == [Failure("the program told no reason"), Failure("CUDA out of memory")]
    assert len(starts(tmp_path)) == 1


# --- programs that do not ---------------------------------------------------------------------------------------------

FAULTS = {
    "crashes": ("sys.exit('out of luck')", "has exited with status 1"),
    "is killed": ("os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
    "hangs": ("time.sleep(60)", "has not replied for 1 seconds"),
    "babbles": ("print('Loading checkpoint shards')", "writes what is no JSON object: 'Loading checkpoint shards'"),
    "breaks off": ("print('{\"id\": ', end='', flush=True); sys.exit(2)", "has exited with status 2"),
    "nests": ("print('[' * 200000)", "writes what is no JSON object: '[["),
    "answers another": ("say(id=999, text='x')", "replies to 999, which no request waits for"),
    "names no request": ("say(text='x')", "replies to null, which no request waits for"),
    "answers twice": ("say(id=asked['id'], text='x'); say(id=asked['id'], text='y'); time.sleep(9)", "replies to"),
    "draws": ("say(id=asked['id'], png='x')", "with none of what it was asked for"),
    "says nothing": ("say(id=asked['id'])", "with none of what it was asked for"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_breaks_a_program_fails_alone(program: Callable[..., Any], tmp_path: Path, fault: str) -> None:
    does, why = FAULTS[fault]
    act = f"""
while True:
    asked = read()
    if asked["item"] == "5":
        print("a warning", file=sys.stderr, flush=True)
        {does}
    say(id=asked["id"], text=asked["item"])
"""
    model = program(act, window=3)
    answers = list(model.answer(questions(9), Decoding()))
    assert [answer for k, answer in enumerate(answers) if k != 5] == list("01234678")
    if fault == "answers twice":  # the first counts; the second breaks what comes next, which is asked again
        assert answers[5] == "x"
    else:
        assert isinstance(answers[5], Failure)
        assert answers[5].reason.startswith("the program ")
        assert why in answers[5].reason
        assert "the last on its standard error: a warning" in answers[5].reason
    assert len(starts(tmp_path)) <= 3
    assert not any(alive(pid) for pid in starts(tmp_path)[:-1])
    assert list(model.answer(questions(2), Decoding())) == ["0", "1"]


def test_one_crash_by_chance_loses_nothing(program: Callable[..., Any], tmp_path: Path) -> None:
    act = """
while True:
    asked = read()
    if starts == 1 and asked["item"] == "5":
        sys.exit(1)
    say(id=asked["id"], text=asked["item"])
"""
    assert list(program(act).answer(questions(9), Decoding())) == list("012345678")
    assert len(starts(tmp_path)) == 2


def test_a_program_that_ends_between_two_calls(program: Callable[..., Any], tmp_path: Path) -> None:
    act = "for _ in range(2):\n    asked = read()\n    say(id=asked['id'], text=asked['item'])"
    model = program(act)
    assert list(model.answer(questions(2), Decoding())) == ["0", "1"]
    time.sleep(0.1)
    assert list(model.answer(questions(2), Decoding())) == ["0", "1"]


def test_a_program_that_only_crashes_is_refused_with_its_last_words(
    program: Callable[..., Any], tmp_path: Path
) -> None:
    model = program("read()\nprint('one\\n\\ntwo  three', file=sys.stderr)\nsys.exit(3)")
    with pytest.raises(InputError) as error:
        list(model.answer(questions(20), Decoding()))
    assert f"{tmp_path}/program.py" in str(error.value)
    assert "broke 6 times without a reply in between; at last it has exited with status 3" in str(error.value)
    assert str(error.value).endswith("standard error: one | two three")
    assert len(starts(tmp_path)) == 1 + command.RESTARTS


def test_a_program_that_is_another_when_started_again(program: Callable[..., Any]) -> None:
    model = program("sys.exit()")
    file = Path(shlex.split(model.describe()["command"])[1])
    file.write_text(FRAME.format(act="read()", hello={"describe": {"beams": 2}}))
    with pytest.raises(InputError, match="started again, the program says in its first line that it is another"):
        list(model.answer(questions(5), Decoding()))


def test_replies_that_nobody_waited_for_meet_no_later_request(program: Callable[..., Any], tmp_path: Path) -> None:
    model = program("while True:\n    asked = read()\n    say(id=asked['id'], text=asked['item'])")
    first = model.answer(questions(30), Decoding())
    assert next(first) == "0"
    first.close()
    assert not alive(starts(tmp_path)[0])
    assert list(model.answer(questions(3), Decoding())) == ["0", "1", "2"]
    assert len(starts(tmp_path)) == 2


@pytest.mark.parametrize(
    ("first", "why"),
    [
        ("sys.exit('no GPU')", "has exited with status 1; the last on its standard error: no GPU"),
        ("print('Hello!', flush=True); input()", "writes what is no JSON object: 'Hello!'"),
        ("say(name='x'); input()", 'does not begin with {"gapbench": 1'),
        ("say(gapbench=2, name='x'); input()", 'does not begin with {"gapbench": 1'),
        ("say(gapbench=1, answers=True, draws=True); input()", 'says "name": null in its first line'),
        ("say(gapbench=1, name='x', answers=1, draws=True); input()", 'says "answers": 1 in its first line'),
        ("say(gapbench=1, name='x', answers=False, draws=False); input()", "that it can do nothing"),
        ("say(gapbench=1, name='x', answers=True, draws=True, window=0); input()", "takes no requests"),
    ],
)
def test_a_program_that_does_not_start_well_is_refused(tmp_path: Path, first: str, why: str) -> None:
    file = tmp_path / "program.py"
    file.write_text(FRAME.format(act="", hello={}).replace("say(**{", f"{first}\nsay(**{{", 1))
    assert why in refused(shlex.join(["command:" + sys.executable, str(file)]))
    assert not alive(starts(tmp_path)[0])


def test_names_of_no_program(tmp_path: Path) -> None:
    assert "cannot be started: No such file or directory: no-such-program" in refused("command:no-such-program --x")
    assert "no program follows the colon" in refused("command: ")
    assert "No closing quotation" in refused("command:python 'x")
    assert "leave --dtype out" in refused(EXAMPLE, dtype="float16")
    assert "Permission denied" in refused(f"command:{tmp_path}")


# --- the end ----------------------------------------------------------------------------------------------------------


def test_it_is_ended_by_the_end_of_its_input(program: Callable[..., Any], tmp_path: Path) -> None:
    model = program("while True:\n    say(id=read()['id'], text='x')")
    assert list(model.answer(questions(1), Decoding())) == ["x"]
    model.close()
    assert (tmp_path / "ended").exists()
    assert not alive(starts(tmp_path)[0])


def test_it_is_ended_by_force_where_it_does_not_listen(
    program: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_process, "STOP_SECONDS", 0.2)
    act = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nsay(id=read()['id'], text='x')\ntime.sleep(60)"
    model = program(act)
    assert list(model.answer(questions(1), Decoding())) == ["x"]
    model.close()
    assert not alive(starts(tmp_path)[0])


OWNER = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from gapbench.models import zoo
from gapbench.records import Decoding, Question
model = zoo.load(sys.argv[1])
answers = model.answer([Question(str(k), "x") for k in range(9)], Decoding())
print(next(answers), flush=True)
list(answers)
"""


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_it_ends_with_the_process_that_started_it(tmp_path: Path, by: int) -> None:
    file = tmp_path / "program.py"
    act = "say(id=read()['id'], text='x')\nwhile True:\n    read()"
    file.write_text(FRAME.format(act=act, hello={"window": 2, "seconds": 60}))
    name = shlex.join(["command:" + sys.executable, str(file)])
    owner = subprocess.Popen([sys.executable, "-c", OWNER, name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert owner.stdout.readline() == b"x\n"
    owner.send_signal(by)
    owner.wait(20)
    until = time.monotonic() + 10
    while alive(starts(tmp_path)[0]) and time.monotonic() < until:
        time.sleep(0.02)
    assert not alive(starts(tmp_path)[0])
    assert (tmp_path / "ended").exists()


# --- a run ------------------------------------------------------------------------------------------------------------


def test_a_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--suite", "mini", "--tasks", "gap,pope,geneval", "--limit", "3", "--out", str(out)]
    said = CliRunner().invoke(cli.app, ["run", "--model", EXAMPLE, *words, "--device", "cpu"])
    assert (said.exit_code, said.exception) == (0, None)
    found = json.loads((out / "results.json").read_text())
    assert found["model"] == "one-colour"
    assert {name: task["failed"] for name, task in found["tasks"].items()} == dict.fromkeys(found["tasks"], 0)
    assert json.loads((out / "run.json").read_text())["request"]["model"]["family"] == "command"
