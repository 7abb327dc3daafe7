"""How long it takes to read what two runs found: report, diagnostics, comparison, and the bootstrap alone.

    uv run python -m benchmarks.reporting                      # some 20,000 records a run; a minute on two cores
    uv run python -m benchmarks.reporting --items 2000

Two runs of made-up models over items in the sizes of POPE, GenEval, DPG-Bench and a gap task: records, results and
drawings are written as `gapbench run` writes them, then each command runs as a process of its own, as a user starts it.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from gapbench import recount, stats
from gapbench.records import Record
from gapbench.store import RunFolder, write_json
from gapbench.tasks import geneval, pope

GRAPH = [
    [1, "entity - whole", []],
    [2, "attribute - color", [1]],
    [3, "relation - spatial", [1]],
    [4, "other - count", []],
]
SKILLS = ("object", "count", "color", "position", "binding", "scene")
QUESTIONS = 9  # a homologous item
SIDES = {"pope": "understanding", "geneval": "generation", "dpg": "generation", "gap": "both"}


def pope_records(images: int, rng: np.random.Generator) -> Iterator[Record]:
    for image in range(images):
        for question in range(18):
            split, label = pope.SPLITS[question // 6], ("yes", "no")[question % 2]
            said = label if rng.random() < 0.85 else ("no", "yes")[question % 2]
            details = {"said": said, "label": label, "split": split}
            name = f"{split}/{image * 6 + question % 6}"
            yield Record("pope", name, f"image {image}", ("object",), 0, said, float(said == label), details)


def geneval_records(prompts: int, rng: np.random.Generator) -> Iterator[Record]:
    for prompt in range(prompts):
        tag, easy = geneval.TAGS[prompt % 6], rng.random()
        for seed in range(4):
            details = {"tag": tag, "prompt": f"a photo of thing {prompt}", "missing": []}
            right = float(rng.random() < easy)
            yield Record("geneval", f"{prompt:05d}", f"{prompt:05d}", ("object",), seed, "", right, details)


def dpg_records(prompts: int, rng: np.random.Generator) -> Iterator[Record]:
    for prompt in range(prompts):
        for seed in range(4):
            yes = [int(rng.random() < 0.7) for _ in GRAPH]
            details = {"prompt": f"many things {prompt}", "graph": GRAPH, "skipped": 0, "yes": yes}
            details["answers"] = ["yes" if value else "no" for value in yes]
            yield Record("dpg", str(prompt), str(prompt), ("object",), seed, "", float(np.mean(yes)), details)


def gap_records(items: int, rng: np.random.Generator) -> Iterator[Record]:
    for item in range(items):
        name = f"item-{item}"
        for number in range(QUESTIONS):
            right = bool(rng.random() < 0.8)
            details = {
                "question": f"Is there thing {number}?",
                "answer": "yes",
                "judge": {"said": "yes", "right": True},
            }
            said = "yes" if right else "no"
            skill = (SKILLS[number % len(SKILLS)],)
            yield Record("gap", f"{name}/{number}", name, skill, 0, said, float(right), details, "real")
        drawn = [bool(rng.random() < 0.5) for _ in range(QUESTIONS)]
        verdicts = [{"said": "yes" if right else "no", "right": right} for right in drawn]
        details = {"prompt": f"a picture of things {item}", "questions": verdicts}
        path = f"images/gap/{name}/0.png"
        yield Record("gap", name, name, SKILLS, 0, path, float(np.mean(drawn)), details, "drawn")
        for number in range(QUESTIONS):
            right = bool(rng.random() < 0.6)
            skill = (SKILLS[number % len(SKILLS)],)
            said = "yes" if right else "no"
            yield Record("gap", f"{name}/{number}@0", name, skill, 0, said, float(right), {"answer": "yes"}, "own")


def write_run(path: Path, records: int, seed: int) -> int:
    """A finished run; how many records it has."""
    rng = np.random.default_rng(seed)
    made = {
        "pope": list(pope_records(records // 45, rng)),
        "geneval": list(geneval_records(records // 36, rng)),
        "dpg": list(dpg_records(records // 19, rng)),
        "gap": list(gap_records(records // 72, rng)),
    }
    folder = RunFolder(path)
    told = {}
    for task, found in made.items():
        folder.append(task, found)
        count, metrics = len(found), recount.metrics_of(task, path)(found)
        told[task] = {"side": SIDES[task], "protocol": {"task": task}, "fingerprint": "0" * 12, "failed": 0}
        told[task] |= {"expected": count, "asked": count, "done": count, "unjudged": 0}
        told[task]["metrics"] = {name: dataclasses.asdict(e) for name, e in metrics.items()}
    for record in made["gap"]:
        if record.part == "drawn":
            image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((256, 256))
            folder.save_image("gap", record.item, 0, image)
    name = f"model {seed}"
    write_json(path / "results.json", {"schema": 1, "model": name, "weights": None, "tasks": told})
    folder.write_manifest({"schema": 1, "status": "complete", "request": {"model": {"name": name}}, "packages": {}})
    return sum(map(len, made.values()))


def seconds(*command: object) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "gapbench.cli", *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000, help="records a run")
    options = parser.parse_args()
    print(f"{platform.machine()}, numpy {np.__version__}")
    rng = np.random.default_rng(0)
    for clusters in (1_000, 10_000):
        scores = rng.random(5 * clusters).round()
        started = time.perf_counter()
        stats.mean(scores, np.repeat(np.arange(clusters), 5).tolist())
        print(f"{stats.RESAMPLES} resamples of {clusters:6} clusters: {time.perf_counter() - started:6.2f} s")
    with tempfile.TemporaryDirectory() as root:
        first, second = Path(root) / "first", Path(root) / "second"
        count = write_run(first, options.items, 1)
        write_run(second, options.items, 2)
        print(f"{count} records a run; seconds of a whole process")
        for name, command in {
            "gap --json (diagnostics)": ("gap", first, "--json"),
            "report, one run, Markdown": ("report", first),
            "report, two runs, LaTeX": ("report", first, second, "--format", "latex"),
            "report, two runs, HTML": ("report", first, second, "--format", "html"),
            "compare": ("compare", first, second),
            "report --bundle": ("report", first, "--bundle", Path(root) / "first.zip"),
            "report of the bundle": ("report", Path(root) / "first.zip"),
        }.items():
            print(f"{name:28} {seconds(*command):6.2f}", flush=True)


if __name__ == "__main__":
    main()
