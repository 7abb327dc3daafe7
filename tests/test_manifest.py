"""Which folder a run goes into, what its manifest says, and what it leaves when it is done."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gapbench import tasks
from gapbench.manifest import finish, open_run, request_of
from gapbench.records import InputError, Sampling
from gapbench.run import Runner, Shard
from gapbench.store import RunFolder
from gapbench.tasks.base import Options


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def request_for(fake_model: Any) -> Any:
    def make(
        model: str = "fake",
        names: tuple[str, ...] = ("geneval-mini",),
        seed: int = 0,
        limit: int | None = 2,
        steps: int | None = None,
    ) -> dict[str, Any]:
        chosen = [tasks.load(name, Options(seed)) for name in names]
        return request_of(fake_model(model), chosen, Sampling(steps=steps), limit)

    return make


def opened(request: dict[str, Any], to: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Open a run as a process does that ends at once, and lets go of the folder."""
    folder, manifest = open_run(to, "fake-mini", request, Shard())
    folder._lock.close()
    return folder.path, manifest


def complete(path: Path) -> None:
    folder = RunFolder(path)
    folder.write_manifest({**folder.manifest(), "status": "complete"})


def test_an_interrupted_run_is_found_again(request_for: Any) -> None:
    first, manifest = opened(request_for())
    assert first.parent == Path("runs")
    assert first.name.startswith("fake-mini-")
    assert manifest["status"] == "running"
    again, same = opened(request_for())
    assert (again, same) == (first, manifest)


def test_a_new_folder_once_it_is_complete_or_another_is_asked(request_for: Any) -> None:
    first, _ = opened(request_for())
    other, _ = opened(request_for(limit=3))
    assert other != first  # within one second, too
    complete(first)
    third, _ = opened(request_for())
    assert third not in (first, other)
    assert opened(request_for(limit=3))[0] == other
    assert opened(request_for())[0] == third
    assert len(list(Path("runs").iterdir())) == 3


def test_a_folder_that_another_process_holds_is_left_alone(request_for: Any) -> None:
    held, _ = open_run(None, "fake-mini", request_for(), Shard())
    free, _ = opened(request_for())
    assert free != held.path
    with pytest.raises(InputError, match="another process is writing this run"):
        opened(request_for(), held.path)


def test_a_given_folder_is_taken_new_or_empty_or_with_the_same_run(request_for: Any) -> None:
    empty = Path("empty")
    empty.mkdir()
    (empty / ".run.json.77").write_text("{")  # what a kill left of a manifest
    for path in (empty, Path("deep/and/new")):
        assert opened(request_for(), path)[0] == path
        assert opened(request_for(), path)[0] == path
        complete(path)
        assert opened(request_for(), path)[1]["status"] == "complete"


def test_a_folder_with_other_files_is_refused(request_for: Any) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("years of work")
    for path in (Path("mine"), Path("mine/thesis.tex")):
        with pytest.raises(InputError, match=f"--out {path}: holds files but no run"):
            opened(request_for(), path)
    assert [p.name for p in Path("mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": "other"}, "model.name fake, not other"),
        ({"limit": None}, "limit 2, not None"),
        ({"steps": 3}, "sampling.steps 7, not 3"),
        ({"seed": 5}, "protocol.first_seed 0, not 5"),
        ({"names": ("geneval-mini", "pope-mini")}, "tasks geneval-mini, not geneval-mini, pope-mini"),
    ],
)
def test_a_folder_with_another_run_is_refused_by_what_differs(
    request_for: Any, change: dict[str, Any], named: str
) -> None:
    path, manifest = opened(request_for(), Path("run"))
    with pytest.raises(InputError) as refused:
        opened(request_for(**change), path)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)
    assert RunFolder(path).manifest() == manifest


def test_followers_wait_until_the_first_process_has_opened_the_folder(request_for: Any) -> None:
    path = Path("run")
    met = []

    def first_opens() -> None:
        assert not path.exists()
        met.append(open_run(path, "", request_for(), Shard(0, 2, lambda: met.append("first"))))

    folder, manifest = open_run(path, "", request_for(), Shard(1, 2, first_opens))
    assert met[0] == "first"  # each waits just once, however the folder was found
    assert (folder.rank, manifest) == (1, met[1][1])
    assert met[1][0].rank == 0
    met[1][0]._lock.close()
    waits = []
    for rank in (0, 1):
        open_run(path, "", request_for(), Shard(rank, 2, lambda rank=rank: waits.append(rank)))
    assert waits == [0, 1]


def test_the_manifest_says_what_ran(request_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["gapbench", "run", "--limit", "2"])
    path, _ = opened(request_for(names=("gap-mini", "pope-mini", "geneval-mini"), seed=4, steps=9))
    told = json.loads((path / "run.json").read_text(encoding="utf-8"))
    assert told["schema"] == 1
    assert told["command"] == ["gapbench", "run", "--limit", "2"]
    assert told["started"].endswith("Z")
    assert {"gapbench", "torch", "transformers", "numpy"} <= set(told["packages"])
    assert {"python", "machine", "git", "seconds"} <= set(told)
    asked = told["request"]
    assert len(asked["model"]["weights"]["transformer"]["sha256"]) == 64
    assert asked["limit"] == 2
    assert asked["sampling"] == {"steps": 9, "guidance": 2.0, "temperature": 1.0}
    decoding = {"max_new_tokens": 32, "temperature": 0.0, "top_k": None, "seed": 0}
    assert asked["tasks"]["gap-mini"]["protocol"]["decoding"] == decoding
    assert "decoding" not in asked["tasks"]["geneval-mini"]["protocol"]
    assert asked["tasks"]["gap-mini"]["protocol"]["seeds"] == [4]
    assert asked["tasks"]["geneval-mini"]["protocol"]["first_seed"] == 4
    assert all(len(task["fingerprint"]) == 12 for task in asked["tasks"].values())


def test_a_machine_without_git_can_measure(request_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_git(*args: Any, **kwargs: Any) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    assert opened(request_for())[1]["git"] is None


def test_what_a_finished_run_leaves(fake_model: Any) -> None:
    chosen = [tasks.load(name) for name in ("gap-mini", "pope-mini", "geneval-mini")]
    model = fake_model(fails=lambda ask: ask.id.startswith("00001"))
    sampling = Sampling()
    request = request_of(model, chosen, sampling, 3)
    folder, manifest = open_run(Path("run"), "", request, Shard())
    found = Runner(model, chosen, folder, sampling, 3).run()
    finish(folder, manifest, found, chosen)

    told = folder.manifest()
    assert told["status"] == "complete"
    assert told["counts"]["geneval-mini"] == {"expected": 480, "asked": 12, "done": 12}
    for name, task in found["tasks"].items():
        assert told["request"]["tasks"][name]["fingerprint"] == task["fingerprint"]
    diagnosed = json.loads((folder.path / "diagnostics.json").read_text())
    metrics = found["tasks"]["gap-mini"]["metrics"]
    assert (diagnosed["run"], diagnosed["model"]) == ("run", "fake")
    assert diagnosed["protocol"] == {"homologous": True, **found["tasks"]["gap-mini"]["protocol"]}
    assert diagnosed["overall"] == {m: metrics[m] for m in ("U", "G", "gap", "p11", "p10", "p01", "p00")}
    assert set(diagnosed["overall"]["U"]) == {"value", "low", "high", "n", "clusters"}
    assert diagnosed["skills"]["count"]["p10"] == metrics["count/p10"]
    assert set(diagnosed["tasks"]) == {"pope-mini", "geneval-mini"}
    with Image.open(folder.path / "drawings.png") as sheet:
        sheet.load()


def test_a_run_that_tells_no_skill_leaves_no_diagnostics(fake_model: Any) -> None:
    chosen = [tasks.load("flickr30k-mini")]
    request = request_of(fake_model(), chosen, Sampling(), 2)
    folder, manifest = open_run(Path("run"), "", request, Shard())
    finish(folder, manifest, Runner(fake_model(), chosen, folder, Sampling(), 2).run(), chosen)
    assert folder.manifest()["status"] == "complete"
    assert not (folder.path / "diagnostics.json").exists()
    assert not (folder.path / "drawings.png").exists()
