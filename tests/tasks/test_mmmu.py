"""MMMU against its official scripts and lmms-eval: every golden response, and the official outputs' numbers."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapbench.records import InputError, Record
from gapbench.tasks import mmmu

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
            said = mmmu.parse_choice(row["response"], row["options"], variant)
            assert (said or "RANDOM") == row[column], (variant, row)


def test_every_golden_open_response(shared) -> None:
    rows = [
        json.loads(line) for line in (shared / "golden/understanding/mmmu_open_parse.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 22
    for row in rows:
        candidates = mmmu.parse_open(row["response"])
        assert sorted(map(str, candidates)) == row["official_parsed"], row
        assert mmmu.eval_open(row["gold"], candidates) == row["official"] == row["lmms_eval_0_7_3"], row


@pytest.fixture(scope="module")
def golden(shared) -> dict:
    return json.loads((shared / "golden/understanding/mmmu_expected.json").read_text())["llava1.5_13b"]


@pytest.fixture(scope="module")
def records(shared) -> list[Record]:
    """The official example outputs of LLaVA-1.5-13B, judged."""
    result = []
    for line in (shared / "data/understanding/mmmu/llava1.5_13b_val_outputs.jsonl").read_text().splitlines():
        row = json.loads(line)
        is_open = row["question_type"] != "multiple-choice"
        reference = mmmu.Reference(row["id"], is_open, mmmu.gold_answers(row["answer"]), row.get("index2ans"))
        judgement = mmmu.judge_answer(reference, row["response"])
        result.append(
            Record("mmmu", row["id"], row["id"], ("knowledge",), 0, row["response"], judgement.score, judgement.details)
        )
    return result


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


def test_order_of_records_does_not_matter(records) -> None:
    shuffled = random.Random(5).sample(records, len(records))
    assert mmmu.metrics(shuffled) == mmmu.metrics(records)
    by_key = {r.key: r for r in mmmu.guess(shuffled)}
    assert [by_key[r.key] for r in records] == mmmu.guess(records)


# --- Parsers ----------------------------------------------------------------------------------------------------------


def test_a_tie_goes_to_the_first_option() -> None:
    assert mmmu.parse_choice("one two three four five same", {"A": "same", "B": "same"}) == "A"


def test_lmms_eval_of_several_letters_without_spaces_before_them_takes_the_first() -> None:
    assert mmmu.parse_choice("xB. xA. end", OPTIONS, "lmms-eval") == "A"
    assert mmmu.parse_choice("xB. xA. end", OPTIONS) is None


def test_an_empty_tail_is_replaced_by_a_longer_one() -> None:
    # The tail of "is " is empty, that of the later cue "final " is not.
    assert mmmu.parse_open("the final word is \nx") == ["word is"]


@given(st.text(), st.sampled_from(mmmu.VARIANTS))
def test_any_text_is_read_as_one_of_the_options_or_none(text, variant) -> None:
    assert mmmu.parse_choice(text, OPTIONS, variant) in (None, *OPTIONS)


@given(st.text(alphabet="ab 01,.=-\neisoCx", max_size=40))
def test_open_candidates_are_distinct_and_never_empty_handed(text) -> None:
    candidates = mmmu.parse_open(text)
    assert candidates
    assert len(candidates) == len(set(candidates))


@given(st.decimals(min_value=-(10**6), max_value=10**6, places=2).filter(bool))
def test_a_number_answers_itself(number) -> None:
    assert mmmu.eval_open(str(number), mmmu.parse_open(f"The answer is {number}."))


# --- Judging and averaging --------------------------------------------------------------------------------------------


def test_list_golds_stored_as_text() -> None:
    assert mmmu.gold_answers("['24/7', '3.429']") == ("24/7", "3.429") == mmmu.gold_answers(["24/7", "3.429"])
    assert mmmu.gold_answers("[0, 1)") == ("[0, 1)",)
    for wrong in (3, [], [1], None):
        with pytest.raises(InputError, match="neither a text nor a list of texts"):
            mmmu.gold_answers(wrong)


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
