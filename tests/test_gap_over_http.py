"""A gap run with model and judge behind a server: the same numbers whatever it does, and nothing paid for twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai_server import calls, process

from gapbench import judges, tasks
from gapbench.api import Client, endpoint
from gapbench.judges.api import ApiJudge
from gapbench.models import zoo
from gapbench.models.openai_api import OpenAIModel
from gapbench.records import Sampling
from gapbench.run import Runner
from gapbench.store import RunFolder

FAULTS = "429,500,timeout,cut,malformed,empty,-"
ITEMS = 2


def measured(path: Path, model: Any, judge: judges.Judge) -> tuple[dict[str, Any], list[Any]]:
    """Metrics, and all that was said and judged, of a run over the first items."""
    task = replace(tasks.load("gap-mini"), judge_model=judge)
    folder = RunFolder(path)
    found = Runner(model, [task], folder, Sampling(), ITEMS).run()
    said = [
        (r.key, r.response, r.score, [q["right"] for q in r.details.get("questions", ())])
        for r in folder.records("gap-mini")
    ]
    return found["tasks"]["gap-mini"]["metrics"], said


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Any]]:
    return measured(tmp_path_factory.mktemp("local") / "run", zoo.load("show-o-mini", "cpu"), judges.judge("eye"))


@pytest.mark.slow
def test_faults_change_nothing_but_the_number_of_calls(local: Any, tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    with process("--faults", FAULTS, "--slow", "6", "--log", str(log)) as url:

        def client(name: str) -> Client:
            return Client(endpoint(f"openai:{name}@{url}"), 4, tmp_path / "cache", timeout=4, pause=lambda _: None)

        model, judge = client("show-o-mini"), client("eye")
        found = measured(tmp_path / "run", OpenAIModel("openai:show-o-mini", model), ApiJudge("openai:eye", judge))
    assert found == local
    received = calls(log)
    times = Counter(call["sha256"] for call in received)
    faulty = {call["sha256"]: call["fault"] for call in received if call["fault"] != "-"}
    assert set(faulty.values()) == set(FAULTS.split(",")) - {"-"}
    assert all(count == (2 if name in faulty else 1) for name, count in times.items())
    assert model.calls + judge.calls == len(received)


@pytest.mark.slow
def test_what_was_answered_before_a_kill_is_not_asked_again(local: Any, tmp_path: Path) -> None:
    log, cache = tmp_path / "calls.jsonl", tmp_path / "cache"
    with process("--log", str(log)) as url:
        judge = f"gap-mini=openai:eye@{url}"
        command = [sys.executable, "-m", "gapbench.cli", "run", "--suite", "mini", "--tasks", "gap", "--out", "run"]
        command += ["--model", f"openai:show-o-mini@{url}", "--judge", judge, "--limit", str(ITEMS)]
        how = {"cwd": tmp_path, "env": {**os.environ, "GAPBENCH_CACHE": str(cache)}, "stderr": subprocess.DEVNULL}
        first = subprocess.Popen(command, stdout=subprocess.DEVNULL, **how)
        while len(calls(log)) < 12 and first.poll() is None:
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
        before, kept = len(calls(log)), len(list(cache.rglob("*.json")))
        assert 0 < kept <= before
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **how)
        distinct = len({call["sha256"] for call in calls(log)})
        # What was under way when it was killed, and only that, is asked a second time.
        assert len(calls(log)) == distinct + (before - kept)
        again = len(calls(log))
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **how)
        assert len(calls(log)) == again
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["tasks"]["gap-mini"]["metrics"] == local[0]
    everything = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*.json*"))
    assert b"snapshot" in everything
