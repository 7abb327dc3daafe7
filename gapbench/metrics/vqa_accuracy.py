"""VQA accuracy: an answer is as right as people agree with it (Antol et al., ICCV 2015, arXiv 1505.00468)

Ten people answered each question. An answer that three of them gave is right; the score is the mean, over each choice
of nine of the ten, of min(answers among the nine that match / 3, 1): 0, 0.3, 0.6, 0.9 or 1 for 0, 1, 2, 3 or more.
Before they are compared, answers are normalised, and here programs differ:

official-2021     nothing at all is normalised where the ten agree (so that "Yes" scores 0 against ten times "yes"),
                  all eleven answers otherwise
official-pre2021  the prediction always; of the ten only the punctuation, where they do not agree
lmms-eval         all eleven, always (since August 2025)
vlmevalkit        all eleven, always; a period next to a digit stays

Rules follow github.com/GT-Vision-Lab/VQA at a013f00 (`vqaEval.py`), lmms-eval 0.7.3, VLMEvalKit e8e78f0 and LLaVA
c121f04 (`m4c_evaluator.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

VARIANTS = ("official-2021", "official-pre2021", "lmms-eval", "vlmevalkit")

# --- Normalisation ----------------------------------------------------------------------------------------------------

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = dict(zip("zero one two three four five six seven eight nine ten".split(), map(str, range(11)), strict=True))
_NUMBERS["none"] = "0"
_ARTICLES = ("a", "an", "the")
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
# A contraction that lacks one of its apostrophes gets it back; one entry of the official table does the opposite.
_REPAIRED = {
    word[:place] + word[place + 1 :]: word for word in _CONTRACTED for place, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}

_COMMA_IN_NUMBER = {
    "official": re.compile(r"\d,\d"),
    "lmms-eval": re.compile(r"(?<=\d),+(?=\d)"),  # also the two commas of "1,,000"
    "vlmevalkit": re.compile(r"\d,\d"),
}
_PERIOD = {
    # Meant to spare every period next to a digit, the official lookbehind is misspelt and spares those before one only.
    "official": re.compile(r"\.(?!\d)"),
    "lmms-eval": re.compile(r"\.(?!\d)"),
    "vlmevalkit": re.compile(r"(?<!\d)\.(?!\d)"),
}


def normalise(answer: str, rules: str = "official") -> str:
    """The full normalisation; rules: official, lmms-eval or vlmevalkit."""
    return digits_and_articles(punctuation(one_line(answer), rules))


def one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 16)  # people's answers are mostly the same few words
def punctuation(text: str, rules: str = "official") -> str:
    """A mark beside a space goes, one inside a word becomes a space; periods go.

    Where a comma stands between digits anywhere in the text, every mark goes. The scripts hand a regex flag over as a
    count, so that only the first 32 periods go; `int(re.UNICODE)` is that 32.
    """
    in_number = _COMMA_IN_NUMBER[rules].search(text) is not None
    cleaned = text
    for mark in _MARKS:
        if mark in text:
            cleaned = cleaned.replace(mark, "" if in_number or f"{mark} " in text or f" {mark}" in text else " ")
    return _PERIOD[rules].sub("", cleaned, count=int(re.UNICODE))


@lru_cache(maxsize=1 << 16)
def digits_and_articles(text: str) -> str:
    """Lower case; number words up to ten become digits, articles go, contractions get their apostrophe."""
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_REPAIRED.get(word, word) for word in words if word not in _ARTICLES)


def m4c(answer: str) -> str:
    """What LLaVA makes of an answer before it goes to the evaluation server, named after the model M4C.

    Commas and question marks are deleted first, so "one,two" becomes one word, and 's is cut off as its own word.
    """
    words = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return normalise(words.strip())  # without commas the rules of lmms-eval and the official ones are the same


# --- Score ------------------------------------------------------------------------------------------------------------


def accuracy(prediction: str, answers: Sequence[str], variant: str = "official-2021") -> float:
    """The soft score of a prediction against people's answers, in [0, 1]."""
    prediction, answers = _compared(prediction, answers, variant)
    n, matches = len(answers), sum(answer == prediction for answer in answers)
    # Leave one out: a matching answer has matches - 1 others beside it. In thirds, so that only the end rounds.
    thirds = matches * min(3, matches - 1) + (n - matches) * min(3, matches)
    return thirds / (3 * n)


def _compared(prediction: str, answers: Sequence[str], variant: str) -> tuple[str, Sequence[str]]:
    if variant == "official-2021":
        prediction, answers = one_line(prediction), [one_line(answer) for answer in answers]
        if len(set(answers)) == 1:
            return prediction, answers
        return normalise(prediction), [normalise(answer) for answer in answers]
    if variant == "official-pre2021":
        if len(set(answers)) > 1:
            answers = [punctuation(answer) for answer in answers]
        return normalise(prediction), answers
    return normalise(prediction, variant), [normalise(answer, variant) for answer in answers]
