"""A Janus with tiny random weights, saved in the hub's layout: transformers' own classes and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SPECIAL = {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
ROLES = ("<|User|>", "<|Assistant|>")
CHAT = (
    "{% for message in messages %}<|User|>: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image_placeholder>\n{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}"
    "\n\n{% endfor %}{% if add_generation_prompt %}<|Assistant|>:{% endif %}"
)
SIDE, PATCH = 4, 8  # 16 codes, pictures of 32 x 32
CODES = 24
POSITIONS = 256
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "max_position_embeddings": POSITIONS}


def write_checkpoint(folder: Path, seed: int = 0, tied: bool = False, shard: str = "50GB") -> Path:
    """Model, processor and tokenizer; with `tied` the text head is the embeddings, as transformers saves it: once."""
    from transformers import JanusProcessor
    from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

    folder.mkdir(parents=True, exist_ok=True)
    text = tokenizer(folder)
    network(text, seed, tied).save_pretrained(folder, max_shard_size=shard)
    images = JanusImageProcessorPil(
        size={"height": SIDE * PATCH, "width": SIDE * PATCH}, image_mean=[0.5] * 3, image_std=[0.5] * 3, min_size=3
    )
    JanusProcessor(
        images, text, chat_template=CHAT, use_default_system_prompt=True, num_image_tokens=SIDE**2
    ).save_pretrained(folder)
    return folder


def network(text: Any, seed: int = 0, tied: bool = False) -> Any:
    from transformers import JanusConfig, JanusForConditionalGeneration, LlamaConfig

    ids = {"bos_token_id": text.bos_token_id, "eos_token_id": text.eos_token_id, "pad_token_id": text.pad_token_id}
    config = JanusConfig(
        text_config=LlamaConfig(**TEXT, **ids, vocab_size=len(text) + 5, tie_word_embeddings=tied),
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE * PATCH,
            "patch_size": PATCH,
            "projection_dim": TEXT["hidden_size"],
            "num_image_tokens": SIDE**2,
        },
        vq_config={
            "num_embeddings": CODES,
            "latent_channels": 8,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1],
            "num_res_blocks": 1,
            "projection_dim": TEXT["hidden_size"],
            "image_token_embed_dim": TEXT["hidden_size"],
        },
        image_token_id=text.image_token_id,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = JanusForConditionalGeneration(config)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "vqmodel" not in name:  # with the default's near-equal logits greedy has ties
                torch.nn.init.normal_(parameter, std=0.3)
    model.generation_config._from_model_config = False  # or transformers forgets the next but one on loading
    model.generation_config.guidance_scale = 4.0
    model.generation_config.generation_kwargs = {"boi_token_id": text.boi_token_id}
    return model.eval()


def tokenizer(folder: Path) -> Any:
    """The miniature's words with Janus' special tokens; [bos] begins every text, as in the published tokenizers."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    from gapbench.miniature import tokenizer as miniature

    miniature.build(folder, start="<|begin|>")
    made = AutoTokenizer.from_pretrained(folder, extra_special_tokens=SPECIAL, pad_token="<|pad|>")
    made.add_tokens([*ROLES], special_tokens=True)
    bos = made.bos_token
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, made.bos_token_id)]
    )
    return made
