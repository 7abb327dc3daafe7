"""MMMU (validation): college-level questions about figures (Yue et al., CVPR 2024, arXiv 2311.16502)

Asked: 30 questions in each of 30 subjects, 847 multiple-choice and 53 open ones, about one to five pictures each.
Judged: a multiple-choice answer is searched for an option letter, then for an option's text, and must name the gold
letter; an open answer is cut down to candidate strings and numbers, one of which must hold the gold.
Averaged: the share of right answers over all questions (micro), per discipline and per subject.

Where no option is found the official script draws one at random (seed 42), so its number depends on the order of the
questions. Here such an answer is unparsed and wrong, and the official number is given beside it.

How answers are read stands in mmmu_parsing.py; the prompt is lmms-eval's.
"""

from __future__ import annotations

import ast
import math
import random
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gapbench import stats
from gapbench.data import sources
from gapbench.data.parquet import Table, shards
from gapbench.data.sources import check_count, digest
from gapbench.prompts import SHORT_ANSWER
from gapbench.records import Decoding, Estimate, InputError, Item, Judgement, Picture, Question, Record
from gapbench.skills import skills_of
from gapbench.tasks.base import Options, QuestionTask, Response, by_picture
from gapbench.tasks.mmmu_parsing import eval_open, infer, parse_choice, parse_open

VARIANTS = ("official", "official-random", "lmms-eval", "vlmevalkit")

DISCIPLINES = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Psychology", "Sociology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
DISCIPLINE_OF = {subject: discipline for discipline, subjects in DISCIPLINES.items() for subject in subjects}
MINIATURE = ("Color", "Count", "Shape")  # the subjects of mmmu-mini, of no discipline
# In the official order: subjects by name, questions by number.
VALIDATION_IDS = tuple(f"validation_{subject}_{number}" for subject in sorted(DISCIPLINE_OF) for number in range(1, 31))


# --- What is asked ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reference:
    """What the judge needs of a question. Several answers are all right; `options` maps letters to texts.

    `options` is None where they are not known (answer_dict_val.json has none): then a response must be a letter.
    """

    id: str
    open: bool
    answers: tuple[str, ...]
    options: Mapping[str, str] | None = None


def gold_answers(gold: Any) -> tuple[str, ...]:
    """The accepted answers. Three golds are lists, which the hub's copy stores as text: "['24/7', '3.429']"."""
    if isinstance(gold, str):
        try:
            listed = ast.literal_eval(gold) if gold.startswith("[") else None
        except (ValueError, SyntaxError):
            listed = None
        # Else it is a text that looks like a list: "[0, 1)" and "[1, 2]" are intervals.
        texts = isinstance(listed, list) and listed and all(isinstance(answer, str) for answer in listed)
        gold = listed if texts else gold
    answers = tuple(gold) if isinstance(gold, list) else (gold,)
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise InputError(f"gold answer {gold!r} is neither a text nor a list of texts")
    return answers


def place(question_id: str) -> tuple[str, int]:
    """validation_Art_Theory_7 -> ("Art_Theory", 7)."""
    match = re.fullmatch(r"[a-z]+_(\w+)_(\d+)", question_id)
    if match is None or match[1] not in (*DISCIPLINE_OF, *MINIATURE):
        raise InputError(f"{question_id!r} is not an MMMU id such as validation_Art_Theory_7")
    return match[1], int(match[2])


_IMAGE = re.compile(r"<image (\d+)>")
_COLUMNS = ("id", "question", "options", "answer", "question_type")


def prompt(question: str, options: Mapping[str, str] | None) -> str:
    """lmms-eval's prompt, without options that of an open question; pictures are named "<image>", all alike."""
    lines = [question, *(f"{letter}. {option}" for letter, option in (options or {}).items())]
    choice = "\n\nAnswer with the option's letter from the given choices directly."
    return _IMAGE.sub("<image>", "\n".join(lines)) + ("\n" + SHORT_ANSWER if options is None else choice)


def lettered(options: Sequence[str]) -> dict[str, str]:
    return {chr(ord("A") + number): option for number, option in enumerate(options)}


@dataclass(frozen=True, slots=True)
class Annotations:
    """Items in the official order, and the name of the data for reports."""

    items: tuple[Item, ...]
    data: str


def read(folder: Path, pictures: bool = True, allow_partial: bool = False) -> Annotations:
    """Read the validation questions of the hub's parquet files, SUBJECT/validation-*.parquet or all subjects merged.

    Raises InputError, one line that names file and row, for files that are not the official ones; with `pictures` also
    where they have no column for a picture that is asked about.
    """
    items: dict[str, Item] = {}
    rows: dict[str, Any] = {}
    for table in map(Table, files(Path(folder), allow_partial)):
        for number, row in enumerate(table.rows(_COLUMNS)):
            where = f"{table.name}: row {number}"
            reference, question = _checked(row, where)
            name = reference.id
            if name in items:
                raise InputError(f"{where}: question {name} is there twice")
            named = _IMAGE.findall("\n".join([question, *(reference.options or {}).values()]))
            shown = [f"image_{n}" for n in sorted(set(map(int, named)))]
            lacking = next((column for column in shown if not table.has(column)), None)
            if pictures and lacking is not None:
                raise InputError(f"{where}: {name} asks about {lacking}, but there is no such column")
            opened = tuple(table.picture(number, f"{name}/{column}", column) for column in shown)
            items[name] = item_of(reference, question, opened, cluster=name)
            rows[name] = name, question, reference.options, reference.answers
    check_count(folder, "questions", len(items), len(VALIDATION_IDS), allow_partial)
    asked = [name for name in VALIDATION_IDS if name in items]
    data = f"validation {len(asked)}; rows {digest(rows[name] for name in asked)}"
    return Annotations(tuple(items[name] for name in asked), data)


def files(folder: Path, allow_partial: bool = False) -> list[list[Path]]:
    """The parquet files in `folder`, those of a subject together."""
    if merged := shards(folder, "validation"):
        return [merged]
    by_subject = {subject: shards(folder / subject, "validation") for subject in sorted(DISCIPLINE_OF)}
    lacking = [subject for subject, held in by_subject.items() if not held]
    if len(lacking) == len(by_subject):
        raise InputError(f"{folder}: no validation-*.parquet in this folder nor in one for each subject")
    if lacking and not allow_partial:
        what = f"{folder / lacking[0]}: no validation-*.parquet in this folder"
        raise InputError(f"{what}; add it, or measure the other subjects with --allow-partial")
    return [held for held in by_subject.values() if held]


def _checked(row: Mapping[str, Any], where: str) -> tuple[Reference, str]:
    name, question, kind = row["id"], row["question"], row["question_type"]
    if name not in VALIDATION_IDS:
        raise InputError(f"{where}: {name!r} is not the id of an MMMU validation question")
    if not isinstance(question, str) or kind not in ("multiple-choice", "open", "short-answer"):
        raise InputError(f"{where}: {name}: question of type {kind!r}; download the file again")
    try:
        answers = gold_answers(row["answer"])
        options = ast.literal_eval(row["options"]) if kind == "multiple-choice" else None
    except (ValueError, SyntaxError) as error:
        raise InputError(f"{where}: {name}: {error}") from error
    if options is None:
        return Reference(name, True, answers), question
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise InputError(f"{where}: {name}: options {row['options']!r} are not a list of texts")
    if not set(answers) <= set(lettered(options)):
        raise InputError(f"{where}: {name}: gold {row['answer']!r} is no letter of its {len(options)} options")
    return Reference(name, False, answers, lettered(options)), question


def item_of(reference: Reference, question: str, pictures: Sequence[Picture], cluster: str) -> Item:
    options = reference.options
    ask = Question(reference.id, prompt(question, options), tuple(pictures), tuple(options or ()))
    skills = skills_of("mmmu", place(reference.id)[0])
    return Item(reference.id, cluster, skills, ask, {"reference": reference})


# --- How it is judged -------------------------------------------------------------------------------------------------


def judge_answer(reference: Reference, response: Response, variant: str = "official") -> Judgement:
    """The details say what was read off the response: a letter, None where there was none, or an open answer's forms.

    Where it is None they also hold the letters to choose from, for `guess`. A failure has said nothing, and gets none.

    VLMEvalKit makes a choice of an open question: A is its gold, B is "Other Answers". The letter that it then looks
    for was never offered to the model, so such an answer is hardly ever right. lmms-eval and VLMEvalKit take a list of
    golds for the text that their table has in its place.
    """
    details: dict[str, Any] = {"type": "open" if reference.open else "multiple-choice", "gold": list(reference.answers)}
    if not isinstance(response, str):
        return Judgement(0.0, details)
    if variant == "vlmevalkit" and (reference.open or reference.options is not None):
        said, gold = _inferred(reference, response)
        return Judgement(float(said == gold), {**details, "said": said})
    if reference.open:
        candidates = parse_open(response)
        golds = (_in_the_table(reference),) if variant == "lmms-eval" else reference.answers
        # JSON has neither infinity nor what is no number.
        said = [one if isinstance(one, str) or math.isfinite(one) else str(one) for one in candidates]
        return Judgement(float(eval_open(golds, candidates)), {**details, "said": said})
    if reference.options is None:
        said = _bare_letter(reference.id, response)
    else:
        said = parse_choice(response, reference.options, variant)
        if said is None:
            details["choices"] = list(reference.options)
    return Judgement(float(said in reference.answers), {**details, "said": said})


def judge_item(item: Item, response: Response) -> Judgement:
    return judge_answer(item.truth["reference"], response)


def _inferred(reference: Reference, response: str) -> tuple[str | None, str]:
    """What VLMEvalKit reads off a response, and the letter that it holds for right."""
    if not reference.open:
        return infer(response, reference.options), reference.answers[0]
    gold = _in_the_table(reference)
    return infer(response, {"A": gold, "B": "Other Answers"}), gold if gold in string.ascii_uppercase else "A"


def _in_the_table(reference: Reference) -> str:
    """The gold as the hub's tables have it: a list as text."""
    first, *others = reference.answers
    return str([first, *others]) if others else first


def _bare_letter(question_id: str, response: str) -> str | None:
    """An answer that was parsed elsewhere: a letter, or nothing."""
    if response and not re.fullmatch("[A-Z]", response):
        raise InputError(
            f"{question_id}: response {response[:40]!r} is not a letter, and cannot be parsed without the question's "
            "options; give rows that have all_choices and index2ans"
        )
    return response or None


def unparsed(record: Record) -> bool:
    return "said" in record.details and record.details["said"] is None


def guess(records: Sequence[Record]) -> list[Record]:
    """The official fallback: unparsed answers get random letters, from one stream with seed 42.

    The stream is consumed in the official order (subjects by name, questions by number), whatever the records' order.
    """
    stream = random.Random(42)
    guessed = {}
    for record in sorted(records, key=lambda record: (*place(record.item), record.seed)):
        if unparsed(record) and "choices" in record.details:
            said = stream.choice(record.details["choices"])
            details = {**record.details, "said": said, "guessed": True}
            guessed[record.key] = replace(record, score=float(said in details["gold"]), details=details)
    return [guessed.get(record.key, record) for record in records]


# --- What is averaged over what ---------------------------------------------------------------------------------------


def metrics(records: Sequence[Record], variant: str = "official") -> dict[str, Estimate]:
    """accuracy, accuracy/official-random (the script prints three decimals), unparsed, discipline/NAME, subject/NAME.

    VLMEvalKit draws no letters where it asks no LLM, so under its rules there is no accuracy/official-random.
    """
    records = [record for record in records if record.score is not None]
    if not records:
        raise ValueError("no MMMU records to compute metrics from")
    clusters = [record.cluster for record in records]
    everything = np.ones(len(records), dtype=bool)
    subject_of = np.array([place(record.item)[0] for record in records])
    groups = {"accuracy": everything}
    groups |= {f"discipline/{name}": np.isin(subject_of, subjects) for name, subjects in DISCIPLINES.items()}
    groups |= {f"subject/{subject}": subject_of == subject for subject in sorted(set(subject_of.tolist()))}
    found = stats.means([record.score for record in records], clusters, groups)
    beside = {"unparsed": [float(unparsed(record) or "guessed" in record.details) for record in records]}
    if variant != "vlmevalkit":
        beside = {"accuracy/official-random": [record.score for record in guess(records)], **beside}
    counted = {name: stats.means(values, clusters, {name: everything})[name] for name, values in beside.items()}
    return {"accuracy": found["accuracy"], **counted, **found}


def remarks(records: Sequence[Record], found: Mapping[str, Estimate]) -> tuple[str, ...]:
    if "accuracy/official-random" not in found or any(record.details.get("guessed") for record in records):
        return ()
    right, n = sum(record.score or 0 for record in records), len(records)
    fallback = found["accuracy/official-random"].value
    return (
        f"{right:g} of {n} ({right / n:.4f}) with unparsed answers wrong; "
        f"{fallback:.3f} with the official random fallback at seed 42",
    )


# --- The task ---------------------------------------------------------------------------------------------------------


def task(name: str, items: Sequence[Item], whole: int, data: str) -> QuestionTask:
    told = {
        "data": data,
        "prompt": prompt("{question}", {"A": "{option}", "B": "{option}"}),
        "prompt of open questions": prompt("{question}", None),
        "scoring": "official; what cannot be parsed is wrong",
    }
    return QuestionTask(name, "1", items, whole, Decoding(max_new_tokens=128), judge_item, metrics, told)


def real(options: Options) -> QuestionTask:
    folder = sources.find("mmmu", options.data).folder
    annotations = read(folder, options.pictures, options.allow_partial)
    return task("mmmu", annotations.items, len(VALIDATION_IDS), annotations.data)


def mini(options: Options) -> QuestionTask:
    """Multiple choice about the miniature world, in MMMU's form: what color, how many, what shape."""
    from gapbench.miniature import benchmarks

    items = []
    for row in benchmarks.choice_rows():
        name = f"miniature_{row.subject}_{row.number}"
        reference = Reference(name, False, (row.answer,), lettered(row.options))
        items.append(item_of(reference, row.question, [row.picture], cluster=row.picture.key))
    return task("mmmu-mini", by_picture(items), len(items), benchmarks.DATA)
