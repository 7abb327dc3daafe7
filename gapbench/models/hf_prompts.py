"""How a question becomes the text that a transformers processor reads: by the chat template that comes with a model.

A picture stands where the text has a mark, "<image>", if there are as many marks as pictures (MMMU's prompts have
them); else all pictures stand before the text. A mark that is no picture's place, and a model's own picture token in a
text, are words: "[image]".

Where the processor has no chat template but its tokenizer has, that one is given the pictures' tokens and the text as
one message. Where there is none at all, they are the whole prompt; Chameleon's chat form, text and separator, is one
that its processor has without a template. A question with `template` False gets no template and no separator; its
pictures are written as the processor's template writes them, with the tokens that Qwen-VL has around each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from gapbench.records import Question

MARK = "<image>"
WORD = "[image]"
PICTURE = None  # in a list of a prompt's parts, among texts


class Prompts:
    def __init__(self, processor: Any) -> None:
        self._processor, self._tokenizer = processor, processor.tokenizer
        self._token = str(getattr(processor, "image_token", None) or "")
        # Chameleon's processor would put its separator behind every text: here the prompt decides.
        self._separates = type(processor).__name__ == "ChameleonProcessor"
        self.processor_arguments = {"return_for_text_completion": True} if self._separates else {}

    def describe(self) -> dict[str, str | None]:
        """Where the chat template comes from, and its sha256."""
        for origin, owner in (("processor", self._processor), ("tokenizer", self._tokenizer)):
            if template := getattr(owner, "chat_template", None):
                text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
                return {"of": origin, "sha256": hashlib.sha256(text.encode()).hexdigest()}
        return {"of": "text and separator" if self._separates else "none: the text as it stands", "sha256": None}

    def prompt(self, question: Question) -> str:
        """The question up to where the answer begins, one token for each picture."""
        parts = self.parts(question.text, len(question.pictures))
        if not question.template:
            return self._joined(parts)
        if getattr(self._processor, "chat_template", None):
            return self._chat(parts)
        if getattr(self._tokenizer, "chat_template", None):
            message = {"role": "user", "content": self._joined(parts)}
            return self._tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
        return self._joined(parts) + (self._tokenizer.sep_token if self._separates else "")

    def parts(self, text: str, pictures: int) -> list[str | None]:
        """Texts, and PICTURE where one stands."""
        pieces = text.split(MARK)
        if len(pieces) == 1 or len(pieces) != pictures + 1:
            return [*[PICTURE] * pictures, *self._words([WORD.join(pieces)])]
        parts: list[str | None] = [*self._words(pieces[:1])]
        for piece in pieces[1:]:
            parts += [PICTURE, *self._words([piece])]
        return parts

    def _words(self, pieces: Sequence[str]) -> list[str]:
        """Those that are not empty, no word of them being a picture's token."""
        if self._token:
            pieces = [piece.replace(self._token, WORD) for piece in pieces]
        return [piece for piece in pieces if piece]

    def _joined(self, parts: Sequence[str | None]) -> str:
        return "".join(self._picture if part is PICTURE else part for part in parts)

    def _chat(self, parts: Sequence[str | None]) -> str:
        content = [{"type": "image"} if part is PICTURE else {"type": "text", "text": part} for part in parts]
        message = {"role": "user", "content": content}
        return self._processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)

    @cached_property
    def _picture(self) -> str:
        """A picture outside of a template: its token, with what the processor's template has around it."""
        if not getattr(self._processor, "chat_template", None):
            return self._token
        bare, shown = self._chat(["A"]), self._chat([PICTURE, "A"])
        before = common_length([bare, shown])
        after = common_length([bare[before:][::-1], shown[before:][::-1]])
        written = shown[before : len(shown) - after]
        return written if written.count(self._token) == 1 else self._token


def common_length(rows: Sequence[Sequence[object]]) -> int:
    """How much of their beginning all rows have in common."""
    return next((at for at, these in enumerate(zip(*rows, strict=False)) if len(set(these)) > 1), min(map(len, rows)))
