"""Tasks of lm-evaluation-harness on the miniature world: YAML files, local JSON lines and pictures."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from gapbench.miniature.picture import render
from gapbench.miniature.world import random_scene

FUNCTIONS = """
import datasets
from PIL import Image


def images(doc):
    return [Image.open(doc["file"])]


def in_columns(file, **metadata):
    rows = datasets.load_dataset("json", data_files=file, split="train", cache_dir=f"{file}.cache")
    return {"test": rows.rename_column("file", "image").cast_column("image", datasets.Image())}


def pieces(doc, results):
    said = results[0].split()
    first = float(said[:1] == doc["answer"].split()[:1])
    return {"words": len(said), "first": first, "pair": (doc["answer"], said), "places": len(results[0])}


def share(pairs):
    return sum(len(set(said)) for _, said in pairs) / sum(len(answer) for answer, _ in pairs)


def lengths(references, predictions):
    return {"length@1": len(predictions[0]), "length@2": 2 * len(predictions[0])}


def places(lengths):
    return sum(place * length for place, length in enumerate(lengths))
"""
DATA = """
dataset_path: json
dataset_kwargs: {{data_files: {data}, cache_dir: {cache}}}
test_split: train
"""
YES_NO = """
doc_to_text: "<image>\\n{{question}} Answer yes or no."
doc_to_target: answer
"""
TASKS = {
    "choice": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: label
num_fewshot: 2
fewshot_split: train
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: acc_mutual_info, aggregation: mean, higher_is_better: true}
  - {metric: brier_score, aggregation: brier_score, higher_is_better: false}
""",
    "blanks": """
output_type: multiple_choice
doc_to_text: label
doc_to_choice: "{{['There is a ' ~ choices[0] ~ ' that', 'There is a ' ~ choices[1] ~ ' that']}}"
doc_to_target: "is left of {{choices[2]}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
    "pictured_choice": """
output_type: multiple_choice
doc_to_image: !function functions.images
doc_to_text: "<image>\\n{{question}}"
doc_to_choice: ["yes", "no"]
doc_to_target: label
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
    "rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} {{answer}}"
""",
    "continued": """
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{answer}}"
""",
    "pictured": """
output_type: generate_until
doc_to_image: !function functions.images
generation_kwargs: {until: ["."], max_gen_toks: 6}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
  - {metric: bleu, aggregation: bleu, higher_is_better: true}
"""
    + YES_NO,
    "columns": """
custom_dataset: !function functions.in_columns
test_split: test
output_type: generate_until
doc_to_image: image
generation_kwargs: {until: ["."], max_gen_toks: 6}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
"""
    + YES_NO,
    "listed": """
custom_dataset: !function functions.in_columns
test_split: test
output_type: generate_until
doc_to_image: [image, image]
generation_kwargs: {until: ["."], max_gen_toks: 6}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
"""
    + YES_NO,
    "sampled": """
output_type: generate_until
doc_to_image: !function functions.images
generation_kwargs: {until: [" e"], max_gen_toks: 12, do_sample: true, temperature: 1.5, top_k: 40}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
  - {metric: bleu, aggregation: bleu, higher_is_better: true}
  - {metric: !function functions.lengths, aggregation: median, higher_is_better: false}
filter_list:
  - {name: whole, filter: [{function: take_first}]}
  - {name: word, filter: [{function: regex, regex_pattern: "([a-z]+)"}, {function: take_first}]}
"""
    + YES_NO,
    "pieces": """
output_type: generate_until
doc_to_image: !function functions.images
generation_kwargs: {until: [], max_gen_toks: 5}
process_results: !function functions.pieces
metric_list:
  - {metric: words, aggregation: median, higher_is_better: false}
  - {metric: first, aggregation: mean, higher_is_better: true}
  - {metric: pair, aggregation: !function functions.share, higher_is_better: true}
  - {metric: places, aggregation: !function functions.places, higher_is_better: false}
"""
    + YES_NO,
}
WORDS = ("red circle", "blue star", "green heart", "orange cross", "purple square")


def write_tasks(
    folder: Path, answers: Sequence[str] = ("yes", "no"), documents: int = 24, pictures: int = 6
) -> dict[str, Path]:
    """The tasks' files by name; the documents of each picture do not stand together, and the answers come in turn."""
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    scenes = [random_scene(rng) for _ in range(pictures)]
    for number, scene in enumerate(scenes):
        render(scene).save(folder / f"{number}.png")
    rows = []
    for number in range(documents):
        choices = rng.sample(WORDS, 3)
        rows.append(
            {
                "question": f"Is there a {choices[0]} in the image?",
                "answer": answers[number % len(answers)],
                "choices": choices,
                "label": rng.randrange(2),
                "file": str(folder / f"{number % pictures}.png"),
            }
        )
    return write_files(folder, rows)


def write_files(folder: Path, rows: list[dict[str, object]]) -> dict[str, Path]:
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "functions.py").write_text(FUNCTIONS)
    paths = {}
    for name, text in TASKS.items():
        source = DATA.format(data=json.dumps(str(data)), cache=json.dumps(f"{data}.cache"))
        if "custom_dataset" in text:
            source = f"dataset_kwargs: {{file: {json.dumps(str(data))}}}\n"
        paths[name] = folder / f"{name}.yaml"
        paths[name].write_text(f"task: {name}\n{source}{text}metadata: {{version: 1.0}}\n")
    return paths


def write_hub_copies(folder: Path) -> None:
    """What lm-eval's own arc_easy, chartqa and mmmu_val_accounting read, in folders named as on the hub."""
    from datasets import Dataset, Features, Image, List, Value

    rng = random.Random(0)
    pictures = [render(random_scene(rng)) for _ in range(6)]

    def questions() -> list[dict[str, object]]:
        rows = []
        for number in range(24):
            choices = rng.sample(WORDS, 4)
            shape = choices[number % 4].split()[1]
            rows.append({"shape": shape, "choices": choices, "answer": "ABCD"[number % 4]})
        return rows

    arc = [
        {
            "question": f"Which of these is a {row['shape']}?",
            "choices": {"text": row["choices"], "label": list("ABCD")},
            "answerKey": row["answer"],
        }
        for row in questions()
    ]
    chart = [
        {"image": pictures[number % 6], "query": f"Is there a {row['shape']}?", "label": [("yes", "no")[number % 2]]}
        for number, row in enumerate(questions())
    ]
    mmmu = []
    for number, row in enumerate(questions()):
        several, letters = number % 3 == 0, number % 4 > 0
        shown = "<image 1> <image 2>" if several else "<image 1>"
        asked = "what is in the image?" if letters else "how many circles are in the image?"
        mmmu.append(
            {
                "question": f"{shown} {asked}",
                "options": str(row["choices"] if letters else []),
                "answer": row["answer"] if letters else "1",
                "question_type": "multiple-choice" if letters else "open",
                "image_1": pictures[number % 6],
                "image_2": pictures[(number + 1) % 6] if several else None,
            }
        )
    image, text = Image(), Value("string")
    features = {
        "chart": {"image": image, "query": text, "label": List(text)},
        "mmmu": {name: image if name.startswith("image") else text for name in mmmu[0]},
    }
    for name, config, splits, rows, columns in (
        ("allenai/ai2_arc", "ARC-Easy", ("train", "validation", "test"), arc, None),
        ("HuggingFaceM4/ChartQA", "default", ("test",), chart, features["chart"]),
        ("MMMU/MMMU", "Accounting", ("validation",), mmmu, features["mmmu"]),
    ):
        place = folder / name
        place.mkdir(parents=True)
        Dataset.from_list(rows, features=Features(columns) if columns else None).to_parquet(place / "rows.parquet")
        files = "".join(f"  - {{split: {split}, path: rows.parquet}}\n" for split in splits)
        (place / "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n")
