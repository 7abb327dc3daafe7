"""The miniature's text tokenizer: whole words, in the form of any fast tokenizer on the hub.

Words are cut as GPT-2 cuts them, so decoding gives the text back exactly. The fixed phrases of the chat format and of
the benchmarks' instructions are one token each: they carry no information that varies, and short rows train faster.
"""

from __future__ import annotations

import re
from pathlib import Path

from gapbench.miniature.language import NONE, NUMBERS, plural
from gapbench.miniature.world import CELLS, COLORS, SHAPES, SIZES

END = "<|endoftext|>"
SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
YES_NO = " Please answer yes or no."
LETTER = "\n\nAnswer with the option's letter from the given choices directly."
CAPTION_QUESTIONS = ("Give a caption for this image.", "Provide a one-sentence caption for the provided image.")
PHRASES = ("USER: \n", " ASSISTANT:", SHORT_ANSWER, YES_NO, LETTER, *CAPTION_QUESTIONS)
_SENTENCES = (
    "Is there a in the image? What color is the What shape is the How many are there?",
    "a an one two three four and at the of or left right above below a photo of yes no 0 1 2 3 4, .",
    "\nA.\nB.\nC.\nD. A B C D",
)


def vocabulary() -> list[str]:
    words = [*_SENTENCES, NONE, *NUMBERS.values(), *CELLS, *COLORS, *SHAPES, *map(plural, (*SHAPES, "object")), *SIZES]
    text = " ".join([*words, "object", "objects"])
    pieces = {piece for word in re.findall(r"\w+|[^\w\s]|\n", text) for piece in (word, f" {word}")}
    return sorted(pieces | {" "})


def build(folder: Path, start: str = END) -> None:
    """Write tokenizer.json and tokenizer_config.json, as AutoTokenizer reads them.

    Show-o begins and ends texts with one token; CLIP, which finds a text's end by its token, needs another `start`.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    byte_level = str.maketrans({" ": "Ġ", "\n": "Ċ"})
    vocab = {END: 0, "<|unknown|>": 1}
    for piece in vocabulary():
        vocab.setdefault(piece.translate(byte_level), len(vocab))
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(dict.fromkeys((END, start))))
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in PHRASES])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        bos_token=start,
        unk_token="<|unknown|>",
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)
