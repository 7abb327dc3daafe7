"""GQA: every golden pair, the official measures, saved answers, and lmms-eval where it is at hand."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from score_peers import CASES, lmms_eval

from gapbench.records import InputError, Record
from gapbench.score import score
from gapbench.tasks import gqa


def reference(answer: str, structural: str = "query", semantic: str = "obj", group: str | None = None) -> gqa.Reference:
    return gqa.Reference("1", "What?", answer, structural, semantic, group)


def right(gold: str, response: Any, variant: str = "official") -> bool:
    return gqa.judge_answer(reference(gold), response, variant).score == 1


def test_every_golden_pair(shared) -> None:
    rows = [json.loads(line) for line in (shared / "golden/understanding/gqa_match.jsonl").read_text().splitlines()]
    assert len(rows) == 18
    columns = {"official": "llava_official", "lmms-eval": "lmms_eval", "vlmevalkit": "vlmevalkit"}
    for row in rows:
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
    assert official.notes[0] == "data: testdev balanced 12578"
    assert official.notes[1].startswith("distribution 0.00, lower is better")
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


def test_wrong_files(data, tmp_path) -> None:
    file = saved(tmp_path / "predictions.json", PREDICTIONS)
    refused("needs --data", file)
    refused("none of the 12578 expected answers", data / gqa.FILE, data)
    refused("not an official GQA question file", file, file)
    cut = saved(tmp_path / gqa.FILE, dict(list(ENTRIES.items())[:-1]))
    refused(f"{gqa.FILE}: 12577 balanced questions, the official file has 12578", file, tmp_path)
    cut.write_text(cut.read_text()[:-100])
    refused("neither JSON nor JSON lines", file, tmp_path)
    for change, message in (
        ({"isBalanced": None}, "does not tell if it isBalanced"),
        ({"types": []}, "types.structural is not a text"),
        ({"answer": 3}, "answer is not a text"),
    ):
        saved(cut, {"a7": {**entry(0), **change}})
        refused(f"question a7: {message}", file, tmp_path)
    subset = saved(tmp_path / "mine.json", {"a7": entry(0)})
    one = saved(tmp_path / "one.json", [{"questionId": "a7", "prediction": "yes"}])
    assert score("gqa", one, subset).metrics["accuracy"].value == 1


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
