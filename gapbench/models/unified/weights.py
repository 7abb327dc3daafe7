"""Weights of checkpoints: read tensor by tensor, and every one accounted for.

Models are built without memory, on the meta device, and filled from files of safetensors or of torch; a file that is
cut off, or has other tensors than the model, is said to be so by name.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gapbench.records import InputError

LFS = b"version https://git-lfs"

# Shapes of all tensors of a file, and how to read one.
Tensors = tuple[dict[str, tuple[int, ...]], Callable[[str], Tensor]]


def open_weights(file: Path, device: torch.device) -> Tensors:
    """Shapes of all tensors, and how to read one: from safetensors each alone, right onto the device."""
    header = read_header(file)
    if header is not None:
        from safetensors import SafetensorError, safe_open

        try:
            tensors = safe_open(file, framework="pt", device=str(device))
        except SafetensorError as error:
            raise InputError(f"{file}: not a sound safetensors file: {first_line(error)}") from None
        return {key: tuple(entry["shape"]) for key, entry in header.items()}, tensors.get_tensor

    try:
        state = torch.load(file, map_location="cpu", mmap=zipfile.is_zipfile(file), weights_only=True)
    except Exception:  # torch raises a dozen kinds
        why = "cannot be read with weights_only=True: it is damaged or holds more than tensors"
        raise InputError(f"{file}: {why}. Convert it to safetensors where you trust it") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{file}: holds something other than tensors by name")
    return {key: tuple(value.shape) for key, value in state.items()}, state.__getitem__


def read_header(file: Path) -> dict[str, Any] | None:
    """The entries of a safetensors file, checked against its length; None for .bin. InputError for LFS pointers.

    Format: 8 bytes, the header's length, little-endian; the header in JSON; data, at offsets relative to its begin.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(len(LFS))
        if start == LFS:
            raise InputError(f"{file}: is a git-LFS pointer; run git lfs pull")
        if file.suffix != ".safetensors":
            return None
        stream.seek(8)
        length = int.from_bytes(start[:8], "little")
        if len(start) < 9 or start[8:9] != b"{":
            raise InputError(f"{file}: not a safetensors file")
        if 8 + length > size:
            raise InputError(f"{file}: cut off in its header; it has {size} bytes. Download it again")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            ends = sorted((entry["data_offsets"][1], key) for key, entry in header.items())
        except (ValueError, AttributeError, LookupError, TypeError):
            raise InputError(f"{file}: not a safetensors file") from None
    for end, key in ends:
        if 8 + length + end > size:
            whole = 8 + length + ends[-1][0]
            raise InputError(f"{file}: cut off in tensor {key}; it has {size} of {whole} bytes. Download it again")
    return header


def finite(tensor: Tensor) -> bool:
    """Without a tensor of flags: the extremes tell."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))


class Filled(NamedTuple):
    """A module to be filled, and what its floating tensors become."""

    module: nn.Module
    dtype: torch.dtype


def fill(
    parts: Mapping[str, Filled],
    files: Sequence[Path],
    device: torch.device,
    unused: str = "(?!)",
    read_file: Callable[[Path, torch.device], Tensors] = open_weights,
    wanted_by: str = "the config",
) -> None:
    """Fill modules that are on the meta device from one or more files; keys say what stands before their names there.

    The wanted tensors must be there, in their shapes and with finite values, and none that `unused` does not match.
    wanted_by: what says the shapes, in the words of an error.
    """
    found: dict[str, tuple[Path, tuple[int, ...], Callable[[str], Tensor]]] = {}
    for file in files:
        shapes, read = read_file(file, device)
        found |= {key: (file, shape, read) for key, shape in shapes.items()}
    place = files[0] if len(files) == 1 else files[0].parent
    wanted = {start + key: value for start, part in parts.items() for key, value in part.module.state_dict().items()}
    if missing := [key for key in wanted if key not in found]:
        raise InputError(f"{place}: tensor {missing[0]} is missing{and_more(missing)}")
    if odd := [key for key in found if key not in wanted and not re.fullmatch(unused, key)]:
        raise InputError(f"{found[odd[0]][0]}: tensor {odd[0]} is unexpected{and_more(odd)}")
    for key, value in wanted.items():
        file, shape, _ = found[key]
        if shape != tuple(value.shape):
            raise InputError(f"{file}: tensor {key} has shape {shape}, wanted {tuple(value.shape)} by {wanted_by}")

    for start, (module, dtype) in parts.items():
        state = {}
        for key in module.state_dict():
            file, _, read = found[start + key]
            source = read(start + key)
            if not source.is_floating_point():
                raise InputError(f"{file}: tensor {start + key} has dtype {source.dtype}, wanted a floating one")
            state[key] = placed(source, device, dtype, f"{file}: tensor {start + key}")
        module.load_state_dict(state, assign=True)


def placed(source: Tensor, device: torch.device, dtype: torch.dtype, name: str) -> Tensor:
    """A copy of a tensor on a device. Raises InputError with its `name` where its values are not finite there."""
    # A copy in any case: what is read may be a view of the file, which may change under a running model.
    tensor = source.to(device, dtype, copy=True)
    if not finite(tensor):
        why = f"that do not fit {dtype}" if finite(source) else "that are not finite"
        raise InputError(f"{name} has values {why}")
    return tensor


def and_more(names: list[str]) -> str:
    """To be said after the first of names."""
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def first_line(error: Exception) -> str:
    """The first line of a foreign error."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
