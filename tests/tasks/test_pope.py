"""POPE against its official script, lmms-eval and VLMEvalKit: every golden answer, every golden number."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import pope as layout
from layouts.images import write_shards
from score_peers import CASES, lmms_eval

from gapbench.data.pictures import present
from gapbench.records import InputError, Record
from gapbench.tasks import pope
from gapbench.tasks.base import Options


def record(number: int, label: str, said: str | None, split: str = "random") -> Record:
    details = {"label": label, "split": split} | ({} if said is None else {"said": said})
    image = f"image {number // 6}"
    return Record("pope", f"{split}/{number}", image, ("object",), 0, str(said), float(said == label), details)


def read(folder: Path) -> pope.Annotations:
    return pope.read(folder, pictures=False)


def annotation_lines(rows: int = pope.ROWS) -> list[str]:
    return [
        json.dumps(
            {"question_id": n, "image": f"{n // 6}.jpg", "text": f"Is there a {n}?", "label": ["yes", "no"][n % 2]}
        )
        for n in range(1, rows + 1)
    ]


def folder_with(tmp_path: Path, lines: list[str], split: str = "random", end: str = "\n") -> Path:
    (tmp_path / f"coco_pope_{split}.json").write_bytes(end.join([*lines, ""]).encode())
    return tmp_path


# --- Golden -----------------------------------------------------------------------------------------------------------


def test_every_golden_answer_is_read_as_by_each_toolkit(shared) -> None:
    rows = [json.loads(line) for line in (shared / "golden/understanding/yesno_parse.jsonl").read_text().splitlines()]
    assert len(rows) == 40
    for row in rows:
        exact = row["pope_lmms_eval_pred"]
        expected = {
            "official": row["pope_official"],
            "lmms-eval": exact if exact in ("yes", "no") else "other",
            "vlmevalkit": {"Yes": "yes", "No": "no", "Unknown": "other"}[row["vlmevalkit_yorn"]],
        }
        assert {variant: pope.parse(row["response"], variant) for variant in pope.VARIANTS} == expected, row


@pytest.fixture(scope="module")
def golden(shared) -> dict:
    return json.loads((shared / "golden/understanding/pope_expected.json").read_text())


@pytest.fixture(scope="module")
def values(shared) -> dict[str, dict[str, float]]:
    """Metric values by variant of the golden answers to the real questions."""
    items = read(shared / "data/understanding/pope").items
    answers = [
        answer
        for split in pope.SPLITS
        for answer in json.loads((shared / f"golden/understanding/pope_predictions_{split}.json").read_text())
    ]
    result = {}
    for variant in pope.VARIANTS:
        records = []
        for item, answer in zip(items, answers, strict=True):
            judgement = pope.judge_answer(item.truth["label"], answer, variant)
            details = {**judgement.details, "split": item.truth["split"]}
            records.append(Record("pope", item.id, item.cluster, item.skills, 0, answer, judgement.score, details))
        estimates = pope.metrics(records, variant)
        assert all(e.low <= e.value <= e.high and e.clusters == 500 for e in estimates.values())
        assert {name: e.n for name, e in estimates.items() if name.endswith("/f1")} == {
            "pooled/f1": 9000,
            "random/f1": 3000,
            "popular/f1": 3000,
            "adversarial/f1": 3000,
            "mean_of_three/f1": 9000,
        }
        result[variant] = {name: e.value for name, e in estimates.items()}
    return result


OFFICIAL_NAMES = dict(
    zip(pope.MEASURES, ("Accuracy", "Precision", "Recall", "F1 score", "Yes ratio"), strict=True),
)
LMMS_NAMES = dict(zip(pope.MEASURES, ("accuracy", "precision", "recall", "f1_score", "yes_ratio"), strict=True))


@pytest.mark.parametrize("group", ["random", "popular", "adversarial", "pooled"])
@pytest.mark.parametrize("measure", pope.MEASURES)
def test_golden_numbers_per_split_and_pooled(golden, values, group, measure) -> None:
    expected = golden["pooled_9000" if group == "pooled" else group]
    assert values["official"][f"{group}/{measure}"] == expected["official"][OFFICIAL_NAMES[measure]]
    assert values["lmms-eval"][f"{group}/{measure}"] == expected["lmms_eval"][LMMS_NAMES[measure]]


def test_golden_answers_are_those_that_were_scored_and_make_the_official_table(shared, golden) -> None:
    items = read(shared / "data/understanding/pope").items
    tables = {}
    for split in pope.SPLITS:
        answers = json.loads((shared / f"golden/understanding/pope_predictions_{split}.json").read_text())
        assert hashlib.sha256("\n".join(answers).encode()).hexdigest() == golden[split]["predictions_sha256"]
        asked = [item for item in items if item.truth["split"] == split]
        said = [pope.judge_item(item, text).details for item, text in zip(asked, answers, strict=True)]
        tables[split] = Counter((one["said"], one["label"]) for one in said)
    tables["pooled_9000"] = sum(tables.values(), Counter())
    cells = {"TP": ("yes", "yes"), "FP": ("yes", "no"), "TN": ("no", "no"), "FN": ("no", "yes")}
    for group, table in tables.items():
        assert {name: table[cell] for name, cell in cells.items()} == {
            name: golden[group]["official"][name] for name in cells
        }


@pytest.mark.parametrize("measure", pope.MEASURES)
def test_golden_mean_of_three(golden, values, measure) -> None:
    expected = golden["mean_of_three"][OFFICIAL_NAMES[measure]]
    assert values["official"][f"mean_of_three/{measure}"] == pytest.approx(expected, abs=1e-15)


def test_golden_vlmevalkit_exact_matching(golden, values) -> None:
    expected = golden["pooled_9000"]["vlmevalkit_exact_matching"]
    names = {"f1": "Overall", "accuracy": "acc", "precision": "precision", "recall": "recall"}
    for ours, theirs in names.items():
        assert 100 * values["vlmevalkit"][f"pooled/{ours}"] == expected[theirs]


def test_headline_is_pooled_accuracy(values) -> None:
    assert next(iter(values["official"])) == "pooled/accuracy"


# --- Metrics ----------------------------------------------------------------------------------------------------------


def test_a_subset_of_the_splits_has_no_mean_of_three() -> None:
    estimates = pope.metrics([record(1, "yes", "yes", "popular"), record(2, "no", "yes", "popular")])
    assert {name.partition("/")[0] for name in estimates} == {"pooled", "popular"}


def test_f1_without_a_true_positive_is_zero() -> None:
    estimates = pope.metrics([record(1, "yes", "no"), record(2, "no", "no")])
    assert estimates["pooled/f1"].value == 0.0
    assert estimates["pooled/accuracy"].value == 0.5


def test_an_answer_that_the_model_failed_to_give_is_wrong_and_no_yes() -> None:
    right = [record(1, "yes", "yes"), record(2, "no", "no")]
    failed = replace(record(3, "yes", None), error="out of memory")
    lost = replace(failed, details={})
    values = {name: e.value for name, e in pope.metrics([*right, failed]).items()}
    assert (values["pooled/accuracy"], values["pooled/recall"], values["pooled/yes_ratio"]) == (2 / 3, 1 / 2, 1 / 3)
    assert pope.metrics([*right, lost])["random/accuracy"].value == 2 / 3


def test_an_unjudged_answer_counts_on_no_side() -> None:
    records = [record(1, "yes", "yes"), replace(record(2, "no", "yes"), score=None)]
    assert pope.metrics(records)["pooled/accuracy"].value == 1.0
    with pytest.raises(ValueError, match="no POPE records"):
        pope.metrics(records[1:])


@given(st.data())
def test_order_of_records_does_not_matter(data) -> None:
    answer = st.tuples(st.sampled_from(["yes", "no"]), st.sampled_from(["yes", "no", "other"]))
    answers = data.draw(st.lists(st.tuples(st.sampled_from(pope.SPLITS), answer), min_size=1, max_size=20))
    records = [record(n, label, said, split) for n, (split, (label, said)) in enumerate(answers)]
    shuffled = data.draw(st.permutations(records))
    for variant in pope.VARIANTS:
        assert pope.metrics(records, variant) == pope.metrics(shuffled, variant)


@given(st.text())
def test_any_text_is_read(text) -> None:
    assert pope.parse(text, "official") in ("yes", "no")
    assert {pope.parse(text, variant) for variant in pope.VARIANTS} <= {"yes", "no", "other"}


# --- Data -------------------------------------------------------------------------------------------------------------


def test_prompt() -> None:
    assert pope.prompt("Is there a dog in the image?") == (
        "Is there a dog in the image?\nAnswer the question using a single word or phrase."
    )


def test_official_files(shared) -> None:
    annotations = read(shared / "data/understanding/pope")
    assert annotations.data == f"random 3000, popular 3000, adversarial 3000; rows {pope.OFFICIAL_ROWS[0]}"
    assert len({item.id for item in annotations.items}) == 9000
    assert len({item.cluster for item in annotations.items}) == 500
    first = annotations.items[0]
    assert (first.id, first.cluster, first.skills) == ("random/1", "COCO_val2014_000000310196", ("object",))
    assert first.ask.text.startswith("Is there a snowboard in the image?\n")
    assert first.ask.pictures[0].key == first.cluster
    assert first.truth == {"label": "yes", "split": "random"}


def test_the_old_random_file_is_named(shared, tmp_path) -> None:
    old = shared / "data/understanding/pope/coco_pope_random_2910_e3e3926.json"
    (tmp_path / "coco_pope_random.json").write_bytes(old.read_bytes())
    annotations = read(tmp_path)
    assert annotations.data.startswith("random 2910 (e3e3926); rows ")
    assert len(annotations.items) == 2910


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_and_a_byte_order_mark_do_not_matter(tmp_path, end, mark) -> None:
    first, *others = annotation_lines()
    assert len(read(folder_with(tmp_path, [mark + first, *others], end=end)).items) == 3000


def test_a_picture_that_is_not_there_is_an_os_error_when_opened(tmp_path) -> None:
    item = read(folder_with(tmp_path, annotation_lines())).items[0]
    with pytest.raises(OSError, match=r"0\.jpg"):
        item.ask.pictures[0].open()


BROKEN = {
    "truncated line": (lambda lines: [*lines[:-1], lines[-1][:20]], r"coco_pope_random\.json:3000: not JSON"),
    "row missing inside": (lambda lines: lines[:9] + lines[10:], r"random\.json:10: question_id 11 where 10 is due"),
    "row there twice": (lambda lines: [*lines, lines[4]], r"json:3001: question_id 5 where 3001 is due; .* twice"),
    "rows missing at the end": (
        lambda lines: lines[:-7],
        r"2993 questions, the .* 3000; .*--allow-partial",
    ),
    "label": (
        lambda lines: [lines[0].replace('"no"', '"maybe"'), *lines[1:]],
        r":1: label 'maybe' is neither yes nor no",
    ),
    "not an object": (lambda lines: [lines[0], "7", *lines[2:]], r":2: not a POPE question"),
    "no text": (lambda lines: [lines[0].replace('"text"', '"txt"'), *lines[1:]], r":1: not a POPE question"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_wrong_file_is_named_with_its_line(tmp_path, fault) -> None:
    damage, message = BROKEN[fault]
    with pytest.raises(InputError, match=message) as caught:
        read(folder_with(tmp_path, damage(annotation_lines())))
    assert "\n" not in str(caught.value)


def test_only_the_random_split_may_be_old(tmp_path) -> None:
    with pytest.raises(InputError, match="2910 questions"):
        read(folder_with(tmp_path, annotation_lines(2910), split="popular"))


@pytest.fixture(scope="module")
def layouts(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pope")
    return {"own": layout.write_own(root / "own"), "hub": layout.write_parquet(root / "hub")}


def test_both_layouts_give_the_same_items(layouts) -> None:
    own, hub = (pope.read(folder, allow_partial=True) for folder in layouts.values())
    assert own == hub
    assert (len(own.items), own.whole) == (720, 9000)
    for item in (own.items[0], hub.items[-1]):
        assert item.ask.pictures[0].open().size == (96, 96)


def test_a_part_of_the_data_is_refused_unless_asked_for(layouts) -> None:
    for folder, message in zip(layouts.values(), ("json: 240 questions, the .* 3000", "720 questions"), strict=True):
        with pytest.raises(InputError, match=f"{message}.*--allow-partial"):
            pope.real(Options(data=folder))
        task = pope.real(Options(data=folder, allow_partial=True))
        assert (task.name, task.whole, len(task.asked)) == ("pope", 9000, 720)
        pictures = [item.cluster for item in task.asked]
        assert pictures == sorted(pictures)  # by picture, all splits together


def test_missing_images_are_named(layouts, tmp_path) -> None:
    folder = tmp_path / "pope"
    shutil.copytree(layouts["own"], folder)
    for number in (7, 9):
        (folder / "val2014" / f"COCO_val2014_{number:012d}.jpg").unlink()
    (folder / "coco_pope_adversarial.json").unlink()
    named = r"2 of 40 images are missing \(COCO_val2014_000000000007.jpg, COCO_val2014_000000000009.jpg\)"
    with pytest.raises(InputError, match=named):
        present(folder / "val2014", (f"COCO_val2014_{n:012d}.jpg" for n in range(1, 41)), allow_partial=False)
    annotations = pope.read(folder, allow_partial=True)
    assert (len(annotations.items), annotations.whole) == (2 * 6 * 38, 9000)
    shutil.rmtree(folder / "val2014")
    with pytest.raises(InputError, match="40 of 40 images are missing"):
        pope.read(folder, allow_partial=True)


def test_other_questions_of_the_right_number_are_refused(tmp_path) -> None:
    for split in pope.SPLITS:
        folder_with(tmp_path, annotation_lines(), split=split)
    with pytest.raises(InputError, match="not the official questions"):
        pope.read(tmp_path)
    (tmp_path / "coco_pope_popular.json").unlink()
    with pytest.raises(InputError, match=r"coco_pope_popular\.json: no such file"):
        pope.read(tmp_path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("category", "common", "row 3: common/4 is no question"),
        ("answer", "perhaps", "row 3: label 'perhaps'"),
        ("question_id", "1", "row 3: question random/1 is there twice"),
        ("question_id", "3001", "row 3: random/3001 is no question"),
        ("question", None, "row 3: question None is not a text"),
        ("image_source", None, "row 3: image_source None is not a text"),
    ],
)
def test_a_wrong_row_of_the_hubs_table_is_named(layouts, tmp_path, column, value, message) -> None:
    rows = pq.read_table(layouts["hub"] / "data").to_pylist()
    rows[3][column] = value
    write_shards(tmp_path / "data", "test", rows)
    with pytest.raises(InputError, match=message):
        pope.read(tmp_path, allow_partial=True)


def test_an_empty_folder(tmp_path) -> None:
    with pytest.raises(InputError, match="no coco_pope_"):
        read(tmp_path)


# --- Peers ------------------------------------------------------------------------------------------------------------

PIECES = (
    "yes",
    "no",
    "Yes",
    "No",
    "YES",
    "not",
    "nope",
    "sure",
    "Yes,",
    "no.",
    ".",
    ",",
    "there",
    "is",
    "\n",
    "\t",
    "a",
)


@pytest.mark.peer
def test_lmms_eval_scores_alike() -> None:
    peer = lmms_eval("tasks/pope/utils.py")
    rng = random.Random(0)
    records, theirs = [], []
    for number in range(CASES):
        label, split = rng.choice(("yes", "no")), rng.choice(pope.SPLITS)
        text = rng.choice(("", " ")).join(rng.choice(PIECES) for _ in range(rng.randrange(4)))
        doc = {"answer": label, "question_id": str(number)}
        theirs.append(peer.pope_process_results(doc, [text])["pope_accuracy"])
        judgement = pope.judge_answer(label, text, "lmms-eval")
        assert judgement.score == theirs[-1]["score"], text
        details = {**judgement.details, "split": split}
        records.append(Record("pope", f"{split}/{number}", str(number // 6), (), 0, text, judgement.score, details))
    found = pope.metrics(records, "lmms-eval")
    for measure in pope.MEASURES:
        name = {"f1": "f1_score"}.get(measure, measure)
        expected = getattr(peer, f"pope_aggregate_{name}")(theirs)
        assert found[f"pooled/{measure}"].value == pytest.approx(expected, abs=1e-12), measure
