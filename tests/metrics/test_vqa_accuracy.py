"""VQA accuracy against every golden vector, and against lmms-eval where it is at hand."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from score_peers import CASES, lmms_eval

from gapbench import stats
from gapbench.metrics import vqa_accuracy
from gapbench.metrics.vqa_accuracy import accuracy, m4c, normalise

COLUMNS = dict(
    zip(vqa_accuracy.VARIANTS, ("official_2021", "official_pre2021", "lmms_eval_0_7_3", "vlmevalkit"), strict=True)
)


def golden(shared: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (shared / f"golden/understanding/{name}.jsonl").read_text().splitlines()]


def test_every_golden_answer_is_normalised_as_by_each_program(shared) -> None:
    rows = golden(shared, "vqa_norm")
    assert len(rows) == 54
    for row in rows:
        ours = {
            "official": normalise(row["input"]),
            "lmms": normalise(row["input"], "lmms-eval"),
            "vlmevalkit": normalise(row["input"], "vlmevalkit"),
            "llava_m4c": m4c(row["input"]),
        }
        assert ours == {name: row[name] for name in ours}, row


@pytest.mark.parametrize("variant", vqa_accuracy.VARIANTS)
def test_every_golden_score(shared, variant) -> None:
    rows = golden(shared, "vqa_score")
    assert len(rows) == 275
    for row in rows:
        assert accuracy(row["prediction"], row["answers"], variant) == row[COLUMNS[variant]], row


# --- Normalisation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("1,000(a)", "1000a"),
        ("somebody'd", "somebodyd"),
        ("let's lets", "let's lets"),
        ("y'alld've yalldve", "y'all'd've yalldve"),
        ("Im Ive I'dve", "im ive i'dve"),
        ("." * 33, "."),  # only 32 periods go
        ("3.5.", "3.5"),
    ],
)
def test_corners(answer, normal) -> None:
    assert normalise(answer) == normalise(answer, "lmms-eval") == normal


def test_double_comma_is_in_a_number_for_lmms_eval_alone() -> None:
    assert normalise("1,,000-x") == "1 000 x"
    assert normalise("1,,000-x", "lmms-eval") == "1000x"


def test_periods_beside_digits_stay_for_vlmevalkit() -> None:
    assert (normalise("2."), normalise("2.", "vlmevalkit")) == ("2", "2.")
    assert (normalise("no.1"), normalise("no.1", "vlmevalkit")) == ("no.1", "no.1")


def test_m4c_deletes_commas_first_and_cuts_off_s() -> None:
    assert m4c("one,two") == "onetwo"
    assert m4c("It's the dog's") == "it 's dog 's"
    assert m4c("Yes.\n") == "yes"


# --- Score ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", vqa_accuracy.VARIANTS)
@pytest.mark.parametrize(("matching", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0), (10, 1.0)])
def test_scores_are_exact_tenths(variant, matching, score) -> None:
    assert accuracy("red", ["red"] * matching + ["blue"] * (10 - matching), variant) == score


def test_unanimous_people_are_compared_as_they_stand() -> None:
    unanimous = ["yes"] * 10
    scores = {variant: accuracy("Yes.", unanimous, variant) for variant in vqa_accuracy.VARIANTS}
    assert scores == {"official-2021": 0, "official-pre2021": 1, "lmms-eval": 1, "vlmevalkit": 1}
    assert accuracy("\tyes\n", unanimous) == 1
    assert accuracy("Yes.", [*unanimous[:9], "no"]) == 1


answers = st.lists(
    st.sampled_from(["yes", "Yes.", "two", "2", "a dog", "dont", "1,000", "x-y"]), min_size=10, max_size=10
)


@given(answers, st.sampled_from(["yes", "2", "dog", "don't", "1000", "X y"]), st.randoms(use_true_random=False))
def test_the_order_of_people_does_not_matter(people, prediction, rng) -> None:
    shuffled = rng.sample(people, len(people))
    for variant in vqa_accuracy.VARIANTS:
        score = accuracy(prediction, people, variant)
        assert score == accuracy(prediction, shuffled, variant)
        assert score in (0, 0.3, 0.6, 0.9, 1)


@given(st.text())
def test_normalising_never_fails_and_leaves_single_spaces(text) -> None:
    for done in (normalise(text), normalise(text, "lmms-eval"), normalise(text, "vlmevalkit"), m4c(text)):
        assert done == " ".join(done.split())


# --- Averages ---------------------------------------------------------------------------------------------------------


def test_groups_are_means_over_their_own_questions_and_images() -> None:
    groups = {"all": np.ones(4, bool), "some": np.array([1, 0, 1, 0], bool), "none": np.zeros(4, bool)}
    found = stats.means([1.0, 0.3, 0.6, 0.0], ["a", "a", "b", "c"], groups)
    assert {name: (e.value, e.n, e.clusters) for name, e in found.items()} == {
        "all": (pytest.approx(0.475), 4, 3),
        "some": (0.8, 2, 2),
    }
    assert all(e.low <= e.value <= e.high for e in found.values())


# --- Peers ------------------------------------------------------------------------------------------------------------

PIECES = (
    "yes Yes. NO no two 2 2. none zero ten a an the A dog dogs. U.S.A. 1,000 1,,000 1000 3.5 t-shirt red/blue (red) "
    "dont don't somebody'd somebodyd've let's lets shes she's 'ow'sat y'alld've Im it's man's man's? what? hi!there "
    "5% $5 ... @ ` _ \\ { ] 10:30 .5 é ½ ²,3 wouldnt've"
).split()


def generated(rng: random.Random) -> str:
    words = [rng.choice(PIECES) for _ in range(rng.randrange(5))]
    text = rng.choice((" ", " ", "", ", ", "\n", "\t", "-", ",", "  ", ". "))
    return rng.choice(("", "", " ", "\n")) + text.join(words) + rng.choice(("", "", ".", " ", "!", "\n"))


@pytest.mark.peer
def test_lmms_eval_normalises_alike() -> None:
    peer = lmms_eval("tasks/_task_utils/vqa_eval_metric.py").EvalAIAnswerProcessor()
    rng = random.Random(0)
    for _ in range(CASES):
        text = generated(rng)
        assert m4c(text) == peer(text), text
        theirs = peer.process_digit_article(
            peer.process_punctuation(text.replace("\n", " ").replace("\t", " ").strip())
        )
        assert normalise(text, "lmms-eval") == theirs, text


@pytest.mark.peer
def test_lmms_eval_has_the_same_contractions() -> None:
    peer = lmms_eval("tasks/_task_utils/vqa_eval_metric.py").EvalAIAnswerProcessor
    for word in {**peer.CONTRACTIONS, **vqa_accuracy._REPAIRED}:
        assert normalise(word) == peer().process_digit_article(word), word


@pytest.mark.peer
def test_lmms_eval_scores_alike() -> None:
    peer = lmms_eval("tasks/vqav2/utils.py", "tasks/_task_utils/vqa_eval_metric.py")
    rng = random.Random(1)
    for _ in range(CASES):
        pool = [generated(rng) for _ in range(rng.randrange(1, 5))]
        people = [rng.choice(pool) for _ in range(10)]
        prediction = rng.choice([*pool, generated(rng)])
        doc = {"question_id": 1, "answers": [{"answer": answer, "answer_id": i} for i, answer in enumerate(people, 1)]}
        theirs = peer.vqav2_process_results(doc, [prediction])["exact_match"]
        assert accuracy(prediction, people, "lmms-eval") == pytest.approx(theirs, abs=1e-12), (people, prediction)
