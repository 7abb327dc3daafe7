"""A tiny checkpoint's sizes, and what tests do with its folder."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gapbench.models.show_o.checkpoint import Parts, load
from gapbench.models.show_o.files import local_files
from gapbench.models.show_o.magvit import MagvitConfig
from gapbench.records import InputError

CPU = torch.device("cpu")
MAGVIT = MagvitConfig(8, (1, 1), (1, 1), (1, 1), (1, 1), bits=6, groups=4)
CLIP = {"hidden_size": 8, "image_size": 28, "patch_size": 14}


def load_folder(folder: Path, dtype: torch.dtype = torch.float32) -> Parts:
    return load(local_files(folder), CPU, dtype, "tiny")


def change(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    path = folder / "pytorch_model.safetensors"
    state = load_file(path)
    edit(state)
    save_file(state, path)


def configure(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "absent"}))


def fails(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        load_folder(folder)
    message = str(error.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def as_bin(path: Path) -> None:
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
