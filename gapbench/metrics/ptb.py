r"""Words of a caption as the Penn Treebank tokeniser of pycocoevalcap 1.2 cuts them, without Java

Captioning papers score what CoreNLP 3.4.1 (`PTBTokenizer -preserveLines -lowerCase`) makes of a caption, less the
tokens that pycocoevalcap drops as punctuation. The rules below are those that the program was seen to follow on
captions; they are written from its output, not from its grammar. Its quirks belong to the numbers in print and stay:
brackets become the words -lrb-, -rsb- ... (dropped upper-case names never meet the lower-cased output), "?!" and "***"
are words, a euro sign is "$" and a pound sign "#", "dog.A" is one word and "dog,3" is "dog" and ",3".

Two do not stay. \r, \v, \f and Unicode's line separators inside a caption make the program print an extra line, so
that every later caption gets the words of the one before it; here they are spaces. And whether a caption's last "B."
keeps its period depends on the first word of the next caption; here it always does.
"""

from __future__ import annotations

import re

# --- Characters -------------------------------------------------------------------------------------------------------

# Letters and digits, with the marks that join them, of the scripts that the program knows (those of Unicode 6).
_LETTERS = (
    "A-Za-z\u00aa\u00b5\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u0374"
    "\u0376-\u037d\u0386\u0388-\u0481\u0483-\u0487\u048a-\u0527\u0531-\u0556\u0561-\u0587"
    "\u0591-\u05bd\u05bf\u05c1-\u05c2\u05c4-\u05c5\u05c7-\u05f2\u0610-\u065e\u066e-\u06d3\u06d5-\u06ff\u0710-\u07b1"
    "\u0900-\u0963\u0966-\u0e3a\u0e40-\u0e4e\u0e50-\u0edd\u0f20-\u0f29\u0f40-\u0f6c\u1000-\u1dbf"
    "\u1e00-\u1fbc\u1fbe\u1fc2-\u1fcc\u1fd0-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ffc\u2071\u207f\u2090-\u209c\u2102\u2107"
    "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2139\u213c-\u213f\u2145-\u2149\u214e"
    "\u2c00-\u2ce4\u2d00-\u2dde\u3005-\u3006\u3031-\u3035\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    "\u3105-\u312d\u3131-\u318e\u31a0-\u31ba\u3400-\u4db5\u4e00-\u9fcc\ua000-\ua48c\ua4d0-\uabff\uac00-\ud7a3\uf900-\ufad9"
    "\ufb00-\ufb06\ufb1f-\ufbb1\ufbd3-\ufdfb\ufe70-\ufefc\uff21-\uff3a\uff41-\uff5a\uff66-\uffbe"
)
_W = f"[0-9\u0660-\u0669\uff10-\uff19{_LETTERS}]"
_L = f"[{_LETTERS}]"
# Signs that are tokens of their own; what is in none of these classes, such as emoji, only parts words.
_SIGNS = (
    r"$%&()+/=\[\\\]^{|}~<>*`_#@"
    "\u00a1-\u00a9\u00ac\u00ae-\u00b4\u00b6-\u00b9\u00bc-\u00bf\u00d7\u00f7\u0589\u060c\u061b\u061f\u066a\u06d4"
    "\u0964-\u0965\u0e3f\u2016-\u2017\u201a\u201e-\u2023\u2030-\u2038\u203b\u203e-\u2042\u2044\u2070\u2074-\u207e"
    "\u2080-\u208e\u20a0\u20a4\u20ac\u2100-\u2101\u2103-\u2106\u2108-\u2109\u2114\u2116-\u2118\u211e-\u2123\u2125"
    "\u2127\u2129\u212e\u213a-\u213b\u2140-\u2144\u214a-\u214d\u214f\u2153-\u215e\u2190-\u2bff\u3001-\u3002\u3012"
    "\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0-\uffe1\uffe5-\uffe6\x80"
)
_WRITTEN = {
    **{"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"},
    **{"\x80": "$", "¤": "$", "\u20a0": "$", "€": "$", "£": "#", "¢": "cents"},
    **{"&lt;": "<", "&gt;": ">", "&quot;": "", "&apos;": "", "&nbsp;": "", "&mdash;": "", "&ndash;": ""},
    **{"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"},
}
_DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", "-", "--", "---", "----", "...", "....", "....."])

# --- Tokens -----------------------------------------------------------------------------------------------------------

# Words that keep their period, besides "U.S." and the like: those that come before a name, those that may end a
# sentence, of these some with a capital only, and those that keep it before a number.
_TITLES = """
    mr mrs ms dr prof rev hon gen sgt capt col lt maj cpl pvt adm cmdr gov sen rep pres supt insp det brig messrs mme
    mlle msgr atty st ste mt ft ave assoc dept mfg natl cf vs ph adj adv wm jos alex
"""
_FINAL = r"""
    blvd rd ct sq rt bldg jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri ala ariz calif
    colo conn dak fla ga ind kan kans ky md mich minn mo mont neb nev okla penn tenn va vt wis wisc wyo inc corp co cos
    ltd bros assn univ plc intl tel ext est jr sr esq etc al ph\.d ed\.d
"""
_CAPITALISED = "ark del ill la mass miss ore pa tex wash"
_NUMBERED = "no nos pp fig figs ca art op"
# A single letter keeps its period except before one of the words that the program takes for the start of a sentence.
_STARTS = """
    A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Mr Ms Now Once
    One Other Our She Since So Some Such That The Their There These They This We What When While Yet You
"""


def _any(words: str, cased: bool = False) -> str:
    spelt = words.split()
    if cased:
        return "|".join(form for word in spelt for form in (word.capitalize(), word.upper()))
    return "(?i:" + "|".join(spelt) + ")"


_QUOTES = "\u2018\u201b\u2039\u2019\u203a\u201c\u00ab\u201d\u00bb"  # two side by side are one token
_QUOTE = r"['\u2019]"
_CLITIC = rf"(?i:s|d|m|n(?=\s|\Z)|re|ve|ll|em)(?!{_L})"
# "O'Neil", "d'art", "o'clock": one word, as is "ma'am", where the apostrophe stands between vowels.
_ELISION = rf"(?:[dlno]|[A-HJ-XZ]){_QUOTE}(?!{_CLITIC}){_L}{_W}+"
_GLOTTAL = rf"{_L}+[AEIOUYaeiouy]['\u2019\u2018](?![DMS](?!{_L})|(?i:re|ve|ll|em)(?!{_L}))[A-Zaeiou]{_L}*"
_WHOLE = rf"(?!{_W}|[-_/.!?]{_W}|{_QUOTE}{_CLITIC})"  # after a word that nothing makes longer
_STOP = r"(?:\.(?=[,:;]))?"
_NUMBER = r"(?:[0-9]+(?:[.,:][0-9]+)*|(?:[.,:][0-9]+)+)"
_PART = rf"(?:{_ELISION}|(?:[A-Za-z]\.){{2,}}|{_W}+)"
_SLASHED = r"[A-Za-z0-9]+(?:-[A-Za-z]+)*"
_ADDRESS = r"""[^\s"<>|(){}]"""
_ADDRESS_END = r"""[^\s"<>|(){}.,!?-]"""

# The program takes the longest token at each place; here, the first that fits.
_TOKEN = re.compile(
    "|".join(
        (
            # Words that are two, and the word before n't.
            rf"(?i:can(?=not{_WHOLE})|gon(?=na{_WHOLE})|wan(?=na{_WHOLE})|got(?=ta{_WHOLE}))",
            rf"(?i:gim(?=me{_WHOLE})|lem(?=me{_WHOLE})|'t(?=is|was))",
            r"[A-Za-z]+(?=,?[ ]|\Z)",  # most words
            rf"[A-Za-z]+?(?=[nN]['\u2019\u2018`][tT])|[nN]['\u2019\u2018`][tT](?!{_L})",
            # Tags, addresses, names.
            r"""</?[A-Za-z][\w:.-]*(?:[ ]+[A-Za-z][\w:.-]*(?:=(?:"[^"<>]*"|'[^'<>]*'))?)*[ ]*/?>""",
            r"<[!?][A-Za-z-][^>]*>",
            rf"(?i:https?)://{_ADDRESS}+{_ADDRESS_END}",
            rf"(?:[a-z]\w*(?:\.\w+)*\.(?:com|net|org|edu)|www\.[\w.-]+\.[a-z]{{2,4}})/{_ADDRESS}+{_ADDRESS_END}",
            r"www\.[\w-]+(?:\.[\w-]+)+",
            rf"[0-9]+\.(?i:bmp|docx?|gif|html?|jpe?g|mov|mp3|pdf|png|txt|zip)(?!{_W}|{_QUOTE}{_CLITIC})",
            r"""[A-Za-z0-9][^\s"<>|(){}@]{0,63}+@[^\s"<>|(){}.]+(?:\.[^\s"<>|(){}.]+)*""",
            r"@[A-Za-z_][A-Za-z0-9_]*|#[^\W\d_]+|[CFcf]\#|[Cc]\+\+",
            rf"[A-Z]+(?:[&+][A-Z]+)+{_STOP}|(?:[A-Z]|US|AUS?|CAN|HK|NZ|NT|SG|TT|BZ)\$",
            r"&(?:lt|gt|quot|apos|nbsp|[mn]dash);",
            # Periods and commas stay before a hyphen: "red,white-blue", "table.2-year-old".
            rf"[A-Za-z0-9]+[.,][A-Za-z0-9.,]*(?:-[A-Za-z0-9]+)+{_STOP}",
            rf"(?=[A-Za-z]{{2,6}}\.)(?:{_any(_FINAL)}|{_any(_CAPITALISED, cased=True)})\.(?!-?{_L}{_W})",
            # Numbers, dates and fractions, and words joined by hyphen or slash.
            r"\([0-9]{2,3}\)[ ]?[0-9]{3,4}[- ][0-9]{4}",
            rf"[0-9]+-[0-9]+/[0-9]+|[0-9]+\u2044[0-9]+|{_SLASHED}(?:\\?/{_SLASHED}){{1,2}}",
            rf"[0-9]+(?:[.,][0-9]+)+(?:-{_W}+)+|[0-9]+(?:[.,:][0-9]+)+",
            rf"(?:{_ELISION}|{_L}{_W}*(?:\.{_L}{_W}*)*\.?(?=-)|{_W}+)(?:[-_\u2010\u2011]{_PART})+{_STOP}",
            # Periods that stay.
            rf"(?=[A-Za-z]{{2,6}}\.){_any(_TITLES)}\.(?!{_L})",
            rf"(?=[A-Za-z]{{2,4}}\.[ ]?[0-9]){_any(_NUMBERED)}\.",
            rf"(?:[A-Za-z]\.){{2,}}(?!{_L})",
            rf"{_L}{_W}*(?:[.!?]{_L}{_W}*)+{_STOP}",
            rf"[A-Za-z]\.(?!\s+(?:{_any(_STARTS, cased=True)}|</?[a-z]+>)(?:\s|\Z|(?<=[Mm][RrSs])\.))",
            # Apostrophes.
            rf"(?i:[cn]{_QUOTE}est|c'mon|cap{_QUOTE}n|e'er|ev'ry|li'l|nat'l|nor'easter|s'mores)",
            rf"{_GLOTTAL}|{_ELISION}{_STOP}",
            rf"(?i:[dl]|ol|[jy](?={_QUOTE}[A-Za-z])){_QUOTE}(?!{_CLITIC})",
            rf"''|[{_QUOTES}`]{{2}}",
            rf"{_QUOTE}(?:[nN]{_QUOTE}|{_CLITIC}|(?i:em|till?|cause)|[0-9]0[sS]|[0-9][0-9](?=\s|\Z))",
            r"\u2019(?i:s|d|m|re|ve|ll)",
            rf"{_W}+{_STOP}",
            # Signs. An emoticon keeps its parenthesis, which is spelt out as any other.
            r"[<>]?[:;=]['o-]?[)(\]\[{DPpO\\|@](?![A-Za-z0-9])|\(?[-^=~<>']_[-^=~<>']\)?",
            rf"-{{2,4}}(?!-)|-{{5,}}|[-+]{_NUMBER}|\.{{3,5}}|[.,:][0-9]+(?:[.,:][0-9]+)*",
            rf"[!?]+|\*+|\#+|@+|_+|<<|>>|[{_SIGNS}]",
        )
    )
)
_CURLY = re.compile(rf"[{_QUOTES}`]{{2}}|(?i:n?[\u2018\u2019](?:s|d|m|t|re|ve|ll))")
_STRAIGHT = str.maketrans(
    dict.fromkeys("\u2018\u201b\u2039", "`")
    | dict.fromkeys("\u2019\u203a", "'")
    | dict.fromkeys("\u201c\u00ab", "``")
    | dict.fromkeys("\u201d\u00bb", "''")
)


def tokenize(caption: str) -> list[str]:
    """The words that pycocoevalcap's metrics are given: lower case, without punctuation."""
    words = []
    for token in _TOKEN.findall(caption.replace("\xad", "").replace("&amp;", "&")):
        if token.isalpha():
            words.append(token.lower())
        elif (written := _written(token)) not in _DROPPED:
            words += written.lower().split()
    return words


def _written(token: str) -> str:
    """A token as the program prints it. It keeps a curly apostrophe in words, but not in clitics."""
    if token in _WRITTEN:
        return _WRITTEN[token]
    if _CURLY.fullmatch(token):
        return token.translate(_STRAIGHT)
    return token.replace("(", "-lrb-").replace(")", "-rrb-")
