"""Responses made elsewhere, run as a model: found by id and seed, in every layout; what is missing or odd is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from gapbench import cli
from gapbench.models import zoo
from gapbench.models.base import Answers, Described, Draws
from gapbench.records import Decoding, Failure, InputError, Prompt, Question, Record, Sampling
from gapbench.store import RunFolder

NOTHING = Sampling()


def write(file: Path, *rows: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def image(file: Path, color: int, mode: str = "RGB", size: tuple[int, int] = (2, 2)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (color, 0, 0)).convert(mode).save(file)
    return file


def answers(model: Any, *ids: str) -> list[str | Failure]:
    return list(model.answer([Question(name, "?") for name in ids], Decoding()))


def drawn(model: Any, *asked: tuple[str, int]) -> list[int | str]:
    """The red of each drawing, or why there is none."""
    made = model.draw([Prompt(name, "a bench", seed) for name, seed in asked], NOTHING)
    return [one.reason if isinstance(one, Failure) else one.getpixel((0, 0))[0] for one in made]


def refused(folder: Path | str, **how: Any) -> str:
    with pytest.raises(InputError) as error:
        zoo.load(f"outputs:{folder}", **how)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["pope.jsonl", "answers/pope.jsonl", "records/pope.jsonl"])
def test_answers_by_id(tmp_path: Path, place: str) -> None:
    write(tmp_path / place, {"id": "random/1", "response": "yes"}, {"id": 7, "response": " Nein\u2028\n"})
    write(tmp_path / "mme.jsonl", {"id": "x", "response": ""}, {"id": "unasked", "response": "z"})
    model = zoo.load(f"outputs:{tmp_path}", "cuda:7")  # where others are judged
    assert isinstance(model, Answers)
    assert isinstance(model, Described)
    assert not isinstance(model, Draws)
    found = answers(model, "7", "random/2", "random/1", "x")
    assert found == [" Nein\u2028\n", Failure(f"{tmp_path} has no answer to random/2"), "yes", ""]


@given(st.dictionaries(st.text(min_size=1), st.text(), min_size=1))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, given: dict[str, str]) -> None:
    folder = tmp_path_factory.mktemp("answers")
    write(folder / "a.jsonl", *({"id": name, "response": text} for name, text in given.items()))
    assert answers(zoo.load(f"outputs:{folder}"), *given) == list(given.values())


def test_answers_that_differ_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "gqa.jsonl", {"id": "1", "response": "a"}, {"id": "1", "response": "a"})
    assert answers(zoo.load(f"outputs:{tmp_path}"), "1") == ["a"]
    second = write(tmp_path / "vqav2.jsonl", {"id": "1", "response": "b"})
    line = refused(tmp_path)
    assert line.startswith(
        f"1 is answered in {first} and {second}, and not in the same way; give the folder of one task"
    )
    second.unlink()
    write(first, {"id": "1", "response": "a"}, {"id": "1", "response": "b"})
    assert f"1 is answered twice in {first}" in refused(tmp_path)


@pytest.mark.parametrize("row", ["{", '{"id": "2"}', '{"id": "2", "response": 3}', '"yes"'])
def test_a_line_that_is_no_answer_is_refused(tmp_path: Path, row: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"id": "1", "response": "a"}\n' + row + "\n")
    assert refused(tmp_path).startswith(f"{file}:2: ")


# --- drawings ---------------------------------------------------------------------------------------------------------


def test_a_runs_own_layout(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    odd = ["00000", "a/b", "..", "x.y", "ü %", "a"]
    for number, name in enumerate(odd):
        image(run.image_path("gap", name, 5), number)
    model = zoo.load(f"outputs:{tmp_path}")
    assert isinstance(model, Draws)
    assert not isinstance(model, Answers)
    assert drawn(model, *((name, 5) for name in odd)) == list(range(len(odd)))
    assert drawn(model, ("a", 0), ("b", 5)) == [
        f"of drawings of {name} there are none in {tmp_path}" for name in ("a with seed 0", "b with seed 5")
    ]
    assert drawn(zoo.load(f"outputs:{tmp_path}/images/gap"), ("a/b", 5)) == [1]


def test_genevals_layout(tmp_path: Path) -> None:
    for number in range(4):
        image(tmp_path / "00003" / "samples" / f"{number:04d}.png", number)
    model = zoo.load(f"outputs:{tmp_path}")
    assert drawn(model, ("00003", 3), ("00003", 0)) == [3, 0]
    assert "with seed 4 there are none" in drawn(model, ("00003", 4))[0]
    write(tmp_path / "00003" / "metadata.jsonl", {"tag": "x", "prompt": "a bench"})
    assert drawn(model, ("00003", 2)) == [2]
    write(tmp_path / "00003" / "metadata.jsonl", {"tag": "x", "prompt": "a sofa"})
    assert drawn(model, ("00003", 2))[0].endswith("metadata.jsonl is not of the prompt 'a bench'")


def test_one_image_an_item_and_grids(tmp_path: Path) -> None:
    image(tmp_path / "images" / "coco" / "000012.jpg", 255)
    image(tmp_path / "images" / "coco" / "b.webp", 255)
    grid = Image.new("RGB", (4, 4))
    for number, corner in enumerate([(0, 0), (2, 0), (0, 2), (2, 2)]):
        grid.paste((number, 0, 0), (*corner, corner[0] + 2, corner[1] + 2))
    (tmp_path / "images" / "dpg").mkdir()
    grid.save(tmp_path / "images" / "dpg" / "partiprompts1.png")
    image(tmp_path / "images" / "dpg" / "odd.png", 1, size=(3, 3))
    model = zoo.load(f"outputs:{tmp_path}")
    assert [color > 250 for color in drawn(model, ("12", 0), ("000012", 0), ("b", 0))] == [True] * 3
    assert "with seed 1 there are none" in drawn(model, ("b", 1))[0]
    assert drawn(model, *(("partiprompts1", seed) for seed in range(4))) == [0, 1, 2, 3]
    assert "odd.png" in drawn(model, ("odd", 0))[0]
    assert drawn(zoo.load(f"outputs:{tmp_path}/images/dpg"), ("partiprompts1", 2)) == [2]


def test_drawings_that_cannot_be_judged_fail_alone(tmp_path: Path) -> None:
    image(tmp_path / "a" / "0.png", 9)
    image(tmp_path / "b" / "0.png", 9, "L")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "0.png").write_bytes((tmp_path / "a" / "0.png").read_bytes()[:45])
    image(tmp_path / "d" / "0.png", 9)
    image(tmp_path / "d" / "0.jpg", 9)
    grey, torn, two, whole = drawn(zoo.load(f"outputs:{tmp_path}"), ("b", 0), ("c", 0), ("d", 0), ("a", 0))
    assert grey == f"{tmp_path}/b/0.png: mode L, not RGB; convert it as it is to be seen"
    assert torn.startswith(f"{tmp_path}/c/0.png: ")
    assert two == f"of drawings of d with seed 0 there are several: {tmp_path}/d/0.png, {tmp_path}/d/0.jpg"
    assert whole == 9


def test_equal_ids_of_two_tasks_are_told(tmp_path: Path) -> None:
    for task in ("geneval", "geneval-rewritten"):
        image(tmp_path / "images" / task / "00000" / "0.png", 1)
    assert "there are several: " in drawn(zoo.load(f"outputs:{tmp_path}"), ("00000", 0))[0]
    assert drawn(zoo.load(f"outputs:{tmp_path}/images/geneval"), ("00000", 0)) == [1]


# --- what it says -----------------------------------------------------------------------------------------------------


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    file = write(tmp_path / "answers" / "pope.jsonl", {"id": "1", "response": "a"})
    image(tmp_path / "images" / "coco" / "1.png", 1)
    before = zoo.load(f"outputs:{tmp_path}").describe()
    assert {key: before[key] for key in ("name", "family", "folder", "weights", "made_by")} == {
        "name": f"outputs:{tmp_path}",
        "family": "outputs",
        "folder": str(tmp_path),
        "weights": None,
        "made_by": None,
    }
    assert list(before["files"]) == ["answers/pope.jsonl"]
    assert before["drawings"]["files"] == 1
    write(file, {"id": "1", "response": "b"})
    after = zoo.load(f"outputs:{tmp_path}").describe()
    assert after["files"] != before["files"]
    assert after["drawings"] == before["drawings"]
    image(tmp_path / "images" / "coco" / "1.png", 1, size=(9, 9))
    assert zoo.load(f"outputs:{tmp_path}").describe()["drawings"] != before["drawings"]


def test_wrong_input(tmp_path: Path) -> None:
    assert refused("no-such-folder") == "--model outputs:no-such-folder: no-such-folder is no folder"
    assert "neither answers (*.jsonl) nor drawings" in refused(tmp_path)
    image(tmp_path / "1.png", 1)
    assert "leave --dtype out" in refused(tmp_path, dtype="float32")
    with pytest.raises(InputError, match=r"--steps: .* was drawn already"):
        zoo.load(f"outputs:{tmp_path}").settings(Sampling(steps=4))


# --- a run ------------------------------------------------------------------------------------------------------------


def test_a_run_of_a_runs_folder_gives_its_records(tmp_path: Path, fake_model: Any, monkeypatch: Any) -> None:
    def measure(name: str, to: Path, *tasks: str) -> Any:
        words = ["--suite", "mini", "--tasks", ",".join(tasks), "--limit", "3", "--device", "cpu", "--out", str(to)]
        return CliRunner().invoke(cli.app, ["run", "--model", name, *words])

    with monkeypatch.context() as patched:
        model = fake_model(fails=lambda ask: ask.id in ("popular/2", "00001"))
        model.log_likelihood = None
        patched.setattr(zoo, "load", lambda *how: model)
        patched.setattr(zoo, "resolve", lambda *how: zoo.Entry("fake", "fake", weighs=False))
        assert measure("fake", tmp_path / "first", "gap", "pope", "geneval").exit_code == 0
    name = f"outputs:{tmp_path / 'first'}"
    said = measure(name, tmp_path / "second", "gap", "pope", "geneval")
    assert (said.exit_code, said.exception) == (0, None)

    def records(run: str, task: str) -> list[Record]:
        return RunFolder(tmp_path / run).records(task)

    failed = 0
    for task in ("gap-mini", "pope-mini", "geneval-mini"):
        assert len(records("first", task)) == len(records("second", task)) > 3
        for one, two in zip(records("first", task), records("second", task), strict=True):
            failed += one.error is not None
            assert (one.error is None) == (two.error is None)
            assert (one.key, one.response, one.score, one.details) == (two.key, two.response, two.score, two.details)
    assert failed == 5
    request = RunFolder(tmp_path / "second").manifest()["request"]
    assert request["model"]["made_by"]["name"] == "fake"
    missing = measure(name, tmp_path / "third", "mme")
    assert missing.exit_code == 0
    assert all("has no answer to" in record.error for record in records("third", "mme-mini"))
