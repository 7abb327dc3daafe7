"""A Show-o checkpoint with tiny random weights in the published layout, for tests of everything around it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

PHI = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "partial_rotary_factor": 0.5,
    "qk_layernorm": True,
    "tie_word_embeddings": False,
}
MAGVIT = {
    "channels": 8,
    "encoder_mult": [1, 1, 1, 1, 1],
    "decoder_mult": [1, 1, 1, 1, 1],
    "encoder_blocks": [1, 1, 1, 1, 1],
    "decoder_blocks": [1, 1, 1, 1, 1],
    "bits": 4,
    "groups": 4,
}
SIDE = 3  # codes; pictures are 48 x 48


def write_checkpoint(folder: Path, seed: int = 0) -> Path:
    from transformers import AutoTokenizer, PhiConfig, PhiForCausalLM

    from gapbench.miniature import tokenizer
    from gapbench.models.show_o.layout import Layout
    from gapbench.models.show_o.magvit import Magvit, MagvitConfig

    (folder / "magvitv2").mkdir(parents=True)
    tokenizer.build(folder)
    text = AutoTokenizer.from_pretrained(folder)
    layout = Layout(len(text), 2 ** MAGVIT["bits"], SIDE**2, text.eos_token_id)
    torch.manual_seed(seed)
    phi = PhiForCausalLM(PhiConfig(**PHI, vocab_size=layout.vocabulary))
    for parameter in phi.parameters():
        if parameter.ndim > 1:  # the default initialisation gives near-equal logits, and greedy ties
            torch.nn.init.normal_(parameter, std=0.3)
    config = {
        "_class_name": "Showo",
        "codebook_size": layout.codebook_size,
        "llm_vocab_size": layout.text_vocabulary,
        "mask_token_id": layout.mask,
        "num_vq_tokens": layout.image_tokens,
        "vocab_size": layout.vocabulary,
        "w_clip_vit": False,
        "phi_config": {**PHI, "vocab_size": layout.vocabulary},
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file({f"showo.{k}": v.contiguous() for k, v in phi.state_dict().items()}, folder / "pytorch_model.safetensors")
    magvit = Magvit(MagvitConfig.from_dict(MAGVIT))
    (folder / "magvitv2" / "config.json").write_text(json.dumps(MAGVIT))
    save_file(dict(magvit.state_dict()), folder / "magvitv2" / "pytorch_model.safetensors")
    return folder
