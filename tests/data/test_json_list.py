"""Long lists in JSON documents: found by one pass, read entry by entry, in memory that does not grow with them."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapbench.data import json_list
from gapbench.data.json_list import JsonList, scan
from gapbench.records import InputError

ENTRIES = [
    {"id": 7, "text": "Is it? [{]},"},
    {"id": -3, "text": "naïve café 日本語 🙂 \u2028 \x85 \xa0"},
    {"id": 2**60, "text": '"rows": [ \\" \\u00e9', "deep": [{"a": [1.5, None, True]}]},
    {},
]


def noted(entry: Mapping[str, Any], where: str) -> tuple[int, ...]:
    return entry.get("id", 0), len(entry.get("text", ""))


def write(path: Path, entries: list[Any] = ENTRIES, encoding: str = "utf-8", **form: Any) -> Path:
    document = {"info": {"rows": "none"}, "rows": entries, "after": ["more"]}
    path.write_bytes(json.dumps(document, **form).encode(encoding))
    return path


def refused(path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        JsonList(path, "rows", noted)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("indent", [None, 1, "\r\n\t"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_entries_by_position_in_any_order(tmp_path: Path, encoding: str, indent: Any, ascii_only: bool) -> None:
    path = write(tmp_path / "list.json", encoding=encoding, indent=indent, ensure_ascii=ascii_only)
    found = JsonList(path, "rows", noted)
    assert len(found) == 4
    assert found.numbers.tolist() == [list(noted(entry, "")) for entry in ENTRIES]
    assert found.numbers.dtype == np.int64
    assert list(found.entries([2, 0, 1, 1, 3])) == [ENTRIES[n] for n in (2, 0, 1, 1, 3)]
    assert list(found.entries(np.array([], np.int64))) == []
    assert found.where(2) == f"{path}: rows entry 3"
    data = path.read_bytes()
    for located, entry in zip(scan(path, "rows"), ENTRIES, strict=True):
        assert json.loads(data[located.start : located.start + located.size]) == located.entry == entry


@pytest.mark.parametrize("chunk", range(100, 131))
def test_where_a_chunk_ends_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    rows = [{"id": number, "text": f"é{'x' * (number % 50)}"} for number in range(60)]
    path = write(tmp_path / "list.json", rows, indent=chunk % 3 or None, ensure_ascii=False)
    monkeypatch.setattr(json_list, "_CHUNK", chunk)
    assert list(JsonList(path, "rows", noted).entries(range(60))) == rows


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=6), st.booleans())
def test_any_objects(tmp_path_factory: pytest.TempPathFactory, entries: list[Any], ascii_only: bool) -> None:
    path = write(tmp_path_factory.mktemp("any") / "list.json", entries, ensure_ascii=ascii_only)
    found = JsonList(path, "rows", lambda entry, where: (len(entry),))
    assert list(found.entries(range(len(entries)))) == entries


def test_an_empty_list(tmp_path: Path) -> None:
    assert len(JsonList(write(tmp_path / "list.json", []), "rows", noted)) == 0


# --- Wrong files ------------------------------------------------------------------------------------------------------


def test_what_is_broken_is_named_with_its_entry(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    for text, message in (
        ('{"rows": [{"id": 1}, {"id": ]}', "rows entry 2: broken JSON .Expecting value.; download it again"),
        ('{"rows": [{"id": 1} {"id": 2}]}', "rows entry 2: broken JSON, neither , nor ]"),
        ('{"rows": [{"id": 1},, {"id": 2}]}', "rows entry 2: broken JSON"),
        ('{"rows": [{"id": 1}, ]}', "rows entry 2: broken JSON"),
        ('{"rows": [{"id": 1}, {"id": 2}', "rows entry 3: broken JSON"),
        ('{"rows": [{"id": 1}, {"id": 2', "rows entry 2: broken JSON"),
        ('{"rows": [', "rows entry 1: broken JSON"),
        ('{"rows": [{"id": 1}, 7]}', "rows entry 2: not a JSON object"),
        ('{"rows": [[]]}', "rows entry 1: not a JSON object"),
        ('{"rows": [{"a": ' + "[" * 100_000, "rows entry 1: broken JSON"),
        ('{"rows": [{"id": 9223372036854775808}]}', "rows entry 1: a number of more than 64 bits"),
        ('{"rows": {"id": 1}}', "no list 'rows' in it"),
        ('{"cows": []}', "no list 'rows' in it"),
        ("", "no list 'rows' in it"),
    ):
        path.write_text(text)
        refused(path, f"{path}: {message}")
    path.write_bytes(b'{"rows": [{"id": 1}, {"text": "\xe9"}]}')
    refused(path, "rows entry 2: broken JSON .'utf-8' codec can't decode byte 0xe9")
    refused(tmp_path / "absent.json", "absent.json: cannot be read .No such file")
    refused(tmp_path, "cannot be read .Is a directory")


def test_an_entry_longer_than_a_chunk_is_refused_not_read(tmp_path: Path) -> None:
    refused(write(tmp_path / "list.json", [{"text": "x" * 3 * json_list._CHUNK}]), "rows entry 1: broken JSON")


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "list.json")
    found = JsonList(path, "rows", noted)
    for changed in ([{"id": 8, "text": "Is it? [{]},"}], [{"a": 1}] * 9, [7] * 50):
        write(path, changed)
        with pytest.raises(InputError, match=r"rows entry \d: changed while it was in use; start again"):
            list(found.entries(range(4)))
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        list(found.entries([0]))


# --- Threads and memory -----------------------------------------------------------------------------------------------


def test_threads_go_through_it_each_for_itself(tmp_path: Path) -> None:
    rows = [{"id": number, "text": "x" * (number % 97)} for number in range(500)]
    found = JsonList(write(tmp_path / "list.json", rows), "rows", noted)
    orders = [np.random.default_rng(seed).permutation(500) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for order, entries in zip(orders, pool.map(lambda o: list(found.entries(o)), orders), strict=True):
            assert entries == [rows[position] for position in order]


def test_an_entry_takes_28_bytes_however_long_it_is(tmp_path: Path) -> None:
    held, peaks = [], []
    for count in (5_000, 20_000):
        path = write(tmp_path / f"{count}.json", [{"id": number, "text": "x" * 300} for number in range(count)])
        tracemalloc.start()
        found = JsonList(path, "rows", noted)
        held.append(tracemalloc.get_traced_memory()[0])
        assert sum(1 for _ in found.entries(range(count))) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert held[1] - held[0] == pytest.approx(28 * 15_000, rel=0.05)
    assert peaks[1] - peaks[0] < 100 * 15_000
