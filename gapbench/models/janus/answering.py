"""What stands before the text of a question: its pictures, computed once for all questions about them.

Shape suffixes: P rows, S pictures of a row, F features of a picture, L positions of a row, D width of the language
model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gapbench.models.janus.backbone import JanusBackbone
from gapbench.models.show_o.answering import picture_cache
from gapbench.models.show_o.backbone import KeyValues
from gapbench.models.vila_u.backbone import visible_causal
from gapbench.records import Picture, Question


class Group(NamedTuple):
    """Questions, by number, about the same pictures with the same tokens before them."""

    pictures: tuple[Picture, ...]
    before: tuple[tuple[int, ...], ...]
    numbers: list[int]


def batches(
    questions: Sequence[Question], before: Sequence[tuple[tuple[int, ...], ...]], size: int
) -> Iterator[list[Group]]:
    """Groups of which the rows before the text are of one length, about `size` questions at a time.

    before: of each question, the tokens before each of its pictures.
    """
    groups: dict[tuple[object, ...], Group] = {}
    for number, (question, tokens) in enumerate(zip(questions, before, strict=True)):
        # Questions about none share nothing, so that they are a group only for their number's sake.
        key = (tokens, *(picture.key for picture in question.pictures)) if question.pictures else (number // size,)
        groups.setdefault(key, Group(question.pictures, tokens, [])).numbers.append(number)
    alike: dict[tuple[int, ...], list[Group]] = {}
    for group in groups.values():
        alike.setdefault(tuple(map(len, group.before)), []).append(group)
    for of_one_length in alike.values():
        batch: list[Group] = []
        for group in of_one_length:
            if batch and sum(len(each.numbers) for each in batch) + len(group.numbers) > size:
                yield batch
                batch = []
            batch.append(group)
        yield batch


def picture_prefix(
    backbone: JanusBackbone, before: Sequence[tuple[tuple[int, ...], ...]], pixels_PS3HW: Tensor
) -> Tensor:
    """Embeddings (P,L,D) of the rows up to their last pictures' features; [eoi] begins what comes after."""
    features_PSFD = backbone.features(pixels_PS3HW.flatten(0, 1)).unflatten(0, pixels_PS3HW.shape[:2])
    parts = []
    for number in range(pixels_PS3HW.shape[1]):
        ids = torch.tensor([of_row[number] for of_row in before], device=backbone.device)
        parts += [backbone.embed(ids), features_PSFD[:, number]]
    return torch.cat(parts, dim=1)


def prefix_cache(backbone: JanusBackbone, prefix_PLD: Tensor) -> KeyValues:
    no_pads_1 = torch.zeros(1, dtype=torch.int64, device=backbone.device)
    return picture_cache(backbone, prefix_PLD, visible_causal(no_pads_1, prefix_PLD.shape[1])[0, 0])
