"""A run in one file, with all that it takes to compute its numbers again: manifest, records, results, references.

A third party opens it with `gapbench report FILE`, which checks every file's hash and computes every metric from the
records before it shows any. Pictures are left out unless they are asked for; they may be large, or not ours to give.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from gapbench import recount
from gapbench.records import InputError
from gapbench.report import runs
from gapbench.report.runs import Run

CONTENTS = "bundle.json"
SCHEMA = 1
_DATE = (1980, 1, 1, 0, 0, 0)  # the same bytes of the same run, whenever it is packed
_PACKED = ("run.json", "results.json", "diagnostics.json", "records/*.jsonl", "references/*.npz")
_PICTURES = ("drawings.png", "images/**/*.png")


def pack(folder: Path, file: Path, pictures: bool = False) -> int:
    """Write the bundle of a finished run; how many metrics of it a third party can compute again.

    Raises InputError where the run has no results, or its records do not give them.
    """
    run = runs.load(folder)
    counted = verify(run)
    patterns = _PACKED + (_PICTURES if pictures else ())
    names = [path.relative_to(folder) for pattern in patterns for path in sorted(folder.glob(pattern))]
    aside = file.with_name(f".{file.name}.part")
    try:
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
            hashes = {}
            for name in names:
                content = (folder / name).read_bytes()
                hashes[name.as_posix()] = hashlib.sha256(content).hexdigest()
                _add(archive, name.as_posix(), content)
            told: dict[str, Any] = {"schema": SCHEMA, "run": folder.resolve().name, "files": hashes}
            _add(archive, CONTENTS, json.dumps(told, indent=1).encode())
        aside.replace(file)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise InputError(f"--bundle {file}: cannot be written ({error.strerror})") from error
    return counted


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    stored = zipfile.ZipInfo(name, _DATE)
    stored.compress_type = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
    stored.external_attr = 0o644 << 16
    archive.writestr(stored, content)


@contextmanager
def opened(file: Path) -> Iterator[Path]:
    """The bundle's run as a folder, for as long as it is looked at.

    Raises InputError where the file is no bundle, or anything in it is not what was packed.
    """
    with TemporaryDirectory(prefix="gapbench-") as root:
        try:
            with zipfile.ZipFile(file) as archive:
                told = json.loads(archive.read(CONTENTS))
                folder = Path(root) / _plain(str(told["run"]))
                for name, wanted in told["files"].items():
                    content = archive.read(name)
                    if hashlib.sha256(content).hexdigest() != wanted:
                        raise InputError(f"{file}: {name} is not what was packed; ask for the bundle again")
                    path = folder / _plain(name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{file}: no run's bundle, or a damaged one ({error})") from error
        yield folder


def _plain(name: str) -> PurePosixPath:
    """A name that stays within its folder. Raises ValueError for any other."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name:
        raise ValueError(f"it names {name!r}")
    return path


def verify(run: Run) -> int:
    """Compute the run's metrics from its records; how many were, all of them being those of its results.

    Raises InputError naming the first that is another one.
    """
    counted = 0
    for task, told in run.tasks.items():
        again = run.estimates(task)
        if wrong := recount.differences(told["metrics"], again):
            raise InputError(f"{run.folder}: the records of {task} do not give its results: {wrong[0]}")
        counted += len(again)
    return counted
