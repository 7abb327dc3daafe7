"""JourneyDB's homologous items (Sun et al., NeurIPS 2023, arXiv 2307.00716): images, captions, questions about both.

Read is the layout of the data set JourneyDB/JourneyDB: the annotations `valid/valid_anno_repath.jsonl` or
`train/train_anno_realease_repath.jsonl` (so spelt), or the .jsonl.tgz that they come in, and the images
`SPLIT/imgs/000/NAME.jpg`, as many of them as are there. The test split's answers are held back.

A line is {"img_path", "prompt", "Task2": {"Caption"}, "Task3": {"Style Relevant Questions and Answers": [QA], "Content
Relevant Questions and Answers": [QA]}}, a QA {"Question", "Options", "Answer"}. A language model wrote captions and
questions, so lines are irregular in many ways: what cannot be asked is left out and counted by its reason.

Drawn is the caption; the prompt, which may hold weights, flags and addresses of pictures, is only the cluster: some 2.7
images were made of each. Terms of use: non-commercial research, and neither the images nor what is made of them may be
passed on. So clusters are named by the prompt's hash, and records by the image's path.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from string import ascii_uppercase
from typing import IO, Any, NamedTuple

from gapbench.data.pictures import UNREADABLE, file_picture
from gapbench.homologous import Homologous, HomologousQuestion, normal
from gapbench.records import InputError
from gapbench.skills import skills_of

ANNOTATIONS = {"valid": "valid_anno_repath.jsonl", "train": "train_anno_realease_repath.jsonl"}
QUESTIONS = {"style": "Style Relevant Questions and Answers", "content": "Content Relevant Questions and Answers"}
TERMS = "JourneyDB: non-commercial research only; neither images nor what is made of them may be passed on"
_LETTERED = re.compile(r"\(?([A-Za-z])\s*[:.)]\s*(\S.*)", re.DOTALL)
_MEGABYTE = 1 << 20


class Irregular(ValueError):
    """Why a record or a question cannot be asked."""


def _nothing(count: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class JourneyDB:
    """A split. `pictures` False: the images need not be there.

    Goes through the file anew each time, with no more in memory than a number for each prompt, and gives the first
    image of each; `read` gives all.
    """

    annotations: Path
    images: Path
    split: str
    pictures: bool = True

    def __iter__(self) -> Iterator[Homologous]:
        return self.first_of_each_prompt(Counter())

    def first_of_each_prompt(self, left_out: Counter[str]) -> Iterator[Homologous]:
        seen: set[int] = set()
        for item in self.read(left_out):
            if (prompt := hash(item.cluster)) not in seen:
                seen.add(prompt)
                yield item

    @property
    def megabytes(self) -> int:
        return self.annotations.stat().st_size // _MEGABYTE

    def read(self, left_out: Counter[str], advance: Callable[[int], None] = _nothing) -> Iterator[Homologous]:
        """Every usable image, in the file's order; adds to `left_out` what is not usable, by reason.

        advance: is told how many megabytes of the file have been read since. Raises InputError where the file cannot be
        read, or nothing in it is usable.
        """
        found = 0
        for line in _lines(self.annotations, advance):
            try:
                item = self._item(line, left_out)
            except Irregular as why:
                left_out[f"records {why}"] += 1
                continue
            found += 1
            yield item
        if not found:
            reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
            raise InputError(f"{self.annotations}: no usable record in it ({reasons or 'it is empty'})")

    def _item(self, line: bytes, left_out: Counter[str]) -> Homologous:
        try:
            row = json.loads(line)
            if b"\\u" in line:  # half a surrogate pair can be read, but not be written again
                json.dumps(row, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            raise Irregular("that are not JSON") from None
        path = PurePosixPath(_text(row, "img_path", "without an image path"))
        prompt = _text(row, "prompt", "without a prompt")
        caption = _text(_field(row, "Task2"), "Caption", "without a caption")
        if not path.name or path.is_absolute() or ".." in path.parts:
            raise Irregular("whose image path leads out of imgs/")
        image = self.images / path
        if self.pictures and not image.is_file():
            raise Irregular("whose image is not there")
        questions = list(_questions(_field(row, "Task3"), left_out))
        if not questions:
            raise Irregular("without a usable question")
        cluster = f"prompt {hashlib.sha256(prompt.encode()).hexdigest()[:16]}"
        return Homologous(str(path.with_suffix("")), file_picture(image), caption, tuple(questions), cluster)


def find(root: Path, split: str) -> tuple[Path, Path] | None:
    """Annotations and image folder of a split below `root` or its folder data/, or None where there are none."""
    for folder in (root / split, root / "data" / split):
        for name in (ANNOTATIONS[split], f"{ANNOTATIONS[split]}.tgz"):
            if (folder / name).is_file():
                return folder / name, folder / "imgs"
    return None


def read_journeydb(root: Path, split: str, pictures: bool = True) -> JourneyDB:
    """Raises InputError where there is no such split below `root`, or it has no answers."""
    if split not in ANNOTATIONS:
        held = "'s answers are held back" if split == "test" else ": there is no such split"
        raise InputError(f"--split {split}{held}; choose {' or '.join(ANNOTATIONS)}")
    found = find(root, split)
    if found is None:
        name = ANNOTATIONS[split]
        raise InputError(
            f"{root}: neither {split}/{name} nor {name}.tgz in it; give the folder with JourneyDB's {split}/"
        )
    return JourneyDB(*found, split, pictures)


# --- Lines ------------------------------------------------------------------------------------------------------------


def _lines(path: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    told = 0
    try:
        with path.open("rb") as file, _unpacked(path, file) as lines:
            for number, line in enumerate(lines):
                if line := line.removeprefix(b"\xef\xbb\xbf").strip() if number == 0 else line.strip():
                    yield line
                if (done := file.tell() // _MEGABYTE) > told:
                    advance(done - told)
                    told = done
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); download it again") from error


@contextmanager
def _unpacked(path: Path, file: IO[bytes]) -> Iterator[IO[bytes]]:
    """The file itself, or the one .jsonl in the archive, read as it is unpacked."""
    if path.suffix != ".tgz":
        yield file
        return
    with tarfile.open(fileobj=file, mode="r|gz") as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".jsonl"):
                yield archive.extractfile(member)
                return
        raise InputError(f"{path}: no .jsonl in it; download it again")


# --- Questions --------------------------------------------------------------------------------------------------------


def _field(row: Any, name: str) -> Any:
    return row.get(name) if isinstance(row, dict) else None


def _text(row: Any, name: str, otherwise: str) -> str:
    text = _field(row, name)
    if not isinstance(text, str) or not normal(text):
        raise Irregular(otherwise)
    return text.strip()


def _questions(row: Any, left_out: Counter[str]) -> Iterator[HomologousQuestion]:
    for kind, name in QUESTIONS.items():
        rows = _field(row, name)
        if not isinstance(rows, list) or not rows:
            left_out[f"records without a list of {kind} questions"] += 1
            continue
        for each in rows:
            try:
                yield _question(each, kind)
            except Irregular as why:
                left_out[f"questions {why}"] += 1


def _question(row: Any, kind: str) -> HomologousQuestion:
    text = _text(row, "Question", "without a text")
    options = _options(_field(row, "Options"))
    if len(options) < 2:
        raise Irregular("with less than two options")
    if len(set(map(normal, options.values()))) < len(options):
        raise Irregular("with the same option twice")
    answer = _answer(_text(row, "Answer", "without an answer"), options)
    (skill,) = skills_of("homologous", kind)
    return HomologousQuestion(text, answer, skill, tuple(options.values()), kind)


def _options(value: Any) -> dict[str, str]:
    """Letter -> text. Given are {"A": "text"}, ["text"] or ["A: text"]."""
    if isinstance(value, dict):
        pairs = [(letter.strip().upper(), text) for letter, text in value.items()]
    elif isinstance(value, list):
        pairs = list(zip(ascii_uppercase, value, strict=False)) if len(value) <= len(ascii_uppercase) else []
    else:
        pairs = []
    texts = [text for _, text in pairs]
    if not texts or not all(isinstance(text, str) and normal(text) for text in texts):
        raise Irregular("without readable options")
    # A letter before a text is its own only if all have theirs: "A. Lincoln" may stand in third place.
    split = [_LETTERED.fullmatch(text.strip()) for text in texts]
    if all(found and found[1].upper() == letter for found, (letter, _) in zip(split, pairs, strict=True)):
        texts = [found[2] for found in split]
    options = dict(zip((letter for letter, _ in pairs), (text.strip() for text in texts), strict=True))
    if len(options) < len(pairs):
        raise Irregular("with the same option twice")
    return options


def _answer(said: str, options: Mapping[str, str]) -> str:
    """The option that is meant by its text, its letter, or both as in "A: text"."""
    by_text = {normal(text): text for text in options.values()}
    letter = said.strip("(). :").upper()
    if letter in options:
        return options[letter]
    if normal(said) in by_text:
        return by_text[normal(said)]
    found = _LETTERED.fullmatch(said)
    if found and (text := options.get(found[1].upper())) is not None and normal(found[2]) == normal(text):
        return text
    raise Irregular("whose answer is none of their options")


# --- A sample ---------------------------------------------------------------------------------------------------------


class Sample(NamedTuple):
    """`prompts`: how many usable ones there were to choose from; `left_out`: what was not usable, by reason."""

    items: list[Homologous]
    prompts: int
    left_out: Counter[str]


def sample(data: JourneyDB, size: int, seed: int, advance: Callable[[int], None] = _nothing) -> Sample:
    """`size` prompts by chance, each with one of its images by chance, in an order by chance.

    Prompts, and then their images, are taken in the order of a hash of `seed` and name: the sample does not depend on
    the order of the file, a larger one begins with the smaller one, and no more than it is in memory, with a number for
    each prompt. An image that cannot be decoded is left out, and its prompt with it.
    """
    left_out: Counter[str] = Counter()
    chosen: dict[str, tuple[bytes, Homologous]] = {}
    last: list[tuple[int, str]] = []  # of the chosen prompts the one with the greatest hash comes first
    prompts: set[int] = set()
    for item in data.read(left_out, advance):
        prompts.add(hash(item.cluster))
        place, image = _chance(seed, item.cluster), _chance(seed, item.cluster, item.id)
        if item.cluster in chosen:
            if image < chosen[item.cluster][0]:
                chosen[item.cluster] = image, item
        elif len(chosen) < size or int.from_bytes(place) < -last[0][0]:
            chosen[item.cluster] = image, item
            heapq.heappush(last, (-int.from_bytes(place), item.cluster))
            if len(chosen) > size:
                del chosen[heapq.heappop(last)[1]]
    items = []
    for cluster in sorted(chosen, key=lambda cluster: _chance(seed, cluster)):
        item = chosen[cluster][1]
        try:
            item.picture.open().load()
        except UNREADABLE:
            left_out["records whose image cannot be decoded"] += 1
        else:
            items.append(item)
    return Sample(items, len(prompts), left_out)


def _chance(seed: int, *names: str) -> bytes:
    return hashlib.sha256(json.dumps([seed, *names]).encode()).digest()[:16]
