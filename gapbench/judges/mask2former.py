"""Mask2Former as an object detector, with the processing around it that GenEval's numbers were made with.

The network is transformers'; what mmdet 2.28 does before and after it (`inference_detector` with the configuration
`mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.py`) is written out here. transformers' own processing differs in size,
resampling, padding, in how masks become objects, and in the names of nine classes; GenEval loses points to each.

Letters in shapes: B images, Q queries, C classes, h w pixels of the network's masks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gapbench import hub
from gapbench.judges.coco_names import COCO_NAMES
from gapbench.metrics.relations import Box
from gapbench.models.base import in_batches
from gapbench.records import InputError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor
    from transformers import Mask2FormerForUniversalSegmentation

REPO = "facebook/mask2former-swin-small-coco-instance"
CONFIG, WEIGHTS = "config.json", ("model.safetensors", "pytorch_model.bin")
SHORT, LONG = 800, 1333  # pixels, at most, of the network's input
MULTIPLE, FILL = 32, 128  # sides are padded to a multiple, with this pixel value
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
MOST = 100  # objects an image
LOWEST = 0.3  # GenEval's lowest threshold: objects of this score and below are never looked at
TOLD = ("missing_keys", "unexpected_keys")
# What no forward pass of ours uses, and versions of transformers have or have not in their files.
IDLE = re.compile(r"swin\.layernorm\.|criterion\.|position_ids$|relative_position_index$")
QUERIES_AT_ONCE = 16  # bounds the memory of masks at full size


@dataclass(frozen=True, slots=True)
class Detection:
    """An object: its class, box in whole pixels (right and bottom exclusive), score, and mask within the box."""

    name: str
    box: Box
    score: float
    mask: np.ndarray


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture as the network sees it, [height, width, 3] uint8 with padding, and its sizes (height, width)."""

    pixels: np.ndarray
    resized: tuple[int, int]
    original: tuple[int, int]


# --- Before the network -----------------------------------------------------------------------------------------------


def rgb(picture: Image.Image) -> Image.Image:
    """As OpenCV decodes a picture in color: turned as its EXIF data say, without alpha, 16 bits cut to 8."""
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture.convert("RGB")


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """What cv2.resize(..., INTER_LINEAR) makes of uint8 `pixels` [h, w, 3]: no antialiasing, weights of 11 bits."""
    h, w = pixels.shape[:2]
    if (h, w) == (height, width):
        return pixels
    if (h, w) == (2 * height, 2 * width):  # OpenCV takes the mean of 2 x 2 here
        wide = pixels.astype(np.uint16)
        return ((wide[::2, ::2] + wide[::2, 1::2] + wide[1::2, ::2] + wide[1::2, 1::2] + 2) >> 2).astype(np.uint8)
    at, first, second = _taps(w, width)
    # Along x, but not along y, what lies outside has no weight.
    outside = (at < 0) | (at >= w - 1)
    first, second = np.where(outside, 2048, first), np.where(outside, 0, second)
    left, right = np.clip(at, 0, w - 1), np.clip(at + 1, 0, w - 1)
    wide = pixels.astype(np.int32)
    rows = (wide[:, left] * first[:, None] + wide[:, right] * second[:, None]) >> 4
    at, first, second = _taps(h, height)
    top, bottom = np.clip(at, 0, h - 1), np.clip(at + 1, 0, h - 1)
    upper = (rows[top] * first[:, None, None]) >> 16
    lower = (rows[bottom] * second[:, None, None]) >> 16
    return ((upper + lower + 2) >> 2).astype(np.uint8)


def _taps(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `wanted` output pixels: the first of the two input pixels, and the weights of both in 1/2048."""
    scale = 1.0 / (wanted / size)
    where = ((np.arange(wanted) + 0.5) * scale - 0.5).astype(np.float32)
    at = np.floor(where)
    weight = where - at
    weights = [np.rint(part * np.float32(2048)).astype(np.int32) for part in (np.float32(1) - weight, weight)]
    return at.astype(np.int64), *weights


def prepare(picture: Image.Image) -> Prepared:
    """Fit a picture into 1333 x 800 (or 800 x 1333), keeping its shape, and pad it at the right and the bottom."""
    pixels = np.asarray(rgb(picture))
    h, w = pixels.shape[:2]
    scale = min(LONG / max(h, w), SHORT / min(h, w))
    height, width = max(int(h * scale + 0.5), 1), max(int(w * scale + 0.5), 1)
    padding = (0, -height % MULTIPLE), (0, -width % MULTIPLE), (0, 0)
    padded = np.pad(resize(pixels, height, width), padding, constant_values=FILL)
    return Prepared(padded, (height, width), (h, w))


# --- After the network ------------------------------------------------------------------------------------------------


def objects(classes_QC: Tensor, masks_Qhw: Tensor, prepared: Prepared, lowest: float = LOWEST) -> list[Detection]:
    """The objects of one picture with scores above `lowest`, best first, as mmdet's instance post-processing has them.

    classes_QC: logits; the last class is "none of them". masks_Qhw: logits. Of all pairs of a query and a class the 100
    likeliest are objects, so one query can be several. An object's score is the probability of its class times the mean
    of its mask's probabilities; an empty mask has score 0 and the box 0, 0, 0, 0. Overlaps are left alone.
    """
    probabilities = classes_QC.float().softmax(dim=-1)[:, :-1]
    scores, at = probabilities.flatten().topk(min(MOST, probabilities.numel()), sorted=False)
    # The mask's part of the score is at most 1, so what is not above `lowest` now will not be.
    scores, at = scores[scores > lowest], at[scores > lowest]
    queries, query_of = (at // probabilities.shape[1]).unique(return_inverse=True)

    found = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        masks, certainty = _full_size(masks_Qhw[queries[start : start + QUERIES_AT_ONCE]].float(), prepared)
        for row, mask in enumerate(masks):
            box, inside = _cut(mask.cpu().numpy())
            mine = query_of == start + row
            for label, score in zip(at[mine] % probabilities.shape[1], scores[mine] * certainty[row], strict=True):
                if score > lowest:
                    found.append(Detection(COCO_NAMES[label], box, score.item(), inside))
    return sorted(found, key=lambda detection: -detection.score)


def _full_size(logits: Tensor, prepared: Prepared) -> tuple[Tensor, Tensor]:
    """Masks at the picture's size, bool [n, height, width], and the mean probability within each, [n]."""
    from torch.nn.functional import interpolate

    height, width = prepared.resized
    logits = interpolate(logits[:, None], prepared.pixels.shape[:2], mode="bilinear", align_corners=False)
    logits = interpolate(logits[:, :, :height, :width], prepared.original, mode="bilinear", align_corners=False)[:, 0]
    masks = logits > 0
    inside = masks.float()
    return masks, (logits.sigmoid() * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)


def _cut(mask: np.ndarray) -> tuple[Box, np.ndarray]:
    """The smallest box around a mask, and the mask within it."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    left, right, top, bottom = (columns[0], columns[-1] + 1, rows[0], rows[-1] + 1) if len(rows) else (0, 0, 0, 0)
    return Box(float(left), float(top), float(right), float(bottom)), mask[top:bottom, left:right].copy()


# --- The detector -----------------------------------------------------------------------------------------------------


class Mask2Former:
    """A Mask2Former with COCO's 80 classes. `source` is what describe() says of where the weights came from."""

    def __init__(
        self,
        model: Mask2FormerForUniversalSegmentation,
        source: dict[str, Any],
        device: str = "cpu",
        batch_size: int = 8,
    ) -> None:
        if (labels := model.class_predictor.out_features - 1) != len(COCO_NAMES):
            raise InputError(
                f"a detector with {labels} classes cannot judge GenEval; it needs COCO's {len(COCO_NAMES)}, such as "
                f"{REPO} (instance, not panoptic)"
            )
        self.model = model.eval().requires_grad_(False).to(device)
        self.source, self.device, self.batch_size = source, device, batch_size

    def detect(self, pictures: Sequence[Image.Image], lowest: float = LOWEST) -> list[list[Detection]]:
        """For each picture its objects with scores above `lowest`, best first. Raises OSError for a broken picture."""
        prepared = [prepare(picture) for picture in pictures]
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, each in enumerate(prepared):
            groups.setdefault(each.pixels.shape, []).append(number)
        found: dict[int, list[Detection]] = {}
        for numbers in groups.values():  # of one padded size: no picture's padding depends on its batch
            results = in_batches(
                [prepared[number] for number in numbers], self.batch_size, lambda batch: self._objects(batch, lowest)
            )
            found.update(zip(numbers, results, strict=True))
        return [found[number] for number in range(len(prepared))]

    def _objects(self, batch: Sequence[Prepared], lowest: float) -> list[list[Detection]]:
        import torch

        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack([each.pixels for each in batch])).to(self.device)
            pixels = (pixels.float() - torch.tensor(MEAN, device=self.device)) / torch.tensor(STD, device=self.device)
            # Padding is not masked: mmdet lets the network see it.
            mask = torch.ones(pixels.shape[:3], dtype=torch.long, device=self.device)
            out = self.model(pixel_values=pixels.permute(0, 3, 1, 2).contiguous(), pixel_mask=mask)
            logits = zip(out.class_queries_logits, out.masks_queries_logits, batch, strict=True)
            return [objects(classes, masks, each, lowest) for classes, masks, each in logits]

    def describe(self) -> dict[str, Any]:
        return {
            "detector": "Mask2Former",
            **self.source,
            "input": f"{LONG} x {SHORT} at most, bilinear without antialiasing, padded to {MULTIPLE} with {FILL}",
            "objects": f"mmdet instance post-processing, top {MOST}",
            "dtype": str(self.model.dtype).removeprefix("torch."),
        }


def load(where: str = REPO, device: str = "cpu") -> Mask2Former:
    """The detector of a folder in transformers' layout, of an OpenMMLab checkpoint (a .pth file), or of the hub.

    Raises InputError for what is missing, broken, or another network.
    """
    if where.endswith((".pth", ".pt")):
        from gapbench.judges.openmmlab import load_checkpoint

        return Mask2Former(*load_checkpoint(Path(where)), device)
    from transformers import Mask2FormerForUniversalSegmentation

    config, weights = locate(where, ((CONFIG,), WEIGHTS), "detector")
    model = pretrained(Mask2FormerForUniversalSegmentation, config.parent)
    return Mask2Former(model, origin(weights), device)


def locate(where: str, wanted: Sequence[Sequence[str]], what: str) -> list[Path]:
    """One file for each entry of `wanted`, in the folder `where`, else of the repository `where` on the hub."""
    folder = Path(where)
    if folder.is_dir():
        found = [next((folder / name for name in names if (folder / name).is_file()), None) for names in wanted]
        for names, path in zip(wanted, found, strict=True):
            if path is None:
                raise InputError(f"{folder} has no {' or '.join(names)}, so it is no {what}")
        return [path for path in found if path is not None]
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", where):
        raise InputError(f"{where}: no such folder, and no repository's name; give the {what}'s folder")
    return hub.fetch(where, wanted, "main", f"Download it elsewhere and give the {what}'s folder instead.")


def pretrained(kind: type, where: Path, **converted: Any) -> Any:
    """A model of transformers in float32 with every weight accounted for.

    where: its folder; or, if `converted` holds a config and a state_dict, the file that these are from.
    """
    import torch

    try:
        with hub.silent("transformers"):
            model, told = kind.from_pretrained(
                None if converted else where,
                dtype=torch.float32,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they are told instead
                output_loading_info=True,
                **converted,
            )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{where}: the weights cannot be read as a {kind.__name__} ({reason})") from None
    missing, unexpected = ([name for name in sorted(told[kind]) if not IDLE.search(name)] for kind in TOLD)
    wrong = missing or unexpected or sorted(each[0] for each in told["mismatched_keys"])
    if wrong:
        how = "lacks" if missing else "has another network's"
        raise InputError(f"{where} {how} {wrong[0]} ({len(wrong)} in all); it is no {kind.__name__}")
    return model


def origin(weights: Path) -> dict[str, Any]:
    """What describe() says of weights: the file, its sha256 and, of the hub's, repository and commit."""
    from gapbench.hub import fingerprint

    return {"weights": fingerprint(weights)}
