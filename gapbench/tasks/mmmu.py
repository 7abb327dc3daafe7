"""MMMU (validation): college-level questions about figures (Yue et al., CVPR 2024, arXiv 2311.16502)

Asked: 30 questions in each of 30 subjects, 847 multiple-choice and 53 open ones.
Judged: a multiple-choice answer is searched for an option letter, then for an option's text, and must name the gold
letter; an open answer is cut down to candidate strings and numbers, one of which must hold the gold.
Averaged: the share of right answers over all questions (micro), per discipline and per subject.

Where no option is found the official script draws one at random (seed 42), so its number depends on the order of the
questions. Here such an answer is unparsed and wrong, and the official number is given beside it.

Rules follow github.com/MMMU-Benchmark/MMMU at bb0b95a (`mmmu/utils/eval_utils.py`) and lmms-eval 0.7.3.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gapbench import stats
from gapbench.records import Estimate, InputError, Judgement, Record

VARIANTS = ("official", "official-random", "lmms-eval")

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
    if isinstance(gold, str) and gold.startswith("["):
        try:
            gold = ast.literal_eval(gold)
        except (ValueError, SyntaxError):
            return (gold,)
    answers = tuple(gold) if isinstance(gold, list) else (gold,)
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise InputError(f"gold answer {gold!r} is neither a text nor a list of texts")
    return answers


def place(question_id: str) -> tuple[str, int]:
    """validation_Art_Theory_7 -> ("Art_Theory", 7)."""
    match = re.fullmatch(r"[a-z]+_(\w+)_(\d+)", question_id)
    if match is None or match[1] not in DISCIPLINE_OF:
        raise InputError(f"{question_id!r} is not an MMMU id such as validation_Art_Theory_7")
    return match[1], int(match[2])


# --- How a multiple-choice answer is read -----------------------------------------------------------------------------

# The forms in which a letter is searched, first one found wins: what stands before it, what after it.
_FORMS = {
    "official": (("(", ")"), (" ", " ")),
    "official-random": (("(", ")"), (" ", " ")),
    "lmms-eval": (("(", ")"), ("", " "), ("", ".")),
}


def parse_choice(response: str, options: Mapping[str, str], variant: str = "official") -> str | None:
    """The letter that a response chooses, or None where the official script would draw one at random.

    Of several letters, or of several options quoted in more than five words, the one that occurs last is taken.
    """
    text = response
    for mark in ",.!?;:'":
        text = text.strip(mark)  # one mark after the other, so "'A.'" keeps its period
    text = f" {text} "
    for before, after in _FORMS[variant]:
        found = [letter for letter in options if before + letter + after in text]
        if found:
            # lmms-eval finds "X " and "X." but still looks for " X " to see which is last; absent ones tie at -1,
            # and of a tie the first option wins.
            edges = (before, after) if before == "(" else (" ", " ")
            return max(found, key=lambda letter: text.rfind(letter.join(edges)))
    if len(text.split()) > 5:
        lower = text.lower()
        found = [letter for letter, option in options.items() if option.lower() in lower]
        if found:
            return max(found, key=lambda letter: lower.rfind(options[letter].lower()))
    return None


# --- How an open answer is read ---------------------------------------------------------------------------------------

_CUES = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 2,000,000
    re.compile(r"-?\d+(?:\.\d+)?e[+-]?\d+"),  # 1.5e-3
    re.compile(r"-?(?:\d*\.\d+|\d+\b)(?![,\d]|e[+-]?\d)"),  # 12, -0.5 and .5, but also the last group of 2,000
)


def parse_open(response: str) -> list[str | float]:
    """Candidate answers: what follows the last cue of each line, or else the whole response, and the numbers in them.

    The official script returns them in the order of a set, which differs from run to run; here it is that of finding.
    """
    whole = response.strip().strip(".").lower()
    # The official split at a period before a capital comes after lower(), and so never happens; only lines remain.
    lines = whole.split("\n")
    phrases = []
    for number, line in enumerate(lines, start=1):
        cues = (*_CUES, "=") if number == len(lines) else _CUES
        shortest = ""
        for cue in cues:
            if cue in line:
                tail = line.rsplit(cue, 1)[1].strip()
                # An empty tail counts as none found, so the next cue's tail replaces it although it is longer.
                shortest = tail if not shortest or len(tail) < len(shortest) else shortest
        if shortest and shortest not in (":", ",", ".", "!", "?", ";", "'"):
            phrases.append(shortest)
    phrases = phrases or [whole]
    numbers = [number for phrase in phrases for pattern in _NUMBERS for number in pattern.findall(phrase)]
    return list(dict.fromkeys(form for text in phrases + numbers for form in _normalised(text)))


def _normalised(text: str) -> list[str | float]:
    """A number to two decimals; else lower case; one character only at the edge of a word, to avoid chance matches."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def eval_open(gold: str | Sequence[str], candidates: Sequence[str | float]) -> bool:
    """Right where a gold text is inside a candidate text, or a candidate number is a gold number."""
    golds = [form for answer in ([gold] if isinstance(gold, str) else gold) for form in _normalised(answer)]
    texts = [form for form in golds if isinstance(form, str)]
    return any(
        any(text in candidate for text in texts) if isinstance(candidate, str) else candidate in golds
        for candidate in candidates
    )


# --- How it is judged -------------------------------------------------------------------------------------------------


def judge_answer(reference: Reference, response: str, variant: str = "official") -> Judgement:
    """The details say what was read off the response: a letter, None where there was none, or an open answer's forms.

    Where it is None they also hold the letters to choose from, for `guess`.
    """
    details: dict[str, Any] = {"type": "open" if reference.open else "multiple-choice", "gold": list(reference.answers)}
    if reference.open:
        candidates = parse_open(response)
        return Judgement(float(eval_open(reference.answers, candidates)), {**details, "said": candidates})
    if reference.options is None:
        said = _bare_letter(reference.id, response)
    else:
        said = parse_choice(response, reference.options, variant)
        if said is None:
            details["choices"] = list(reference.options)
    return Judgement(float(said in reference.answers), {**details, "said": said})


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


def metrics(records: Sequence[Record]) -> dict[str, Estimate]:
    """accuracy, accuracy/official-random, discipline/NAME and subject/NAME. Every question is its own cluster.

    The official script prints its numbers rounded to three decimals.
    """
    records = [record for record in records if record.score is not None]
    result = {"accuracy": _accuracy(records), "accuracy/official-random": _accuracy(guess(records))}
    subject_of = [place(record.item)[0] for record in records]
    for discipline, subjects in DISCIPLINES.items():
        members = [record for record, subject in zip(records, subject_of, strict=True) if subject in subjects]
        if members:
            result[f"discipline/{discipline}"] = _accuracy(members)
    for subject in sorted(set(subject_of)):
        members = [record for record, own in zip(records, subject_of, strict=True) if own == subject]
        result[f"subject/{subject}"] = _accuracy(members)
    return result


def _accuracy(records: Sequence[Record]) -> Estimate:
    return stats.mean([record.score for record in records], [record.cluster for record in records])


def remarks(records: Sequence[Record], found: Mapping[str, Estimate]) -> tuple[str, ...]:
    if any(record.details.get("guessed") for record in records):
        return ()
    right, n = sum(record.score or 0 for record in records), len(records)
    fallback = found["accuracy/official-random"].value
    return (
        f"{right:g} of {n} ({right / n:.4f}) with unparsed answers wrong; "
        f"{fallback:.3f} with the official random fallback at seed 42",
    )
