"""COCO captions drawn: FID and CLIP-Score from records alone, whatever the order, and the faults of its files."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gapbench.judges.clip_score import Score
from gapbench.metrics import frechet
from gapbench.metrics.frechet import Gaussian, Moments
from gapbench.records import Failure, InputError, Record
from gapbench.tasks import coco
from gapbench.tasks.base import Options
from gapbench.tasks.coco import Caption, Coco, read_captions, reference

DIMENSIONS = 6


class Judge:
    """Features and scores made of an image's pixels."""

    def describe(self) -> dict[str, Any]:
        return {"judge": "pixels"}

    def __call__(self, images: Sequence[Image.Image], texts: Sequence[str] | None = None) -> Any:
        if texts is not None:
            return (Score(20.0 + len(text), len(text) > 7) for text in texts)
        return np.stack([np.asarray(image, dtype=np.float32).reshape(-1)[:DIMENSIONS] / 9 for image in images])


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def real() -> Gaussian:
    moments = Moments(DIMENSIONS)
    moments.add(Judge()([picture(seed) for seed in range(1000, 1100)]))
    return moments.gaussian()


def task(real: Gaussian, count: int = 40) -> Coco:
    captions = [Caption(str(number), "a" * (number % 10 + 1)) for number in range(count)]
    return Coco("coco", captions, 30_000, Judge(), Judge(), real, {})


def records_of(task: Coco, fails: int = -1) -> list[Record]:
    items = task.items("", lambda item, seed: None)
    drawn = [Failure("no ink") if n == fails else picture(n) for n in range(len(items))]
    return [
        Record("coco", item.id, item.cluster, item.skills, 0, "", judged.score, dict(judged.details))
        for item, judged in zip(items, task.judge(items, drawn), strict=True)
    ]


def test_numbers_are_those_of_the_plain_formulas(real: Gaussian) -> None:
    found = task(real).metrics(records_of(task(real)))
    moments = Moments(DIMENSIONS)
    moments.add(Judge()([picture(seed) for seed in range(40)]))
    assert found["fid"].value == pytest.approx(frechet.frechet_distance(moments.gaussian(), real), rel=1e-9)
    assert found["fid"].low < found["fid"].value < found["fid"].high
    assert found["clip_score"].value == pytest.approx(20 + np.mean([n % 10 + 1 for n in range(40)]))
    assert found["truncated"].value == 0.3
    assert {e.n for e in found.values()} == {40}


def test_chunks_change_nothing(real: Gaussian, monkeypatch: pytest.MonkeyPatch) -> None:
    records = records_of(task(real))
    whole = task(real).metrics(records)
    monkeypatch.setattr(coco, "FEATURES_AT_ONCE", 7)
    parts = task(real).metrics(records)
    assert {name: e.value for name, e in parts.items()} == pytest.approx(
        {n: e.value for n, e in whole.items()}, rel=1e-9
    )


def test_features_survive_as_text() -> None:
    values = np.random.default_rng(0).standard_normal(2048).astype(np.float32)
    assert (coco.unpacked(coco.packed(values)) == values).all()


def test_a_failed_drawing_is_in_no_metric_and_few_have_no_fid(real: Gaussian) -> None:
    records = records_of(task(real), fails=3)
    assert records[3].score == 0.0
    assert task(real).metrics(records)["fid"].n == 39
    few = task(real).metrics(records[:DIMENSIONS])
    assert set(few) == {"clip_score", "truncated"}


# --- Data -------------------------------------------------------------------------------------------------------------


def write(folder: Path, lines: Sequence[str]) -> Path:
    (folder / coco.CAPTIONS).write_bytes(("\ufeff" + "\r\n".join(["image_id,text", *lines, ""])).encode())
    return folder / coco.CAPTIONS


def test_captions(tmp_path: Path) -> None:
    file = write(tmp_path, ['42,"A cat, asleep"', "7,A caf\u00e9\u2028by night"])
    assert read_captions(file, allow_partial=True) == [
        Caption("42", "A cat, asleep"),
        Caption("7", "A caf\u00e9\u2028by night"),
    ]
    with pytest.raises(InputError, match="COCO-30K is a FID of 30,000 images, not of 2"):
        read_captions(file)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["42,a cat", "42,a dog"], "row 2: image 42 is there twice"),
        (["42,a cat", "43, "], "row 2: no text"),
        (["42"], "row 1: no text"),
    ],
)
def test_wrong_captions_are_named(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_captions(write(tmp_path, lines), allow_partial=True)


def test_reference_statistics(tmp_path: Path, real: Gaussian) -> None:
    with pytest.raises(InputError, match=r"no reference statistics; add MS-COCO_val2014_fid_stats\.npz"):
        reference(tmp_path, Judge())
    (tmp_path / "reference").mkdir()
    for seed in range(1000, 1100):
        picture(seed).save(tmp_path / "reference" / f"{seed}.png")
    computed, name = reference(tmp_path, Judge())
    assert name.startswith("100 images of reference/, ")
    np.testing.assert_allclose(computed.covariance, real.covariance, rtol=1e-9)

    class Never(Judge):
        def __call__(self, *_: object) -> Iterator[Any]:
            raise AssertionError("statistics are computed once")

    assert reference(tmp_path, Never())[1] == name
    frechet.write_npz(tmp_path / "stats.npz", real)
    given, name = reference(tmp_path, Never())
    assert (given.mean == real.mean).all()
    assert name.startswith("stats.npz, ")
    picture(0).save(tmp_path / "reference" / "torn.png")
    (tmp_path / "stats.npz").unlink()
    (tmp_path / "reference" / "torn.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"torn\.png: cannot be read"):
        reference(tmp_path, Judge())


def test_where_data_are_not(tmp_path: Path) -> None:
    for options in (Options(), Options(data=tmp_path)):
        with pytest.raises(InputError, match=r"coco: .*Give --data DIR with MS-COCO_val2014_30k_captions\.csv"):
            coco.real(options)


def test_the_order_of_records_changes_rounding_alone(real: Gaussian) -> None:
    records = records_of(task(real))
    shuffled = random.Random(0).sample(records, len(records))
    found, other = task(real).metrics(records), task(real).metrics(shuffled)
    assert found["fid"].value == pytest.approx(other["fid"].value, rel=1e-12)
