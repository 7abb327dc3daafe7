"""Which of some texts is nearest in meaning to another, by sentence embeddings.

As TIFA and HermesFlow have it: sentence-transformers/all-mpnet-base-v2, the last layer's states averaged over all
tokens, cosine. Read by transformers; the package sentence-transformers is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gapbench import hub
from gapbench.models.base import in_batches
from gapbench.records import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT = "sentence-transformers/all-mpnet-base-v2"
CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
FILES = ((CONFIG,), WEIGHTS, ("tokenizer.json",), ("tokenizer_config.json",))
TOKENS = 384  # all-mpnet-base-v2 reads no more
BATCH = 64
DIGITS = 5  # of a cosine, below which two are equal


class Sentences:
    """model: a repository of the hub, or a folder in transformers' layout. Runs in float32.

    Files are looked up for `describe`, and loaded for the first text. Raises InputError where they are not there or
    broken.
    """

    def __init__(self, model: str = DEFAULT, device: torch.device | str | None = None) -> None:
        self.model = model
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def describe(self) -> dict[str, Any]:
        """All that can change which text is nearest."""
        name = self._folder.resolve().name if Path(self.model).is_dir() else self.model
        weights = hub.fingerprint(_weights(self._folder))
        return {"name": name, "weights": weights, "pooling": "mean over tokens", "tokens": TOKENS, "dtype": "float32"}

    def nearest(self, asked: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
        """For each text and its choices, one at least, the choice of greatest cosine; of equals the first."""
        texts = list(dict.fromkeys(t for text, choices in asked for t in (text, *choices)))
        vectors = dict(zip(texts, self.embed(texts), strict=True))
        # Rounded: equal texts of a batch may differ in their last bits, and which does depends on the threads.
        cosines = ([round(float(vectors[text] @ vectors[c]), DIGITS) for c in choices] for text, choices in asked)
        return [choices[int(np.argmax(of_text))] for (_, choices), of_text in zip(asked, cosines, strict=True)]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of length 1, (N,D) float32, one a text."""
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        # Like lengths share a batch, for padding costs as much as text.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors = np.stack(list(in_batches([texts[i] for i in order], BATCH, self._embedded)))
        found = np.empty_like(vectors)
        found[order] = vectors
        return found

    @torch.inference_mode()
    def _embedded(self, texts: Sequence[str]) -> list[np.ndarray]:
        tokenizer, network = self._loaded
        with hub.silent("transformers"):
            # Some count their positions from 2, after the padding's.
            length = min(TOKENS, tokenizer.model_max_length, network.config.max_position_embeddings - 2)
            tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        tokens = tokens.to(self.device)
        states_BLD = network(**tokens).last_hidden_state
        mask_BL1 = tokens["attention_mask"][..., None].to(states_BLD.dtype)
        mean_BD = (states_BLD * mask_BL1).sum(dim=1) / mask_BL1.sum(dim=1)
        return list(torch.nn.functional.normalize(mean_BD, dim=-1).cpu().numpy())

    @cached_property
    def _folder(self) -> Path:
        if (folder := Path(self.model)).is_dir():
            return folder
        advice = "Give the folder of such a model with --matching nearest:FOLDER, or choose --matching exact"
        return hub.fetch(self.model, FILES, "main", advice)[0].parent

    @cached_property
    def _loaded(self) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        folder, bar = self._folder, logging.is_progress_bar_enabled()
        weights = _weights(folder)
        logging.disable_progress_bar()
        try:
            with hub.silent("transformers"):
                network, report = AutoModel.from_pretrained(
                    folder,
                    dtype=torch.float32,
                    local_files_only=True,
                    use_safetensors=weights.suffix == ".safetensors",
                    weights_only=True,
                    output_loading_info=True,
                )
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # what a damaged file makes transformers raise has no common class
            raise InputError(f"{folder}: the sentence model cannot be read: {' '.join(str(error).split())}") from None
        finally:
            if bar:
                logging.enable_progress_bar()
        if missing := sorted(key for key in report["missing_keys"] if not key.startswith("pooler.")):
            raise InputError(f"{folder}: tensor {missing[0]} is missing")
        return tokenizer, network.eval().to(self.device)


def _weights(folder: Path) -> Path:
    found = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not found:
        raise InputError(f"{folder} has none of {', '.join(WEIGHTS)}")
    return found[0]
