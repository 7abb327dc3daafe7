"""Names lead to models, wrong names to help."""

import dataclasses
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from checkpoints import MAGVIT
from safetensors.torch import save_file

from gapbench.miniature import tokenizer
from gapbench.models import zoo
from gapbench.models.show_o.magvit import Magvit
from gapbench.records import InputError, Sampling
from gapbench.report.published import published

PHI = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "partial_rotary_factor": 0.5,
}


@pytest.fixture(scope="module")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of one layer, as small as they come."""
    from transformers import PhiConfig, PhiForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer.build(folder)
    config = {"_class_name": "Showo", "codebook_size": 64, "llm_vocab_size": 152, "mask_token_id": 226}
    config |= {"num_vq_tokens": 16, "vocab_size": 227, "w_clip_vit": False, "phi_config": PHI}
    (folder / "config.json").write_text(json.dumps(config))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        phi = PhiForCausalLM(PhiConfig(**PHI, vocab_size=227, qk_layernorm=True))
        magvit = Magvit(MAGVIT)
    save_file({f"showo.{key}": value for key, value in phi.state_dict().items()}, folder / "pytorch_model.safetensors")
    (folder / "magvitv2").mkdir()
    (folder / "magvitv2" / "config.json").write_text(json.dumps(MAGVIT.to_dict()))
    save_file(magvit.state_dict(), folder / "magvitv2" / "pytorch_model.safetensors")
    return folder


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> type:
    """In place of the model: what it would be built from."""

    @dataclasses.dataclass
    class ShowO:
        parts: object
        name: str
        sampling: Sampling

    module = types.ModuleType("gapbench.models.show_o.model")
    module.ShowO = ShowO
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return ShowO


def refused(name: str, **how: str) -> str:
    with pytest.raises(InputError) as error:
        zoo.load(name, **how)
    assert "\n" not in str(error.value)
    return str(error.value)


ELSEWHERE = ("gemini-nano-1", "dall-e-2", "codi", "emu", "next-gpt", "seed-x", "dreamllm", "lwm", "emu3-gen")


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_nothing_here_runs_says_how_it_is_measured(name: str) -> None:
    line = refused(name)
    assert line.startswith(f"--model {name}: ")
    way = zoo.entries()[name].target.partition(":")[0]
    assert f"--model {way}:" in line.replace("'", "")
    assert way in zoo.SCHEMES


def test_every_published_system_has_a_row() -> None:
    systems = {each.model.partition(" (")[0].lower().replace(" ", "-") for each in published()}
    systems -= {"dpo", "pair-dpo"}  # ways to train one of them
    assert len(systems) > 15
    assert [name for name in systems if not any(known.startswith(name) for known in zoo.entries())] == []


def test_entries() -> None:
    known = zoo.entries()
    assert list(known) == [
        "show-o",
        "show-o-512",
        "show-o-clip-vit",
        "show-o-clip-vit-512",
        "hermesflow",
        "vila-u",
        "vila-u-384",
        "janus",
        "janus-pro-1b",
        "janus-pro-7b",
        "llamagen",
        "llamagen-512",
        "llamagen-c2i-b-256",
        "llamagen-c2i-b-384",
        "llamagen-c2i-l-256",
        "llamagen-c2i-l-384",
        "llamagen-c2i-xl-384",
        "llamagen-c2i-xxl-384",
        "llamagen-c2i-3b-384",
        "show-o-mini",
        "janus-mini",
        "chameleon-7b",
        "chameleon-30b",
        "emu3-chat",
        "qwen2.5-vl-7b",
        "llava-1.5-7b",
        "smolvlm",
        "internvl",
        "sd-1.5",
        "sd-2.1",
        "sd-2.1-base",
        "ldm",
        *ELSEWHERE,
    ]
    for name, entry in known.items():
        assert entry.name == name
        if name in ELSEWHERE:
            continue
        assert (entry.repo is None) != (entry.folder is None)
        if entry.draws:
            # What comes with the package may say it in its own files.
            guidance = (
                entry.guidance or json.loads((entry.folder / "generation_config.json").read_text())["guidance_scale"]
            )
            assert guidance > 0
            # Which draw code after code.
            assert (entry.steps is None) == (entry.family in ("vila_u", "janus", "llamagen"))
        assert entry.note
        assert entry.licence
    assert (known["show-o"].repo, known["show-o"].guidance, known["show-o"].steps) == ("showlab/show-o", 1.75, 16)
    hermesflow = known["hermesflow"]
    assert (hermesflow.repo, hermesflow.guidance, hermesflow.steps) == ("Gen-Verse/HermesFlow", 5, 50)
    assert known["show-o-mini"].folder.parts[-4:] == ("gapbench", "miniature", "weights", "show-o-mini")


def test_importing_the_zoo_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "huggingface_hub", "numpy", "PIL")
    code = f"import sys, gapbench.models.zoo as z; z.resolve('show-o'); print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_local_folder(checkpoint_folder: Path, built: type) -> None:
    model = zoo.load(str(checkpoint_folder), device="cpu")
    assert isinstance(model, built)
    assert model.name == str(checkpoint_folder)
    assert model.sampling == Sampling(steps=16, guidance=1.75, temperature=1.0)
    assert model.parts.phi.dtype == torch.float32
    assert model.parts.layout.image_tokens == 16


@pytest.mark.parametrize("dtype", zoo.DTYPES)
def test_dtypes(checkpoint_folder: Path, built: type, dtype: str) -> None:
    assert zoo.load(str(checkpoint_folder), "cpu", dtype).parts.phi.dtype == getattr(torch, dtype)


def test_many_image_tokens_are_sampled_as_the_large_models_are(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "Showo", "num_vq_tokens": 1024}')
    entry = zoo.resolve(str(tmp_path))
    assert (entry.guidance, entry.steps, entry.folder) == (5.0, 50, tmp_path)


def test_training_run_is_a_local_checkpoint(tmp_path: Path) -> None:
    place = tmp_path / "checkpoint-10" / "unwrapped_model"
    place.mkdir(parents=True)
    (place / "pytorch_model.bin").touch()
    (place / "config.json").write_text('{"_class_name": "Showo", "num_vq_tokens": 256}')
    assert zoo.resolve(str(tmp_path)).steps == 16


def test_unknown_names() -> None:
    message = refused("hermes-flow")
    assert message.startswith(
        "--model hermes-flow: no such model or folder. Did you mean hermesflow? Known names: show-o,"
    )
    assert "A checkpoint's folder is accepted too, and openai:NAME or NAME@URL, a server's model" in message
    assert "Did you mean show-o-512?" in refused("Show-o-512x")
    assert "Did you mean" not in refused("mistral")
    assert "no such model or folder" in refused("runs/no-such-folder")


def test_folders_that_are_no_checkpoint(tmp_path: Path) -> None:
    assert "it has no config.json" in refused(str(tmp_path))
    (tmp_path / "config.json").write_text('{"_class_name": "Showo2Qwen2_5"}')
    assert "is of class Showo2Qwen2_5; a Show-o checkpoint has" in refused(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert "is of class llama" in refused(str(tmp_path))


def test_wrong_device_and_dtype(checkpoint_folder: Path, built: type, monkeypatch: pytest.MonkeyPatch) -> None:
    name = str(checkpoint_folder)
    assert refused(name, dtype="fp8") == "--dtype fp8: choose one of float32, bfloat16, float16"
    assert refused(name, device="gpu").startswith("--device gpu: no such device")
    assert refused(name, device="meta").startswith("--device meta: no such device")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert refused(name, device="cuda").startswith("--device cuda: CUDA is not available here")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert refused(name, device="cuda:1").startswith("--device cuda:1: there is no such GPU")


def test_defaults_follow_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, expected in ((False, ("cpu", torch.float32)), (True, ("cuda", torch.bfloat16))):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        device = zoo.device_of(None)
        assert (device.type, zoo.dtype_of(None, device)) == expected


def test_without_a_connection_the_line_says_what_to_do(built: type, hub_cache: Path) -> None:
    line = refused("show-o")
    assert line.startswith("show-o: cannot fetch config.json of showlab/show-o from the hub (HF_HUB_OFFLINE is set ")
    assert line.endswith("pass the folder: --model DIR (with magvitv2/ and phi-1_5/ inside)")
