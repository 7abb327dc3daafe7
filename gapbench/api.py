"""OpenAI-compatible servers: many requests at once, each asked until it is answered, and none paid for twice.

Whoever asks - a judge, a model under test, a question writer - hands over all its requests; they are sent `concurrency`
at a time, tried again with growing pauses where the server is busy, broken or answers nonsense, and every good reply is
kept on disk under a hash of what was asked, so that a restart asks only what is missing. The key is the environment's
(OPENAI_API_KEY) and is written nowhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from gapbench.in_step import Once, in_step
from gapbench.records import Failure, InputError, Picture, Prompt
from gapbench.replies import (
    Again,
    Refused,
    Replies,
    cache_folder,
    hash_of,
    meaning,
    message_of,
    one_line,
    pause_after,
    png_of,
)

T = TypeVar("T")

OPENAI = "https://api.openai.com/v1"
SECONDS = 120.0  # that a reply may take; to connect may take CONNECT_SECONDS
CONNECT_SECONDS = 10.0
GONE = 16  # requests in a row, all of whose tries the server failed: it is taken to be gone
UNREACHED = 3  # tries to reach a server that was never reached: its address may be mistyped
PLAIN = ""
CHAT_FORMS = ("json_schema", "json_object", PLAIN)  # what `response_format` asks for
IMAGE_FORMS = ("b64_json", PLAIN)  # OpenAI's own models give base64 unasked and refuse to be asked; others give URLs


class Endpoint(NamedTuple):
    """A model at a server; no `url` is OPENAI_BASE_URL's, else OpenAI's own."""

    model: str
    url: str | None = None


def endpoint(name: str) -> Endpoint:
    """Of `openai:NAME` or `openai:NAME@URL`. Raises InputError for any other text."""
    scheme, _, rest = name.partition(":")
    at = rest.rfind("@http")
    model, url = (rest, None) if at < 0 else (rest[:at], rest[at + 1 :])
    if scheme != "openai" or not model.strip():
        raise InputError(f"{name}: not a model at a server; write openai:NAME or openai:NAME@http://HOST:PORT/v1")
    return Endpoint(model, None if url is None else _checked(url, f"openai:{model}"))


def _checked(url: str, source: str) -> str:
    """A server's address without a slash at its end. Raises InputError, which quotes nothing that may be secret."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise InputError(f"{source}: the server's address is none; write http://HOST:PORT/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise InputError(
            f"{source}: the server's address holds a user, a query or a fragment, which runs would write down; "
            "leave it out and put the key into OPENAI_API_KEY"
        )
    return url.rstrip("/")


@dataclass(frozen=True, slots=True)
class Chat:
    """One request: a text with pictures before it. `schema`: the JSON schema that the reply is to follow."""

    text: str
    pictures: tuple[Picture, ...] = ()
    system: str = ""
    schema: Mapping[str, Any] | None = None
    temperature: float = 0.0
    max_tokens: int = 512
    seed: int = 0


class Reply(NamedTuple):
    """What the server said, the snapshot of the model that said it, as the server names it, and to what."""

    text: str
    model: str
    asked: Chat = Chat("")


class Client:
    """Requests to one endpoint, with replies kept in `cache` (a folder; by default in the user's cache folder).

    The default is GAPBENCH_CACHE/api, else gapbench/api in XDG_CACHE_HOME or ~/.cache. `calls` counts the HTTP requests
    that were made, failed ones too. Raises InputError where OpenAI is asked without a key; servers of one's own need
    none.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        concurrency: int = 8,
        cache: Path | None = None,
        tries: int = 6,
        timeout: float = SECONDS,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        url = endpoint.url or _checked(os.environ.get("OPENAI_BASE_URL") or OPENAI, "OPENAI_BASE_URL")
        self.model, self.server = endpoint.model, urlsplit(url).netloc
        self.calls = 0
        self._name = f"openai:{self.model} at {self.server}"
        self._key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not self._key and urlsplit(url).hostname == urlsplit(OPENAI).hostname:
            raise InputError(f"{self._name}: OPENAI_API_KEY is not set; set it, or name a server: openai:NAME@URL")
        if not (self._key.isascii() and self._key.isprintable()):
            raise InputError("OPENAI_API_KEY: holds a character that no key has; set it again")
        if min(concurrency, tries) < 1 or timeout <= 0:
            raise InputError(f"{self._name}: concurrency, tries and timeout are to be more than 0")

        from openai import OpenAI, Timeout

        self._sdk = OpenAI(
            api_key=self._key or "none",
            base_url=url,
            max_retries=0,
            timeout=Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
        )
        self._asked_of = {"url": url, "model": self.model}
        self._concurrency, self._tries, self._pause = concurrency, tries, pause
        self._replies = Replies(cache or cache_folder())
        self._slots = threading.Semaphore(concurrency)
        self._lock = threading.Lock()
        self._reached, self._failed_in_a_row = False, 0
        self._chat_forms, self._image_forms = _Forms(*CHAT_FORMS), _Forms(*IMAGE_FORMS)
        self._limit = "max_tokens"

    def describe(self) -> dict[str, str]:
        """What a protocol says about who was asked."""
        return {"model": self.model, "server": self.server}

    def chat(self, requests: Sequence[Chat], read: Callable[[Reply], T]) -> Iterator[T | Failure]:
        """What `read` makes of each reply, in step. Where it raises ValueError, the reply is none: it is asked again.

        Requests are sent from now on, whether or not results are taken; equal ones are sent once. `read` is called in
        several threads.

        A request that has no good reply after all tries, or whose picture cannot be opened, yields a Failure. Raises
        InputError, one line, where asking on is of no use: a wrong key, an unknown model, no money left, no server.
        """
        opened, once = _Opened(2 * self._concurrency), Once()

        def work(request: Chat, stop: threading.Event) -> T | Failure:
            pictures = []
            for picture in request.pictures:
                try:
                    pictures.append(opened(picture))
                except Exception as error:  # decoders raise much besides OSError on broken files
                    return Failure(f"picture {picture.key} cannot be read: {error}")
            asked = {
                **self._asked_of,
                "system": request.system,
                "text": request.text,
                "pictures": [picture.hash for picture in pictures],
                "schema": request.schema,
                "temperature": request.temperature,
                "max_tokens": request.max_tokens,
                "seed": request.seed,
            }
            name = hash_of(asked)
            return once(name, lambda: self._chat(request, pictures, name, read, stop))

        return in_step(work, requests, self._concurrency)

    def draw(self, prompts: Sequence[Prompt], size: str) -> Iterator[bytes | Failure]:
        """A PNG of each prompt. A server has no seeds; replies of different seeds are asked for and kept apart.

        `size`: `WIDTHxHEIGHT` in pixels, as the server takes it. Failures and errors are those of `chat`.
        """
        once = Once()

        def work(prompt: Prompt, stop: threading.Event) -> Path | Failure:
            name = hash_of({**self._asked_of, "draw": prompt.text, "size": size, "seed": prompt.seed})
            return once(name, lambda: self._draw(prompt, size, name, stop))

        drawn = in_step(work, prompts, self._concurrency)
        return (found if isinstance(found, Failure) else found.read_bytes() for found in drawn)

    # --- one request -------------------------------------------------------------------------------------------------

    def _chat(
        self, chat: Chat, pictures: Sequence[_Pixels], name: str, read: Callable[[Reply], T], stop: threading.Event
    ) -> T | Failure:
        kept = self._replies.find(name)
        if kept is not None and isinstance(kept.get("text"), str):
            try:
                return read(Reply(kept["text"], kept["model"], chat))
            except ValueError:
                pass  # its reader has grown stricter

        def ask() -> T:
            if chat.schema is None:
                told = self._told(chat, pictures, PLAIN)
            else:
                told = self._chat_forms.first_taken(lambda form: self._told(chat, pictures, form))
            try:
                found = read(Reply(told["text"], told["model"], chat))
            except ValueError as error:
                raise Again(f"its reply cannot be read ({one_line(str(error))})", server=False) from None
            self._replies.keep(name, told)
            return found

        return self._insist(name, ask, stop)

    def _told(self, chat: Chat, pictures: Sequence[_Pixels], form: str) -> dict[str, Any]:
        """The reply to a chat, put in a form of CHAT_FORMS."""
        text, extra = chat.text, {}
        if form == "json_schema":
            schema = json.loads(json.dumps(chat.schema, default=dict))
            extra = {"response_format": {"type": form, form: {"name": "reply", "strict": True, "schema": schema}}}
        elif chat.schema is not None:
            text += f"\n\nReply with JSON alone, of this schema: {json.dumps(chat.schema, default=dict)}"
            extra = {"response_format": {"type": form}} if form else {}
        shown = [{"type": "image_url", "image_url": {"url": picture.url()}} for picture in pictures]
        messages: list[Any] = [{"role": "system", "content": chat.system}] if chat.system else []
        messages.append({"role": "user", "content": [*shown, {"type": "text", "text": text}] if shown else text})
        asked = {"messages": messages, "temperature": chat.temperature, "seed": chat.seed, **extra}
        create, limit = self._sdk.chat.completions.with_raw_response.create, self._limit
        try:
            found = self._post(create, **asked, **{limit: chat.max_tokens})
        except Refused as refused:
            if refused.about != "max_tokens" or limit != "max_tokens":
                raise
            self._limit = "max_completion_tokens"  # as OpenAI's reasoning models want it
            found = self._post(create, **asked, **{self._limit: chat.max_tokens})
        return message_of(found, self.model) | {"response_format": form or None}

    def _draw(self, prompt: Prompt, size: str, name: str, stop: threading.Event) -> Path | Failure:
        if (kept := self._replies.find_drawing(name)) is not None:
            return kept
        generate = self._sdk.images.with_raw_response.generate

        def ask() -> Path:
            asked = {"prompt": prompt.text, "size": size, "n": 1}
            found = self._image_forms.first_taken(
                lambda form: self._post(generate, **asked, **({"response_format": form} if form else {}))
            )
            told = {"model": str(found.get("model") or self.model), "usage": found.get("usage")}
            return self._replies.keep_drawing(name, told, png_of(found))

        return self._insist(name, ask, stop)

    # --- until it is answered ----------------------------------------------------------------------------------------

    def _insist(self, name: str, ask: Callable[[], T], stop: threading.Event) -> T | Failure:
        """What `ask` returns, after as many tries as it takes and there are. None are begun once `stop` is set."""
        tried = 0
        while not stop.is_set():
            tried += 1
            try:
                found = ask()
            except Refused as refused:
                self._count(failed=False)
                return Failure(f"{self._name} refuses the request ({refused})")
            except Again as error:
                if error.unreached and not self._reached and tried >= min(UNREACHED, self._tries):
                    raise InputError(f"{self._name}: no server there ({error}); check its address, start it") from None
                if tried == self._tries or not error.retry:
                    self._count(failed=error.server, reason=str(error))
                    return Failure(f"{self._name} gave no good reply in {tried} tries; the last time: {error}")
                self._pause(pause_after(tried, name) if error.wait is None else error.wait)
            else:
                self._count(failed=False)
                return found
        return Failure("not asked any more")

    def _count(self, failed: bool, reason: str = "") -> None:
        """Of the requests in a row that the server failed. Raises InputError where it seems gone."""
        with self._lock:
            self._failed_in_a_row = self._failed_in_a_row + 1 if failed else 0
            gone = self._failed_in_a_row >= GONE
        if gone:
            raise InputError(
                f"{self._name}: {GONE} requests in a row failed at all {self._tries} tries; the last time: {reason}. "
                "What was answered is kept, and the same command goes on from there"
            )

    def _post(self, create: Callable[..., Any], **asked: Any) -> dict[str, Any]:
        """One HTTP request; the reply's JSON. Raises Again, Refused or InputError."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        with self._slots:
            with self._lock:
                self.calls += 1
            try:
                raw = create(model=self.model, **asked)
            except APITimeoutError as error:
                raise Again("no reply in time", unreached=type(error.__cause__).__name__ == "ConnectTimeout") from None
            except APIConnectionError as error:
                cause = error.__cause__
                reason = f"{type(cause).__name__}: {cause}" if cause else str(error)
                raise Again(one_line(reason, self._key), unreached=True) from None
            except APIStatusError as error:
                self._reached = True
                raise meaning(error, self._name, self._key) from None
            except UnicodeEncodeError:
                raise Refused("the text cannot be encoded") from None
        self._reached = True
        try:
            found = json.loads(raw.content)
        except (ValueError, RecursionError):
            raise Again("a reply that is not JSON") from None
        if not isinstance(found, dict):
            raise Again("a reply that is no JSON object")
        if found.get("error"):
            raise Again(one_line(json.dumps(found["error"]), self._key))
        return found


class _Forms:
    """Forms of a request, best first, of which servers take some; the first that this one takes stays."""

    def __init__(self, *forms: str) -> None:
        self._forms = forms

    def first_taken(self, ask: Callable[[str], T]) -> T:
        forms = self._forms
        for form in forms[:-1]:
            try:
                return self._taken(form, ask)
            except Refused as refused:
                if not refused.form:
                    raise
        return self._taken(forms[-1], ask)

    def _taken(self, form: str, ask: Callable[[str], T]) -> T:
        taken = ask(form)
        self._forms = (form,)
        return taken


class _Pixels:
    """A picture as it is sent: RGB, and as a data URL once that is asked for."""

    def __init__(self, picture: Picture) -> None:
        self._image = picture.open().convert("RGB")
        self._url = ""
        size = "{} {} ".format(*self._image.size)
        self.hash = hashlib.sha256(size.encode() + self._image.tobytes()).hexdigest()

    def url(self) -> str:
        if not self._url:
            png = BytesIO()
            self._image.save(png, "PNG", compress_level=1)
            self._url = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
        return self._url


class _Opened:
    """The last `size` pictures of a batch, by key: the questions about one picture stand together."""

    def __init__(self, size: int) -> None:
        self._size, self._held = size, OrderedDict[str, _Pixels]()
        self._lock = threading.Lock()  # also because pictures may share an image that only one thread may decode

    def __call__(self, picture: Picture) -> _Pixels:
        with self._lock:
            found = self._held.pop(picture.key, None) or _Pixels(picture)
            self._held[picture.key] = found
            if len(self._held) > self._size:
                self._held.popitem(last=False)
            return found
