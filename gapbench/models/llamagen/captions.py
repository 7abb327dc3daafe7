"""How a caption is cleaned before the text encoder reads it: as LlamaGen's training captions were.

Source: the rules of `language/t5.py` of FoundationVision/LlamaGen, which PixArt and DeepFloyd-IF share. They stand in
the reference's order, which matters. Some say less than they seem to (`&` goes, and so do all of `()[]{}`), and
"free shipping" goes from a caption as well as from an advertisement: captions in training lost them too.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from html.entities import html5
from html.parser import HTMLParser
from urllib.parse import unquote_plus

Rules = Sequence[tuple[re.Pattern[str], str]]

FILE_TYPES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
HOST = r"[a-z0-9.\-]+\.(?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
HIDDEN = frozenset(("script", "style", "template", "rt", "rp"))  # elements of which Beautiful Soup leaves out the text
VOID = frozenset(  # elements that have no end, old and new
    "area base br col embed hr img input keygen link menuitem meta param source track wbr "
    "basefont bgsound command frame image isindex nextid spacer".split()
)


def _rules(*pairs: tuple[str, str]) -> Rules:
    return [(re.compile(pattern), put) for pattern, put in pairs]


BEFORE_MARKUP = _rules(
    (r"<person>", "person"),
    (rf"\b(?:https?:(?:/{{1,3}}|[a-z0-9%])|{HOST})", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-z0-9%])|{HOST})", ""),
)
AFTER_MARKUP = _rules(
    (r"@\w+\b", ""),  # nicknames
    ("[\u31c0-\u9fff]+", ""),  # CJK strokes, letters, ideographs, and the blocks between
    (
        "[-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d]+",
        "-",
    ),
    ("[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]", '"'),
    ("[\u2018\u2019]", "'"),
    (r"&quot;?", ""),
    (r"&amp", ""),
    (r"\d{1,3}(?:\.\d{1,3}){3}", " "),  # addresses
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.(?:{FILE_TYPES})", ""),
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~)(\]\[}{|\\/*]+", " "),
    (r"\s+\.\s+", " "),
)
JOINTS = re.compile(r"[-_]")  # this-is-my-cat; four and more of them are spaces
AFTER_REPAIR = _rules(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # jc6640
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),  # jc6640vc
    (r"\b\d+[a-zA-Z]+\d+\b", ""),  # 6640vc231
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{FILE_TYPES})(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),  # j2d1a2a
    (r"\b\d+\.?\d*[x\u0445\u00d7]\d+\.?\d*\b", ""),  # 3x4, also with a Cyrillic x and a cross
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)


def cleaned(caption: str) -> str:
    """The caption as the text encoder reads it. Twice, as in the reference: a second pass finds what the first left."""
    return _clean(_clean(caption))


def _clean(caption: str) -> str:
    from ftfy import fix_text

    text = _apply(BEFORE_MARKUP, unquote_plus(caption).strip().lower())
    text = _apply(AFTER_MARKUP, without_markup(text))
    if len(JOINTS.findall(text)) > 3:
        text = JOINTS.sub(" ", text)
    text = html.unescape(html.unescape(fix_text(text))).strip()
    return _apply(AFTER_REPAIR, text).strip()


def _apply(rules: Rules, text: str) -> str:
    for pattern, put in rules:
        text = pattern.sub(put, text)
    return text


def without_markup(text: str) -> str:
    """The text of what may be HTML, as Beautiful Soup gives it with Python's own parser; what has none stays as it is.

    Where Beautiful Soup refuses markup that is broken, and the reference ends, the text stays as it is.
    """
    reader = _Text()
    try:
        reader.feed(text)
        reader.close()
    except AssertionError:  # what Python's parser raises
        return text
    return "".join(reader.found)


class _Text(HTMLParser):
    """Gathers text outside of HIDDEN elements. References are resolved one by one, as their end need not be marked."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.found: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        """Opens and closes nothing."""

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if HIDDEN.isdisjoint(self._open):
            self.found.append(data)

    def handle_charref(self, name: str) -> None:
        self.handle_data(html.unescape(f"&#{name};"))

    def handle_entityref(self, name: str) -> None:
        self.handle_data(html5.get(f"{name};", f"&{name}"))

    def unknown_decl(self, data: str) -> None:
        if data.upper().startswith("CDATA["):
            self.found.append(data[len("CDATA[") :])
