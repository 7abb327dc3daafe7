"""The run folder: everything about one model on some tasks, safe against being killed at any moment.

    RUN/run.json               what was asked, by what, when, how far it got
    RUN/records/TASK.jsonl     one record a line, appended; with several processes TASK.RANK.jsonl each
    RUN/images/TASK/ITEM/SEED.png
    RUN/results.json           metrics; equal bytes for equal records
    RUN/diagnostics.json       the gap per skill

Whole files are written aside and renamed; records are appended, and a last line torn by a kill is dropped on reading.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gapbench.data.drawn import item_folder
from gapbench.records import InputError, Record, RecordKey
from gapbench.responses import MANIFEST, read_manifest

if TYPE_CHECKING:
    from PIL import Image

SCHEMA = 1


def write_json(path: Path, value: Any) -> None:
    """Atomically; dictionaries keep the order in which they were built."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    aside.replace(path)


def _lines(records: Iterable[Record]) -> bytes:
    lines = "".join(json.dumps(dataclasses.asdict(r), ensure_ascii=False) + "\n" for r in records)
    # A server may say half of a surrogate pair, which JSON may hold and UTF-8 may not.
    return lines.encode(errors="backslashreplace")


def _record(path: Path, offset: int, line: bytes) -> Record:
    try:
        fields = json.loads(line)
        return Record(**{**fields, "skills": tuple(fields["skills"])})
    except (ValueError, TypeError, KeyError) as error:
        with path.open("rb") as file:
            number = file.read(offset).count(b"\n") + 1
        raise InputError(f"{path}:{number}: not a record ({error})") from error


class Located(NamedTuple):
    """Where a record lies, and its drawing's path in the run folder if it is one of a drawing."""

    file: Path
    offset: int
    drawing: str | None


class Records(Sequence[Record]):
    """Records on disk in an order of one's own, read as they are gone through: a task's need not fit into memory."""

    def __init__(self, places: Sequence[Located]) -> None:
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Record:
        with ExitStack() as stack:
            return self._read(self._places[number], stack, {})

    def __iter__(self) -> Iterator[Record]:
        files: dict[Path, Any] = {}
        with ExitStack() as stack:
            for place in self._places:
                yield self._read(place, stack, files)

    @staticmethod
    def _read(place: Located, stack: ExitStack, files: dict[Path, Any]) -> Record:
        if place.file not in files:
            files[place.file] = stack.enter_context(place.file.open("rb"))
        files[place.file].seek(place.offset)
        return _record(place.file, place.offset, files[place.file].readline())


class RunFolder:
    """One run on disk. Several processes may append to one folder, each under its own rank."""

    def __init__(self, path: Path, rank: int | None = None) -> None:
        self.path, self.rank = Path(path), rank
        self._lock: Any = None

    # --- the manifest ------------------------------------------------------------------------------------------------

    @property
    def manifest_path(self) -> Path:
        return self.path / MANIFEST

    def manifest(self) -> dict[str, Any]:
        """Raises InputError where the folder holds no readable run."""
        return read_manifest(self.path)

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        write_json(self.manifest_path, manifest)

    def lock(self) -> bool:
        """Whether this process now holds the folder; the kernel lets go when the process ends, however it ends."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            return False
        return True

    def unlock(self) -> None:
        """Let go of the folder before the process ends."""
        if self._lock is not None:
            self._lock.close()

    # --- records -----------------------------------------------------------------------------------------------------

    def _record_paths(self, task: str) -> list[Path]:
        folder = self.path / "records"
        ranked = [p for p in folder.glob(f"{task}.*.jsonl") if p.name.removeprefix(f"{task}.").split(".")[0].isdigit()]
        return [path for path in [folder / f"{task}.jsonl", *sorted(ranked)] if path.exists()]

    def _lines(self, task: str) -> Iterator[tuple[Path, int, bytes]]:
        """File, offset and content of each record's line; what a kill tore behind the last line end is none."""
        for path in self._record_paths(task):
            with path.open("rb") as file:
                offset = 0
                for line in file:
                    if line.endswith(b"\n") and line != b"\n":
                        yield path, offset, line
                    offset += len(line)

    def each_record(self, task: str) -> Iterator[Record]:
        """What is there, one by one; a key that was recorded twice comes twice.

        Raises InputError naming file and line for a line that is no record.
        """
        return (_record(path, offset, line) for path, offset, line in self._lines(task))

    def index(self, task: str) -> dict[RecordKey, Located]:
        """Where each record lies, the first of each key. Raises InputError as `each_record`."""
        found: dict[RecordKey, Located] = {}
        for path, offset, line in self._lines(task):
            record = _record(path, offset, line)
            drawing = record.error is None and record.response.startswith("images/")
            found.setdefault(record.key, Located(path, offset, record.response if drawing else None))
        return found

    def records(self, task: str) -> list[Record]:
        """What is there, each key once (the first counts). Raises InputError as `each_record`."""
        found: dict[RecordKey, Record] = {}
        for record in self.each_record(task):
            found.setdefault(record.key, record)
        return list(found.values())

    def append(self, task: str, records: Iterable[Record]) -> None:
        """Append and flush; a torn line that an earlier process left is cut off first."""
        name = f"{task}.jsonl" if self.rank is None else f"{task}.{self.rank}.jsonl"
        path = self.path / "records" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(max(0, end - 1))
                if file.read(1) != b"\n":
                    file.truncate(path.read_bytes().rfind(b"\n") + 1)
                    file.seek(0, os.SEEK_END)
            file.write(_lines(records))
            file.flush()
            os.fsync(file.fileno())

    def merge(self, task: str) -> None:
        """One file for the task in place of one per process, each record once."""
        ranked = [path for path in self._record_paths(task) if path.name != f"{task}.jsonl"]
        if not ranked:
            return
        seen: set[RecordKey] = set()
        merged = self.path / "records" / f"{task}.jsonl"
        aside = merged.with_name(f".{merged.name}.{os.getpid()}")
        with aside.open("wb") as file:
            for path, offset, line in self._lines(task):
                key = _record(path, offset, line).key
                if key not in seen:
                    file.write(line)
                    seen.add(key)
        aside.replace(merged)
        for path in ranked:
            path.unlink()

    # --- drawings ----------------------------------------------------------------------------------------------------

    def image_path(self, task: str, item: str, seed: int) -> Path:
        """Where a drawing lies."""
        return self.path / "images" / task / item_folder(item) / f"{seed}.png"

    def save_image(self, task: str, item: str, seed: int, image: Image.Image) -> str:
        """Write the drawing; its path relative to the run folder."""
        path = self.image_path(task, item, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        image.save(aside, format="PNG")
        aside.replace(path)
        return path.relative_to(self.path).as_posix()
