"""Several processes on one stage, where torchrun or `accelerate launch` began them; a single one is rank 0 of 1.

Whoever begins the processes opens their group, as `accelerate.PartialState()` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from torch import Tensor, distributed

T = TypeVar("T")


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def count() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def wait_for_all() -> None:
    if count() > 1:
        distributed.barrier()


def add_up(tensors: Iterable[Tensor]) -> None:
    """Each becomes the sum of all processes' own."""
    if count() > 1:
        for tensor in tensors:
            distributed.all_reduce(tensor)


def gather(values: Sequence[T]) -> list[T]:
    """Those of all processes, in the order of their ranks, to every process."""
    if count() == 1:
        return list(values)
    parts: list[list[T]] = [[] for _ in range(count())]
    distributed.all_gather_object(parts, list(values))
    return [value for part in parts for value in part]
