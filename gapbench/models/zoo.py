"""Models by name: the zoo's own (zoo.toml), a local checkpoint folder, or what a scheme says, as `openai:NAME`.

A family is a module of this package with `load(entry, device, dtype) -> model`. Importing this imports nothing heavy.
"""

from __future__ import annotations

import difflib
import importlib
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gapbench.models import hf
from gapbench.models.llamagen import files as llamagen
from gapbench.models.show_o import files
from gapbench.models.unified.files import CONFIG, read_json
from gapbench.records import InputError

if TYPE_CHECKING:
    import torch

SCHEMES = {  # what stands before the colon -> family, what follows, and what a model of it does not do
    "openai": ("openai_api", "NAME or NAME@URL, a server's model", {"weighs": False}),
    "hf": ("hf", "ORG/NAME or DIR, an image-text-to-text model of transformers", {"draws": False}),
    "diffusers": (
        "diffusers_pipeline",
        "ORG/NAME or DIR, a text-to-image pipeline",
        {"answers": False, "weighs": False},
    ),
    "command": ("command", "PROGRAM ARGS, a program that speaks JSON lines", {"weighs": False}),
    "outputs": ("outputs", "DIR, responses made elsewhere", {"weighs": False}),
}
ELSEWHERE = "elsewhere"  # family of what no current library runs: its row says how to measure it all the same
DTYPES = ("float32", "bfloat16", "float16")
F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Entry:
    """One model. Either `repo`, on the hub, or `folder`: in this package for the zoo's, anywhere for a user's; or, of a
    scheme that has neither, `target`, what follows its colon. With a `repo` of several models, `target` is one's file.

    guidance, steps: None where the family's own are meant, or are not known.
    """

    name: str
    family: str
    guidance: float | None = None
    steps: int | None = None
    licence: str = "not stated"
    note: str = ""
    repo: str | None = None
    revision: str = "main"
    folder: Path | None = None
    target: str | None = None
    suite: str = "paper"  # the tasks that it is measured on unless others are asked for
    answers: bool = True
    draws: bool = True
    weighs: bool = True  # whether it tells how likely a text is
    trust_remote_code: bool = False  # whether Python files that come with the weights may run


def entries() -> dict[str, Entry]:
    package = Path(str(resources.files("gapbench")))
    tables = tomllib.loads((package / "models" / "zoo.toml").read_text(encoding="utf-8"))
    for table in tables.values():
        if "folder" in table:
            table["folder"] = package / table["folder"]
    return {name: Entry(name=name, **table) for name, table in tables.items()}


def resolve(name: str, trust_remote_code: bool = False) -> Entry:
    """The model meant by `name`: a scheme's, the zoo's if it knows it, else the checkpoint in the folder `name`."""
    scheme, colon, target = name.partition(":")
    if colon and scheme in SCHEMES:
        family, meant, lacks = SCHEMES[scheme]
        if not target:
            raise InputError(f"--model {name}: nothing follows the colon; give {scheme}:{meant}")
        return Entry(name, family, target=target, trust_remote_code=trust_remote_code, **lacks)
    known = entries()
    if name in known:
        if known[name].family == ELSEWHERE:
            raise InputError(f"--model {name}: {known[name].note}")
        return replace(known[name], trust_remote_code=trust_remote_code)
    folder = Path(name)
    if folder.is_dir():
        return replace(_local(name, folder), trust_remote_code=trust_remote_code)
    near = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    accepted = (
        f"Known names: {', '.join(known)}. A checkpoint's folder is accepted too, and "
        f"{'; '.join(f'{scheme}:{meant}' for scheme, (_, meant, _) in SCHEMES.items())}"
    )
    raise InputError(f"--model {name}: no such model or folder.{hint} {accepted}")


def _local(name: str, folder: Path) -> Entry:
    config = files.find_config(folder)
    told = read_json(config) if config else {}
    if told.get("_class_name") == "Showo":
        # As the checkpoint says it is drawn with, else as the published ones of that many image tokens are.
        large = told.get("num_vq_tokens") == 1024
        drawn = {"guidance": 5.0, "steps": 50} if large else {"guidance": 1.75, "steps": 16}
        if isinstance(told.get("sampling"), dict):
            drawn |= told["sampling"]
        return Entry(name, "show_o", drawn["guidance"], drawn["steps"], note="local checkpoint", folder=folder)
    if told.get("model_type") == "vila_u_llama":
        return Entry(name, "vila_u", 3.0, note="local checkpoint", folder=folder)
    if told.get("model_type") in ("janus", "multi_modality"):  # the latter is refused by name
        return Entry(name, "janus", note="local checkpoint", folder=folder)
    if told.get("model_type") == "llamagen" or llamagen.language_models(folder):
        return Entry(name, "llamagen", note="local checkpoint", folder=folder, answers=False, weighs=False)
    if (folder / "model_index.json").is_file():
        note = "local pipeline"
        return Entry(name, "diffusers_pipeline", note=note, folder=folder, answers=False, weighs=False)
    if "model_type" in told and hf.knows(told):
        return Entry(name, "hf", note="local checkpoint", folder=folder, draws=False)
    made_by = told.get("_class_name") or told.get("model_type") or "unknown"
    found = f"{config} is of class {made_by}" if config else f"it has no {CONFIG}"
    wanted = (
        'a Show-o checkpoint has a config.json with "_class_name": "Showo", VILA-U "model_type": "vila_u_llama", Janus '
        '"model_type": "janus", others one that AutoModelForImageTextToText of transformers knows; a LlamaGen is a '
        "file as t2i_XL_stage1_256.pt"
    )
    raise InputError(f"--model {name}: the folder cannot be read as a model, {found}; {wanted}")


def load(name: str, device: str | None = None, dtype: str | None = None, trust_remote_code: bool = False) -> Any:
    """The model, ready. Device: a GPU if there is one. Dtype: bfloat16 on a GPU, else float32.

    One that runs elsewhere takes no dtype. It leaves the device alone, which may be meant for those that judge its
    drawings.
    """
    entry = resolve(name, trust_remote_code)
    return importlib.import_module(f"gapbench.models.{entry.family}").load(entry, device, dtype)


def found(
    entry: Entry, device: str | None, dtype: str | None, local: Callable[[Path], F], hub: Callable[..., F]
) -> tuple[F, torch.device, torch.dtype]:
    """A checkpoint's files, in its folder or from the hub, and the device and dtype that they are to be loaded with.

    hub: of repo, `target` where the entry has one, and revision. Raises InputError where one of all these is missing.
    """
    place = device_of(device)
    kind = dtype_of(dtype, place)
    if entry.folder is not None:
        return local(entry.folder), place, kind
    try:
        return hub(*(part for part in (entry.repo, entry.target, entry.revision) if part is not None)), place, kind
    except InputError as error:
        raise InputError(f"{entry.name}: {error}") from None


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


def dtype_of(name: str | None, device: torch.device) -> torch.dtype:
    """The type of that name, or the device's own. Raises InputError where there is no such type."""
    import torch

    if name is None:
        name = "bfloat16" if device.type == "cuda" else "float32"
    if name not in DTYPES:
        raise InputError(f"--dtype {name}: choose one of {', '.join(DTYPES)}")
    return getattr(torch, name)
