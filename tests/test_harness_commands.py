"""`gapbench lm-eval` and `gapbench run --tasks lm-eval:TASK` as they are typed: the same numbers by either."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
from layouts import lm_eval as layout
from lm_eval.tasks import TaskManager

from gapbench import cli, harness
from gapbench.harness import GapbenchLM
from gapbench.store import RunFolder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return layout.write_tasks(tmp_path_factory.mktemp("tasks"))


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Exit status of a command line."""
    monkeypatch.setattr(sys, "argv", ["gapbench", *words])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_both_directions_give_the_same_numbers(
    tiny_checkpoint: Path, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        lm_eval.tasks, "TaskManager", partial(TaskManager, include_defaults=False)
    )  # those take seconds
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    names = ("choice", "pictured", "sampled")
    model = ("--model", "gapbench", "--model_args", f"model={tiny_checkpoint},device=cpu")
    told = ("--tasks", ",".join(str(files[name]) for name in names), "--output_path", str(tmp_path / "theirs"))
    assert call(monkeypatch, "lm-eval", "run", *model, *told, "--log_samples") == 0
    (folder,) = (tmp_path / "theirs").iterdir()
    assert folder.name == str(tiny_checkpoint).replace("/", "__")
    (found,) = folder.glob("results_*.json")
    theirs = json.loads(found.read_text())
    assert theirs["config"]["gapbench"]["name"] == str(tiny_checkpoint)

    hosted = ",".join(f"lm-eval:{files[name]}" for name in names)
    ours = tmp_path / "ours"
    place = ("--model", str(tiny_checkpoint), "--device", "cpu", "--out", str(ours))
    assert call(monkeypatch, "run", *place, "--suite", "mini", "--tasks", hosted) == 0
    results = json.loads((ours / "results.json").read_text())["tasks"]
    assert list(results) == [f"lm-eval-{name}" for name in names]
    compared = 0
    for name in names:
        metrics = results[f"lm-eval-{name}"]["metrics"]
        for metric, estimate in metrics.items():
            key = metric if "," in metric else f"{metric},none"
            assert theirs["results"][name][key] == estimate["value"]
        records = {record.item: record for record in RunFolder(ours).records(f"lm-eval-{name}")}
        (samples,) = folder.glob(f"samples_{name}_*.jsonl")
        for sample in map(json.loads, samples.read_text().splitlines()):
            record = records[str(sample["doc_id"])]
            if name == "choice":
                weighed = json.loads(record.response)
                assert [[str(total), str(greedy)] for total, _, greedy in weighed] == [r[0] for r in sample["resps"]]
            else:
                until = {"pictured": ".", "sampled": " e"}[name]
                assert record.response.split(until)[0] == sample["resps"][0][0]
            compared += 1
    assert compared == 24 + 24 + 2 * 24


@pytest.mark.slow
def test_both_commands_give_the_same_numbers_of_the_harness_own_tasks(tmp_path: Path) -> None:
    """A multiple choice of texts and two that show pictures, on the miniature model; their data lie in this folder."""
    layout.write_hub_copies(tmp_path)
    names = ("arc_easy", "chartqa", "mmmu_val_accounting")
    scripts = Path(sys.executable).parent
    alone = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}

    def gapbench(*words: str) -> str:
        done = subprocess.run([scripts / "gapbench", *words], cwd=tmp_path, env=alone, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    model = ("--model", "gapbench", "--model_args", "model=show-o-mini")
    told = gapbench("lm-eval", *model, "--tasks", ",".join(names), "--output_path", "theirs", "--log_samples")
    assert "|arc_easy  |" in told
    gapbench(
        *("run", "--model", "show-o-mini", "--out", "ours", "--tasks", ",".join(f"lm-eval:{name}" for name in names))
    )
    folder = tmp_path / "theirs" / "show-o-mini"
    (found,) = folder.glob("results_*.json")
    theirs = json.loads(found.read_text())["results"]
    ours = json.loads((tmp_path / "ours" / "results.json").read_text())["tasks"]
    values = {
        name: {metric: estimate["value"] for metric, estimate in ours[f"lm-eval-{name}"]["metrics"].items()}
        for name in names
    }
    for name in ("arc_easy", "chartqa"):
        wanted = {key: value for key, value in theirs[name].items() if "," in key and "_stderr" not in key}
        assert {f"{metric},none": value for metric, value in values[name].items()} == wanted
    assert 0 < values["arc_easy"]["acc"] < 1
    records = {record.item: record for record in RunFolder(tmp_path / "ours").records("lm-eval-mmmu_val_accounting")}
    (samples,) = folder.glob("samples_mmmu_val_accounting_*.jsonl")
    guessed, scores = 0, set()
    for sample in map(json.loads, samples.read_text().splitlines()):
        record = records[str(sample["doc_id"])]
        assert record.response == sample["resps"][0][0]
        if "by_chance" in record.details:  # the harness guesses a letter, from one stream for all documents
            guessed += 1
        else:
            assert record.details["metrics"]["acc"] == sample["acc"]
            scores.add(sample["acc"])
    assert (scores, len(records)) == ({0, 1}, 24)
    assert 0 < guessed < 24


def test_the_harness_own_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, files: dict[str, Path]
) -> None:
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(TaskManager, include_defaults=False))
    before = list(sys.argv)
    assert call(monkeypatch, "lm-eval", "--help") == 0
    assert "Language Model Evaluation Harness" in capsys.readouterr().out
    assert call(monkeypatch, "lm-eval", "run", "--help") == 0
    assert "--apply_chat_template" in capsys.readouterr().out
    folder = str(files["choice"].parent)
    assert call(monkeypatch, "lm-eval", "validate", "--tasks", "choice", "--include_path", folder) == 0
    assert call(monkeypatch, "lm-eval", "validate", "--tasks", "nothing", "--include_path", folder) == 1
    assert call(monkeypatch, "lm-eval", "run", "--no_such_flag", "1") == 2
    capsys.readouterr()
    for arguments, says in {
        "model=nowhere,device=cpu": "error: --model nowhere: no such model or folder",
        f"model={tiny_checkpoint},device=cpu,dtpye=float32,x=1": "error: --model_args dtpye, x: unknown; there are",
        "device=cpu": "error: --model_args: say which model",
    }.items():
        words = ("--model", "gapbench", "--model_args", arguments, "--tasks", str(files["choice"]))
        assert call(monkeypatch, "lm-eval", "run", *words) == 2
        assert says in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.undo()
    assert sys.argv == before


def test_the_harness_own_models_stay() -> None:
    code = (
        "import gapbench.harness; from lm_eval.api.registry import get_model; get_model('dummy'); get_model('gapbench')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_imports_no_harness() -> None:
    code = (
        "import sys; from gapbench import cli, tasks; sys.exit(any(m in sys.modules for m in ('lm_eval', 'datasets')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_model_args_count_before_flags(monkeypatch: pytest.MonkeyPatch, fake_model: Any) -> None:
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(harness.zoo, "load", lambda *arguments: given.append(arguments) or fake_model())
    flags = {"batch_size": 1, "max_batch_size": None, "device": "cuda:0"}
    GapbenchLM.create_from_arg_obj({"model": "m", "device": "cpu", "dtype": "float32"}, flags)
    GapbenchLM.create_from_arg_string("model=m", flags)  # cuda:0 is what the harness says where nobody asked
    GapbenchLM.create_from_arg_string("model=m", {"device": "cuda:1"})
    GapbenchLM.create_from_arg_obj({"model": "m", "device": "cpu"}, {"device": "cuda:1"})
    assert given == [("m", "cpu", "float32"), ("m", None, None), ("m", "cuda:1", None), ("m", "cpu", None)]
