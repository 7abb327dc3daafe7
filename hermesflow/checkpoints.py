"""Writing what training makes: a model, in the layout that it came in, and the state of a stage between two steps.

Both are written aside and renamed, so that a process killed at any moment leaves the old or the new, never half of one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapbench.models.janus.files import GENERATION
from gapbench.models.janus.files import WEIGHTS as JANUS_WEIGHTS
from gapbench.models.show_o.files import CLIP_FOLDER, MAGVIT_FOLDER, WEIGHTS
from gapbench.models.show_o.model import ShowO
from gapbench.models.unified.files import CONFIG, read_json
from gapbench.records import InputError, Sampling
from gapbench.store import RunFolder, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from gapbench.models.janus.model import Janus
    from gapbench.models.show_o.checkpoint import ShowOConfig
    from hermesflow.learners import Model


def save_model(model: Model, folder: Path) -> None:
    """Write `model` so that `gapbench run --model FOLDER` reads it: published names, its present dtype, all parts.

    What was not trained is written too, so that the folder stands alone.
    Raises InputError where the folder is there already or cannot be written.
    """
    if folder.exists():
        raise InputError(f"{folder}: is there already; remove it or give another folder")
    aside = folder.with_name(f".{folder.name}.partial")
    with writing(folder):
        shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
        aside.mkdir(parents=True)
        if isinstance(model, ShowO):
            _write_show_o(model, aside)
        else:
            _write_janus(model, aside)
        aside.rename(folder)


def _write_janus(model: Janus, folder: Path) -> None:
    """All that the checkpoint has beside weights as it is, and the weights in one file.

    The guidance is written too: a zoo row may have said it, which does not go with the folder.
    """
    from safetensors.torch import save_file

    for file in model.parts.folder.iterdir():
        if file.is_file() and not file.name.endswith((".safetensors", ".safetensors.index.json", ".bin", ".pt")):
            shutil.copyfile(file, folder / file.name)
    generation = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    write_json(folder / GENERATION, {**generation, "guidance_scale": model.settings(Sampling()).guidance})
    tensors = model.network.state_dict()
    if model.network.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    save_file(_contiguous(tensors), folder / JANUS_WEIGHTS[0])
    shutil.copymode(folder / CONFIG, folder / JANUS_WEIGHTS[0])  # safetensors writes for the owner alone


def _write_show_o(model: ShowO, folder: Path) -> None:
    from safetensors.torch import save_file

    from gapbench.models.show_o.checkpoint import PREFIX, PROJECTOR

    (folder / MAGVIT_FOLDER).mkdir()
    parts = model.parts
    settings = model.settings(Sampling())
    drawn = {"sampling": {"steps": settings.steps, "guidance": settings.guidance}}
    write_json(folder / CONFIG, _config(parts.config) | drawn)
    tensors = {f"{PREFIX}{key}": value for key, value in parts.phi.state_dict().items()}
    if parts.projector is not None:
        tensors |= {f"{PROJECTOR}{key}": value for key, value in parts.projector.state_dict().items()}
    save_file(_contiguous(tensors), folder / WEIGHTS[0])
    write_json(folder / MAGVIT_FOLDER / CONFIG, parts.magvit.config.to_dict())
    save_file(_contiguous(parts.magvit.state_dict()), folder / MAGVIT_FOLDER / WEIGHTS[0])
    for place in (folder, folder / MAGVIT_FOLDER):
        shutil.copymode(place / CONFIG, place / WEIGHTS[0])  # safetensors writes for the owner alone
    parts.tokenizer.save_pretrained(folder)
    if parts.clip is not None:
        parts.clip.save_pretrained(folder / CLIP_FOLDER)


def _config(config: ShowOConfig) -> dict[str, Any]:
    """As published; sizes that are not the published ones are spelt out, as the loader reads them."""
    from gapbench.models.show_o.checkpoint import CLIP_L_336, PHI_1_5

    values = {
        "_class_name": "Showo",
        "codebook_size": config.codebook_size,
        "llm_vocab_size": config.llm_vocab_size,
        "mask_token_id": config.mask_token_id,
        "max_seq_length": config.max_seq_length,
        "num_vq_tokens": config.num_vq_tokens,
        "vocab_size": config.vocab_size,
        "w_clip_vit": config.w_clip_vit,
    }
    if config.phi_config == PHI_1_5:
        values["llm_model_path"] = "microsoft/phi-1_5"  # where the published code takes the sizes from
    else:
        values["phi_config"] = dict(config.phi_config)
    if config.clip_config != CLIP_L_336:
        values["clip_config"] = dict(config.clip_config)
    return values


def save_state(file: Path, state: Mapping[str, Any]) -> None:
    """Tensors, numbers, texts and containers of them. Raises InputError where the file cannot be written."""
    import torch

    aside = file.with_name(f".{file.name}.partial")
    with writing(file):
        torch.save(dict(state), aside)
        aside.replace(file)


def load_state(file: Path) -> dict[str, Any] | None:
    """What `save_state` wrote, on the CPU; None where there is none. Raises InputError for what is no such file."""
    import torch

    if not file.exists():
        return None
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds
        why = str(error).partition("\n")[0]
        raise InputError(f"{file}: cannot be read ({why}); remove it to begin the stage anew") from None


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """No other call trains in this folder meanwhile, or InputError."""
    lock = RunFolder(folder)
    with writing(folder):
        free = lock.lock()
    if not free:
        raise InputError(f"{folder}: another process trains in it; wait for it or give another folder")
    try:
        yield
    finally:
        lock.unlock()


def claim(folder: Path, names: Mapping[str, Any], stage: Mapping[str, Any]) -> None:
    """Write stage.json, or raise InputError where the one that is there is of another `stage`; `names` are for people.

    stage: all that the stage's outcome depends on, as JSON.
    """
    file = folder / "stage.json"
    stage = json.loads(json.dumps(stage))
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["stage"]
        other = [name for name in stage if found.get(name) != stage[name]]
    except FileNotFoundError:
        with writing(file):
            write_json(file, {"names": dict(names), "stage": stage})
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: cannot be read ({error}); give another folder") from None
    if other:
        raise InputError(f"{folder}: holds a stage of another {', '.join(other)}; give another folder")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names the path, and what to do, where writing fails: a full disk, a folder that is none, no permission."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save raises RuntimeError for a full disk
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error).partition("\n")[0]
        advice = "make room or give another folder, and call again: what was written before is kept"
        raise InputError(f"{path}: cannot be written ({why}); {advice}") from error


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().contiguous() for key, value in tensors.items()}
