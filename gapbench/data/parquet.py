"""Tables of the hub in parquet: texts by column, row by row, and pictures one at a time."""

from __future__ import annotations

import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapbench.records import InputError, Picture

if TYPE_CHECKING:
    from PIL import Image

_GROUPS_HELD = 2  # row groups whose images are held, encoded: readers go through them in order
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
        numbered = [re.search(r"-(\d+)-of-(\d+)\.parquet$", path.name) for path in found]
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
                raise InputError(f"{path}: not a parquet file ({error})") from error
            self._files.append(path)
            for number in range(file.num_row_groups):
                self._starts.append(self._rows)
                self._groups.append((file, number, path))
                self._rows += file.metadata.row_group(number).num_rows
        self._held: OrderedDict[tuple[int, str], list[Any]] = OrderedDict()
        self._lock = threading.Lock()  # pictures are opened by background threads

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
        for file, group, path in self._groups:
            lacking = next((column for column in columns if column not in file.schema_arrow.names), None)
            if lacking is not None:
                raise InputError(f"{path}: no column {lacking!r}; give the files of the hub's data set")
            try:
                for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=list(columns)):
                    yield from batch.to_pylist()
            except (OSError, ValueError) as error:
                raise InputError(f"{path}: broken ({error}); download it again") from error

    def picture(self, row: int, key: str, column: str = "image") -> Picture:
        """The picture of a row, decoded when it is opened; OSError then where it is null or broken."""
        return Picture(key, partial(self._open, row, column))

    def _open(self, row: int, column: str) -> Image.Image:
        from PIL import Image

        value = self._value(row, column)
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise OSError(f"row {row} of {self.name} has no {column}")
        return Image.open(BytesIO(data))

    def _value(self, row: int, column: str) -> Any:
        number = bisect_right(self._starts, row) - 1
        file, group, path = self._groups[number]
        with self._lock:
            if (number, column) not in self._held:
                try:
                    values = file.read_row_group(group, columns=[column]).column(0).to_pylist()
                except (OSError, ValueError) as error:
                    raise OSError(f"{path} is broken: {error}") from error
                self._held[number, column] = values
                while len(self._held) > _GROUPS_HELD:
                    self._held.popitem(last=False)
            self._held.move_to_end((number, column))
            return self._held[number, column][row - self._starts[number]]
