"""The benchmark's two schedules at a tiny size: what it compares must be the same, and be seen where it is not."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from benchmarks import curation_speed, pair_dpo_speed
from benchmarks.pair_dpo_speed import EQUAL, OURS, RELEASED, Measured, Schedule, make_pair, run_ours, run_released
from gapbench.models import zoo
from gapbench.models.show_o.model import ShowO
from hermesflow.likelihood import Masks


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> ShowO:
    return pair_dpo_speed.with_words(zoo.load(str(tiny_checkpoint), "cpu", "float32"))


@pytest.fixture(scope="module")
def released(model: ShowO) -> Measured:
    return run_released(model, [make_pair(model, number) for number in range(4)], 2, 2)


def ours(model: ShowO, folder: Path, schedule: Schedule) -> Measured:
    return run_ours(model, [make_pair(model, number) for number in range(4)], 2, 2, schedule, False, folder)


def test_both_schedules_have_one_loss_and_one_gradient(model: ShowO, released: Measured, tmp_path: Path) -> None:
    found = ours(model, tmp_path, OURS[EQUAL])
    assert abs(released.loss - 2 * math.log(2)) > 1e-3  # the policy is not the reference
    assert found.loss == pytest.approx(released.loss, rel=1e-5)
    assert found.gradient == pytest.approx(released.gradient, rel=1e-4)
    assert found.reference > 0 == released.reference


def test_another_loss_ends_the_run(model: ShowO, released: Measured, tmp_path: Path) -> None:
    codes = ours(model, tmp_path, OURS["ours, codes"])
    assert codes.loss != pytest.approx(released.loss, rel=1e-4)
    with pytest.raises(SystemExit, match="must be the same"):
        pair_dpo_speed.agree({RELEASED: released._asdict(), EQUAL: codes._asdict()})


def test_schedules_agree_with_gradient_checkpointing(model: ShowO, released: Measured, tmp_path: Path) -> None:
    pairs = [make_pair(model, number) for number in range(4)]
    found = run_ours(model, pairs, 2, 2, OURS[EQUAL], True, tmp_path)
    pair_dpo_speed.agree({RELEASED: released._asdict(), EQUAL: found._asdict()})


def test_work_is_counted_by_hand(model: ShowO, released: Measured, tmp_path: Path) -> None:
    pair = make_pair(model, 0)
    phi, layout = model.backbone.phi, model.layout
    said = len(pair.captions.win.tokens) + len(pair.captions.lose.tokens)
    asked, prompt = len(pair_dpo_speed.question(model)), 3 + len(pair.caption.split())
    hidden = int(Masks(count=1, condition_dropout=0.0).draw(pair.id, 0, 9).sum())
    layers = sum(value.numel() for value in phi.model.layers.parameters())
    order = [pair_dpo_speed.Visit(0, 0)] * 2

    # [mmu] [soi] 9 codes [eoi], question, both captions; prompt, and twice [soi] 9 codes [eoi].
    positions = 12 + asked + said + prompt + 2 * 11
    columns = (said + 2) * layout.vocabulary + 2 * hidden * layout.codebook_size
    counted = pair_dpo_speed.flops(model, [pair], order, 1, OURS["ours, codes"])
    assert counted == 6 * (layers * positions + 32 * columns)

    columns += 2 * (hidden + 2) * layout.vocabulary - 2 * hidden * layout.codebook_size
    counted = pair_dpo_speed.flops(model, [pair], order, 1, None)
    assert counted == 8 * (layers * (positions + 12 + asked + prompt) + 32 * columns)


def test_candidates_are_the_same(model: ShowO) -> None:
    items = [
        curation_speed.Item(torch.tensor(pair.codes), pair.caption)
        for pair in (make_pair(model, number) for number in range(2))
    ]
    assert curation_speed.say_released(model, items, 6) == curation_speed.say_ours(model, items, 6)
    drawn = [draw(model, items, 2) for draw in (curation_speed.draw_released, curation_speed.draw_ours)]
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))
    assert len(drawn[0]) == 4
