"""DPG-Bench: does an image follow a long and dense prompt? (Hu et al., ELLA, arXiv 2403.05135)

Asked: 1,065 prompts of 67 words on average, four images each, every image from its own seed.
Judged: a VQA model, officially mPLUG, answers some fourteen yes/no questions about each image. Questions stand in a
graph: one whose parent is answered no counts as no, whatever it was answered (`zeroed`).
Averaged: an image's score is the mean of its questions, an item's that of its images, and overall that of the items,
in percent. Categories (13 of level 2, such as "relation - spatial"; 5 of level 1) pool the questions of all images.

The released script (TencentQQGYLab/ELLA at 3c228f1, `compute_dpg_bench.py`) does not quite do that, so every number is
given twice. As `official/...` it is what the script prints, run as one process, with all that is odd about it: it skips
the table's first row, which drops an item as soon as a question misses its parent there; categories are those of the
last image alone, before zeroing; only the exact answer "yes" counts; an item where anything fails is left out. (Run as
several processes it mixes the categories up besides.)
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from gapbench import judges, stats
from gapbench.models.base import Answers
from gapbench.records import (
    Decoding,
    Estimate,
    Failure,
    Item,
    Judgement,
    Picture,
    Prompt,
    Question,
    Record,
)
from gapbench.skills import SKILLS, skills_of
from gapbench.tasks.base import Drawings, Options, Response
from gapbench.tasks.dpg_table import PROMPTS, DensePrompt, Node, find, read

IMAGES_PER_PROMPT = 4
YES_OR_NO = " Please answer yes or no."  # after the question, for judges that are not mPLUG
DECODING = Decoding(max_new_tokens=10)  # a judge's; mPLUG has its own
LEVEL_1 = ("global", "entity", "attribute", "relation", "other")


# --- How it is judged -------------------------------------------------------------------------------------------------


def says_yes(said: str) -> bool:
    return said.strip().lower().removesuffix(".") == "yes"


def zeroed(graph: Sequence[Node], yes: Sequence[int | None]) -> list[int | None]:
    """Answers (1 yes, 0 no, None not known) with those below a no set to no.

    In the order of the table, as the official script does it: a no passes on downwards, but a parent that stands later
    counts as it was answered.
    """
    values = {node.number: value for node, value in zip(graph, yes, strict=True)}
    for node in graph:
        if values[node.number] is not None and any(values.get(parent) == 0 for parent in node.parents):
            values[node.number] = 0
    return [values[node.number] for node in graph]


def score(graph: Sequence[Node], yes: Sequence[int | None]) -> float | None:
    """Mean of the zeroed answers that are known; None where none is."""
    known = [value for value in zeroed(graph, yes) if value is not None]
    return sum(known) / len(known) if known else None


# --- What is averaged over what ---------------------------------------------------------------------------------------


@dataclass
class _Table:
    """Ratios by name; of each the contributions of `size` records to its upper and its lower sum."""

    size: int
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, name: str, record: int, upper: float, lower: float) -> None:
        self.columns.setdefault(name, np.zeros((self.size, 2)))[record] += upper, lower


def metrics(records: Sequence[Record]) -> dict[str, Estimate]:
    """overall, L1/CATEGORY and L2/CATEGORY (zeroed; with /raw as answered), and official/ of the same, in percent.

    A question that the judge failed on counts on no side, but officially drops its item. Details tell each image's
    `graph`, `answers`, `yes` and `skipped`. Intervals resample items. n counts images; officially, items.
    """
    table = _Table(len(records))
    images = Counter(record.cluster for record in records if record.score is not None)
    of_item: dict[str, list[int]] = {}
    for row, record in enumerate(records):
        of_item.setdefault(record.cluster, []).append(row)
        if record.score is None:
            continue
        table.add("overall", row, record.score / images[record.cluster], 1 / images[record.cluster])
        graph, answers = graph_of(record), record.details["yes"]
        for node, raw, value in zip(graph, answers, zeroed(graph, answers), strict=True):
            if raw is not None:
                for name in _categories(node.category):
                    table.add(name, row, value, 1)
                    table.add(f"{name}/raw", row, raw, 1)

    official = {}
    for item, rows in of_item.items():
        rows = sorted(rows, key=lambda row: records[row].seed)
        try:
            scores = [official_image(records[row]) for row in rows]
        except (LookupError, ValueError):
            continue  # as the script does after any exception
        official[item] = sum(mean for mean, _ in scores) / len(scores)
        table.add("official/overall", rows[-1], official[item], 1)
        for category, raw in scores[-1][1]:
            for name in _categories(category):
                table.add(f"official/{name}", rows[-1], raw, 1)

    if not table.columns:
        return {}
    names = sorted(table.columns, key=_place)
    contributions = np.concatenate([table.columns[name] for name in names], axis=1)
    counted = {name: table.columns[name][:, 1] > 0 for name in names}

    def percent(sums: np.ndarray) -> np.ndarray:
        return 100 * stats.ratio(sums.reshape(len(sums), -1, 2))

    clusters, bounds = [record.cluster for record in records], dict.fromkeys(names, (0.0, 100.0))
    found = stats.estimates(contributions, clusters, percent, counted, bounds=bounds)
    if official:
        # To the last digit numpy's mean depends on the order, which is os.listdir's there, so any; by name here.
        value = float(np.mean([official[item] for item in sorted(official)]) * 100)
        found["official/overall"] = found["official/overall"].valued(value)
    return found


def official_image(record: Record) -> tuple[float, list[tuple[str, float]]]:
    """An image's score by the released script, and category and answer of each of its questions.

    Raises LookupError or ValueError where the script would fail: a question lacks its parent, or has no answer.
    """
    details = record.details
    rows = list(zip(graph_of(record), details["answers"], details["yes"], strict=True))[details["skipped"] :]
    if not rows or any(yes is None for *_, yes in rows):
        raise ValueError("no question, or one without an answer")
    scores = {node.number: float(answer == "yes") for node, answer, _ in rows}
    raw = [(node.category, scores[node.number]) for node, *_ in rows]
    for node, *_ in rows:
        for parent in node.parents:
            if scores[parent] == 0:
                scores[node.number] = 0
                break
    return sum(scores.values()) / len(scores), raw


def graph_of(record: Record) -> list[Node]:
    return [Node(number, category, tuple(parents)) for number, category, parents in record.details["graph"]]


def _categories(category: str) -> tuple[str, str]:
    return f"L1/{category.split('-')[0].strip()}", f"L2/{category}"


def _place(name: str) -> tuple[bool, int, int, str]:
    """Where a metric stands: ours before official/, overall before L1 before L2, L1 as papers order it."""
    level, _, category = name.removeprefix("official/").removesuffix("/raw").partition("/")
    order = LEVEL_1.index(category) if category in LEVEL_1 else len(LEVEL_1)
    return name.startswith("official/"), ("overall", "L1", "L2").index(level), order, name


# --- The task ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dpg:
    """DPG-Bench over any prompts with their questions, with any model that answers as the judge.

    `after_question` is what the judge is told after each question.
    """

    name: str
    prompts: Sequence[DensePrompt]
    judge_model: Answers
    data: str
    after_question: str
    images_per_prompt: int = IMAGES_PER_PROMPT
    seed: int = 0
    whole: int = PROMPTS * IMAGES_PER_PROMPT

    version = "1"
    side = "generation"
    parts = ("",)
    decoding = None

    def items(self, part: str, drawings: Drawings) -> list[Item]:
        found = []
        for prompt in self.prompts:
            skills = {skill for node in prompt.graph for skill in skills_of("dpg", node.category)}
            skills = tuple(sorted(skills, key=SKILLS.index))
            for image in range(self.images_per_prompt):
                ask = Prompt(prompt.id, prompt.text, self.seed + image)
                found.append(Item(prompt.id, prompt.id, skills, ask, {"prompt": prompt}))
        return found

    def judge(self, items: Sequence[Item], responses: Sequence[Response]) -> list[Judgement]:
        questions = []
        for item, drawing in zip(items, responses, strict=True):
            if not isinstance(drawing, Failure):
                questions += self._questions(item, drawing)
        said = iter(list(self.judge_model.answer(questions, DECODING)))
        return [_judgement(item, drawing, said) for item, drawing in zip(items, responses, strict=True)]

    def _questions(self, item: Item, drawing: Image.Image) -> list[Question]:
        """All questions about a drawing share one picture, told by its pixels: another model draws the same item."""
        pixels = hashlib.sha256(drawing.tobytes()).hexdigest()[:16]
        picture = Picture(f"{self.name}/{item.id}@{item.seed}/{pixels}", lambda: drawing)
        prompt: DensePrompt = item.truth["prompt"]
        return [
            Question(f"{item.id}/{node.number}@{item.seed}", text + self.after_question, (picture,), ("yes", "no"))
            for node, text in zip(prompt.graph, prompt.questions, strict=True)
        ]

    def metrics(self, records: Sequence[Record]) -> dict[str, Estimate]:
        return metrics(records)

    def unjudged(self, records: Sequence[Record]) -> int:
        """Questions, not images."""
        return sum(yes is None for record in records for yes in record.details["yes"])

    def protocol(self) -> dict[str, Any]:
        judge = self.judge_model.describe()
        return {
            "prompts": self.data,
            "images_per_prompt": self.images_per_prompt,
            "first_seed": self.seed,
            "judge": {name: value for name, value in judge.items() if name != "device"},  # which GPU it was
            "judge_prompt": "{question}" + self.after_question,
            "judge_decoding": asdict(DECODING),
            "rules": "all prompts and images; official/: ELLA 3c228f1, one process",
        }


def _judgement(item: Item, drawing: Response, said: Iterator[str | Failure]) -> Judgement:
    """Takes the answers to the item's questions off `said`. Of a drawing that failed every answer counts as no."""
    prompt: DensePrompt = item.truth["prompt"]
    answers: list[str | None] = []
    yes: list[int | None] = []
    failures = []
    for _ in prompt.graph:
        answer = None if isinstance(drawing, Failure) else next(said)
        if isinstance(answer, Failure):
            failures.append(answer.reason)
            answers.append(None)
            yes.append(None)
        else:
            answers.append(answer)
            yes.append(int(answer is not None and says_yes(answer)))
    details = {
        "prompt": prompt.text,
        "graph": [[node.number, node.category, list(node.parents)] for node in prompt.graph],
        "skipped": prompt.skipped,
        "answers": answers,
        "yes": yes,
    }
    return Judgement(score(prompt.graph, yes), details | ({"judge_failures": failures} if failures else {}))


def real(options: Options) -> Dpg:
    """DPG-Bench, judged by mPLUG: its files are those in mplug/ beside the table, else the hub's.

    Or by the model or checkpoint folder `options.judge`, whose numbers do not compare with mPLUG's.
    """
    from gapbench.judges.mplug import REPO, MPlug

    table = find(options.data)
    data = read(table, options.allow_partial)
    judge: Answers
    if options.judge is None:
        folder = table.parent / "mplug"
        judge = MPlug(folder if folder.is_dir() else REPO, options.device)
    else:
        judge = judges.answerer(options.judge, options.device)
    after_question = "" if isinstance(judge, MPlug) else YES_OR_NO
    return Dpg("dpg", data.prompts, judge, data.name, after_question, seed=options.seed)


def mini(options: Options) -> Dpg:
    """DPG-Bench of the miniature world: dense captions of its scenes, two images each, judged by the exact eye."""
    from gapbench.miniature import benchmarks, eye
    from gapbench.miniature import prompts as miniature

    rows: dict[str, list[miniature.DpgRow]] = {}
    for row in miniature.dpg_rows():
        rows.setdefault(row.item, []).append(row)
    prompts = [
        DensePrompt(
            name,
            asked[0].text,
            tuple(Node(row.number, row.category, row.parents) for row in asked),
            tuple(row.query.text for row in asked),
            skipped=int(position == 0),
        )
        for position, (name, asked) in enumerate(rows.items())
    ]
    source = f"{benchmarks.DATA}: {len(prompts)} prompts"
    return Dpg("dpg-mini", prompts, eye.Eye(), source, YES_OR_NO, 2, options.seed, whole=2 * len(prompts))
