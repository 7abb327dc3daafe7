"""The command line: what it prints where, and how it says that something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gapbench import cli
from gapbench.models import zoo


class Said(NamedTuple):
    status: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def gapbench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def command(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["gapbench", *map(str, words)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code
        return Said(status, *capsys.readouterr())

    return command


@pytest.fixture
def fake_zoo(monkeypatch: pytest.MonkeyPatch, fake_model: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(zoo, "load", lambda name, *_: fake_model(name))
    monkeypatch.setattr(zoo, "resolve", lambda *_: zoo.Entry("fake", "fake", suite="mini"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"folder": tmp_path_factory.mktemp("measured")}


@pytest.fixture
def finished(fake_zoo: None, gapbench: Command, measured: dict[str, Path]) -> Path:
    """A finished run of a fake model on a few items of the suite mini; made once."""
    path = measured["folder"] / "run"
    if not path.exists():
        assert gapbench("run", "--model", "a|b", "--limit", 3, "--out", path).status == 0
    return path


# --- help -------------------------------------------------------------------------------------------------------------


def test_the_command_line_imports_nothing_heavy() -> None:
    code = "import sys, gapbench.cli; print(*{'torch', 'transformers', 'pandas', 'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize("words", [(), ("--help",)])
def test_help(gapbench: Command, words: tuple[str, ...]) -> None:
    said = gapbench(*words)
    assert (said.status, said.err) == (0, "")
    for name in ("run", "score", "report", "gap", "list"):
        assert name in said.out


# --- what is wrong is said in one line --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("run", "--model", "no-such-model"), "--model no-such-model: no such model or folder"),
        (("run", "--model", "show-o-mimi"), "Did you mean show-o-mini?"),
        (("run", "--suite", "maxi"), "--suite maxi: unknown; there is mini"),
        (("run", "--tasks", "pope,genevil"), "--tasks genevil: no such task, did you mean geneval;"),
        (("run", "--tasks", ""), "no such task"),
        (("run", "--limit", "0"), "'--limit'"),
        (("run", "--limit", "many"), "'--limit'"),
        (("run", "--seed", "-1"), "'--seed'"),
        (("run", "--dtype", "float99", "--device", "cpu"), "--dtype float99: choose one of float32"),
        (("run", "--device", "abacus"), "--device abacus: no such device"),
        (("run", "--device", "cuda:99"), "--device cuda:99"),
        (("run", "--modle", "x"), "--modle"),
        (("ruin",), "ruin"),
        (("score", "nope", "--responses", "x"), "unknown task 'nope'"),
        (("score", "mmmu"), "--responses"),
        (("score", "mmmu", "--responses", "nowhere.jsonl"), "nowhere.jsonl: no such file or folder"),
        (("score", "mmmu", "--responses", "nowhere.jsonl", "--variant", "mine"), "unknown variant 'mine'"),
        (("report", "nowhere"), "nowhere: not a run folder"),
        (("report",), "report: give a run folder or a bundle, or --with-published"),
        (("report", "nowhere", "--format", "docx"), "--format docx: choose one of md, latex, csv, html, json"),
        (("report", "nowhere", "--document"), "--document: only with --format latex"),
        (("report", "nowhere", "--with-images"), "--with-images: only with --bundle"),
        (("report", "nowhere", "elsewhere", "--bundle", "x.zip"), "--bundle x.zip: a bundle holds one run"),
        (("compare", "nowhere"), "Missing argument"),
        (("compare", "nowhere", "elsewhere"), "nowhere: not a run folder"),
        (("gap", "nowhere"), "nowhere: not a run folder"),
        (("list", "jokes"), "choose models, tasks, suites or judges"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    gapbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = gapbench(*words)
    assert said.status == 2
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.endswith("\n")
    assert len(said.err.splitlines()) == 1
    assert part in said.err
    assert not list(tmp_path.iterdir())


def test_debug_shows_where(gapbench: Command) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gapbench.cli", "list", "jokes", "--debug"], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert done.stderr.startswith("Traceback")
    assert "choose models, tasks, suites or judges" in done.stderr


def test_what_nobody_foresaw_is_one_line_too(gapbench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, *rest: object) -> None:
        raise RuntimeError("the disk is\nfull")

    monkeypatch.setattr(zoo, "load", broken)
    said = gapbench("run", "--tasks", "pope")
    assert said == Said(1, "", "error: RuntimeError: the disk is full (--debug shows where)\n")


def test_an_interruption_says_how_to_go_on(gapbench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str, *rest: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo, "load", interrupted)
    said = gapbench("run", "--tasks", "pope")
    assert said == Said(130, "", "error: interrupted; the same command goes on from here\n")


# --- run, gap, report -------------------------------------------------------------------------------------------------


def test_run_prints_tables_and_names_its_folder(fake_zoo: None, gapbench: Command) -> None:
    said = gapbench("run", "--tasks", "pope,geneval", "--limit", 2)
    assert said.status == 0
    assert "POPE (mini)" in said.out
    assert "GenEval (mini)" in said.out
    assert "partial: 8/480 items" in said.out
    (path,) = Path("runs").iterdir()
    assert path.name.startswith("show-o-mini-mini-")
    assert f"run folder: {path}" in said.err
    assert f"run folder {path}" in said.out
    assert json.loads((path / "run.json").read_text())["status"] == "complete"
    before = (path / "results.json").read_bytes()
    again = gapbench("run", "--tasks", "pope,geneval", "--limit", 2, "--out", path)
    assert (again.status, again.out) == (0, said.out)
    assert (path / "results.json").read_bytes() == before
    refused = gapbench("run", "--tasks", "pope,geneval", "--limit", 3, "--out", path)
    assert refused == Said(2, "", f"error: --out {path}: it holds a run with limit 2, not 3; give another folder\n")


def test_gap_shows_the_skills_of_a_run(gapbench: Command, finished: Path) -> None:
    said = gapbench("gap", finished)
    assert said.status == 0
    assert "gap = U - G" in said.out
    assert "Gap by skill" in said.out
    assert "object" in said.out
    told = gapbench("gap", finished, "--json")
    assert told.err == ""
    assert json.loads(told.out) == json.loads((finished / "diagnostics.json").read_text())


def test_gap_of_a_run_without_one(fake_zoo: None, gapbench: Command) -> None:
    assert gapbench("run", "--tasks", "pope,geneval", "--limit", 3, "--out", "two").status == 0
    said = gapbench("gap", "two")
    assert (said.status, said.err) == (0, "")
    assert "of benchmarks about other images than were drawn" in said.out
    assert "U: pope-mini; G: geneval-mini" in " ".join(said.out.split())
    assert gapbench("run", "--tasks", "flickr30k", "--limit", 1, "--out", "run").status == 0
    said = gapbench("gap", "run")
    assert said.status == 2
    assert said.err.startswith("error: run: nothing in it tells U or G")


def test_report_writes_markdown_and_json(gapbench: Command, finished: Path, tmp_path: Path) -> None:
    said = gapbench("report", finished, finished)
    assert said.status == 0
    for title in ("Understanding", "Generation: GenEval and DPG-Bench", "MS-COCO zero-shot", "POPE", "MMMU", "Gap"):
        table = said.out.split(f"### {title} (mini)\n")[1].split("###")[0]
        assert table.count("\n| a\\|b (run)") == 2
    for form in ("md", "json"):
        printed = gapbench("report", finished, finished, "--format", form)
        written = gapbench("report", finished, finished, "--format", form, "--out", tmp_path / "report")
        assert written == Said(0, "", f"wrote {tmp_path / 'report'}\n")
        assert (tmp_path / "report").read_text() == printed.out
    first, second = json.loads(printed.out)
    assert first == second == json.loads((finished / "results.json").read_text())
    nowhere = gapbench("report", finished, "--out", tmp_path / "no" / "such" / "folder.md")
    assert nowhere.status == 2
    assert "cannot be written" in nowhere.err


def test_report_in_every_format(gapbench: Command, finished: Path) -> None:
    starts = {"md": "### ", "latex": "\\begin{table}", "csv": "table,", "html": "<!doctype html>", "json": "["}
    for form, start in starts.items():
        said = gapbench("report", finished, "--format", form)
        assert (said.status, said.err) == (0, "")
        assert start in said.out.lower()[:400], form
    alone = gapbench("report", "--with-published")
    assert (alone.status, alone.err) == (0, "")
    assert "| HermesFlow (reported) |" in alone.out
    assert gapbench("report", finished, "--format", "latex", "--document").out.startswith("\\documentclass")


def test_a_bundle_is_a_run(gapbench: Command, finished: Path, tmp_path: Path) -> None:
    said = gapbench("report", finished, "--bundle", tmp_path / "run.zip")
    assert (said.status, said.out) == (0, "")
    assert said.err.startswith(f"wrote {tmp_path / 'run.zip'}: ")
    for words in (("report",), ("gap",)):
        packed, own = gapbench(*words, tmp_path / "run.zip"), gapbench(*words, finished)
        assert packed.out == own.out
        assert "metrics computed again from its records, all as told" in packed.err
    assert gapbench("compare", finished, tmp_path / "run.zip").status == 0


def test_compare(fake_zoo: None, gapbench: Command, finished: Path) -> None:
    same = gapbench("compare", finished, finished)
    assert (same.status, same.err) == (0, "")
    assert "no significant difference (paired tests over clusters" in same.out
    told = json.loads(gapbench("compare", finished, finished, "--json").out)
    assert {change["adjusted"] for change in told["changes"]} == {1.0}
    assert gapbench("run", "--model", "other", "--tasks", "pope", "--limit", 3, "--out", "other").status == 0
    said = gapbench("compare", finished, "other")
    assert said.status == 0
    assert "gap-mini: only a|b has it" in said.out


def test_base_url_is_of_what_a_server_has(gapbench: Command, fake_zoo: None) -> None:
    said = gapbench("run", "--tasks", "pope", "--limit", 1, "--base-url", "http://127.0.0.1:1/v1")
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("error: --base-url http://127.0.0.1:1/v1: neither the model nor a judge is openai:NAME")


@pytest.mark.parametrize("command", ["gap", "report"])
def test_results_that_are_not_there_or_torn(gapbench: Command, finished: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "run.json").write_bytes((finished / "run.json").read_bytes().replace(b"complete", b"running"))
    missing = gapbench(command, tmp_path)
    assert missing.status == 2
    assert "no results yet (status: running)" in missing.err
    whole = (finished / "results.json").read_bytes()
    for torn in (b"", whole[: len(whole) // 2], b"[]", b"{}", b"\xff"):
        (tmp_path / "results.json").write_bytes(torn)
        said = gapbench(command, tmp_path)
        assert (said.status, said.out, len(said.err.splitlines())) == (2, "", 1), torn
        assert "results.json: cannot be read" in said.err


# --- score ------------------------------------------------------------------------------------------------------------


def test_score_of_published_answers(gapbench: Command, shared: Path) -> None:
    folder = shared / "data/understanding/mmmu"
    outputs = gapbench("score", "mmmu", "--responses", folder / "llava1.5_13b_val_outputs.jsonl")
    assert (outputs.status, outputs.err) == (0, "")
    assert "329 of 900 right (0.3656)" in outputs.out
    assert "0.3667" in outputs.out  # with the official fallback
    parsed = gapbench("score", "mmmu", "--responses", folder / "llava1.5_13b_total_val_output.json", "--data", folder)
    assert (parsed.status, parsed.err) == (0, "")
    assert "330 of 900 right (0.3667)" in parsed.out


def test_score_as_json_is_json_alone(gapbench: Command, shared: Path) -> None:
    said = gapbench(
        "score", "mmmu", "--responses", shared / "data/understanding/mmmu/llava1.5_13b_val_outputs.jsonl", "--json"
    )
    assert (said.status, said.err) == (0, "")
    told = json.loads(said.out)
    assert (told["task"], told["variant"], told["partial"]) == ("mmmu", "official", False)
    assert round(told["metrics"]["accuracy"]["value"], 4) == 0.3656
    assert told["counts"]["expected"] == told["counts"]["done"] == 900


# --- list -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("models", ("show-o-mini", "show-o-512", "showlab/show-o", "hermesflow")),
        ("tasks", ("gap-mini", "pope-mini", "geneval-mini", "mmmu", "vlmevalkit")),
        ("judges", ("eye", "openai:NAME[@URL]", "openai:gpt-4o")),
        ("suites", ("mini", "gap-mini, pope-mini,", "paper", "pope, mme, flickr30k, vqav2, gqa, mmmu")),
    ],
)
def test_list(gapbench: Command, what: str, names: tuple[str, ...]) -> None:
    said = gapbench("list", what)
    assert (said.status, said.err) == (0, "")
    assert all(name in said.out for name in names)
