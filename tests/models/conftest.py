"""A tiny checkpoint with every part, made of the golden weights and random ones."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import CLIP, MAGVIT, change, configure
from huggingface_hub import constants
from safetensors.torch import save_file

from gapbench.miniature import tokenizer
from gapbench.models.show_o import files
from gapbench.models.show_o.magvit import Magvit


@pytest.fixture
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing reaches the hub; its cache is this empty folder."""
    cache = tmp_path / "hub-cache"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


@pytest.fixture(scope="session")
def golden(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden tiny model as a whole checkpoint: with an image tokenizer of 64 codes and a text tokenizer."""
    folder = tmp_path_factory.mktemp("golden")
    source = shared / "golden" / "showo"
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    (folder / "pytorch_model.safetensors").write_bytes((source / "showo_tiny.safetensors").read_bytes())
    (folder / "magvitv2").mkdir()
    (folder / "magvitv2" / "config.json").write_text(json.dumps({"_class_name": "MAGVITv2", **MAGVIT.to_dict()}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(Magvit(MAGVIT).state_dict(), folder / "magvitv2" / "pytorch_model.safetensors")
    tokenizer.build(folder)
    return folder


@pytest.fixture
def folder(golden: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden, tmp_path / "model"))


@pytest.fixture
def clip_folder(folder: Path) -> Path:
    """The CLIP-ViT variant: an image encoder of 4 patches, and a projector."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = {"intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPVisionModel(CLIPVisionConfig(**CLIP, **sizes)).save_pretrained(folder / files.CLIP_FOLDER)
        shapes = {"0.weight": (64, 8), "0.bias": (64,), "2.weight": (64, 64), "2.bias": (64,)}
        projector = {f"mm_projector.{key}": torch.randn(shape) for key, shape in shapes.items()}
    change(folder, lambda state: state.update(projector))
    configure(folder, w_clip_vit=True, clip_config=CLIP)
    return folder
