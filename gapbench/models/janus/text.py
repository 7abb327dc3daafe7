"""Janus' prompts: the chat template of its processor, and the rows of token ids that are made of it.

    a question    [bos] system prompt, role  [boi] features [eoi]  text, role        features: one picture's
    a drawing     [bos] role, text, role  [boi]  codes
    unprompted    the same, every token but [bos] and [boi] being [pad]

Source: deepseek-ai/Janus and transformers' JanusProcessor. A text's rows begin with one [bos], whatever the tokenizer's
own habit; the other special tokens part the text, so what stands between them is tokenized on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gapbench.hub import silent
from gapbench.models.janus.files import TEMPLATES, Files
from gapbench.models.unified.weights import first_line
from gapbench.records import InputError, Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL = {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}


@dataclass(frozen=True)
class Text:
    """The tokenizer, the chat template (Jinja), what stands before it in questions, and special tokens' ids."""

    tokenizer: PreTrainedTokenizerBase
    template: str
    system: str
    image: str
    bos: int
    eos: int
    pad: int
    boi: int
    eoi: int

    def tokens(self, text: str) -> list[int]:
        """Of a stretch of text, without [bos]."""
        # Not verbose: it warns of texts longer than the model's positions, which are cut where they are used.
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    def row(self, text: str) -> list[int]:
        """Of the beginning of a row."""
        tokens = self.tokens(text)
        return tokens if tokens[:1] == [self.bos] else [self.bos, *tokens]

    def stretches(self, question: Question) -> list[str]:
        """The texts before, between and after a question's pictures."""
        count = len(question.pictures)
        if not question.template:
            return [*[""] * count, question.text]
        # A placeholder in the question's own words comes after its pictures' and is a word.
        return f"{self.system}{self._rendered(question.text, count)}".split(self.image, count)

    def before_pictures(self, stretches: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """What stands before each picture: of a row's beginning, or since the picture before."""
        first, *others = stretches
        if not others:
            return ()
        between = [(self.eoi, *self.tokens(text), self.boi) for text in others[:-1]]
        return ((*self.row(first), self.boi), *between)

    def after_pictures(self, text: str, pictures: bool) -> list[int]:
        """The end of a row, after its pictures, or the whole row where there are none. At least one token."""
        return [self.eoi, *self.tokens(text)] if pictures else self.row(text)

    def drawing_row(self, text: str) -> list[int]:
        return [*self.row(self._rendered(text, 0)), self.boi]

    def unprompted(self, row: Sequence[int]) -> list[int]:
        """The row that a drawing's prompt is guided away from; of the same length."""
        return [token if token in (self.bos, self.boi) else self.pad for token in row]

    def words(self, tokens: Sequence[int]) -> str:
        """The words among generated tokens; the head may offer more tokens than the tokenizer has."""
        known = [token for token in tokens if token < len(self.tokenizer)]
        return self.tokenizer.decode(known, skip_special_tokens=True).strip()

    def _rendered(self, text: str, pictures: int) -> str:
        content = [*[{"type": "image"}] * pictures, {"type": "text", "text": text}]
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=True,
        )


def load(files: Files, vocabulary: int) -> Text:
    """Raises InputError for a tokenizer or template that cannot be read or does not fit a model of that vocabulary."""
    from transformers import AutoTokenizer
    from transformers.models.janus.processing_janus import DEFAULT_SYSTEM_PROMPT

    folder = files.folder
    try:
        with silent("transformers"):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # broken files raise what their parsers raise
        raise InputError(f"{folder}: the tokenizer cannot be read: {first_line(error)}") from None
    if len(tokenizer) > vocabulary:
        raise InputError(f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model {vocabulary}")

    template = files.template or tokenizer.chat_template
    if not isinstance(template, str):
        raise InputError(f"{folder} has no chat template, which says how roles are called; add {TEMPLATES[0]} to it")
    special = {name: getattr(tokenizer, name, None) or token for name, token in SPECIAL.items()}
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in special.items()}
    for name, token in special.items():
        if ids[name] in (None, tokenizer.unk_token_id):
            raise InputError(f"{folder}: the tokenizer has no token {token}")
    ids |= {name: getattr(tokenizer, f"{name}_id") for name in ("bos_token", "eos_token", "pad_token")}
    for name in ("bos_token", "eos_token", "pad_token"):
        if ids[name] is None:  # as in Janus-1.3B's first weeks
            raise InputError(f"{folder}: the tokenizer has no {name}; take a later revision of the checkpoint")

    system = DEFAULT_SYSTEM_PROMPT if files.system_prompt else ""
    numbers = (ids[name] for name in ("bos_token", "eos_token", "pad_token", "boi_token", "eoi_token"))
    text = Text(tokenizer, template, system, special["image_token"], *numbers)
    _try(text, folder)
    return text


def _try(text: Text, folder: Path) -> None:
    """Whether the template puts a picture and a text where a question's are."""
    asked = Question("", "What is this?", (None,))  # type: ignore[arg-type]
    try:
        before, after = text.stretches(asked)
    except Exception as error:  # Jinja's, or a picture that was left out
        raise InputError(f"{folder}: the chat template cannot be used: {first_line(error)}") from None
    if asked.text in before or asked.text not in after:
        raise InputError(f"{folder}: the chat template does not put a question's text after its picture")
