"""VQAv2: both layouts item for item and in little memory, averages, saved answers and the evaluation server's file."""

from __future__ import annotations

import json
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from layouts import vqav2 as layout
from layouts.images import write_shards

from gapbench.data import sources
from gapbench.records import Decoding, Failure, InputError, Record
from gapbench.run import Runner
from gapbench.score import score
from gapbench.store import RunFolder
from gapbench.tasks import vqav2, vqav2_answers, vqav2_files
from gapbench.tasks.base import Options

TYPES = ("is the", "how many", "what color is the")
ANSWERS = ("yes", "2", "red")


def annotation(number: int, **change: Any) -> dict[str, Any]:
    kind = number % 3
    people = [ANSWERS[kind]] * 7 + ["other"] * 3
    return {
        "question_type": TYPES[kind],
        "multiple_choice_answer": people[0],
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": i} for i, answer in enumerate(people, start=1)
        ],
        "image_id": number // 5,
        "answer_type": vqav2_files.ANSWER_TYPES[kind],
        "question_id": 1000 + number,
    } | change


def annotations(folder: Path, entries: list[Any], name: str = "mine2014") -> Path:
    path = folder / f"v2_mscoco_{name}_annotations.json"
    info = {"description": "made up", "year": 2026}
    path.write_text(json.dumps({"info": info, "data_subtype": name, "annotations": entries, "data_type": "mscoco"}))
    return path


def questions(folder: Path, ids: list[int], name: str = "mine2015") -> Path:
    path = folder / f"v2_OpenEnded_mscoco_{name}_questions.json"
    rows = [{"image_id": id // 5, "question": f"Is it {id}?", "question_id": id} for id in ids]
    path.write_text(json.dumps({"info": {}, "task_type": "Open-Ended", "questions": rows}))
    return path


ENTRIES = [annotation(number) for number in range(30)]
# Every third answer is right in full, every third is the other one (0.9), every third is wrong.
RESULTS = [
    {"question_id": 1000 + number, "answer": (ANSWERS[number % 3], "Other.", "nothing")[number // 3 % 3]}
    for number in range(30)
]


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    annotations(folder, ENTRIES)
    return folder


def saved(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps(rows))
    return path


def refused(message: str, *arguments, **options) -> None:
    with pytest.raises(InputError, match=message) as caught:
        score("vqav2", *arguments, **options)
    assert "\n" not in str(caught.value)


# --- The two layouts --------------------------------------------------------------------------------------------------

QUESTIONS, ANNOTATIONS = "v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"
LAYOUTS = {"own": layout.write_own, "parquet": layout.write_parquet}


def read(folder: Path, split: str = "val", **options: Any) -> vqav2.Annotations:
    return vqav2.read(folder, split, **{"allow_partial": True, **options})


def unreadable(message: str, folder: Path, split: str = "val", **options: Any) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(folder, split, **options)
    assert "\n" not in str(caught.value)


@pytest.fixture
def own(tmp_path) -> Path:
    return layout.write_own(tmp_path / "own", 8)


@pytest.fixture
def parquet(tmp_path) -> Path:
    return layout.write_parquet(tmp_path / "parquet", 8)


@pytest.mark.parametrize("split", ["val", "testdev", "test"])
def test_both_layouts_give_the_same_items_pictures_and_digest(tmp_path, split) -> None:
    own = read(layout.write_own(tmp_path / "own", split=split), split)
    parquet = read(layout.write_parquet(tmp_path / "parquet", split=split), split)
    asked = layout.rows(40)
    assert len(asked) == len(own.items) == len(parquet.items) == 159
    assert own.data == parquet.data
    assert own.data.startswith(f"{split} 159; rows ")
    assert own.whole == parquet.whole == {"val": 214_354, "testdev": 107_394, "test": 447_793}[split]
    items, others = list(own.items), list(parquet.items)
    assert items == others == list(own.items)  # and again
    for item, other, row in zip(items, others, asked, strict=True):
        image = str(42 + 31 * row.image_id)
        assert (item.id, item.cluster) == (str(1000 * int(image) + row.question_id % 1000), image)
        assert item.ask.text == row.text + "\nAnswer the question using a single word or phrase."
        assert (item.ask.id, item.ask.choices) == (item.id, ())
        assert [picture.key for picture in item.ask.pictures] == [f"vqav2/{image}"]
        if split == "val":
            assert item.truth == {"reference": vqav2.Reference(row.question_type, row.answer_type, row.answers)}
        else:
            assert (item.truth, item.skills) == ({}, ("other",))
        assert item.ask.pictures[0].open().tobytes() == other.ask.pictures[0].open().tobytes()
        assert item.ask.pictures[0].open().size == (96, 96)


def test_skills_go_by_the_first_words(own) -> None:
    found = {(item.truth["reference"].question_type, item.skills) for item in read(own).items}
    assert found >= {("how many", ("count",)), ("is there a", ("object",)), ("is the", ("other",))}


def test_the_picture_of_an_image_is_that_of_its_first_row(tmp_path) -> None:
    rows = layout.table(2)
    images = {row["image_id"]: row["image"] for row in reversed(rows)}
    for number, row in enumerate(rows):
        first = number == 0 or rows[number - 1]["image_id"] != row["image_id"]
        row["image"] = images[row["image_id"]] if first else None
    write_shards(tmp_path / "data", "validation", rows)
    for item in read(tmp_path).items:
        assert item.ask.pictures[0].open().size == (96, 96)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_rows_of_an_image_that_stand_apart_are_put_together(tmp_path, kind) -> None:
    straight = read(LAYOUTS[kind](tmp_path / "straight", 8))
    asked = layout.rows(8)
    order = np.random.default_rng(0).permutation(len(asked))
    mixed = LAYOUTS[kind](tmp_path / "mixed", 8)
    if kind == "own":
        layout.write_questions(mixed / QUESTIONS, [layout.question(asked[n]) for n in order])
    else:
        table = layout.table(8)
        write_shards(mixed / "data", "validation", [table[n] for n in order], group=3)
    found = read(mixed)
    assert found.data == straight.data
    items = list(found.items)
    assert sorted(items, key=lambda item: item.id) == sorted(straight.items, key=lambda item: item.id)
    clusters = [item.cluster for item in items]
    firsts = list(dict.fromkeys(str(42 + 31 * asked[n].image_id) for n in order))
    assert [c for n, c in enumerate(clusters) if n == 0 or clusters[n - 1] != c] == firsts
    for item in items:
        same = next(other for other in straight.items if other.id == item.id)
        assert item.ask.pictures[0].open().tobytes() == same.ask.pictures[0].open().tobytes()


def test_annotations_may_stand_in_another_order(own) -> None:
    before = read(own)
    items = list(before.items)
    entries = [layout.annotation(row) for row in layout.rows(8)]
    layout.write_annotations(own / ANNOTATIONS, entries[::-1])
    assert list(read(own).items) == items
    assert read(own).data == before.data
    with pytest.raises(InputError, match="annotations entry 1: changed while it was in use"):
        list(before.items)


def test_the_digest_is_of_questions_and_golds(own) -> None:
    asked = [layout.question(row) for row in layout.rows(8)]
    annotated = [layout.annotation(row) for row in layout.rows(8)]
    digests = {read(own).data}
    for entries, path, key, value in (
        (asked, QUESTIONS, "question", "Why?"),
        (annotated, ANNOTATIONS, "question_type", "why is the"),
        (annotated, ANNOTATIONS, "answer_type", "number"),
        (annotated, ANNOTATIONS, "answers", annotated[0]["answers"]),
    ):
        write = layout.write_questions if path == QUESTIONS else layout.write_annotations
        changed = [*entries[:-1], {**entries[-1], key: value}]
        assert changed != entries
        write(own / path, changed)
        digests.add(read(own).data)
        write(own / path, entries)
    assert len(digests) == 5
    layout.write_annotations(own / ANNOTATIONS, [{**entry, "multiple_choice_answer": "?"} for entry in annotated])
    assert read(own).data in digests


ODD = 'Où est\u2028le café \x85 \U0001f642 "[{]}" ?'


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_any_text_is_read_the_same_from_both(own, parquet, ascii_only, mark) -> None:
    asked = [layout.question(row) for row in layout.rows(8)]
    asked[3]["question"] = ODD
    layout.write_questions(own / QUESTIONS, asked, ensure_ascii=ascii_only, indent=1)
    for path in (own / QUESTIONS, own / ANNOTATIONS):
        path.write_bytes(mark + path.read_bytes())
    table = layout.table(8)
    table[3]["question"] = ODD
    write_shards(parquet / "data", "validation", table, group=7)
    found = read(own)
    assert list(found.items)[3].ask.text == vqav2.prompt(ODD)
    assert list(found.items) == list(read(parquet).items)
    assert found.data == read(parquet).data


# --- Wrong data -------------------------------------------------------------------------------------------------------


def test_fewer_questions_need_allow_partial_and_more_are_never_taken(own, parquet, monkeypatch) -> None:
    count = len(layout.rows(8))
    for folder in (own, parquet):
        unreadable(f"{count} questions, the official data have 214354.*--allow-partial", folder, allow_partial=False)
        assert len(read(folder).items) == count
    monkeypatch.setitem(vqav2.SPLITS, "val", replace(vqav2.SPLITS["val"], count=count))
    for folder in (own, parquet):
        assert (found := read(folder, allow_partial=False)).whole == len(found.items) == count
    monkeypatch.setitem(vqav2.SPLITS, "val", replace(vqav2.SPLITS["val"], count=count - 1))
    for folder in (own, parquet):
        unreadable(f"{count} questions, the official data have {count - 1}; download them again$", folder)


def test_a_missing_image_is_named_or_its_questions_left_out(own, monkeypatch) -> None:
    asked = layout.rows(8)
    monkeypatch.setitem(vqav2.SPLITS, "val", replace(vqav2.SPLITS["val"], count=len(asked)))
    whole = read(own, allow_partial=False)
    name = layout.image_name(asked[0])
    (own / "val2014" / name).unlink()
    unreadable(rf"val2014: 1 of 8 images are missing \({name}\)", own, allow_partial=False)
    part = read(own)
    assert list(part.items) == [item for item in whole.items if item.cluster != "42"]
    assert part.data.startswith(f"val {len(part.items)}; rows ")
    assert part.data.split()[-1] != whole.data.split()[-1]
    assert list(read(own, allow_partial=False, pictures=False).items) == list(whole.items)
    for path in (own / "val2014").iterdir():
        path.unlink()
    unreadable("8 of 8 images are missing", own)


def test_images_may_lie_beside_the_files(own) -> None:
    (own / "val2014").rename(own / "images")
    assert next(iter(read(own).items)).ask.pictures[0].open().size == (96, 96)


def test_a_broken_image_is_no_readers_business(own) -> None:
    (own / "val2014" / layout.image_name(layout.rows(8)[0])).write_bytes(b"torn")
    with pytest.raises(OSError, match="cannot identify"):
        next(iter(read(own).items)).ask.pictures[0].open()


def test_questions_and_annotations_that_do_not_fit_are_named(own) -> None:
    asked, annotated = ([make(row) for row in layout.rows(8)] for make in (layout.question, layout.annotation))
    layout.write_annotations(own / ANNOTATIONS, annotated[:5] + annotated[7:])
    lost = asked[5]["question_id"]
    unreadable(f"{QUESTIONS}: 2 without an annotation in .*{ANNOTATIONS}, the first {lost}; download both", own)
    layout.write_annotations(own / ANNOTATIONS, [])
    unreadable(f"{QUESTIONS}: {len(asked)} without an annotation", own)
    layout.write_annotations(own / ANNOTATIONS, annotated)
    layout.write_questions(own / QUESTIONS, asked[1:])
    unreadable(f"{ANNOTATIONS}: 1 without a question in .*{QUESTIONS}, the first 42000; download both", own)
    layout.write_questions(own / QUESTIONS, [*asked, asked[3]])
    unreadable(f"{QUESTIONS}: questions entry {len(asked) + 1}: question {asked[3]['question_id']} is there twice", own)
    layout.write_questions(own / QUESTIONS, asked)
    layout.write_annotations(own / ANNOTATIONS, [annotated[4], *annotated])
    unreadable(f"{ANNOTATIONS}: annotations entry 6: question {asked[4]['question_id']} is there twice", own)
    layout.write_annotations(own / ANNOTATIONS, [*annotated[:2], {**annotated[2], "image_id": 5}, *annotated[3:]])
    unreadable(f"entry 3: another image than question {asked[2]['question_id']} has in .*{QUESTIONS}", own)
    (own / ANNOTATIONS).unlink()
    unreadable(f"{ANNOTATIONS}: cannot be read", own)
    assert len(read(layout.write_own(own / "testdev", 8, "testdev"), "testdev").items) == len(asked)


def test_wrong_questions_are_named(own) -> None:
    asked = [layout.question(row) for row in layout.rows(8)]
    for change, message in (
        ({"question": None}, "questions entry 2: no text question"),
        ({"image_id": "42"}, "questions entry 2: no numbers question_id and image_id"),
        ({"question_id": True}, "questions entry 2: no numbers question_id and image_id"),
        ({"question_id": 2**70}, "questions entry 2: a number of more than 64 bits"),
    ):
        layout.write_questions(own / QUESTIONS, [asked[0], {**asked[1], **change}, *asked[2:]])
        unreadable(f"{QUESTIONS}: {message}", own)
    layout.write_questions(own / QUESTIONS, [])
    unreadable("no questions in it", own)
    path = layout.write_questions(own / QUESTIONS, asked)
    path.write_text(path.read_text()[:-100])
    unreadable(r"questions entry \d+: broken JSON", own)
    path.unlink()
    unreadable(f"neither data/validation-\\*.parquet nor {QUESTIONS} in this folder", own)


def test_wrong_tables_are_named(tmp_path) -> None:
    table = layout.table(8)
    for change, message in (
        ({"question_id": None}, "row 1: no numbers question_id and image_id"),
        ({"question_id": table[0]["question_id"]}, "row 1: question 42000 is there twice"),
        ({"question": None}, "row 1: no text question"),
        ({"answers": table[0]["answers"][1:]}, "row 1: not 10 answers"),
        ({"answers": None}, "row 1: not 10 answers"),
        ({"answer_type": "maybe"}, "row 1: needs a question_type"),
    ):
        write_shards(tmp_path / "data", "validation", [table[0], {**table[1], **change}, *table[2:]])
        unreadable(rf"data \(2 files\): {message}", tmp_path)
    for column in ("question_id", "question", "answers", "image"):
        write_shards(tmp_path / "data", "validation", [{k: v for k, v in row.items() if k != column} for row in table])
        unreadable(f"no column '{column}'; give the files of the hub's data set", tmp_path)
    assert len(read(tmp_path, pictures=False).items) == len(table)  # the last one lacks the images alone
    schema = pa.Table.from_pylist(table).schema
    for number in range(2):
        pq.write_table(schema.empty_table(), tmp_path / "data" / f"validation-0000{number}-of-00002.parquet")
    unreadable("no questions in it", tmp_path)
    (tmp_path / "data" / "validation-00001-of-00002.parquet").unlink()
    unreadable("validation-00001-of-00002.parquet: this file is missing", tmp_path)


# --- Memory -----------------------------------------------------------------------------------------------------------


def write_many(folder: Path, count: int, split: str, parquet: bool) -> Path:
    """Questions about pictures of no bytes, which nobody opens."""
    folder.mkdir()
    entries = [annotation(number) for number in range(count)]
    asked = [{key: entry[key] for key in ("image_id", "question_id")} | {"question": "Is it?" * 9} for entry in entries]
    if parquet:
        rows = [{**entry, **question, "image": None} for entry, question in zip(entries, asked, strict=True)]
        write_shards(folder / "data", layout.SPLITS[split][2], rows, group=500)
        return folder
    name, images, _ = layout.SPLITS[split]
    layout.write_questions(folder / name, asked)
    if split == "val":
        layout.write_annotations(folder / ANNOTATIONS, entries)
    (folder / images).mkdir()
    for image in range(-(-count // 5)):
        (folder / images / f"COCO_{images}_{image:012d}.jpg").touch()
    return folder


@pytest.mark.parametrize(
    ("split", "parquet", "few", "many"),
    [("testdev", False, 2_000, 20_000), ("val", False, 1_000, 6_000), ("val", True, 1_000, 6_000)],
)
def test_memory_does_not_grow_with_the_questions(tmp_path, split, parquet, few, many) -> None:
    to_read, held, to_go_through = [], [], []
    for count in (few, many):
        folder = write_many(tmp_path / str(count), count, split, parquet)
        tracemalloc.start()
        found = read(folder, split)
        held.append(tracemalloc.get_traced_memory()[0])
        to_read.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.reset_peak()
        arrow, most = pa.total_allocated_bytes(), 0
        for number, item in enumerate(found.items):
            assert item.id == str(1000 + number)
            most = max(most, pa.total_allocated_bytes() - arrow)
        to_go_through.append(tracemalloc.get_traced_memory()[1] - held[-1] + most)
        tracemalloc.stop()
    more = many - few  # questions; as objects one takes some 600 bytes, with its annotation more than 3,000
    assert (held[1] - held[0]) / more < 100
    assert (to_read[1] - to_read[0]) / more < 250
    assert (to_go_through[1] - to_go_through[0]) / more < 60


# --- The tasks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYOUTS)
def test_val_is_run_and_scored(tmp_path, fake_model, kind) -> None:
    folder = LAYOUTS[kind](tmp_path / kind, 8)
    task = vqav2.real(Options(data=folder, allow_partial=True))
    assert (task.name, task.version, task.side, task.whole) == ("vqav2", "1", "understanding", 214_354)
    assert task.decoding == Decoding(max_new_tokens=16)
    assert task.protocol() == {
        "data": read(folder).data,
        "prompt": "{question}\nAnswer the question using a single word or phrase.",
        "scoring": "official-2021",
    }
    run = RunFolder(tmp_path / "run")
    told = Runner(fake_model(), [task], run, None).run()["tasks"]["vqav2"]
    count = len(layout.rows(8))
    assert (told["expected"], told["asked"], told["done"], told["unjudged"]) == (214_354, count, count, 0)
    accuracy = told["metrics"]["accuracy"]
    assert (accuracy["n"], accuracy["clusters"]) == (count, 8)
    answers = {str(layout.question(row)["question_id"]): row.answers for row in layout.rows(8)}
    for record in run.records("vqav2"):
        assert record.score == vqav2.judge_answer(vqav2.Reference("", "", answers[record.item]), record.response).score
    assert next(iter(told["metrics"])) == "accuracy"


def test_a_response_that_was_not_given_is_wrong_with_its_types(own) -> None:
    task = vqav2.real(Options(data=own, allow_partial=True))
    item = next(iter(task.items("", lambda *_: None)))
    reference = item.truth["reference"]
    types = {"question_type": reference.question_type, "answer_type": reference.answer_type}
    assert [(j.score, j.details) for j in task.judge([item], [Failure("no memory")])] == [(0.0, types)]
    assert task.judge([item], [reference.answers[0]])[0].details == types


@pytest.mark.parametrize("split", ["testdev", "test"])
def test_without_golds_nothing_is_scored_and_the_records_make_the_servers_file(
    tmp_path, fake_model, monkeypatch, split
) -> None:
    source = replace(sources.SOURCES["vqav2"], name=f"vqav2-{split}")
    monkeypatch.setitem(sources.SOURCES, source.name, source)
    folder = layout.write_own(tmp_path / split, 8, split)
    make = getattr(vqav2, split)
    task = make(Options(data=folder, allow_partial=True))
    assert (task.name, task.whole) == (f"vqav2-{split}", vqav2.SPLITS[split].count)
    assert task.decoding == Decoding(max_new_tokens=16)
    assert task.protocol()["scoring"] == "evaluation server"
    run = RunFolder(tmp_path / "run")
    told = Runner(fake_model(), [task], run, None).run()["tasks"][task.name]
    asked = [layout.question(row) for row in layout.rows(8)]
    assert (told["done"], told["failed"], told["unjudged"], told["metrics"]) == (len(asked), 0, 0, {})
    records = run.records(task.name)
    assert {(record.score, tuple(record.details)) for record in records} == {(None, ())}
    path = layout.write_questions(tmp_path / "asked.json", asked[::-1])
    to = tmp_path / "server.json"
    assert vqav2_answers.write_submission(run.path / "records" / f"{task.name}.jsonl", path, to).whole
    given = {record.item: record.response.lower() for record in records}
    assert json.loads(to.read_text()) == [
        {"question_id": entry["question_id"], "answer": given[str(entry["question_id"])]} for entry in asked[::-1]
    ]


def test_an_answer_that_the_model_failed_to_give_is_missing_in_the_servers_file(tmp_path) -> None:
    asked = questions(tmp_path, [1, 2])
    path = tmp_path / "records.jsonl"
    rows = [{"item": "1", "response": "Yes", "error": None}, {"item": "2", "response": "", "error": "no memory"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    to = tmp_path / "server.json"
    with pytest.raises(InputError, match=r"1 missing \(2\)"):
        vqav2_answers.write_submission(path, asked, to)
    vqav2_answers.write_submission(path, asked, to, allow_partial=True)
    assert json.loads(to.read_text()) == [{"question_id": 1, "answer": "yes"}, {"question_id": 2, "answer": ""}]


def test_mini() -> None:
    task = vqav2.mini(Options())
    items = list(task.items("", lambda *_: None))
    assert (task.name, task.whole, len(items)) == ("vqav2-mini", 400, 400)
    assert len({item.cluster for item in items}) == 80
    assert items == list(vqav2.mini(Options()).items("", lambda *_: None))
    golds = [max(item.truth["reference"].answers, key=item.truth["reference"].answers.count) for item in items]
    records = [
        Record("vqav2-mini", item.id, item.cluster, item.skills, 0, gold, judged.score, details=judged.details)
        for item, gold, judged in zip(items, golds, task.judge(items, golds), strict=True)
    ]
    found = task.metrics(records)
    assert {name for name in found if name.startswith("answer_type")} == {
        f"answer_type/{name}" for name in vqav2_files.ANSWER_TYPES
    }
    assert 0.99 < found["accuracy"].value < 1
    shouted = task.judge(items, [gold.upper() for gold in golds])
    assert 0.7 < sum(judged.score for judged in shouted) / 400 < 0.8  # where all ten agree, no letter may differ


# --- Wrong annotations ------------------------------------------------------------------------------------------------


def test_wrong_annotations(tmp_path, monkeypatch) -> None:
    responses = saved(tmp_path / "results.json", RESULTS)
    for change, message in (
        ({"question_id": "1000"}, "entry 2: no numbers question_id and image_id"),
        ({"question_id": 1000}, "entry 2: question 1000 is there twice"),
        ({"answers": []}, "entry 2: not 10 answers"),
        ({"answers": [{"answer": 1}] * 10}, "entry 2: not 10 answers"),
        ({"answers": 7}, "entry 2: not 10 answers"),
        ({"answer_type": "yes"}, "entry 2: needs a question_type, and an answer_type of yes/no, number, other"),
    ):
        path = annotations(tmp_path, [ENTRIES[0], annotation(1, **change)])
        refused(f"{path}: annotations {message}", responses, path)
    refused("entry 1: not a JSON object", responses, annotations(tmp_path, [3]))
    refused(": 0 annotations; download", responses, annotations(tmp_path, []))
    refused("no list 'annotations' in it", responses, questions(tmp_path, [1]))
    refused("30 annotations, the official file has 214354", responses, annotations(tmp_path, ENTRIES, "val2014"))
    refused("mine2014_annotations.json and v2_mscoco_val2014_annotations.json; give one", responses, tmp_path)
    path = annotations(tmp_path, ENTRIES)
    path.write_text(path.read_text()[:-200])
    refused(r"annotations entry 30: broken JSON", responses, path)
    path.write_bytes(b"\xff")
    refused("no list 'annotations' in it", responses, path)
    refused("cannot be read", responses, tmp_path / "absent.json")
    monkeypatch.delenv(sources.VARIABLE, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    refused("vqav2: no data here. Give --data DIR", responses)
    (tmp_path / "empty").mkdir()
    refused("the answers of test are not public", responses, tmp_path / "empty")


def test_annotations_are_read_by_question(data) -> None:
    found = vqav2_answers.read_annotations(data / "v2_mscoco_mine2014_annotations.json")
    assert list(found) == [str(1000 + number) for number in range(30)]
    assert found["1007"] == ("1", vqav2.Reference("how many", "number", ("2",) * 7 + ("other",) * 3))


# --- Averages ---------------------------------------------------------------------------------------------------------


def test_averages_rounding_and_variants(data, tmp_path) -> None:
    results = saved(tmp_path / "results.json", RESULTS)
    scored = score("vqav2", results, data)
    found = {name: (estimate.value, estimate.n, estimate.clusters) for name, estimate in scored.metrics.items()}
    # 12 answers agree with seven people (1), 9 with three (0.9), 9 with none.
    assert found["accuracy"] == (pytest.approx((12 + 8.1) / 30), 30, 6)
    assert found["answer_type/number"] == found["question_type/how many"] == (pytest.approx((4 + 2.7) / 10), 10, 6)
    assert list(found)[:4] == ["accuracy", "answer_type/number", "answer_type/other", "answer_type/yes/no"]
    assert scored.notes == (
        "data: v2_mscoco_mine2014_annotations.json, 30 questions",
        "as the official script rounds: accuracy 67.00, yes/no 67.00, number 67.00, other 67.00",
    )
    assert [record.skills for record in scored.records[:3]] == [("other",), ("count",), ("color",)]
    assert vqav2_answers.official_percent(2 / 3) == 66.67
    unanimous = [annotation(number, answers=[{"answer": "yes"}] * 10) for number in range(30)]
    path = annotations(tmp_path, unanimous, "unanimous")
    shouted = saved(tmp_path / "shouted.json", [{**row, "answer": "Yes."} for row in RESULTS])
    values = {variant: score("vqav2", shouted, path, variant).metrics["accuracy"].value for variant in vqav2.VARIANTS}
    assert values == {"official-2021": 0, "official-pre2021": 1, "lmms-eval": 1, "vlmevalkit": 1}


def test_a_failure_is_wrong_and_nothing_has_no_metric() -> None:
    reference = vqav2.Reference("what", "other", ("",) * 10)
    assert vqav2.judge_answer(reference, "").score == 1
    assert vqav2.judge_answer(reference, None).score == 0
    with pytest.raises(ValueError, match="no VQAv2 records"):
        vqav2.metrics([])
    lost = Record("vqav2", "1", "1", (), 0, "", 0.0)
    assert set(vqav2.metrics([lost])) == {"accuracy"}


def test_prompt() -> None:
    assert vqav2.prompt("What?") == "What?\nAnswer the question using a single word or phrase."


# --- Saved answers ----------------------------------------------------------------------------------------------------


def test_every_form_gives_the_same(data, tmp_path) -> None:
    official = score("vqav2", saved(tmp_path / "results.json", RESULTS), data)
    for rows in (
        [{"question_id": str(row["question_id"]), "answer": row["answer"]} for row in RESULTS],
        [{"id": row["question_id"], "response": row["answer"]} for row in RESULTS[::-1]],
    ):
        assert score("vqav2", saved(tmp_path / "others.json", rows), data) == official
    lines = tmp_path / "lines.jsonl"
    lines.write_text(
        "".join(json.dumps({"id": str(row["question_id"]), "response": row["answer"]}) + "\n" for row in RESULTS)
    )
    assert score("vqav2", lines, data) == official


def test_scores_are_the_same_from_either_layout_and_from_records(tmp_path, monkeypatch, fake_model) -> None:
    monkeypatch.setitem(vqav2.SPLITS, "val", replace(vqav2.SPLITS["val"], count=len(layout.rows(8))))
    monkeypatch.setitem(vqav2_answers.COUNTS, ANNOTATIONS, len(layout.rows(8)))
    own, hub = layout.write_own(tmp_path / "own", 8), layout.write_parquet(tmp_path / "everything" / "vqav2", 8)
    run = RunFolder(tmp_path / "run")
    told = Runner(fake_model(), [vqav2.real(Options(data=own))], run, None).run()["tasks"]["vqav2"]
    answers = run.path / "records" / "vqav2.jsonl"
    scored = score("vqav2", answers, own)
    assert scored.notes[0] == f"data: {ANNOTATIONS}, {len(layout.rows(8))} questions"
    assert {name: e.value for name, e in scored.metrics.items()} == {
        name: e["value"] for name, e in told["metrics"].items()
    }
    assert score("vqav2", answers, own / ANNOTATIONS) == scored
    by_table = score("vqav2", answers, hub)
    assert by_table.notes[0] == f"data: validation, {len(layout.rows(8))} questions"
    assert (by_table.metrics, by_table.records) == (scored.metrics, scored.records)
    monkeypatch.setenv(sources.VARIABLE, str(tmp_path / "everything"))
    assert score("vqav2", answers) == by_table
    monkeypatch.setitem(vqav2.SPLITS, "val", replace(vqav2.SPLITS["val"], count=214_354))
    refused("questions, the official data have 214354", answers, hub)


FAULTS = {
    "missing": (RESULTS[1:], r"1 missing \(1000\)", 29),
    "extra": ([*RESULTS, {"question_id": 5, "answer": "no"}], r"1 extra \(5\)", 30),
    "duplicate": ([*RESULTS, RESULTS[3]], r"1 duplicate \(1003\)", 30),
    "unreadable": ([{"question_id": 1000, "answer": 2}, *RESULTS[1:]], r"1 unreadable \(.*entry 1: no text", 29),
    "not a number": ([{"question_id": True, "answer": "2"}, *RESULTS[1:]], r"1 unreadable \(.*entry 1: no text", 29),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_and_refused_unless_partial(data, tmp_path, fault) -> None:
    rows, message, done = FAULTS[fault]
    file = saved(tmp_path / "results.json", rows)
    refused(f"of 30 expected answers .*{message}.*--allow-partial", file, data)
    scored = score("vqav2", file, data, allow_partial=True)
    assert (scored.partial, scored.counts["done"], scored.metrics["accuracy"].n) == (True, done, done)


def test_questions_in_place_of_answers(data) -> None:
    refused("none of the 30 expected answers: 30 missing .* 1 unreadable", questions(data, [1000]), data)


# --- The evaluation server's file -------------------------------------------------------------------------------------


def test_submission_covers_all_questions_in_their_order(tmp_path) -> None:
    dev, test = questions(tmp_path, [3, 1], "dev"), questions(tmp_path, [1, 2, 3, 4], "all")
    answers = saved(tmp_path / "answers.json", [{"id": "1", "response": "The dog's."}, {"id": "3", "response": "Two"}])
    vqav2_answers.write_submission(answers, dev, tmp_path / "dev.json")
    assert json.loads((tmp_path / "dev.json").read_text()) == [
        {"question_id": 3, "answer": "2"},
        {"question_id": 1, "answer": "dog 's"},
    ]
    vqav2_answers.write_submission(answers, dev, tmp_path / "all.json", everything=test)
    assert json.loads((tmp_path / "all.json").read_text()) == [
        {"question_id": 1, "answer": "dog 's"},
        {"question_id": 2, "answer": ""},
        {"question_id": 3, "answer": "2"},
        {"question_id": 4, "answer": ""},
    ]
    with pytest.raises(InputError, match="of 4 expected answers 2 missing"):
        vqav2_answers.write_submission(answers, test, tmp_path / "no.json")
    assert not (tmp_path / "no.json").exists()
    told = vqav2_answers.write_submission(answers, test, tmp_path / "padded.json", allow_partial=True)
    assert (tmp_path / "padded.json").read_bytes() == (tmp_path / "all.json").read_bytes()
    assert told.faults() == "2 missing (2, 4)"
    with pytest.raises(InputError, match="1 of the answered questions are not in it"):
        vqav2_answers.write_submission(
            answers, dev, tmp_path / "no.json", everything=questions(tmp_path, [3, 9], "other")
        )
    with pytest.raises(InputError, match="cannot be written"):
        vqav2_answers.write_submission(answers, dev, tmp_path / "no" / "folder.json")


def test_submission_from_the_hubs_questions(tmp_path, monkeypatch) -> None:
    for split, count in (("testdev", 4), ("test", 8)):
        layout.write_parquet(tmp_path / "hub", count, split)
        monkeypatch.setitem(vqav2.SPLITS, split, replace(vqav2.SPLITS[split], count=len(layout.rows(count))))
    ids = [layout.question(row)["question_id"] for row in layout.rows(8)]
    dev = [layout.question(row)["question_id"] for row in layout.rows(4)]
    answers = saved(tmp_path / "answers.json", [{"id": str(id), "response": "Two"} for id in dev])
    hub, to = tmp_path / "hub", tmp_path / "server.json"
    vqav2_answers.write_submission(answers, hub, to, everything=hub)
    assert json.loads(to.read_text()) == [{"question_id": id, "answer": "2" if id in dev else ""} for id in ids]
    with pytest.raises(InputError, match="no data/testdev-"):
        vqav2_answers.write_submission(answers, tmp_path, to)


# --- Size -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_size_of_val_takes_less_than_a_minute(tmp_path) -> None:
    count = vqav2_answers.COUNTS["v2_mscoco_val2014_annotations.json"]
    path = annotations(tmp_path, [annotation(number) for number in range(count)], "val2014")
    results = saved(
        tmp_path / "results.json", [{"question_id": 1000 + number, "answer": "yes"} for number in range(count)]
    )
    start = time.process_time()
    assert score("vqav2", results, path).metrics["accuracy"].n == count
    assert time.process_time() - start < 60
