"""BLEU-1..4: golden values of pycocoevalcap, counts by hand, and resampling from per-image counts."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from score_peers import CASES
from test_cider import random_corpus, raw_captions

from gapbench.metrics.bleu import STATISTICS, bleu, statistics
from gapbench.metrics.ptb import tokenize

CAPTION = st.lists(st.sampled_from("a dog cat runs the".split()), max_size=8)
PAIR = st.tuples(CAPTION, st.lists(CAPTION, min_size=1, max_size=3))


def test_golden_captions_of_100_images(shared: Path) -> None:
    path = shared / "data/understanding/caption/pope_captions_100.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    counts = [statistics(r["ptb_prediction"].split(), [text.split() for text in r["ptb_references"]]) for r in rows]
    expected = json.loads((shared / "golden/understanding/caption_expected.json").read_text())["pope_captions_100"]
    assert bleu(np.sum(counts, axis=0)).tolist() == pytest.approx(expected["BLEU"], abs=1e-9)


@pytest.mark.parametrize("name", ["synthetic", "pope_captions_100"])
def test_golden_scores_from_raw_captions(shared: Path, name: str) -> None:
    images, expected = raw_captions(shared, name)
    counts = [statistics(hypothesis, references) for hypothesis, references in images.values()]
    assert bleu(np.sum(counts, axis=0)).tolist() == pytest.approx(expected["BLEU"], abs=1e-9)


def test_counts_by_hand() -> None:
    # "the" matches twice, as often as in the reference that has most of it; references of 3 and 5 words are equally
    # close to a hypothesis of 4, and the shorter one counts.
    counts = statistics("the the the dog".split(), ["the dog the".split(), "a dog on the bus".split()])
    assert counts.tolist() == [4, 3, 4, 3, 2, 1, 3, 1, 0, 0]


def test_brevity_penalty_by_hand() -> None:
    assert bleu(statistics(["a", "dog"], [["a", "dog", "runs"]]))[0] == pytest.approx(math.exp(-1 / 2), abs=1e-8)
    assert bleu(statistics(["a", "dog", "runs"], [["a", "dog"]]))[0] == pytest.approx(2 / 3, abs=1e-8)


def test_identical_and_empty_captions() -> None:
    caption = "a red bus on the street".split()
    assert bleu(statistics(caption, [["no"], caption])).tolist() == pytest.approx([1, 1, 1, 1], abs=1e-8)
    assert bleu(statistics([], [caption])).tolist() == [0, 0, 0, 0]
    assert np.isfinite(bleu(np.zeros(STATISTICS))).all()
    with pytest.raises(ValueError, match="at least one reference"):
        statistics(caption, [])


@given(st.lists(PAIR, min_size=1, max_size=6), st.randoms())
def test_order_of_images_does_not_matter(pairs: list[tuple[list[str], list[list[str]]]], rng: random.Random) -> None:
    counts = [statistics(*pair) for pair in pairs]
    value = bleu(np.sum(counts, axis=0))
    rng.shuffle(counts)
    assert (bleu(np.sum(counts, axis=0)) == value).all()
    assert ((value >= 0) & (value <= 1)).all()


@given(st.lists(PAIR, min_size=1, max_size=5))
def test_resamples_at_once_are_resamples_one_by_one(pairs: list[tuple[list[str], list[list[str]]]]) -> None:
    counts = np.array([statistics(*pair) for pair in pairs])
    weights = np.random.default_rng(0).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=(2, 3))
    together = bleu(weights @ counts)
    assert together.shape == (2, 3, 4)
    for index in np.ndindex(2, 3):
        assert together[index].tolist() == bleu(weights[index] @ counts).tolist()


@given(st.text(), st.text())
def test_exotic_text_is_counted(a: str, b: str) -> None:
    counts = statistics(tokenize(a), [tokenize(b)])
    assert counts.shape == (STATISTICS,)
    assert np.isfinite(bleu(counts)).all()


@pytest.mark.peer
def test_same_scores_as_pycocoevalcap() -> None:
    peer = pytest.importorskip("pycocoevalcap.bleu.bleu")
    hypotheses, references = random_corpus(4, CASES)
    corpus, per_image = peer.Bleu(4).compute_score(
        {image: [" ".join(text) for text in texts] for image, texts in references.items()},
        {image: [" ".join(text)] for image, text in hypotheses.items()},
        verbose=0,
    )
    counts = np.array([statistics(hypotheses[image], references[image]) for image in hypotheses])
    assert bleu(counts.sum(axis=0)).tolist() == pytest.approx(corpus, abs=1e-9)
    assert bleu(counts) == pytest.approx(np.array(per_image).T, abs=1e-9)
