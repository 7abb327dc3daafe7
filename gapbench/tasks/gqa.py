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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gapbench import stats
from gapbench.data import sources
from gapbench.data.parquet import Table, shards
from gapbench.data.pictures import file_picture, image_folder, present
from gapbench.data.sources import check_count, digest
from gapbench.prompts import SHORT_ANSWER
from gapbench.records import Decoding, Estimate, InputError, Item, Judgement, Picture, Question, Record
from gapbench.responses import Saved, few, read_answers, read_rows, records_of
from gapbench.skills import skills_of
from gapbench.tasks.base import Options, QuestionTask, Response

VARIANTS = ("official", "official-exact", "lmms-eval", "vlmevalkit")
FILE = "testdev_balanced_questions.json"
QUESTIONS = 12_578
STRUCTURAL = ("verify", "query", "choose", "logical", "compare")
SEMANTIC = ("obj", "attr", "cat", "rel", "global")

_QUESTION_TABLE, _IMAGE_TABLE = "testdev_balanced_instructions", "testdev_balanced_images"  # configs on the hub
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

    @property
    def truth(self) -> dict[str, str | None]:
        return {
            "answer": self.answer,
            "structural": self.structural,
            "semantic": self.semantic,
            "group": self.group,
        }


def read_questions(path: Path, allow_partial: bool = False) -> dict[str, Reference]:
    """Read the balanced questions, by id: of the hub's parquet files in folder `path`, or of
    testdev_balanced_questions.json or its folder. A file of another name may have any number of them.

    Raises InputError naming the file and the question for a file that is not the official one.
    """
    if files := shards(path, "testdev", (_QUESTION_TABLE,)):
        table = Table(files)
        where, entries = table.name, _table_entries(table)
    else:
        where = str(path / FILE if path.is_dir() else path)
        entries = _file_entries(Path(where))
    found = {}
    for name, entry in entries:
        at = f"{where}: question {name}"
        if not isinstance(entry, dict) or not isinstance(entry.get("isBalanced"), bool):
            raise InputError(f"{at}: does not tell if it isBalanced; give the official GQA questions")
        if name in found:
            raise InputError(f"{at}: is there twice; download the questions again")
        if entry["isBalanced"]:
            found[name] = _reference(entry, at)
    if files or Path(where).name == FILE or not found:
        check_count(where, "balanced questions", len(found), QUESTIONS, allow_partial)
    return found


def _table_entries(table: Table) -> Iterator[tuple[str, Any]]:
    for entry in table.rows(("id", "imageId", "question", "answer", "isBalanced", "groups", "types")):
        yield str(entry["id"]), entry


def _file_entries(file: Path) -> Iterator[tuple[str, Any]]:
    rows = read_rows(file)
    document = rows[0].value if len(rows) == 1 else None
    if not isinstance(document, dict):
        raise InputError(f"{file}: not an official GQA question file, one object with a question an id")
    yield from document.items()


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
            raise InputError(f"{where}: {key} is not a text; give the official GQA questions")
    for key, known in (("types.structural", STRUCTURAL), ("types.semantic", SEMANTIC)):
        if texts[key] not in known:
            raise InputError(f"{where}: {key} {texts[key]!r} is none of {', '.join(known)}")
    group = groups.get("global")
    if group is not None and not isinstance(group, str):
        raise InputError(f"{where}: groups.global {group!r} is not a text; give the official GQA questions")
    return Reference(*texts.values(), group)


def read_pictures(folder: Path, images: Sequence[str], allow_partial: bool = False) -> dict[str, Picture]:
    """The pictures of the image ids, of the hub's parquet files in the order of their rows, or of images/ID.jpg.

    Raises InputError naming the first ids without an image, unless `allow_partial`; and where none has one.
    """
    files = shards(folder, "testdev", (_IMAGE_TABLE,))
    if not files:
        if (folder / _QUESTION_TABLE).is_dir():
            raise InputError(f"{folder / _IMAGE_TABLE}: no testdev-*.parquet in it; download the images too")
        inside = image_folder(folder, ("images",))
        there = present(inside, (f"{image}.jpg" for image in images), allow_partial)
        paths = {image: inside / f"{image}.jpg" for image in images if f"{image}.jpg" in there}
        return {image: file_picture(path, f"gqa/{image}") for image, path in paths.items()}
    table, wanted = Table(files), set(images)
    found: dict[str, Picture] = {}
    for position, row in enumerate(table.rows(("id",))):
        image = str(row["id"])
        if image in found:
            raise InputError(f"{table.name}: row {position}: image {image} is there twice; download it again")
        if image in wanted:
            found[image] = table.picture(position, f"gqa/{image}")
    missing = [image for image in images if image not in found]
    if missing and (not found or not allow_partial):
        raise InputError(
            f"{table.name}: {len(missing)} of {len(images)} images are missing ({few(missing)}); download them again"
        )
    return found


def item_of(name: str, reference: Reference, picture: Picture) -> Item:
    ask = Question(name, prompt(reference.question), (picture,))
    return Item(name, reference.image, skills_of("gqa", reference.semantic), ask, reference.truth)


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
    return _judge(reference.truth, response, variant)


def judge_item(item: Item, response: Response, variant: str = "official") -> Judgement:
    """`judge_answer` of an item."""
    return _judge(item.truth, response, variant)


def _judge(truth: Mapping[str, Any], response: Response, variant: str) -> Judgement:
    types = dict(truth)
    gold = types.pop("answer")
    if variant in ("lmms-eval", "vlmevalkit"):  # they change the gold too: "tshirt" is "t-shirt" for lmms-eval
        gold = normalise(gold, variant)
    said = normalise(response, variant) if isinstance(response, str) else None
    return Judgement(float(said == gold), {"gold": gold, "said": said, **types})


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
    references = read_questions(sources.find("gqa", data, fetch=False).folder)
    answers = read_answers(path, references, _KEYS)

    def judge(variant: str) -> list[Record]:
        def one(name: str, response: str) -> tuple[str, tuple[str, ...], Judgement]:
            reference = references[name]
            skills = skills_of("gqa", reference.semantic)
            return reference.image, skills, judge_answer(reference, response, variant)

        return records_of("gqa", answers, one)

    return Saved(answers, judge, (f"data: {_told(references)}",))


def remarks(records: Sequence[Record], found: Mapping[str, Estimate]) -> tuple[str, ...]:
    notes = []
    if any(record.details["group"] is not None for record in records):
        told = f"distribution {distribution(records):.2f}, lower is better"
        notes.append(f"{told} (validity and plausibility need other files)")
    for kind in ("structural", "semantic"):
        of_kind = {name.removeprefix(f"{kind}/"): e.value for name, e in found.items() if name.startswith(f"{kind}/")}
        notes.append(f"{kind}: {', '.join(f'{name} {value:.4f}' for name, value in of_kind.items())}")
    return tuple(notes)


# --- The task ---------------------------------------------------------------------------------------------------------


def _told(references: Mapping[str, Reference]) -> str:
    rows = sorted((name, *astuple(reference)) for name, reference in references.items())
    return f"testdev balanced {len(rows)}; rows {digest(rows)}"


def task(
    name: str, references: Mapping[str, Reference], pictures: Mapping[str, Picture], whole: int, data: str
) -> QuestionTask:
    """Items in the order of `pictures`, for in that order a table's images are read once."""
    of_image: dict[str, list[Item]] = {image: [] for image in pictures}
    for question, reference in references.items():
        of_image[reference.image].append(item_of(question, reference, pictures[reference.image]))
    items = [item for of_one in of_image.values() for item in of_one]
    told = {"data": data, "prompt": prompt("{question}"), "scoring": "official"}
    return QuestionTask(name, "1", items, whole, Decoding(max_new_tokens=16), judge_item, metrics, told)


def real(options: Options) -> QuestionTask:
    folder = sources.find("gqa", options.data).folder
    references = read_questions(folder, options.allow_partial)
    images = list(dict.fromkeys(reference.image for reference in references.values()))
    pictures = read_pictures(folder, images, options.allow_partial)
    asked = {name: reference for name, reference in references.items() if reference.image in pictures}
    return task("gqa", asked, pictures, QUESTIONS, _told(asked))


def mini(options: Options) -> QuestionTask:
    """GQA of the miniature world: the kinds of questions of its language, by what GQA would call them."""
    from gapbench.miniature import benchmarks

    rows = benchmarks.gqa_rows()
    references = {
        row.id: Reference(row.image, row.text, row.answer, row.structural, row.semantic, None) for row in rows
    }
    return task("gqa-mini", references, {row.image: row.picture for row in rows}, len(rows), benchmarks.DATA)
