"""Replies of OpenAI-compatible servers: what a good one says, what a bad one means, and how good ones are kept."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapbench.records import InputError

if TYPE_CHECKING:
    from openai import APIStatusError

SCHEMA = 1
LONGEST_PAUSE = 30.0  # seconds, by ourselves
LONGEST_WAIT = 120.0  # seconds, where the server says so
_LONGEST_LINE = 300


class Again(Exception):
    """No good reply, but the next may be one.

    `wait`: seconds, as the server says. `server`: whether the server failed, or gave a reply that is of no use.
    `unreached`: whether there was no connection. `retry` False: the server says that to try again is of no use.
    """

    def __init__(
        self,
        reason: str,
        wait: float | None = None,
        server: bool = True,
        unreached: bool = False,
        retry: bool = True,
    ) -> None:
        super().__init__(reason)
        self.wait, self.server, self.unreached, self.retry = wait, server, unreached, retry


class Refused(Exception):
    """The server will not answer this request. `about`: the part of it that the server names, or nothing.

    `form`: whether another form of the same request may be taken.
    """

    def __init__(self, reason: str, about: str = "", form: bool = False) -> None:
        super().__init__(reason)
        self.about, self.form = about, form


# --- What a bad one means ---------------------------------------------------------------------------------------------


def meaning(error: APIStatusError, name: str, key: str) -> Exception:
    """Again, Refused, or the InputError that ends it all, for a reply with an error status.

    `name` says which model at which server; `key` is kept out of all texts.
    """
    status, body = error.status_code, error.body if isinstance(error.body, Mapping) else {}
    said = body.get("message") or body.get("detail")
    reason = f"status {status}" + (f": {one_line(str(said), key)}" if said else "")
    code, about = str(body.get("code")), str(body.get("param") or "")
    # What the server says of a wrong key holds part of the key.
    if status == 401:
        return InputError(f"{name} refuses the key ({status}); set OPENAI_API_KEY to one that it takes")
    if status == 403:
        return InputError(f"{name} refuses access ({reason}); set OPENAI_API_KEY to a key that may use it")
    if status == 404:
        return InputError(f"{name}: no such model or address ({reason}); check both")
    if status == 402 or "insufficient_quota" in (code, body.get("type")):
        return InputError(
            f"{name}: no money is left on the account of OPENAI_API_KEY ({reason}); what was answered is kept, and the "
            "same command goes on from there"
        )
    if code.startswith("unsupported") and about in ("temperature", "seed"):
        return InputError(f"{name} does not take {about} ({reason}); name a model that does")
    told = error.response.headers.get("x-should-retry")
    if told == "true" or status in (408, 409, 429) or status >= 500:
        return Again(reason, wait_of(error.response.headers), retry=told != "false")
    return Refused(reason, about, form=status in (400, 422))


def wait_of(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, as Retry-After in its three forms, up to LONGEST_WAIT."""
    milliseconds, after = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if milliseconds is not None:
            seconds = float(milliseconds) / 1000
        elif after is None:
            return None
        elif after.strip()[:1].isalpha():
            seconds = email.utils.parsedate_to_datetime(after).timestamp() - time.time()
        else:
            seconds = float(after)
    except (ValueError, OverflowError):
        return None
    return min(seconds, LONGEST_WAIT) if seconds >= 0 else None


def pause_after(tries: int, asked: str) -> float:
    """Seconds before the next try: 1, 2, 4 ... less up to a quarter, which depends on what is asked (a hash)."""
    return min(2.0 ** (tries - 1), LONGEST_PAUSE) * (1 - int(asked[:4], 16) / 0xFFFF / 4)


def one_line(text: str, key: str = "") -> str:
    """A foreign text as part of a message: without the key, on one line, and not too long."""
    line = " ".join((text.replace(key, "[key]") if key else text).split())
    return line if len(line) <= _LONGEST_LINE else line[:_LONGEST_LINE] + " ..."


# --- What a good one says ---------------------------------------------------------------------------------------------


def message_of(reply: Mapping[str, Any], model: str) -> dict[str, Any]:
    """What is kept of a chat's reply, named `model` where the server names none. Raises Again where it says nothing."""
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        text, refusal, ended = message.get("content"), message.get("refusal"), choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Again("a reply without a message") from None
    if refusal:
        raise Again(f"it refused: {one_line(str(refusal))}", server=False)
    if ended == "content_filter":
        raise Again("its content filter held the reply back", server=False)
    if not isinstance(text, str) or not text.strip():
        raise Again(f"an empty reply (finish_reason {ended})", server=False)
    told = {name: reply.get(name) for name in ("system_fingerprint", "usage")}
    return {"text": text, "model": str(reply.get("model") or model), "finish_reason": ended, **told}


def png_of(reply: Mapping[str, Any]) -> bytes:
    """The drawing in an images reply, as PNG. Raises Again where there is none."""
    from PIL import Image

    try:
        data = base64.b64decode(reply["data"][0]["b64_json"])
    except (KeyError, IndexError, TypeError, ValueError):
        raise Again("a reply without an image in base64", server=False) from None
    try:
        with Image.open(BytesIO(data)) as image:
            image.load()
            if image.format == "PNG":
                return data
            png = BytesIO()
            image.convert("RGB").save(png, "PNG")
            return png.getvalue()
    except (OSError, ValueError, SyntaxError):
        raise Again("an image that cannot be read", server=False) from None


# --- How they are kept ------------------------------------------------------------------------------------------------


def hash_of(asked: Mapping[str, Any]) -> str:
    """The name of what is asked: sha256 of its JSON, which tells apart the order of a schema's fields as models do."""
    return hashlib.sha256(json.dumps(asked, default=dict).encode()).hexdigest()


def cache_folder() -> Path:
    """`api` in GAPBENCH_CACHE, or in gapbench in the user's cache folder (XDG_CACHE_HOME, else ~/.cache)."""
    if ours := os.environ.get("GAPBENCH_CACHE"):
        return Path(ours) / "api"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gapbench" / "api"


class Replies:
    """A folder of replies by the hash of what was asked: ab/ab12....json, and drawings beside as ab/ab12....png.

    Files appear whole or not at all. One that is torn or foreign counts as none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, asked: str) -> dict[str, Any] | None:
        """What `keep` kept."""
        try:
            told = json.loads(self._path(asked, "json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        sound = isinstance(told, dict) and told.get("schema") == SCHEMA and told.get("asked") == asked
        return told if sound and isinstance(told.get("model"), str) else None

    def keep(self, asked: str, told: Mapping[str, Any]) -> None:
        """Raises InputError where the folder cannot be written."""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        whole = {"schema": SCHEMA, "asked": asked, **told, "time": when}
        self._write(self._path(asked, "json"), json.dumps(whole, indent=1).encode())

    def find_drawing(self, asked: str) -> Path | None:
        told, path = self.find(asked), self._path(asked, "png")
        try:
            return path if told and told.get("sha256") == hashlib.sha256(path.read_bytes()).hexdigest() else None
        except OSError:
            return None

    def keep_drawing(self, asked: str, told: Mapping[str, Any], png: bytes) -> Path:
        path = self._path(asked, "png")
        self._write(path, png)
        self.keep(asked, {**told, "sha256": hashlib.sha256(png).hexdigest()})
        return path

    def _path(self, asked: str, kind: str) -> Path:
        return self.folder / asked[:2] / f"{asked}.{kind}"

    def _write(self, path: Path, content: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as aside:
                aside.write(content)
            os.replace(aside.name, path)
        except OSError as error:
            raise InputError(
                f"{self.folder}: replies cannot be kept there ({error.strerror}); set GAPBENCH_CACHE to a folder that "
                "can be written"
            ) from None
