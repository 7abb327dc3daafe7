"""The paper's Table 5 on the miniature: Pair-DPO against DPO on either side, and emphasis against none.

    uv run python -m benchmarks.lab_table5 --out lab                 # three seeds; resumable
    uv run python -m benchmarks.lab_table5 --out lab --model janus-mini --items 450          # 47 minutes on one core
    uv run python -m benchmarks.lab_table5 --out lab --seeds 1 --items 60

Every condition has the same base model, items, candidates per item, steps, batch and reference (the policy before); a
seed decides items, drawings, masks and order. Measured are scenes of the test split, which decide nothing. Seeds are
averaged question by question before items are resampled, so an interval is of these trainings on other scenes; the
column of seeds shows what another training would change.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gapbench.judges import judge
from gapbench.miniature import benchmarks as miniature
from gapbench.models import zoo
from gapbench.report import runs
from gapbench.report.markdown import markdown
from gapbench.report.table import Column, Figure, Row, Table
from gapbench.significance import Difference, difference
from gapbench.stats import Resampled
from gapbench.tasks.gap import Gap, items_of
from gapbench.tasks.matching import Exact
from gapbench.terminal import Progress
from hermesflow import emphasis, pair_files, recipes
from hermesflow.close_gap import measured
from hermesflow.curate import curate
from hermesflow.train import train

CONDITIONS = {
    "DPO (understanding)": "understanding",
    "DPO (generation)": "generation",
    "Pair-DPO": "uniform",
    "Pair-DPO, emphasis": "gap",
}
ONE_SIDED = ("understanding", "generation")  # one iteration, as in the paper
MEASURES = ("U", "G", "gap", "p10")
JUDGED = 200  # scenes


@dataclass(frozen=True)
class Lab:
    out: Path
    model: str  # by zoo name
    items: int  # of all iterations, each its own
    iterations: int
    steps: int  # of an iteration
    judge: str
    judged: Gap

    def condition(self, name: str, rule: str, seed: int) -> list[Path]:
        """Runs of the judged gap after each iteration."""
        how = recipes.miniature()
        curation = replace(how.curation, judge=self.judge, seed=seed)
        training = replace(how.training, steps=self.steps, seed=seed)
        grounds = recipes.miniature_grounds(self.items, seed, "cpu", panel=False)
        model, found = zoo.load(self.model, "cpu"), []
        for iteration in range(1, 2 if rule in ONE_SIDED else self.iterations + 1):
            # What the base model makes of the items is the same for all conditions.
            place = self.out / f"seed-{seed}" / (name if iteration > 1 else "base")
            follow = measured(model, [grounds.follow], place / f"{iteration}-follow", Progress())
            items = grounds.items[iteration - 1 :: self.iterations]
            candidates = curate(model, items, curation, place / f"{iteration}-candidates", Progress())
            place = self.out / f"seed-{seed}" / name
            diagnostics = emphasis.read_diagnostics(follow.folder)
            paired = pair_files.pair_up(candidates, (), how.pairs, diagnostics, rule, place / f"{iteration}-pairs")
            pairs = pair_files.read_pairs(paired.file)
            trained = train(model, model, pairs, training, place / f"{iteration}-training", Progress())
            model = zoo.load(str(trained), "cpu")
            found.append(measured(model, [self.judged], place / f"{iteration}-judged", Progress()).folder)
        return found


def judged_gap() -> Gap:
    scenes = miniature.homologous_scenes(JUDGED, "test")
    return Gap("gap-lab", items_of(scenes), judge("eye", "cpu"), "miniature world 1, test split", Exact(), (0, 1))


def averaged(estimates: Sequence[Resampled]) -> Resampled:
    """The mean over seeds, of the same resamples of the same scenes."""
    first = estimates[0]
    influence = np.mean([each.influence for each in estimates], axis=0)
    resamples = np.mean([each.resamples for each in estimates], axis=0)
    value = float(np.mean([each.value for each in estimates]))
    return Resampled(
        value, value, value, first.n, first.clusters, resamples, first.ids, influence, first.strata, first.bounds
    )


def row(name: str, base: Mapping[str, Resampled], seeds: Sequence[Mapping[str, Resampled]]) -> tuple[Row, dict]:
    figures, told = [], {}
    for measure in MEASURES:
        mean = averaged([each[measure] for each in seeds])
        moved = difference(mean, base[measure])
        values = [each[measure].value for each in seeds]
        told[measure] = {**_plain(moved), "after": mean.value, "seeds": values}
        figures += [Figure(mean.value), Figure(moved.value, moved.low, moved.high).interval]
    figures.append(" ".join(f"{each['gap'].value:.3f}" for each in seeds))
    return Row(name, tuple(figures)), told


def _plain(found: Difference) -> dict[str, float]:
    return {"difference": found.value, "low": found.low, "high": found.high, "p": found.p}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="show-o-mini", help="or janus-mini")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--items", type=int, default=recipes.ITEMS, help="of all iterations")
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="of each iteration")
    parser.add_argument("--judge", default="self", help="of drawings to train on: self, or eye")
    parser.add_argument("--only", choices=list(CONDITIONS), nargs="*", help="conditions; by default all")
    args = parser.parse_args()
    lab = Lab(args.out, args.model, args.items, args.iterations, args.steps, args.judge, judged_gap())
    base = measured(zoo.load(args.model, "cpu"), [lab.judged], args.out / "base", Progress())
    found = {
        name: [lab.condition(name, CONDITIONS[name], seed) for seed in range(args.seeds)]
        for name in args.only or CONDITIONS
    }
    report(base.folder, found, args.out)


def report(base: Path, found: Mapping[str, Sequence[Sequence[Path]]], out: Path) -> None:
    """Writes table5.md, table5.json and table5.png. found: condition -> seed -> iteration -> run."""
    task = "gap-lab"
    begun = runs.load(base).estimates(task)
    rows = [Row("base", (*(each for m in MEASURES for each in (Figure(begun[m].value), "")), ""))]
    told: dict[str, Any] = {"base": {m: begun[m].value for m in MEASURES}}
    means: dict[tuple[str, int], Resampled] = {}
    for name, seeds in found.items():
        for iteration in range(len(seeds[0])):
            estimates = [runs.load(seed[iteration]).estimates(task) for seed in seeds]
            line, what = row(f"{name}, iteration {iteration + 1}", begun, estimates)
            rows.append(line)
            told[line.label] = what
            means[name, iteration] = averaged([each["gap"] for each in estimates])
    columns = [each for m in MEASURES for each in (Column(m), Column("change, paired"))] + [Column("gap of each seed")]
    tables = [Table("Pair-DPO on the miniature, held-out scenes", "condition", columns, rows)]
    if {"Pair-DPO", "Pair-DPO, emphasis"} <= found.keys():
        versus = []
        for iteration in range(len(found["Pair-DPO"][0])):
            moved = difference(means["Pair-DPO, emphasis", iteration], means["Pair-DPO", iteration])
            told[f"emphasis - uniform, iteration {iteration + 1}"] = _plain(moved)
            figure = Figure(moved.value, moved.low, moved.high)
            versus.append(Row(f"iteration {iteration + 1}", (Figure(moved.value), figure.interval, f"{moved.p:.3f}")))
        columns = [Column("gap, emphasis - uniform"), Column("95 %, paired"), Column("p")]
        tables.append(Table("Does emphasis help?", "after", columns, versus))
    (out / "table5.md").write_text(markdown(tables), encoding="utf-8")
    (out / "table5.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(markdown(tables))
    draw(told, found, out / "table5.png")


def draw(told: Mapping[str, Any], found: Mapping[str, Sequence[Sequence[Path]]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4))
    for axis, measure in zip(axes, ("gap", "G"), strict=True):
        for number, (name, seeds) in enumerate(found.items()):
            lines = [told[f"{name}, iteration {k + 1}"][measure] for k in range(len(seeds[0]))]
            x = np.arange(len(lines) + 1.0)
            x[1:] += 0.06 * (number - (len(found) - 1) / 2)  # that intervals do not cover each other
            mean = [told["base"][measure], *(each["after"] for each in lines)]
            low, high = ([0.0, *(abs(each["difference"] - each[end]) for each in lines)] for end in ("low", "high"))
            axis.errorbar(x, mean, yerr=[low, high], marker="o", capsize=3, label=name)
        last = max(len(seeds[0]) for seeds in found.values())
        axis.set_xticks(range(last + 1), ["base", *map(str, range(1, last + 1))])
        axis.set_xlabel("iteration")
        axis.set_ylabel(measure)
        axis.grid(axis="y", alpha=0.3)
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main()
