"""A model behind an OpenAI-compatible server: chat answers questions, image generation draws.

What is asked goes as it stands; the server's own template and settings are part of what is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from io import BytesIO
from typing import TYPE_CHECKING, Any

from gapbench.api import Chat, Client, Reply, endpoint
from gapbench.records import Decoding, Failure, InputError, Prompt, Question, Sampling

if TYPE_CHECKING:
    from PIL import Image

    from gapbench.models.zoo import Entry

SIZE = "auto"  # the server chooses


def load(entry: Entry, device: str | None, dtype: str | None) -> OpenAIModel:
    if dtype is not None:
        raise InputError(f"--dtype {dtype}: {entry.name} runs as its server has it; leave --dtype out")
    return OpenAIModel(entry.name)


class OpenAIModel:
    """`name` is openai:NAME or openai:NAME@URL. Whether it answers, draws or does both only its server knows.

    `size` of drawings: "auto", or WIDTHxHEIGHT in pixels, one that the server takes.
    """

    def __init__(self, name: str, client: Client | None = None, size: str = SIZE) -> None:
        self.name, self.size = name, size
        self._client = client or Client(endpoint(name))

    def describe(self) -> dict[str, Any]:
        # Weights are the server's secret. Snapshots stand in the kept replies: which one answers is known only then.
        told = self._client.describe()
        return {"name": self.name, "family": "openai_api", **told, "weights": None, "size": self.size}

    def settings(self, sampling: Sampling) -> Sampling:
        """None at all: a server draws in its own way. Raises InputError where one is asked for."""
        if given := [name for name, value in asdict(sampling).items() if value is not None]:
            raise InputError(f"--{given[0]}: {self.name} draws by its server's own settings; leave it out")
        return sampling

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> Iterator[str | Failure]:
        """Pictures before the text. Temperature, length and seed are the server's to obey."""
        if decoding.top_k is not None and decoding.temperature > 0:
            raise InputError(f"{self.name}: this protocol has no top_k; sample from the whole vocabulary")
        chats = [
            Chat(
                question.text,
                question.pictures,
                temperature=decoding.temperature,
                max_tokens=decoding.max_new_tokens,
                seed=decoding.seed,
            )
            for question in questions
            if question.template
        ]
        answers = self._client.chat(chats, _text)
        for question in questions:
            yield next(answers) if question.template else Failure("a chat server knows no text without its template")

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Image.Image | Failure]:
        """RGB of `size`. A server has no seeds: another seed is another drawing, the same one is kept and given again.

        The kept drawing is what makes a run repeatable.
        """
        from PIL import Image

        self.settings(sampling)
        drawings = self._client.draw([prompt for prompt in prompts if prompt.text.strip()], self.size)
        for prompt in prompts:
            drawn = next(drawings) if prompt.text.strip() else Failure("the prompt is empty")
            yield drawn if isinstance(drawn, Failure) else Image.open(BytesIO(drawn)).convert("RGB")


def _text(reply: Reply) -> str:
    return reply.text.strip()
