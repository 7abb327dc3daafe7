"""What the layouts of all benchmarks share: pictures of the miniature world, and tables as the hub has them."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gapbench.miniature.picture import render
from gapbench.miniature.world import Scene, scenes


@cache
def pictures(count: int) -> tuple[Scene, ...]:
    return tuple(scenes("test", count, seed=3))


@cache
def jpeg(scene: Scene) -> bytes:
    file = BytesIO()
    render(scene).save(file, format="JPEG", quality=95)
    return file.getvalue()


def write_shards(folder: Path, split: str, rows: list[dict[str, Any]], shards: int = 2, group: int = 25) -> None:
    """SPLIT-00000-of-00002.parquet and so on, in row groups of `group` rows."""
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(rows) // shards)
    for number in range(shards):
        table = pa.Table.from_pylist(rows[number * size : (number + 1) * size])
        pq.write_table(table, folder / f"{split}-{number:05d}-of-{shards:05d}.parquet", row_group_size=group)
