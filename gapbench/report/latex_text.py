"""Any text -> ASCII that LaTeX typesets as it is read."""

# ruff: noqa: RUF001  this file is about letters that look like others

from __future__ import annotations

import re
import unicodedata

LONG = 30  # characters of a word that may be broken in a note, such as a path

_NAMED = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # after a line's end it would begin an optional argument, and an asterisk would be one
    "]": "{]}",
    "*": "{*}",
    "–": "--",
    "—": "---",
    "‘": r"\textquoteleft{}",
    "’": "'",
    "“": r"\textquotedblleft{}",
    "”": r"\textquotedblright{}",
    "…": r"\ldots{}",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "−": "$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "§": r"\S{}",
    "©": r"\textcopyright{}",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ı": r"\i{}",
}
_NAMED |= {
    letter: f"$\\{name}$"
    for letter, name in zip(
        "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
        "omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split(),
        strict=True,
    )
}
_ACCENTS = dict(
    zip(map(chr, (768, 769, 770, 771, 772, 774, 775, 776, 778, 779, 780, 807)), "`'^~=u.\"rHvc", strict=True)
)


def escaped(text: str, breaks: bool = False) -> str:
    """The text on one line, in ASCII that LaTeX typesets as it is read. breaks: long words may be broken at marks.

    Letters with accents and Greek ones become commands; of a character that a plain LaTeX has no letter for, the code
    point is shown.
    """
    words = (_word(word, breaks and len(word) >= LONG) for word in text.split())
    return re.sub("-(?=-)|(?<=[?!])(?=`)", lambda found: f"{found[0]}{{}}", " ".join(words))


def _word(word: str, breaks: bool) -> str:
    return "".join(
        _character(character) + r"\allowbreak{}" * (breaks and not character.isalnum())
        for character in unicodedata.normalize("NFC", word)
    )


def _character(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    if " " < character <= "~":
        return character
    letter, *accents = unicodedata.normalize("NFD", character)
    if len(accents) == 1 and accents[0] in _ACCENTS and letter.isascii():
        letter = {"i": r"\i{}", "j": r"\j{}"}.get(letter, letter)
        return f"\\{_ACCENTS[accents[0]]}{{{letter}}}"
    return rf"\texttt{{U+{ord(character):04X}}}"
