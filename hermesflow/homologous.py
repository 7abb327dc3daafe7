"""What pairs are made of: homologous items of the miniature's validation split, or of one's own.

An item that training sees is in no measurement: items are held out by cluster, and captions that an evaluation task has
drawn are refused.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import count as count_up
from pathlib import Path

from gapbench import homologous, tasks
from gapbench.data import journeydb
from gapbench.data.pictures import UNREADABLE
from gapbench.homologous import Homologous, HomologousQuestion, normal
from gapbench.miniature import benchmarks, captions, prompts
from gapbench.miniature.language import dense_caption, describe, photo_caption
from gapbench.miniature.world import Scene, scenes
from gapbench.records import InputError, Prompt
from gapbench.tasks.base import Options, Task

# Every scene of the validation split has things that the base model never saw together: it understands them and cannot
# draw them, where those of the training split leave nothing to prefer. Other seeds of the split serve other ends.
SPLIT, SEED = "validation", 100
FORMS = ("short", "plain", "dense", "plain")
ALWAYS = ("geneval", "geneval-rewritten")  # tasks whose prompts come with the package


# --- The miniature ----------------------------------------------------------------------------------------------------


def train_items(count: int, seed: int = 0) -> list[Homologous]:
    """`count` scenes of the miniature's validation split, each with a caption and questions that cover all it says.

    Captions are short, plain or dense, and no two are equal, so few are short; one that some task of the miniature has
    drawn is passed over, and so is a scene that the loop follows. Scenes are as they come: of fuller ones alone a model
    learns to draw more than it is asked for. Equal seeds give equal items, and a longer list begins with the shorter.
    """
    taken = {normal(text) for text in _miniature_prompts()}
    followed = {h.scene for h in benchmarks.homologous_scenes(split=SPLIT)}
    found: list[Homologous] = []
    for number, scene in enumerate(_scenes(seed)):
        if len(found) == count:
            break
        rng = random.Random(f"hermesflow/{seed}/{number}")
        caption = _caption(scene, FORMS[number % len(FORMS)], rng)
        if caption is None or normal(caption) in taken or scene in followed:
            continue
        taken.add(normal(caption))
        name = f"{SPLIT}-{seed}-{number:05d}"
        asked = captions.queries(captions.read(caption), scene)
        questions = tuple(HomologousQuestion(q.text, q.answer(scene.things), q.skill, q.choices) for q in asked)
        found.append(Homologous(name, benchmarks.picture_of(scene, f"miniature-{name}"), caption, questions))
    return found


def _scenes(seed: int) -> Iterator[Scene]:
    """Distinct scenes without end."""
    told = 0
    for number in count_up(9):
        found = scenes(SPLIT, 2**number, SEED + seed)
        yield from found[told:]
        told = len(found)


def _caption(scene: Scene, form: str, rng: random.Random) -> str | None:
    """None where the scene has no caption of the form."""
    if form == "short":
        return photo_caption(scene, rng)
    return dense_caption(scene, rng) if form == "dense" else describe(scene, rng).text


def _miniature_prompts() -> Iterator[str]:
    """All that the miniature's tasks have drawn; to make the tasks would load their judges."""
    yield from (row["prompt"] for row in prompts.geneval_prompts())
    yield from (row.text for row in prompts.dpg_rows())
    yield from (row.caption for row in prompts.drawn_captions())
    for split in ("validation", "test"):
        yield from (item.caption for item in benchmarks.homologous_scenes(split=split))


# --- One's own --------------------------------------------------------------------------------------------------------


def own_items(
    place: Path, count: int | None = None, seed: int = 0, left_out: Counter[str] | None = None
) -> list[Homologous]:
    """Items of a `homologous.jsonl` or its folder, or of a folder with JourneyDB's train/; all, or `count` by chance.

    JourneyDB is only sampled from, one image of each prompt. Adds to `left_out` what cannot be used, by reason. Raises
    InputError where there are no items, or no image of theirs can be opened.
    """
    left_out = Counter() if left_out is None else left_out
    if place.is_dir() and not (place / homologous.FILE).is_file():
        if not journeydb.find(place, "train"):
            made = "`gapbench data homologous` makes one"
            raise InputError(f"{place}: neither {homologous.FILE} nor JourneyDB's train/ in it; {made}")
        if count is None:
            raise InputError(f"{place}: JourneyDB is large; say how many items to take")
        found = journeydb.sample(journeydb.read_journeydb(place, "train"), count, seed)
        left_out.update(found.left_out)
        return found.items
    every = homologous.read(place, pictures=False)
    items = [item for item in every if _opens(item)]
    if not items:
        what = f"none of {len(every)} images can be opened, the first is {every[0].picture.key}"
        raise InputError(f"{place}: {what}; they are looked for beside {homologous.FILE}")
    if len(items) < len(every):
        left_out["items whose image cannot be opened"] += len(every) - len(items)
    if count is None or count >= len(items):
        return items
    chosen = set(sorted((item.id for item in items), key=partial(_chance, seed))[:count])
    return [item for item in items if item.id in chosen]


def _opens(item: Homologous) -> bool:
    """Whether there is an image, as far as its first bytes tell."""
    try:
        item.picture.open().close()
    except UNREADABLE:
        return False
    return True


def _chance(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{name}".encode()).digest()


# --- Apart from what is measured --------------------------------------------------------------------------------------


def hold_out(
    items: Sequence[Homologous], share: float | int, seed: int = 0
) -> tuple[list[Homologous], list[Homologous]]:
    """Items to train on, and items held out, both in the given order; the items of a cluster go one way.

    share: of the clusters, below 1, or how many clusters. Which it are depends on their names and the seed, not on the
    order. Raises InputError where a side would be empty.
    """
    clusters = sorted({item.cluster for item in items}, key=partial(_chance, seed))
    size = share if isinstance(share, int) else round(share * len(clusters))
    if not 0 < size < len(clusters):
        raise InputError(f"of {len(clusters)} clusters {size} cannot be held out: both sides need one at least")
    held = set(clusters[:size])
    return [item for item in items if item.cluster not in held], [item for item in items if item.cluster in held]


def refuse_contaminated(items: Sequence[Homologous], evaluations: Iterable[Task]) -> None:
    """Raises InputError where captions to train on stand among the prompts of these tasks, or of GenEval.

    Compared is what `normal` leaves: case, spaces and a final full stop do not count.
    """
    always = [tasks.load(name, Options(pictures=False)) for name in ALWAYS]
    asked: dict[str, str] = {}
    for task in (*evaluations, *always):
        for text in prompts_of(task):
            asked.setdefault(normal(text), task.name)
    found = [item for item in items if normal(item.caption) in asked]
    if found:
        first = found[0]
        raise InputError(
            f"{len(found)} of {len(items)} captions to train on are prompts of an evaluation, first that of item "
            f"{first.id!r} ({first.caption!r}, {asked[normal(first.caption)]}); leave these items out"
        )


def prompts_of(task: Task) -> Iterator[str]:
    """The texts that a task has drawn."""
    for part in task.parts:
        if part == "own":  # asks about drawings that are not there yet
            continue
        yield from (item.ask.text for item in task.items(part, lambda *_: None) if isinstance(item.ask, Prompt))
