"""What stands before the text of a question: its pictures, computed once for all questions about them.

    about pictures    [bos] system prompt  USER:  features  newline  features ...   then the text, from its newline on
    about none        nothing; the text's row begins with [bos] and the system prompt

All rows are causal. A prompt that is taken as it stands has no system prompt before its pictures.

Shape suffixes: P rows, S pictures of a row, N positions of a picture, D depths, L positions of a row, T width of the
language model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gapbench.models.show_o.answering import picture_cache
from gapbench.models.show_o.backbone import KeyValues
from gapbench.models.vila_u.backbone import LlamaBackbone, visible_causal
from gapbench.models.vila_u.text import BEFORE_PICTURES, BETWEEN_PICTURES, Text
from gapbench.models.vila_u.vision import Quantizer
from gapbench.records import Picture, Question


class Group(NamedTuple):
    """Questions, by number, about the same pictures in the same kind of prompt."""

    pictures: tuple[Picture, ...]
    template: bool
    numbers: list[int]


def batches(questions: Sequence[Question], size: int) -> Iterator[list[Group]]:
    """Groups of which the rows before the text are of one length, about `size` questions at a time."""
    groups: dict[tuple[object, ...], Group] = {}
    for number, question in enumerate(questions):
        # Without pictures the template is part of the text.
        template = question.template or not question.pictures
        key = (template, *(picture.key for picture in question.pictures))
        groups.setdefault(key, Group(question.pictures, template, [])).numbers.append(number)
    alike: dict[tuple[bool, int], list[Group]] = {}
    for group in groups.values():
        alike.setdefault((group.template, len(group.pictures)), []).append(group)
    for of_one_length in alike.values():
        batch: list[Group] = []
        for group in of_one_length:
            if batch and sum(len(each.numbers) for each in batch) + len(group.numbers) > size:
                yield batch
                batch = []
            batch.append(group)
        yield batch


def picture_prefix(
    backbone: LlamaBackbone, projector: nn.Module, quantizer: Quantizer, words: Text, codes_PSND: Tensor, template: bool
) -> Tensor:
    """Embeddings (P,L,T) of the rows up to their last pictures."""
    rows, pictures = codes_PSND.shape[:2]
    device = backbone.device

    def embed(ids: list[int]) -> Tensor:
        return backbone.embed(torch.tensor([ids], device=device)).expand(rows, -1, -1)

    features_PSNT = projector(quantizer.features(codes_PSND.to(device)).to(backbone.dtype))
    parts = [embed([words.bos, *(words.tokens(BEFORE_PICTURES) if template else [])])]
    for number in range(pictures):
        if number:
            parts.append(embed(words.tokens(BETWEEN_PICTURES)))
        parts.append(features_PSNT[:, number])
    return torch.cat(parts, dim=1)


def prefix_cache(backbone: LlamaBackbone, prefix_PLT: Tensor) -> KeyValues:
    length = prefix_PLT.shape[1]
    no_pads_1 = torch.zeros(1, dtype=torch.int64, device=backbone.device)
    return picture_cache(backbone, prefix_PLT, visible_causal(no_pads_1, length)[0, 0])
