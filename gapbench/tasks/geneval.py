"""GenEval: does an image show the objects, counts, colors and positions of its prompt?

Ghosh et al., NeurIPS 2023, arXiv 2310.11513.

Asked: short prompts of six kinds (one object, two, a count, a color, a position, two colors bound to two objects),
several images each, every image from its own seed.
Judged: an object detector finds objects; a color head names the color of those whose color is asked; `decide` says
whether everything asked for is there.
Averaged: per kind over its images; overall is the plain mean of the six kinds, however many images each has.

Rules follow djghosh13/geneval at af4902f (`evaluate_images.py`, `summary_scores.py`) with its default options.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from gapbench import stats
from gapbench.data.sources import digest
from gapbench.judges.color_head import Found
from gapbench.metrics.relations import relations
from gapbench.records import Estimate, Failure, Item, Judgement, Prompt, Record
from gapbench.skills import skills_of
from gapbench.tasks.base import Drawings, Options, Response

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
IMAGES_PER_PROMPT = 4
THRESHOLD, COUNTING_THRESHOLD, MOST_OBJECTS = 0.3, 0.9, 16


# Detects the objects of pictures: for each, class name -> what was found, in any order and of any score.
Detector = Callable[[Sequence[Any]], Sequence[Mapping[str, Sequence[Found]]]]

PROMPTS = {"geneval": "evaluation_metadata.jsonl", "geneval-rewritten": "rewritten_show_o2.jsonl"}


# --- How it is judged -------------------------------------------------------------------------------------------------


def keep(found: Mapping[str, Sequence[Found]], tag: str) -> dict[str, list[Found]]:
    """Detections above the threshold, best first, at most 16 a class. Counting prompts ask for more confidence.

    Scores are compared in float32, as the detector gives them.
    """
    threshold = np.float32(COUNTING_THRESHOLD if tag == "counting" else THRESHOLD)
    kept = {}
    for name, objects in found.items():
        sure = [o for o in objects if np.float32(o.score) > threshold]
        sure.sort(key=lambda o: -np.float32(o.score))
        if sure:
            kept[name] = sure[:MOST_OBJECTS]
    return kept


def decide(metadata: Mapping[str, Any], objects: Mapping[str, Sequence[Found]]) -> tuple[bool, list[str]]:
    """Whether an image with these kept `objects` shows what the prompt's metadata asks for, and what is missing.

    More objects than asked are fine, unless the prompt excludes them, but only the most confident `count` are looked
    at; all of them must have the color and, each against each of the target group, the position.
    """
    reasons: list[str] = []
    groups: list[Sequence[Found] | None] = []
    for wanted in metadata.get("include", ()):
        name, count = wanted["class"], wanted["count"]
        found = list(objects.get(name, ()))[:count]
        missing = None
        if len(found) < count:
            missing = f"{count} {name}: found {len(found)}"
        elif "color" in wanted:
            colors = [o.color() for o in found]
            if colors.count(wanted["color"]) < count:
                missing = f"{count} {wanted['color']} {name}: found {', '.join(colors)}"
        if missing is None and "position" in wanted:
            relation, target = wanted["position"]
            others = groups[target]
            if others is None:
                missing = f"{name} {relation} a target that is not there"
            elif not all(relation in relations(a.box, b.box) for a in found for b in others):
                missing = f"{name} not {relation} its target"
        if missing is not None:
            reasons.append(missing)
        groups.append(found if missing is None else None)
    for unwanted in metadata.get("exclude", ()):
        if len(objects.get(unwanted["class"], ())) >= unwanted["count"]:
            reasons.append(f"fewer than {unwanted['count']} {unwanted['class']}")
    return not reasons, reasons


# --- What is averaged over what ---------------------------------------------------------------------------------------


def metrics(records: Sequence[Record]) -> dict[str, Estimate]:
    """overall, then each kind, then images (the mean over all images) and prompts (share with any right image).

    A record's details tell its `tag`. Intervals resample prompts within their kind, so the kinds keep their sizes.
    """
    records = [record for record in records if record.score is not None]
    tag_of = [record.details["tag"] for record in records]
    tags = [tag for tag in TAGS if tag in tag_of]
    best: dict[str, float] = {}
    for record in records:
        best[record.cluster] = max(best.get(record.cluster, 0.0), record.score)
    images_of = Counter(record.cluster for record in records)

    # Per record: score and count in its kind's two columns; then shares of its prompt's best image and of the prompt.
    contributions = np.zeros((len(records), 2 * len(tags) + 2))
    for row, (record, tag) in enumerate(zip(records, tag_of, strict=True)):
        column = 2 * tags.index(tag)
        contributions[row, column : column + 2] = record.score, 1
        contributions[row, -2:] = np.array([best[record.cluster], 1]) / images_of[record.cluster]

    def table(sums: np.ndarray) -> np.ndarray:
        kinds = sums[:, :-2].reshape(len(sums), len(tags), 2)
        scores = stats.ratio(kinds)
        images = stats.ratio(kinds.sum(axis=1))
        prompts = stats.ratio(sums[:, -2:])
        return np.concatenate([scores.mean(axis=1)[:, None], scores, images[:, None], prompts[:, None]], axis=1)

    everything = np.ones(len(records), dtype=bool)
    counted = {"overall": everything}
    counted |= {tag: np.array([t == tag for t in tag_of]) for tag in tags}
    counted |= {"images": everything, "prompts": everything}
    clusters = [record.cluster for record in records]
    return stats.estimates(contributions, clusters, table, counted, strata=tag_of)


# --- The task ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GenEval:
    """GenEval over any prompts in its metadata form, with any detector."""

    name: str
    prompts: Sequence[Mapping[str, Any]]
    detector: Detector
    detector_name: str | Mapping[str, Any]  # all that can change what it finds
    data: str
    images_per_prompt: int = IMAGES_PER_PROMPT
    seed: int = 0

    version = "1"
    side = "generation"
    parts = ("",)
    decoding = None

    def items(self, part: str, drawings: Drawings) -> list[Item]:
        found = []
        for number, metadata in enumerate(self.prompts):
            name = f"{number:05d}"
            for image in range(self.images_per_prompt):
                prompt = Prompt(name, metadata["prompt"], self.seed + image)
                skills = skills_of("geneval", metadata["tag"])
                found.append(Item(name, name, skills, prompt, {"metadata": metadata, "tag": metadata["tag"]}))
        return found

    def judge(self, items: Sequence[Item], responses: Sequence[Response]) -> list[Judgement]:
        detected = iter(self.detector([r for r in responses if not isinstance(r, Failure)]))
        judgements = []
        for item, response in zip(items, responses, strict=True):
            metadata = item.truth["metadata"]
            kept: dict[str, list[Found]] = {}
            correct, missing = False, ["no image"]
            if not isinstance(response, Failure):
                kept = keep(next(detected), metadata["tag"])
                correct, missing = decide(metadata, kept)
            details = {
                "tag": metadata["tag"],
                "prompt": metadata["prompt"],
                "missing": missing,
                "found": {
                    name: [[*map(float, o.box), float(o.score)] for o in objects] for name, objects in kept.items()
                },
            }
            judgements.append(Judgement(float(correct), details))
        return judgements

    def metrics(self, records: Sequence[Record]) -> dict[str, Estimate]:
        return metrics(records)

    def protocol(self) -> dict[str, Any]:
        return {
            "prompts": self.data,
            "images_per_prompt": self.images_per_prompt,
            "first_seed": self.seed,
            "detector": self.detector_name,
            "rules": "geneval af4902f",
        }


def read_prompts(name: str) -> tuple[list[dict[str, Any]], str]:
    """The 553 prompts, which come with the package, and their name for reports; a name of PROMPTS."""
    text = (resources.files("gapbench") / "data" / "geneval" / PROMPTS[name]).read_text(encoding="utf-8")
    prompts = [json.loads(line) for line in text.split("\n") if line]
    return prompts, f"{PROMPTS[name]}, {len(prompts)}; {digest(prompts)}"


def real(options: Options, name: str = "geneval") -> GenEval:
    """GenEval with its detector and color head. `options.judge` is the detector: a folder or repository in
    transformers' layout, or OpenMMLab's checkpoint; in its folder CLIP is looked for before the hub.
    """
    prompts, data = read_prompts(name)
    if not options.pictures:  # only what is asked
        return GenEval(name, prompts, lambda pictures: [], "none", data, seed=options.seed)
    import torch

    from gapbench.judges import color_head, mask2former

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    where = options.judge or mask2former.REPO
    beside = (Path(where) if Path(where).is_dir() else Path(where).parent) / color_head.REPO.rpartition("/")[2]
    head = color_head.load(str(beside) if beside.is_dir() else color_head.REPO, device)
    detector = color_head.ColoredObjects(mask2former.load(where, device), head)
    return GenEval(name, prompts, detector, detector.describe(), data, seed=options.seed)


def rewritten(options: Options) -> GenEval:
    """GenEval with the longer prompts that Show-o2 draws from: another task, whose numbers do not compare.

    Rewriting alone has been worth 0.04 to 0.08 (BAGEL).
    """
    return real(options, "geneval-rewritten")


def mini(options: Options) -> GenEval:
    """GenEval of the miniature world: its prompts, its eye, the same decisions."""
    from gapbench.miniature import eye
    from gapbench.miniature import prompts as miniature

    def detector(pictures: Sequence[Any]) -> list[dict[str, list[Found]]]:
        detected = []
        for picture in pictures:
            found: dict[str, list[Found]] = {}
            for thing in eye.detect(picture):
                # The eye reports only what it is sure of, so every object passes GenEval's thresholds.
                found.setdefault(thing.shape, []).append(Found(thing.box, 1.0, lambda thing=thing: thing.color))
            detected.append(found)
        return detected

    prompts = miniature.geneval_prompts()
    return GenEval("geneval-mini", prompts, detector, "exact eye", miniature.GENEVAL_DATA, seed=options.seed)
