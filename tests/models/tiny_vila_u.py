"""VILA-U checkpoints in the published layout: with tiny random weights, or with those of the golden vectors."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
SIZES = {
    "vision": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 24,
        "patch_size": 8,
    },
    "depth": 3,
    "codes": 40,
    "shared_codebook": False,
    "ddconfig": {
        "double_z": False,
        "z_channels": 8,
        "resolution": 48,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [6],
        "dropout": 0.0,
    },
    "decoder_latent_shape": [6, 6],  # pictures are 48 x 48
    "rqtransformer": {
        "block_size": [3, 3, 3],
        "input_embed_dim_1": 16,
        "input_embed_dim_2": 32,
        "embed_dim": 24,
        "vocab_size": 40,
        "head": {"block": {"n_head": 3}, "n_layer": 2},
    },
    "mm_projector_type": "mlp2x_gelu",
    "llm": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
    },
}


def field(number: int, value: int | float | bytes) -> bytes:
    """One field of a protocol-buffer message."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    length, head = len(value), [number << 3 | 2]
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    return bytes([*head, length]) + value


def sentencepiece(pieces: list[tuple[str, int]], kind: int = 2) -> bytes:
    """A SentencePiece model of these pieces and their types; earlier ones are merged first. kind 2: byte pairs."""
    lines = [
        field(1, field(1, piece.encode()) + field(2, -float(rank)) + field(3, type_))
        for rank, (piece, type_) in enumerate(pieces)
    ]
    return b"".join(lines) + field(2, field(3, kind))


def pieces() -> list[tuple[str, int]]:
    special = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
    words = [*(f"<0x{byte:02X}>" for byte in range(256))]
    merged = ["re", "red", "▁red", "▁a", "▁t", "▁th", "▁the", "st", "sta", "star", "▁s", "cir", "cl", "cle"]
    letters = [chr(code) for code in range(33, 127)]
    return [*special, *((word, BYTE) for word in words), *((word, NORMAL) for word in [*merged, "▁", *letters])]


def write(folder: Path, sizes: dict[str, Any], tokenizer: bytes, **llm: Any) -> Path:
    """Configs and the text tokenizer, in the published files and keys; the llm's own keys may be given beside."""
    for part in ("llm", "vision_tower", "mm_projector"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    vision = sizes["vision"]
    side = vision["image_size"] // vision["patch_size"]
    tower = {
        "model_type": "rqvaesigliptransformer_model",
        "hidden_size": vision["hidden_size"],
        "rqvaesiglip": {
            "embed_dim": vision["hidden_size"],
            "n_embed": sizes["codes"],
            "latent_shape": [side, side, vision["hidden_size"]],
            "code_shape": [side, side, sizes["depth"]],
            "shared_codebook": sizes["shared_codebook"],
            "ddconfig": sizes["ddconfig"],
            "decoder_latent_shape": sizes["decoder_latent_shape"],
            "pretrained_model": "google/siglip-large-patch16-256",
            "siglip_config": {key: vision[key] for key in SIZES["vision"]},
        },
        "rqtransformer": sizes["rqtransformer"],
    }
    llama = {"model_type": "llama", "max_position_embeddings": 512, **sizes["llm"], **llm}
    configs = {
        "": {"model_type": "vila_u_llama", "architectures": ["VILAULlamaModel"], "image_aspect_ratio": "resize"},
        "llm": llama,
        "vision_tower": tower,
        "mm_projector": {"model_type": "v2l_projector", "mm_projector_type": sizes["mm_projector_type"]},
    }
    for part, config in configs.items():
        (folder / part / "config.json").write_text(json.dumps(config))
    (folder / "llm" / "tokenizer.model").write_bytes(tokenizer)
    return folder


def write_golden(folder: Path, golden: Path, **llm: Any) -> Path:
    """The golden vectors' model; its tokenizer is a stand-in of the right size."""
    sizes = json.loads((golden / "config.json").read_text())
    letters = [(chr(97 + number), NORMAL) for number in range(sizes["special"]["im_start"] - 4)]
    stand_in = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL), ("▁", NORMAL), *letters]
    write(folder, sizes, sentencepiece(stand_in), **llm)
    for part in ("llm", "vision_tower", "mm_projector"):
        (folder / part / "model.safetensors").write_bytes((golden / f"{part}.safetensors").read_bytes())
    return folder


def write_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Random weights, with the tensors that a published tower has and nothing uses."""
    from gapbench.models.vila_u import checkpoint, config
    from gapbench.models.vila_u.files import local_files

    words = pieces()
    sizes = {**SIZES, "llm": {**SIZES["llm"], "vocab_size": len(words) + 4}}
    write(folder, sizes, sentencepiece(words))
    for part in ("llm", "vision_tower", "mm_projector"):
        save_file({}, folder / part / "model.safetensors")
    files = local_files(folder)
    llama, projector, vision, depth = checkpoint.build(config.read(files), files.llm.config)
    random = torch.Generator().manual_seed(seed)

    def state(module: torch.nn.Module, start: str = "", scale: float = 1.0) -> dict[str, Tensor]:
        # Wide enough that logits differ and greedy choices are no near-ties.
        return {
            start + key: torch.randn(value.shape, generator=random) * (scale * value[0].numel() ** -0.5)
            if value.ndim > 1
            else torch.ones(value.shape) * (key.endswith("weight"))
            for key, value in module.state_dict().items()
        }

    save_file(state(llama, scale=2.0), folder / "llm" / "model.safetensors")
    save_file(state(projector, "layers."), folder / "mm_projector" / "model.safetensors")
    tower = state(vision.encoder, "rqvaesiglip.siglip_model.vision_model.")
    tower |= state(vision.quantizer, "rqvaesiglip.quantizer.")
    tower |= state(vision.post_quant_conv, "rqvaesiglip.post_quant_conv.")
    tower |= state(vision.decoder, "rqvaesiglip.decoder.")
    tower |= state(depth, "rqtransformer.", scale=2.0)
    for number in range(SIZES["depth"]):
        book = f"rqvaesiglip.quantizer.codebooks.{number}"
        tower |= {f"{book}.embed_ema": torch.zeros(40, 16), f"{book}.cluster_size_ema": torch.zeros(40)}
    siglip = "rqvaesiglip.siglip_model."
    for unused in ("text_model.head.weight", "vision_model.encoder.layers.2.mlp.fc1.weight", "logit_scale"):
        tower[siglip + unused] = torch.zeros(1)
    tower |= {f"{siglip}vision_model.{name}": torch.zeros(1) for name in ("post_layernorm.bias", "head.probe")}
    save_file(tower, folder / "vision_tower" / "model.safetensors")
    return folder


def change(folder: Path, part: str, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """Edit the tensors of one of the three parts."""
    path = folder / part / "model.safetensors"
    state = load_file(path)
    edit(state)
    save_file(state, path)


def configure(folder: Path, part: str, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / part / "config.json"
    config = json.loads(path.read_text())
    edit(config)
    path.write_text(json.dumps(config))
