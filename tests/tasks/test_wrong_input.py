"""What can be wrong with data and answers of any understanding benchmark: said in one line, and nothing is dropped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import flickr30k as flickr30k_layout
from layouts import gqa as gqa_layout
from layouts import mme as mme_layout
from layouts import mmmu as mmmu_layout
from layouts import pope as pope_layout
from layouts import vqav2 as vqav2_layout

from gapbench import tasks
from gapbench.data.sources import digest
from gapbench.records import InputError, Item
from gapbench.run import Runner
from gapbench.score import score
from gapbench.store import RunFolder
from gapbench.tasks import flickr30k, gqa, mme, mmmu, pope, vqav2, vqav2_answers
from gapbench.tasks.base import Options, QuestionTask

PICTURES = {"mme": 28}  # two in each subtask
FEW = 5
QUESTIONS, ANNOTATIONS = "v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"
WRITE = {
    "pope": pope_layout.write_own,
    "mme": mme_layout.write_own,
    "flickr30k": flickr30k_layout.write_own,
    "vqav2": vqav2_layout.write_own,
    "gqa": gqa_layout.write_own,
    "mmmu": mmmu_layout.write_parquet,
}
# The file that holds the text of a first question, or a first caption.
TEXTS = {
    "pope": "coco_pope_random.json",
    "mme": "MME_Benchmark_release_version/code_reasoning/0001.txt",
    "flickr30k": flickr30k.TOKEN_FILE,
    "vqav2": QUESTIONS,
    "gqa": gqa.FILE,
}
OWN = {
    "vqav2": ("question_id", "answer"),
    "gqa": ("questionId", "prediction"),
    "flickr30k": ("image_id", "caption"),
}


@pytest.fixture(params=WRITE)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A benchmark's own files with a few pictures, as if there were no more."""
    count = PICTURES.get(name, FEW)
    made = WRITE[name](tmp_path / name, count)
    items = load(name, made).asked
    if name == "pope":
        monkeypatch.setattr(pope, "ROWS", 6 * count)
        rows = sorted(
            (item.truth["split"], int(item.id.split("/")[1]), item.cluster, question(item), item.truth["label"])
            for item in items
        )
        monkeypatch.setattr(pope, "OFFICIAL_ROWS", (digest(rows),))
    elif name == "mme":
        images = Counter(cluster.split("/")[0] for cluster in {item.cluster for item in items})
        for subtask in mme.SUBTASKS:
            monkeypatch.setitem(mme.IMAGES, subtask, images[subtask])
    elif name == "flickr30k":
        monkeypatch.setattr(flickr30k, "IMAGES", count)
    elif name == "vqav2":
        monkeypatch.setitem(vqav2.SPLITS, "val", replace(vqav2.SPLITS["val"], count=len(items)))
        monkeypatch.setitem(vqav2_answers.COUNTS, ANNOTATIONS, len(items))
    elif name == "gqa":
        monkeypatch.setattr(gqa, "QUESTIONS", len(items))
    else:
        monkeypatch.setattr(mmmu, "VALIDATION_IDS", tuple(item.id for item in items))
    return made


def load(name: str, folder: Path, allow_partial: bool = True) -> QuestionTask:
    return tasks.load(name, Options(data=folder, allow_partial=allow_partial))


def items_of(name: str, folder: Path) -> list[Item]:
    return list(load(name, folder).asked)


def question(item: Item) -> str:
    return item.ask.text.split("\n")[0]


# --- Answers ----------------------------------------------------------------------------------------------------------


def answers(name: str, folder: Path) -> list[dict[str, Any]]:
    return [
        {"id": item.id, "response": f"yes {n}\u2028no" if n else "A"} for n, item in enumerate(items_of(name, folder))
    ]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode())
    return path


def test_a_byte_order_mark_line_ends_and_separators_do_not_matter(name, folder, tmp_path) -> None:
    rows = answers(name, folder)
    plain = score(name, lines(tmp_path / "plain.jsonl", rows), folder)
    assert [record.response for record in plain.records] == [row["response"] for row in by_id(rows, plain)]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "marked.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert score(name, tmp_path / "marked.jsonl", folder) == plain
    if name in OWN:
        given, said = OWN[name]
        own = [{given: row["id"], said: row["response"]} for row in rows]
        text = json.dumps(own, ensure_ascii=False, indent=1).replace("\n", "\r\n")
        (tmp_path / "own.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert score(name, tmp_path / "own.json", folder) == plain


def by_id(rows: list[dict[str, Any]], scored: Any) -> list[dict[str, Any]]:
    found = {row["id"]: row for row in rows}
    return [found[record.item] for record in scored.records]


# What is done to the rows, what is said of it, and how many answers are left.
FAULTS: dict[str, tuple[Callable[[list[Any]], list[Any]], str, int]] = {
    "missing": (lambda rows: rows[1:], r"1 missing \({first}\);", -1),
    "duplicate": (lambda rows: [*rows, rows[0]], r"1 duplicate \({first}\);", 0),
    "unknown": (lambda rows: [*rows, {"id": "nobody/0", "response": "no"}], r"1 extra \(nobody/0\);", 0),
    "no id": (
        lambda rows: [{"response": "no"}, *rows[1:]],
        r"1 missing \({first}\), 1 unreadable \(.*a\.jsonl:1: no text to score\)",
        -1,
    ),
    "no response": (
        lambda rows: [{**rows[0], "response": None}, *rows[1:]],
        r"1 missing \({first}\), 1 unreadable \(.*a\.jsonl:1: no text to score\)",
        -1,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_answers_are_named_and_a_part_says_n_of_n(name, folder, tmp_path, fault) -> None:
    rows = answers(name, folder)
    damage, message, lost = FAULTS[fault]
    file = lines(tmp_path / "a.jsonl", damage(rows))
    count = len(rows)
    with pytest.raises(
        InputError, match=f"of {count} expected answers {message.format(first=rows[0]['id'])}"
    ) as caught:
        score(name, file, folder)
    assert "\n" not in str(caught.value)
    scored = score(name, file, folder, allow_partial=True)
    assert (scored.partial, scored.counts["done"], len(scored.records)) == (True, count + lost, count + lost)
    assert scored.notes[-1].startswith(f"partial, {count + lost}/{count}: 1 ")


def test_a_torn_line_is_named(name, folder, tmp_path) -> None:
    rows = answers(name, folder)
    file = lines(tmp_path / "a.jsonl", rows)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(InputError, match=rf"1 missing \({rows[-1]['id']}\), 1 unreadable \(.*:{len(rows)}: not JSON"):
        score(name, file, folder)


# --- Data -------------------------------------------------------------------------------------------------------------


def first_picture(name: str, folder: Path) -> tuple[Item, Path]:
    """An item, and the file of its picture."""
    item = items_of(name, folder)[0]
    *subtask, image = item.cluster.split("/")
    named = (path for path in folder.rglob(f"*{Path(image).stem}*") if path.suffix in (".jpg", ".png"))
    return item, next(path for path in named if set(subtask) <= set(path.parts))


def break_first_picture(name: str, folder: Path) -> Item:
    if name != "mmmu":
        item, path = first_picture(name, folder)
        path.write_bytes(path.read_bytes()[:-300])
        return item
    file = folder / "Accounting" / "validation-00000-of-00001.parquet"
    rows = pq.read_table(file).to_pylist()
    rows[0]["image_1"]["bytes"] = rows[0]["image_1"]["bytes"][:-300]
    pq.write_table(pa.Table.from_pylist(rows), file)
    return items_of(name, folder)[0]


def test_a_picture_that_is_cut_fails_alone_and_counts_as_wrong(name, folder, tmp_path, fake_model) -> None:
    broken = break_first_picture(name, folder)
    task = load(name, folder)
    about = [item.id for item in task.asked if item.cluster == broken.cluster]
    run = RunFolder(tmp_path / "run")
    told = Runner(fake_model(), [task], run, None).run()["tasks"][name]
    assert told["done"] == told["asked"] == len(list(task.asked))
    assert (told["failed"], told["unjudged"]) == (len(about), 0)
    failed = [record for record in run.records(name) if record.error]
    assert sorted(record.item for record in failed) == sorted(about)
    assert {record.score for record in failed} == {0.0}
    for record in failed:
        assert "truncated" in record.error
        assert "\n" not in record.error
    assert told["metrics"]


@pytest.mark.parametrize("name", TEXTS, indirect=True)
def test_a_missing_picture_is_named(name, folder) -> None:
    assert len(list(load(name, folder, allow_partial=False).asked)) == len(items_of(name, folder))
    item, path = first_picture(name, folder)
    whole = len(items_of(name, folder))
    about = sum(other.cluster == item.cluster for other in items_of(name, folder))
    path.unlink()
    with pytest.raises(InputError, match=rf"1 of \d+ images are missing \({path.name}\); add them, or ") as caught:
        load(name, folder, allow_partial=False)
    assert "\n" not in str(caught.value)
    assert len(items_of(name, folder)) == whole - about


@pytest.mark.parametrize("name", TEXTS, indirect=True)
def test_marks_line_ends_and_separators_in_files_do_not_matter(name, folder) -> None:
    before = items_of(name, folder)
    file = folder / TEXTS[name]
    first = next(item for item in before if name != "mme" or item.id.startswith("code_reasoning/0001.png"))
    old = first.truth["references"][0] if name == "flickr30k" else question(first)
    new = f"{old[:4]}\u2028{old[4:]}"
    text = file.read_bytes().decode()
    assert old in text
    file.write_bytes(b"\xef\xbb\xbf" + text.replace(old, new, 1).replace("\r\n", "\n").replace("\n", "\r\n").encode())
    after = items_of(name, folder)
    assert [item.id for item in after] == [item.id for item in before]
    changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert len(changed) == 1
    if name == "flickr30k":
        assert changed[0][1].truth["references"][0] == new
    else:
        assert question(changed[0][1]) == new
