"""ROUGE-L: golden values of pycocoevalcap and cases by hand."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from score_peers import CASES
from test_cider import random_corpus, raw_captions

from gapbench.metrics.ptb import tokenize
from gapbench.metrics.rouge import rouge_l

CAPTION = st.lists(st.sampled_from("a dog cat runs the".split()), max_size=8)


def test_golden_captions_of_100_images(shared: Path) -> None:
    path = shared / "data/understanding/caption/pope_captions_100.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    scores = [rouge_l(r["ptb_prediction"].split(), [text.split() for text in r["ptb_references"]]) for r in rows]
    expected = json.loads((shared / "golden/understanding/caption_expected.json").read_text())["pope_captions_100"]
    assert np.mean(scores) == pytest.approx(expected["ROUGE_L"], abs=1e-9)


@pytest.mark.parametrize("name", ["synthetic", "pope_captions_100"])
def test_golden_scores_from_raw_captions(shared: Path, name: str) -> None:
    images, expected = raw_captions(shared, name)
    scores = [rouge_l(hypothesis, references) for hypothesis, references in images.values()]
    assert np.mean(scores) == pytest.approx(expected["ROUGE_L"], abs=1e-9)


def test_by_hand() -> None:
    # "a dog runs" in common: 3 of 4 words, and 3 of 5.
    precision, recall = 3 / 4, 3 / 5
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l("a big dog runs".split(), ["a dog on grass runs".split()]) == pytest.approx(expected, abs=1e-12)


def test_precision_and_recall_may_come_from_different_references() -> None:
    # All of the hypothesis is in the first reference, and all of the second reference in the hypothesis.
    assert rouge_l("a dog".split(), ["a dog runs on grass".split(), ["dog"]]) == 1


def test_captions_without_words() -> None:
    assert rouge_l([], [["a", "dog"]]) == 0
    assert rouge_l(["a", "dog"], [[]]) == 0
    assert rouge_l([], [[]]) == 1
    with pytest.raises(ValueError, match="at least one reference"):
        rouge_l(["a"], [])


@given(CAPTION, st.lists(CAPTION, min_size=1, max_size=3), st.randoms())
def test_order_of_references_does_not_matter(
    caption: list[str], references: list[list[str]], rng: random.Random
) -> None:
    score = rouge_l(caption, references)
    rng.shuffle(references)
    assert rouge_l(caption, references) == score
    assert 0 <= score <= 1
    assert rouge_l(caption, [*references, caption]) == pytest.approx(1, abs=1e-12)


@given(st.text(), st.text())
def test_exotic_text_is_scored(a: str, b: str) -> None:
    assert 0 <= rouge_l(tokenize(a), [tokenize(b)]) <= 1


@pytest.mark.peer
def test_same_scores_as_pycocoevalcap() -> None:
    peer = pytest.importorskip("pycocoevalcap.rouge.rouge")
    hypotheses, references = random_corpus(5, CASES)
    mean, per_image = peer.Rouge().compute_score(
        {image: [" ".join(text) for text in texts] for image, texts in references.items()},
        {image: [" ".join(text)] for image, text in hypotheses.items()},
    )
    scores = [rouge_l(hypotheses[image], references[image]) for image in hypotheses]
    assert np.mean(scores) == pytest.approx(mean, abs=1e-9)
    assert scores == pytest.approx(list(per_image), abs=1e-9)
