"""A run in one file: another machine computes its every number again, and notices whatever was changed."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from gapbench import bundle, recount, tasks
from gapbench.manifest import finish, open_run, request_of
from gapbench.records import Estimate, InputError, Sampling
from gapbench.report import runs
from gapbench.run import Runner, Shard

NAMES = tasks.SUITES["mini"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, fake_model: Any) -> Path:
    """A run of a model that answers by chance, over every task of the miniature."""
    path = tmp_path_factory.mktemp("runs") / "chance"
    chosen = [tasks.load(name) for name in NAMES]
    model = fake_model()
    folder, manifest = open_run(path, "", request_of(model, chosen, Sampling(), 70), Shard())
    finish(folder, manifest, Runner(model, chosen, folder, Sampling(), 70).run(), chosen)
    return path


@pytest.fixture
def run(measured: Path, tmp_path: Path) -> Path:
    """Its own copy."""
    return Path(shutil.copytree(measured, tmp_path / "run"))


def rewritten(file: Path, change: dict[str, bytes | None]) -> Path:
    """The bundle with some of its files replaced or, for None, left out."""
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()} | change
    other = file.with_name("other.zip")
    with zipfile.ZipFile(other, "w") as archive:
        for name, content in contents.items():
            if content is not None:
                archive.writestr(name, content)
    return other


def test_every_number_is_computed_again_from_the_records(measured: Path) -> None:
    run = runs.load(measured)
    for task, told in run.tasks.items():
        again = run.estimates(task)
        assert list(again) == list(told["metrics"]), task
        assert recount.differences(told["metrics"], again) == []


def test_what_goes_in_comes_out(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.zip"
    counted = bundle.pack(run, file)
    assert counted == sum(len(told["metrics"]) for told in runs.load(run).tasks.values())
    with bundle.opened(file) as folder:
        assert folder.name == "run"
        packed = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert {"run.json", "results.json", "diagnostics.json", "references/coco-mini.npz"} < packed
        assert {f"records/{name}.jsonl" for name in NAMES} < packed
        assert not any(name.endswith(".png") for name in packed)
        for name in packed:
            assert (folder / name).read_bytes() == (run / name).read_bytes()
        assert bundle.verify(runs.load(folder)) == counted
    assert not folder.exists()


def test_pictures_on_request(run: Path, tmp_path: Path) -> None:
    bundle.pack(run, tmp_path / "with.zip", pictures=True)
    with bundle.opened(tmp_path / "with.zip") as folder:
        drawn = {path.relative_to(run) for path in run.rglob("*.png")}
        assert drawn
        assert {path.relative_to(folder) for path in folder.rglob("*.png")} == drawn


def test_the_same_run_packs_to_the_same_bytes(run: Path, tmp_path: Path) -> None:
    for name in ("first.zip", "second.zip"):
        bundle.pack(run, tmp_path / name)
    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()


def test_a_record_that_does_not_give_the_results_is_refused(run: Path, tmp_path: Path) -> None:
    file = run / "records" / "pope-mini.jsonl"
    lines = file.read_text().splitlines()
    first = json.loads(lines[0])
    first["details"]["said"] = {"yes": "no", "no": "yes", "other": "no"}[first["details"]["said"]]
    file.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    with pytest.raises(InputError, match="the records of pope-mini do not give its results: pooled/"):
        bundle.pack(run, tmp_path / "run.zip")
    assert not list(tmp_path.glob("*.zip*"))


def test_results_that_were_improved_on_are_refused(run: Path, tmp_path: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    results["tasks"]["geneval-mini"]["metrics"]["overall"]["value"] += 0.01
    (run / "results.json").write_text(json.dumps(results))
    with pytest.raises(InputError, match="the records of geneval-mini do not give its results: overall: value"):
        bundle.pack(run, tmp_path / "run.zip")


def test_a_bundle_that_was_changed_is_refused(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.zip"
    bundle.pack(run, file)
    changed = rewritten(file, {"records/gqa-mini.jsonl": b"{}\n"})
    with (
        pytest.raises(InputError, match=r"other.zip: records/gqa-mini.jsonl is not what was packed"),
        bundle.opened(changed),
    ):
        pass
    for change in ({"records/gqa-mini.jsonl": None}, {"bundle.json": None}, {"bundle.json": b"[]"}):
        damaged = rewritten(file, change)
        with pytest.raises(InputError, match=r"other.zip: no run's bundle, or a damaged one"), bundle.opened(damaged):
            pass


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "records/../../outside", "a\\b", ""])
def test_a_bundle_writes_nowhere_else(tmp_path: Path, name: str) -> None:
    file = tmp_path / "evil.zip"
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # of nothing
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("bundle.json", json.dumps({"schema": 1, "run": "run", "files": {name: digest}}))
        archive.writestr(name or "x", b"")
    with pytest.raises(InputError, match=r"evil.zip: no run's bundle, or a damaged one"), bundle.opened(file):
        pass


def test_no_bundle_at_all(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for file in (tmp_path / "text", tmp_path / "nowhere"):
        with pytest.raises(InputError, match="no run's bundle, or a damaged one"), bundle.opened(file):
            pass


def test_fid_needs_its_reference(run: Path) -> None:
    shutil.rmtree(run / "references")
    with pytest.raises(InputError, match=r"references/coco-mini.npz: no such file; FID cannot be computed again"):
        runs.load(run).estimates("coco-mini")


def test_differences_are_named() -> None:
    told: dict[str, Any] = {"a": {"value": 0.5, "low": 0.25, "high": 0.75, "n": 4, "clusters": 2}}
    assert recount.differences(told, {"a": Estimate(0.5 + 1e-12, 0.25, 0.75, 4, 2)}) == []
    assert recount.differences(told, {}) == []
    assert recount.differences(told, {"a": Estimate(0.5, 0.25, 0.75, 5, 2)}) == [
        "a: n 4 in the results, 5 from the records"
    ]
    assert recount.differences(told, {"b": Estimate(0.5, 0, 1, 4, 2)}) == ["b: 0.5, where the results have none"]
