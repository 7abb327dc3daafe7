"""lm-evaluation-harness' requests in our words: what a request asks, about which pictures, and how it is decoded.

Both directions of the bridge read requests by these rules, so that a model has the same numbers in either: our models
in the harness's loop (harness.py), and the harness's tasks in ours (tasks/hosted.py).

Source: lm-eval 0.4.13. A request's arguments are (context, gen_kwargs) to be answered, (context, continuation) or
(text,) to be weighed, and {"visual": [images]} behind them where the task has pictures.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from gapbench.records import Decoding, InputError, Picture, Question

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from PIL import Image

MAX_GEN_TOKS = 256  # the harness's convention for requests that do not say
PLACEHOLDER = re.compile(r"<image>\n?")
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # in the harness's order
NEUTRAL = {"top_p": 1, "min_p": 0, "repetition_penalty": 1, "num_beams": 1, "num_return_sequences": 1}  # change nothing
SAMPLING_ONLY = ("top_p", "min_p", "seed")  # change nothing of a greedy answer


class Turns(str):
    """A text that the model is to put into its own chat template.

    It begins with a mark, by which the harness' cache of answers tells it from the same text without a template.
    """

    __slots__ = ()
    MARK = "<|chat template|>"

    @classmethod
    def of(cls, text: str) -> Turns:
        return cls(cls.MARK + text)


class Generation(NamedTuple):
    """How an answer is decoded, and the texts before which it ends."""

    decoding: Decoding
    until: tuple[str, ...]

    def ended(self, answer: str) -> str:
        for end in self.until:
            answer = answer.split(end)[0]
        return answer


def question_of(request: Instance, pictures: tuple[Picture, ...], repeat: int = 0) -> Question:
    """What a request asks. A text that is weighed by itself follows on nothing.

    The harness marks in the text where pictures go; a model of ours puts them where it wants them, so the marks go,
    each with the line end behind it. Each request of a document, and the `repeat`th question of one request, has an id
    of its own: answers that are sampled depend on it, and not on what else is asked.
    """
    text = "" if request.request_type == "loglikelihood_rolling" else request.args[0]
    which = f"/{request.idx}/{repeat}" if request.idx or repeat else ""
    template = isinstance(text, Turns)
    asked = text.removeprefix(Turns.MARK) if template else text
    shown = PLACEHOLDER.sub("", asked) if pictures else asked
    return Question(f"{request.task_name}/{request.doc_id}{which}", str(shown), pictures, template=template)


def visual_of(request: Instance) -> Any:
    """The pictures of a request, as its task gives them; None where it has none.

    Raises InputError for sounds.
    """
    aside = request.args[-1] if isinstance(request.args[-1], dict) else {}
    if aside.get("audio") is not None:
        raise InputError(f"{request.task_name}: it has sounds, which no model here hears")
    return aside.get("visual")


def continuation_of(request: Instance) -> str:
    """The text that is weighed. After a chat template the harness leaves out the space that ours want there."""
    if request.request_type == "loglikelihood_rolling":
        return request.args[0]
    before, text = request.args[:2]
    return f" {text}" if isinstance(before, Turns) and not text[:1].isspace() else text


def generation_of(gen_kwargs: Mapping[str, Any]) -> Generation:
    """Raises InputError naming arguments that would change an answer and that no model here knows."""
    given = {name: value for name, value in gen_kwargs.items() if value is not None}
    ends = given.pop("until", [])
    ends = [ends] if isinstance(ends, str) else ends
    if not isinstance(ends, list | tuple) or not all(isinstance(end, str) for end in ends):
        raise InputError(f"gen_kwargs until={ends}: until is no text, nor a list of texts")
    until = tuple(end for end in ends if end)
    lengths = [given.pop(name) for name in LENGTHS if name in given]
    temperature, sampled = given.pop("temperature", None), given.pop("do_sample", None)
    top_k = given.pop("top_k", None)
    try:
        if sampled is None:
            sampled = float(temperature or 0) > 0
        # Who asks for sampling and leaves the temperature out has it at 1, as in transformers.
        heat = float(1 if temperature is None else temperature) if sampled else 0.0
        if heat == 0:
            decoding = Decoding(int((lengths or [MAX_GEN_TOKS])[0]))
        else:
            most = int(top_k) if top_k is not None and int(top_k) > 0 else None
            seed = int(given.pop("seed", 0))
            decoding = Decoding(int((lengths or [MAX_GEN_TOKS])[0]), heat, most, seed)
    except (TypeError, ValueError) as error:
        raise InputError(f"gen_kwargs {dict(gen_kwargs)}: not numbers ({error})") from None
    if not (decoding.max_new_tokens >= 1 and heat >= 0):
        raise InputError(f"gen_kwargs {dict(gen_kwargs)}: there must be a token, and no temperature below 0")
    unknown = [
        f"{name}={value}"
        for name, value in given.items()
        if NEUTRAL.get(name) != value and not (heat == 0 and name in SAMPLING_ONLY)
    ]
    if unknown:
        raise InputError(
            f"gen_kwargs {', '.join(unknown)}: not known here; there are until, {', '.join(LENGTHS[:2])}, do_sample, "
            "temperature, top_k and seed"
        )
    return Generation(decoding, until)


def images_of(visual: Any, where: str) -> list[Image.Image]:
    """The images of a request's or a document's pictures: one, several or none.

    Raises InputError beginning with `where` for what is no image.
    """
    from PIL import Image

    images = [] if visual is None else list(visual) if isinstance(visual, list | tuple) else [visual]
    for image in images:
        if not isinstance(image, Image.Image):
            raise InputError(f"{where}: a picture of it is a {type(image).__name__}, not an image of PIL's")
    return images


def picture_key(image: Image.Image) -> str:
    """Equal for equal pixels. Raises OSError where they cannot be decoded."""
    if image.mode in ("P", "PA"):  # pixels are numbers of colours there
        image = image.convert("RGBA")
    shape = f"{image.mode} {image.width} {image.height} ".encode()
    return hashlib.sha256(shape + image.tobytes()).hexdigest()
