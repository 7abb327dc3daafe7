from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from miniature_pairs import make_pairs
from safetensors.torch import load_file

from gapbench.models import zoo
from gapbench.models.show_o.model import ShowO
from gapbench.records import InputError
from gapbench.store import RunFolder
from hermesflow import train as module
from hermesflow.checkpoints import load_state
from hermesflow.curate import CAPTION_QUESTION
from hermesflow.likelihood import Likelihoods
from hermesflow.pair_dpo import PairDPO
from hermesflow.train import Stage, Training, train
from hermesflow.views import Masks

QUICK = Training(steps=4, batch=2, masks=2, learning_rate=1e-3, save_every=2)
SCRIPT = Path(__file__).with_name("stage_process.py")


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> ShowO:
    return zoo.load(str(tiny_checkpoint), "cpu", "float32")


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Without what a clock says."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "pairs_per_second"} for line in lines]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoint" / "pytorch_model.safetensors")


def same(a: Path, b: Path) -> None:
    assert metrics(a) == metrics(b)
    first, second = weights(a), weights(b)
    assert all(torch.equal(first[key], second[key]) for key in first)


# --- What a stage does ------------------------------------------------------------------------------------------------


def test_a_good_preference_is_learnt_and_nothing_else_is_touched(model: ShowO, tmp_path: Path) -> None:
    pairs = make_pairs(model, 4)
    before = {key: value.clone() for key, value in model.backbone.phi.state_dict().items()}
    how = Training(steps=12, batch=4, masks=2, learning_rate=2e-3)
    checkpoint = train(model, model, pairs, how, tmp_path / "stage")
    assert all(torch.equal(value, before[key]) for key, value in model.backbone.phi.state_dict().items())

    lines = metrics(tmp_path / "stage")
    assert lines[0]["loss"] == pytest.approx(2 * math.log(2), abs=1e-5)
    assert lines[-1]["loss"] < lines[0]["loss"] / 2
    trained = zoo.load(str(checkpoint), "cpu", "float32")
    masks = Masks(seed=99)
    with torch.no_grad():
        for side in ("captions", "images"):
            ask = (pairs,) if side == "captions" else (pairs, [0] * 4)
            old, new = (getattr(Likelihoods(m, masks, CAPTION_QUESTION), side)(*ask).log_B2 for m in (model, trained))
            assert ((new[:, 0] - new[:, 1]) > (old[:, 0] - old[:, 1])).all()
    assert not (tmp_path / "stage" / "state.pt").exists()


def test_both_sides_of_a_pair_share_every_step(model: ShowO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[list[str]]] = {"captions": [], "images": []}
    for side in seen:
        real = getattr(Likelihoods, side)

        def spy(self: Likelihoods, pairs: Any, *rest: Any, side: str = side, real: Any = real) -> Any:
            if torch.is_grad_enabled():
                seen[side].append([pair.id for pair in pairs])
            return real(self, pairs, *rest)

        monkeypatch.setattr(Likelihoods, side, spy)
    train(model, model, make_pairs(model, 5), replace(QUICK, steps=None, epochs=2.0), tmp_path)
    assert seen["captions"] == seen["images"]
    assert [len(ids) for ids in seen["images"]] == [2] * 5
    flat = [name for ids in seen["images"] for name in ids]
    assert sorted(flat[:5]) == sorted(flat[5:]) == [f"pair {n}" for n in range(5)]


def test_the_last_batch_may_be_short_and_counts_as_a_batch(model: ShowO, tmp_path: Path) -> None:
    train(model, model, make_pairs(model, 3), replace(QUICK, steps=None), tmp_path)
    assert [line["generation"]["pairs"] for line in metrics(tmp_path)] == [2, 1]


def test_parts_of_a_batch_add_up_to_it(model: ShowO, tmp_path: Path) -> None:
    pairs = make_pairs(model, 4)
    pairs[1] = replace(pairs[1], images=None)
    pairs[2] = replace(pairs[2], captions=None, generation_weight=0.5)
    stages = []
    for at_once in (None, 1):
        (tmp_path / str(at_once)).mkdir()
        how = replace(QUICK, batch=4, at_once=at_once)
        stages.append(Stage(model, model, pairs, how, 4, tmp_path / str(at_once)))
    whole, single = (stage.step() for stage in stages)
    assert_close(whole, single)
    for name, value in stages[0].parameters.items():
        assert torch.allclose(value.grad, stages[1].parameters[name].grad, atol=1e-5 * whole["gradient_norm"]), name


def assert_close(first: Any, second: Any) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first.keys() - {"accuracy", "pairs_per_second"}:  # at first, margins are rounding errors around 0
            assert_close(first[key], second[key])
    elif isinstance(first, list):
        for a, b in zip(first, second, strict=True):
            assert_close(a, b)
    else:
        assert first == pytest.approx(second, rel=2e-3, abs=2e-4)


def test_gradients_of_the_sides_add_up(model: ShowO, tmp_path: Path) -> None:
    """|a + b|^2 = |a|^2 + |b|^2 + 2 |a| |b| cos, and either alone is what training on it alone has."""
    pairs = make_pairs(model, 2)
    train(model, model, pairs, replace(QUICK, steps=1), tmp_path / "both")
    line = metrics(tmp_path / "both")[0]
    a, b = line["understanding"]["gradient_norm"], line["generation"]["gradient_norm"]
    assert line["gradient_norm"] ** 2 == pytest.approx(a**2 + b**2 + 2 * a * b * line["gradient_cosine"], rel=1e-4)
    alone = [replace(pair, images=None) for pair in pairs]
    train(model, model, alone, replace(QUICK, steps=1), tmp_path / "captions")
    found = metrics(tmp_path / "captions")[0]
    assert found["gradient_norm"] == found["understanding"]["gradient_norm"] == pytest.approx(a, rel=1e-4)
    assert found["gradient_cosine"] is None
    assert found["generation"] == {
        "loss": 0.0,
        "pairs": 0,
        "margin": None,
        "accuracy": None,
        "winner": None,
        "loser": None,
        "gradient_norm": 0.0,
    }


def test_a_side_of_weight_0_is_a_side_that_is_not_there(model: ShowO, tmp_path: Path) -> None:
    pairs = make_pairs(model, 3)
    train(model, model, [replace(pair, generation_weight=0.0) for pair in pairs], QUICK, tmp_path / "weight")
    train(model, model, [replace(pair, images=None) for pair in pairs], QUICK, tmp_path / "absent")
    same(tmp_path / "weight", tmp_path / "absent")
    told = json.loads((tmp_path / "weight" / "stage.json").read_text())["names"]
    assert told["left out"] == {"captions": 0, "drawings": 3, "pairs": 0}


def test_the_balance_follows_the_gradients(model: ShowO, tmp_path: Path) -> None:
    train(model, model, make_pairs(model, 2), replace(QUICK, steps=2, balanced=True), tmp_path)
    first, second = metrics(tmp_path)
    assert first["balance"] == 1
    ratio = first["understanding"]["gradient_norm"] / first["generation"]["gradient_norm"]
    assert second["balance"] == pytest.approx(ratio**0.1)


def test_the_product_is_an_ablation_that_trains(model: ShowO, tmp_path: Path) -> None:
    train(model, model, make_pairs(model, 2), replace(QUICK, loss=PairDPO(product=True)), tmp_path)
    lines = metrics(tmp_path)
    assert lines[0]["loss"] == pytest.approx(math.log(2))
    # Both margins are 0 at first, and so is the product's slope but for rounding.
    assert lines[0]["gradient_norm"] < 1e-4


def test_norms_biases_and_embeddings_are_not_decayed(model: ShowO, tmp_path: Path) -> None:
    stage = Stage(model, model, make_pairs(model, 1), QUICK, 4, tmp_path)
    decayed, others = stage.optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.01, 0)
    names = {id(value): name for name, value in stage.parameters.items()}
    kinds = {name.split(".", 3)[-1] if "layers" in name else name for name in (names[id(p)] for p in decayed["params"])}
    attention = {f"self_attn.{part}.weight" for part in ("q_proj", "k_proj", "v_proj", "dense")}
    assert kinds == {*attention, "mlp.fc1.weight", "mlp.fc2.weight", "lm_head.weight"}
    assert len(decayed["params"]) + len(others["params"]) == len(stage.parameters)


def test_recomputing_activations_changes_nothing(model: ShowO, tmp_path: Path) -> None:
    pairs = make_pairs(model, 2)
    train(model, model, pairs, QUICK, tmp_path / "kept")
    train(model, model, pairs, replace(QUICK, gradient_checkpointing=True), tmp_path / "recomputed")
    same(tmp_path / "kept", tmp_path / "recomputed")


def test_low_rank_updates_are_merged(model: ShowO, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    train(model, model, make_pairs(model, 2), replace(QUICK, lora=2, learning_rate=1e-2), tmp_path)
    lines, after = metrics(tmp_path), weights(tmp_path)
    assert lines[-1]["loss"] < lines[0]["loss"]
    for key, value in model.backbone.phi.state_dict().items():
        moved = after[f"showo.{key}"] - value
        if key.endswith(("proj.weight", "dense.weight", "fc1.weight", "fc2.weight")):
            assert torch.linalg.matrix_rank(moved, rtol=1e-3) == 2
        else:
            assert not moved.any()


# --- Going on ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stages(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One stage three times: undisturbed, killed five times, and by two processes."""
    folder = tmp_path_factory.mktemp("stages")
    moments = ["reference.jsonl:4", "metrics.jsonl:1", "metrics.jsonl:3", "metrics.jsonl:4", "metrics.jsonl:5"]
    path = os.pathsep.join([str(SCRIPT.parents[2]), str(SCRIPT.parent), str(SCRIPT.parents[1])])
    command = [sys.executable, str(SCRIPT), str(tiny_checkpoint), str(folder), *moments]
    ran = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.count("killed at") == len(moments)
    return folder


def test_killed_at_any_moment_it_ends_with_the_same_bytes(stages: Path) -> None:
    straight, killed = stages / "straight", stages / "killed"
    same(straight, killed)
    for file in straight.rglob("*"):
        if file.is_file() and file.name != "metrics.jsonl":
            assert file.read_bytes() == (killed / file.relative_to(straight)).read_bytes(), file


def test_two_processes_with_half_a_batch_each_are_as_one(stages: Path) -> None:
    assert_close(metrics(stages / "straight"), metrics(stages / "together"))


def test_what_is_done_is_not_done_again(model: ShowO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = make_pairs(model, 2)
    checkpoint = train(model, model, pairs, QUICK, tmp_path / "stage")
    monkeypatch.setattr(module, "Stage", None)
    assert train(model, model, pairs, QUICK, tmp_path / "stage") == checkpoint


def test_a_full_disk_leaves_the_last_state(model: ShowO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_checkpoints import disk_of

    pairs, folder = make_pairs(model, 2), tmp_path / "stage"
    train(model, model, pairs, QUICK, tmp_path / "straight")
    real, saved = module.save_state, []

    def save(file: Path, state: Any) -> None:
        saved.append(state["step"])
        with disk_of(10_000 if saved == [2, 4] else 10**9):
            real(file, state)

    monkeypatch.setattr(module, "save_state", save)
    with pytest.raises(InputError, match=r"state.pt: cannot be written .* make room"):
        train(model, model, pairs, QUICK, folder)
    state = load_state(folder / "state.pt")
    assert state is not None
    assert state["step"] == 2
    train(model, model, pairs, QUICK, folder)
    same(folder, tmp_path / "straight")


# --- Wrong input ------------------------------------------------------------------------------------------------------


def test_another_stage_does_not_go_on_in_its_folder(model: ShowO, tmp_path: Path) -> None:
    pairs = make_pairs(model, 2)
    train(model, model, pairs, replace(QUICK, steps=1), tmp_path)
    with pytest.raises(InputError, match="holds a stage of another steps, seed; give another folder"):
        train(model, model, pairs, replace(QUICK, steps=2, seed=1), tmp_path)
    with pytest.raises(InputError, match="holds a stage of another pairs;"):
        train(model, model, make_pairs(model, 3), replace(QUICK, steps=1), tmp_path)
    (tmp_path / "stage.json").write_text("{")
    with pytest.raises(InputError, match=r"stage.json: cannot be read"):
        train(model, model, pairs, replace(QUICK, steps=1), tmp_path)


def test_two_stages_do_not_share_a_folder(model: ShowO, tmp_path: Path) -> None:
    lock = RunFolder(tmp_path)
    assert lock.lock()
    with pytest.raises(InputError, match="another process trains in it"):
        train(model, model, make_pairs(model, 1), QUICK, tmp_path)
    lock.unlock()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_model(model: ShowO, tmp_path: Path) -> None:
    pairs = make_pairs(model, 2)
    with pytest.raises(InputError, match=r"step 2: the loss is nan.*lower learning rate.*stopped-1"):
        train(model, model, pairs, replace(QUICK, learning_rate=1e30), tmp_path)
    assert len(metrics(tmp_path)) == 1
    assert zoo.load(str(tmp_path / "stopped-1"), "cpu", "float32").layout == model.layout
    with pytest.raises(InputError, match="stopped-1"):
        train(model, model, pairs, replace(QUICK, learning_rate=1e30), tmp_path)


def test_pairs_of_another_model_are_refused_before_anything_is_done(model: ShowO, tmp_path: Path) -> None:
    good, bad = make_pairs(model, 2)
    short = replace(bad, images=replace(bad.images, lose=replace(bad.images.lose, codes=(1, 2))))
    with pytest.raises(InputError, match="pair pair 1: an image of 2 codes; the model's have 9"):
        train(model, model, [good, short], replace(QUICK, steps=1, batch=1), tmp_path / "short")
    long = replace(bad.captions.win, tokens=(5,) * 3000)
    with pytest.raises(InputError, match=r"pair pair 1: a caption takes 30\d\d positions, the model has 2048"):
        train(model, model, [good, replace(bad, captions=replace(bad.captions, win=long))], QUICK, tmp_path / "long")
    with pytest.raises(InputError, match="no pairs to train on"):
        train(model, model, [], QUICK, tmp_path / "none")


def test_a_folder_that_cannot_be_one_is_named(model: ShowO, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/stage: cannot be written \(Not a directory\)"):
        train(model, model, make_pairs(model, 1), QUICK, tmp_path / "file" / "stage")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"at_once": 0}, "at_once is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"epochs": -1.0}, "epochs is -1"),
        ({"warm_up": 1.0}, "warm_up is 1.0"),
        ({"lora": -1}, "lora is -1"),
        ({"balanced": True, "loss": PairDPO(product=True)}, "balanced needs"),
    ],
)
def test_training_that_makes_no_sense(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Training(**wrong)
