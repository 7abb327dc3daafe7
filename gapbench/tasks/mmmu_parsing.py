"""How MMMU's answers are read: a letter off a multiple-choice answer, texts and numbers off an open one.

Rules follow github.com/MMMU-Benchmark/MMMU at bb0b95a (`mmmu/utils/eval_utils.py`), lmms-eval 0.7.3, and VLMEvalKit
e8e78f0 (`vlmeval/utils/matching_util.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

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


# --- How VLMEvalKit reads an answer -----------------------------------------------------------------------------------

_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ANSWER_IS = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)  # also of "the answer is a bus"


def infer(response: str, options: Mapping[str, str]) -> str | None:
    """The letter that VLMEvalKit's exact matching infers, or None where it would ask an LLM.

    Just one letter is a word of the response, one of its last four; else what "answer is" begins; else just one option
    is quoted, and the response is at most twice as long as all options.
    """
    if any(refusal in response for refusal in _REFUSALS):
        return None
    if "Failed to obtain answer via API" not in response:
        words = response.translate(_MARKS).split()
        letters = [letter for letter in options if letter in words]
        if len(letters) == 1 and words.index(letters[0]) > len(words) - 5:
            return letters[0]
        if not letters and "Z" in words:
            return None
        if (found := _ANSWER_IS.search(response)) and found[1].upper() in options:
            return found[1].upper()
    lower = response.lower()
    if len(lower) > 2 * sum(map(len, options.values())):
        return None
    quoted = [letter for letter, option in options.items() if option.lower() in lower]
    return quoted[0] if len(quoted) == 1 else None
