"""What a hosted task's protocol holds: the same wherever it is read, another where anything changes a number."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from layouts import lm_eval as layout

from gapbench.tasks import hosted
from gapbench.tasks.hosted_task import HostedTask


def loaded(path: Path) -> HostedTask:
    (task,) = hosted.load(str(path))
    return task


def test_protocols_are_stable_and_tell_apart(tmp_path: Path) -> None:
    files = layout.write_tasks(tmp_path / "tasks", answers=("maybe", "no"))
    paths = [files[name] for name in ("choice", "pictured", "pieces")]
    said = [loaded(path).protocol() for path in paths]
    code = "import sys, json; from gapbench.tasks import hosted; print(json.dumps([hosted.load(p)[0].told for p in "
    words = [sys.executable, "-c", code + "sys.argv[1:]]))", *map(str, paths)]
    elsewhere = subprocess.run(
        words, capture_output=True, text=True, check=True, env={**os.environ, "TZ": "Asia/Tokyo"}
    )
    assert json.loads(elsewhere.stdout.splitlines()[-1]) == said
    moved = layout.write_tasks(tmp_path / "moved")
    original = layout.write_tasks(tmp_path / "original")
    assert loaded(moved["choice"]).protocol() == loaded(original["choice"]).protocol()
    assert loaded(moved["pictured"]).protocol()["data"] != said[1]["data"]  # other answers
    changed = files["pictured"].with_name("changed.yaml")
    changed.write_text(files["pictured"].read_text().replace('["."]', '[","]'))
    assert loaded(changed).protocol()["config"] != said[1]["config"]


def test_functions_are_part_of_the_protocol(tmp_path: Path) -> None:
    """With what they call in their own file, and with what they are given beforehand."""
    functions = (
        "from functools import partial\n"
        "def length(said): return float(len(said))\n"
        "def scored(doc, results, times): return {'words': times * length(results[0])}\n"
        "twice, thrice = partial(scored, times=2), partial(scored, times=3)\n"
    )

    def config(folder: str, name: str = "twice", functions: str = functions) -> str:
        file = layout.write_tasks(tmp_path / folder)["pieces"]
        (file.parent / "more.py").write_text(functions)
        file.write_text(file.read_text().replace("functions.pieces", f"more.{name}"))
        return loaded(file).protocol()["config"]

    whole = config("a")
    assert config("b") == whole  # elsewhere
    assert config("c", "thrice") != whole
    assert config("d", functions=functions.replace("float(len", "-float(len")) != whole


def test_where_data_lie_is_no_part_of_the_protocol(tmp_path: Path) -> None:
    said = []
    for folder in (tmp_path / "here", tmp_path / "there"):
        file = layout.write_tasks(folder)["continued"]
        (folder / "data").mkdir()
        shutil.copy(folder / "rows.jsonl", folder / "data" / "train.jsonl")
        text = file.read_text().splitlines()
        head = [f"dataset_path: {folder / 'data'}", f"dataset_kwargs: {{cache_dir: {folder / 'cache'}}}"]
        kept = [line for line in text if not line.startswith(("dataset_path", "dataset_kwargs"))]
        file.write_text("\n".join(head + kept) + "\n")
        said.append(loaded(file).protocol())
    assert said[0] == said[1]
