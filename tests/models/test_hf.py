"""Checkpoints of transformers: where they come from, what is refused and in which words, and whole runs with them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_hf
import torch
from huggingface_hub import errors
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from gapbench import hub, judges
from gapbench.cli import app
from gapbench.models import zoo
from gapbench.models.hf import WEIGHTS, knows
from gapbench.records import Decoding, InputError, Picture, Question

ASKED = [Question("a", "Is there a circle in the image?", (Picture("p", lambda: Image.new("RGB", (32, 32), "red")),))]
COMMIT = "0123456789" * 4
NEEDS_TRUST = "it needs Python files that come with it; if you trust who wrote them, add --trust-remote-code"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_hf.write("llava", tmp_path_factory.mktemp("hf") / "llava")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "llava"))


def refused(name: object, **how: Any) -> str:
    with pytest.raises(InputError) as error:
        zoo.load(str(name), "cpu", **how)
    assert "\n" not in str(error.value)
    start = f"--model {name}: "
    assert str(error.value).startswith(start)
    return str(error.value).removeprefix(start)


def configure(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def answer(name: object, **how: Any) -> list[Any]:
    return list(zoo.load(str(name), "cpu", **how).answer(ASKED, Decoding(max_new_tokens=4)))


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_lead_to_the_family(made: Path) -> None:
    local, scheme, repo = (zoo.resolve(name) for name in (str(made), f"hf:{made}", "hf:ORG/NAME"))
    assert {entry.family for entry in (local, scheme, repo)} == {"hf"}
    assert (local.folder, scheme.target, repo.target) == (made, str(made), "ORG/NAME")
    assert all(entry.answers and entry.weighs and not entry.draws for entry in (local, scheme, repo))
    rows = [entry for entry in zoo.entries().values() if entry.family == "hf"]
    assert len(rows) == 7
    assert all(entry.repo and entry.answers and not entry.draws for entry in rows)


def test_what_transformers_knows() -> None:
    known = ("qwen2_5_vl", "llava", "internvl", "smolvlm", "idefics3", "paligemma", "chameleon", "emu3")
    assert all(knows({"model_type": kind}) for kind in known)
    assert not any(knows(config) for config in ({"model_type": "llama"}, {"model_type": None}, {}))


def test_a_folder_by_either_name_is_the_same_model(made: Path) -> None:
    assert answer(made) == answer(f"hf:{made}")
    assert zoo.load(f"hf:{made}", "cpu").describe()["name"] == f"hf:{made}"
    assert zoo.load(str(made), "cpu", "bfloat16").describe()["dtype"] == "bfloat16"
    assert answer(made, dtype="bfloat16")


# --- what is refused --------------------------------------------------------------------------------------------------


def test_no_image_text_to_text_model(tmp_path: Path) -> None:
    assert refused(f"hf:{tmp_path}") == f"{tmp_path} has no config.json, so it is no model of transformers"
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert "model_type llama, no image-text-to-text model of transformers" in refused(f"hf:{tmp_path}")
    assert refused("hf:llava") == "llava is neither a folder nor ORG/NAME of the hub"
    assert refused("hf:a/b/c") == "a/b/c is neither a folder nor ORG/NAME of the hub"


def test_missing_weights_are_named(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    gone = sorted(key for key in state if "layers.1.self_attn" in key)
    save_file({key: value for key, value in state.items() if key not in gone}, folder / "model.safetensors")
    message = refused(folder)
    assert message.startswith(f"{len(gone)} weights are missing (")
    assert message.count("self_attn") == 3
    assert message.endswith(", ...); the files are partial, or another model's")


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    configure(folder, text_config=config["text_config"] | {"intermediate_size": 48})
    assert refused(folder).startswith("transformers cannot load it: ")


def test_weights_that_are_left_over_are_counted(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    save_file(state | {"another.weight": torch.zeros(2)}, folder / "model.safetensors", metadata={"format": "pt"})
    assert zoo.load(str(folder), "cpu").describe()["unused_weights"] == 1


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert refused(folder) == f"{folder} has none of {', '.join(WEIGHTS)}"


def test_torn_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    assert refused(folder).startswith("transformers cannot load it: ")


def shard(folder: Path) -> list[str]:
    """The weights in several files with an index, as large models are kept."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    return sorted(path.name for path in folder.glob("model-*.safetensors"))


def test_weights_in_several_files(made: Path, folder: Path) -> None:
    names = shard(folder)
    assert len(names) > 1
    assert answer(folder) == answer(made)
    assert sorted(zoo.load(str(folder), "cpu").describe()["weights"]) == names
    (folder / names[1]).unlink()
    assert refused(folder) == (
        f"{folder} lacks {names[1]}, which model.safetensors.index.json names; download it again"
    )
    (folder / "model.safetensors.index.json").write_text("{}")
    assert refused(folder).endswith("model.safetensors.index.json has no weight_map, so it is no index of weights")


def test_pickled_weights_are_tensors_alone(made: Path, folder: Path, tmp_path: Path) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert answer(folder) == answer(made)

    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "harm",))

    torch.save(state | {"harm": Harm()}, folder / "pytorch_model.bin")
    assert refused(folder).startswith("transformers cannot load it: ")
    assert not (tmp_path / "harm").exists()


def test_a_model_without_its_processor(folder: Path) -> None:
    for file in ("processor_config.json", "preprocessor_config.json"):
        (folder / file).unlink(missing_ok=True)
    assert "processor" in refused(folder)


# --- other people's code ----------------------------------------------------------------------------------------------


@pytest.fixture
def remote(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A LLaVA that comes with Python files of its own, which leave a trace when they run."""
    from transformers import AutoModelForImageTextToText, dynamic_module_utils

    state = AutoModelForImageTextToText.from_pretrained(folder).state_dict()  # not by the names of old LLaVA files
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    modules = tmp_path / "modules"
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(modules))
    monkeypatch.setattr(sys, "path", [*sys.path])
    (folder / "own.py").write_text(
        "from pathlib import Path\n"
        "from transformers import LlavaConfig, LlavaForConditionalGeneration\n"
        f"Path({str(tmp_path / 'ran')!r}).touch()\n"
        "class OwnConfig(LlavaConfig):\n"
        "    model_type = 'own_kind'\n"
        "class OwnModel(LlavaForConditionalGeneration):\n"
        "    config_class = OwnConfig\n"
    )
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForImageTextToText": "own.OwnModel"}
    configure(folder, model_type="own_kind", auto_map=auto_map)
    return folder


def test_other_peoples_code_runs_only_where_it_is_trusted(made: Path, remote: Path, tmp_path: Path) -> None:
    assert refused(f"hf:{remote}") == NEEDS_TRUST
    assert not (tmp_path / "ran").exists()
    model = zoo.load(f"hf:{remote}", "cpu", trust_remote_code=True)
    assert (tmp_path / "ran").exists()
    assert model.describe()["remote_code"] is True
    assert "own.py" in model.describe()["files"]
    assert list(model.answer(ASKED, Decoding(max_new_tokens=4))) == answer(made)


def test_a_processor_with_code_of_its_own(folder: Path) -> None:
    file = folder / "processor_config.json"
    told = json.loads(file.read_text()) | {"processor_class": "OwnProcessor"}
    file.write_text(json.dumps(told | {"auto_map": {"AutoProcessor": "own.OwnProcessor"}}))
    tokens = folder / "tokenizer_config.json"
    tokens.write_text(json.dumps(json.loads(tokens.read_text()) | {"processor_class": "OwnProcessor"}))
    configure(folder, model_type="llava")
    assert refused(folder) == NEEDS_TRUST


# --- the hub ----------------------------------------------------------------------------------------------------------


def test_without_a_connection_the_line_says_what_to_do(hub_cache: Path) -> None:
    assert refused("hf:org/tiny") == (
        "cannot fetch config.json of org/tiny from the hub (HF_HUB_OFFLINE is set and the cache does not have it). "
        "Download org/tiny elsewhere and pass the folder: --model hf:DIR"
    )
    assert "cannot fetch config.json of Qwen/Qwen2.5-VL-7B-Instruct" in refused("qwen2.5-vl-7b")


@pytest.mark.parametrize("name", ["chameleon-7b", "chameleon-30b"])
def test_a_gated_repository_is_said_to_be_one(name: str, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gated(*args: object, **more: object) -> None:
        raise errors.GatedRepoError.__new__(errors.GatedRepoError)

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", gated)
    assert f"facebook/{name} from the hub (access is granted on its page there, then log in with" in refused(name)


@pytest.mark.parametrize("shards", [False, True])
def test_a_repository_in_the_cache_needs_no_connection(made: Path, folder: Path, hub_cache: Path, shards: bool) -> None:
    names = shard(folder) if shards else ["model.safetensors"]
    repo = hub_cache / "models--org--tiny"
    shutil.copytree(folder, repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    assert answer("hf:org/tiny") == answer(made)
    told = zoo.load("hf:org/tiny", "cpu").describe()
    assert (told["repo"], told["revision"], told["commit"]) == ("org/tiny", "main", COMMIT)
    assert sorted(told["weights"]) == names
    assert told["weights"][names[0]] == hub.fingerprint(repo / "snapshots" / COMMIT / names[0])
    assert told["weights"][names[0]]["commit"] == COMMIT

    (repo / "snapshots" / COMMIT / names[-1]).unlink()
    assert refused("hf:org/tiny").startswith(f"cannot fetch {names[-1]} of org/tiny from the hub (")


# --- whole runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl"])
def test_a_run_from_end_to_end(kind: str, tmp_path: Path) -> None:
    name = tiny_hf.write(kind, tmp_path / kind)
    out = tmp_path / "run"
    words = ["run", "--model", name, "--suite", "mini", "--tasks", "pope,mmmu", "--limit", 3, "--out", out]
    said = CliRunner().invoke(app, [*map(str, words), "--device", "cpu"])
    assert said.exit_code == 0, said.output
    results = json.loads((out / "results.json").read_text())
    assert results["model"] == str(name)
    assert list(results["weights"]) == ["model.safetensors"]
    for task in ("pope-mini", "mmmu-mini"):
        assert results["tasks"][task]["done"] == results["tasks"][task]["asked"] >= 3
        assert results["tasks"][task]["failed"] == 0
    manifest = json.loads((out / "run.json").read_text())
    assert manifest["request"]["model"]["class"].startswith("Llava" if kind == "llava" else "Qwen2VL")


def test_it_judges(made: Path) -> None:
    judge = judges.judge(f"hf:{made}", "cpu")
    (said,) = judge.judge(ASKED)
    assert isinstance(said, str)
    told = judge.describe()
    assert told["name"] == f"hf:{made}"
    assert "device" not in told


def test_it_judges_the_gap(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["run", "--tasks", "gap", "--judge", f"gap-mini=hf:{made}", "--limit", 1, "--steps", 1, "--out", out]
    said = CliRunner().invoke(app, [*map(str, words), "--device", "cpu"])
    assert said.exit_code == 0, said.output
    told = json.loads((out / "results.json").read_text())["tasks"]["gap-mini"]
    assert told["protocol"]["G_answerer"] == f"hf:{made}"
    assert told["failed"] == told["unjudged"] == 0
