"""Which metrics are worth a line, what they are called, which end is up, and in what units papers print them.

The one place for all of that: terminal, leaderboards, LaTeX and CSV read it from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gapbench.tasks import mme, mmmu, vqav2_files

Better = Literal["higher", "lower", ""]

# Task without its suite -> the metrics worth a line in a summary, and what they are called there.
HEADLINES: dict[str, dict[str, str]] = {
    "gap": {
        "U": "U: model on real image",
        "G": "G: judge on drawing",
        "gap": "gap = U - G",
        "p10": "p10: understood, not drawn",
        "p01": "p01: drawn, not understood",
        "U_judge": "U_judge: judge on real image",
        "G_self": "G_self: model on own drawing",
        "answerer_effect": "answerer effect = U - U_judge",
        "drawing_loss": "drawing loss = U_judge - G",
        "macro/gap": "gap, mean over items",
    },
    "pope": {
        "pooled/accuracy": "accuracy",
        "pooled/f1": "F1",
        "pooled/precision": "precision",
        "pooled/recall": "recall",
        "pooled/yes_ratio": "yes ratio",
        "random/accuracy": "random: accuracy",
        "random/f1": "random: F1",
        "popular/accuracy": "popular: accuracy",
        "popular/f1": "popular: F1",
        "adversarial/accuracy": "adversarial: accuracy",
        "adversarial/f1": "adversarial: F1",
        "mean_of_three/f1": "mean of the three F1",
    },
    "geneval": {
        "overall": "overall",
        "single_object": "single object",
        "two_object": "two objects",
        "counting": "counting",
        "colors": "colors",
        "position": "position",
        "color_attr": "color attribution",
    },
    "dpg": {
        "overall": "overall",
        **{f"L1/{name}": name for name in ("global", "entity", "attribute", "relation", "other")},
        "official/overall": "overall, official script",
    },
    "coco": {"fid": "FID", "clip_score": "CLIP-Score"},
    "mmmu": {
        "accuracy": "accuracy",
        "accuracy/official-random": "with official random fallback",
        "unparsed": "share of unparsed answers",
        **{f"discipline/{name}": name for name in mmmu.DISCIPLINES},
    },
    "mme": {name: name for name in (*mme.GROUPS, *mme.SUBTASKS)},
    "gqa": {name: name for name in ("accuracy", "binary", "open")},
    "flickr30k": {"cider": "CIDEr", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L"},
    "vqav2": {"accuracy": "accuracy"} | {f"answer_type/{name}": name for name in vqav2_files.ANSWER_TYPES},
}
TITLES = {
    "gap": "Gap",
    "pope": "POPE",
    "geneval": "GenEval",
    "dpg": "DPG-Bench",
    "coco": "COCO",
    "mmmu": "MMMU",
    "mme": "MME",
    "gqa": "GQA",
    "vqav2": "VQAv2",
    "flickr30k": "Flickr30k",
}
HOSTED = "lm-eval-"  # before the name of a task of lm-evaluation-harness

# What is not better the higher it is. A ratio of answers, or what the judge alone brings in, is neither good nor bad.
_LOWER = {
    ("coco", "fid"),
    ("mmmu", "unparsed"),
    *(("gap", name) for name in ("gap", "macro/gap", "p10", "drawing_loss")),
}
_NEITHER = {("gap", name) for name in ("p01", "U_judge", "G_self", "answerer_effect")}
# The harness's own metrics, by the part of a name before its filter; of any other, results do not say.
_HOSTED_HIGHER = {"acc", "acc_norm", "exact_match", "f1", "em", "mcc", "bleu", "chrf", "likelihood"}
_HOSTED_LOWER = {"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score", "ter"}


def base_of(task: str) -> str:
    """`pope` of pope-mini. Tasks of the harness are their own."""
    return task if task.startswith(HOSTED) else task.partition("-")[0]


def suite_of(task: str) -> str:
    """What stands after the base, such as mini; empty for the benchmark itself."""
    return task.removeprefix(base_of(task)).removeprefix("-")


def headlines(task: str) -> tuple[str, dict[str, str]]:
    """Title and summary lines of a task by its name, `pope-mini` being POPE in the suite mini; none for those of a task
    whose metrics are all there is to tell.
    """
    base, suite = base_of(task), suite_of(task)
    return f"{TITLES.get(base, base)}{f' ({suite})' if suite else ''}", HEADLINES.get(base, {})


def better(task: str, metric: str) -> Better:
    """Which end of a metric is up; empty where neither is, or nobody said."""
    base = base_of(task)
    if base.startswith(HOSTED):
        name = metric.partition(",")[0]
        return "higher" if name in _HOSTED_HIGHER else "lower" if name in _HOSTED_LOWER else ""
    if (base, metric) in _LOWER:
        return "lower"
    return "" if (base, metric) in _NEITHER or metric.endswith("yes_ratio") else "higher"


def digits(task: str, metric: str) -> int:
    """Decimals that a metric in its own units deserves: points and percent fewer than shares."""
    return {"mme": 1, "dpg": 2, "coco": 2}.get(base_of(task), 1 if metric == "cider" else 3)


# --- The tables of papers ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Headline:
    """A column of a paper's table: `scale` times our metric, with `digits` decimals, is what papers print.

    note: what the measured number is. reported: what is known of those that papers report.
    """

    task: str
    metric: str
    name: str
    scale: float = 1.0
    digits: int = 2
    note: str = ""
    reported: str = ""

    @property
    def better(self) -> Better:
        return better(self.task, self.metric)


@dataclass(frozen=True, slots=True)
class PaperTable:
    """`name` is that in published.csv. `extra`: shown only with what papers report, for it repeats other columns."""

    name: str
    title: str
    columns: Sequence[Headline]
    extra: bool = False


POPE = Headline(
    task="pope",
    metric="pooled/accuracy",
    name="POPE",
    scale=100,
    digits=1,
    note="POPE: accuracy pooled over the three splits, in percent",
    reported="POPE as reported: papers do not say if theirs is accuracy, pooled F1 or the mean F1 of the splits",
)
MME = Headline(
    task="mme",
    metric="perception",
    name="MME",
    digits=1,
    note="MME: the sum of the perception subtasks, in points",
    reported="MME as reported: perception only",
)
FLICKR30K = Headline(task="flickr30k", metric="cider", name="Flickr30k", digits=1, note="Flickr30k: CIDEr, times 100")
VQAV2 = Headline(
    task="vqav2",
    metric="accuracy",
    name="VQAv2",
    scale=100,
    digits=1,
    note="VQAv2: accuracy in percent, where answers are public",
    reported="VQAv2 as reported: test-dev, which only the evaluation server can score",
)
GQA = Headline(task="gqa", metric="accuracy", name="GQA", scale=100, digits=1, note="GQA: accuracy in percent")
MMMU = Headline(
    task="mmmu",
    metric="accuracy",
    name="MMMU",
    scale=100,
    digits=1,
    note="MMMU: accuracy in percent; an answer that cannot be parsed is wrong",
    reported="MMMU as reported: official scripts guess a letter for an answer that they cannot parse",
)
DPG = Headline(
    task="dpg",
    metric="overall",
    name="DPG",
    note="DPG: the mean over prompts, in percent",
    reported="DPG as reported: the released script leaves out one of the 1,065 prompts",
)
FID = Headline(
    task="coco",
    metric="fid",
    name="FID",
    note="Intervals of FID: of the delta method, the reference held fixed",
)
GAP = Headline(
    task="gap",
    metric="gap",
    name="Gap",
    digits=3,
    reported="Gap as reported: its items, its questions and its judge's prompt are not public",
)
PAPER_TABLES = (
    PaperTable("understanding", "Understanding", (POPE, MME, FLICKR30K, VQAV2, GQA, MMMU)),
    PaperTable(
        "generation",
        "Generation: GenEval and DPG-Bench",
        (
            Headline("geneval", "single_object", "Single Obj."),
            Headline("geneval", "two_object", "Two Obj."),
            Headline("geneval", "counting", "Counting"),
            Headline("geneval", "colors", "Colors"),
            Headline("geneval", "position", "Position"),
            Headline("geneval", "color_attr", "Color Attri."),
            Headline("geneval", "overall", "Overall"),
            DPG,
        ),
    ),
    PaperTable(
        "coco",
        "MS-COCO zero-shot",
        (FID, Headline("coco", "clip_score", "CLIP-Score", note="CLIP-Score: 100 times the cosine")),
    ),
    PaperTable(
        "gap",
        "The gap between understanding and generation",
        (
            Headline("gap", "U", "Understanding", digits=3),
            Headline("gap", "G", "Generation", digits=3),
            GAP,
        ),
    ),
    PaperTable(
        "training",
        "Pair-DPO against DPO",
        (POPE, MME, MMMU, Headline("geneval", "overall", "GenEval"), DPG),
        extra=True,
    ),
)
