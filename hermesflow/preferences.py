"""Candidates -> pairs: of what a model made of an item, the best over the worst, where the difference is real.

Source: HermesFlow (arXiv 2502.12148), section 4.1 and, for `renew`, its equations (9) and (10). Joined by id, never by
position. A side that fails its filter is absent from the pair and never filled from elsewhere; an item without any side
gives no pair. Both are counted by reason.

A candidate whose score is unknown takes no part, and neither does a drawing with a question that nobody could judge:
its share is of other questions than the others'. Of captions with the same text, and of drawings with the same codes,
one takes part. A caption that did not end by itself never wins: to prefer it would teach to break off there, or never
to end. It may lose. Where scores are equal, the candidate that was made first counts as the better and as the worse.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

from gapbench.records import InputError
from hermesflow.records import Candidates, CaptionCandidate, ImageCandidate, Pair, Pairs, Preference

C = TypeVar("C", CaptionCandidate, ImageCandidate)

TOO_CLOSE = "best not better than worst"
NO_BETTER = "no better than in the iteration before"


@dataclass(frozen=True, slots=True)
class Rule:
    """What makes a pair. The best drawing's score must be above `image_threshold`, and a winner's score above its
    loser's by more than the margin.

    per_item: at most so many pairs of an item, the second best over the second worst, and so on; the second is called
    ID#2. As chosen, no winner of one pair is the loser of another. trust: see `as_trusted`; None is the paper's.
    """

    image_threshold: float = 0.6
    image_margin: float = 0.0
    caption_margin: float = 0.0
    per_item: int = 1
    trust: float | None = None

    def __post_init__(self) -> None:
        if self.trust is not None and not 0 <= self.trust <= 1:
            raise InputError(f"trust is {self.trust}; give a share from 0 to 1")
        for name in ("image_threshold", "image_margin", "caption_margin"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give a number of at least 0 and below 1")
        if self.per_item < 1:
            raise InputError(f"per_item is {self.per_item}; give at least 1")


def as_trusted(
    candidates: Iterable[Candidates], trust: float, diagnostics: Mapping[str, Any] | None
) -> Iterator[Candidates]:
    """Where a model judged its own drawings, these scored anew by the questions that it can be trusted with.

    Those are the questions that it also answers rightly about the real image, of skills in whose diagnostics U is at
    least `trust`; a skill that was not measured is taken as all are. A drawing's score is the share of right answers
    among them; NaN, which is unknown, where there are none.
    """
    skills = {} if diagnostics is None else diagnostics["skills"]
    overall = 1.0 if diagnostics is None else diagnostics["overall"]["U"]["value"]

    def can_judge(skill: str) -> bool:
        return skills.get(skill, {}).get("U", {}).get("value", overall) >= trust

    for item in candidates:
        if not item.understood:  # another judged
            yield item
            continue
        asked = zip(item.skills, item.understood, strict=True)
        counted = [at for at, (skill, understood) in enumerate(asked) if understood and can_judge(skill)]
        images = tuple(
            replace(image, score=sum(bool(image.right[at]) for at in counted) / len(counted) if counted else math.nan)
            for image in item.images
        )
        yield replace(item, images=images)


def choose(candidates: Iterable[Candidates], rule: Rule) -> Pairs:
    """Of each item the best candidate of each side over the worst, in the items' order.

    Raises InputError where two items, or pairs, have one id.
    """
    return _paired(candidates, {}, rule)


def renew(candidates: Iterable[Candidates], old: Sequence[Pair], rule: Rule) -> Pairs:
    """Iteration k >= 2, from new candidates and the pairs of iteration k - 1. On each side, the new best goes

    - over the old winner, if it is better;
    - else over the old loser, if it is better than that, which the paper does not ask for;
    - else nowhere: the side is absent. Where the old pair lacks the side, `choose` decides.

    "Better" is by more than the margin, and the threshold holds here too. Raises InputError where two items, or pairs,
    have one id, and where an item has changed since.
    """
    known: dict[str, Pair] = {}
    for pair in old:
        if pair.id in known:
            raise InputError(f"pair {pair.id}: is there twice among the old pairs; keep one of them")
        known[pair.id] = pair
    return _paired(candidates, known, rule)


def _paired(candidates: Iterable[Candidates], old: Mapping[str, Pair], rule: Rule) -> Pairs:
    pairs: dict[str, Pair] = {}
    items: set[str] = set()
    asked: set[str] = set()
    dropped: Counter[str] = Counter()
    for item in candidates:
        if item.id in items:
            raise InputError(f"item {item.id}: is there twice among the candidates; keep one of them")
        items.add(item.id)
        captions, drawings = _captions(item, rule), _drawings(item, rule)
        dropped["single captions without a score"] += captions.unknown
        dropped["single drawings without a score"] += drawings.unknown
        for rank in range(rule.per_item):
            name = item.id if rank == 0 else f"{item.id}#{rank + 1}"
            if name in asked:
                raise InputError(f"item {item.id}: its pair {name} has another item's id; rename the item")
            asked.add(name)
            before = _same(item, old.get(name))
            caption, why_no_caption = captions.preference(rank, before and before.captions)
            drawing, why_no_drawing = drawings.preference(rank, before and before.images)
            if caption or drawing:
                pairs[name] = Pair(name, item.cluster, item.caption, item.skills, item.codes, caption, drawing)
            if rank == 0:
                dropped[f"captions: {why_no_caption}"] += caption is None
                dropped[f"drawings: {why_no_drawing}"] += drawing is None
                dropped["items without a pair"] += name not in pairs
    dropped["old pairs without candidates"] += len(old.keys() - asked)
    return Pairs(tuple(pairs.values()), {reason: count for reason, count in sorted(dropped.items()) if count})


def _same(item: Candidates, before: Pair | None) -> Pair | None:
    if before is not None and (before.caption, before.skills) != (item.caption, item.skills):
        raise InputError(f"item {item.id}: has another caption or other questions than its old pair; begin anew")
    return before


class _Found(NamedTuple, Generic[C]):
    preference: Preference[C] | None
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class _Side(Generic[C]):
    """Candidates that may win, best first, and all, worst first; `lacking` says why there are no more that may win,
    `unknown` is how many have no score.
    """

    best: Sequence[C]
    worst: Sequence[C]
    lacking: str
    unknown: int
    margin: float

    def preference(self, rank: int, old: Preference[C] | None) -> _Found[C]:
        if rank >= len(self.best):
            return _Found(None, self.lacking)
        win = self.best[rank]
        for lose in (self.worst[rank],) if old is None else (old.win, old.lose):
            if win.score - lose.score > self.margin and _content(win) != _content(lose):
                return _Found(Preference(win, lose))
        return _Found(None, TOO_CLOSE if old is None else NO_BETTER)


def _captions(item: Candidates, rule: Rule) -> _Side[CaptionCandidate]:
    known = [caption for caption in item.captions if math.isfinite(caption.score)]
    return _side(item.captions, known, lambda caption: caption.ended, "none ended by itself", rule.caption_margin)


def _drawings(item: Candidates, rule: Rule) -> _Side[ImageCandidate]:
    known = [drawing for drawing in item.images if math.isfinite(drawing.score) and None not in drawing.right]
    none_good = f"none above {rule.image_threshold:g}"
    return _side(item.images, known, lambda drawing: drawing.score > rule.image_threshold, none_good, rule.image_margin)


def _side(
    made: Sequence[C], known: Sequence[C], may_win: Callable[[C], bool], none_may: str, margin: float
) -> _Side[C]:
    first: dict[str | tuple[int, ...], C] = {}
    for candidate in known:
        same = first.setdefault(_content(candidate), candidate)
        if may_win(candidate) and not may_win(same):  # the same caption, once cut off and once ended
            first[_content(candidate)] = candidate
    # Sorting is stable, so of equal scores the first made comes first.
    worst = sorted(first.values(), key=lambda candidate: candidate.score)
    best = sorted(filter(may_win, first.values()), key=lambda candidate: -candidate.score)
    lacking = none_may if known else "no score known" if made else "none made"
    return _Side(best, worst, lacking, len(made) - len(known), margin)


def _content(candidate: CaptionCandidate | ImageCandidate) -> str | tuple[int, ...]:
    if isinstance(candidate, CaptionCandidate):
        return " ".join(candidate.text.split())
    return candidate.codes
