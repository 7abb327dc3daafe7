"""Where the benchmarks' data come from, and the order in which they are looked up.

A folder of the user's (`--data DIR` or GAPBENCH_DATA), then the hub's cache, then the hub. A folder may hold the hub's
parquet files or the benchmark's own; either way the same items come out of it, and `digest` says so.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gapbench import hub
from gapbench.records import InputError

VARIABLE = "GAPBENCH_DATA"


@dataclass(frozen=True, slots=True)
class Source:
    """One benchmark's data: `files` are the patterns wanted of the hub's data set `repo`.

    `own` names the benchmark's own files, which will do as well.
    """

    name: str
    repo: str
    files: tuple[str, ...]
    own: str
    licence: str
    revision: str = "main"

    @property
    def advice(self) -> str:
        return f"Give --data DIR (or {VARIABLE}) with these parquet files or with {self.own}"


# What lmms-eval reads was moved from lmms-lab to lmms-lab-encoder in July 2026, its commits with it. All are pinned but
# Flickr30k, of which no commit could be learnt; counts and digests tell other data apart.
SOURCES = {
    source.name: source
    for source in (
        Source(
            "pope",
            "lmms-lab-encoder/POPE",
            ("data/test-*.parquet",),
            "coco_pope_{random,popular,adversarial}.json and val2014/",
            "MIT (questions); COCO images under Flickr's terms",
            "4db1276663dfa5eb8ad16a52d24c31a09e470896",
        ),
        Source(
            "mme",
            "lmms-lab-encoder/MME",
            ("data/test-*.parquet",),
            "MME_Benchmark_release_version/ (a folder a subtask)",
            "research only, no redistribution",
            "d6c9023f017b564f7b3ccccf5348166bce8fdbcd",
        ),
        Source(
            "gqa",
            "lmms-lab-encoder/GQA",
            ("testdev_balanced_instructions/testdev-*.parquet", "testdev_balanced_images/testdev-*.parquet"),
            "testdev_balanced_questions.json and images/",
            "not stated; images of Visual Genome",
            "a6e72d6e1b912da88af8b2f9eba05d5ea8ec2dd8",
        ),
        Source(
            "vqav2",
            "lmms-lab-encoder/VQAv2",
            ("data/validation-*.parquet",),
            "v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json and val2014/",
            "CC BY 4.0 (annotations); COCO images under Flickr's terms",
            "32665d35052eb4a6d4414851c3c829a72754915a",
        ),
        Source(
            "vqav2-testdev",
            "lmms-lab-encoder/VQAv2",
            ("data/testdev-*.parquet",),
            "v2_OpenEnded_mscoco_test-dev2015_questions.json and test2015/",
            "CC BY 4.0 (questions); COCO images under Flickr's terms",
            "32665d35052eb4a6d4414851c3c829a72754915a",
        ),
        Source(
            "vqav2-test",
            "lmms-lab-encoder/VQAv2",
            ("data/test-*.parquet",),
            "v2_OpenEnded_mscoco_test2015_questions.json and test2015/",
            "CC BY 4.0 (questions); COCO images under Flickr's terms",
            "32665d35052eb4a6d4414851c3c829a72754915a",
        ),
        Source(
            "flickr30k",
            "lmms-lab-encoder/flickr30k",
            ("data/test-*.parquet",),
            "results_20130124.token and flickr30k-images/ (with dataset_flickr30k.json for Karpathy's split)",
            "non-commercial research and education",
        ),
        Source(
            "mmmu",
            "MMMU/MMMU",
            ("*/validation-*.parquet",),
            "the 30 subjects' parquet files, in a folder each or merged",
            "Apache-2.0",
            "98e6ac0cb9b7b2cd2c991b85a50762edc4aedc68",
        ),
    )
}


# Data that are no data set of the hub: what to put into the folder of the task's name.
ELSEWHERE = {
    "gap": "homologous.jsonl and its images, or JourneyDB as its authors lay it out: valid/valid_anno_repath.jsonl (or "
    ".jsonl.tgz) and valid/imgs/, unpacked (hub data set JourneyDB/JourneyDB; non-commercial research)",
    "dpg": "dpg_bench.csv, fetched where it is missing (TencentQQGYLab/ELLA, Apache-2.0); mplug/ for its judge",
    "coco": "MS-COCO_val2014_30k_captions.csv and MS-COCO_val2014_fid_stats.npz (boomb0om/text2image-benchmark, "
    "release v0.0.1; MIT, captions CC BY 4.0), or one's own reference images in reference/",
}


def reads_data(task: str) -> bool:
    return task in ELSEWHERE or source_of(task) is not None


def source_of(task: str) -> Source | None:
    """The data of a task by its name: its own, or, as for flickr30k-karpathy, those that it takes a part of."""
    return SOURCES.get(task) or (None if task.endswith("-mini") else SOURCES.get(task.partition("-")[0]))


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with data, and why it is this one, in words."""

    folder: Path
    why: str


def given_folder(name: str, data: Path | None) -> Place | None:
    """The user's folder for this task: DIR/NAME where there is one, else DIR itself; None where none is given.

    Raises InputError where the folder does not exist.
    """
    why = "--data"
    if data is None:
        if not os.environ.get(VARIABLE):
            return None
        data, why = Path(os.environ[VARIABLE]), VARIABLE
    if not data.exists():
        raise InputError(f"{why} {data}: no such file or folder")
    for own in (data / name, data / name.partition("-")[0]):
        if own.is_dir():
            return Place(own, why)
    return Place(data, why)


def cached(source: Source) -> Place | None:
    folder = hub.cached_dataset(source.repo, source.revision, source.files)
    return Place(folder, f"cache of {source.repo}") if folder else None


def find(name: str, data: Path | None, fetch: bool = True) -> Place:
    """The data of the task `name`: the user's folder, else the cache, else (`fetch`) the hub.

    Raises InputError, one line that says what to do, where there are none.
    """
    source = source_of(name)
    place = given_folder(name, data) or cached(source)
    if place is not None:
        return place
    if not fetch:
        raise InputError(f"{name}: no data here. {source.advice}, or fetch them with `gapbench data fetch {name}`")
    folder = hub.fetch_dataset(source.repo, source.revision, source.files, source.advice)
    return Place(folder, f"hub {source.repo}")


def digest(rows: Iterable[Any]) -> str:
    """Short name of what is asked and of its golds: equal for equal rows (of JSON values), wherever they lay."""
    sha = hashlib.sha256()
    for row in rows:
        sha.update(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    return sha.hexdigest()[:16]


def check_count(where: object, what: str, found: int, official: int, allow_partial: bool) -> None:
    """Raises InputError where the count is not the official one, unless a part of the data was asked for."""
    if found == 0:
        raise InputError(f"{where}: no {what} in it")
    if found > official or (found < official and not allow_partial):
        how = "" if found > official else ", or measure what is there with `gapbench run --allow-partial`"
        raise InputError(f"{where}: {found} {what}, the official data have {official}; download them again{how}")
