"""Scoring answers made elsewhere: every accepted form gives the same number, every fault is named and refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from gapbench.records import InputError
from gapbench.responses import read_rows
from gapbench.score import VARIANTS, score
from gapbench.tasks import mmmu, pope


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def document(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value, indent=1))
    return path


def refused(message: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(InputError, match=message) as caught:
        score(*arguments, **options)
    assert "\n" not in str(caught.value)


# --- POPE -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder with one made-up random split of the right size: odd questions yes, six on an image."""
    folder = tmp_path_factory.mktemp("pope")
    lines(folder / "coco_pope_random.json", [question(number) for number in range(1, 3001)])
    return folder


def question(number: int) -> dict[str, Any]:
    label = "yes" if number % 2 else "no"
    return {"question_id": number, "image": f"{number // 6}.jpg", "text": f"Is there a thing {number}?", "label": label}


# Nine in ten are right.
ANSWERS = ["no" if number % 2 == 0 or number % 5 == 0 else "yes" for number in range(1, 3001)]
ROWS = [{"id": f"random/{number}", "response": answer} for number, answer in enumerate(ANSWERS, start=1)]


def test_golden_answers_in_a_folder_in_under_two_seconds(shared) -> None:
    start = time.process_time()
    scored = score("pope", shared / "golden/understanding", shared / "data/understanding/pope")
    assert time.process_time() - start < 2
    expected = json.loads((shared / "golden/understanding/pope_expected.json").read_text())
    assert scored.metrics["pooled/f1"].value == expected["pooled_9000"]["official"]["F1 score"]
    faults = {"missing": 0, "extra": 0, "duplicate": 0, "unreadable": 0, "unparsed": 0}
    assert scored.counts == {"expected": 9000, "done": 9000, **faults}
    assert scored.notes[0] == "data: random 3000, popular 3000, adversarial 3000; rows e9760ac79c2c36c6"
    assert scored.notes[1:] == (
        "pooled: accuracy 0.8532, precision 0.8524, recall 0.8544, F1 0.8534, yes ratio 0.5012",
        "random: accuracy 0.8583, precision 0.8557, recall 0.8620, F1 0.8589, yes ratio 0.5037",
        "popular: accuracy 0.8497, precision 0.8508, recall 0.8480, F1 0.8494, yes ratio 0.4983",
        "adversarial: accuracy 0.8517, precision 0.8505, recall 0.8533, F1 0.8519, yes ratio 0.5017",
        "mean of the three: accuracy 0.8532, precision 0.8524, recall 0.8544, F1 0.8534, yes ratio 0.5012",
    )
    assert (scored.task, scored.variant, scored.partial, len(scored.records)) == ("pope", "official", False, 9000)


FORMS = {
    "ids": ("any.jsonl", lines, ROWS),
    "ids, shuffled": ("any.jsonl", lines, ROWS[::-1]),
    "ids in a list": ("any.json", document, ROWS),
    "texts": ("random.json", document, ANSWERS),
    "official": (
        "answers_random.json",
        lines,
        [{"question": f"Is there a thing {n}?", "answer": answer} for n, answer in enumerate(ANSWERS, start=1)],
    ),
    "LLaVA": (
        "random.jsonl",
        lines,
        [
            {"prompt": pope.prompt(f"Is there a thing {n}?"), "text": answer}
            for n, answer in enumerate(ANSWERS, start=1)
        ],
    ),
    "the only split needs no name": ("answers.json", document, ANSWERS),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_score(data, tmp_path, form) -> None:
    name, write, content = FORMS[form]
    scored = score("pope", write(tmp_path / name, content), data)
    assert scored.metrics["pooled/accuracy"].value == 0.9
    assert scored.metrics["random/recall"].value == 0.8
    assert not scored.partial
    assert scored.records[0].details == {"said": "yes", "label": "yes", "split": "random"}


def test_byte_order_mark_line_ends_and_separators_inside_answers_do_not_matter(data, tmp_path) -> None:
    rows = [{**row, "response": f"{row['response']}, of\u2028\x85course"} for row in ROWS]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "any.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    scored = score("pope", tmp_path / "any.jsonl", data)
    assert scored.metrics["pooled/accuracy"].value == 0.9
    assert scored.records[0].response == "yes, of\u2028\x85course"


FAULTS = {
    "missing": (ROWS[:6] + ROWS[7:], "1 missing", r"random/7", 2999),
    "truncated": (ROWS[:-4], "4 missing", r"random/2997, random/2998, random/2999, \.\.\.", 2996),
    "extra": ([*ROWS, {"id": "popular/1", "response": "yes"}], "1 extra", r"popular/1", 3000),
    "duplicate": ([*ROWS, ROWS[4]], "1 duplicate", r"random/5", 3000),
    "no response": ([*ROWS[:-1], {"id": "random/3000"}], "1 unreadable", r"jsonl:3000: no text to score", 2999),
    "not a text": ([*ROWS[:-1], {**ROWS[-1], "response": 0}], "1 unreadable", r"jsonl:3000: no text to score", 2999),
    "not an object": ([*ROWS[:-1], 5], "1 unreadable", r"jsonl:3000: no text to score", 2999),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_and_refused_unless_partial(data, tmp_path, fault) -> None:
    rows, count, names, done = FAULTS[fault]
    file = lines(tmp_path / "answers.jsonl", rows)
    refused(f"of 3000 expected answers .*{count} \\(.*{names}\\); .*--allow-partial", "pope", file, data)
    scored = score("pope", file, data, allow_partial=True)
    assert scored.partial
    assert scored.counts["done"] == done == len(scored.records) == scored.metrics["pooled/accuracy"].n
    assert scored.counts[count.split()[1]] == int(count.split()[0])
    assert scored.notes[-1].startswith(f"partial, {done}/3000: ")


def test_a_torn_line_is_named(data, tmp_path) -> None:
    file = lines(tmp_path / "random.jsonl", ROWS)
    file.write_text(file.read_text()[:-9])
    refused(r"1 missing \(random/3000\), 1 unreadable \(.*random\.jsonl:3000: not JSON", "pope", file, data)


def test_an_unreadable_answer_keeps_its_place(data, tmp_path) -> None:
    file = document(tmp_path / "random.json", [*ANSWERS[:2], None, *ANSWERS[3:]])
    refused(r"1 missing \(random/3\), 1 unreadable \(.*entry 3: no text", "pope", file, data)
    assert score("pope", file, data, allow_partial=True).metrics["random/accuracy"].value == 2699 / 2999


def test_the_same_key_twice_is_unreadable(data, tmp_path) -> None:
    file = lines(tmp_path / "random.jsonl", ROWS)
    file.write_text(file.read_text().replace('{"id": "random/8",', '{"id": "random/1", "id": "random/8",'))
    refused(r":8: not JSON: 'id' is there twice", "pope", file, data)


@pytest.mark.parametrize("allow_partial", [False, True])
@pytest.mark.parametrize("content", [ANSWERS[:2910], ROWS[:2910]], ids=["by position", "by id"])
def test_answers_to_the_old_random_file_are_never_scored_on_the_new(data, tmp_path, content, allow_partial) -> None:
    file = document(tmp_path / "random.json", content)
    message = "2910 answers for random, but coco_pope_random.json has 3000 questions.*before October 2023"
    refused(message, "pope", file, data, allow_partial=allow_partial)


def test_answers_to_the_old_random_file_are_scored_on_it(data, tmp_path) -> None:
    lines(tmp_path / "coco_pope_random.json", [question(number) for number in range(1, 2911)])
    scored = score("pope", document(tmp_path / "answers.json", ANSWERS[:2910]), tmp_path)
    assert scored.notes[0].startswith("data: random 2910 (e3e3926); rows ")
    refused("3000 answers .* 2910 questions.*since", "pope", document(tmp_path / "answers.json", ANSWERS), tmp_path)


def test_answers_in_another_order_are_refused(data, tmp_path) -> None:
    rows = FORMS["official"][2]
    file = lines(tmp_path / "random.jsonl", [rows[1], rows[0], *rows[2:]])
    refused(r"jsonl:1: answers 'Is there a thing 2\?', but random/1 asks 'Is there a thing 1\?'", "pope", file, data)


def test_other_wrong_files(data, tmp_path) -> None:
    refused("absent.json: no such file", "pope", tmp_path / "absent.json", data)
    refused("pope: no data here. Give --data DIR", "pope", lines(tmp_path / "a.jsonl", ROWS))
    refused("no .json or .jsonl file with random", "pope", data / "..", data)
    refused("none of the 3000 expected answers: 3000 missing .* 3000 unreadable", "pope", data, data)
    empty = tmp_path / "random.jsonl"
    empty.write_text("\n")
    refused("random.jsonl: empty", "pope", empty, data)
    empty.write_bytes(b"\xff\xfe\x00")
    refused("cannot be read as UTF-8", "pope", empty, data)
    empty.write_text("yes\nno\n")
    refused("neither JSON nor JSON lines", "pope", empty, data)
    empty.write_text(json.dumps(ANSWERS)[:-30])
    refused("neither JSON nor JSON lines", "pope", empty, data)
    empty.write_text("[" * 100_000)
    refused("nested too deeply", "pope", empty, data)


def test_a_runs_records_are_answers_but_for_what_the_model_failed_to_give(data, tmp_path) -> None:
    rows = [
        {"task": "pope", "item": f"random/{n}", "response": answer, "error": None}
        for n, answer in enumerate(ANSWERS, start=1)
    ]
    scored = score("pope", lines(tmp_path / "records.jsonl", rows), data)
    assert scored.metrics == score("pope", document(tmp_path / "random.json", ANSWERS), data).metrics
    rows[6] |= {"response": "", "error": "the image is truncated"}
    file = lines(tmp_path / "records.jsonl", rows)
    refused(r"1 missing \(random/7\), 1 unreadable \(.*records.jsonl:7: no text", "pope", file, data)


def test_files_whose_split_is_unclear(shared, tmp_path) -> None:
    real = shared / "data/understanding/pope"
    refused("does not tell the split", "pope", document(tmp_path / "answers.json", ANSWERS), real)
    refused("does not tell the split", "pope", document(tmp_path / "random_popular.json", ANSWERS), real)
    document(tmp_path / "random.json", ANSWERS)
    refused("both named after the split random", "pope", tmp_path, real)


def test_a_part_of_the_questions_will_not_do_whatever_is_allowed(tmp_path) -> None:
    answers = lines(tmp_path / "random.jsonl", ROWS)
    lines(tmp_path / "coco_pope_random.json", [question(number) for number in range(1, 61)])
    for allow_partial in (False, True):
        with pytest.raises(InputError, match=r"60 questions, the official data have 3000; .* `gapbench run --allow-p"):
            score("pope", answers, tmp_path, allow_partial=allow_partial)


def test_one_split_of_three_is_a_partial_score(shared) -> None:
    real, answers = shared / "data/understanding/pope", shared / "golden/understanding/pope_predictions_popular.json"
    refused("6000 missing", "pope", answers, real)
    scored = score("pope", answers, real, allow_partial=True)
    assert scored.metrics["popular/f1"].value == 0.8494156928213689
    assert "random/f1" not in scored.metrics


def test_unknown_names(data) -> None:
    refused("unknown task 'pop'; .*: pope, mmmu", "pop", data)
    refused(
        "unknown variant 'oficial' of pope; variants: official, lmms-eval, vlmevalkit", "pope", data, data, "oficial"
    )


@pytest.mark.parametrize("task", ["vqav2-testdev", "vqav2-test"])
def test_what_only_the_server_can_score_is_sent_there(task, tmp_path) -> None:
    refused(f"{task}: its answers are not public; `gapbench submission {task}` writes", task, tmp_path)


def test_a_folder_for_a_file_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        read_rows(tmp_path)


def test_the_official_rules_are_the_default_of_every_task() -> None:
    answered = ["pope", "mmmu", "mme", "gqa", "vqav2", "flickr30k", "flickr30k-karpathy"]
    assert list(VARIANTS) == [*answered, "geneval", "geneval-rewritten", "dpg", "coco"]
    assert all(variants[0].startswith("official") for variants in VARIANTS.values())


# --- MMMU -------------------------------------------------------------------------------------------------------------


def output_row(name: str, response: str = "A") -> dict[str, Any]:
    options = {"A": "one", "B": "two"}
    return {
        "id": name,
        "question_type": "multiple-choice",
        "answer": "A",
        "all_choices": list(options),
        "index2ans": options,
        "response": response,
    }


OUTPUT = [output_row(name) for name in mmmu.VALIDATION_IDS]
GOLDS = {name: {"question_type": "multiple-choice", "ground_truth": "A"} for name in mmmu.VALIDATION_IDS}


def test_official_outputs_need_no_data_and_carry_both_accuracies(shared) -> None:
    folder = shared / "data/understanding/mmmu"
    scored = score("mmmu", folder / "llava1.5_13b_val_outputs.jsonl")
    assert scored.metrics["accuracy"].value == 329 / 900
    assert scored.metrics["accuracy/official-random"].value == 330 / 900
    assert (scored.counts["unparsed"], scored.partial) == (2, False)
    assert scored == score("mmmu", folder / "llava1.5_13b_val_outputs.jsonl", folder)


def test_official_random_variant(shared) -> None:
    scored = score("mmmu", shared / "data/understanding/mmmu/llava1.5_13b_val_outputs.jsonl", variant="official-random")
    assert scored.metrics["accuracy"].value == 330 / 900
    assert scored.counts["unparsed"] == 2


def test_official_parsed_answers_with_the_official_golds(shared) -> None:
    folder = shared / "data/understanding/mmmu"
    expected = json.loads((shared / "golden/understanding/mmmu_expected.json").read_text())["llava1.5_13b"]
    for golds in (folder, folder / "answer_dict_val.json"):
        scored = score("mmmu", folder / "llava1.5_13b_total_val_output.json", golds)
        assert round(scored.metrics["accuracy"].value, 3) == expected["official_main_eval_only_overall"]
    refused("900 answers have no gold", "mmmu", folder / "llava1.5_13b_total_val_output.json")


def test_official_folder_of_subjects(tmp_path) -> None:
    for subject in mmmu.DISCIPLINE_OF:
        (tmp_path / subject).mkdir()
        rows = [row for row in OUTPUT if mmmu.place(row["id"])[0] == subject]
        document(tmp_path / subject / "output.json", rows)
    document(tmp_path / "total_val_output.json", {})
    assert score("mmmu", tmp_path).metrics["accuracy"].value == 1.0


def test_plain_rows_with_golds(tmp_path) -> None:
    golds = document(tmp_path / "answer_dict_val.json", GOLDS)
    rows = [{"id": name, "response": "A"} for name in mmmu.VALIDATION_IDS]
    scored = score("mmmu", lines(tmp_path / "answers.jsonl", rows), tmp_path)
    assert scored.metrics["accuracy"].value == 1.0
    rows[3]["response"] = "The answer is A."
    refused("is not a letter", "mmmu", lines(tmp_path / "answers.jsonl", rows), golds)
    rows[3]["response"] = ""
    scored = score("mmmu", lines(tmp_path / "answers.jsonl", rows), tmp_path)
    assert scored.counts["unparsed"] == 1


MMMU_FAULTS = {
    "missing": (OUTPUT[:5] + OUTPUT[6:], r"1 missing \(validation_Accounting_6\)"),
    "extra": ([*OUTPUT, output_row("dev_Art_1")], r"1 extra \(dev_Art_1\)"),
    "duplicate": ([*OUTPUT, OUTPUT[0]], r"1 duplicate \(validation_Accounting_1\)"),
    "unreadable": ([*OUTPUT[:-1], {**OUTPUT[-1], "response": ["A"]}], r"1 unreadable \(.*:900: no text to score\)"),
}


@pytest.mark.parametrize("fault", MMMU_FAULTS)
def test_mmmu_faults_are_named_and_refused_unless_partial(tmp_path, fault) -> None:
    rows, message = MMMU_FAULTS[fault]
    file = lines(tmp_path / "outputs.jsonl", rows)
    refused(message, "mmmu", file)
    scored = score("mmmu", file, allow_partial=True)
    assert scored.partial
    assert scored.metrics["accuracy"].value == 1.0


def test_mmmu_wrong_golds_and_options(tmp_path) -> None:
    def outputs(**change: Any) -> Path:
        return lines(tmp_path / "outputs.jsonl", [{**OUTPUT[0], **change}, *OUTPUT[1:]])

    golds = document(tmp_path / "answer_dict_val.json", GOLDS)
    refused("outputs.jsonl:1: the gold of validation_Accounting_1 is not the one", "mmmu", outputs(answer="B"), golds)
    refused(":1: gold answer 7 is neither", "mmmu", outputs(answer=7))
    refused(":1: a gold needs its question_type", "mmmu", outputs(question_type=None))
    refused(":1: index2ans must map the letters", "mmmu", outputs(all_choices=["A"]))
    refused(":1: index2ans must map the letters", "mmmu", outputs(index2ans={"A": 1, "B": 2}))
    refused("not the official answer_dict_val.json", "mmmu", outputs(), document(tmp_path / "golds.json", {"a": {}}))
    lost = {**GOLDS, "validation_Art_1": "A"}
    refused("validation_Art_1: no ground_truth", "mmmu", outputs(), document(tmp_path / "golds.json", lost))
    refused("cannot be read", "mmmu", outputs(), tmp_path / "absent.json")
    (tmp_path / "empty").mkdir()
    refused("no SUBJECT/output.json", "mmmu", tmp_path / "empty")
