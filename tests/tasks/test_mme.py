"""MME against its official script, lmms-eval and VLMEvalKit: every golden answer, every golden number."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path

import pytest
from score_peers import CASES, lmms_eval

from gapbench.records import InputError, Record
from gapbench.score import score
from gapbench.tasks import mme

# --- Golden -----------------------------------------------------------------------------------------------------------


def test_every_golden_answer_is_read_as_by_each_program(shared) -> None:
    rows = [json.loads(line) for line in (shared / "golden/understanding/yesno_parse.jsonl").read_text().splitlines()]
    assert len(rows) == 40
    for row in rows:
        expected = {
            "official": row["mme_official"],
            "lmms-eval": row["mme_lmms_eval"],
            "vlmevalkit": {"Yes": "yes", "No": "no", "Unknown": "other"}[row["vlmevalkit_yorn"]],
        }
        assert {variant: mme.parse(row["response"], variant) for variant in mme.VARIANTS} == expected, row


def judged(rows: list[dict], variant: str) -> list[Record]:
    seen: dict[str, int] = defaultdict(int)
    records = []
    for row in rows:
        cluster = f"{row['category']}/{row['image']}"
        seen[cluster] += 1
        reference = mme.Reference(
            f"{cluster}/{seen[cluster]}", row["category"], row["image"], "?", row["answer"].lower()
        )
        judgement = mme.judge_answer(reference, row["response"], variant)
        records.append(Record("mme", reference.id, cluster, (), 0, row["response"], judgement.score, judgement.details))
    return records


@pytest.mark.parametrize(
    ("variant", "key", "cognition"),
    [
        ("official", "official", "cognition"),
        ("lmms-eval", "lmms_eval", "cognition"),
        ("vlmevalkit", "vlmevalkit_exact_matching", "reasoning"),
    ],
)
def test_golden_numbers(shared, variant, key, cognition) -> None:
    golden = json.loads((shared / "golden/understanding/mme_synthetic_expected.json").read_text())
    found = mme.metrics(judged(golden["rows"], variant))
    assert next(iter(found)) == "perception"
    assert found["perception"].value == pytest.approx(golden[key]["perception"], abs=1e-9)
    assert found["cognition"].value == pytest.approx(golden[key][cognition], abs=1e-9)
    assert found["perception"].n + found["cognition"].n == len(golden["rows"])
    for subtask, value in golden[key].get("per_subtask", {}).items():
        assert found[subtask].value == pytest.approx(value, abs=1e-9)
        assert found[subtask].value == 100 * found[f"{subtask}/acc"].value + 100 * found[f"{subtask}/acc+"].value
    assert all(e.low <= e.value <= e.high for e in found.values())


# --- Rules ------------------------------------------------------------------------------------------------------------


def test_official_reads_four_characters_as_they_are() -> None:
    said = {text: mme.parse(text) for text in ("  yes", "   no", "  no", "**Yes**", "eyes", "noted", "Y", "", "It is")}
    assert said == {
        "  yes": "other",
        "   no": "other",
        "  no": "no",
        "**Yes**": "other",
        "eyes": "yes",
        "noted": "no",
        "Y": "other",
        "": "other",
        "It is": "other",
    }


def test_prompt_replaces_the_official_request() -> None:
    asked = "Is there a dog in this image? Please answer yes or no."
    assert mme.prompt(asked) == "Is there a dog in this image?\nAnswer the question using a single word or phrase."
    assert mme.prompt(asked.replace(" Please", "  Please")).startswith("Is there a dog in this image? \nAnswer")


def test_a_perfect_and_a_constant_answerer() -> None:
    rows = [
        {"category": subtask, "image": f"{n}.jpg", "answer": answer, "response": answer}
        for subtask in mme.SUBTASKS
        for n in range(3)
        for answer in ("Yes", "No")
    ]
    perfect = mme.metrics(judged(rows, "official"))
    assert (perfect["perception"].value, perfect["cognition"].value) == (2000, 800)
    assert perfect["OCR"].clusters == 3
    constant = mme.metrics(judged([{**row, "response": "Yes"} for row in rows], "official"))
    assert (constant["perception"].value, constant["cognition"].value) == (500, 200)  # acc 0.5, acc+ 0
    assert constant["perception"].low == constant["perception"].high == 500  # resampling within subtasks adds nothing


def test_absent_subtasks_are_left_out_with_their_sum_and_failures_count_as_wrong() -> None:
    rows = [{"category": "OCR", "image": "a", "answer": answer, "response": "yes"} for answer in ("Yes", "No")]
    records = judged(rows, "official")
    assert set(mme.metrics(records)) == {"OCR", "OCR/acc", "OCR/acc+"}
    failed = mme.judge_answer(mme.Reference("OCR/a/1", "OCR", "a", "?", "yes"), None)
    assert (failed.score, failed.details["said"]) == (0.0, "other")
    with pytest.raises(ValueError, match="no MME records"):
        mme.metrics([])
    with pytest.raises(ValueError, match="no subtask 'color/x'"):
        mme.metrics([Record("mme", "x", "c", (), 0, "", 0.0, {"subtask": "color/x"})])


# --- Saved answers ----------------------------------------------------------------------------------------------------


def official_lines(subtask: str) -> list[list[str]]:
    return [
        [f"{n}.jpg", f"Is this {subtask} {n}, {gold}?  Please answer yes or no.", gold]
        for n in range(mme.IMAGES[subtask])
        for gold in ("Yes", "No")
    ]


LINES = {subtask: official_lines(subtask) for subtask in mme.SUBTASKS}


def write(folder: Path, lines: dict[str, list[list[str]]], end: str = "\n") -> Path:
    folder.mkdir(exist_ok=True)
    for subtask, rows in lines.items():
        (folder / f"{subtask}.txt").write_bytes("".join("\t".join(row) + end for row in rows).encode())
    return folder


def answered(response: str | None = None) -> dict[str, list[list[str]]]:
    return {subtask: [[*row, response or row[2]] for row in rows] for subtask, rows in LINES.items()}


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("mme") / "template", LINES)


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "answers", answered())


def change(folder: Path, subtask: str, edit) -> Path:
    file = folder / f"{subtask}.txt"
    file.write_text("".join(line + "\n" for line in edit(file.read_text().splitlines())))
    return folder


def refused(message: str, *arguments, **options) -> None:
    with pytest.raises(InputError, match=message) as caught:
        score("mme", *arguments, **options)
    assert "\n" not in str(caught.value)


def test_the_official_counts() -> None:
    assert sum(mme.IMAGES.values()) == 1187
    assert sum(map(len, LINES.values())) == 2374


def test_official_folder_with_and_without_the_template(folder, template, tmp_path) -> None:
    alone, checked = score("mme", folder), score("mme", folder, template)
    assert alone == checked
    assert alone.metrics["perception"].value == 2000
    assert (alone.counts["done"], alone.counts["expected"], alone.partial) == (2374, 2374, False)
    assert alone.records[0].skills == ("object",)
    crlf = score("mme", write(tmp_path / "crlf", answered("Yes, it is"), end="\r\n"))
    assert crlf.metrics["cognition"].value == 200
    others = score("mme", write(tmp_path / "others", answered("maybe")))
    assert (others.metrics["perception"].value, others.counts["unparsed"]) == (0, 2374)


def test_order_and_spacing_of_lines_do_not_matter_with_the_template(folder, template) -> None:
    change(folder, "color", lambda lines: [line.replace("  Please", " Please") for line in reversed(lines)])
    assert score("mme", folder, template).metrics["color"].value == 200


def test_rows_with_ids(template, tmp_path) -> None:
    rows = [
        {"id": f"{subtask}/{row[0]}/{k + 1}", "response": row[2]}
        for subtask, rows in LINES.items()
        for n in range(0, len(rows), 2)
        for k, row in enumerate(rows[n : n + 2])
    ]
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert score("mme", file, template).metrics["perception"].value == 2000
    refused("needs --data", file)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    refused(r"1 missing \(existence/0.jpg/1\)", file, template)


FAULTS = {
    "missing": (lambda lines: lines[1:], r"1 missing \(OCR/0.jpg/[12]\)", 2373),
    "image": (lambda lines: lines[:-2], r"2 missing \(OCR/(image 20|19.jpg)/1, OCR/(image 20|19.jpg)/2\)", 2372),
    "duplicate": (lambda lines: [*lines, lines[0]], r"1 duplicate \(OCR/0.jpg/1\)", 2374),
    "extra": (lambda lines: [*lines, "0.jpg\tWhat else?\tNo\tno"], r"1 extra \(OCR/0.jpg", 2374),
    "columns": (lambda lines: [*lines[:-1], lines[-1] + "\tno"], r"1 unreadable \(.*OCR.txt:40: 5 columns", 2373),
    "response": (lambda lines: ["\t".join(lines[0].split("\t")[:3]), *lines[1:]], r"OCR.txt:1: no fourth column", 2373),
}


@pytest.mark.parametrize("with_template", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_and_refused_unless_partial(folder, template, fault, with_template) -> None:
    edit, message, done = FAULTS[fault]
    change(folder, "OCR", edit)
    data = template if with_template else None
    refused(f"of 2374 expected answers .*{message}.*--allow-partial", folder, data)
    scored = score("mme", folder, data, allow_partial=True)
    assert (scored.partial, scored.counts["done"], scored.metrics["OCR"].value) == (True, done, 200)


def test_a_subtask_that_is_not_there(folder, template) -> None:
    (folder / "scene.txt").rename(folder / "Scenes.txt")
    refused(r"400 missing \(scene/image 1/1, .*unreadable \(.*Scenes.txt: not the name of a subtask\)", folder)
    partial = score("mme", folder, template, allow_partial=True)
    assert "perception" not in partial.metrics
    assert partial.metrics["cognition"].value == 800


def test_wrong_files(folder, template, tmp_path) -> None:
    refused("no existence.txt", tmp_path)
    refused("count.txt:3: third column 'maybe' is not the gold", change(folder, "count", with_gold("maybe")))
    refused("count.txt:3: no is not the official gold", change(folder, "count", with_gold("No")), template)
    (folder / "count.txt").write_bytes(b"\xff")
    refused("count.txt: cannot be read as UTF-8", folder)
    cut = change(write(tmp_path / "cut", LINES), "color", lambda lines: lines[2:])
    refused("color.txt: 58 questions on 29 images, the official file has two on each of 30", template, cut)
    refused("none of the 2374 expected answers: 2374 missing", template)


def with_gold(gold: str):
    def edit(lines: list[str]) -> list[str]:
        image, question, _, response = lines[2].split("\t")
        return [*lines[:2], "\t".join((image, question, gold, response)), *lines[3:]]

    return edit


# --- Peers ------------------------------------------------------------------------------------------------------------

PIECES = "yes no Yes. NO not y n Y N. nope eyes maybe the I . , ** : Answer: yes, no! other \n \t".split(" ")


def generated(rng: random.Random) -> str:
    return rng.choice(("", "", " ", "  ", "\n")) + rng.choice(("", " ", " ")).join(
        rng.choice(PIECES) for _ in range(rng.randrange(4))
    )


@pytest.mark.peer
def test_lmms_eval_scores_alike() -> None:
    peer = lmms_eval("tasks/mme/utils.py")
    rng = random.Random(0)
    rows, theirs = [], defaultdict(list)
    for number in range(CASES):
        subtask = mme.SUBTASKS[number // 2 % len(mme.SUBTASKS)]
        answer = ("Yes", "No")[number % 2]
        text = generated(rng)
        assert mme.parse(text, "lmms-eval") == peer.parse_pred_ans(text), text
        rows.append({"category": subtask, "image": f"{number // 2}.png", "answer": answer, "response": text})
        doc = {"answer": answer, "category": subtask, "question_id": f"{subtask}/{number // 2}.png"}
        for key, value in peer.mme_process_results(doc, [text]).items():
            theirs[key].append(value)
    found = mme.metrics(judged(rows, "lmms-eval"))
    for group in mme.GROUPS:
        expected = peer.mme_aggregate_results(theirs[f"mme_{group}_score"])
        assert found[group].value == pytest.approx(expected, abs=1e-9)
