"""The color of a detected object, named by CLIP without training, and the detector that GenEval's task asks for.

Source: djghosh13/geneval at af4902f, `color_classification`, with clip_benchmark 1.4.0's zero-shot classifier and
open_clip's transform. An object is cut out along its mask onto gray and cropped to its box; the color is the one of ten
whose three texts, about the object's class, fit best. Everything is computed in float32 (GenEval: autocast on CUDA).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gapbench.judges.mask2former import (
    CONFIG,
    WEIGHTS,
    Detection,
    Mask2Former,
    locate,
    origin,
    pretrained,
    rgb,
)
from gapbench.metrics.relations import Box
from gapbench.models.base import in_batches
from gapbench.records import InputError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor
    from transformers import CLIPModel, PreTrainedTokenizerBase

REPO = "openai/clip-vit-large-patch14"
TOKENIZER = (("tokenizer.json", "vocab.json"), ("tokenizer_config.json",))
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TEXTS = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
GRAY = (0x99, 0x99, 0x99)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
QUICK = "quick_gelu"


# --- Pixels -----------------------------------------------------------------------------------------------------------


def cut_out(picture: Image.Image, box: Box, mask: np.ndarray) -> Image.Image:
    """The part of an RGB picture in `box`, gray where `mask`, which covers the box, is not set."""
    from PIL import Image

    part = picture.crop(box)
    return Image.composite(part, Image.new("RGB", part.size, GRAY), Image.fromarray(mask))


def prepare(picture: Image.Image, size: int) -> np.ndarray:
    """CLIP's input [3, size, size]: the short side resized to `size`, the centre cropped, so long ends are lost."""
    from PIL import Image

    width, height = picture.size
    long = int(size * max(width, height) / min(width, height))
    picture = picture.resize((size, long) if width <= height else (long, size), Image.Resampling.BICUBIC)
    left, top = round((picture.width - size) / 2), round((picture.height - size) / 2)
    pixels = np.asarray(picture.crop((left, top, left + size, top + size)), dtype=np.float32) / np.float32(255)
    return ((pixels - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1)


# --- The head ---------------------------------------------------------------------------------------------------------


class ColorHead:
    """Names colors with a CLIP. `source` is what describe() says of where the weights came from."""

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: PreTrainedTokenizerBase,
        source: dict[str, Any],
        device: str = "cpu",
        batch_size: int = 64,
    ) -> None:
        for tower, config in (("image", model.config.vision_config), ("text", model.config.text_config)):
            if config.hidden_act != QUICK:
                raise InputError(
                    f"GenEval's color head is a CLIP with QuickGELU, but this one's {tower} tower has "
                    f"{config.hidden_act}; take {REPO}"
                )
        if tokenizer("red").input_ids[-1:] != [tokenizer.eos_token_id]:
            raise InputError("the color head's tokenizer does not end a text as CLIP's does; take the one of its model")
        self.model = model.eval().requires_grad_(False).to(device)
        self.tokenizer, self.source, self.device, self.batch_size = tokenizer, source, device, batch_size
        self._classifiers: dict[str, Tensor] = {}

    def classifier(self, name: str) -> Tensor:
        """The direction of each color of a thing of class `name`, the mean of its texts', [10, features]."""
        import torch

        if name not in self._classifiers:
            texts = [text.format(color=color, name=name) for color in COLORS for text in TEXTS]
            tokens = self.tokenizer(texts, padding=True, return_tensors="pt").to(self.device)
            with torch.inference_mode():
                pooled = self.model.text_model(tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
                features = _unit(self.model.text_projection(pooled)).unflatten(0, (len(COLORS), len(TEXTS)))
                self._classifiers[name] = _unit(features.mean(dim=1))
        return self._classifiers[name]

    def colors(self, cuts: Sequence[Image.Image], name: str) -> list[str]:
        """The color of each cut-out object of class `name`."""
        return [
            COLORS[scores.argmax()] for scores in in_batches(cuts, self.batch_size, partial(self.scores, name=name))
        ]

    def scores(self, cuts: Sequence[Image.Image], name: str) -> Tensor:
        """100 times the cosine between each cut-out object and each color, [objects, 10]."""
        import torch

        size = self.model.config.vision_config.image_size
        pixels = torch.from_numpy(np.stack([prepare(cut, size) for cut in cuts])).to(self.device)
        with torch.inference_mode():
            features = _unit(self.model.visual_projection(self.model.vision_model(pixels).pooler_output))
            return 100.0 * features @ self.classifier(name).T

    def describe(self) -> dict[str, Any]:
        return {
            "color_head": "CLIP, zero-shot",
            **self.source,
            "input": f"{self.model.config.vision_config.image_size}, bicubic with antialiasing, centre crop",
            "activation": self.model.config.vision_config.hidden_act,
            "background": "#999",
            "dtype": str(self.model.dtype).removeprefix("torch."),
        }


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def load(where: str = REPO, device: str = "cpu") -> ColorHead:
    """The color head of a folder in transformers' layout or of the hub. Raises InputError for what is not CLIP's."""
    from transformers import AutoTokenizer, CLIPModel

    config, weights, *_ = locate(where, ((CONFIG,), WEIGHTS, *TOKENIZER), "CLIP")
    model = pretrained(CLIPModel, config.parent)
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.parent, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{config.parent}: the tokenizer cannot be read ({reason})") from None
    return ColorHead(model, tokenizer, origin(weights), device)


# --- What GenEval's task asks for -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """A detected object. `color` names its color and is called only where a prompt asks for one."""

    box: Box
    score: float
    color: Callable[[], str]


class ColoredObjects:
    """Pictures -> for each, class name -> its objects above GenEval's lowest threshold, best first."""

    def __init__(self, detector: Mask2Former, head: ColorHead) -> None:
        self.detector, self.head = detector, head

    def __call__(self, pictures: Sequence[Image.Image]) -> list[dict[str, list[Found]]]:
        found: list[dict[str, list[Found]]] = []
        for picture, detections in zip(pictures, self.detector.detect(pictures), strict=True):
            classes: dict[str, list[Found]] = {}
            for detection in detections:
                color = partial(self._color, picture, detection)
                classes.setdefault(detection.name, []).append(Found(detection.box, detection.score, color))
            found.append(classes)
        return found

    def _color(self, picture: Image.Image, detection: Detection) -> str:
        return self.head.colors([cut_out(rgb(picture), detection.box, detection.mask)], detection.name)[0]

    def describe(self) -> dict[str, Any]:
        return {"detector": self.detector.describe(), "color_head": self.head.describe()}
