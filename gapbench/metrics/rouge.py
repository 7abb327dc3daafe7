"""ROUGE-L of a caption (Lin, ACL 2004), as pycocoevalcap 1.2 computes it; the set's is the mean over images.

An F-measure (beta 1.2) of the longest common subsequence: its share of the hypothesis and its share of the reference,
each at its best over the references, not necessarily of the same one.
"""

from __future__ import annotations

from collections.abc import Sequence

BETA = 1.2


def rouge_l(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The image's score in [0, 1]. Raises ValueError without references.

    A caption without words counts as one empty word, as it does there: it scores 1 against an empty reference.
    """
    if not references:
        raise ValueError("ROUGE-L needs at least one reference caption an image")
    ours = list(hypothesis) or [""]
    theirs = [list(reference) or [""] for reference in references]
    common = [_longest_common_subsequence(ours, reference) for reference in theirs]
    precision = max(common) / len(ours)
    recall = max(length / len(reference) for length, reference in zip(common, theirs, strict=True))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, start=1):
            above = row[j]
            row[j] = diagonal + 1 if x == y else max(above, row[j - 1])
            diagonal = above
    return row[-1]
