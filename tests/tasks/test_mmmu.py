"""MMMU against its official scripts and lmms-eval: every golden response, and the official outputs' numbers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import mmmu as layouts
from score_peers import CASES, lmms_eval, vlmevalkit

from gapbench.records import Failure, InputError, Question, Record
from gapbench.score import score
from gapbench.tasks import mmmu, mmmu_parsing
from gapbench.tasks.base import Options, QuestionTask

OPTIONS = {"A": "Paris", "B": "London", "C": "New York", "D": "the NASA center"}


def record(name: str, response: str, gold: str = "A", variant: str = "official") -> Record:
    judgement = mmmu.judge_answer(mmmu.Reference(name, False, (gold,), OPTIONS), response, variant)
    return Record("mmmu", name, name, ("knowledge",), 0, response, judgement.score, judgement.details)


# --- Golden -----------------------------------------------------------------------------------------------------------


def test_every_golden_multiple_choice_response(shared) -> None:
    rows = [
        json.loads(line) for line in (shared / "golden/understanding/mmmu_mcq_parse.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 21
    for row in rows:
        for variant, column in (("official", "official"), ("official-random", "official"), ("lmms-eval", "lmms_eval")):
            said = mmmu_parsing.parse_choice(row["response"], row["options"], variant)
            assert (said or "RANDOM") == row[column], (variant, row)
        assert (mmmu_parsing.infer(row["response"], row["options"]) or "Z") == row["vlmevalkit_exact_matching"], row


def test_every_golden_open_response(shared) -> None:
    rows = [
        json.loads(line) for line in (shared / "golden/understanding/mmmu_open_parse.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 22
    for row in rows:
        # lmms-eval of June 2025 to August 2026 scored all open questions 0, which is not offered.
        assert row.pop("lmms_eval_75571cf") is False
        assert row.keys() == {"gold", "response", "official_parsed", "official", "lmms_eval_0_7_3"}
        candidates = mmmu_parsing.parse_open(row["response"])
        assert sorted(map(str, candidates)) == row["official_parsed"], row
        assert mmmu_parsing.eval_open(row["gold"], candidates) == row["official"] == row["lmms_eval_0_7_3"], row


@pytest.fixture(scope="module")
def golden(shared) -> dict:
    return json.loads((shared / "golden/understanding/mmmu_expected.json").read_text())["llava1.5_13b"]


def outputs(shared: Path, variant: str) -> list[Record]:
    """The official example outputs of LLaVA-1.5-13B, judged."""
    result = []
    for line in (shared / "data/understanding/mmmu/llava1.5_13b_val_outputs.jsonl").read_text().splitlines():
        row = json.loads(line)
        is_open = row["question_type"] != "multiple-choice"
        reference = mmmu.Reference(row["id"], is_open, mmmu.gold_answers(row["answer"]), row.get("index2ans"))
        judgement = mmmu.judge_answer(reference, row["response"], variant)
        result.append(
            Record("mmmu", row["id"], row["id"], ("knowledge",), 0, row["response"], judgement.score, judgement.details)
        )
    return result


@pytest.fixture(scope="module")
def records(shared) -> list[Record]:
    return outputs(shared, "official")


def test_golden_accuracy_where_unparsed_is_wrong(golden, records) -> None:
    estimates = mmmu.metrics(records)
    overall = estimates["accuracy"]
    assert next(iter(estimates)) == "accuracy"
    assert (overall.value, overall.n, overall.clusters) == (golden["no_random_acc"], 900, 900)
    assert sum(r.score for r in records) == golden["no_random_correct"] == 329
    assert [r.item for r in records if mmmu.unparsed(r)] == golden["random_fallback_ids"]
    for subject, (right, n) in golden["per_subject_no_random"].items():
        estimate = estimates[f"subject/{subject}"]
        assert (estimate.value, estimate.n) == (right / n, n)


def test_golden_accuracy_with_the_official_random_fallback(golden, records) -> None:
    guessed = mmmu.guess(records)
    estimates = mmmu.metrics(guessed)
    assert sum(r.score for r in guessed) == 330
    assert estimates["accuracy"] == mmmu.metrics(records)["accuracy/official-random"]
    assert round(estimates["accuracy"].value, 3) == golden["official_main_parse_and_eval_overall"] == 0.367
    domains = {name: round(estimates[f"discipline/{name}"].value, 3) for name in golden["official_domains"]}
    assert domains == golden["official_domains"]
    assert [r.item for r in guessed if r.details.get("guessed")] == golden["random_fallback_ids"]


def test_golden_accuracy_of_vlmevalkit(shared) -> None:
    judged = outputs(shared, "vlmevalkit")
    estimates = mmmu.metrics(judged, "vlmevalkit")
    right = [r.details["type"] for r in judged if r.score]
    # What `can_infer` says of each at e8e78f0. Of the 53 open questions one, whose gold, 3, is all that was answered.
    assert (right.count("multiple-choice"), right.count("open")) == (326, 1)
    assert estimates["unparsed"].value == sum(map(mmmu.unparsed, judged)) / 900 > 0
    assert "accuracy/official-random" not in estimates  # nothing is drawn there


def test_unparsed_answers_are_counted(golden, records) -> None:
    for judged in (records, mmmu.guess(records)):
        share = mmmu.metrics(judged)["unparsed"]
        assert (share.value, share.n) == (len(golden["random_fallback_ids"]) / 900, 900)


def test_order_of_records_does_not_matter(records) -> None:
    shuffled = random.Random(5).sample(records, len(records))
    assert mmmu.metrics(shuffled) == mmmu.metrics(records)
    by_key = {r.key: r for r in mmmu.guess(shuffled)}
    assert [by_key[r.key] for r in records] == mmmu.guess(records)


# --- Parsers ----------------------------------------------------------------------------------------------------------


def test_a_tie_goes_to_the_first_option() -> None:
    assert mmmu_parsing.parse_choice("one two three four five same", {"A": "same", "B": "same"}) == "A"


def test_lmms_eval_of_several_letters_without_spaces_before_them_takes_the_first() -> None:
    assert mmmu_parsing.parse_choice("xB. xA. end", OPTIONS, "lmms-eval") == "A"
    assert mmmu_parsing.parse_choice("xB. xA. end", OPTIONS) is None


def test_an_empty_tail_is_replaced_by_a_longer_one() -> None:
    # The tail of "is " is empty, that of the later cue "final " is not.
    assert mmmu_parsing.parse_open("the final word is \nx") == ["word is"]


@given(st.text(), st.sampled_from(mmmu.VARIANTS))
def test_any_text_is_read_as_one_of_the_options_or_none(text, variant) -> None:
    read = mmmu_parsing.infer if variant == "vlmevalkit" else partial(mmmu_parsing.parse_choice, variant=variant)
    assert read(text, OPTIONS) in (None, *OPTIONS)


@given(st.text(alphabet="ab 01,.=-\neisoCx", max_size=40))
def test_open_candidates_are_distinct_and_never_empty_handed(text) -> None:
    candidates = mmmu_parsing.parse_open(text)
    assert candidates
    assert len(candidates) == len(set(candidates))


@given(st.decimals(min_value=-(10**6), max_value=10**6, places=2).filter(bool))
def test_a_number_answers_itself(number) -> None:
    assert mmmu_parsing.eval_open(str(number), mmmu_parsing.parse_open(f"The answer is {number}."))


@pytest.mark.parametrize(
    ("gold", "response", "score"),
    [
        ("12", "12", 1),
        ("12", "It is 12.", 1),
        ("12", "12 and other answers", 0),  # both are quoted
        ("12", "The result of all this is 12, as everyone can see", 0),  # longer than the options twice
        ("12", "A", 1),  # nobody offered it
        ("B", "B", 1),
        ("C", "C", 0),  # it is no letter of the two
        ("['24/7', '3.429']", "24/7", 0),
        ("['24/7', '3.429']", "['24/7', '3.429']", 1),
    ],
)
def test_vlmevalkit_makes_a_choice_of_an_open_question(gold, response, score) -> None:
    reference = mmmu.Reference("validation_Math_15", True, mmmu.gold_answers(gold))
    assert mmmu.judge_answer(reference, response, "vlmevalkit").score == score


# --- Judging and averaging --------------------------------------------------------------------------------------------


def test_list_golds_stored_as_text() -> None:
    assert mmmu.gold_answers("['24/7', '3.429']") == ("24/7", "3.429") == mmmu.gold_answers(["24/7", "3.429"])
    assert mmmu.gold_answers("[0, 1)") == ("[0, 1)",)
    for wrong in (3, [], [1], None):
        with pytest.raises(InputError, match="neither a text nor a list of texts"):
            mmmu.gold_answers(wrong)


def test_lists_that_are_no_list_of_texts_are_the_text_itself() -> None:
    for gold in ("[1, 2]", "[]", "[None]", "[0.5]"):
        assert mmmu.gold_answers(gold) == (gold,)


def test_lmms_eval_never_reads_a_list_of_golds() -> None:
    listed = mmmu.Reference("validation_Math_15", True, ("24/7", "3.429"))
    scores = {variant: mmmu.judge_answer(listed, "It is 24/7", variant).score for variant in mmmu.VARIANTS}
    assert scores == {"official": 1, "official-random": 1, "lmms-eval": 0, "vlmevalkit": 0}
    assert mmmu.judge_answer(listed, "['24/7', '3.429']", "lmms-eval").score == 1
    assert mmmu.judge_answer(listed, "It is 24/7", "lmms-eval").details["gold"] == ["24/7", "3.429"]


@pytest.mark.parametrize("response", ["infinity", "-inf", "nan", "1e999"])
def test_what_is_said_can_be_written_as_json(response) -> None:
    reference = mmmu.Reference("validation_Math_1", True, ("7",))
    json.dumps(mmmu.judge_answer(reference, response).details, allow_nan=False)


def test_without_options_only_a_letter_can_be_judged() -> None:
    reference = mmmu.Reference("validation_Art_1", False, ("B",))
    assert mmmu.judge_answer(reference, "B").score == 1.0
    assert mmmu.judge_answer(reference, "").details["said"] is None
    with pytest.raises(InputError, match=r"validation_Art_1.*'I say B'.*all_choices"):
        mmmu.judge_answer(reference, "I say B")


def test_ids() -> None:
    assert len(set(mmmu.VALIDATION_IDS)) == 900
    assert mmmu.place("validation_Art_Theory_7") == ("Art_Theory", 7)
    for wrong in ("Art_1", "validation_Alchemy_1", "validation_Art_x"):
        with pytest.raises(InputError, match=wrong):
            mmmu.place(wrong)


def test_guesses_come_from_one_stream_in_official_order() -> None:
    # By number, not by text: 2 comes before 10. By subject name, not by order of arrival.
    names = ["validation_Sociology_1", "validation_Art_10", "validation_Art_2"]
    stream = random.Random(42)
    expected = {name: stream.choice(list(OPTIONS)) for name in reversed(names)}
    guessed = mmmu.guess([record(name, "who knows") for name in names])
    assert {r.item: r.details["said"] for r in guessed} == expected
    assert mmmu.guess(guessed) == guessed


def test_a_failed_answer_is_wrong_and_draws_no_letter() -> None:
    failed = replace(record("validation_Art_1", ""), details={}, score=0.0, error="out of memory")
    assert mmmu.guess([failed]) == [failed]
    assert mmmu.metrics([failed, record("validation_Art_2", "A")])["subject/Art"].value == 0.5


def test_disciplines_weigh_questions_not_subjects() -> None:
    records = [record("validation_Art_1", "A"), record("validation_Music_1", "B"), record("validation_Music_2", "B")]
    assert mmmu.metrics(records)["discipline/Art and Design"].value == pytest.approx(1 / 3)


# --- Data -------------------------------------------------------------------------------------------------------------


def test_the_prompt_is_that_of_lmms_eval() -> None:
    assert mmmu.prompt("What does <image 1> show?", {"A": "six", "B": "<image 2>"}) == (
        "What does <image> show?\nA. six\nB. <image>\n\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert mmmu.prompt("<image 1> How long?", None) == (
        "<image> How long?\n\nAnswer the question using a single word or phrase."
    )


def load(folder: Path) -> QuestionTask:
    return mmmu.real(Options(data=folder, allow_partial=True))


def test_subjects_in_folders_and_merged_give_the_same_items(tmp_path) -> None:
    tasks = [load(layouts.write_parquet(tmp_path / "hub")), load(layouts.write_merged(tmp_path / "lmms"))]
    hub, merged = tasks
    assert hub.asked == merged.asked
    assert hub.protocol() == merged.protocol()
    assert (len(hub.asked), hub.whole) == (40, 900)
    assert hub.protocol()["data"].startswith("validation 40; rows ")
    assert [item.id for item in hub.asked] == [name for name in mmmu.VALIDATION_IDS if name in ids(hub)]
    for task in tasks:
        for item in task.asked:
            assert [picture.open().size for picture in item.ask.pictures] == [(96, 96)] * len(item.ask.pictures)
    pixels = [[picture.open().tobytes() for item in task.asked for picture in item.ask.pictures] for task in tasks]
    assert pixels[0] == pixels[1]
    assert len(set(pixels[0])) == 40 + 13


def ids(task: QuestionTask) -> set[str]:
    return {item.id for item in task.asked}


def test_what_a_row_becomes(tmp_path) -> None:
    task = load(layouts.write_parquet(tmp_path))
    items = {item.id: item for item in task.asked}
    one = items["validation_Accounting_1"]  # row 0
    assert one.ask == Question(
        one.id,
        '<image> What is the value 0?\nA. $6\nB. Company\'s loss\nC. a\u2028line\nD. the "NASA" value\n\n'
        "Answer with the option's letter from the given choices directly.",
        one.ask.pictures,
        ("A", "B", "C", "D"),
    )
    assert (one.cluster, one.skills) == (one.id, ("knowledge",))
    assert [picture.key for picture in one.ask.pictures] == [f"{one.id}/image_1"]
    two = items["validation_Math_1"]  # row 2: the second picture is named in an option alone
    assert [picture.key for picture in two.ask.pictures] == [f"{two.id}/image_1", f"{two.id}/image_2"]
    assert "\nD. <image>\n" in two.ask.text
    listed = items["validation_Accounting_2"]  # row 4
    assert listed.ask.choices == ()
    assert listed.ask.text.endswith("value 4?\n\nAnswer the question using a single word or phrase.")
    [judged] = task.judge([listed], ["The result is 24/7"])
    assert (judged.score, judged.details["gold"], judged.details["type"]) == (1.0, ["24/7", "3.429"], "open")
    assert task.decoding.max_new_tokens == 128


def test_judged_responses_make_the_metrics(tmp_path) -> None:
    task = load(layouts.write_parquet(tmp_path))
    answers = {
        "validation_Accounting_1": "(A)",
        "validation_Accounting_3": "who knows",
        "validation_Art_Theory_1": Failure("out of memory"),
    }
    items = [item for item in task.asked if item.id in answers]
    records = []
    for item, judged in zip(items, task.judge(items, list(answers.values())), strict=True):
        response = answers[item.id]
        text, error = (response, None) if isinstance(response, str) else ("", response.reason)
        made = Record("mmmu", item.id, item.cluster, item.skills, 0, text, judged.score, judged.details, error=error)
        records.append(made)
    assert [r.score for r in records] == [1, 0, 0]
    assert [mmmu.unparsed(r) for r in records] == [False, True, False]
    assert records[2].details == {"type": "multiple-choice", "gold": ["B"]}
    [drawn] = [r for r in mmmu.guess(records) if r.details.get("guessed")]
    assert drawn.details["said"] == random.Random(42).choice("ABCD")
    values = {name: (e.value, e.n) for name, e in task.metrics(records).items()}
    assert values["accuracy"] == (1 / 3, 3)
    assert values["discipline/Business"] == values["subject/Accounting"] == (1 / 2, 2)
    assert values["subject/Art_Theory"] == (0, 1)
    assert values["accuracy/official-random"] == ((1 + drawn.score) / 3, 3)
    with pytest.raises(ValueError, match="no MMMU records"):
        task.metrics([])


def rewrite(file: Path, change: Callable[[list[dict]], list[dict]]) -> Path:
    rows = change(pq.read_table(file).to_pylist())
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def test_wrong_tables_are_named_with_their_row(tmp_path) -> None:
    folder = layouts.write_parquet(tmp_path)
    file = folder / "Math" / "validation-00000-of-00001.parquet"
    right = file.read_bytes()

    def refused(message: str, change: Callable[[list[dict]], list[dict]]) -> None:
        file.write_bytes(right)
        rewrite(file, change)
        with pytest.raises(InputError, match=message) as caught:
            load(folder)
        assert "\n" not in str(caught.value)

    def first(**values: object) -> Callable[[list[dict]], list[dict]]:
        return lambda rows: [{**rows[0], **values}, *rows[1:]]

    where = r"Math/validation-00000-of-00001\.parquet: row 0: "
    refused(r"row 10: question validation_Math_1 is there twice", lambda rows: [*rows, rows[0]])
    refused(r"no column 'options'", lambda rows: [{k: v for k, v in row.items() if k != "options"} for row in rows])
    refused(where + "'dev_Math_1' is not the id", first(id="dev_Math_1"))
    refused(where + "None is not the id", first(id=None))
    refused(where + "validation_Math_1: question of type 'essay'", first(question_type="essay"))
    refused(where + "validation_Math_1: malformed", first(options="[a, b]"))
    refused(where + "validation_Math_1: options .* are not a list of texts", first(options="['a', 2]"))
    refused(where + "validation_Math_1: gold 'E' is no letter of its 4 options", first(answer="E"))
    refused(where + "validation_Math_1: gold answer None is neither", first(answer=None))
    refused(where + "validation_Math_1 asks about image_8, but there is no such", first(question="<image 8>?"))
    refused(
        where + "validation_Math_1 asks about image_2, but there is no such column",
        lambda rows: [{k: v for k, v in row.items() if k != "image_2"} for row in rows],
    )
    file.write_bytes(right[: len(right) // 2])
    with pytest.raises(InputError, match=r"Math/validation-00000-of-00001\.parquet: not a parquet file"):
        load(folder)


def test_pictures_are_not_needed_to_score(tmp_path) -> None:
    folder = layouts.write_parquet(tmp_path)
    for file in folder.glob("*/*.parquet"):
        rewrite(file, lambda rows: [{k: v for k, v in row.items() if not k.startswith("image_")} for row in rows])
    assert len(mmmu.read(folder, pictures=False, allow_partial=True).items) == 40


def test_a_picture_that_is_null_is_an_os_error_when_opened(tmp_path) -> None:
    folder = layouts.write_parquet(tmp_path)
    rewrite(folder / "Math/validation-00000-of-00001.parquet", lambda rows: [{**row, "image_1": None} for row in rows])
    item = next(item for item in load(folder).asked if item.id == "validation_Math_1")
    with pytest.raises(OSError, match=r"row 0 .* has no image_1"):
        item.ask.pictures[0].open()


def test_fewer_questions_only_as_a_part(tmp_path) -> None:
    hub, merged = layouts.write_parquet(tmp_path / "hub"), layouts.write_merged(tmp_path / "lmms")
    with pytest.raises(InputError, match=r"hub/Agriculture: no validation-\*\.parquet in this folder; .*allow-partial"):
        mmmu.read(hub)
    with pytest.raises(InputError, match="lmms: 40 questions, the official data have 900"):
        mmmu.read(merged)
    with pytest.raises(InputError, match="nowhere: no validation-"):
        mmmu.read(tmp_path / "nowhere", allow_partial=True)


def test_answers_in_words_are_scored_by_the_options_of_the_tables(tmp_path) -> None:
    folder = layouts.write_parquet(tmp_path / "mmmu")
    golds = {row["id"]: row["answer"] for questions in layouts.rows(40).values() for row in questions}
    rows = [{"id": name, "response": f"The answer is {gold} ."} for name, gold in golds.items()]
    rows[0]["response"] = "It must be Company's loss, I think"  # B
    recorded = [{"item": row["id"], "response": row["response"], "score": 0.0} for row in rows]
    assert golds[rows[0]["id"]] == "A"
    for form, data in ((rows, folder), (rows, tmp_path), (recorded, folder)):
        file = tmp_path / "answers.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in form))
        scored = score("mmmu", file, data, allow_partial=True)
        assert (scored.metrics["accuracy"].value, scored.counts["done"]) == (39 / 40, 40)
        assert scored.counts["missing"] == 860
    with pytest.raises(InputError, match=r"40 answers have no gold .*hub's parquet files"):
        score("mmmu", file, allow_partial=True)


def test_rows_that_lack_options_get_them_from_the_tables(tmp_path) -> None:
    folder = layouts.write_parquet(tmp_path / "mmmu")
    row = {"id": "validation_Accounting_1", "question_type": "multiple-choice", "answer": "A", "response": "(A)"}
    file = tmp_path / "answers.json"
    file.write_text(json.dumps([row]))
    assert score("mmmu", file, folder, allow_partial=True).metrics["accuracy"].value == 1
    file.write_text(json.dumps([{**row, "answer": "B"}]))
    with pytest.raises(InputError, match="entry 1: the gold of validation_Accounting_1 is not the one"):
        score("mmmu", file, folder, allow_partial=True)


# --- Miniature --------------------------------------------------------------------------------------------------------


def test_the_miniature_asks_about_colors_counts_and_shapes() -> None:
    task = mmmu.mini(Options())
    items = list(task.asked)
    assert {item.id.split("_")[1]: item.skills for item in items} == {
        "Color": ("color",),
        "Count": ("count",),
        "Shape": ("shape",),
    }
    assert len({item.cluster for item in items}) == 80
    assert (task.name, task.whole, len(ids(task))) == ("mmmu-mini", len(items), len(items))
    right = [item.truth["reference"].answers[0] for item in items]
    records = [
        Record("mmmu-mini", item.id, item.cluster, item.skills, 0, "", judged.score, judged.details)
        for item, judged in zip(items, task.judge(items, right), strict=True)
    ]
    values = {name: e.value for name, e in task.metrics(records).items()}
    names = ("accuracy", "accuracy/official-random", "subject/Color", "subject/Count", "subject/Shape")
    assert values == {**dict.fromkeys(names, 1), "unparsed": 0}


# --- Peers ------------------------------------------------------------------------------------------------------------

TEXTS = ("New York", "a", "12", "the (B) side", "NASA", "B", "$24,000")
PIECES = (
    *("A", "B", "C", "D", "(A)", "(B)", "A.", "B)", "b", "**C**", "The answer is", "because", "is", "so", "therefore"),
    *("New York", "NASA ", "12", "0.5", "1,000", "-3.2e4", "$24,000", "=", "\n", ".", ",", "x", "y", "not sure about"),
)
REFUSALS = ("Z", "Cannot determine the answer", "Failed to obtain answer via API", "answer is **b", "The answer is c.")
GOLDS = ("12", "0.5", "1000", "x", "24000", "new york", "NASA", "-32000")


@pytest.mark.peer
def test_lmms_eval_scores_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = lmms_eval("tasks/mmmu/utils.py", "tasks/_task_utils/mmmu_mcq_utils.py")
    parser = peer.parse_multi_choice_response.__globals__["parse_mmmu_multi_choice_response"]
    monkeypatch.setattr(parser.__globals__["random"], "choice", lambda letters: None)  # what we call unparsed
    rng = random.Random(0)
    for number in range(CASES):
        text = rng.choice((" ", " ", "")).join(rng.choice(PIECES) for _ in range(rng.randrange(9)))
        options = dict(zip("ABCD", rng.sample(TEXTS, 4), strict=True))
        expected = peer.parse_multi_choice_response(text, list(options), options)
        assert mmmu_parsing.parse_choice(text, options, "lmms-eval") == expected, (number, text, options)
        gold = rng.choice(GOLDS)
        said = peer.eval_open(gold, peer.parse_open_response(text))
        assert mmmu_parsing.eval_open(gold, mmmu_parsing.parse_open(text)) == said, (number, text, gold)


@pytest.mark.peer
def test_vlmevalkit_infers_alike() -> None:
    peer = vlmevalkit("utils/matching_util.py")
    rng = random.Random(0)
    for number in range(CASES):
        text = rng.choice((" ", " ", "")).join(rng.choice((*PIECES, *REFUSALS)) for _ in range(rng.randrange(9)))
        options = dict(zip("ABCD", rng.sample(TEXTS, 4), strict=True))
        expected = peer.can_infer(text, dict(options)) or "Z"
        assert (mmmu_parsing.infer(text, options) or "Z") == expected, (number, text, options)
