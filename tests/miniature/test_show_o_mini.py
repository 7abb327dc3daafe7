"""The shipped weights do what README says: exact tokenizers, good answers, and clearly weaker drawings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gapbench import tasks
from gapbench.miniature import eye, tiles
from gapbench.miniature.picture import render
from gapbench.miniature.world import scenes
from gapbench.models import zoo
from gapbench.models.unified.pictures import to_images
from gapbench.records import Sampling
from gapbench.run import Runner
from gapbench.store import RunFolder


@pytest.fixture(scope="module")
def model():
    return zoo.load("show-o-mini", "cpu")


def test_the_image_tokenizer_is_exact_on_held_out_scenes(model) -> None:
    held_out = scenes("test", 60, seed=11)
    codes = torch.stack(list(model.encode([render(scene) for scene in held_out])))
    assert torch.equal(codes, torch.stack([torch.from_numpy(tiles.codes_of(scene)) for scene in held_out]))
    with torch.inference_mode():
        pictures = to_images(model.parts.magvit.decode(codes, tiles.SIDE, tiles.SIDE))
    assert [eye.read(picture) for picture in pictures] == held_out


def test_it_understands_better_than_it_draws(model, tmp_path: Path) -> None:
    chosen = [tasks.load("gap-mini"), tasks.load("pope-mini")]
    found = Runner(model, chosen, RunFolder(tmp_path), Sampling(), limit=32).run()
    gap = found["tasks"]["gap-mini"]["metrics"]
    assert gap["U"]["value"] >= 0.85
    assert gap["gap"]["low"] >= 0.15
    assert gap["U_judge"]["value"] == 1.0  # the judge reads every real picture exactly
    assert found["tasks"]["pope-mini"]["metrics"]["pooled/accuracy"]["value"] >= 0.85


def test_weights_are_small() -> None:
    folder = zoo.entries()["show-o-mini"].folder
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 16 * 2**20
