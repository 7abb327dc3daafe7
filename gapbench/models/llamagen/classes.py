"""What a class-conditional LlamaGen is conditioned on: the number of one of ImageNet's 1,000 classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gapbench.models.llamagen.gpt import Condition, LabelEmbedder

IMAGENET = 1000


class Classes:
    """Conditions of classes, by number or name; an empty text is the unconditional condition."""

    def __init__(self, embedder: LabelEmbedder) -> None:
        self.embedder = embedder
        self.count = embedder.embedding_table.num_embeddings - 1
        self.names = imagenet_names() if self.count == IMAGENET else []

    def refusal(self, text: str) -> str | None:
        """Why a text cannot be drawn."""
        if not text.strip():
            return "the prompt is empty"
        found = self.numbers(text)
        if len(found) == 1:
            return None
        told = " ".join(text.split())
        told = told if len(told) <= 60 else f"{told[:57]}..."
        if found:
            return f'"{told}" names several classes: {", ".join(map(str, found))}; give the number of one'
        wanted = f"a number from 0 to {self.count - 1}" + (' or a name as "golden retriever"' if self.names else "")
        return f'"{told}" is no class of ImageNet, and only classes are drawn: give {wanted}'

    def numbers(self, text: str) -> list[int]:
        """The classes that a text may mean. A name's case counts only where it tells two classes apart."""
        text = text.strip()
        if text.isascii() and text.isdecimal():
            return [int(text)] if len(text) <= 9 and int(text) < self.count else []
        exact = [number for number, name in enumerate(self.names) if name == text]
        alike = [number for number, name in enumerate(self.names) if name.casefold() == text.casefold()]
        return exact if len(exact) == 1 else alike

    def conditions(self, texts: Sequence[str]) -> Condition:
        """Of texts that `refusal` does not refuse, or that are empty."""
        numbers = [self.numbers(text)[0] if text.strip() else self.count for text in texts]
        return self.embedder.condition(torch.tensor(numbers, device=self.embedder.embedding_table.weight.device))


def imagenet_names() -> list[str]:
    """The classes' names in order, as torchvision has them: the first one of each synset."""
    from torchvision.models import ResNet50_Weights

    return list(ResNet50_Weights.DEFAULT.meta["categories"])
