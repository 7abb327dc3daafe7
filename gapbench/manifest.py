"""A run's manifest, run.json: what was asked, by what and when, and how an interrupted run is found again."""

from __future__ import annotations

import itertools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gapbench.diagnostics import diagnosable, diagnostics
from gapbench.metrics import frechet
from gapbench.records import InputError, Sampling
from gapbench.recount import reference_path
from gapbench.report.gallery import contact_sheet
from gapbench.run import Shard, fingerprint, protocol_of
from gapbench.store import SCHEMA, RunFolder, write_json
from gapbench.tasks.base import Task
from gapbench.tasks.coco import Coco


def request_of(model: Any, tasks: Sequence[Task], sampling: Sampling, limit: int | None) -> dict[str, Any]:
    """All that decides the numbers of a run: two runs of one request are one run."""
    protocols = {task.name: protocol_of(task) for task in tasks}
    return {
        "model": model.describe(),
        "tasks": {name: {"protocol": p, "fingerprint": fingerprint(p)} for name, p in protocols.items()},
        "limit": limit,
        "sampling": asdict(model.settings(sampling)) if hasattr(model, "settings") else asdict(sampling),
    }


def open_run(to: Path | None, stem: str, request: dict[str, Any], shard: Shard) -> tuple[RunFolder, dict[str, Any]]:
    """The folder to write into: the given one, an interrupted run of the same request, or a new one.

    Of several processes, which all know the folder, the first opens it and the others follow.
    """
    rank = shard.rank if shard.world > 1 else None
    if not shard.leads:
        shard.wait()
        folder = RunFolder(to, rank)
        return folder, folder.manifest()
    folder, manifest = _open(to, stem, request, rank)
    shard.wait()
    return folder, manifest


def _open(to: Path | None, stem: str, request: dict[str, Any], rank: int | None) -> tuple[RunFolder, dict[str, Any]]:
    request = json.loads(json.dumps(request))  # as it will be read back
    candidates = [to] if to is not None else sorted(Path("runs").glob(f"{stem}-*"), reverse=True)
    for path in candidates:
        folder = RunFolder(path, rank)
        if not folder.manifest_path.exists():
            if to is not None and path.exists() and not _is_empty(path):
                raise InputError(f"--out {path}: holds files but no run; give an empty or a new folder")
            continue
        manifest = folder.manifest()
        same = manifest.get("request") == request
        if to is not None and not same:
            raise InputError(f"--out {path}: {_difference(manifest.get('request', {}), request)}; give another folder")
        if same and (to is not None or manifest.get("status") != "complete"):
            if folder.lock():
                return folder, manifest
            if to is not None:
                raise InputError(f"--out {path}: another process is writing this run")
    path = to or _new_folder(f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}")
    folder = RunFolder(path, rank)
    if not folder.lock():
        raise InputError(f"{path}: another process is writing this run")
    manifest = _new_manifest(request)
    folder.write_manifest(manifest)
    return folder, manifest


def _is_empty(path: Path) -> bool:
    """Whether a run may begin here; hidden files are locks and what a kill left half written."""
    return path.is_dir() and all(p.name.startswith(".") for p in path.iterdir())


def _new_folder(name: str) -> Path:
    """runs/NAME, or NAME-2 and so on where runs were started within one second."""
    path = Path("runs") / name
    for number in itertools.count(2):
        if not path.exists():
            break
        path = path.with_name(f"{name}-{number}")
    return path


def _difference(before: Any, now: Any, name: str = "") -> str:
    """The first setting in which two requests differ, as `it holds a run with seed 0, not 1`."""
    if isinstance(before, dict) and isinstance(now, dict):
        if before.keys() != now.keys():
            return f"it holds a run with {name} {', '.join(before)}, not {', '.join(now)}"
        for key in dict.fromkeys((*before, *now)):
            if before.get(key) != now.get(key):
                return _difference(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    return f"it holds a run with {name} {before}, not {now}"


def _new_manifest(request: dict[str, Any]) -> dict[str, Any]:
    here = Path(__file__).parent
    try:
        revision = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    except OSError:  # no git on this machine
        revision = ""
    packages = ("gapbench", "torch", "transformers", "numpy", "pillow", "scipy")
    return {
        "schema": SCHEMA,
        "status": "running",
        "request": request,
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": 0.0,
        "packages": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "git": revision.strip() or None,
    }


def finish(folder: RunFolder, manifest: dict[str, Any], found: dict[str, Any], tasks: Sequence[Task]) -> None:
    """What a finished run leaves beside its results: diagnostics, a contact sheet, and a manifest that says so."""
    if diagnosable(found):
        write_json(folder.path / "diagnostics.json", diagnostics(found, folder.path.resolve().name, folder.records))
    for task in tasks:
        if isinstance(task, Coco):
            frechet.write_npz(reference_path(folder.path, task.name), task.real)
    drawn = [(r, r.details["prompt"]) for t in tasks for r in folder.records(t.name) if "prompt" in r.details]
    if drawn:
        contact_sheet(drawn[:: max(1, len(drawn) // 24)][:24], folder.path).save(folder.path / "drawings.png")
    manifest["counts"] = {n: {k: t[k] for k in ("expected", "asked", "done")} for n, t in found["tasks"].items()}
    manifest["status"] = "complete"
    folder.write_manifest(manifest)
