"""What a text-conditional LlamaGen is conditioned on: a T5 encoder's features of the cleaned caption, at the end of its
slots.

Source: `language/t5.py` and `sample_t2i.py` of FoundationVision/LlamaGen.

Shape suffixes: P captions, T slots, L tokens, C width of the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gapbench.hub import silent
from gapbench.models.llamagen.captions import cleaned
from gapbench.models.llamagen.files import TOKENIZER, TextEncoder
from gapbench.models.llamagen.gpt import CaptionEmbedder, Condition
from gapbench.models.unified.weights import first_line, read_header
from gapbench.records import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import T5EncoderModel


class Captions:
    """Conditions of captions; an empty one is the unconditional condition, of which all slots are seen."""

    def __init__(self, t5: T5EncoderModel, tokenizer: Tokenizer, embedder: CaptionEmbedder) -> None:
        self.t5, self.tokenizer, self.embedder = t5, tokenizer, embedder
        tokenizer.enable_truncation(self.slots)
        tokenizer.no_padding()

    @property
    def slots(self) -> int:
        return len(self.embedder.uncond_embedding)

    def refusal(self, text: str) -> str | None:
        """Why a text cannot be drawn."""
        return None if text.strip() else "the prompt is empty"

    def conditions(self, texts: Sequence[str]) -> Condition:
        """Their slots, as many as the longest needs: hidden ones that all have in common are left out."""
        features_PTC, visible_PT = at_the_end(*self.features([cleaned(text) for text in texts]), self.slots)
        for row, text in enumerate(texts):
            if not text.strip():
                features_PTC[row], visible_PT[row] = self.embedder.uncond_embedding, True
        longest = int(visible_PT.sum(dim=1).max())
        return self.embedder.condition(features_PTC[:, -longest:], visible_PT[:, -longest:])

    @torch.no_grad()
    def features(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(P,L,C) of cleaned captions, padded on the right, and which are theirs (P,L) bool; [eos] counts.

        What is longer than the slots is cut before its [eos].
        """
        rows = [encoded.ids for encoded in self.tokenizer.encode_batch(list(captions))]
        length = max(map(len, rows))
        ids_PL = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows], device=self.t5.device)
        ends_P1 = torch.tensor([[len(row)] for row in rows], device=self.t5.device)
        mask_PL = torch.arange(length, device=self.t5.device) < ends_P1
        return self.t5(input_ids=ids_PL, attention_mask=mask_PL.long()).last_hidden_state, mask_PL


def at_the_end(features_PLC: Tensor, mask_PL: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """(P,T,C), (P,T) bool: each row's first features, as many as its mask counts, at the end; zeros before them."""
    moved_PTC = features_PLC.new_zeros((len(features_PLC), slots, features_PLC.shape[-1]))
    visible_PT = torch.zeros((len(features_PLC), slots), dtype=torch.bool, device=features_PLC.device)
    for row, count in enumerate(mask_PL.sum(dim=1).tolist()):
        moved_PTC[row, slots - count :] = features_PLC[row, :count]
        visible_PT[row, slots - count :] = True
    return moved_PTC, visible_PT


def load(files: TextEncoder, width: int, device: torch.device, dtype: torch.dtype) -> tuple[T5EncoderModel, Tokenizer]:
    """The encoder of a T5, its decoder left aside, and its tokenizer. In float16 a T5 overflows: it gets float32."""
    from tokenizers import Tokenizer
    from transformers import T5EncoderModel
    from transformers.utils import logging

    for file in files.weights:
        read_header(file)
    folder, bar = files.folder, logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with silent("transformers"):
            tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
            t5, report = T5EncoderModel.from_pretrained(
                folder,
                dtype=torch.float32 if dtype == torch.float16 else dtype,
                local_files_only=True,
                use_safetensors=files.weights[0].suffix == ".safetensors",
                weights_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # broken files raise what their parsers raise
        raise InputError(f"{folder}: the text encoder cannot be read: {first_line(error)}") from None
    finally:
        if bar:
            logging.enable_progress_bar()
    if report["missing_keys"]:
        raise InputError(f"{folder}: tensor {min(report['missing_keys'])} is missing")
    if (found := t5.config.d_model) != width:
        raise InputError(f"{folder}: the text encoder's d_model is {found}, but the language model wants {width}")
    if (count := tokenizer.get_vocab_size()) > t5.config.vocab_size:
        raise InputError(f"{folder}: the tokenizer has {count} tokens, the encoder {t5.config.vocab_size}")
    if len(tokenizer.encode("").ids) != 1:
        raise InputError(f"{folder}: the tokenizer does not end texts with one [eos], as T5's does")
    return t5.to(device).eval().requires_grad_(False), tokenizer
