"""The shipped weights of the autoregressive miniature."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gapbench import tasks
from gapbench.miniature import eye, tiles
from gapbench.miniature.picture import render
from gapbench.miniature.world import scenes
from gapbench.models import zoo
from gapbench.records import Sampling
from gapbench.run import Runner
from gapbench.store import RunFolder


@pytest.fixture(scope="module")
def model():
    return zoo.load("janus-mini", "cpu")


def test_the_image_tokenizer_is_exact_on_held_out_scenes(model) -> None:
    held_out = scenes("test", 40, seed=11)
    codes = list(model.encode([render(scene) for scene in held_out]))
    assert torch.equal(torch.stack(codes), torch.stack([torch.from_numpy(tiles.codes_of(s)) for s in held_out]))
    assert [eye.read(picture) for picture in model.decode(codes)] == held_out


def test_it_understands_better_than_it_draws(model, tmp_path: Path) -> None:
    found = Runner(model, [tasks.load("gap-mini")], RunFolder(tmp_path), Sampling(), limit=32).run()
    gap = found["tasks"]["gap-mini"]["metrics"]
    assert gap["U"]["value"] >= 0.8
    assert gap["gap"]["low"] > 0


def test_weights_are_small() -> None:
    folder = zoo.entries()["janus-mini"].folder
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 16 * 2**20
