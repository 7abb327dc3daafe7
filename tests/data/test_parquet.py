"""Parquet tables: shards, rows in batches or anywhere, and pictures that stay on disk until they are opened."""

from __future__ import annotations

import threading
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gapbench.data import parquet
from gapbench.data.parquet import Table, shards
from gapbench.records import InputError

GROUP = 4


def png(number: int) -> bytes:
    file = BytesIO()
    Image.new("L", (2, 2), number).save(file, format="PNG")
    return file.getvalue()


def row(number: int, **change: Any) -> dict[str, Any]:
    image = {"bytes": png(number), "path": f"{number}.png"}
    return {"id": number, "text": f"row {number}", "people": [{"answer": "a"}] * 2, "image": image} | change


def write(path: Path, rows: list[dict[str, Any]], group: int = GROUP) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Rows 0 to 9 and 10 to 15, in groups of 4, 4, 2 and 4, 2."""
    return [
        write(tmp_path / "test-00000-of-00002.parquet", [row(number) for number in range(10)]),
        write(tmp_path / "test-00001-of-00002.parquet", [row(number) for number in range(10, 16)]),
    ]


@pytest.fixture
def groups_read(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How often each row group was read as a whole, by file, group and columns."""
    read, found = pq.ParquetFile.read_row_group, Counter()

    def counted(self: pq.ParquetFile, number: int, columns: list[str], **options: Any) -> pa.Table:
        found[id(self), number, tuple(columns)] += 1
        return read(self, number, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    return found


def pixel(table: Table, number: int) -> int:
    return table.picture(number, str(number)).open().getpixel((0, 0))


# --- Shards -----------------------------------------------------------------------------------------------------------


def empty(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_shards_in_order_from_the_first_folder_that_has_any(tmp_path: Path) -> None:
    assert shards(tmp_path, "test") == []
    names = [f"test-{number:05d}-of-00011.parquet" for number in range(11)]
    empty(tmp_path / "data", *reversed(names), "testdev-00000-of-00001.parquet", "validation.parquet", "test.json")
    assert shards(tmp_path, "test") == [tmp_path / "data" / name for name in names]
    assert shards(tmp_path, "validation") == [tmp_path / "data" / "validation.parquet"]
    assert shards(tmp_path, "testdev") == [tmp_path / "data" / "testdev-00000-of-00001.parquet"]
    empty(tmp_path, "test.parquet")
    assert shards(tmp_path, "test") == [tmp_path / "test.parquet"]
    assert shards(tmp_path, "test", ("elsewhere",)) == []


@pytest.mark.parametrize("lacking", [0, 1, 2])
def test_the_missing_shard_is_named(tmp_path: Path, lacking: int) -> None:
    empty(tmp_path / "data", *(f"test-{number:05d}-of-00003.parquet" for number in range(3) if number != lacking))
    with pytest.raises(InputError, match=rf"/data/test-0000{lacking}-of-00003\.parquet: this file is missing"):
        shards(tmp_path, "test")


def test_shards_with_a_hash_in_their_names_are_counted_too(tmp_path: Path) -> None:
    empty(tmp_path, "test-00000-of-00002-6edccf94719c69a2.parquet")
    with pytest.raises(InputError, match=r"/test-00001-of-00002\.parquet: this file is missing"):
        shards(tmp_path, "test")
    empty(tmp_path, "test-00001-of-00002-0edccf94719c69a2.parquet")
    assert len(shards(tmp_path, "test")) == 2


# --- Rows -------------------------------------------------------------------------------------------------------------


def test_rows_come_in_order_and_of_the_columns_asked_for(files: list[Path], groups_read: Counter) -> None:
    table = Table(files)
    assert len(table) == 16
    assert list(table.rows(("id", "people"))) == [{"id": n, "people": [{"answer": "a"}] * 2} for n in range(16)]
    assert not groups_read  # so no image was
    assert table.has("image")
    assert not table.has("label")
    assert table.name == f"{files[0].parent} (2 files)"
    assert Table(files[:1]).name == str(files[0])


def test_rows_in_any_order(files: list[Path], groups_read: Counter) -> None:
    table = Table(files)
    wanted = np.array([0, 3, 15, 4, 10, 9, 0, 0])
    assert [found["text"] for found in table.take(wanted, ("text",))] == [f"row {number}" for number in wanted]
    assert list(table.take(np.array([], np.int64), ("text",))) == []
    groups_read.clear()
    assert [found["id"] for found in table.take(np.arange(16), ("id",))] == list(range(16))
    assert set(groups_read.values()) == {1}
    assert len(groups_read) == 5
    with pytest.raises(InputError, match=r"00000-of-00002\.parquet: no column 'label'"):
        list(table.take(wanted, ("label",)))


@pytest.mark.parametrize("value", [7, "scene.jpg", True, [1]])
def test_what_is_no_picture_is_an_os_error_when_opened(tmp_path: Path, value: object) -> None:
    table = Table([write(tmp_path / "rows.parquet", [{"image": value}] * 2)])
    with pytest.raises(OSError, match=r"row 1 of .*rows\.parquet has no image"):
        table.picture(1, "key").open()


def test_few_row_groups_are_held_at_a_time(tmp_path: Path) -> None:
    peaks = []
    for count in (3_000, 15_000):
        rows = [{"id": number, "text": "t" * 100} for number in range(count)]
        table = Table([write(tmp_path / f"{count}.parquet", rows, group=100)])
        order = np.arange(count).reshape(2, -1).T.reshape(-1)  # two places at once
        arrow, most = pa.total_allocated_bytes(), 0
        tracemalloc.start()
        for read in (table.take(order, ("text",)), table.rows(("text",))):
            for found in read:
                assert len(found["text"]) == 100
                most = max(most, pa.total_allocated_bytes() - arrow)
        peaks.append(most + tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_a_column_that_one_file_lacks_is_named_with_the_file(tmp_path: Path, files: list[Path]) -> None:
    other = write(tmp_path / "other.parquet", [{"id": 1}])
    table = Table([*files, other])
    assert not table.has("text")
    with pytest.raises(InputError, match=r"other\.parquet: no column 'text'; give the files of the hub"):
        list(table.rows(("id", "text")))


def test_files_that_are_none_are_named(tmp_path: Path, files: list[Path]) -> None:
    data = files[0].read_bytes()
    path = tmp_path / "broken.parquet"
    for broken in (b"", b"PAR1", data[:-100], b"version https://git-lfs.github.com/spec/v1\n"):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"broken\.parquet: not a parquet file") as caught:
            Table([files[1], path])
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"absent\.parquet: not a parquet file"):
        Table([tmp_path / "absent.parquet"])


def test_a_file_that_is_broken_inside_is_named(tmp_path: Path, files: list[Path]) -> None:
    data = bytearray(files[0].read_bytes())
    end = len(data) - int.from_bytes(data[-8:-4], "little") - 8  # where the pages end and the footer begins
    data[4:end] = b"\xff" * (end - 4)
    path = tmp_path / "broken.parquet"
    path.write_bytes(data)
    table = Table([files[1], path])
    for read in (table.rows(("text",)), table.take(np.arange(len(table)), ("text",))):
        with pytest.raises(InputError, match=r"broken\.parquet: broken \(.*; download it again") as caught:
            list(read)
        assert "\n" not in str(caught.value)
    assert pixel(table, 0) == 10
    with pytest.raises(OSError, match=r"broken\.parquet is broken"):
        table.picture(6, "6").open()


# --- Pictures ---------------------------------------------------------------------------------------------------------


def test_pictures_are_read_when_they_are_opened_and_a_row_group_once(files: list[Path], groups_read: Counter) -> None:
    table = Table(files)
    pictures = [table.picture(number, f"key {number}") for number in range(16)]
    assert [picture.key for picture in pictures] == [f"key {number}" for number in range(16)]
    assert not groups_read
    assert [picture.open().getpixel((0, 0)) for picture in pictures] == list(range(16))
    assert len(groups_read) == 5
    assert set(groups_read.values()) == {1}
    assert {columns for _, _, columns in groups_read} == {("image",)}


def test_no_image_and_no_picture_are_os_errors(tmp_path: Path) -> None:
    rows = [
        row(0, image=None),
        row(1, image={"bytes": None, "path": "1.png"}),
        row(2, image={"bytes": b"", "path": "2.png"}),
        row(3, image={"bytes": b"no picture", "path": "3.png"}),
        row(4),
    ]
    table = Table([write(tmp_path / "test.parquet", rows)])
    for number in range(3):
        with pytest.raises(OSError, match=rf"row {number} of .*test\.parquet has no image"):
            pixel(table, number)
    with pytest.raises(OSError, match="cannot identify image"):
        pixel(table, 3)
    assert pixel(table, 4) == 4


def test_pictures_of_another_column_and_of_plain_bytes(tmp_path: Path) -> None:
    table = Table([write(tmp_path / "test.parquet", [{"picture": png(7)}])])
    assert table.picture(0, "0", "picture").open().getpixel((0, 0)) == 7


def test_threads_open_pictures_while_rows_are_gone_through(tmp_path: Path) -> None:
    count = 240
    path = write(tmp_path / "test.parquet", [row(number) for number in range(count)], group=8)
    table, start = Table([path]), threading.Barrier(7, timeout=10)

    def pictures(first: int) -> list[int]:
        start.wait()
        return [pixel(table, (first + number) % count) for number in range(count)]

    def light(wanted: Any) -> list[int]:
        start.wait()
        return [found["id"] for found in wanted]

    with ThreadPoolExecutor(7) as pool:
        seen = [pool.submit(pictures, first) for first in (0, 3, 120)]
        ids = [pool.submit(light, table.rows(("id", "text"))) for _ in range(2)]
        ids += [pool.submit(light, table.take(np.arange(count), ("id", "text"))) for _ in range(2)]
        for first, found in zip((0, 3, 120), seen, strict=True):
            assert found.result() == [(first + number) % count for number in range(count)]
        for found in ids:
            assert found.result() == list(range(count))


def test_memory_of_pictures_is_that_of_few_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table([write(tmp_path / "test.parquet", [row(number) for number in range(40)])])
    for number in range(40):
        pixel(table, number)
        assert len(table._held) <= parquet._GROUPS_HELD
