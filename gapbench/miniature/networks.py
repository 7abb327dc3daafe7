"""The miniature's own judge of drawings, `clip-mini`: the same CLIP-Score code at 1.2 million parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from PIL import Image

    from gapbench.judges.clip_score import ClipScore

CLIP_MINI = Path(__file__).parent / "weights" / "clip-mini"
BATCH = 64


class ImageEmbeddings:
    """CLIP's image embeddings, (n, d) float32 of unit length, for a Fréchet distance of the miniature's size."""

    def __init__(self, clip: ClipScore) -> None:
        self.clip = clip

    def describe(self) -> dict[str, Any]:
        return {"features": "image embeddings", **self.clip.describe()}

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        return np.concatenate([self._embedded(images[i : i + BATCH]) for i in range(0, len(images), BATCH)])

    @torch.inference_mode()
    def _embedded(self, images: Sequence[Image.Image]) -> np.ndarray:
        from gapbench.judges.clip_score import pixels

        batch = torch.from_numpy(np.stack([pixels(image, self.clip.side) for image in images])).to(self.clip.device)
        found = self.clip.clip.get_image_features(pixel_values=batch).pooler_output
        return torch.nn.functional.normalize(found, dim=-1).float().cpu().numpy()
