"""Loading a LlamaGen checkpoint of the published layout.

Source: the state-dict names of FoundationVision/LlamaGen, and what its training scripts write: the tensors are below
"model", "module" or "state_dict", or stand alone; an optimizer's beside them are not read. Models are built without
memory and filled tensor by tensor. The reference loads the language model non-strictly, which leaves what is missing to
chance; here every tensor is accounted for.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gapbench.hub import fingerprint
from gapbench.models.llamagen import text
from gapbench.models.llamagen.classes import Classes
from gapbench.models.llamagen.config import Sizes
from gapbench.models.llamagen.files import Files
from gapbench.models.llamagen.gpt import Gpt, rotary
from gapbench.models.llamagen.text import Captions
from gapbench.models.llamagen.vq import VqTokenizer
from gapbench.models.unified.weights import Filled, Tensors, fill, open_weights, read_header
from gapbench.records import InputError

BELOW = ("model", "module", "state_dict")
GPT_BUFFERS = r"freqs_cis|causal_mask|layers\.\d+\.attention\.kv_cache\.[kv]_cache"
VQ_BUFFERS = r"quantize\.codebook_used"


@dataclass(frozen=True)
class Parts:
    """A loaded checkpoint."""

    gpt: Gpt
    vq: VqTokenizer
    conditions: Captions | Classes
    provenance: Mapping[str, Any]


def load(files: Files, device: torch.device, dtype: torch.dtype, name: str) -> Parts:
    """Read everything. The image tokenizer stays in float32, where alone its codes are exact."""
    gpt, vq = build(files.sizes)
    fill({"": Filled(gpt, dtype)}, [files.gpt], device, GPT_BUFFERS, open_checkpoint, "its sizes")
    gpt.rotary = rotary(gpt.config).to(device)  # in no file, and float32 whatever the dtype
    fill({"": Filled(vq, torch.float32)}, [files.vq], device, VQ_BUFFERS, open_checkpoint, "its sizes")
    weights = {"language_model": fingerprint(files.gpt), "image_tokenizer": fingerprint(files.vq)}
    if files.text_encoder is None:
        conditions: Captions | Classes = Classes(gpt.cls_embedding)
    else:
        t5, tokenizer = text.load(files.text_encoder, gpt.config.caption_dim, device, dtype)
        conditions = Captions(t5, tokenizer, gpt.cls_embedding)
        weights |= {f"text_encoder/{file.name}": fingerprint(file) for file in files.text_encoder.weights}
    return Parts(gpt.eval(), vq.eval(), conditions, {"name": name, **files.source, "weights": weights})


def build(sizes: Sizes) -> tuple[Gpt, VqTokenizer]:
    """The parts without weights, on the meta device."""
    with torch.device("meta"):
        return Gpt(sizes.gpt), VqTokenizer(sizes.vq)


def open_checkpoint(file: Path, device: torch.device) -> Tensors:
    """Shapes of a model's tensors, and how to read one."""
    if file.suffix == ".safetensors":
        return open_weights(file, device)
    read_header(file)
    try:
        # Training scripts put their arguments beside the tensors.
        with torch.serialization.safe_globals([argparse.Namespace]):
            told = torch.load(file, map_location="cpu", mmap=zipfile.is_zipfile(file), weights_only=True)
    except Exception:  # torch raises a dozen kinds
        why = "cannot be read with weights_only=True: it is damaged or holds more than tensors and arguments"
        raise InputError(f"{file}: {why}. Convert it to safetensors where you trust it") from None
    below = [told[name] for name in BELOW if name in told] if isinstance(told, Mapping) else []
    state = below[0] if below else told
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{file}: holds no tensors by name, neither below {', '.join(BELOW)} nor alone")
    return {key: tuple(value.shape) for key, value in state.items()}, state.__getitem__
