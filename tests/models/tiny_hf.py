"""Image-text-to-text models of transformers with tiny random weights, in folders as the hub has them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

CHAT = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
END, PAD = 0, 1
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT |= {"num_key_value_heads": 2, "max_position_embeddings": 256}
TEXT |= {"bos_token_id": END, "eos_token_id": END, "pad_token_id": PAD}
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CODES = {"embed_dim": 8, "latent_channels": 8, "base_channels": 32, "num_res_blocks": 1, "attn_resolutions": []}


def write(kind: str, folder: Path, seed: int = 0) -> Path:
    """A model of the kind (a model_type), its processor and its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, processor = BUILDERS[kind]()
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "vqmodel" not in name:  # with the default's near-equal logits greedy has ties
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def tokenizer(named: Mapping[str, str], others: Sequence[str] = ()) -> Any:
    """The miniature's words, with more special tokens: those that a processor asks for by a name, and others."""
    from transformers import AutoTokenizer

    from gapbench.miniature import tokenizer as miniature

    with tempfile.TemporaryDirectory() as folder:
        miniature.build(Path(folder))
        made = AutoTokenizer.from_pretrained(folder, extra_special_tokens=dict(named), pad_token="<|unknown|>")
    made.add_tokens(list(others), special_tokens=True)
    return made


def llava() -> tuple[Any, Any]:
    from transformers import CLIPImageProcessorPil, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    text = tokenizer({"image_token": "<image>"})
    config = LlavaConfig(
        vision_config={**VISION, "model_type": "clip_vision_model", "image_size": 28, "patch_size": 14},
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(text)},
        image_token_index=text.image_token_id,
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    how = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = LlavaProcessor(images, text, **how, chat_template=CHAT.replace("IMAGE", "<image>\n"))
    return LlavaForConditionalGeneration(config), processor


def qwen2_vl() -> tuple[Any, Any]:
    from transformers import (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessorPil,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    pads = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    text = tokenizer(pads, ("<|vision_start|>", "<|vision_end|>"))
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = Qwen2VLConfig(
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4},
        text_config={**TEXT, "vocab_size": len(text), "rope_parameters": rope},
        image_token_id=text.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=text.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=text.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=text.convert_tokens_to_ids("<|vision_end|>"),
    )
    sizes = {"patch_size": 4, "size": {"shortest_edge": 8 * 8, "longest_edge": 8 * 8 * 12}}
    chat = CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    images, videos = Qwen2VLImageProcessorPil(**sizes), Qwen2VLVideoProcessor(**sizes)
    return Qwen2VLForConditionalGeneration(config), Qwen2VLProcessor(images, text, videos, chat_template=chat)


def idefics3(name: str = "Idefics3", videos: Any = None) -> tuple[Any, Any]:
    import transformers

    named = {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>"}
    named |= {"global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>"}
    text = tokenizer(named, [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)])
    config = getattr(transformers, f"{name}Config")(
        vision_config={**VISION, "image_size": 16, "patch_size": 4},
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(text)},
        image_token_id=text.image_token_id,
        scale_factor=2,
    )
    images = getattr(transformers, f"{name}ImageProcessorPil")(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 16}
    )
    parts = {"image_processor": images, "tokenizer": text, **({"video_processor": videos} if videos else {})}
    chat = CHAT.replace("IMAGE", "<image>")
    processor = getattr(transformers, f"{name}Processor")(**parts, image_seq_len=4, chat_template=chat)
    return getattr(transformers, f"{name}ForConditionalGeneration")(config), processor


def smolvlm() -> tuple[Any, Any]:
    """Its processor asks for the package num2words, which it needs for videos alone."""
    from transformers import SmolVLMVideoProcessor

    return idefics3("SmolVLM", SmolVLMVideoProcessor())


def internvl() -> tuple[Any, Any]:
    from transformers import (
        GotOcr2ImageProcessorPil,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    named = {"context_image_token": "<IMG_CONTEXT>", "start_image_token": "<img>", "end_image_token": "</img>"}
    text = tokenizer({**named, "video_token": "<video>"})
    config = InternVLConfig(
        vision_config={**VISION, "image_size": 16, "patch_size": 4},
        text_config={"model_type": "qwen2", **TEXT, "vocab_size": len(text)},
        image_token_id=text.context_image_token_id,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    images = GotOcr2ImageProcessorPil(size={"height": 16, "width": 16}, crop_to_patches=True, max_patches=4)
    videos = InternVLVideoProcessor(size={"height": 16, "width": 16})
    chat = CHAT.replace("IMAGE", "<IMG_CONTEXT>\n")
    processor = InternVLProcessor(images, text, videos, image_seq_length=4, chat_template=chat)
    return InternVLForConditionalGeneration(config), processor


def chameleon() -> tuple[Any, Any]:
    """As on the hub, its processor has no chat template."""
    from transformers import (
        ChameleonConfig,
        ChameleonForConditionalGeneration,
        ChameleonImageProcessorPil,
        ChameleonProcessor,
    )

    codes = ["IMGIMG" + "".join("ABCDEFGHIJ"[int(digit)] for digit in str(code)) + "Z" for code in range(16)]
    named = {"image_token": "<image>", "boi_token": "<racm3:break>", "eoi_token": "<eoss>"}
    text = tokenizer(named, ("<reserved08706>", *codes))
    text.sep_token = "<reserved08706>"
    config = ChameleonConfig(
        **TEXT,
        vocab_size=len(text),
        vq_config={**CODES, "num_embeddings": 16, "resolution": 16, "channel_multiplier": [1, 1, 1]},
        vocabulary_map=text.get_vocab(),
    )
    images = ChameleonImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return ChameleonForConditionalGeneration(config), ChameleonProcessor(images, text, image_seq_length=16)


def emu3() -> tuple[Any, Any]:
    from transformers import Emu3Config, Emu3ForConditionalGeneration, Emu3ImageProcessor, Emu3Processor

    named = {"image_token": "<image>", "boi_token": "<|image start|>", "eoi_token": "<|image end|>"}
    named |= {"image_wrapper_token": "<|image token|>", "eof_token": "<|extra_201|>"}
    text = tokenizer(named, ("<|extra_200|>", *(f"<|visual token {code:06d}|>" for code in range(16))))
    codes = {**CODES, "codebook_size": 16, "channel_multiplier": [1, 1, 1, 1], "hidden_size": 32}
    config = Emu3Config(text_config={**TEXT, "vocab_size": len(text)}, vq_config=codes, vocabulary_map=text.get_vocab())
    images = Emu3ImageProcessor(min_pixels=16 * 16, max_pixels=32 * 32)
    chat = CHAT.replace("IMAGE", "<image>")
    return Emu3ForConditionalGeneration(config), Emu3Processor(images, text, chat_template=chat)


BUILDERS = {
    "llava": llava,
    "qwen2_vl": qwen2_vl,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "internvl": internvl,
    "chameleon": chameleon,
    "emu3": emu3,
}
