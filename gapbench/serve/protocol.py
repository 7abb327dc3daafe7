"""OpenAI's requests as our questions and prompts, and our answers and drawings as its replies.

A parameter that cannot be honoured is refused by name where it would change what comes back. System messages stand
before the question's text, with an empty line between; a model of ours has no other place for them, and takes no
conversation. Pictures come before the text whatever their place in the message; texts are joined by line breaks. A
picture's `detail` says nothing here: each model looks at the size that it was made for.

What a request leaves out is as our own measurements have it: greedy answers, each model's own way of drawing. `seed`
holds for drawings too, which OpenAI's does not; the k-th of `n` has seed + k, and one that no seed is given for is told
with its drawing.

Source: platform.openai.com/docs/api-reference, chat completions and image generation.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from gapbench.records import Decoding, Picture, Prompt, Question

if TYPE_CHECKING:
    from PIL import Image

    from gapbench.serve.batching import Answer

NEW_TOKENS = 512  # of an answer, where the request does not say
MOST_TOKENS = 65_536
COLDEST = 1e-5  # temperatures below are greedy: logits over them are no numbers any more
MOST_ANSWERS = 128
MOST_DRAWINGS = 10
MOST_SEED = 2**63 - 1
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # PIL knows more, and some of those run programs
DETAILS = ("auto", "low", "high", "original")

# What changes no answer, whatever its value; and what changes none at these values.
HARMLESS = ("user", "metadata", "store", "service_tier", "safety_identifier", "moderation", "parallel_tool_calls")
HARMLESS += ("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options")
CHAT_NEUTRAL = {
    "top_p": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
}
IMAGE_NEUTRAL = {
    "stream": (False,),
    "partial_images": (0,),
    "response_format": ("b64_json",),
    "output_format": ("png",),
    "quality": ("auto",),
    "background": ("auto", "opaque"),
}
CHAT_READ = ("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "seed", "n", "stop")
CHAT_READ += ("stream", "stream_options")
IMAGE_READ = ("model", "prompt", "n", "seed", "size")


class Refusal(Exception):
    """A request that is not answered: the status, one line, the parameter that it is about, OpenAI's code for it."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers or {}

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        elif self.status >= 500:
            kind = "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def _wrong(param: str, message: str, code: str = "invalid_value") -> Refusal:
    return Refusal(400, f"{param}: {message}", param, code)


# --- requests ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """`decodings`: one for each answer that is wanted. `tells_usage`: whether a stream ends with the usage."""

    question: Question
    decodings: tuple[Decoding, ...]
    stop: tuple[str, ...]
    stream: bool
    tells_usage: bool


def read_body(body: bytes) -> dict[str, Any]:
    """The JSON object of a request. Raises Refusal."""

    def no_number(name: str) -> float:
        raise ValueError(f"{name} is no number")

    try:
        asked = json.loads(body, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON ({error})", None, "invalid_json") from None
    if not isinstance(asked, dict):
        raise Refusal(400, "the body is not a JSON object", None, "invalid_json")
    return {name: value for name, value in asked.items() if value is not None}


def read_chat(asked: Mapping[str, Any]) -> ChatRequest:
    """Raises Refusal."""
    _check_known(asked, CHAT_READ, CHAT_NEUTRAL)
    temperature = _number(asked, "temperature", 2.0)
    temperature = temperature if temperature >= COLDEST else 0.0
    if "max_tokens" in asked and "max_completion_tokens" in asked:
        raise _wrong("max_tokens", "it is max_completion_tokens by its older name; give one of the two")
    limit = "max_tokens" if "max_tokens" in asked else "max_completion_tokens"
    length = _whole(asked, limit, 1, MOST_TOKENS) or NEW_TOKENS
    answers = _whole(asked, "n", 1, MOST_ANSWERS) or 1
    seed = _whole(asked, "seed", 0, MOST_SEED)
    # Greedy answers have no seed: requests that differ in nothing else are one batch.
    seeds = _seeds(seed, answers) if temperature > 0 else [0] * answers
    stream = _flag(asked, "stream")
    return ChatRequest(
        _question(asked.get("messages")),
        tuple(Decoding(length, temperature, seed=each) for each in seeds),
        _stops(asked.get("stop", [])),
        stream,
        _tells_usage(asked.get("stream_options"), stream),
    )


def read_drawings(asked: Mapping[str, Any], side: int | None) -> list[Prompt]:
    """One prompt a drawing. `side`: of the model's drawings in pixels, where it is known. Raises Refusal."""
    _check_known(asked, IMAGE_READ, IMAGE_NEUTRAL)
    text = _text(asked.get("prompt"), "prompt")
    if not text.strip():
        raise _wrong("prompt", "it is empty; say what to draw")
    own = ["auto"] if side is None else ["auto", f"{side}x{side}"]
    if asked.get("size", "auto") not in own:
        raise _wrong("size", f"this model draws at its own size; give {' or '.join(own)}")
    seeds = _seeds(_whole(asked, "seed", 0, MOST_SEED), _whole(asked, "n", 1, MOST_DRAWINGS) or 1)
    return [Prompt(_id(text, each), text, each) for each in seeds]


def _check_known(asked: Mapping[str, Any], read: Sequence[str], neutral: Mapping[str, Sequence[Any]]) -> None:
    for name, value in asked.items():
        if name in read or name in HARMLESS or value in neutral.get(name, ()):
            continue
        alike = " or ".join(json.dumps(each) for each in neutral.get(name, ()))
        leave = f"leave it out, or give {alike}" if alike else "leave it out"
        raise _wrong(name, f"not something that this server can do; {leave}", "unsupported_parameter")


def _question(messages: Any) -> Question:
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "give a list with the user's message")
    texts: list[str] = []
    pictures: list[Picture] = []
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        if not isinstance(message, dict):
            raise _wrong(place, "a message is an object with role and content")
        role = message.get("role")
        if role in ("assistant", "tool", "function") or (role == "user" and number < len(messages) - 1):
            raise _wrong(
                place, "these models take no conversation; give one user message, after system messages or none"
            )
        if role not in ("system", "developer", "user"):
            raise _wrong(f"{place}.role", "give system, developer or user")
        for name, value in message.items():
            # The type "text" is lm-evaluation-harness's own addition.
            if value is not None and name not in ("role", "content") and (name, value) != ("type", "text"):
                raise _wrong(f"{place}.{name}", "not something that this server can do; leave it out")
        text, shown = _content(message.get("content"), f"{place}.content", role == "user")
        texts.append(text)
        pictures += shown
    if role != "user":
        raise _wrong("messages", "the last one is to be the user's")
    if not texts[-1].strip() and not pictures:
        raise _wrong(f"{place}.content", "it is empty; ask something")
    text = "\n\n".join(text for text in texts if text)
    return Question(_id(text, *(picture.key for picture in pictures)), text, tuple(pictures))


def _content(content: Any, place: str, takes_pictures: bool) -> tuple[str, list[Picture]]:
    if isinstance(content, str):
        return _text(content, place), []
    if not isinstance(content, list):
        raise _wrong(place, "give a text, or a list of parts")
    texts: list[str] = []
    pictures: list[Picture] = []
    for number, part in enumerate(content):
        here = f"{place}[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            texts.append(_text(part.get("text"), f"{here}.text"))
        elif kind == "image_url" and takes_pictures:
            pictures.append(_picture(part.get("image_url"), f"{here}.image_url"))
        else:
            known = "text or image_url" if takes_pictures else "text"
            raise _wrong(f"{here}.type", f"parts of this message are of type {known}")
    return "\n".join(texts), pictures


def _text(text: Any, place: str) -> str:
    if not isinstance(text, str):
        raise _wrong(place, "give a text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _wrong(place, "it holds half of a character (a lone surrogate)") from None
    return text


def _picture(image_url: Any, place: str) -> Picture:
    """A picture, decoded already: what cannot be read is refused before the model is asked."""
    from PIL import Image

    if not isinstance(image_url, dict) or not isinstance(image_url.get("url"), str):
        raise _wrong(f"{place}.url", "give the image as data:image/png;base64,...")
    if image_url.get("detail", "auto") not in (*DETAILS, None):
        raise _wrong(f"{place}.detail", f"give one of {', '.join(DETAILS)}")
    head, comma, encoded = image_url["url"].partition(",")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise _wrong(
            f"{place}.url", "nothing is fetched from elsewhere; send the image itself, as data:image/png;base64,..."
        )
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _wrong(f"{place}.url", f"not base64 ({error})", "invalid_image") from None
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
        image.load()
    except Exception as error:  # decoders raise much besides OSError on broken files
        known = ", ".join(FORMATS)
        reason = type(error).__name__ if "BytesIO" in str(error) else error
        raise _wrong(f"{place}.url", f"not an image of {known} that can be read ({reason})", "invalid_image") from None
    return Picture(hashlib.sha256(data).hexdigest(), lambda: image)


def _id(*parts: str | int) -> str:
    """Of what is asked alone, for a model may mix it into its seeds."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _seeds(first: int | None, count: int) -> list[int]:
    first = random.SystemRandom().randrange(2**31) if first is None else first
    return [first + k for k in range(count)]


def _whole(asked: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    value = asked.get(name)
    if value is not None and not (type(value) is int and low <= value <= high):
        raise _wrong(name, f"give a whole number from {low} to {high}")
    return value


def _number(asked: Mapping[str, Any], name: str, high: float) -> float:
    value = asked.get(name, 0.0)
    if type(value) not in (int, float) or not 0 <= value <= high:
        raise _wrong(name, f"give a number from 0 to {high:g}")
    return float(value)


def _flag(asked: Mapping[str, Any], name: str) -> bool:
    value = asked.get(name, False)
    if not isinstance(value, bool):
        raise _wrong(name, "give true or false")
    return value


def _stops(stop: Any) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(each, str) and each for each in stops):
        raise _wrong("stop", "give a text or a list of texts, none empty")
    return tuple(stops)


def _tells_usage(options: Any, stream: bool) -> bool:
    if options is None:
        return False
    if not stream or not isinstance(options, dict):
        raise _wrong("stream_options", "give an object, and only with stream: true")
    for name in options:
        if name not in ("include_usage", "include_obfuscation"):
            raise _wrong(f"stream_options.{name}", "not something that this server can do; leave it out")
    return options.get("include_usage") is True


# --- replies ----------------------------------------------------------------------------------------------------------


def completion(request: ChatRequest, answers: Sequence[Answer], told: Mapping[str, Any]) -> dict[str, Any]:
    """A chat's reply. `told`: what every reply of this server says about its model."""
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": reason,
        }
        for index, (text, reason) in enumerate(_ended(answer, request.stop) for answer in answers)
    ]
    usage = usage_of(answers)
    return {**_head("chat.completion"), **told, "choices": choices, **({"usage": usage} if usage else {})}


def chunks(request: ChatRequest, answers: Sequence[Answer], told: Mapping[str, Any]) -> bytes:
    """The same as server-sent events. Models give whole answers: each is one piece."""
    head = {**_head("chat.completion.chunk"), **told}
    events = []
    for index, (text, reason) in enumerate(_ended(answer, request.stop) for answer in answers):
        for delta, end in (({"role": "assistant", "content": ""}, None), ({"content": text}, None), ({}, reason)):
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": end}
            events.append({**head, "choices": [choice]})
    if request.tells_usage and (usage := usage_of(answers)):
        events.append({**head, "choices": [], "usage": usage})
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return "".join([*lines, "data: [DONE]\n\n"]).encode()


def drawings(prompts: Sequence[Prompt], images: Sequence[Image.Image]) -> dict[str, Any]:
    """An images reply: PNG in base64, each with its seed."""
    data = []
    for prompt, image in zip(prompts, images, strict=True):
        png = BytesIO()
        image.save(png, "PNG")
        data.append({"b64_json": base64.b64encode(png.getvalue()).decode(), "seed": prompt.seed})
    size = "{}x{}".format(*images[0].size)
    return {"created": int(time.time()), "data": data, "output_format": "png", "size": size}


def usage_of(answers: Sequence[Answer]) -> dict[str, int] | None:
    """Tokens of the question, once, and of all answers; None where the model does not tell both."""
    asked, said = answers[0].prompt_tokens, [answer.tokens for answer in answers]
    if asked is None or None in said:
        return None
    return {"prompt_tokens": asked, "completion_tokens": sum(said), "total_tokens": asked + sum(said)}


def _head(kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time())}


def _ended(answer: Answer, stops: Sequence[str]) -> tuple[str, str]:
    """The text up to the first of `stops`, and why it ended; "stop" also where the model does not tell."""
    found = [at for stop in stops if (at := answer.text.find(stop)) >= 0]
    if found:
        return answer.text[: min(found)], "stop"
    return answer.text, "length" if answer.ended is False else "stop"
