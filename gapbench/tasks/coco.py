"""COCO captions drawn: FID and CLIP-Score, the zero-shot protocol of text-to-image papers.

Asked: a caption each of 30,000 COCO val2014 images, one drawing a caption.
Judged: by how well CLIP finds the drawing to fit its caption.
Averaged: CLIP-Score is the mean. FID compares all drawings' Inception features with those of real photographs, by the
distance of the two Gaussians fitted to them (Heusel et al. 2017). It is no mean, depends on the number of drawings, and
on the captions, the reference statistics and the resizing; so all of these are in the protocol.

Papers' numbers may be of checkpoints tuned on images like COCO's (Show-o's 9.24 is: its author's word); the released
ones give others under the same protocol.

Captions and reference statistics follow boomb0om/text2image-benchmark at 532229f.
"""

from __future__ import annotations

import base64
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gapbench import stats
from gapbench.data.pictures import UNREADABLE
from gapbench.data.sources import digest, given_folder
from gapbench.metrics import frechet
from gapbench.metrics.frechet import Gaussian, Moments
from gapbench.records import Estimate, Failure, InputError, Item, Judgement, Prompt, Record
from gapbench.skills import skills_of
from gapbench.tasks.base import Drawings, Options, Response

if TYPE_CHECKING:
    from PIL import Image

    from gapbench.judges.clip_score import Score

CAPTIONS = "MS-COCO_val2014_30k_captions.csv"
REFERENCE = "MS-COCO_val2014_fid_stats.npz"
RELEASE = "https://github.com/boomb0om/text2image-benchmark/releases/download/v0.0.1"
FEATURES_AT_ONCE = 256  # read back from the records
SUFFIXES = (".jpg", ".jpeg", ".png")


class Describes(Protocol):
    def describe(self) -> dict[str, Any]: ...


class Features(Describes, Protocol):
    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray: ...


class Fits(Describes, Protocol):
    def __call__(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Iterator[Score]: ...


@dataclass(frozen=True, slots=True)
class Caption:
    id: str
    text: str


# --- What is asked ----------------------------------------------------------------------------------------------------


def read_captions(path: Path, allow_partial: bool = False) -> list[Caption]:
    """image_id,text of each row. Raises InputError naming the row, and unless they are 30,000 or `allow_partial`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"image_id", "text"} <= set(reader.fieldnames or ()):
                raise InputError(f"{path}: no columns image_id and text; give {CAPTIONS} of {RELEASE}")
            found = [Caption(str(row["image_id"]), str(row["text"] or "").strip()) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); download {RELEASE}/{CAPTIONS}") from error
    seen: set[str] = set()
    for number, caption in enumerate(found, start=1):
        if not caption.text:
            raise InputError(f"{path}: row {number}: no text")
        if caption.id in seen:
            raise InputError(f"{path}: row {number}: image {caption.id} is there twice")
        seen.add(caption.id)
    if not allow_partial:
        frechet.require_coco_30k(len(found))
    return found


def reference(folder: Path, features: Features) -> tuple[Gaussian, str]:
    """The statistics of the real images, and their name: the .npz in `folder`, else of the images in its reference/,
    computed once and kept beside them.
    """
    files = sorted(folder.glob("*.npz"))
    if len(files) > 1:
        raise InputError(f"{folder}: {len(files)} .npz files; leave the reference statistics alone")
    if files:
        gaussian = frechet.read_npz(files[0])
        return gaussian, f"{files[0].name}, {digest([gaussian.mean.tolist(), gaussian.covariance.diagonal().tolist()])}"
    images = sorted(path for path in (folder / "reference").glob("*") if path.suffix.lower() in SUFFIXES)
    if not images:
        raise InputError(f"{folder}: no reference statistics; add {REFERENCE} of {RELEASE}, or images in reference/")
    told = digest([[path.name, path.stat().st_size] for path in images] + [features.describe()])
    kept = folder / "reference" / f".fid-{told}.npz"
    if not kept.exists():
        moments = _moments(features, [lambda path=path: _opened(path) for path in images])
        frechet.write_npz(kept, moments.gaussian())
    return frechet.read_npz(kept), f"{len(images)} images of reference/, {told}"


def _moments(features: Features, openers: Sequence[Callable[[], Image.Image]]) -> Moments:
    moments: Moments | None = None
    for start in range(0, len(openers), FEATURES_AT_ONCE):
        values = features([opener() for opener in openers[start : start + FEATURES_AT_ONCE]])
        moments = moments or Moments(values.shape[1])
        moments.add(values)
    if moments is None:
        raise ValueError("no images to compute statistics of")
    return moments


def _opened(path: Path) -> Image.Image:
    from PIL import Image

    try:
        image = Image.open(path)
        image.load()
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as an image ({error})") from error
    return image


# --- What is averaged over what ---------------------------------------------------------------------------------------


def packed(features: np.ndarray) -> str:
    """(d,) float32 as text: FID needs every drawing's features, and records are all that metrics read."""
    return base64.b64encode(np.asarray(features, dtype="<f4").tobytes()).decode()


def unpacked(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<f4")


def metrics(records: Sequence[Record], real: Gaussian) -> dict[str, Estimate]:
    """fid, clip_score (100 cos), truncated (share of captions longer than CLIP reads).

    FID's interval is of the delta method, and counts the reference as fixed. With no more drawings than features there
    is neither an interval nor a meaning to FID, and it is left out. A drawing that failed has no features: it is in no
    metric, and the count of failures says so.
    """
    moments = Moments(len(real.mean))
    scores, truncated, clusters = [], [], []
    for chunk in _chunks(records):
        moments.add(np.stack([unpacked(record.details["features"]) for record in chunk]))
        scores += [record.details["clip_score"] for record in chunk]
        truncated += [float(record.details["truncated"]) for record in chunk]
        clusters += [record.cluster for record in chunk]
    if not scores:
        return {}
    again = (np.stack([unpacked(record.details["features"]) for record in chunk]) for chunk in _chunks(records))
    fid = frechet.interval(moments, real, again, clusters)
    found = {} if fid is None else {"fid": fid}
    clip_score = stats.mean(scores, clusters, bounds=None)  # its ends, -100 and 100, are nowhere near any drawing
    return found | {"clip_score": clip_score, "truncated": stats.mean(truncated, clusters)}


def _chunks(records: Sequence[Record]) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    for record in records:
        if "features" in record.details:
            chunk.append(record)
        if len(chunk) == FEATURES_AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


# --- The task ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coco:
    """Captions to draw, and what the drawings are compared with."""

    name: str
    captions: Sequence[Caption]
    whole: int
    features: Features | None  # None in a task that only tells what it asks; and so the next two
    clip: Fits | None
    real: Gaussian | None
    told: Mapping[str, Any]
    seed: int = 0

    version = "1"
    side = "generation"
    parts = ("",)
    decoding = None

    def items(self, part: str, drawings: Drawings) -> list[Item]:
        skills = skills_of("coco", "caption")
        return [Item(c.id, c.id, skills, Prompt(c.id, c.text, self.seed), {"text": c.text}) for c in self.captions]

    def judge(self, items: Sequence[Item], responses: Sequence[Response]) -> list[Judgement]:
        drawn = [(item, image) for item, image in zip(items, responses, strict=True) if not isinstance(image, Failure)]
        images = [image for _, image in drawn]
        features = iter(self.features(images)) if images else iter(())
        fits = self.clip(images, [item.truth["text"] for item, _ in drawn])
        judgements = []
        for item, response in zip(items, responses, strict=True):
            if isinstance(response, Failure):
                judgements.append(Judgement(0.0, {"prompt": item.truth["text"]}))
                continue
            fit = next(fits)
            details = {"prompt": item.truth["text"], "clip_score": fit.value, "truncated": fit.truncated}
            score = min(1.0, max(0.0, fit.value / 100))
            judgements.append(Judgement(score, details | {"features": packed(next(features))}))
        return judgements

    def metrics(self, records: Sequence[Record]) -> dict[str, Estimate]:
        return metrics(records, self.real)

    def protocol(self) -> Mapping[str, Any]:
        return {**self.told, "first_seed": self.seed}


def real(options: Options) -> Coco:
    """The 30,000 captions; `options.judge` names how images are resized for Inception, see judges/resize.py.

    Inception's weights and CLIP may lie beside the captions, as inception.pth and clip-vit-base-patch32/.
    """
    place = given_folder("coco", options.data)
    folder = place.folder if place else Path()
    if place is None or not (folder / CAPTIONS).is_file():
        found = "" if place is None else f"{folder}: no {CAPTIONS} in it. "
        raise InputError(f"coco: {found}Give --data DIR with {CAPTIONS} and {REFERENCE} of {RELEASE}")
    captions = read_captions(folder / CAPTIONS, options.allow_partial)
    if not options.pictures:  # only what is asked
        return Coco("coco", captions, frechet.COCO_30K, None, None, None, {}, options.seed)
    from gapbench.judges.clip_score import DEFAULT, ClipScore
    from gapbench.judges.inception import Features as Inception

    weights = folder / "inception.pth"
    features = Inception(weights if weights.is_file() else None, options.judge or "torch-fidelity", options.device)
    own = folder / DEFAULT.rpartition("/")[2]
    clip = ClipScore(str(own) if own.is_dir() else DEFAULT, options.device)
    gaussian, name = reference(folder, features)
    told = _told(captions, name, features, clip)
    return Coco("coco", captions, frechet.COCO_30K, features, clip, gaussian, told, options.seed)


def _told(captions: Sequence[Caption], reference: str, features: Describes, clip: Describes) -> dict[str, Any]:
    rows = digest(sorted((caption.id, caption.text) for caption in captions))
    return {
        "captions": f"{len(captions)}; rows {rows}",
        "images_per_prompt": 1,
        "reference": reference,
        "fid": features.describe(),
        "clip": clip.describe(),
    }


def mini(options: Options) -> Coco:
    """Captions of the miniature world; its own small CLIP is both the judge and the features that FID compares."""
    from gapbench.judges.clip_score import ClipScore
    from gapbench.miniature import prompts
    from gapbench.miniature.networks import CLIP_MINI, ImageEmbeddings

    clip = ClipScore(str(CLIP_MINI), options.device)
    features = ImageEmbeddings(clip)
    captions = [Caption(scene.id, scene.caption) for scene in prompts.drawn_captions()]
    pictures = [picture.open for picture in prompts.real_pictures()]
    gaussian = _moments(features, pictures).gaussian()
    told = _told(captions, f"{len(pictures)} pictures of the miniature world", features, clip)
    return Coco("coco-mini", captions, len(captions), features, clip, gaussian, told, options.seed)
