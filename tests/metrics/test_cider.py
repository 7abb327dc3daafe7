"""CIDEr-D: golden values of pycocoevalcap, its documented quirks, and what must not matter."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from score_peers import CASES

from gapbench.metrics.cider import Cider, DocumentFrequencies, cider
from gapbench.metrics.ptb import tokenize

CAPTION = st.lists(st.sampled_from("a dog cat runs the red bus".split()), max_size=8)
CORPUS = st.lists(st.tuples(CAPTION, st.lists(CAPTION, min_size=1, max_size=3)), min_size=2, max_size=6)


def random_corpus(seed: int, images: int) -> tuple[dict[int, list[str]], dict[int, list[list[str]]]]:
    """Hypotheses and one to five references an image, near enough to one another to share long n-grams."""
    rng = random.Random(seed)
    vocabulary = "a the dog cat runs red bus on street two".split()
    hypotheses, references = {}, {}
    for image in range(images):
        caption = [rng.choice(vocabulary) for _ in range(rng.randint(0, 12))]
        hypotheses[image] = caption if rng.random() < 0.9 else []
        references[image] = [[w for w in caption if rng.random() < 0.8] + ["x"] for _ in range(rng.randint(1, 5))]
    return hypotheses, references


def raw_captions(shared: Path, name: str) -> tuple[dict[str, tuple[list[str], list[list[str]]]], dict[str, Any]]:
    """Tokenised hypothesis and references by image, and pycocoevalcap's scores of the same captions."""
    expected = json.loads((shared / "golden/understanding/caption_expected.json").read_text("utf-8"))[name]
    corpus = expected.get("corpus")
    if corpus is None:
        path = shared / f"data/understanding/caption/{name}.jsonl"
        corpus = {str(row["image_id"]): row for row in map(json.loads, path.read_text("utf-8").splitlines())}
    images = {
        image: (tokenize(row["prediction"]), [tokenize(text) for text in row["references"]])
        for image, row in corpus.items()
    }
    return images, expected


def test_golden_captions_of_100_images(shared: Path) -> None:
    path = shared / "data/understanding/caption/pope_captions_100.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    hypotheses = {row["image_id"]: row["ptb_prediction"].split() for row in rows}
    references = {row["image_id"]: [text.split() for text in row["ptb_references"]] for row in rows}
    scores = cider(hypotheses, references)
    expected = json.loads((shared / "golden/understanding/caption_expected.json").read_text())["pope_captions_100"]
    assert scores.mean == pytest.approx(expected["CIDEr"], abs=1e-9)
    assert list(scores.per_image.values()) == pytest.approx([row["cider"] for row in rows], abs=1e-9)
    assert scores.images == 100
    # VLMEvalKit splits at white space instead.
    raw = cider(
        {row["image_id"]: row["prediction"].split() for row in rows},
        {row["image_id"]: [text.split() for text in row["references"]] for row in rows},
    )
    assert raw.mean == pytest.approx(expected["CIDEr_without_ptb_vlmevalkit_style"], abs=1e-9)


def test_golden_scores_from_raw_captions(shared: Path) -> None:
    images, expected = raw_captions(shared, "pope_captions_100")
    scores = cider({i: ours for i, (ours, _) in images.items()}, {i: texts for i, (_, texts) in images.items()})
    assert scores.mean == pytest.approx(expected["CIDEr"], abs=1e-9)

    images, expected = raw_captions(shared, "synthetic")
    scores = cider({i: ours for i, (ours, _) in images.items()}, {i: texts for i, (_, texts) in images.items()})
    assert scores.mean == pytest.approx(expected["CIDEr"], abs=1e-9)
    assert list(scores.per_image.values()) == pytest.approx(expected["per_image_cider"], abs=1e-9)
    hypothesis, references = images["1"]
    assert cider({"1": hypothesis}, {"1": references}).mean == expected["single_image_corpus_cider"]


def test_a_copy_of_the_only_reference_scores_ten() -> None:
    texts = {1: "a red bus on the street".split(), 2: "two dogs run in grass".split()}
    assert cider(texts, {image: [text] for image, text in texts.items()}).mean == pytest.approx(10, abs=1e-12)


def test_by_hand() -> None:
    # Two images; "a" is in both (idf 0), every other n-gram in one (idf ln 2). Unigrams: (dog) against (dog, runs),
    # 1/sqrt 2. Bigrams: (a dog) against (a dog, dog runs), 1/sqrt 2. No trigrams. One bigram against two: exp(-1/72).
    references = {1: [["a", "dog", "runs"]], 2: [["a", "cat"]]}
    scores = cider({1: ["a", "dog"], 2: []}, references)
    assert scores.per_image[1] == pytest.approx(10 * (2 / math.sqrt(2)) / 4 * math.exp(-1 / 72), abs=1e-12)
    assert scores.per_image[2] == 0


def test_other_document_frequencies_change_the_score_and_say_their_number() -> None:
    hypotheses, references = random_corpus(1, 40)
    everything = DocumentFrequencies()
    for texts in references.values():
        everything.add(texts)
    few = {image: hypotheses[image] for image in range(5)}
    own, whole = cider(few, references), cider(few, references, everything)
    assert (own.images, whole.images) == (5, 40)
    assert own.mean != whole.mean
    full = cider(hypotheses, references)
    assert whole.per_image == {image: full.per_image[image] for image in few}


def test_saved_document_frequencies() -> None:
    hypotheses, references = random_corpus(2, 20)
    frequencies = DocumentFrequencies()
    for texts in references.values():
        frequencies.add(texts)
    again = DocumentFrequencies.from_json(json.loads(json.dumps(frequencies.to_json())))
    assert again == frequencies
    assert cider(hypotheses, references, again) == cider(hypotheses, references)


def test_what_cannot_be_scored_says_so() -> None:
    with pytest.raises(ValueError, match="no captions"):
        cider({}, {})
    with pytest.raises(ValueError, match="at least one reference"):
        cider({1: ["a"]}, {1: []})
    with pytest.raises(ValueError, match="at least one image"):
        Cider(DocumentFrequencies())
    with pytest.raises(KeyError):
        cider({1: ["a"]}, {})


@given(CORPUS, st.randoms())
def test_order_of_images_does_not_matter(corpus: list[tuple[list[str], list[list[str]]]], rng: random.Random) -> None:
    hypotheses = {i: hypothesis for i, (hypothesis, _) in enumerate(corpus)}
    references = {i: texts for i, (_, texts) in enumerate(corpus)}
    order = list(hypotheses)
    rng.shuffle(order)
    first = cider(hypotheses, references)
    second = cider({i: hypotheses[i] for i in order}, references)
    assert first.per_image == second.per_image
    assert first.mean == second.mean
    assert all(0 <= score <= 10 + 1e-9 for score in first.per_image.values())


@given(CORPUS, st.integers(min_value=1, max_value=6))
def test_references_may_come_in_any_chunks(corpus: list[tuple[list[str], list[list[str]]]], size: int) -> None:
    whole = DocumentFrequencies()
    for _, texts in corpus:
        whole.add(texts)
    chunks = [corpus[start : start + size] for start in range(0, len(corpus), size)]
    streamed = DocumentFrequencies()
    for chunk in reversed(chunks):
        for _, texts in chunk:
            streamed.add(iter(texts))
    assert streamed == whole


@given(st.text(), st.text(), st.text())
def test_exotic_text_is_scored_the_same_twice(a: str, b: str, c: str) -> None:
    hypotheses = {1: tokenize(a), 2: tokenize(b)}
    references = {1: [tokenize(b), tokenize(c)], 2: [tokenize(c)]}
    assert cider(hypotheses, references) == cider(hypotheses, references)


@pytest.mark.peer
def test_same_scores_as_pycocoevalcap() -> None:
    peer = pytest.importorskip("pycocoevalcap.cider.cider")
    hypotheses, references = random_corpus(3, CASES)
    mean, per_image = peer.Cider().compute_score(
        {image: [" ".join(text) for text in texts] for image, texts in references.items()},
        {image: [" ".join(text)] for image, text in hypotheses.items()},
    )
    scores = cider(hypotheses, references)
    assert scores.mean == pytest.approx(mean, abs=1e-9)
    assert list(scores.per_image.values()) == pytest.approx(list(per_image), abs=1e-9)
