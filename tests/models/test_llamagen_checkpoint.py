"""LlamaGen checkpoints: published layout, names and sizes; what is missing or wrong is named."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llamagen import change, configure, write_checkpoint, write_text_encoder
from typer.testing import CliRunner

from gapbench.cli import app
from gapbench.models import zoo
from gapbench.models.llamagen import checkpoint, config
from gapbench.models.llamagen.model import LlamaGen
from gapbench.records import InputError, Prompt, Sampling

NORM = "layers.1.attention_norm.weight"


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("whole")
    return {kind: write_checkpoint(place / kind, kind) for kind in ("t2i", "c2i")}


@pytest.fixture
def folder(wholes: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(wholes["t2i"], tmp_path / "llamagen"))


@pytest.fixture
def classes(wholes: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(wholes["c2i"], tmp_path / "llamagen-c2i"))


def load(folder: Path, dtype: str | None = None) -> LlamaGen:
    return zoo.load(str(folder), "cpu", dtype)


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    return str(error.value).replace(f"{folder}/", "")


def same(one: LlamaGen, other: LlamaGen) -> bool:
    pairs = [(one.gpt, other.gpt), (one.parts.vq, other.parts.vq)]
    if one.kind == "t2i":
        pairs.append((one.parts.conditions.t5, other.parts.conditions.t5))
    return all(torch.equal(value, b.state_dict()[key]) for a, b in pairs for key, value in a.state_dict().items())


def tensors(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=False)["model"]


@pytest.mark.parametrize(
    ("name", "side", "count"),
    [
        ("t2i_XL_stage1_256.pt", 16, 777_678_080 + 245_760),
        ("t2i_XL_stage2_512.pt", 32, 777_678_080 + 245_760),
        ("c2i_B_256.pt", 16, 110.9e6),
        ("c2i_B_384.pt", 24, 110.9e6),
        ("c2i_L_256.pt", 16, 342.9e6),
        ("c2i_L_384.pt", 24, 342.9e6),
        ("c2i_XL_384.pt", 24, 774.7e6),
        ("c2i_XXL_384.pt", 24, 1411.0e6),
        ("c2i_3B_384.pt", 24, 3096.7e6),
    ],
)
def test_published_sizes(name: str, side: int, count: float) -> None:
    sizes = config.read(name, None)
    gpt, vq = checkpoint.build(sizes)
    assert sum(value.numel() for value in gpt.state_dict().values()) == pytest.approx(count, rel=5e-4)
    assert (sizes.gpt.side, sizes.vq_name, len(vq.state_dict())) == (side, f"vq_ds16_{name[:3]}", 343)
    assert gpt.config.head_dim in (64, 100)
    if "XL_stage" in name:
        assert len(gpt.state_dict()) == 258
        assert sum(value.numel() for value in gpt.parameters()) == 777_678_080
        assert gpt.state_dict()["cls_embedding.cap_proj.fc1.weight"].shape == (1280, 2048)
        assert gpt.state_dict()["layers.35.feed_forward.w2.weight"].shape == (1280, 3584)


def test_sizes_of_the_finer_tokenizer() -> None:
    with torch.device("meta"):
        vq = checkpoint.VqTokenizer(config.VqConfig(ch_mult=(1, 2, 2, 4)))
    assert sum(value.numel() for value in vq.parameters()) == 70_109_835


def test_every_published_model_of_the_zoo_has_known_sizes() -> None:
    published = [entry for entry in zoo.entries().values() if entry.family == "llamagen"]
    assert len(published) == 9
    for entry in published:
        sizes = config.read(entry.target, None)
        assert not entry.answers
        assert not entry.weighs
        assert f"{sizes.gpt.block_size} image codes" in entry.note
        assert (entry.guidance, entry.repo) == {
            "t2i": (7.5, "peizesun/llamagen_t2i"),
            "c2i": (4.0, "FoundationVision/LlamaGen"),
        }[sizes.gpt.model_type]


def test_buffers_and_arguments_beside_the_tensors_are_no_weights(wholes: dict[str, Path]) -> None:
    model, state = load(wholes["t2i"]), tensors(wholes["t2i"] / "t2i_tiny.pt")
    assert {"freqs_cis", "layers.0.attention.kv_cache.k_cache"} == state.keys() - model.gpt.state_dict().keys()
    assert torch.equal(model.gpt.cls_embedding.uncond_embedding, state["cls_embedding.uncond_embedding"])
    assert model.parts.vq.quantize.embedding.weight.abs().sum() > 0  # of "model", not of "ema"
    assert model.gpt.rotary.shape == (12 + 9, 8, 2)


@pytest.mark.parametrize("below", ["module", "state_dict", None])
def test_where_tensors_may_lie(wholes: dict[str, Path], folder: Path, below: str | None) -> None:
    state = tensors(folder / "t2i_tiny.pt")
    torch.save({below: state, "args": argparse.Namespace(a=1)} if below else state, folder / "t2i_tiny.pt")
    assert same(load(wholes["t2i"]), load(folder))


def test_safetensors(wholes: dict[str, Path], classes: Path) -> None:
    for file in (classes / "c2i_tiny.pt", classes / "vq_ds8_c2i.pt"):
        save_file(tensors(file), file.with_suffix(".safetensors"))
        file.unlink()
    assert same(load(wholes["c2i"]), load(classes))


def test_shards_of_the_text_encoder_and_the_references_place(wholes: dict[str, Path], folder: Path) -> None:
    place = folder / "t5-ckpt" / "flan-t5-xl"
    place.parent.mkdir()
    (folder / "flan-t5-xl").rename(place)
    state = load_file(place / "model.safetensors")
    names, shards = sorted(state), ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    parts = (names[::2], names[1::2])
    for shard, keys in zip(shards, parts, strict=True):
        save_file({key: state[key] for key in keys}, place / shard, {"format": "pt"})
    where = {key: shard for shard, keys in zip(shards, parts, strict=True) for key in keys}
    (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (place / "model.safetensors").unlink()
    model = load(folder)
    assert same(load(wholes["t2i"]), model)
    assert {f"text_encoder/{shard}" for shard in shards} < set(model.describe()["weights"])
    (place / shards[1]).unlink()
    assert f"no whole text encoder: {shards[1]} missing" in refused(folder)
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x"}}))
    assert "weight_map does not name the files" in refused(folder)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtypes(folder: Path, dtype: str) -> None:
    model = load(folder, dtype)
    assert model.gpt.dtype == getattr(torch, dtype)
    assert (
        {value.dtype for value in model.parts.vq.state_dict().values()} == {torch.float32} == {model.gpt.rotary.dtype}
    )
    # T5 overflows in float16.
    assert model.parts.conditions.t5.dtype == {"float16": torch.float32}.get(dtype, model.gpt.dtype)
    assert next(model.draw_codes([Prompt("a", "a red star", 0)], Sampling())).shape == (9,)
    assert model.image_log_likelihood(["a red star"], torch.zeros(1, 9, dtype=torch.int64)).dtype == torch.float32


def test_missing_parts_are_named(folder: Path) -> None:
    (folder / "flan-t5-xl" / "tokenizer.json").unlink()
    (folder / "flan-t5-xl" / "model.safetensors").unlink()
    line = refused(folder)
    assert "flan-t5-xl is no whole text encoder: tokenizer.json, model.safetensors or model.safetensors.index" in line
    assert line.endswith("download google/flan-t5-xl again")
    (folder / "vq_ds8_t2i.pt").rename(folder / "vq_ds8_c2i.pt")  # not interchangeable
    assert "is no whole LlamaGen checkpoint: vq_ds8_t2i.pt is missing" in refused(folder)
    (folder / "t2i_tiny.pt").unlink()
    assert "the language model is missing, a .pt or .safetensors file with a name as t2i_XL" in refused(folder)


def test_a_folder_with_several_language_models_is_ambiguous(folder: Path) -> None:
    (folder / "c2i_other.pt").touch()
    assert "holds several language models: c2i_other.pt, t2i_tiny.pt; give a folder with one" in refused(folder)


def test_names_that_tell_no_sizes(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert refused(folder).startswith("t2i_tiny.pt: the name does not tell the sizes, as t2i_XL_stage1_256.pt")
    (folder / "t2i_tiny.pt").rename(folder / "t2i_XL_stage1_256.pt")
    assert "vq_ds16_t2i.pt is missing" in refused(folder)
    (folder / "vq_ds8_t2i.pt").rename(folder / "vq_ds16_t2i.pt")
    assert "t2i_XL_stage1_256.pt: tensor layers.2.attention.wqkv.weight is missing (and" in refused(folder)


@pytest.mark.parametrize(
    ("file", "edit", "shown"),
    [
        ("t2i_tiny.pt", lambda state: state.pop(NORM), f"t2i_tiny.pt: tensor {NORM} is missing"),
        (
            "t2i_tiny.pt",
            lambda state: state.pop("cls_embedding.uncond_embedding"),
            "tensor cls_embedding.uncond_embedding is missing",
        ),
        ("t2i_tiny.pt", lambda state: state.update(odd=torch.zeros(1)), "tensor odd is unexpected"),
        (
            "t2i_tiny.pt",
            lambda state: state.update({NORM: torch.zeros(9)}),
            f"tensor {NORM} has shape (9,), wanted (32,) by its sizes",
        ),
        ("t2i_tiny.pt", lambda state: state[NORM].fill_(torch.nan), f"tensor {NORM} has values that are not finite"),
        (
            "t2i_tiny.pt",
            lambda state: state.update({NORM: torch.zeros(32).long()}),
            "has dtype torch.int64, wanted a fl",
        ),
        (
            "t2i_tiny.pt",
            lambda state: state.update(words=["a"]),
            "holds no tensors by name, neither below model, module",
        ),
        (
            "vq_ds8_t2i.pt",
            lambda state: state.pop("quant_conv.bias"),
            "vq_ds8_t2i.pt: tensor quant_conv.bias is missing",
        ),
        (
            "vq_ds8_t2i.pt",
            lambda state: state.pop("decoder.conv_blocks.0.attn.2.norm.weight"),
            "tensor decoder.conv_blocks.0.attn.2.norm.weight is missing",
        ),
    ],
)
def test_wrong_tensors_are_named(folder: Path, file: str, edit: object, shown: str) -> None:
    change(folder / file, edit)
    assert shown in refused(folder)


def test_files_that_are_no_checkpoints(folder: Path) -> None:
    file = folder / "t2i_tiny.pt"
    for content, shown in (
        (b"version https://git-lfs.github.com/spec/v1", "t2i_tiny.pt: is a git-LFS pointer; run git lfs pull"),
        (file.read_bytes()[:5000], "cannot be read with weights_only=True: it is damaged or holds more than"),
    ):
        file.write_bytes(content)
        assert shown in refused(folder)
    torch.save({"model": {}, "code": Path("a")}, file)  # of a class that is not on the list
    assert "cannot be read with weights_only=True" in refused(folder)
    torch.save([1], file)
    assert "holds no tensors by name" in refused(folder)


@pytest.mark.parametrize(
    ("edit", "shown"),
    [
        (lambda told: told.pop("gpt"), "config.json: gpt must be an object with the sizes"),
        (lambda told: told["gpt"].pop("n_layer"), "config.json: gpt.n_layer is missing"),
        (lambda told: told["gpt"].update(n_layer=True), "gpt.n_layer must be a positive number, not true"),
        (lambda told: told["gpt"].update(model_type="i2t"), 'gpt.model_type must be one of t2i, c2i, not "i2t"'),
        (
            lambda told: told["gpt"].update(model_type="c2i"),
            "gpt.model_type is c2i, but the language model is t2i_tiny",
        ),
        (lambda told: told["gpt"].update(block_size=8), "gpt.block_size is 8, not a square"),
        (
            lambda told: told["gpt"].update(n_head=5),
            "gpt.dim 32 over gpt.n_head 5 does not make heads of a multiple of 4",
        ),
        (lambda told: told["gpt"].update(n_head=16), "does not make heads of a multiple of 4"),
        (lambda told: told["gpt"].update(vocab_size=41), "gpt.vocab_size is 41, but vq.codebook_size 40"),
        (lambda told: told["vq"].update(ch_mult=[1, 0]), "vq.ch_mult must be a list of positive whole numbers"),
        (lambda told: told["vq"].update(ch=48), "make levels of 48 channels, no multiple of 32"),
        (lambda told: told["gpt"].update(caption_dim=25), "uncond_embedding has shape (12, 24), wanted (12, 25)"),
    ],
)
def test_wrong_configs(folder: Path, edit: object, shown: str) -> None:
    configure(folder, edit)
    assert shown in refused(folder)


def test_wrong_text_encoders(folder: Path) -> None:
    place = folder / "flan-t5-xl"
    state = load_file(place / "model.safetensors")
    gone = "encoder.block.1.layer.1.DenseReluDense.wo.weight"
    save_file({key: value for key, value in state.items() if key != gone}, place / "model.safetensors")
    assert f"flan-t5-xl: tensor {gone} is missing" in refused(folder)
    (place / "model.safetensors").write_bytes((place / "model.safetensors").read_bytes()[:-9])
    assert "cut off in tensor" in refused(folder)
    write_text_encoder(place, d_model=28)
    assert "the text encoder's d_model is 28, but the language model wants 24" in refused(folder)
    write_text_encoder(place, vocab_size=5)
    assert "tokens, the encoder 5" in refused(folder)
    write_text_encoder(place)
    words = json.loads((place / "tokenizer.json").read_text())
    (place / "tokenizer.json").write_text(json.dumps({**words, "post_processor": None}))
    assert "the tokenizer does not end texts with one [eos]" in refused(folder)
    (place / "tokenizer.json").write_text("{}")
    assert "flan-t5-xl: the text encoder cannot be read" in refused(folder)


def test_without_a_connection_the_line_says_what_to_do(hub_cache: Path, folder: Path) -> None:
    with pytest.raises(InputError) as error:
        zoo.load("llamagen-512", "cpu")
    line = str(error.value)
    assert line.startswith(
        "llamagen-512: cannot fetch t2i_XL_stage2_512.pt of peizesun/llamagen_t2i from the hub (HF_H"
    )
    assert "Download t2i_XL_stage2_512.pt and vq_ds16_t2i.pt of peizesun/llamagen_t2i elsewhere" in line
    assert line.endswith("pass their folder: --model DIR (with google/flan-t5-xl in flan-t5-xl/ inside)")
    shutil.rmtree(folder / "flan-t5-xl")
    line = refused(folder)
    assert line.startswith("cannot fetch config.json of google/flan-t5-xl from the hub (HF_HUB_OFFLINE is set")
    assert line.endswith("Download google/flan-t5-xl elsewhere and put it into flan-t5-xl")


def test_the_hubs_cache_is_read(hub_cache: Path, wholes: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def cached(repo: str, commit: str) -> Path:
        place = hub_cache / f"models--{repo.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text(commit)
        return place / "snapshots" / commit

    place = cached("peizesun/llamagen_t2i", "276f5c5")
    place.mkdir(parents=True)
    shutil.copy(wholes["t2i"] / "t2i_tiny.pt", place / "t2i_XL_stage1_256.pt")
    shutil.copy(wholes["t2i"] / "vq_ds8_t2i.pt", place / "vq_ds16_t2i.pt")
    shutil.copytree(wholes["t2i"] / "flan-t5-xl", cached("google/flan-t5-xl", "7d6315d"))
    tiny = config.read("", wholes["t2i"] / "config.json")
    monkeypatch.setattr(config, "read", lambda *_: tiny)
    monkeypatch.setattr(config.Sizes, "vq_name", "vq_ds16_t2i")
    model = zoo.load("llamagen", "cpu")
    told = model.describe()
    assert (told["repo"], told["commit"], model.defaults.guidance) == ("peizesun/llamagen_t2i", "276f5c5", 7.5)
    assert told["weights"]["text_encoder/model.safetensors"]["commit"] == "7d6315d"
    monkeypatch.undo()
    assert same(model, load(wholes["t2i"]))


@pytest.mark.parametrize("kind", ["t2i", "c2i"])
def test_a_run_of_the_miniature(wholes: dict[str, Path], tmp_path: Path, kind: str) -> None:
    out = tmp_path / "run"
    arguments = ["run", "--model", str(wholes[kind]), "--suite", "mini", "--limit", "4", "--device", "cpu"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    manifest = json.loads((out / "run.json").read_text())
    published = {"t2i": {"guidance": 7.5, "top_k": 1000}, "c2i": {"guidance": 4.0, "top_k": 2000}}[kind]
    assert manifest["request"]["sampling"] == {"temperature": 1.0, "top_p": 1.0, "cfg_interval": -1, **published}
    assert manifest["status"] == "complete"
    records = [json.loads(line) for file in (out / "records").glob("*.jsonl") for line in file.read_text().splitlines()]
    assert records
    if kind == "t2i":
        assert not [record for record in records if record["error"]]
        assert len(list((out / "images").rglob("*.png"))) == len(records)
    else:
        assert all("is no class of ImageNet" in record["error"] for record in records)
