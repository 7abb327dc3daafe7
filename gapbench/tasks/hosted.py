"""The tasks of lm-evaluation-harness, asked in our loop: `lm-eval:NAME`, or `lm-eval:FILE.yaml` for one of one's own.

The harness makes the requests, with the few-shot examples that the task wants and without a chat template. An item is
a document; documents about equal pictures are one cluster, any other is its own. How responses are judged and metrics
computed stands in hosted_task.py.

Source: lm-eval 0.4.13, `Task.build_all_requests`.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib.metadata import version
from inspect import getsourcefile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gapbench.data.pictures import UNREADABLE
from gapbench.harness_requests import (
    continuation_of,
    generation_of,
    images_of,
    picture_key,
    question_of,
    visual_of,
)
from gapbench.hub import silent
from gapbench.records import InputError, Item, Picture, Weighing
from gapbench.tasks.base import by_picture
from gapbench.tasks.hosted_task import HostedTask, reason

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.tasks import TaskManager
    from PIL import Image

SEEDS = (0, 1234, 1234)  # the harness's for random, numpy and few-shot examples
BY_ITSELF = "`gapbench lm-eval run` asks it as the harness does"


def load(spec: str) -> list[HostedTask]:
    """The task, or those of the group or tag, that lm-eval knows by the name `spec`, or that the file `spec` defines.

    Raises InputError, one line, where there is none or it cannot be made.
    """
    manager, name = _known(spec)
    random.seed(SEEDS[0])
    np.random.seed(SEEDS[1])  # noqa: NPY002  some tasks shuffle by it
    try:
        with silent("huggingface_hub"), _examples_only_where_shown():
            tasks = manager.load([name])["tasks"]
    except ConnectionError as error:
        why = "needs data from the hub, which does not answer and of which the cache has none"
        raise InputError(f"--tasks lm-eval:{spec}: {why} ({error})") from error
    except Exception as error:  # a task's YAML may name any data and any function
        raise InputError(f"--tasks lm-eval:{spec}: lm-eval cannot load it ({reason(error)})") from error
    return [host(task) for task in tasks.values()]


def _known(spec: str) -> tuple[TaskManager, str]:
    """Who knows the task, and by which name or file."""
    path = Path(spec).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        manager = _manager(None, defaults=True)
        if spec not in manager.all_tasks:
            import difflib

            close = difflib.get_close_matches(spec, manager.all_tasks, n=1)
            hint = f", did you mean lm-eval:{close[0]}" if close else ""
            raise InputError(f"--tasks lm-eval:{spec}: lm-eval has no such task{hint}; `gapbench lm-eval ls tasks`")
        return manager, spec
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--tasks lm-eval:{spec}: the file cannot be read ({reason(error)})") from error
    # A group names its tasks, which may stand beside it or be the harness's own; looking through those takes seconds.
    if group := re.search(r"^group\s*:\s*[\"']?([^\s\"'#]+)", text, re.MULTILINE):
        return _manager(str(path.parent), defaults=True), group[1]
    return _manager(None, defaults=False), str(path)


@cache
def _manager(folder: str | None, defaults: bool) -> TaskManager:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder, include_defaults=defaults)


@contextmanager
def _examples_only_where_shown() -> Iterator[None]:
    """lm-eval reads the documents for few-shot examples, with all their images, even for tasks that show none."""
    from lm_eval.api.task import ConfigurableTask

    read = ConfigurableTask.fewshot_docs
    ConfigurableTask.fewshot_docs = lambda task: read(task) if task.config.num_fewshot else None
    try:
        yield
    finally:
        ConfigurableTask.fewshot_docs = read


# --- one task ---------------------------------------------------------------------------------------------------------


def host(task: Any) -> HostedTask:
    """A task of lm-eval's, its requests made. Raises InputError for what our loop cannot ask."""
    where = f"lm-eval:{task.task_name}"
    config = task.config
    if getattr(task, "UNSAFE_CODE", False):
        raise InputError(f"{where}: it runs code that the model writes; {BY_ITSELF}, with --confirm_run_unsafe_code")
    if (config.repeats or 1) > 1:
        raise InputError(f"{where}: it asks each question {config.repeats} times; {BY_ITSELF}")
    if config.num_fewshot is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(SEEDS[2])
    documents = Documents(where, task.eval_docs, task.doc_to_image if config.doc_to_image else None)

    hashed = hashlib.sha256()
    items, kinds, generations = [], set(), {}
    for number in range(len(documents)):
        try:
            document, pictures = documents.with_pictures(number)
            requests = _requests(task, number, document)
            target = task.doc_to_target(document)
        except InputError:
            raise
        except Exception as error:  # of the task's own functions
            raise InputError(f"{where}: document {number} makes no request ({reason(error)})") from error
        asked = [(r.request_type, *(part for part in r.args if isinstance(part, str))) for r in requests]
        hashed.update(json.dumps([asked, [p.key for p in pictures], target], default=str).encode())
        visual_of(requests[0])  # says so where there are sounds
        kinds.update(request.request_type for request in requests)
        answered = "generate_until" in kinds
        if len(kinds) > 1 or (answered and len(requests) > 1):
            raise InputError(f"{where}: it asks several questions of a document; {BY_ITSELF}")
        if answered:
            gen_kwargs = requests[0].args[1]
            generations[json.dumps(gen_kwargs, sort_keys=True)] = gen_kwargs
        items.append(_item(number, requests, pictures))
    task.sampler = None  # it holds all few-shot documents, with their images

    if not items:
        raise InputError(f"{where}: it has no documents")
    if len(generations) > 1:
        raise InputError(f"{where}: its documents are not all to be answered in one way; {BY_ITSELF}")
    (kind,) = kinds
    try:
        generation = generation_of(*generations.values()) if generations else None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    told = {
        "data": f"{len(documents)} documents; requests {hashed.hexdigest()[:12]}",
        "lm_eval": version("lm_eval"),
        "output_type": task.OUTPUT_TYPE,
        "num_fewshot": task.config.num_fewshot,
        "prompt": "lm-eval's, no chat template",
        "config": _config(task),
        **({"until": list(generation.until)} if generation else {}),
    }
    name = "lm-eval-" + re.sub(r"[^\w-]", "-", task.task_name, flags=re.ASCII)
    hosted = HostedTask(name, str(task.VERSION), task, documents, by_picture(items), kind, generation, told)
    hosted.prime()
    return hosted


def _requests(task: Any, number: int, document: Any) -> list[Instance]:
    """As `build_all_requests` makes them for one document."""
    context = task.fewshot_context(
        document,
        num_fewshot=task.config.num_fewshot,
        system_instruction=None,
        apply_chat_template=False,
        fewshot_as_multiturn=False,
        chat_template=None,
        gen_prefix=task.doc_to_prefix(document),
    )
    with _without_images(task):
        made = task.construct_requests(
            doc=document,
            ctx=context,
            metadata=(task.config.task, number, 1),
            apply_chat_template=False,
            chat_template=None,
        )
    requests = made if isinstance(made, list) else [made]
    if not requests:
        raise ValueError("no text to weigh")
    return requests


@contextmanager
def _without_images(task: Any) -> Iterator[None]:
    """Requests hold no images then: those are opened when a model looks at them."""
    task.doc_to_image = lambda document: None
    try:
        yield
    finally:
        del task.doc_to_image  # the class's own is seen again


def _item(number: int, requests: Sequence[Instance], pictures: tuple[Picture, ...]) -> Item:
    questions = [question_of(request, pictures) for request in requests]
    name = str(number)
    cluster = " ".join(picture.key for picture in pictures) or f"document {number}"
    if requests[0].request_type == "generate_until":
        (ask,) = questions
    else:
        ask = Weighing(name, tuple(zip(questions, map(continuation_of, requests), strict=True)))
    return Item(name, cluster, ("other",), ask)


@dataclass(frozen=True)
class Documents:
    """What a task is about, by number; `to_image` gives a document's images, where it has any."""

    where: str
    rows: Any
    to_image: Callable[[Any], Any] | None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Any:
        """The document; where an image of it cannot be decoded, with the images as they are stored."""
        try:
            return self.rows[number]
        except UNREADABLE:
            return self.rows.with_format("arrow")[number : number + 1].to_pylist()[0]

    def with_pictures(self, number: int) -> tuple[Any, tuple[Picture, ...]]:
        """The document and its pictures; those that cannot be read are one, which says so when it is opened."""
        try:
            document = self.rows[number]
            keys = [picture_key(image) for image in self._images(document, number)]
        except InputError:
            raise
        except UNREADABLE:
            document, keys = self[number], [f"{self.where}, document {number}"]
        return document, tuple(Picture(key, partial(self._open, number, i)) for i, key in enumerate(keys))

    def _open(self, number: int, position: int) -> Image.Image:
        return self._images(self.rows[number], number)[position]

    def _images(self, document: Any, number: int) -> list[Image.Image]:
        visual = self.to_image(document) if self.to_image else None
        return images_of(visual, f"{self.where}, document {number}")


def _config(task: Any) -> str:
    """Hash of the task's settings, functions by their names and the files that define them.

    Left out: where the YAML and its data lie here.
    """
    settings = asdict(task.config)
    settings["metadata"] = {k: v for k, v in (settings["metadata"] or {}).items() if k != "config_source"}
    del settings["dataset_kwargs"]
    if Path(settings["dataset_path"] or "").is_absolute():
        del settings["dataset_path"]

    def told(value: Any) -> Any:
        if isinstance(value, partial):
            return [value.func, value.args, value.keywords]
        name = getattr(value, "__qualname__", type(value).__qualname__)
        try:
            return [name, Path(getsourcefile(value)).read_text(encoding="utf-8")]
        except (TypeError, OSError):
            return name

    text = json.dumps(settings, sort_keys=True, default=told)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
