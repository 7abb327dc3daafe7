"""Loading a VILA-U checkpoint of the published layout.

Source: the state-dict names of mit-han-lab/vila-u. Models are built without memory and filled tensor by tensor, each
going from the file straight to its device and dtype; every tensor that the file has is used or known to be unused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gapbench.hub import fingerprint, silent
from gapbench.models.unified.weights import Filled, fill, first_line
from gapbench.models.vila_u import config, text
from gapbench.models.vila_u.depth import DepthTransformer
from gapbench.models.vila_u.files import Files
from gapbench.models.vila_u.text import Text
from gapbench.models.vila_u.vision import VisionTokenizer
from gapbench.records import InputError

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

TOWER = "rqvaesiglip."
SIGLIP = f"{TOWER}siglip_model."
DEPTH = "rqtransformer."


@dataclass(frozen=True)
class Parts:
    """A loaded checkpoint. positions: that rows of the language model may have."""

    llama: LlamaForCausalLM
    projector: nn.Sequential
    vision: VisionTokenizer
    depth: DepthTransformer
    text: Text
    positions: int
    provenance: Mapping[str, Any]


def load(files: Files, device: torch.device, dtype: torch.dtype, name: str) -> Parts:
    """Read everything. The vision tokenizer stays in float32."""
    sizes = config.read(files)
    words = text.load(files.tokenizer, sizes.llama["vocab_size"])
    llama, projector, vision, depth = build(sizes, files.llm.config)
    fill({"": Filled(llama, dtype)}, files.llm.weights, device, r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
    # Not in any file: computed from the config, in float32 whatever the dtype, as transformers keeps it.
    llama.model.rotary_emb = type(llama.model.rotary_emb)(config=llama.config).to(device)
    fill({"layers.": Filled(projector, dtype)}, files.projector.weights, device)
    tower = {
        f"{SIGLIP}vision_model.": Filled(vision.encoder, torch.float32),
        f"{TOWER}quantizer.": Filled(vision.quantizer, torch.float32),
        f"{TOWER}post_quant_conv.": Filled(vision.post_quant_conv, torch.float32),
        f"{TOWER}decoder.": Filled(vision.decoder, torch.float32),
        DEPTH: Filled(depth, dtype),
    }
    fill(tower, files.vision.weights, device, unused_tensors(sizes.vision))

    weights = [*files.llm.weights, *files.vision.weights, *files.projector.weights]
    told = {f"{file.parent.name}/{file.name}": fingerprint(file) for file in weights}
    provenance = {"name": name, **files.source, "weights": told}
    parts = (part.eval() for part in (llama, projector, vision, depth))
    return Parts(*parts, words, sizes.positions, provenance)


def build(
    sizes: config.Config, llm_file: Path
) -> tuple[LlamaForCausalLM, nn.Sequential, VisionTokenizer, DepthTransformer]:
    """The parts without weights, on the meta device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    try:
        with torch.device("meta"), silent("transformers"):
            of_llama = LlamaConfig(**sizes.llama, tie_word_embeddings=False, attn_implementation="sdpa")
            llama = LlamaForCausalLM(of_llama)
    except Exception as error:  # whatever wrong sizes lead to
        raise InputError(f"{llm_file}: describes no Llama: {first_line(error)}") from None
    ins, outs = sizes.depth.vision_width, sizes.depth.text_width
    with torch.device("meta"):
        layers: list[nn.Module] = [nn.Linear(ins, outs)]
        for _ in range(sizes.projector_layers - 1):
            layers += [nn.GELU(), nn.Linear(outs, outs)]
        return llama, nn.Sequential(*layers), VisionTokenizer(sizes.vision), DepthTransformer(sizes.depth)


def unused_tensors(sizes: config.Vision) -> str:
    """Pattern of the names that a vision tower has and nothing here needs: SigLIP's text side, its last layer and what
    follows that, the code books' training statistics, and copies of a shared book.
    """
    last = sizes.siglip.num_hidden_layers - 1
    siglip = rf"text_model\..*|vision_model\.(encoder\.layers\.{last}|post_layernorm|head)\..*|.*position_ids"
    books = r"\d+\.(embed_ema|cluster_size_ema)" + (r"|[1-9]\d*\.weight" if sizes.shared_codebook else "")
    scale = "logit_(scale|bias)"
    return rf"rqvaesiglip\.(siglip_model\.({siglip}|{scale})|{scale}|quantizer\.codebooks\.({books}))"
