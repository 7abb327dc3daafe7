"""Results -> tables: what one run found, and a leaderboard of several; one form for the terminal and for files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gapbench.tasks import mme, mmmu, vqav2
from gapbench.tasks.gap import by_skill

JSON = Mapping[str, Any]

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
        **{f"discipline/{name}": name for name in mmmu.DISCIPLINES},
    },
    "mme": {name: name for name in (*mme.GROUPS, *mme.SUBTASKS)},
    "gqa": {name: name for name in ("accuracy", "binary", "open")},
    "flickr30k": {"cider": "CIDEr", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L"},
    "vqav2": {"accuracy": "accuracy"} | {f"answer_type/{name}": name for name in vqav2.ANSWER_TYPES},
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


@dataclass(frozen=True)
class Table:
    """Cells are finished texts. The first column is a name, the others are numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default_factory=tuple)


def number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}"


def interval(estimate: JSON, digits: int = 3) -> str:
    return f"[{number(estimate['low'], digits)}, {number(estimate['high'], digits)}]"


def cell(estimate: JSON) -> str:
    return f"{number(estimate['value'])} {interval(estimate)}"


def headlines(task: str) -> tuple[str, dict[str, str]]:
    """Title and summary lines of a task by its name, `pope-mini` being POPE in the suite mini; none for those of a task
    whose metrics are all there is to tell.
    """
    if task.startswith("lm-eval-"):
        return task, {}
    base, _, suite = task.partition("-")
    return f"{TITLES.get(base, base)}{f' ({suite})' if suite else ''}", HEADLINES.get(base, {})


def incomplete(told: JSON) -> str | None:
    """`n/N` where not everything was asked and answered: such numbers are not the benchmark's."""
    return None if told["done"] == told["expected"] else f"{told['done']}/{told['expected']}"


def notes(name: str, told: JSON) -> list[str]:
    found = []
    if partial := incomplete(told):
        found.append(f"partial: {partial} items; not comparable with a complete {name}")
    if told["failed"]:
        found.append(f"{told['failed']} responses that the model failed to give count as wrong")
    if told["unjudged"]:
        found.append(f"{told['unjudged']} items that the judge could not decide count on no side")
    return found


def metric_table(
    title: str, metrics: JSON, lines: Mapping[str, str], remarks: Sequence[str] = (), digits: int = 3
) -> Table:
    """One metric a line."""
    rows = [
        [label, number(e["value"], digits), interval(e, digits), str(e["n"]), str(e["clusters"])]
        for metric, label in lines.items()
        if (e := metrics.get(metric))
    ]
    return Table(title, [title, "value", "95 % interval", "n", "clusters"], rows, remarks)


def skill_table(metrics: JSON, title: str = "Gap by skill") -> Table:
    """Widest gap first."""
    skills = sorted(by_skill(metrics).items(), key=lambda pair: -pair[1]["gap"]["value"])
    rows = []
    for skill, found in skills:
        u, g, gap, p10 = (found[measure] for measure in ("U", "G", "gap", "p10"))
        values = [number(e["value"]) for e in (u, g, gap)]
        rows.append([skill, *values, interval(gap), number(p10["value"]), str(u["n"])])
    return Table(title, [title, "U", "G", "gap", "95 % interval", "p10", "n"], rows)


def summary(results: JSON) -> list[Table]:
    """What one run found."""
    tables = []
    for name, told in results["tasks"].items():
        title, lines = headlines(name)
        remarks = notes(name, told)
        if not told["metrics"]:
            tables.append(Table(title, [title], [], remarks))
            continue
        tables.append(metric_table(title, told["metrics"], lines or _all(told["metrics"]), remarks))
        if told["side"] == "both":
            tables.append(skill_table(told["metrics"], f"{title} by skill"))
    return tables


def leaderboard(runs: Sequence[JSON]) -> list[Table]:
    """Models as rows: one table per task, then each model's gap by skill.

    Runs whose protocols differ stand in separate tables, for their numbers do not compare.
    """
    tables = []
    for name, protocol in _protocols(runs):
        title, lines = headlines(name)
        told_by = [run["tasks"][name] for run in runs if name in run["tasks"]]
        lines = lines or _all(metric for told in told_by for metric in told["metrics"])
        rows, remarks = [], []
        for run in runs:
            told = run["tasks"].get(name)
            if told is None or told["fingerprint"] != protocol:
                continue
            partial = incomplete(told)
            label = f"{run['model']} ({partial})" if partial else run["model"]
            rows.append([label, *(_leader_cell(told["metrics"].get(metric)) for metric in lines)])
            remarks += [f"{run['model']}: {note}" for note in notes(name, told)]
        # The gap's lines explain themselves at a length that no column has; its metrics' own names are short.
        columns = list(lines if name.startswith("gap") else lines.values())
        tables.append(Table(title, ["model", *columns], rows, [*remarks, f"protocol {protocol}"]))
    for run in runs:
        for name, told in run["tasks"].items():
            if told["side"] == "both" and told["metrics"]:
                tables.append(skill_table(told["metrics"], f"{headlines(name)[0]} by skill: {run['model']}"))
    return tables


def _all(metrics: Iterable[str]) -> dict[str, str]:
    return {name: name for name in metrics}


def _protocols(runs: Iterable[JSON]) -> list[tuple[str, str]]:
    pairs = [(name, told["fingerprint"]) for run in runs for name, told in run["tasks"].items()]
    return list(dict.fromkeys(pairs))


def _leader_cell(estimate: JSON | None) -> str:
    return cell(estimate) if estimate else "-"


def markdown(tables: Iterable[Table]) -> str:
    """GitHub's tables; pipes and angle brackets in names are escaped."""
    blocks = []
    for table in tables:
        head, *rest = table.columns
        lines = [f"### {_escaped(table.title)}", ""]
        lines.append("| " + " | ".join(_escaped(c) for c in (head, *rest)) + " |")
        lines.append("| --- |" + " ---: |" * len(rest))
        lines += ["| " + " | ".join(_escaped(c) for c in row) + " |" for row in table.rows]
        lines += [f"\n{_escaped(note)}" for note in table.notes]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
