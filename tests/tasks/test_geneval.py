"""GenEval's decisions against the official scorer (golden/generation) and its averages by hand."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from gapbench.metrics.relations import Box
from gapbench.records import Record
from gapbench.tasks.geneval import TAGS, Found, decide, keep, metrics


def found_of(case: dict) -> dict[str, list[Found]]:
    return {
        name: [Found(Box(*o["bbox"]), o["score"], lambda o=o: o["color"]) for o in objects]
        for name, objects in case["detections"].items()
    }


@pytest.fixture(scope="module")
def cases(shared: Path) -> list[dict]:
    lines = (shared / "golden" / "generation" / "geneval_logic_golden.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_official_decisions(cases: list[dict]) -> None:
    assert len(cases) > 400
    for case in cases:
        kept = keep(found_of(case), case["metadata"]["tag"])
        assert decide(case["metadata"], kept)[0] == case["correct"], case
        boxes = {name: [[*o.box, float(np.float32(o.score))] for o in objects] for name, objects in kept.items()}
        assert boxes == {name: objects for name, objects in case["kept"].items() if objects}, case


def test_decisions_do_not_depend_on_detection_order(cases: list[dict]) -> None:
    rng = random.Random(0)
    for case in cases[:150]:
        found = found_of(case)
        scores = [o.score for objects in found.values() for o in objects]
        if len(set(scores)) < len(scores):
            continue  # ties are broken by order, in the official script too
        shuffled = {name: rng.sample(objects, len(objects)) for name, objects in found.items()}
        tag = case["metadata"]["tag"]
        assert decide(case["metadata"], keep(shuffled, tag)) == decide(case["metadata"], keep(found, tag))


def record(tag: str, prompt: int, seed: int, score: float) -> Record:
    return Record("geneval", f"{prompt:05d}", f"{prompt:05d}", (), seed, "", score, {"tag": tag})


def test_overall_is_the_mean_of_kinds_not_of_images() -> None:
    records = [record("single_object", 0, seed, 1.0) for seed in range(4)]
    records += [record("counting", prompt, seed, float(seed == 0)) for prompt in (1, 2, 3) for seed in range(4)]
    result = metrics(records)
    assert result["single_object"].value == 1.0
    assert result["counting"].value == 0.25
    assert result["overall"].value == (1.0 + 0.25) / 2
    assert result["images"].value == 7 / 16
    assert result["prompts"].value == 1.0
    assert (result["counting"].n, result["counting"].clusters) == (12, 3)
    assert list(result) == ["overall", *[t for t in TAGS if t in ("single_object", "counting")], "images", "prompts"]


def test_interval_counts_prompts_not_images() -> None:
    rng = np.random.default_rng(0)
    records = [record("colors", p, s, float(p % 2)) for p in range(40) for s in range(4)]
    alone = [record("colors", p, 0, float(rng.random() < 0.5)) for p in range(160)]
    wide, narrow = metrics(records)["overall"], metrics(alone)["overall"]
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
