"""Flickr30k: say in one sentence what a photograph shows (Young et al., TACL 2014)

Asked: a caption of each of 31,783 photographs, the whole corpus, as lmms-eval's `flickr30k_test` does, and so Show-o's
numbers; or of the 1,000 that Karpathy and Fei-Fei set apart for testing (`flickr30k-karpathy`).
Judged: against the five captions that people wrote, over the words of the Penn Treebank tokeniser.
Averaged: CIDEr over images, BLEU over the set, ROUGE-L over images. CIDEr weighs words by how many of the evaluated
images have them in their captions, so its value belongs to one set of images: those of 31,783, of 1,000 and of the
first hundred do not compare, and that of a single image is 0.

Prompt and metrics follow lmms-eval 75571cf and pycocoevalcap 1.2. CIDEr is given times 100, as papers print it, BLEU
and ROUGE-L in [0, 1].
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gapbench import stats
from gapbench.data import sources
from gapbench.data.parquet import Table, shards
from gapbench.data.pictures import file_picture, image_folder, present
from gapbench.data.sources import check_count, digest
from gapbench.metrics import bleu, ptb
from gapbench.metrics.cider import cider
from gapbench.metrics.rouge import rouge_l
from gapbench.records import Decoding, InputError, Item, Judgement, Picture, Question, Record
from gapbench.responses import few, read_text
from gapbench.skills import skills_of
from gapbench.tasks.base import Options, QuestionTask, Response

PROMPT = "Provide a one-sentence caption for the provided image."
IMAGES = 31_783
KARPATHY_IMAGES = 1_000
CAPTIONS = 5  # an image
TOKEN_FILE = "results_20130124.token"
KARPATHY_FILE = "dataset_flickr30k.json"


# --- What is asked ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """An image, named as its file without .jpg, and its captions; `number` is the other id that the data give it."""

    id: str
    captions: tuple[str, ...]
    number: str = ""


@dataclass(frozen=True, slots=True)
class Annotations:
    """Items in the order of the data, how many the complete set has, the images' other ids, and a name for reports."""

    items: tuple[Item, ...]
    whole: int
    id_of: Mapping[str, str]
    data: str


def read(folder: Path, pictures: bool = True, allow_partial: bool = False) -> Annotations:
    """Read all of Flickr30k: the hub's parquet files, or results_20130124.token and the images.

    With `pictures` all images must be there, unless `allow_partial`. Raises InputError, one line that names file and
    row, for files that are not the official ones.
    """
    folder = Path(folder)
    if files := shards(folder, "test"):
        table = Table(files)
        rows, where = list(_table_rows(table)), table.name
        check_count(where, "images", len(rows), IMAGES, allow_partial)
        opened = [table.picture(number, key_of(row)) for number, row in enumerate(rows)]
    else:
        rows, where = _token_rows(folder / TOKEN_FILE), str(folder / TOKEN_FILE)
        check_count(where, "images", len(rows), IMAGES, allow_partial)
        rows, opened = _with_files(folder, rows, pictures, allow_partial)
    return _annotations(where, rows, opened, IMAGES, "whole corpus")


def read_karpathy(folder: Path, pictures: bool = True, allow_partial: bool = False) -> Annotations:
    """Read the test split of dataset_flickr30k.json, whose images are files or those of the hub's parquet files."""
    folder = Path(folder)
    file = folder / KARPATHY_FILE
    rows = _karpathy_rows(file)
    check_count(file, "images of split test", len(rows), KARPATHY_IMAGES, allow_partial)
    if pictures and (files := shards(folder, "test")):
        table = Table(files)
        at = {row.id: number for number, row in enumerate(_table_rows(table))}
        missing = [row.id for row in rows if row.id not in at]
        if len(missing) == len(rows) or (missing and not allow_partial):
            how = "" if len(missing) == len(rows) else ", or measure what is there with --allow-partial"
            raise InputError(
                f"{table.name}: {len(missing)} of {len(rows)} images are missing ({few(missing)}); add them{how}"
            )
        rows = sorted((row for row in rows if row.id in at), key=lambda row: at[row.id])
        opened = [table.picture(at[row.id], key_of(row)) for row in rows]
    else:
        rows, opened = _with_files(folder, rows, pictures, allow_partial)
    return _annotations(str(file), rows, opened, KARPATHY_IMAGES, "Karpathy's test split")


def key_of(row: Row) -> str:
    """Of its picture: another benchmark's images have such numbers too."""
    return f"flickr30k/{row.id}"


def _with_files(
    folder: Path, rows: Sequence[Row], pictures: bool, allow_partial: bool
) -> tuple[list[Row], list[Picture]]:
    images = image_folder(folder, ("flickr30k-images", "flickr30k_images", "images"))
    if pictures:
        there = present(images, (f"{row.id}.jpg" for row in rows), allow_partial)
        rows = [row for row in rows if f"{row.id}.jpg" in there]
    return list(rows), [file_picture(images / f"{row.id}.jpg", key_of(row)) for row in rows]


def _annotations(where: str, rows: list[Row], opened: list[Picture], whole: int, name: str) -> Annotations:
    id_of = {row.number: row.id for row in rows if row.number}
    if id_of and len(id_of) < len(rows):
        raise InputError(f"{where}: {len(rows)} images have {len(id_of)} numbers; download it again")
    told = f"{name}, {len(rows)} images; rows {digest(sorted(astuple(row)[:2] for row in rows))}"
    items = tuple(item_of(row, picture) for row, picture in zip(rows, opened, strict=True))
    return Annotations(items, whole, id_of, told)


def item_of(row: Row, picture: Picture) -> Item:
    ask = Question(row.id, PROMPT, (picture,))
    return Item(row.id, row.id, skills_of("flickr30k", "caption"), ask, {"references": row.captions})


def _row(where: str, filename: Any, captions: Any, number: Any, seen: set[str]) -> Row:
    if not isinstance(filename, str) or not filename.endswith(".jpg"):
        raise InputError(f"{where}: filename {filename!r}, not that of a .jpg file")
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise InputError(f"{where}: the captions of {filename} are not a list of texts")
    if len(captions) != CAPTIONS:
        raise InputError(f"{where}: {filename} has {len(captions)} captions, not {CAPTIONS}")
    row = Row(filename.removesuffix(".jpg"), tuple(captions), str(number))
    if row.id in seen:
        raise InputError(f"{where}: {filename} is there twice")
    seen.add(row.id)
    return row


def _table_rows(table: Table) -> Iterator[Row]:
    """The rows of the hub's data set (lmms-eval's)."""
    seen: set[str] = set()
    for position, found in enumerate(table.rows(("filename", "caption", "img_id"))):
        yield _row(f"{table.name}: row {position}", found["filename"], found["caption"], found["img_id"], seen)


def _token_rows(path: Path) -> list[Row]:
    """The benchmark's own file: lines of FILE.jpg#0 to #4, a tab, and a caption, in which a tab is no end."""
    if not path.is_file():
        more = f"; {KARPATHY_FILE} lacks 769 images" if (path.parent / KARPATHY_FILE).is_file() else ""
        raise InputError(f"{path.parent}: neither {TOKEN_FILE} nor data/test-*.parquet in this folder{more}")
    captions: dict[str, list[str]] = {}
    # Split on "\n" alone: captions may hold the other separators that str.splitlines knows.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"([^\t]+\.jpg)#(\d+)\t(.*)", line.removesuffix("\r"))
        if match is None:
            raise InputError(f"{path}:{number}: not FILE.jpg#0, a tab and a caption; download it again")
        of_image = captions.setdefault(match[1], [])
        if int(match[2]) != len(of_image):
            fault = "is there twice" if int(match[2]) < len(of_image) else f"where #{len(of_image)} is due"
            raise InputError(f"{path}:{number}: {match[1]}#{match[2]} {fault}")
        of_image.append(match[3])
    seen: set[str] = set()
    return [_row(str(path), filename, of_image, "", seen) for filename, of_image in captions.items()]


def _karpathy_rows(path: Path) -> list[Row]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; put Karpathy's split beside the images or the hub's data/, see --data")
    text = read_text(path)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); download it again") from error
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise InputError(f"{path}: no list of images in it; give Karpathy's {KARPATHY_FILE}")
    rows, seen = [], set()
    for position, image in enumerate(images):
        if image.get("split") not in ("train", "val", "test"):
            raise InputError(f"{path}: image {position}: split {image.get('split')!r}, not train, val or test")
        if image["split"] == "test":
            said = image.get("sentences") if isinstance(image.get("sentences"), list) else [None]
            captions = [sentence.get("raw") if isinstance(sentence, dict) else None for sentence in said]
            number = image.get("imgid", "")
            rows.append(_row(f"{path}: image {position}", image.get("filename"), captions, number, seen))
    return rows


# --- How it is judged -------------------------------------------------------------------------------------------------


def words(caption: str, variant: str = "official") -> str:
    """The words of a caption, a space between them: of the Penn Treebank tokeniser, or as VLMEvalKit leaves them."""
    return caption if variant == "vlmevalkit" else " ".join(ptb.tokenize(caption))


def judgement(said: str, references: Sequence[str]) -> Judgement:
    """ROUGE-L, the one of the metrics that a single image has. All of them need only the details."""
    score = rouge_l(said.split(" "), [reference.split(" ") for reference in references])
    return Judgement(score, {"said": said, "references": list(references)})


def judge_item(item: Item, response: Response, variant: str = "official") -> Judgement:
    references = [words(reference, variant) for reference in item.truth["references"]]
    if not isinstance(response, str):
        return Judgement(0.0, {"said": "", "references": references})
    return judgement(words(response, variant), references)


# --- What is averaged over what ---------------------------------------------------------------------------------------

METRICS = ("cider", "bleu_4", "rouge_l", "bleu_1", "bleu_2", "bleu_3")


def metrics(records: Sequence[Record]) -> dict[str, stats.Resampled]:
    """METRICS of the records' images. Intervals resample images, their document frequencies held fixed."""
    records = [record for record in records if record.score is not None]
    if not records:
        raise ValueError("no Flickr30k records to compute metrics from")
    said = {n: record.details["said"].split(" ") for n, record in enumerate(records)}
    references = {n: [text.split(" ") for text in record.details["references"]] for n, record in enumerate(records)}
    per_image = cider(said, references).per_image
    # Per image: what its CIDEr and its ROUGE-L add to the sums, 1 for itself, and what it adds to BLEU.
    contributions = np.array(
        [
            [100 * per_image[n], record.score, 1, *bleu.statistics(said[n], references[n])]
            for n, record in enumerate(records)
        ]
    )

    def of_sums(sums: np.ndarray) -> np.ndarray:
        """(resamples, sums) -> (resamples, metrics)."""
        cider_sum, rouge_sum, images = np.moveaxis(sums[..., :3], -1, 0)
        bleu_1, bleu_2, bleu_3, bleu_4 = np.moveaxis(bleu.bleu(sums[..., 3:]), -1, 0)
        return np.stack([cider_sum / images, bleu_4, rouge_sum / images, bleu_1, bleu_2, bleu_3], axis=-1)

    everything = np.ones(len(records), dtype=bool)
    clusters = [record.cluster for record in records]
    counted, bounds = dict.fromkeys(METRICS, everything), {"cider": (0.0, 1000.0)}
    return stats.estimates(contributions, clusters, of_sums, counted, bounds=bounds)


# --- The task ---------------------------------------------------------------------------------------------------------


def task(name: str, annotations: Annotations) -> QuestionTask:
    told = {
        "data": annotations.data,
        "prompt": PROMPT,
        "scoring": "official; Penn Treebank words, CIDEr-D times 100",
        "document frequencies": f"of the evaluated images' captions; N = {len(annotations.items)} where all are asked",
    }
    decoding = Decoding(max_new_tokens=64)
    return QuestionTask(name, "1", annotations.items, annotations.whole, decoding, judge_item, metrics, told)


def real(options: Options) -> QuestionTask:
    folder = sources.find("flickr30k", options.data).folder
    return task("flickr30k", read(folder, options.pictures, options.allow_partial))


def karpathy(options: Options) -> QuestionTask:
    folder = sources.find("flickr30k-karpathy", options.data).folder
    return task("flickr30k-karpathy", read_karpathy(folder, options.pictures, options.allow_partial))


def mini(options: Options) -> QuestionTask:
    """Captions of the miniature world's scenes."""
    from gapbench.miniature import benchmarks

    items = tuple(item_of(Row(scene.id, scene.captions), scene.picture) for scene in benchmarks.captioned_scenes())
    return task("flickr30k-mini", Annotations(items, len(items), {}, benchmarks.DATA))
