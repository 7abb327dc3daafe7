"""LlamaGen checkpoints in the published layout, tiny and random."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

VQ = {"ch": 32, "ch_mult": [1, 1, 1, 1], "z_channels": 8, "codebook_size": 40, "codebook_embed_dim": 4}
GPT = {"n_layer": 2, "n_head": 2, "dim": 32, "block_size": 9, "vocab_size": 40, "multiple_of": 16, "num_classes": 7}
T5 = {"d_model": 24, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 3, "feed_forward_proj": "gated-gelu"}
WORDS = "a an red green blue orange circle star stars cross square heart and two photo of above the . ,".split()


def sizes(kind: str, **gpt: Any) -> dict[str, Any]:
    """config.json; pictures are 24 x 24. Slots are few, so that a caption can be too long for them."""
    slots = {"t2i": 12, "c2i": 1}[kind]
    of_gpt = {**GPT, "model_type": kind, "cls_token_num": slots, "caption_dim": T5["d_model"], **gpt}
    return {"model_type": "llamagen", "gpt": of_gpt, "vq": VQ}


def random_state(module: nn.Module, seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    """Wide enough that logits differ and greedy choices are no near-ties."""
    random = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(value.shape, generator=random) * (scale * value[0].numel() ** -0.5)
        if value.ndim > 1
        else torch.ones(value.shape) * (key.endswith("weight"))
        for key, value in module.state_dict().items()
    }


def write_text_encoder(folder: Path, seed: int = 0, **sizes: Any) -> Path:
    """A T5, decoder and all, and a tokenizer of words that ends texts as T5's does."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = T5Config(**{"vocab_size": len(vocabulary), **T5, **sizes}, tie_word_embeddings=False)
        T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def write_checkpoint(folder: Path, kind: str = "t2i", seed: int = 0, **gpt: Any) -> Path:
    """As training scripts leave it: tensors beside an optimizer and arguments, with buffers that nothing reads."""
    from gapbench.models.llamagen import checkpoint, config

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(sizes(kind, **gpt)))
    found = config.read("", folder / "config.json")
    language, vq = checkpoint.build(found)
    arguments = argparse.Namespace(gpt_type=kind, lr=1e-4, no_compile=True)
    buffers = {"freqs_cis": torch.zeros(3, 2), "layers.0.attention.kv_cache.k_cache": torch.zeros(1)}
    state = random_state(language, seed, 1.2) | buffers
    torch.save({"model": state, "optimizer": {}, "steps": 5, "args": arguments}, folder / f"{kind}_tiny.pt")
    state = random_state(vq, seed + 1) | {"quantize.codebook_used": torch.zeros(65_536)}
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    torch.save({"ema": other, "model": state, "discriminator": {}}, folder / f"vq_ds8_{kind}.pt")
    if kind == "t2i":
        write_text_encoder(folder / "flan-t5-xl", seed)
    return folder


def change(file: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """Edit the tensors of a file as `write_checkpoint` writes it."""
    told = torch.load(file, weights_only=False)
    edit(told["model"])
    torch.save(told, file)


def configure(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    edit(config)
    path.write_text(json.dumps(config))
