"""VQAv2: official files read in pieces, averages, saved answers and the evaluation server's file."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from gapbench.records import InputError, Record
from gapbench.score import score
from gapbench.tasks import vqav2

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
        "answer_type": vqav2.ANSWER_TYPES[kind],
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


# --- Official files ---------------------------------------------------------------------------------------------------


def test_annotations_and_questions(data) -> None:
    found = vqav2.read_annotations(data / "v2_mscoco_mine2014_annotations.json")
    assert list(found) == [str(1000 + number) for number in range(30)]
    assert found["1007"] == vqav2.Reference("1", "how many", "number", ("2",) * 7 + ("other",) * 3)
    asked = vqav2.read_questions(questions(data, [7, 3]))
    assert asked == [vqav2.Asked("7", "1", "Is it 7?"), vqav2.Asked("3", "0", "Is it 3?")]


@pytest.mark.parametrize("chunk", [200, 1000, 1001, 1 << 20])
@pytest.mark.parametrize("indent", [None, 1])
def test_reading_does_not_depend_on_where_a_chunk_ends(data, monkeypatch, chunk, indent) -> None:
    path = data / "v2_mscoco_mine2014_annotations.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=indent), encoding="utf-8-sig")
    expected = vqav2.read_annotations(path)
    monkeypatch.setattr(vqav2, "_CHUNK", max(chunk, 2 * len(json.dumps(ENTRIES[0], indent=indent))) + chunk % 2)
    assert vqav2.read_annotations(path) == expected


def test_reading_takes_little_memory(tmp_path) -> None:
    path = annotations(tmp_path, [annotation(number) for number in range(4_000)])
    size = path.stat().st_size
    assert size > 2_000_000
    tracemalloc.start()
    vqav2.read_annotations(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * size  # parsed at once it would be more than six times as large


def test_wrong_annotations(tmp_path) -> None:
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
    refused("entry 1: no numbers", responses, annotations(tmp_path, [3]))
    refused(": 0 annotations; download", responses, annotations(tmp_path, []))
    refused("no list 'annotations' in it", responses, questions(tmp_path, [1]))
    refused("30 annotations, the official file has 214354", responses, annotations(tmp_path, ENTRIES, "val2014"))
    refused("mine2014_annotations.json and v2_mscoco_val2014_annotations.json; give one", responses, tmp_path)
    path = annotations(tmp_path, ENTRIES)
    path.write_text(path.read_text()[:-200])
    refused("broken JSON in 'annotations'", responses, path)
    path.write_bytes(b"\xff")
    refused("cannot be read as UTF-8", responses, path)
    refused("cannot be read", responses, tmp_path / "absent.json")
    refused("needs --data", responses)
    (tmp_path / "empty").mkdir()
    refused("the answers of test are not public", responses, tmp_path / "empty")


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
    assert vqav2.official_percent(2 / 3) == 66.67
    unanimous = [annotation(number, answers=[{"answer": "yes"}] * 10) for number in range(30)]
    path = annotations(tmp_path, unanimous, "unanimous")
    shouted = saved(tmp_path / "shouted.json", [{**row, "answer": "Yes."} for row in RESULTS])
    values = {variant: score("vqav2", shouted, path, variant).metrics["accuracy"].value for variant in vqav2.VARIANTS}
    assert values == {"official-2021": 0, "official-pre2021": 1, "lmms-eval": 1, "vlmevalkit": 1}


def test_a_failure_is_wrong_and_nothing_has_no_metric() -> None:
    reference = vqav2.Reference("1", "what", "other", ("",) * 10)
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
    vqav2.write_submission(answers, dev, tmp_path / "dev.json")
    assert json.loads((tmp_path / "dev.json").read_text()) == [
        {"question_id": 3, "answer": "2"},
        {"question_id": 1, "answer": "dog 's"},
    ]
    vqav2.write_submission(answers, dev, tmp_path / "all.json", everything=test)
    assert json.loads((tmp_path / "all.json").read_text()) == [
        {"question_id": 1, "answer": "dog 's"},
        {"question_id": 2, "answer": ""},
        {"question_id": 3, "answer": "2"},
        {"question_id": 4, "answer": ""},
    ]
    with pytest.raises(InputError, match="of 4 expected answers 2 missing"):
        vqav2.write_submission(answers, test, tmp_path / "no.json")
    assert not (tmp_path / "no.json").exists()
    told = vqav2.write_submission(answers, test, tmp_path / "padded.json", allow_partial=True)
    assert (tmp_path / "padded.json").read_bytes() == (tmp_path / "all.json").read_bytes()
    assert told.faults() == "2 missing (2, 4)"
    with pytest.raises(InputError, match="1 of the answered questions are not in it"):
        vqav2.write_submission(answers, dev, tmp_path / "no.json", everything=questions(tmp_path, [3, 9], "other"))
    with pytest.raises(InputError, match="cannot be written"):
        vqav2.write_submission(answers, dev, tmp_path / "no" / "folder.json")


# --- Size -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_size_of_val_takes_less_than_a_minute(tmp_path) -> None:
    count = vqav2.COUNTS["v2_mscoco_val2014_annotations.json"]
    path = annotations(tmp_path, [annotation(number) for number in range(count)], "val2014")
    results = saved(
        tmp_path / "results.json", [{"question_id": 1000 + number, "answer": "yes"} for number in range(count)]
    )
    start = time.process_time()
    assert score("vqav2", results, path).metrics["accuracy"].n == count
    assert time.process_time() - start < 60
