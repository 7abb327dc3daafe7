"""Our models in lm-evaluation-harness: its own command line, with one model more.

    gapbench lm-eval run --model gapbench --model_args model=show-o-mini,device=cpu --tasks TASK --include_path DIR

Importing this registers the model "gapbench" beside the harness's own. A prompt is given to the model as it stands;
with --apply_chat_template it is put into the model's own template. Batches are ours: --batch_size is accepted and means
nothing. Where several processes should share the work, `gapbench run --tasks lm-eval:TASK` does that.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import lm_eval.models  # noqa: F401  first: the harness adds its own models only to a registry that is still empty
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from gapbench.data.pictures import UNREADABLE
from gapbench.harness_requests import (
    Turns,
    continuation_of,
    generation_of,
    images_of,
    picture_key,
    question_of,
    visual_of,
)
from gapbench.models import zoo
from gapbench.records import Failure, InputError, Picture, Question, TextLikelihood

HARNESS_DEVICE = "cuda:0"  # what the harness hands over where none was asked for
IGNORED = ("batch_size", "max_batch_size", "trust_remote_code")  # the harness's own, which change nothing here
T = TypeVar("T")


def main(arguments: Sequence[str]) -> None:
    """The harness's command line. Ends as that ends, by SystemExit or by returning."""
    from lm_eval.__main__ import cli_evaluate

    before = sys.argv
    sys.argv = ["gapbench lm-eval", *arguments]
    try:
        cli_evaluate()
    finally:
        sys.argv = before


@register_model("gapbench")
class GapbenchLM(LM):
    """A model of ours, by name or folder, or one that is loaded already."""

    MULTIMODAL = True

    def __init__(self, model: Any = None, device: str | None = None, dtype: str | None = None, **others: Any) -> None:
        super().__init__()
        if unknown := [name for name in others if name not in IGNORED]:
            raise InputError(f"--model_args {', '.join(unknown)}: unknown; there are model, device and dtype")
        if model is None:
            raise InputError("--model_args: say which model, for instance model=show-o-mini")
        self._model = zoo.load(str(model), device, dtype) if isinstance(model, str | Path) else model
        self._name = self._model.describe()["name"]

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> GapbenchLM:
        from lm_eval.utils import simple_parse_args_string

        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> GapbenchLM:
        """What --model_args say counts before what other flags say."""
        flags = dict(additional_config or {})
        if flags.get("device") == HARNESS_DEVICE:
            del flags["device"]
        return cls(**{**flags, **arg_dict})

    def get_model_info(self) -> dict[str, Any]:
        return {"gapbench": self._model.describe()}

    # --- requests ----------------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self._weighed(requests, "loglikelihood", lambda found: (found.total, found.greedy), disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        return self._weighed(requests, "loglikelihood_rolling", lambda found: found.total, disable_tqdm)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        self._needs("answer", "answers")
        questions = self._questions(requests)
        generations = [generation_of(request.args[1]) for request in requests]
        together = defaultdict(list)
        for number, (decoding, _) in enumerate(generations):
            together[decoding].append(number)
        answers = [""] * len(requests)
        with tqdm(total=len(requests), desc="Running generate_until requests", disable=disable_tqdm) as progress:
            for decoding, numbers in together.items():
                given = self._model.answer([questions[number] for number in numbers], decoding)
                asked = [requests[number] for number in numbers]
                for number, answer in zip(numbers, self._given("generate_until", asked, given), strict=True):
                    answers[number] = generations[number].ended(answer)
                    self.cache_hook.add_partial("generate_until", requests[number].args, answers[number])
                    progress.update()
        return answers

    def _weighed(
        self, requests: list[Instance], kind: str, told: Callable[[TextLikelihood], T], quiet: bool
    ) -> list[T]:
        self._needs("log_likelihood", "weighs texts")
        found = self._model.log_likelihood(self._questions(requests), [continuation_of(r) for r in requests])
        results = []
        given = tqdm(
            self._given(kind, requests, found), total=len(requests), desc=f"Running {kind} requests", disable=quiet
        )
        for request, likelihood in zip(requests, given, strict=True):
            results.append(told(likelihood))
            self.cache_hook.add_partial(kind, request.args, results[-1])
        return results

    def _questions(self, requests: Sequence[Instance]) -> list[Question]:
        keys: dict[int, str] = {}  # of the image objects that the requests hold, which share them
        repeats: Counter[tuple[Any, ...]] = Counter()
        questions = []
        for request in requests:
            this = (request.task_name, request.doc_id, request.idx)
            pictures = []
            for image in images_of(visual_of(request), _named(request)):
                if id(image) not in keys:
                    try:
                        keys[id(image)] = picture_key(image)
                    except UNREADABLE as error:
                        raise InputError(f"{_named(request)}: its picture cannot be read ({error})") from error
                pictures.append(Picture(keys[id(image)], lambda image=image: image))
            questions.append(question_of(request, tuple(pictures), repeats[this]))
            repeats[this] += 1
        return questions

    def _given(self, kind: str, requests: Sequence[Instance], responses: Iterator[T | Failure]) -> Iterator[T]:
        """The responses; a score of what the model failed to give would be made up."""
        for request, response in zip(requests, responses, strict=True):
            if isinstance(response, Failure):
                raise InputError(f"{_named(request)}: {self._name} failed its {kind} request ({response.reason})")
            yield response

    def _needs(self, method: str, does: str) -> None:
        if not hasattr(self._model, method):
            raise InputError(f"--model_args model={self._name}: these tasks need a model that {does}")

    # --- chat --------------------------------------------------------------------------------------------------------

    @property
    def tokenizer_name(self) -> str:
        """Tells apart what the harness caches of prompts."""
        return f"gapbench-{self._name}".replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """What the harness writes down about the template, of which every model has one and no more."""
        if isinstance(chat_template, str):
            raise InputError(
                f"--apply_chat_template {chat_template}: a model has one template here; leave the name out"
            )
        return f"{self._name}'s own template around all turns, with empty lines between them" if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """All turns as one text, for our models' templates hold one; system and earlier turns come first."""
        if not add_generation_prompt:
            raise InputError(
                "--apply_chat_template: a task of these begins the answer itself (gen_prefix), for which the model's "
                "template has no place; leave the flag out"
            )
        return Turns.of("\n\n".join(turn["content"] for turn in chat_history))


def _named(request: Instance) -> str:
    return f"{request.task_name}, document {request.doc_id}"
