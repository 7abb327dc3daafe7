"""A long list inside a JSON document: one pass over the file, and then any entry by itself, without the rest."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gapbench.records import InputError

_CHUNK = 1 << 18  # bytes read at once, and the most that an entry, or what stands before the list, may take
_SPACE = re.compile(r"[ \t\r\n]*")


class Located(NamedTuple):
    """An entry, where in the file it lies (in bytes), and what to call it in messages."""

    entry: Mapping[str, Any]
    start: int
    size: int
    where: str


def scan(path: Path, name: str) -> Iterator[Located]:
    """The entries, JSON objects, of the list `name` of a JSON document, in constant memory.

    Raises InputError naming the file and the entry, by its position from 1, that is broken or no object.
    """
    # Decoded as Latin-1 a character is a byte, so positions are those in the file; JSON's own signs are ASCII, and only
    # the texts of entries that are not need to be decoded again.
    decoder = json.JSONDecoder()
    try:
        with path.open("rb") as file:
            text = file.read(_CHUNK).decode("latin-1")
            head = re.search(rf'"{re.escape(name)}"[ \t\r\n]*:[ \t\r\n]*\[', text)
            if head is None:
                raise InputError(f"{path}: no list {name!r} in it; give the official file")
            base, at, number = 0, head.end(), 0
            while True:
                if len(text) - at < _CHUNK and (chunk := file.read(_CHUNK)):
                    base, text, at = base + at, text[at:] + chunk.decode("latin-1"), 0
                at = _SPACE.match(text, at).end()
                if text.startswith("]", at):
                    return
                number += 1
                where = f"{path}: {name} entry {number}"
                if number > 1:
                    if not text.startswith(",", at):
                        raise InputError(f"{where}: broken JSON, neither , nor ] before it; download it again")
                    at = _SPACE.match(text, at + 1).end()
                try:
                    entry, end = decoder.raw_decode(text, at)
                    if not (span := text[at:end]).isascii():
                        entry = json.loads(span.encode("latin-1").decode("utf-8"))
                except (ValueError, RecursionError) as error:
                    reason = getattr(error, "msg", error)  # without its place, which is one in `text`
                    raise InputError(f"{where}: broken JSON ({reason}); download it again") from error
                if not isinstance(entry, dict):
                    raise InputError(f"{where}: not a JSON object; give the official file")
                yield Located(entry, base + at, end - at, where)
                at = end
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


class JsonList:
    """An index of such a list; entries stay on disk.

    `numbers`, int64 (entries, k), are what `noted` makes of each entry and its name for messages: ids, say, or a hash.
    It may raise InputError. In memory an entry takes 12 + 8 k bytes.
    """

    def __init__(self, path: Path, name: str, noted: Callable[[Mapping[str, Any], str], tuple[int, ...]]) -> None:
        """Raises InputError as `scan` and `noted` do."""
        self.path, self.name, self._noted = path, name, noted
        starts, sizes, numbers, width = array("q"), array("i"), array("q"), 1
        for entry, start, size, where in scan(path, name):
            row = noted(entry, where)
            try:
                numbers.extend(row)
            except OverflowError as error:
                raise InputError(f"{where}: a number of more than 64 bits; give the official file") from error
            starts.append(start)
            sizes.append(size)
            width = len(row)
        self._starts, self._sizes = np.array(starts), np.array(sizes)
        self.numbers = np.array(numbers).reshape(-1, width)

    def __len__(self) -> int:
        return len(self._starts)

    def where(self, position: int) -> str:
        """The entry at a position from 0, for messages."""
        return f"{self.path}: {self.name} entry {position + 1}"

    def entries(self, positions: Iterable[int]) -> Iterator[Mapping[str, Any]]:
        """The entries at these positions, read as they are asked for; may be gone through by several threads.

        Raises InputError where the file has changed meanwhile.
        """
        try:
            with self.path.open("rb") as file:
                for position in positions:
                    file.seek(self._starts[position])
                    entry = self._parsed(file.read(self._sizes[position]))
                    if entry is None or self._noted(entry, self.where(position)) != tuple(self.numbers[position]):
                        raise InputError(f"{self.where(position)}: changed while it was in use; start again")
                    yield entry
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error

    @staticmethod
    def _parsed(data: bytes) -> Mapping[str, Any] | None:
        try:
            entry = json.loads(data.decode("utf-8"))
        except ValueError:
            return None
        return entry if isinstance(entry, dict) else None
