"""Tables of the hub in parquet: texts by column, row by row, and pictures one at a time."""

from __future__ import annotations

import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapbench.records import InputError, Picture

if TYPE_CHECKING:
    from PIL import Image

_GROUPS_HELD = 2  # row groups whose images are held, encoded: readers go through them in order
_LIGHT_GROUPS_HELD = 16  # row groups whose texts are held where rows are not gone through in order
_ROWS_AT_ONCE = 1024


def shards(folder: Path, split: str, configs: Sequence[str] = ("", "data")) -> list[Path]:
    """The parquet files of a split, SPLIT-00000-of-00003.parquet or SPLIT.parquet, in the first of the sub-folders
    `configs` that has any; none where there are none.

    Raises InputError naming the first shard that is missing.
    """
    for config in configs:
        found = sorted({*(folder / config).glob(f"{split}-*.parquet"), *(folder / config).glob(f"{split}.parquet")})
        if not found:
            continue
        numbered = [re.search(r"-(\d+)-of-(\d+)(?:-[0-9a-f]+)?\.parquet$", path.name) for path in found]
        totals = {int(match[2]) for match in numbered if match}
        if totals:
            have = {int(match[1]) for match in numbered if match}
            lacking = next((number for number in range(max(totals)) if number not in have), None)
            if lacking is not None:
                name = f"{split}-{lacking:05d}-of-{max(totals):05d}.parquet"
                raise InputError(f"{folder / config / name}: this file is missing; download it again")
        return found
    return []


class Table:
    """The rows of several parquet files as one table, numbered from 0; images stay on disk until they are opened."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Raises InputError naming the file that is no parquet file."""
        import pyarrow.parquet as pq

        self._files, self._groups, self._starts = [], [], []
        self._rows = 0
        for path in files:
            try:
                file = pq.ParquetFile(path)
            except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
                raise InputError(f"{path}: not a parquet file ({_one_line(error)})") from error
            self._files.append(path)
            for number in range(file.num_row_groups):
                self._starts.append(self._rows)
                self._groups.append((file, number, path))
                self._rows += file.metadata.row_group(number).num_rows
        self._held: OrderedDict[tuple[int, str], Any] = OrderedDict()
        self._lock = threading.Lock()  # pictures are opened by background threads, and one may go through the rows

    def __len__(self) -> int:
        return self._rows

    @property
    def name(self) -> str:
        """The files, for messages."""
        return str(self._files[0]) if len(self._files) == 1 else f"{self._files[0].parent} ({len(self._files)} files)"

    def has(self, column: str) -> bool:
        return all(column in file.schema_arrow.names for file, _, _ in self._groups)

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """All rows in order, of these columns alone, read in batches.

        Raises InputError naming the file and the column that it lacks, or the file that is broken.
        """
        self._require(columns)
        for file, group, path in self._groups:
            batches = file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=list(columns))
            while True:
                try:
                    with self._lock:
                        batch = next(batches, None)
                except (OSError, ValueError) as error:
                    raise InputError(f"{path}: broken ({_one_line(error)}); download it again") from error
                if batch is None:
                    break
                yield from batch.to_pylist()

    def take(self, rows: Iterable[int], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """These rows, by number, of these columns alone. Fast where those that stand together are asked for together.

        Raises InputError as `rows` does.
        """
        self._require(columns)
        held: OrderedDict[int, Any] = OrderedDict()
        for row in rows:
            number = bisect_right(self._starts, row) - 1
            if number not in held:
                file, group, path = self._groups[number]
                try:
                    with self._lock:
                        held[number] = file.read_row_group(group, columns=list(columns))
                except (OSError, ValueError) as error:
                    raise InputError(f"{path}: broken ({_one_line(error)}); download it again") from error
                if len(held) > _LIGHT_GROUPS_HELD:
                    held.popitem(last=False)
            held.move_to_end(number)
            yield held[number].slice(row - self._starts[number], 1).to_pylist()[0]

    def _require(self, columns: Sequence[str]) -> None:
        for column in columns:
            lacking = next((path for file, _, path in self._groups if column not in file.schema_arrow.names), None)
            if lacking is not None:
                raise InputError(f"{lacking}: no column {column!r}; give the files of the hub's data set")

    def picture(self, row: int, key: str, column: str = "image") -> Picture:
        """The picture of a row, decoded when it is opened; OSError then where it is null or broken."""
        return Picture(key, partial(self._open, row, column))

    def _open(self, row: int, column: str) -> Image.Image:
        from PIL import Image

        value = self._value(row, column)
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes) or not data:
            raise OSError(f"row {row} of {self.name} has no {column}")
        return Image.open(BytesIO(data))

    def _value(self, row: int, column: str) -> Any:
        number = bisect_right(self._starts, row) - 1
        file, group, path = self._groups[number]
        with self._lock:
            if (number, column) not in self._held:
                try:
                    values = file.read_row_group(group, columns=[column]).column(0)
                except (OSError, ValueError) as error:
                    raise OSError(f"{path} is broken: {_one_line(error)}") from error
                self._held[number, column] = values
                while len(self._held) > _GROUPS_HELD:
                    self._held.popitem(last=False)
            self._held.move_to_end((number, column))
            return self._held[number, column][row - self._starts[number]].as_py()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
