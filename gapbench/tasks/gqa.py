"""GQA: compositional questions made from scene graphs (Hudson and Manning, CVPR 2019, arXiv 1902.09506)

Asked: the 12,578 balanced questions of testdev about 398 images; two in five are answered yes or no.
Judged: the answer must be the gold, word for word; programs differ in what they make of an answer before.
Averaged: over all questions; binary and open ones (which ask "query"); per structural type (what is done: verify,
query, choose, logical, compare) and semantic type (what it is about: object, attribute, category, relation, scene).

The official script compares as it stands, but what papers since LLaVA call GQA has passed through LLaVA's conversion
(white space and final periods go, lower case), and so has the variant "official" here; "official-exact" has not.

Rules follow the official eval.py (cs.stanford.edu/people/dorarad/gqa), LLaVA c121f04, lmms-eval 0.7.3 and VLMEvalKit
e8e78f0.
"""

from __future__ import annotations

import string
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gapbench import stats
from gapbench.records import Estimate, InputError, Judgement, Record
from gapbench.responses import Saved, read_answers, read_rows, records_of
from gapbench.skills import skills_of
from gapbench.tasks.base import Response
from gapbench.tasks.prompts import SHORT_ANSWER

VARIANTS = ("official", "official-exact", "lmms-eval", "vlmevalkit")
FILE = "testdev_balanced_questions.json"
QUESTIONS = 12_578

_KEYS = ("questionId", "prediction")  # of the official predictions file
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


# --- What is asked ----------------------------------------------------------------------------------------------------


def prompt(question: str) -> str:
    """The prompt of LLaVA, lmms-eval and VLMEvalKit."""
    return question + SHORT_ANSWER


@dataclass(frozen=True, slots=True)
class Reference:
    """A question and what the judge and the averages need of it; `group` has questions with the same set of answers."""

    image: str
    question: str
    answer: str
    structural: str
    semantic: str
    group: str | None


def read_questions(path: Path) -> dict[str, Reference]:
    """Read the balanced questions of testdev_balanced_questions.json or its folder, by id; other names as they are.

    Raises InputError naming the file and the question for a file that is not the official one.
    """
    file = path / FILE if path.is_dir() else path
    rows = read_rows(file)
    document = rows[0].value if len(rows) == 1 else None
    if not isinstance(document, dict):
        raise InputError(f"{file}: not an official GQA question file, one object with a question an id")
    found = {}
    for name, entry in document.items():
        where = f"{file}: question {name}"
        if not isinstance(entry, dict) or not isinstance(entry.get("isBalanced"), bool):
            raise InputError(f"{where}: does not tell if it isBalanced; give the official GQA question file")
        if entry["isBalanced"]:
            found[name] = _reference(entry, where)
    if len(found) != QUESTIONS and (file.name == FILE or not found):
        raise InputError(f"{file}: {len(found)} balanced questions, the official file has {QUESTIONS}")
    return found


def _reference(entry: Mapping[str, Any], where: str) -> Reference:
    types = entry.get("types") if isinstance(entry.get("types"), dict) else {}
    groups = entry.get("groups") if isinstance(entry.get("groups"), dict) else {}
    texts = {
        "imageId": entry.get("imageId"),
        "question": entry.get("question"),
        "answer": entry.get("answer"),
        "types.structural": types.get("structural"),
        "types.semantic": types.get("semantic"),
    }
    for key, text in texts.items():
        if not isinstance(text, str):
            raise InputError(f"{where}: {key} is not a text; give the official GQA question file")
    return Reference(*texts.values(), groups.get("global"))


# --- How it is judged -------------------------------------------------------------------------------------------------


def normalise(answer: str, variant: str = "official") -> str:
    """What of an answer is compared.

    official        after LLaVA's conversion: without white space around it, then without final periods; lower case
    official-exact  all of it
    lmms-eval       without white space around it, then without any punctuation; lower case
    vlmevalkit      without white space around it; lower case
    """
    if variant == "official-exact":
        return answer
    answer = answer.strip().lower()
    if variant == "official":
        return answer.rstrip(".")
    return answer.translate(_NO_PUNCTUATION) if variant == "lmms-eval" else answer


def judge_answer(reference: Reference, response: Response, variant: str = "official") -> Judgement:
    """Right where the answer is the gold. The details hold all that `metrics` and `distribution` need."""
    gold = reference.answer
    if variant in ("lmms-eval", "vlmevalkit"):  # they change the gold too: "tshirt" is "t-shirt" for lmms-eval
        gold = normalise(gold, variant)
    said = normalise(response, variant) if isinstance(response, str) else None
    details = {
        "gold": gold,
        "said": said,
        "structural": reference.structural,
        "semantic": reference.semantic,
        "group": reference.group,
    }
    return Judgement(float(said == gold), details)


# --- What is averaged over what ---------------------------------------------------------------------------------------


def metrics(records: Sequence[Record]) -> dict[str, Estimate]:
    """accuracy, binary, open, structural/NAME and semantic/NAME. Intervals resample images with all their questions."""
    records = [record for record in records if record.score is not None]
    if not records:
        raise ValueError("no GQA records to compute metrics from")
    types = {
        kind: np.array([record.details.get(kind, "") for record in records]) for kind in ("structural", "semantic")
    }
    groups = {
        "accuracy": np.ones(len(records), dtype=bool),
        "binary": (types["structural"] != "query") & (types["structural"] != ""),
        "open": types["structural"] == "query",
    }
    for kind, of_record in types.items():
        groups |= {f"{kind}/{name}": of_record == name for name in sorted({*of_record.tolist()} - {""})}
    scores = [record.score for record in records]
    return stats.means(scores, [record.cluster for record in records], groups)


def distribution(records: Sequence[Record]) -> float:
    """How far the answers' frequencies are from the golds': chi-square in each group of questions, averaged, over 100.

    Lower is better. It has no interval: resampling moves every frequency, and so only ever adds to the distance.
    Raises ValueError where no question has a group.
    """
    golds: dict[str, Counter] = defaultdict(Counter)
    said: dict[str, Counter] = defaultdict(Counter)
    for record in records:
        group = record.details.get("group")
        if group is not None:
            golds[group][record.details["gold"]] += 1
            said[group][record.details["said"]] += 1
    if not golds:
        raise ValueError("no GQA records with a group to compare the answers of")
    total = 0.0
    for group, counts in golds.items():
        chi_square = sum((said[group][gold] - count) ** 2 / count for gold, count in counts.items())
        total += chi_square * counts.total()
    return total / sum(counts.total() for counts in golds.values()) / 100


# --- Saved answers ----------------------------------------------------------------------------------------------------


def read_saved(path: Path, data: Path | None) -> Saved:
    """Answers as official predictions, a JSON list of {"questionId", "prediction"}, or rows {"id", "response"}."""
    if data is None:
        raise InputError(f"score gqa needs --data, a folder with the official {FILE}")
    references = read_questions(data)
    answers = read_answers(path, references, _KEYS)

    def judge(variant: str) -> list[Record]:
        def one(name: str, response: str) -> tuple[str, tuple[str, ...], Judgement]:
            reference = references[name]
            skills = skills_of("gqa", reference.semantic)
            return reference.image, skills, judge_answer(reference, response, variant)

        return records_of("gqa", answers, one)

    return Saved(answers, judge, (f"data: testdev balanced {len(references)}",))


def remarks(records: Sequence[Record], found: Mapping[str, Estimate]) -> tuple[str, ...]:
    if all(record.details["group"] is None for record in records):
        return ()
    return (f"distribution {distribution(records):.2f}, lower is better (validity and plausibility need other files)",)
