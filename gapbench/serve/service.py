"""One model behind OpenAI's protocol, without the HTTP: requests in, replies out."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from typing import Any

from gapbench.models.base import Answers, Described, Draws
from gapbench.records import Failure, InputError, Sampling
from gapbench.replies import one_line
from gapbench.serve import protocol
from gapbench.serve.batching import Ask, Batches, Closed, Full
from gapbench.serve.protocol import Refusal

LOOK = 1.0  # seconds between looks whether a client is still there
RETRY_AFTER = {"Retry-After": "2"}  # seconds


class Service:
    """`answers`, `draws`: what the model is meant to do; by default all that it has the methods for."""

    def __init__(
        self, name: str, model: Any, answers: bool = True, draws: bool = True, batches: Batches | None = None
    ) -> None:
        self.name, self.batches = name, batches or Batches(model)
        self.answers, self.draws = answers and isinstance(model, Answers), draws and isinstance(model, Draws)
        told = model.describe() if isinstance(model, Described) else {}
        side = told.get("resolution")
        self._side = side if isinstance(side, int) else None
        # What a seed's answer depends on besides the request.
        digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()
        self._told = {"model": name, "system_fingerprint": f"fp_{digest[:12]}"}
        self._started = int(time.time())

    def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [self.described(self.name)]}

    def described(self, name: str) -> dict[str, Any]:
        """Raises Refusal for a model that is not this one."""
        if name != self.name:
            message = f"The model {json.dumps(name)} does not exist; here is {json.dumps(self.name)}"
            raise Refusal(404, message, "model", "model_not_found")
        return {"id": self.name, "object": "model", "created": self._started, "owned_by": "gapbench"}

    def chat(self, asked: Mapping[str, Any], gone: Callable[[], bool]) -> dict[str, Any] | bytes:
        """A reply, or the events of one. `gone`: whether nobody waits for it any more. Raises Refusal."""
        self._check_model(asked)
        if not self.answers:
            raise Refusal(404, f"{self.name} only draws; ask it at /v1/images/generations", "model")
        request = protocol.read_chat(asked)
        distinct = list(dict.fromkeys(request.decodings))
        found = self._results([Ask(request.question, way) for way in distinct], "messages", gone)
        answer_of = dict(zip(distinct, found, strict=True))
        answers = [answer_of[way] for way in request.decodings]
        reply = protocol.chunks if request.stream else protocol.completion
        return reply(request, answers, self._told)

    def draw(self, asked: Mapping[str, Any], gone: Callable[[], bool]) -> dict[str, Any]:
        """As `chat`."""
        self._check_model(asked)
        if not self.draws:
            raise Refusal(400, f"{self.name} only answers; ask it at /v1/chat/completions", "model", "invalid_value")
        prompts = protocol.read_drawings(asked, self._side)
        images = self._results([Ask(prompt, Sampling()) for prompt in prompts], "prompt", gone)
        return protocol.drawings(prompts, images)

    def close(self) -> None:
        self.batches.close()

    def _check_model(self, asked: Mapping[str, Any]) -> None:
        name = asked.get("model")
        if not isinstance(name, str):
            raise Refusal(
                400, f"model: name it; here is {json.dumps(self.name)}", "model", "missing_required_parameter"
            )
        self.described(name)

    def _results(self, asks: Sequence[Ask], param: str, gone: Callable[[], bool]) -> list[Any]:
        """What the model makes of each. Raises Refusal, and ConnectionAbortedError where nobody waits any more."""
        try:
            futures = self.batches.submit(asks)
        except Full:
            raise Refusal(429, "too many requests are waiting; try again later", headers=RETRY_AFTER) from None
        except Closed:
            raise Refusal(503, "the server stops", headers=RETRY_AFTER) from None
        while wait(futures, LOOK).not_done:
            if gone():
                for future in futures:
                    future.cancel()
                raise ConnectionAbortedError
        try:
            found = [future.result() for future in futures]
        except InputError as error:
            raise Refusal(400, one_line(str(error))) from None
        for result in found:
            if isinstance(result, Failure):
                message = f"{param}: the model gives nothing ({one_line(result.reason)})"
                raise Refusal(400, message, param, "model_failure")
        return found
