"""The run folder: what a kill may tear, what item ids may hold, and who may write."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from gapbench.records import InputError, Record
from gapbench.store import RunFolder, write_json


def record(item: str, response: str = "yes", part: str = "", seed: int = 0) -> Record:
    details = {"label": "yes", "found": [[1.5, "a|b"]], "none": None}
    return Record("t", item, f"cluster of {item}", ("object", "count"), seed, response, 1.0, details, part)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_what_is_appended_is_read_back(folder: RunFolder) -> None:
    failed = replace(record("c"), response="", score=0.0, error="no\nimage \u2028 'é'")
    unjudged = replace(record("d", "half a pair: \ud800"), score=None)
    assert folder.records("t") == []
    folder.append("t", [record("a"), record("b")])
    folder.append("t", [failed, unjudged])
    assert folder.records("t") == [record("a"), record("b"), failed, unjudged]
    assert folder.records("other") == []


def test_a_torn_last_line_is_dropped_and_cut_off_before_the_next_append(folder: RunFolder) -> None:
    folder.append("t", [record("a"), record("b", "né")])
    path = folder.path / "records" / "t.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        assert folder.records("t") == [record("a")], cut
    for cut in (0, 1, first, first + 1, len(whole) - 1):
        path.write_bytes(whole[:cut])
        folder.append("t", [record("c")])
        kept = [record("a")] if cut >= first else []
        assert folder.records("t") == [*kept, record("c")], cut
        assert path.read_bytes().count(b"\n") == len(kept) + 1


@pytest.mark.parametrize(
    "line", ["{", "[]", "3", '{"task": "t"}', '{"skills": []}', '{"skills": [], "new": 1}', "\xff"]
)
def test_a_broken_line_in_the_middle_names_file_and_line(folder: RunFolder, line: str) -> None:
    folder.append("t", [record("a")])
    path = folder.path / "records" / "t.jsonl"
    path.write_bytes(path.read_bytes() + line.encode("latin-1") + b"\n")
    folder.append("t", [record("b")])
    with pytest.raises(InputError, match=r"t\.jsonl:2: not a record"):
        folder.records("t")


def test_of_one_key_the_first_counts(folder: RunFolder) -> None:
    folder.append("t", [record("a", "first"), record("a", "later"), record("a", "seed 1", seed=1)])
    folder.append("t", [record("a", "own", part="own")])
    assert [r.response for r in folder.records("t")] == ["first", "seed 1", "own"]


def test_each_process_has_its_file_and_merging_leaves_one(folder: RunFolder) -> None:
    for rank in (0, 1, 10):
        RunFolder(folder.path, rank).append("t", [record(f"item {rank}")])
    RunFolder(folder.path, 0).append("t.x", [record("of a task with a longer name")])
    (folder.path / "records" / "t.1.jsonl").open("a").write('{"task": "t", "ite')
    found = folder.records("t")
    assert sorted(r.item for r in found) == ["item 0", "item 1", "item 10"]
    folder.merge("t")
    assert sorted(p.name for p in (folder.path / "records").iterdir()) == ["t.jsonl", "t.x.0.jsonl"]
    assert folder.records("t") == found
    folder.merge("t")  # nothing to merge, nothing is touched
    assert folder.records("t") == found


def test_a_merge_that_was_killed_halfway_counts_nothing_twice(folder: RunFolder) -> None:
    ranked = RunFolder(folder.path, 1)
    ranked.append("t", [record("a"), record("b")])
    left = (folder.path / "records" / "t.1.jsonl").read_bytes()
    folder.merge("t")
    (folder.path / "records" / "t.1.jsonl").write_bytes(left)
    assert folder.records("t") == [record("a"), record("b")]


AWKWARD = ["a/b c", "../../up", "..", ".", "", "a\\b", "日本", "a%2Fb", "?*:|<>", "-rf", "line\nend", "nul\0"]


def test_drawings_of_any_item_lie_in_their_own_folder_inside_the_run(folder: RunFolder) -> None:
    pictures = {}
    for number, item in enumerate(AWKWARD):
        image = Image.new("RGB", (2, 2), (number, 0, 0))
        relative = folder.save_image("t", item, 3, image)
        path = folder.path / relative
        assert path == folder.image_path("t", item, 3)
        assert path.resolve().parent.parent == (folder.path / "images" / "t").resolve(), item
        pictures[relative] = number
    assert len(pictures) == len(AWKWARD)
    for relative, number in pictures.items():
        with Image.open(folder.path / relative) as image:
            assert image.getpixel((0, 0)) == (number, 0, 0)
    assert not [p for p in folder.path.rglob("*.png*") if p.name != "3.png"]


def test_json_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.json"
    write_json(path, {"b": 1, "a": "é"})
    assert path.read_text(encoding="utf-8") == '{\n "b": 1,\n "a": "é"\n}\n'
    with pytest.raises(TypeError):
        write_json(path, {"b": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": 1, "a": "é"}
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


def test_a_folder_without_a_readable_manifest_is_no_run(folder: RunFolder) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        folder.manifest()
    folder.write_manifest({"status": "running"})
    assert folder.manifest() == {"status": "running"}
    folder.manifest_path.write_text('{"status": ')
    with pytest.raises(InputError, match=r"run\.json: cannot be read"):
        folder.manifest()


HOLD = """
import sys
from pathlib import Path
from gapbench.store import RunFolder
folder = RunFolder(Path(sys.argv[1]))
print(folder.lock(), flush=True)
sys.stdin.read()
"""


def test_one_process_holds_the_folder_until_it_ends(folder: RunFolder) -> None:
    command = [sys.executable, "-c", HOLD, folder.path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "True\n"
        assert not folder.lock()
        holder.kill()
        holder.wait()
    assert folder.lock()
    assert not RunFolder(folder.path).lock()


def test_order_of_appending_does_not_change_what_is_there(folder: RunFolder) -> None:
    records = [record(f"{i}", part=part, seed=seed) for i in range(5) for part in ("", "own") for seed in (0, 1)]
    shuffled = random.Random(0).sample(records, len(records))
    folder.append("t", shuffled)
    assert {r.key: r for r in folder.records("t")} == {r.key: r for r in records}
