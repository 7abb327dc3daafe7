"""Models by name: the zoo's own (zoo.toml), a local checkpoint folder, or a server's. Importing this imports nothing
heavy.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from gapbench.models.show_o import files
from gapbench.records import InputError, Sampling

if TYPE_CHECKING:
    import torch

    from gapbench.models.openai_api import OpenAIModel
    from gapbench.models.show_o.model import ShowO

SERVED = "openai:"
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Entry:
    """One model. Either `repo`, on the hub, or `folder`: in this package for the zoo's, anywhere for a user's.

    One behind a server has neither, and draws by settings that are not known.
    """

    name: str
    family: str
    guidance: float | None
    steps: int | None
    licence: str
    note: str
    repo: str | None = None
    revision: str = "main"
    folder: Path | None = None
    suite: str = "paper"  # the tasks that it is measured on unless others are asked for
    weighs: bool = True  # whether it tells how likely a text is


def entries() -> dict[str, Entry]:
    package = Path(str(resources.files("gapbench")))
    tables = tomllib.loads((package / "models" / "zoo.toml").read_text(encoding="utf-8"))
    for table in tables.values():
        if "folder" in table:
            table["folder"] = package / table["folder"]
    return {name: Entry(name=name, **table) for name, table in tables.items()}


def resolve(name: str) -> Entry:
    """The model meant by `name`: a server's, the zoo's if it knows it, else the checkpoint in the folder `name`."""
    if name.startswith(SERVED):
        return Entry(name, "openai_api", None, None, "the server's", "OpenAI-compatible server", weighs=False)
    known = entries()
    if name in known:
        return known[name]
    folder = Path(name)
    if folder.is_dir():
        return _local(name, folder)
    near = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    accepted = (
        f"Known names: {', '.join(known)}. A folder with a Show-o checkpoint is accepted too. "
        f"A server's model: {SERVED}NAME or {SERVED}NAME@URL"
    )
    raise InputError(f"--model {name}: no such model or folder.{hint} {accepted}")


def _local(name: str, folder: Path) -> Entry:
    config = files.find_config(folder)
    made_by = files.read_json(config).get("_class_name") if config else None
    if made_by != "Showo":
        found = f"{config} is of class {made_by or 'unknown'}" if config else f"it has no {files.CONFIG}"
        wanted = 'a Show-o checkpoint has a config.json with "_class_name": "Showo"'
        raise InputError(f"--model {name}: the folder cannot be read as a model, {found}; {wanted}")
    told = files.read_json(config)
    # As the checkpoint says it is drawn with, else as the published ones of that many image tokens are.
    large = told.get("num_vq_tokens") == 1024
    drawn = {"guidance": 5.0, "steps": 50} if large else {"guidance": 1.75, "steps": 16}
    if isinstance(told.get("sampling"), dict):
        drawn |= told["sampling"]
    guidance, steps = drawn["guidance"], drawn["steps"]
    return Entry(name, "show_o", guidance, steps, licence="not stated", note="local checkpoint", folder=folder)


def load(name: str, device: str | None = None, dtype: str | None = None) -> ShowO | OpenAIModel:
    """The model, ready. Device: a GPU if there is one. Dtype: bfloat16 on a GPU, else float32.

    A server's model takes no dtype. It leaves the device alone, which may be meant for those that judge its drawings.
    """
    if name.startswith(SERVED):
        if dtype is not None:
            raise InputError(f"--dtype {dtype}: {name} runs as its server has it; leave --dtype out")
        from gapbench.models.openai_api import OpenAIModel

        return OpenAIModel(name)
    entry = resolve(name)
    place = device_of(device)
    kind = _dtype(dtype, place)
    if entry.folder is not None:
        found = files.local_files(entry.folder)
    else:
        try:
            found = files.hub_files(entry.repo, entry.revision)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None

    # Only now: these take seconds to import, and what is missing should be said at once.
    from gapbench.models.show_o import checkpoint
    from gapbench.models.show_o.model import ShowO

    parts = checkpoint.load(found, place, kind, name)
    return ShowO(parts, name=name, sampling=Sampling(steps=entry.steps, guidance=entry.guidance, temperature=1.0))


def device_of(name: str | None) -> torch.device:
    """The device of that name, or the best there is. Raises InputError where there is no such device."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name}: no such device; cpu, cuda and cuda:N are known") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        why = "CUDA is not available here" if not torch.cuda.is_available() else "there is no such GPU"
        raise InputError(f"--device {name}: {why}; leave --device out to take what there is")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"--device {name}: MPS is not available here; leave --device out to take what there is")
    if device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"--device {name}: no such device; cpu, cuda and cuda:N are known")
    return device


def _dtype(name: str | None, device: torch.device) -> torch.dtype:
    import torch

    if name is None:
        name = "bfloat16" if device.type == "cuda" else "float32"
    if name not in DTYPES:
        raise InputError(f"--dtype {name}: choose one of {', '.join(DTYPES)}")
    return getattr(torch, name)
