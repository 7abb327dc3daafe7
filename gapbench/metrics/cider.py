"""CIDEr-D: how much a caption shares with the references of its image (Vedantam et al., CVPR 2015, arXiv 1411.5726).

What pycocoevalcap 1.2 calls CIDEr and captioning papers print, times 100. Captions come as words
(of the Penn Treebank tokeniser, where numbers are to compare with the literature's).
A caption's n-grams, n = 1..4, are weighted by their counts and by idf = ln N - ln df, where N is the number of images
and df the number of images with the n-gram among their references. For each n the hypothesis is compared with each
reference by a clipped cosine, times a Gaussian (sigma 6) of the difference in length; an image's score is 10 times the
mean over n and references, and the set's is the mean over images.

df and N are those of the evaluated images unless others are handed over, so that a score depends on the set: numbers
of 31,783 and of 1,000 images are not comparable. With N = 1 every idf, and so the score, is 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Tokens = Sequence[str]
Ngram = tuple[str, ...]

ORDERS = 4
SIGMA = 6.0


def words(tokens: Iterable[str]) -> list[str]:
    """Tokens as pycocoevalcap's scorers read them, which split the joined caption at any white space, no-break too."""
    return " ".join(tokens).split()


def ngrams(tokens: Tokens) -> Counter[Ngram]:
    """Counts of the 1- to 4-grams of a caption."""
    tokens = words(tokens)
    return Counter(tuple(tokens[i : i + n]) for n in range(1, ORDERS + 1) for i in range(len(tokens) - n + 1))


@dataclass
class DocumentFrequencies:
    """In how many of `images` images an n-gram occurs, collected image by image and in any order."""

    counts: Counter[Ngram] = field(default_factory=Counter)
    images: int = 0

    def add(self, references: Iterable[Tokens]) -> None:
        """Count one image, given all its reference captions."""
        self.counts.update({ngram for reference in references for ngram in ngrams(reference)})
        self.images += 1

    def to_json(self) -> dict[str, Any]:
        return {"images": self.images, "counts": {" ".join(ngram): count for ngram, count in self.counts.items()}}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> DocumentFrequencies:
        return cls(Counter({tuple(key.split(" ")): count for key, count in saved["counts"].items()}), saved["images"])


@dataclass(frozen=True, slots=True)
class Scores:
    """`per_image` in the order of the hypotheses; `images` is the N of the document frequencies."""

    per_image: dict[Hashable, float]
    images: int

    @property
    def mean(self) -> float:
        return math.fsum(self.per_image.values()) / len(self.per_image)


@dataclass(frozen=True, slots=True)
class _Vector:
    """tf-idf weights by n (position n - 1), their norms, and the length that the penalty compares: of bigrams."""

    weights: tuple[dict[Ngram, float], ...]
    norms: tuple[float, ...]
    length: int


class Cider:
    """CIDEr-D against given document frequencies, one image at a time."""

    def __init__(self, frequencies: DocumentFrequencies) -> None:
        if frequencies.images < 1:
            raise ValueError("CIDEr needs the document frequencies of at least one image")
        self.frequencies = frequencies
        self._log_images = math.log(frequencies.images)

    def score(self, hypothesis: Tokens, references: Sequence[Tokens]) -> float:
        """The image's score in [0, 10]; 0 for a hypothesis without words. Raises ValueError without references."""
        if not references:
            raise ValueError("CIDEr needs at least one reference caption an image")
        ours = self._vector(hypothesis)
        total = sum(self._similarity(ours, self._vector(reference)) for reference in references)
        return 10.0 * total / (ORDERS * len(references))

    def _vector(self, tokens: Tokens) -> _Vector:
        weights: tuple[dict[Ngram, float], ...] = tuple({} for _ in range(ORDERS))
        length = 0
        for ngram, count in ngrams(tokens).items():
            # An n-gram that no reference has is as rare as one that a single image's references have.
            idf = self._log_images - math.log(max(1, self.frequencies.counts.get(ngram, 0)))
            weights[len(ngram) - 1][ngram] = count * idf
            length += count * (len(ngram) == 2)
        return _Vector(weights, tuple(math.sqrt(sum(w * w for w in of_n.values())) for of_n in weights), length)

    @staticmethod
    def _similarity(ours: _Vector, theirs: _Vector) -> float:
        """Summed over n."""
        total = 0.0
        for a, b, norm_a, norm_b in zip(ours.weights, theirs.weights, ours.norms, theirs.norms, strict=True):
            shared = sum(min(weight, b[ngram]) * b[ngram] for ngram, weight in a.items() if ngram in b)
            if norm_a and norm_b:
                total += shared / (norm_a * norm_b)
        return total * math.exp(-((ours.length - theirs.length) ** 2) / (2 * SIGMA**2))


def cider(
    hypotheses: Mapping[Hashable, Tokens],
    references: Mapping[Hashable, Sequence[Tokens]],
    frequencies: DocumentFrequencies | None = None,
) -> Scores:
    """CIDEr-D of all hypotheses, one caption an image. `frequencies`: those of these images' references if None.

    Raises ValueError where there is nothing to score, and KeyError for an image without references.
    """
    if not hypotheses:
        raise ValueError("no captions to score")
    if frequencies is None:
        frequencies = DocumentFrequencies()
        for image in hypotheses:
            frequencies.add(references[image])
    scorer = Cider(frequencies)
    per_image = {image: scorer.score(caption, references[image]) for image, caption in hypotheses.items()}
    return Scores(per_image, frequencies.images)
