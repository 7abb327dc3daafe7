"""CLIP-Score: 100 times the cosine between CLIP's embeddings of an image and of its prompt.

What text-to-image papers report on COCO, mostly with OpenAI's ViT-B/32: no prefix, no factor 2.5, and no clipping at 0
(Hessel et al. 2021 have all three). A number of another model, scale or prefix does not compare; `name` says which.

A prompt longer than CLIP's 77 tokens keeps its first 75 between the start and the end token, as OpenAI's code and
open_clip do. (torchmetrics cuts the end token off, and the text is then read at a wrong place.)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gapbench import hub
from gapbench.hub import fingerprint
from gapbench.models.base import in_batches
from gapbench.records import InputError

if TYPE_CHECKING:
    from transformers import CLIPModel, PreTrainedTokenizerBase

DEFAULT = "openai/clip-vit-base-patch32"
CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
FILES = ((CONFIG,), WEIGHTS, ("tokenizer.json",), ("tokenizer_config.json",))
BATCH = 64
SCALE = 100.0
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Score(NamedTuple):
    """100 cos of one pair, and whether its prompt was longer than CLIP reads."""

    value: float
    truncated: bool


class ClipScore:
    """model: a repository of the hub, or a folder in transformers' layout. Runs in float32, without TF32.

    Raises InputError where the files are not there or broken, and where OpenAI's weights would run without the
    QuickGELU that they were trained with, which makes other numbers and no error.
    """

    def __init__(self, model: str = DEFAULT, device: torch.device | str | None = None) -> None:
        folder = Path(model)
        if not folder.is_dir():
            advice = f"Download {model} elsewhere and give the folder in place of the name"
            folder = hub.fetch(model, FILES, "main", advice)[0].parent
        self.model = folder.resolve().name if Path(model).is_dir() else model
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.weights = fingerprint(_weights(folder))
        self.clip, self.tokenizer = _load(folder)
        if _is_openais(self.model) and not (_is_quick(self.clip.vision_model) and _is_quick(self.clip.text_model)):
            raise InputError(f"{folder}: OpenAI's CLIP needs QuickGELU: write quick_gelu as hidden_act in {CONFIG}")
        self.clip.to(self.device)
        self.side = self.clip.config.vision_config.image_size
        self.length = self.clip.config.text_config.max_position_embeddings

    @property
    def name(self) -> str:
        """The number's full name, without which it means nothing."""
        return f"CLIP-Score[{self.model}, {SCALE:g}cos, no prefix, trunc=EOT]"

    def describe(self) -> dict[str, Any]:
        """All that can change a score."""
        return {
            "name": self.name,
            "weights": self.weights,
            "activation": self.clip.config.vision_config.hidden_act,
            "pixels": f"PIL bicubic, short side {self.side}, centre crop",
            "tokens": self.length,
            "dtype": "float32",
        }

    def __call__(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Iterator[Score]:
        """One score a pair, in order. Images of any mode and size. Raises ValueError where the counts differ."""
        pairs = list(zip(images, texts, strict=True))
        return in_batches(pairs, BATCH, self._scores)

    @torch.inference_mode()
    def _scores(self, pairs: Sequence[tuple[Image.Image, str]]) -> list[Score]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            pictures = list(pool.map(lambda pair: pixels(pair[0], self.side), pairs))
        tokens_BL, truncated = self.tokens([text for _, text in pairs])
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            ours = self.clip.get_image_features(pixel_values=torch.from_numpy(np.stack(pictures)).to(self.device))
            theirs = self.clip.get_text_features(input_ids=tokens_BL.to(self.device))
        cosines = torch.cosine_similarity(ours.pooler_output, theirs.pooler_output).double().tolist()
        return [Score(SCALE * cosine, cut) for cosine, cut in zip(cosines, truncated, strict=True)]

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, list[bool]]:
        """Tokens (B,L), L at most 77, and which texts were cut.

        Each row ends in the end token, and is filled up with it: no token sees what follows it, and the text is read
        at its first end token.
        """
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        room = self.length - 2
        with hub.silent("transformers"):  # which warns of long texts
            words = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        rows = [[start, *ids[:room], end] for ids in words]
        longest = max(map(len, rows))
        padded = [row + [end] * (longest - len(row)) for row in rows]
        return torch.tensor(padded), [len(ids) > room for ids in words]


def pixels(image: Image.Image, side: int) -> np.ndarray:
    """(3,side,side) float32, as OpenAI's preprocessing: bicubic to the short side in uint8, centre crop, normalised."""
    image = image.convert("RGB")
    short, long = sorted(image.size)
    other = int(side * long / short)
    size = (side, other) if image.width <= image.height else (other, side)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (round((length - side) / 2) for length in size)
    values = np.asarray(image.crop((left, top, left + side, top + side)), dtype=np.float32) / 255
    return ((values - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1)


def _weights(folder: Path) -> Path:
    found = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not found:
        raise InputError(f"{folder} has none of {', '.join(WEIGHTS)}")
    return found[0]


def _load(folder: Path) -> tuple[CLIPModel, PreTrainedTokenizerBase]:
    from transformers import AutoTokenizer, CLIPModel
    from transformers.utils import logging

    try:
        kind = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, LookupError, TypeError):
        raise InputError(f"{folder}: {CONFIG} is missing or cannot be read") from None
    if kind != "clip":
        raise InputError(f"{folder}: holds a model of type {kind}, not clip")
    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with hub.silent("transformers"):
            clip, report = CLIPModel.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=_weights(folder).suffix == ".safetensors",
                weights_only=True,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # what a damaged file makes transformers raise has no common class
        why = " ".join(str(error).split())
        raise InputError(f"{folder}: CLIP cannot be read: {why}") from None
    finally:
        if bar:
            logging.enable_progress_bar()
    if report["missing_keys"]:
        raise InputError(f"{folder}: tensor {min(report['missing_keys'])} is missing")
    vocabulary = clip.config.text_config.vocab_size
    if len(tokenizer) != vocabulary:
        raise InputError(f"{folder}: the tokenizer has {len(tokenizer)} tokens, CLIP {vocabulary}")
    if clip.config.text_config.eos_token_id not in (2, tokenizer.eos_token_id):  # 2: read at the highest id, the end's
        raise InputError(f"{folder}: CLIP reads a text at token {clip.config.text_config.eos_token_id}, not at its end")
    return clip.eval(), tokenizer


def _is_openais(name: str) -> bool:
    """By the repository's name or that of a folder with its last part."""
    return name.startswith(("openai/", "clip-vit-"))


def _is_quick(tower: torch.nn.Module) -> bool:
    """By what the activation does, whatever it is called."""
    x = torch.linspace(-3, 3, 13)
    return all(
        torch.allclose(layer.mlp.activation_fn(x), x * torch.sigmoid(1.702 * x)) for layer in tower.encoder.layers
    )
