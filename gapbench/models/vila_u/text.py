"""VILA-U's prompts and its text tokenizer, Llama 2's with four tokens more.

Source: the conversation "vicuna_v1" and `tokenize_conversation` of mit-han-lab/vila-u. The published tokenizer is a
SentencePiece model. It is read here, without the libraries that transformers wants for that, into the same tokenizer
that transformers makes of it: every stretch of text between pictures is tokenized on its own and begins with a space.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gapbench.hub import silent
from gapbench.models.unified.answering import SYSTEM_PROMPT, Before
from gapbench.models.unified.weights import first_line
from gapbench.records import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ADDED = ("<im_start>", "<im_end>", "<vi_start>", "<vi_end>")
BEFORE_PICTURES = f"{SYSTEM_PROMPT} USER: "
BETWEEN_PICTURES = "\n"
BPE = 2  # SentencePiece's number for the kind of model, and for a piece that is made of others
NORMAL = 1


def question_text(text: str) -> str:
    """The whole prompt of a question about no picture. An empty one leaves no space between the roles."""
    message = text.strip()
    return f"{SYSTEM_PROMPT} USER:{f' {message} ' if message else ''}ASSISTANT:"


def after_pictures(text: str) -> str:
    """What of a question's prompt stands after its last picture; BEFORE_PICTURES stands before the first."""
    return f"\n{text}".rstrip() + " ASSISTANT:"


def drawing_text(text: str) -> str:
    """The whole prompt of a drawing, to be followed by <im_start>; empty for the unconditional one."""
    return f"{question_text(text)} "


@dataclass(frozen=True)
class Text:
    """The tokenizer and the ids that the rows are built with. vocabulary: of the language model."""

    tokenizer: PreTrainedTokenizerBase
    bos: int
    eos: int
    im_start: int
    im_end: int
    vocabulary: int

    def tokens(self, text: str) -> list[int]:
        """Of a stretch of text, without [bos]."""
        if not text:
            return []
        # A space before every text, also one that begins with a space, where transformers' fast tokenizers add none.
        # Not verbose: it warns of texts longer than the model's positions, which are cut where they are used.
        return self.tokenizer(f" {text}", add_special_tokens=False, verbose=False).input_ids

    def before_pictures(self, count: int, template: bool) -> Before:
        """What stands before each picture: of a row's beginning, or since the picture before."""
        first = (self.bos, *(self.tokens(BEFORE_PICTURES) if template else ()))
        return (first, *(tuple(self.tokens(BETWEEN_PICTURES)) for _ in range(count - 1))) if count else ()

    def drawing_row(self, text: str) -> list[int]:
        return [self.bos, *self.tokens(drawing_text(text)), self.im_start]

    def words(self, tokens: list[int]) -> str:
        """The words among generated tokens."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True).strip()


def load(file: Path, vocabulary: int) -> Text:
    """The tokenizer in `tokenizer.model`, or of the folder of `tokenizer.json`.

    Raises InputError if it cannot be read or does not fit a language model of that vocabulary.
    """
    try:
        with silent("transformers"):
            tokenizer = _from_sentencepiece(file) if file.suffix == ".model" else _from_folder(file.parent)
            tokenizer.add_tokens([*ADDED], special_tokens=True)
    except InputError:
        raise
    except Exception as error:  # broken files raise what their parsers raise
        raise InputError(f"{file}: the tokenizer cannot be read: {first_line(error)}") from None
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is None or eos is None:
        raise InputError(f"{file}: the tokenizer has no token for the beginning or the end of a text")
    im_start, im_end = (tokenizer.convert_tokens_to_ids(token) for token in ADDED[:2])
    if len(tokenizer) != vocabulary:
        raise InputError(f"{file}: with {', '.join(ADDED)} it has {len(tokenizer)} tokens; the model has {vocabulary}")
    return Text(tokenizer, bos, eos, im_start, im_end, vocabulary)


def _from_folder(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, clean_up_tokenization_spaces=False)


def _from_sentencepiece(file: Path) -> PreTrainedTokenizerBase:
    from transformers import LlamaTokenizer

    pieces: list[tuple[str, float, int]] = []
    for number, value in _fields(file.read_bytes()):
        if number == 1:
            piece = dict(_fields(value))
            score = struct.unpack("<f", piece.get(2, bytes(4)))[0]
            pieces.append((piece[1].decode(), score, piece.get(3, NORMAL)))
        elif number == 2 and dict(_fields(value)).get(3, 1) != BPE:
            raise InputError(f"{file}: only a byte-pair model can be read, as Llama's tokenizer.model is")
    if not pieces:
        raise InputError(f"{file}: no SentencePiece model; if it is a git-LFS pointer, run git lfs pull")
    vocab = {piece: number for number, (piece, _, _) in enumerate(pieces)}
    merges = []
    for piece, score, kind in pieces:
        if kind == NORMAL:
            halves = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
            merges += [(score, left, right) for left, right in halves if left in vocab and right in vocab]
    merges.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])), reverse=True)
    return LlamaTokenizer(vocab=vocab, merges=[(left, right) for _, left, right in merges], legacy=False)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol-buffer message: numbers, and whole numbers or bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(key & 7) or varint()
        if key & 7 not in (1, 2, 5) or at + size > len(message):
            raise ValueError("no SentencePiece model, or cut off")
        yield key >> 3, message[at : at + size]
        at += size
