"""The reference's log-likelihoods, taken once before a stage and kept in a file, so that the reference leaves memory.

Each is taken of one pair alone, so that it does not depend on what else is in a batch: taken again, it is the same to
the last bit. The file is JSON lines: first what all values depend on, then a value a line, in full precision.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from gapbench.records import InputError
from hermesflow import processes
from hermesflow.checkpoints import writing
from hermesflow.learners import Learner
from hermesflow.records import Pair

if TYPE_CHECKING:
    from gapbench.run import Progress

VERSION = 3


class Key(NamedTuple):
    """One side of a pair. content: digest of all that its value depends on in the pair, so that no other pair of the
    same id is taken for it. visit: of drawings, the first with these views; of captions, None.
    """

    pair: str
    content: str
    visit: int | None


Values = dict[Key, tuple[float, float]]  # of winner and loser


class ReferenceCache:
    """The reference's log-likelihoods of the pairs that it was filled for, (B,2) float32 on the CPU, 0 where absent."""

    def __init__(self, values: Mapping[Key, tuple[float, float]], same_as: Callable[[int], int]) -> None:
        self._values, self._same_as = values, same_as

    def captions(self, pairs: Sequence[Pair]) -> Tensor:
        return self._look_up(map(_caption_key, pairs))

    def images(self, pairs: Sequence[Pair], visits: Sequence[int]) -> Tensor:
        """As each pair's visit views them."""
        return self._look_up(_image_key(pair, self._same_as(v)) for pair, v in zip(pairs, visits, strict=True))

    def _look_up(self, keys: Iterable[Key | None]) -> Tensor:
        return torch.tensor([(0.0, 0.0) if key is None else self._values[key] for key in keys])


def fill(
    file: Path,
    likelihoods: Learner,
    pairs: Sequence[Pair],
    visits: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ReferenceCache:
    """Take what `file` does not have yet of the pairs' visits 0 to `visits` - 1, and keep it there as it comes.

    likelihoods: of the reference, under the views of the training. What stands after a line that cannot be read, as a
    killed process leaves one, is taken anew. progress: values there, values wanted.
    Raises InputError for a file of other weights, views or settings, for one that cannot be written, and for pairs that
    the model cannot have made.
    """
    likelihoods.check(pairs)
    head = header(likelihoods)
    values, sound = read(file, head)
    wanted = {key: pair for pair in pairs for key in _keys(pair, likelihoods.same_as, visits)}
    missing = {key: pair for key, pair in wanted.items() if key not in values}
    done = len(wanted) - len(missing)
    progress(done, len(wanted))
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        if sound:
            os.truncate(file, sound)
        else:
            file.write_bytes(_line(head))
    for key, pair in missing.items():
        values[key] = win, lose = _take(likelihoods, key, pair)
        with writing(file), file.open("ab") as lines:
            lines.write(_line({**key._asdict(), "win": win, "lose": lose}))
        done += 1
        progress(done, len(wanted))
    return ReferenceCache(values, likelihoods.same_as)


@contextmanager
def told_to(progress: Progress | None, title: str) -> Iterator[Callable[[int, int], None]]:
    """A function of what is done, and of how much there is, that tells `progress`, as `fill` wants it."""
    begun = False

    def tell(done: int, total: int) -> None:
        nonlocal begun
        if progress is None or processes.rank() > 0:
            return
        if begun:
            progress.advance(1)
        else:
            progress.start(title, total, done)
            begun = True

    try:
        yield tell
    finally:
        if begun:
            progress.stop()


@torch.no_grad()
def _take(likelihoods: Learner, key: Key, pair: Pair) -> tuple[float, float]:
    found = likelihoods.captions([pair]) if key.visit is None else likelihoods.images([pair], [key.visit])
    win, lose = found.log_B2[0].tolist()
    if not math.isfinite(win + lose):
        raise InputError(
            f"pair {pair.id}: the reference's log-likelihoods are {win} and {lose}; its weights are unsound"
        )
    return win, lose


# --- Keys -------------------------------------------------------------------------------------------------------------


def header(likelihoods: Learner) -> dict[str, Any]:
    """What all values depend on."""
    device = likelihoods.device.type
    told = {
        "version": VERSION,
        "weights": fingerprint(likelihoods.network),
        **likelihoods.told(),
        "autocast": str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None,
    }
    return json.loads(json.dumps(told))


def fingerprint(module: nn.Module) -> str:
    """sha256 over names, types, shapes and values of all that a checkpoint of the module holds."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _keys(pair: Pair, same_as: Callable[[int], int], visits: int) -> Iterator[Key]:
    keys = [_caption_key(pair), *(_image_key(pair, same_as(visit)) for visit in range(visits))]
    return (key for key in keys if key is not None)


def _caption_key(pair: Pair) -> Key | None:
    if pair.captions is None:
        return None
    captions = [(caption.tokens, caption.ended) for caption in (pair.captions.win, pair.captions.lose)]
    return Key(pair.id, _digest(pair.codes, captions), None)


def _image_key(pair: Pair, visit: int) -> Key | None:
    if pair.images is None:
        return None
    drawings = [
        (image.codes, image.steps, image.nats, image.thresholds) for image in (pair.images.win, pair.images.lose)
    ]
    return Key(pair.id, _digest(pair.caption, drawings), visit)


def _digest(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


# --- The file ---------------------------------------------------------------------------------------------------------


def read(file: Path, head: Mapping[str, Any]) -> tuple[Values, int]:
    """The values, and how many bytes of the file are sound. Raises InputError for a file of other weights or settings,
    or of something else.
    """
    values: Values = {}
    if not file.exists():
        return values, 0
    with writing(file):
        lines = file.read_bytes().splitlines(keepends=True)
    if not lines or not lines[0].endswith(b"\n"):
        return values, 0
    _compare(file, lines[0], head)
    sound = len(lines[0])
    for line in lines[1:]:
        if not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
            values[Key(row["pair"], row["content"], row["visit"])] = float(row["win"]), float(row["lose"])
        except (ValueError, KeyError, TypeError):
            break
        sound += len(line)
    return values, sound


def _compare(file: Path, line: bytes, head: Mapping[str, Any]) -> None:
    try:
        found = json.loads(line)
        other = [name for name in head if found[name] != head[name]]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{file}: not a file of reference log-likelihoods; give another folder") from None
    if other:
        what = ", ".join(name.replace("_", " ") for name in other)
        raise InputError(f"{file}: made with other {what}; remove it, or go on with what it was made with")


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
