"""Every real benchmark, laid out as its own files and as the hub's with 40 pictures, from command line to results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from layouts import flickr30k, gqa, mme, mmmu, pope, vqav2

from gapbench import cli, tasks
from gapbench.store import RunFolder
from gapbench.tasks import SUITES, vqav2_answers
from gapbench.tasks.base import Options

UNDERSTANDING = ("pope", "mme", "flickr30k", "vqav2", "gqa", "mmmu")
DRAWN = ("geneval-mini", "dpg-mini", "coco-mini")
WHOLE = {"pope": 9000, "mme": 2374, "flickr30k": 31_783, "vqav2": 214_354, "gqa": 12_578, "mmmu": 900}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of all benchmarks' own files, and one of the hub's; MMMU's own are the hub's."""
    root = tmp_path_factory.mktemp("data")
    for name, layout in {"pope": pope, "mme": mme, "flickr30k": flickr30k, "vqav2": vqav2, "gqa": gqa}.items():
        layout.write_own(root / "own" / name)
        layout.write_parquet(root / "hub" / name)
    mmmu.write_parquet(root / "own" / "mmmu")
    mmmu.write_merged(root / "hub" / "mmmu")
    return {"own": root / "own", "hub": root / "hub"}


def arguments(data: Path, out: Path, tasks: Sequence[str] = UNDERSTANDING) -> list[str]:
    chosen = ["--suite", "paper", "--tasks", ",".join(tasks), "--data", str(data), "--allow-partial"]
    return ["run", "--model", "show-o-mini", *chosen, "--device", "cpu", "--out", str(out)]


def measured(data: Path, out: Path, tasks: Sequence[str] = UNDERSTANDING) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["gapbench", *arguments(data, out, tasks)])
        cli.main()
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def finished(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    measured(data["own"], out)
    return out


def test_every_task_of_the_papers_tables_runs(finished: Path) -> None:
    found = json.loads((finished / "results.json").read_text())["tasks"]
    assert {name: told["expected"] for name, told in found.items()} == WHOLE
    for name, told in found.items():
        assert 40 <= told["done"] == told["asked"] < told["expected"], name
        assert told["failed"] == told["unjudged"] == 0, name
        assert told["metrics"], name
    # The miniature model was trained for such questions: questions and pictures are joined rightly.
    assert found["gqa"]["metrics"]["accuracy"]["value"] > 0.6
    assert found["vqav2"]["metrics"]["accuracy"]["value"] > 0.6
    assert found["flickr30k"]["metrics"]["cider"]["value"] > 50


def test_the_hubs_files_give_the_same_numbers(finished: Path, data: dict[str, Path], tmp_path: Path) -> None:
    own, hub = json.loads((finished / "results.json").read_text()), measured(data["hub"], tmp_path / "hub")
    for name in WHOLE:
        records = [{r.key: r for r in RunFolder(path).records(name)} for path in (finished, tmp_path / "hub")]
        assert records[0] == records[1], name
        assert own["tasks"][name]["fingerprint"] == hub["tasks"][name]["fingerprint"], name
        assert own["tasks"][name]["metrics"] == hub["tasks"][name]["metrics"], name


def test_no_two_tasks_call_different_pictures_by_one_key(data: dict[str, Path]) -> None:
    """Models remember pictures by their keys, from one task to the next."""
    owner: dict[str, str] = {}
    for name in (*UNDERSTANDING, *(name for name in SUITES["mini"] if name not in DRAWN)):
        options = Options(data=data["own"], allow_partial=True)
        task = tasks.load(name, options)
        for item in task.items(task.parts[0], lambda item, seed: None):
            for picture in item.ask.pictures:
                assert owner.setdefault(picture.key, name) == name


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_command(finished: Path, data: dict[str, Path], tmp_path: Path) -> None:
    import torch

    path = tmp_path / "killed"
    words = [sys.executable, "-m", "gapbench.cli", *arguments(data["own"], path)]
    # Sums may depend on the number of threads.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    with subprocess.Popen(words, **quiet) as victim:
        while not (path / "records" / "mme.jsonl").exists():
            assert victim.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
        victim.kill()
    assert not (path / "results.json").exists()
    assert not (path / "records" / "mmmu.jsonl").exists()
    subprocess.run(words, check=True, **quiet)
    assert (path / "results.json").read_bytes() == (finished / "results.json").read_bytes()


@pytest.mark.parametrize("name", ["vqav2-testdev", "flickr30k-karpathy"])
def test_the_other_splits_run(name: str, data: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    if name == "vqav2-testdev":
        vqav2.write_own(folder, split="testdev")
    else:
        flickr30k.write_karpathy(flickr30k.write_own(folder))
    told = measured(folder, tmp_path / "run", [name])["tasks"][name]
    assert told["done"] == told["asked"] > 0
    assert bool(told["metrics"]) == (name != "vqav2-testdev")


def test_a_runs_answers_become_the_servers_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = vqav2.write_own(tmp_path / "data", 3, split="testdev")
    measured(folder, tmp_path / "run", ["vqav2-testdev"])
    records = tmp_path / "run" / "records" / "vqav2-testdev.jsonl"
    words = ["--responses", records, "--data", folder, "--out", tmp_path / "results.json"]
    monkeypatch.setattr(sys, "argv", ["gapbench", "submission", "vqav2-testdev", *map(str, words)])
    with pytest.raises(SystemExit):
        cli.main()
    assert "the official file has 107394" in capsys.readouterr().err
    monkeypatch.setattr(vqav2_answers, "COUNTS", {})
    cli.main()
    assert "of test-dev alone; where the server wants all of test, name" in " ".join(capsys.readouterr().err.split())
    written = json.loads((tmp_path / "results.json").read_text())
    answers = {record.item: record.response for record in RunFolder(tmp_path / "run").records("vqav2-testdev")}
    assert {str(row["question_id"]): row["answer"] for row in written} == answers
    assert len(written) == len(answers) > 10


def test_a_picture_that_cannot_be_decoded_fails_alone(data: dict[str, Path], tmp_path: Path) -> None:
    folder = pope.write_own(tmp_path / "pope", 3)
    picture = folder / "val2014" / "COCO_val2014_000000000002.jpg"
    picture.write_bytes(picture.read_bytes()[:-500])
    told = measured(folder, tmp_path / "run", ["pope"])["tasks"]["pope"]
    assert (told["done"], told["failed"]) == (54, 18)
    failed = [record for record in RunFolder(tmp_path / "run").records("pope") if record.error]
    assert {record.cluster for record in failed} == {"COCO_val2014_000000000002"}
    assert failed[0].error.startswith("COCO_val2014_000000000002: image file is truncated")
    assert {record.score for record in failed} == {0.0}


def test_data_that_no_task_reads_are_refused(data: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["gapbench", "run", "--tasks", "pope", "--data", str(data["own"])])
        with pytest.raises(SystemExit):
            cli.main()
    assert "--data: pope-mini reads no data; for the real benchmarks add --suite paper" in capsys.readouterr().err
