"""Loading Janus: the layouts of the hub, and one line for everything that is wrong with a folder."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_janus import CHAT, write_checkpoint

from gapbench import cli, hub
from gapbench.models import zoo
from gapbench.models.janus.model import Janus
from gapbench.records import Decoding, InputError, Prompt, Question, Sampling


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "janus")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def refused(name: Path | str) -> str:
    with pytest.raises(InputError) as error:
        zoo.load(str(name), "cpu")
    assert "\n" not in str(error.value)
    return str(error.value)


def change(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(file.read_text())
    edit(values)
    file.write_text(json.dumps(values))


def change_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors")


def behaviour(model: Janus) -> list[Any]:
    codes = [each.tolist() for each in model.draw_codes([Prompt("a", "a red circle", 0)], Sampling(guidance=3.0))]
    seen = model.coded(torch.tensor(codes[0]))
    return [*codes, *model.say([Question("a", "How many red stars are there?", (seen,))], [Decoding(8)])]


def older(folder: Path) -> None:
    """As transformers 4 saved it: the image processor's fields and the template in files of their own."""
    processor = json.loads((folder / "processor_config.json").read_text())
    images = processor.pop("image_processor")
    kept = {name: images[name] for name in ("image_mean", "image_std", "min_size")}
    (folder / "preprocessor_config.json").write_text(json.dumps(kept))
    (folder / "processor_config.json").write_text(json.dumps(processor))
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHAT}))


def test_the_hubs_layouts_are_one_model(made: Path, folder: Path) -> None:
    entry = zoo.resolve(str(made))
    assert (entry.family, entry.folder, entry.steps) == ("janus", made, None)
    wanted = behaviour(zoo.load(str(made), "cpu"))
    older(folder)
    assert behaviour(zoo.load(str(folder), "cpu")) == wanted
    (folder / "chat_template.json").unlink()
    change(folder / "tokenizer_config.json", lambda values: values.update(chat_template=CHAT))
    assert behaviour(zoo.load(str(folder), "cpu")) == wanted
    change(folder / "processor_config.json", lambda values: values.update(use_default_system_prompt=False))
    without = zoo.load(str(folder), "cpu")
    assert behaviour(without)[0] == wanted[0]
    assert without.parts.text.system == ""
    assert behaviour(without)[1] != wanted[1]


def test_several_files_are_one_model(made: Path, tmp_path: Path) -> None:
    sharded = write_checkpoint(tmp_path / "sharded", shard="500KB")
    files = sorted(file.name for file in sharded.glob("*.safetensors"))
    assert len(files) > 2
    model = zoo.load(str(sharded), "cpu")
    assert sorted(model.describe()["weights"]) == files
    assert behaviour(model) == behaviour(zoo.load(str(made), "cpu"))
    (sharded / files[1]).unlink()
    assert f"{files[1]} missing" in refused(sharded)


def test_the_head_is_the_files_or_the_embeddings(made: Path, folder: Path, tmp_path: Path) -> None:
    change(folder / "config.json", lambda values: values.update(tie_word_embeddings=True))
    network = zoo.load(str(folder), "cpu").parts.network  # as published: the config's default says tied, wrongly
    head, embeddings = network.lm_head.weight, network.get_input_embeddings().weight
    assert torch.equal(head, load_file(folder / "model.safetensors")["lm_head.weight"])
    assert not network.config.tie_word_embeddings
    assert not torch.equal(head, embeddings)
    tied = write_checkpoint(tmp_path / "tied", tied=True)
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    network = zoo.load(str(tied), "cpu").parts.network
    assert network.lm_head.weight is network.get_input_embeddings().weight
    change(tied / "config.json", lambda values: values.update(tie_word_embeddings=False))
    assert "tensor lm_head.weight is missing" in refused(tied)


def test_dtypes(made: Path) -> None:
    from transformers import JanusForConditionalGeneration

    model = zoo.load(str(made), "cpu", "bfloat16")
    network, library = model.parts.network, JanusForConditionalGeneration.from_pretrained(made)
    kinds = {name.split(".")[1]: p.dtype for name, p in network.model.named_parameters(prefix="model")}
    assert kinds.pop("vqmodel") == torch.float32
    assert set(kinds.values()) == {torch.bfloat16}
    assert model.describe()["dtype"] == "bfloat16"
    # What is in no file is computed, not left without memory or at chance.
    for ours, theirs in zip(network.named_buffers(), library.named_buffers(), strict=True):
        assert ours[0] == theirs[0]
        assert torch.equal(*torch.broadcast_tensors(ours[1], theirs[1]))
    codes, said = behaviour(model)
    assert len(codes) == 16
    assert said.tokens


def test_tensors_are_refused_by_name(folder: Path, made: Path) -> None:
    name = "model.vision_model.encoder.layers.1.self_attn.q_proj.bias"
    change_weights(folder, lambda state: state.pop(name))
    assert refused(folder) == f"{folder / 'model.safetensors'}: tensor {name} is missing"
    change_weights(folder, lambda state: state.update({name: torch.zeros(16), "model.extra": torch.zeros(1)}))
    assert refused(folder) == f"{folder / 'model.safetensors'}: tensor model.extra is unexpected"
    change_weights(folder, lambda state: (state.pop("model.extra"), state.update({name: torch.zeros(7)})))
    assert f"tensor {name} has shape (7,), wanted (16,)" in refused(folder)
    change_weights(folder, lambda state: state.update({name: torch.full((16,), torch.nan)}))
    assert f"tensor {name} has values that are not finite" in refused(folder)
    saved = {"model.vision_model.embeddings.position_ids": torch.arange(16)[None], name: torch.zeros(16)}
    change_weights(folder, lambda state: state.update(saved))
    assert zoo.load(str(folder), "cpu").image_tokens == 16


def test_deepseeks_own_layout_is_refused_with_the_repository_to_take(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "multi_modality"}')
    line = refused(folder)
    assert "is in DeepSeek's own layout (model_type multi_modality)" in line
    assert line.endswith("deepseek-community/Janus-1.3B, Janus-Pro-1B or Janus-Pro-7B there")


def test_wrong_folders(folder: Path) -> None:
    def with_(name: str, edit: Callable[[Path], object]) -> str:
        kept = (folder / name).read_bytes()
        edit(folder / name)
        line = refused(folder)
        (folder / name).write_bytes(kept)
        return line

    def set_(**values: Any) -> Callable[[Path], None]:
        return lambda file: change(file, lambda told: told.update(values))

    assert "tokenizer.json missing" in with_("tokenizer.json", Path.unlink)
    assert "preprocessor_config.json missing" in with_("processor_config.json", Path.unlink)
    assert "model.safetensors or model.safetensors.index.json missing" in with_("model.safetensors", Path.unlink)
    assert "has no chat template" in with_("chat_template.jinja", Path.unlink)
    no_picture = with_("chat_template.jinja", lambda file: file.write_text("{{ messages[0]['content'][1]['text'] }}"))
    assert "the chat template cannot be used" in no_picture
    assert "the chat template cannot be used" in with_("chat_template.jinja", lambda file: file.write_text("{% for"))
    behind = "{{ messages[0]['content'][1]['text'] }}<image_placeholder>"
    no_text = with_("chat_template.jinja", lambda file: file.write_text(behind))
    assert "does not put a question's text after its picture" in no_text
    assert "the tokenizer has no pad_token; take a later revision" in with_(
        "tokenizer_config.json", set_(pad_token=None)
    )
    images = {"image_mean": [0.5, 0.5], "image_std": [0.5] * 3}
    wrong = with_("processor_config.json", set_(image_processor=images))
    assert "image_mean must be three numbers, not [0.5, 0.5]" in wrong
    small = with_("config.json", lambda file: change(file, lambda told: told["text_config"].update(vocab_size=158)))
    assert "tokens, the model 158" in small
    assert "describes no Janus" in with_("config.json", set_(vision_config=3))
    assert zoo.load(str(folder), "cpu").image_tokens == 16


def test_the_hubs_cache_is_enough(made: Path, hub_cache: Path) -> None:
    line = refused("janus-pro-1b")
    assert line.startswith("janus-pro-1b: cannot fetch config.json of deepseek-community/Janus-Pro-1B from the hub")
    repo, commit = hub_cache / "models--deepseek-community--Janus-Pro-1B", "0123456789abcdef0123456789abcdef01234567"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    shutil.copytree(made, repo / "snapshots" / commit)
    model = zoo.load("janus-pro-1b", "cpu")
    told = model.describe()
    assert (told["repo"], told["commit"]) == ("deepseek-community/Janus-Pro-1B", commit)
    assert model.settings(Sampling()).guidance == 5.0  # the zoo's
    assert behaviour(model)[1] == behaviour(zoo.load(str(made), "cpu"))[1]


@pytest.mark.parametrize("layout", [lambda folder: None, older])
def test_the_hub_is_asked_for_every_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Callable[[Path], None]
) -> None:
    layout(folder)
    snapshot = tmp_path / "snapshots" / "0123"
    snapshot.mkdir(parents=True)

    def fetch_one(repo: str, names: Sequence[str], revision: str, advice: str) -> Path:
        for place in (snapshot, folder):  # the cache's first, as the real one does
            for name in names:
                if (place / name).is_file():
                    return snapshot / name if place == snapshot else Path(shutil.copy(place / name, snapshot))
        raise InputError(f"{repo} has none of {', '.join(names)}. {advice}")

    monkeypatch.setattr(hub, "_fetch_one", fetch_one)
    wanted = behaviour(zoo.load(str(folder), "cpu"))
    assert behaviour(zoo.load("janus", "cpu"))[1] == wanted[1]
    files = {file.name for file in folder.iterdir()} - {"generation_config.json"}
    assert {file.name for file in snapshot.iterdir()} == files


SOME, ALL = ("--tasks", "gap-mini"), ("--suite", "mini")


@pytest.mark.parametrize("tasks", [SOME, pytest.param(ALL, marks=pytest.mark.slow)])
def test_it_runs_on_the_miniatures_tasks_and_goes_on(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tasks: tuple[str, str],
) -> None:
    def run(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["gapbench", "run", *map(str, words)])
        try:
            cli.main()
        except SystemExit as end:
            return end.code or 0
        return 0

    asked = ("--model", made, *tasks, "--limit", 4, "--device", "cpu")
    assert run(*asked, "--out", tmp_path / "run") == 0, capsys.readouterr().err
    records = {file.stem: file.read_text() for file in (tmp_path / "run" / "records").glob("*.jsonl")}
    assert records
    assert not [line for text in records.values() for line in text.splitlines() if json.loads(line).get("error")]
    results = (tmp_path / "run" / "results.json").read_bytes()
    for name, text in records.items():
        (tmp_path / "run" / "records" / f"{name}.jsonl").write_text(text[: len(text) // 2])
    assert run(*asked, "--out", tmp_path / "run") == 0
    assert (tmp_path / "run" / "results.json").read_bytes() == results
    assert run(*asked, "--steps", 5, "--out", tmp_path / "other") == 2
    assert "--steps 5: " in capsys.readouterr().err
