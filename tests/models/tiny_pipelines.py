"""Text-to-image pipelines of diffusers with tiny random weights, in folders as the hub has them."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

WORDS = ("a", "an", "the", "of", "photo", "red", "blue", "green", "circle", "square", "and", "two")
LETTERS = (*string.ascii_lowercase, *string.digits, *".,'-")
CROSSES = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
UNET = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    **CROSSES,
}
UNET |= {"attention_head_dim": 4, "sample_size": 8}
CODES = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 4, "layers_per_block": 1}
CODES |= {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
CODES_8 = {**CODES, "block_out_channels": (8,) * 4, "down_block_types": ("DownEncoderBlock2D",) * 4}
CODES_8 |= {"up_block_types": ("UpDecoderBlock2D",) * 4}
NETWORK = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def write(build: Callable[[], Any], folder: Path, seed: int = 0) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline = build()
    pipeline.save_pretrained(folder)
    return folder


def stable_diffusion() -> Any:
    """16 x 16 pixels, with a safety checker; reads 12 tokens."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import (
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
    )

    pieces = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    tokenizer = CLIPTokenizer({piece: number for number, piece in enumerate(pieces)}, [], model_max_length=12)
    text = CLIPTextConfig(
        **NETWORK, vocab_size=len(pieces), max_position_embeddings=12, bos_token_id=0, eos_token_id=1, pad_token_id=1
    )
    vision = {**NETWORK, "image_size": 16, "patch_size": 8}
    checker = CLIPConfig(text_config=text.to_dict(), vision_config=vision, projection_dim=8)
    return StableDiffusionPipeline(
        vae=AutoencoderKL(**CODES),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**UNET),
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1, beta_schedule="scaled_linear"),
        safety_checker=StableDiffusionSafetyChecker(checker),
        feature_extractor=CLIPImageProcessorPil(size=16, crop_size=16),
    )


def latent_diffusion() -> Any:
    """64 x 64 pixels; reads 77 tokens, though its tokenizer would leave more."""
    from diffusers import AutoencoderKL, DDIMScheduler, LDMTextToImagePipeline, UNet2DConditionModel
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
    from transformers import BertTokenizer

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    bert = LDMBertConfig(
        vocab_size=len(pieces), d_model=16, encoder_layers=1, encoder_ffn_dim=16, encoder_attention_heads=2, head_dim=8
    )
    return LDMTextToImagePipeline(
        vqvae=AutoencoderKL(**CODES_8),
        bert=LDMBertModel(bert),
        tokenizer=BertTokenizer({piece: number for number, piece in enumerate(pieces)}, model_max_length=512),
        unet=UNet2DConditionModel(**UNET),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False),
    )


def pixart() -> Any:
    """A transformer, 256 x 256 pixels; reads 120 tokens."""
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)]
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return PixArtAlphaPipeline(
        tokenizer=T5Tokenizer(pieces, extra_ids=0, model_max_length=512),
        text_encoder=T5EncoderModel(T5Config(vocab_size=len(pieces), **sizes)),
        vae=AutoencoderKL(**CODES_8),
        transformer=PixArtTransformer2DModel(
            sample_size=32, num_layers=1, patch_size=4, attention_head_dim=8, num_attention_heads=2, in_channels=4,
            cross_attention_dim=16, caption_channels=16, out_channels=8, use_additional_conditions=False,
        ),
        scheduler=DPMSolverMultistepScheduler(),
    )  # fmt: skip
