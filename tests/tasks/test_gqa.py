"""GQA: every golden pair, the official measures, saved answers, and lmms-eval where it is at hand."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import gqa as layout
from layouts.images import write_shards
from score_peers import CASES, lmms_eval

from gapbench.miniature.eye import Eye
from gapbench.records import Failure, InputError, Record
from gapbench.score import score
from gapbench.tasks import gqa
from gapbench.tasks.base import Options


def reference(answer: str, structural: str = "query", semantic: str = "obj", group: str | None = None) -> gqa.Reference:
    return gqa.Reference("1", "What?", answer, structural, semantic, group)


def right(gold: str, response: Any, variant: str = "official") -> bool:
    return gqa.judge_answer(reference(gold), response, variant).score == 1


def test_every_golden_pair(shared) -> None:
    rows = [json.loads(line) for line in (shared / "golden/understanding/gqa_match.jsonl").read_text().splitlines()]
    assert len(rows) == 18
    columns = {"official": "llava_official", "lmms-eval": "lmms_eval", "vlmevalkit": "vlmevalkit"}
    for row in rows:
        assert row.keys() == {"gold", "response", "prismatic_vlm_eval", *columns.values()}  # one rule is not ours
        ours = {column: right(row["gold"], row["response"], variant) for variant, column in columns.items()}
        assert ours == {column: row[column] for column in ours}, row


def test_the_official_script_alone_compares_as_it_stands() -> None:
    assert right("yes", "yes", "official-exact")
    assert not any(right("yes", answer, "official-exact") for answer in ("Yes", "yes.", " yes"))
    assert right("yes", "Yes..\n")
    assert not right("", None)


@given(st.text(max_size=8), st.text(max_size=8))
def test_what_vlmevalkit_accepts_lmms_eval_accepts_too(gold, response) -> None:
    for answer in (response, gold, gold.upper(), f" {gold}\n"):
        assert right(gold, answer, "lmms-eval") or not right(gold, answer, "vlmevalkit")


def test_prompt() -> None:
    assert gqa.prompt("Is it red?") == "Is it red?\nAnswer the question using a single word or phrase."


# --- Metrics ----------------------------------------------------------------------------------------------------------


def record(number: int, answer: str, said: str, structural: str, semantic: str, group: str | None = "g") -> Record:
    judged = gqa.judge_answer(reference(answer, structural, semantic, group), said)
    return Record("gqa", str(number), f"image {number // 2}", (), 0, said, judged.score, judged.details)


RECORDS = [
    record(0, "yes", "yes", "verify", "attr"),
    record(1, "yes", "no", "verify", "rel"),
    record(2, "no", "no", "logical", "attr"),
    record(3, "dog", "Dog.", "query", "obj"),
    record(4, "cat", "dog", "query", "obj", None),
]


def test_averages() -> None:
    found = gqa.metrics(RECORDS)
    assert {name: (estimate.value, estimate.n, estimate.clusters) for name, estimate in found.items()} == {
        "accuracy": (0.6, 5, 3),
        "binary": (2 / 3, 3, 2),
        "open": (0.5, 2, 2),
        "structural/logical": (1, 1, 1),
        "structural/query": (0.5, 2, 2),
        "structural/verify": (0.5, 2, 1),
        "semantic/attr": (1, 2, 2),
        "semantic/obj": (0.5, 2, 2),
        "semantic/rel": (0, 1, 1),
    }
    with pytest.raises(ValueError, match="no GQA records"):
        gqa.metrics([])


def test_distribution_is_the_mean_chi_square_over_groups() -> None:
    # Group g: golds yes 2, no 1, dog 1; said yes 1, no 2, dog 1: chi-square 1/2 + 1/1 + 0. The last has no group.
    assert gqa.distribution(RECORDS) == pytest.approx(1.5 / 100, abs=1e-15)
    second = [record(n, "red", "blue", "query", "attr", "h") for n in range(4)]  # chi-square (0 - 4)^2 / 4 = 4
    assert gqa.distribution(RECORDS + second) == pytest.approx((1.5 * 4 + 4 * 4) / 8 / 100, abs=1e-15)
    with pytest.raises(ValueError, match="no GQA records with a group"):
        gqa.distribution(RECORDS[4:])


# --- Saved answers ----------------------------------------------------------------------------------------------------


def entry(number: int) -> dict[str, Any]:
    return {
        "imageId": f"n{number // 32}",
        "question": f"Is it {number}?",
        "answer": ("yes", "no", "dog")[number % 3],
        "isBalanced": True,
        "groups": {"global": ("", "a", None)[number % 3], "local": "x"},
        "types": {"structural": ("verify", "choose", "query")[number % 3], "semantic": "rel", "detailed": "?"},
    }


ENTRIES = {f"20{number}": entry(number) for number in range(gqa.QUESTIONS)}
PREDICTIONS = [{"questionId": name, "prediction": asked["answer"].title() + "."} for name, asked in ENTRIES.items()]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gqa")
    unbalanced = {"1": {**entry(1), "isBalanced": False}}
    (folder / gqa.FILE).write_text(json.dumps({**unbalanced, **ENTRIES}))
    return folder


def saved(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps(rows))
    return path


def refused(message: str, *arguments, **options) -> None:
    with pytest.raises(InputError, match=message) as caught:
        score("gqa", *arguments, **options)
    assert "\n" not in str(caught.value)


def test_official_predictions_and_rows_with_ids_give_the_same(data, tmp_path) -> None:
    official = score("gqa", saved(tmp_path / "predictions.json", PREDICTIONS), data)
    assert official.metrics["accuracy"].value == 1
    assert (official.metrics["accuracy"].n, official.metrics["accuracy"].clusters) == (12578, 394)
    assert official.notes[0].startswith("data: testdev balanced 12578; rows ")
    assert official.notes[1].startswith("distribution 0.00, lower is better")
    assert official.notes[2:] == (
        "structural: choose 1.0000, query 1.0000, verify 1.0000",
        "semantic: rel 1.0000",
    )
    ours = tmp_path / "ours.jsonl"
    rows = [{"id": row["questionId"], "response": row["prediction"]} for row in PREDICTIONS]
    ours.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert score("gqa", ours, data / gqa.FILE) == official


def test_variants(tmp_path) -> None:
    data = saved(tmp_path / "mine.json", dict(list(ENTRIES.items())[:60]))
    file = saved(tmp_path / "predictions.json", PREDICTIONS[:60])
    values = {variant: score("gqa", file, data, variant).metrics["accuracy"].value for variant in gqa.VARIANTS}
    assert values == {"official": 1, "official-exact": 0, "lmms-eval": 1, "vlmevalkit": 0}


FEW = PREDICTIONS[:60]
FAULTS = {
    "missing": (FEW[1:], r"1 missing \(200\)", 59),
    "extra": ([*FEW, {"questionId": "1", "prediction": "no"}], r"1 extra \(1\)", 60),
    "duplicate": ([*FEW, FEW[3]], r"1 duplicate \(203\)", 60),
    "unreadable": ([{"questionId": "200"}, *FEW[1:]], r"1 unreadable \(.*entry 1: no text to score\)", 59),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_and_refused_unless_partial(tmp_path, fault) -> None:
    rows, message, done = FAULTS[fault]
    data = saved(tmp_path / "mine.json", dict(list(ENTRIES.items())[:60]))
    file = saved(tmp_path / "predictions.json", rows)
    refused(f"of 60 expected answers .*{message}.*--allow-partial", file, data)
    scored = score("gqa", file, data, allow_partial=True)
    assert (scored.partial, scored.counts["done"], scored.metrics["accuracy"].n) == (True, done, done)


def test_wrong_files(data, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("GAPBENCH_DATA", raising=False)
    file = saved(tmp_path / "predictions.json", PREDICTIONS)
    refused("Give --data", file)
    refused("none of the 12578 expected answers", data / gqa.FILE, data)
    refused("not an official GQA question file", file, file)
    twice = tmp_path / "twice.json"
    twice.write_text(f'{{"a7": {json.dumps(entry(0))}, "a7": {json.dumps(entry(1))}}}')
    refused(r"twice\.json: neither JSON nor JSON lines \('a7' is there twice\)", file, twice)
    cut = saved(tmp_path / gqa.FILE, dict(list(ENTRIES.items())[:-1]))
    refused(f"{gqa.FILE}: 12577 balanced questions, the official data have 12578", file, tmp_path)
    cut.write_text(cut.read_text()[:-100])
    refused("neither JSON nor JSON lines", file, tmp_path)
    for change, message in (
        ({"isBalanced": None}, "does not tell if it isBalanced"),
        ({"types": []}, "types.structural is not a text"),
        ({"answer": 3}, "answer is not a text"),
        ({"types": {"structural": "count", "semantic": "obj"}}, "types.structural 'count' is none of verify, query"),
        ({"types": {"structural": "query", "semantic": "thing"}}, "types.semantic 'thing' is none of obj, attr"),
        ({"groups": {"global": ["x"]}}, r"groups.global \['x'\] is not a text"),
    ):
        saved(cut, {"a7": {**entry(0), **change}})
        refused(f"question a7: {message}", file, tmp_path)
    subset = saved(tmp_path / "mine.json", {"a7": entry(0)})
    one = saved(tmp_path / "one.json", [{"questionId": "a7", "prediction": "yes"}])
    assert score("gqa", one, subset).metrics["accuracy"].value == 1


def test_saved_answers_are_scored_with_the_hubs_tables_too(data, tmp_path) -> None:
    rows = [{"id": name} | asked for name, asked in ENTRIES.items()] + [{"id": "1"} | entry(1) | {"isBalanced": False}]
    write_shards(tmp_path / layout.QUESTIONS, "testdev", rows, group=4000)
    file = saved(tmp_path / "predictions.json", PREDICTIONS)
    assert score("gqa", file, tmp_path) == score("gqa", file, data)
    (tmp_path / layout.QUESTIONS / "testdev-00000-of-00002.parquet").unlink()
    refused("testdev-00000-of-00002.parquet: this file is missing", file, tmp_path)


# --- Data -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layouts(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("layouts")
    return {"own": layout.write_own(root / "own"), "hub": layout.write_parquet(root / "hub")}


def real(folder: Path, allow_partial: bool = True):
    return gqa.real(Options(data=folder, allow_partial=allow_partial))


def refused_data(message: str, folder: Path, allow_partial: bool = True) -> None:
    with pytest.raises(InputError, match=message) as caught:
        real(folder, allow_partial)
    assert "\n" not in str(caught.value)


def test_both_layouts_give_the_same_items(layouts) -> None:
    own, hub = map(real, layouts.values())
    assert {item.id: item for item in own.asked} == {item.id: item for item in hub.asked}
    assert own.told == hub.told
    assert own.told["data"].startswith("testdev balanced 120; rows ")
    assert (own.name, len(own.asked), own.whole, own.decoding.max_new_tokens) == ("gqa", 120, 12578, 16)
    first = own.asked[0]
    asked = layout.entries(40)["20000000"]
    assert (first.id, first.cluster) == ("20000000", "n1000")
    assert first.ask.text == asked["question"] + "\nAnswer the question using a single word or phrase."
    assert first.truth == {
        "answer": asked["answer"],
        "structural": asked["types"]["structural"],
        "semantic": asked["types"]["semantic"],
        "group": asked["groups"]["global"],
    }


def test_questions_of_an_image_stand_together_in_the_order_of_the_table_of_images(layouts) -> None:
    own, hub = ([item.cluster for item in real(folder).asked] for folder in layouts.values())
    images = layout.image_ids(40)
    assert own == [image for image in images for _ in range(3)]
    assert hub == [image for image in sorted(images, reverse=True) for _ in range(3)]


@pytest.mark.parametrize("which", ["own", "hub"])
def test_each_question_is_about_its_picture(layouts, which) -> None:
    task = real(layouts[which])
    assert list(task.asked) == list(real(layouts[which]).asked)
    answers = list(Eye().answer([item.ask for item in task.asked], task.decoding))
    assert [judged.score for judged in task.judge(task.asked, answers)] == [1.0] * 120
    failed = task.judge_item(task.asked[0], Failure("out of memory"))
    truth = dict(task.asked[0].truth)
    assert (failed.score, failed.details) == (0.0, {"said": None, "gold": truth.pop("answer"), **truth})


def test_a_byte_order_mark_and_line_ends_do_not_matter(layouts, tmp_path) -> None:
    shutil.copytree(layouts["own"], tmp_path / "gqa")
    text = json.dumps(layout.entries(40), indent=1).replace("\n", "\r\n")
    (tmp_path / "gqa" / gqa.FILE).write_bytes(b"\xef\xbb\xbf" + text.encode())
    changed, own = real(tmp_path), real(layouts["own"])  # DIR/gqa is found in DIR
    assert (list(changed.asked), changed.told) == (list(own.asked), own.told)


def test_missing_images_are_named(layouts, tmp_path) -> None:
    own, hub = tmp_path / "own", tmp_path / "hub"
    shutil.copytree(layouts["own"], own)
    shutil.copytree(layouts["hub"] / layout.QUESTIONS, hub / layout.QUESTIONS)
    (own / "images/n1007.jpg").unlink()
    rows = [row for row in layout.image_rows(40) if row["id"] != "n1007"]
    write_shards(hub / layout.IMAGES, "testdev", rows)
    images = layout.image_ids(40)
    for folder, named in ((own, "n1007.jpg"), (hub, "n1007")):
        with pytest.raises(InputError, match=rf"1 of 40 images are missing \({named}\)"):
            gqa.read_pictures(folder, images)
        partial = real(folder)
        assert (len(partial.asked), partial.whole) == (117, 12578)
        assert "n1007" not in {item.cluster for item in partial.asked}
    assert real(own).told == real(hub).told
    shutil.rmtree(own / "images")
    refused_data(r"40 of 40 images are missing \(n1000.jpg, n1007.jpg, n1014.jpg, \.\.\.\)", own)
    write_shards(hub / layout.IMAGES, "testdev", [{"id": f"other {n}", "image": None} for n in range(2)])
    refused_data("40 of 40 images are missing", hub)
    shutil.rmtree(hub / layout.IMAGES)
    refused_data(r"testdev_balanced_images: no testdev-\*.parquet in it", hub)


@pytest.mark.parametrize("which", ["own", "hub"])
def test_a_broken_image_is_an_os_error_when_opened(layouts, tmp_path, which) -> None:
    shutil.copytree(layouts[which], tmp_path / "gqa")
    if which == "own":
        file = tmp_path / "gqa/images/n1007.jpg"
        file.write_bytes(file.read_bytes()[:700])
    else:
        rows = layout.image_rows(40)
        for row in rows:
            if row["id"] == "n1007":
                row["image"] = {"bytes": row["image"]["bytes"][:700], "path": "n1007.jpg"}
        write_shards(tmp_path / "gqa" / layout.IMAGES, "testdev", rows)
    item = next(item for item in real(tmp_path).asked if item.cluster == "n1007")
    with pytest.raises(OSError, match="truncated"):
        item.ask.pictures[0].open().load()


def test_a_part_of_the_data_is_refused_unless_asked_for(layouts) -> None:
    for folder in layouts.values():
        refused_data(
            "120 balanced questions, the official data have 12578; .*--allow-partial", folder, allow_partial=False
        )


ROWS = {
    "duplicate": ({"id": "20000000"}, "question 20000000: is there twice"),
    "no types": ({"types": None}, "question 20000003: types.structural is not a text"),
    "semantic": (
        {"types": {"detailed": "x", "semantic": None, "structural": "query"}},
        "question 20000003: types.semantic is not a text",
    ),
    "unknown": (
        {"types": {"detailed": "x", "semantic": "obj", "structural": "count"}},
        "question 20000003: types.structural 'count' is none of",
    ),
    "balance": ({"isBalanced": None}, "question 20000003: does not tell if it isBalanced"),
    "image": ({"imageId": None}, "question 20000003: imageId is not a text"),
}


@pytest.mark.parametrize("fault", ROWS)
def test_a_wrong_row_of_the_hubs_table_is_named(tmp_path, fault) -> None:
    change, message = ROWS[fault]
    rows = layout.question_rows(20)
    rows[3] |= change
    write_shards(tmp_path / layout.QUESTIONS, "testdev", rows)
    refused_data(message, tmp_path)


def test_null_groups_and_unbalanced_rows_of_the_hubs_table(layouts, tmp_path) -> None:
    shutil.copytree(layouts["hub"], tmp_path / "gqa")
    rows = layout.question_rows(40)
    rows[3]["groups"] = None
    rows[4]["isBalanced"] = False
    write_shards(tmp_path / "gqa" / layout.QUESTIONS, "testdev", rows)
    items = {item.id: item for item in real(tmp_path).asked}
    assert (len(items), items["20000003"].truth["group"]) == (119, None)
    assert "20000004" not in items


def test_wrong_tables_and_folders(layouts, tmp_path) -> None:
    refused_data(r"testdev_balanced_questions.json: cannot be read", tmp_path)
    shutil.copytree(layouts["hub"], tmp_path / "gqa")
    images = layout.image_rows(40)
    write_shards(tmp_path / "gqa" / layout.IMAGES, "testdev", [*images, images[0]])
    refused_data(f"row 40: image {images[0]['id']} is there twice", tmp_path)
    write_shards(tmp_path / "gqa" / layout.IMAGES, "testdev", [{"name": "n1"}, {"name": "n2"}])
    refused_data("no column 'id'", tmp_path)
    (tmp_path / "gqa" / layout.IMAGES / "testdev-00000-of-00002.parquet").unlink()
    refused_data("testdev-00000-of-00002.parquet: this file is missing", tmp_path)
    for row in (rows := layout.question_rows(40)):
        del row["types"]
    write_shards(tmp_path / "gqa" / layout.QUESTIONS, "testdev", rows)
    refused_data("no column 'types'", tmp_path)
    text = json.dumps(layout.entries(2))
    (tmp_path / gqa.FILE).write_text(text[:-1] + ", " + text[1:])
    with pytest.raises(InputError, match="'20000000' is there twice"):
        gqa.read_questions(tmp_path, allow_partial=True)


def test_the_whole_is_taken_as_it_is(data) -> None:
    (data / "images").mkdir()
    for image in {asked["imageId"] for asked in ENTRIES.values()}:
        (data / "images" / f"{image}.jpg").touch()
    task = real(data, allow_partial=False)
    assert len(task.asked) == task.whole == gqa.QUESTIONS


def test_the_miniature_has_gqas_types() -> None:
    task = gqa.mini(Options())
    assert (task.name, task.whole, len(task.asked)) == ("gqa-mini", 400, 400)
    assert list(task.asked) == list(gqa.mini(Options()).asked)
    answers = list(Eye().answer([item.ask for item in task.asked], task.decoding))
    records = [
        Record(task.name, item.id, item.cluster, item.skills, 0, said, judged.score, judged.details)
        for item, said, judged in zip(task.asked, answers, task.judge(task.asked, answers), strict=True)
    ]
    found = task.metrics(records)
    assert [*found] == [
        "accuracy",
        "binary",
        "open",
        "structural/choose",
        "structural/query",
        "structural/verify",
        "semantic/attr",
        "semantic/obj",
        "semantic/rel",
    ]
    assert {estimate.value for estimate in found.values()} == {1.0}
    assert (found["accuracy"].n, found["accuracy"].clusters) == (400, 80)
    assert min(estimate.n for estimate in found.values()) >= 99


# --- Peers ------------------------------------------------------------------------------------------------------------


@pytest.mark.peer
def test_lmms_eval_scores_alike() -> None:
    peer = lmms_eval("api/metrics.py")
    rng = random.Random(0)
    pieces = 'yes Yes no NO. t-shirt tshirt T-Shirt skate-boarder black "black" dog dogs é ½ ! . \' , … the'.split()
    same = 0
    for _ in range(CASES):
        gold = " ".join(rng.choice(pieces) for _ in range(rng.randrange(1, 3)))
        response = rng.choice(
            (gold, gold.upper(), gold + ".", "".join(rng.choice((*pieces, " ", "\n", "\t")) for _ in range(3)))
        )
        response = rng.choice(("", " ", "\n")) + response + rng.choice(("", " ", "\n", " ."))
        # The harness takes the white space off a response before it scores it.
        theirs = peer.exact_match_hf_evaluate([response.strip()], [gold], ignore_case=True, ignore_punctuation=True)
        assert right(gold, response, "lmms-eval") == bool(theirs["exact_match"]), (gold, response)
        same += right(gold, response, "lmms-eval")
    assert CASES / 10 < same < CASES * 9 / 10
