"""Words of simple captions, which any tokeniser cuts alike."""

import re


def tokenize(caption: str) -> list[str]:
    return re.findall(r"[\w-]+", caption.lower())
