"""Loading a Janus checkpoint in transformers' layout.

The network is built without memory and filled tensor by tensor, each going from the file straight to its device and
dtype. Every tensor is accounted for: transformers itself would leave a missing one at random values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gapbench.hub import fingerprint, silent
from gapbench.models.janus import text
from gapbench.models.janus.files import Files
from gapbench.models.janus.text import Text
from gapbench.models.janus.vision import Frame
from gapbench.models.unified.files import read_json
from gapbench.models.unified.weights import Filled, fill, first_line, open_weights
from gapbench.records import InputError

if TYPE_CHECKING:
    from transformers import JanusForConditionalGeneration

HEAD = "lm_head."
COMPUTED = r".*\.(position_ids|rotary_emb\.inv_freq)"  # which some versions of transformers saved


@dataclass(frozen=True)
class Parts:
    """A loaded checkpoint: the network, its text, how it is shown pictures, the folder that it came from, and what the
    manifest says of it.
    """

    network: JanusForConditionalGeneration
    text: Text
    frame: Frame
    folder: Path
    provenance: Mapping[str, Any]


def load(files: Files, device: torch.device, dtype: torch.dtype, name: str) -> Parts:
    """Read everything. The image tokenizer stays in float32, where alone its codes are exact."""
    network = build(files)
    config, inner = network.config, network.model
    words = text.load(files, config.text_config.vocab_size)
    parts = {
        f"model.{child}.": Filled(module, torch.float32 if child == "vqmodel" else dtype)
        for child, module in inner.named_children()
    }
    # The files decide: published ones have a head of their own, though their config does not say so.
    kept = any(f"{HEAD}weight" in open_weights(file, device)[0] for file in files.weights)
    tied = config.tie_word_embeddings and not kept
    if not tied:
        parts[HEAD] = Filled(network.lm_head, dtype)
    fill(parts, files.weights, device, COMPUTED)
    if tied:
        network.lm_head.weight = inner.language_model.embed_tokens.weight
    config.tie_word_embeddings = tied

    # Not in any file: computed from the config, frequencies in float32 whatever the dtype, as transformers keeps them.
    language, seen = inner.language_model, inner.vision_model.embeddings
    language.rotary_emb = type(language.rotary_emb)(config=config.text_config).to(device)
    seen.position_ids = torch.arange(seen.num_positions, device=device)[None]

    provenance = {
        "name": name,
        **files.source,
        "weights": {file.name: fingerprint(file) for file in files.weights},
        "chat_template": hashlib.sha256(words.template.encode()).hexdigest(),
        "system_prompt": files.system_prompt,
    }
    frame = Frame(config.vision_config.image_size, files.image_mean, files.image_std, files.min_size)
    return Parts(network.eval(), words, frame, files.folder, provenance)


def build(files: Files) -> JanusForConditionalGeneration:
    """The network without weights, on the meta device. Raises InputError for a config that describes none."""
    from transformers import JanusConfig, JanusForConditionalGeneration

    values = read_json(files.config)
    if (kind := values.get("model_type")) != "janus":
        raise InputError(f'{files.config}: model_type is "{kind}", not "janus"')
    try:
        with torch.device("meta"), silent("transformers"):
            config = JanusConfig.from_dict(values)
            return JanusForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    except Exception as error:  # whatever wrong sizes lead to
        raise InputError(f"{files.config}: describes no Janus: {first_line(error)}") from None
