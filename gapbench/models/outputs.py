"""Responses made elsewhere, run as a model: answers from files, drawings from folders, found by their items' ids.

`--model outputs:DIR`. Answers are in DIR itself, DIR/answers or DIR/records, files *.jsonl of {"id", "response"} or of
a run's records; ids are those of `gapbench data ids`. Drawings are in DIR/images/TASK, or DIR is such a folder:

    ITEM/SEED.png                  a run's own layout
    ITEM/samples/0000.png          GenEval's; images are numbered by their seeds
    ITEM.png                       one image an item, of seed 0; in a folder dpg, DPG-Bench's 2x2 grid of seeds 0 to 3

So a run folder will do as well. An id says nothing of its task: where two tasks share ids, give the folder of one.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gapbench import hub
from gapbench.data.drawn import SUFFIXES, Open, grids, item_folder, name_of, one_each, opened, quarter
from gapbench.data.pictures import UNREADABLE
from gapbench.records import Decoding, Failure, InputError, Prompt, Question, Sampling
from gapbench.responses import MANIFEST, RECORDED, found, read_manifest, read_rows, unreadable

if TYPE_CHECKING:
    from PIL import Image

    from gapbench.models.zoo import Entry

ANSWERS = ("", "answers", "records")
IMAGES = "images"


class Given(NamedTuple):
    """An answer, and the file that it stands in."""

    response: str
    file: Path


class Place(NamedTuple):
    """A drawing: where it is, and what opens that."""

    where: str
    open: Open


def load(entry: Entry, device: str | None, dtype: str | None) -> Outputs:
    """What is in the folder, with the methods of what there is. Raises InputError where there is nothing."""
    if dtype is not None:
        raise InputError(f"--dtype {dtype}: {entry.name} is what was made already; leave --dtype out")
    folder = Path(entry.target)
    if not folder.is_dir():
        raise InputError(f"--model {entry.name}: {folder} is no folder")
    files = [file for name in ANSWERS for file in sorted((folder / name).glob("*.jsonl"))]
    roots = drawn_in(folder)
    if not files and not roots:
        raise InputError(f"--model {entry.name}: neither answers (*.jsonl) nor drawings (folders, images) are in it")
    kinds = {(True, True): AnswersAndDrawings, (True, False): Answers, (False, True): Drawings}
    return kinds[bool(files), bool(roots)](entry.name, folder, files, roots)


def drawn_in(folder: Path) -> list[Path]:
    """The folders of drawings, one a task."""
    if (folder / IMAGES).is_dir():
        return sorted(path for path in (folder / IMAGES).iterdir() if path.is_dir())
    others = {name for name in ANSWERS if name}
    holds = any(
        path.name not in others if path.is_dir() else path.suffix.lower() in SUFFIXES
        for path in folder.iterdir()
        if not path.name.startswith(".")
    )
    return [folder] if holds and not (folder / MANIFEST).exists() else []


def answers_in(files: Sequence[Path]) -> dict[str, Given]:
    """Answers by id. Raises InputError for a line that is none, and where an id has two answers that differ."""
    given: dict[str, Given] = {}
    for file in files:
        for row in read_rows(file):
            if isinstance(row.value, dict) and (row.value.get("error") or _is_drawing(row.value)):
                continue
            answer = found(row.value) or found(row.value, RECORDED)
            if answer is None:
                raise InputError(unreadable(row))
            other = given.setdefault(answer.id, Given(answer.response, file))
            if other.response != answer.response:
                places = f"twice in {file}" if other.file == file else f"in {other.file} and {file}"
                advice = "give the folder of one task, with one answer to each id"
                raise InputError(f"{answer.id} is answered {places}, and not in the same way; {advice}")
    return given


def _is_drawing(record: dict[str, Any]) -> bool:
    """Whether a record, if it is one, is of a drawing: these are found as images."""
    return "task" in record and str(record.get("response")).startswith(f"{IMAGES}/")


# --- the model --------------------------------------------------------------------------------------------------------


class Outputs:
    """What answers and drawings share."""

    def __init__(self, name: str, folder: Path, files: Sequence[Path], roots: Sequence[Path]) -> None:
        self.name, self.folder, self._roots = name, folder, roots
        self._answers = answers_in(files)
        self._told = {"files": {str(file.relative_to(folder)): hub.fingerprint(file)["sha256"] for file in files}}
        if roots:
            images = sorted(path for root in roots for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
            listed = "".join(f"{path.relative_to(folder)} {path.stat().st_size}\n" for path in images)
            digest = hashlib.sha256(listed.encode()).hexdigest()
            self._told["drawings"] = {"files": len(images), "names_and_sizes": digest}
        self._flat: dict[str, list[Place]] = defaultdict(list)
        for root in roots:
            read, open_image = (grids, quarter) if root.resolve().name.startswith("dpg") else (one_each, opened)
            drawn, _ = read(root)
            for image in drawn:
                self._flat[image.id].append(Place(image.response, open_image))

    def describe(self) -> dict[str, Any]:
        is_run = (self.folder / MANIFEST).exists()
        made_by = read_manifest(self.folder).get("request", {}).get("model") if is_run else None
        told = {"family": "outputs", "folder": str(self.folder), "weights": None, "made_by": made_by}
        return {"name": self.name, **told, **self._told}

    def settings(self, sampling: Sampling) -> Sampling:
        """None at all. Raises InputError where one is asked for."""
        given = {"steps": sampling.steps, "guidance": sampling.guidance, "temperature": sampling.temperature}
        if asked := next((name for name, value in given.items() if value is not None), None):
            raise InputError(f"--{asked}: {self.name} was drawn already; leave it out")
        return sampling


class Answers(Outputs):
    """Answers that are there."""

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> Iterator[str | Failure]:
        """However they were decoded."""
        for question in questions:
            given = self._answers.get(question.id)
            yield given.response if given else Failure(f"{self.folder} has no answer to {question.id}")


class Drawings(Outputs):
    """Drawings that are there."""

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Image.Image | Failure]:
        """As they are. A judge sees plain RGB images only: what it made of others would be its own choice."""
        self.settings(sampling)
        for prompt in prompts:
            yield self._drawing(prompt)

    def _drawing(self, prompt: Prompt) -> Image.Image | Failure:
        places = list(self._places(prompt))
        if len(places) != 1:
            there = f"several: {', '.join(place.where for place in places)}" if places else f"none in {self.folder}"
            return Failure(f"of drawings of {prompt.id} with seed {prompt.seed} there are {there}")
        (place,) = places
        try:
            check_prompt(place, prompt)
            image = place.open(place.where)
        except (InputError, *UNREADABLE) as error:
            return Failure(f"{place.where}: {error}")
        if image.mode != "RGB":
            return Failure(f"{place.where}: mode {image.mode}, not RGB; convert it as it is to be seen")
        return image

    def _places(self, prompt: Prompt) -> Iterator[Place]:
        """Where the drawing lies: once, if all is well."""
        item = item_folder(prompt.id)
        for root in self._roots:
            for stem in (root / item / str(prompt.seed), root / item / "samples" / f"{prompt.seed:04d}"):
                paths = (stem.with_suffix(suffix) for suffix in SUFFIXES)
                yield from (Place(str(path), opened) for path in paths if path.is_file())
        for name in dict.fromkeys((prompt.id, str(int(prompt.id)) if prompt.id.isdecimal() else prompt.id)):
            yield from self._flat.get(name_of(name, prompt.seed), ())


def check_prompt(place: Place, prompt: Prompt) -> None:
    """Raises ValueError where GenEval's metadata beside an image tells of another prompt."""
    metadata = Path(place.where).parent.parent / "metadata.jsonl"
    if metadata.is_file():
        drawn = read_rows(metadata)[0].value
        if not isinstance(drawn, dict) or drawn.get("prompt") != prompt.text:
            raise ValueError(f"{metadata} is not of the prompt {prompt.text!r}")


class AnswersAndDrawings(Answers, Drawings):
    """Both."""
