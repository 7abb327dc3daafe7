"""VILA-U checkpoints: the published layout is read, and what is wrong with one is said in a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_vila_u import change, configure, pieces, sentencepiece, write_checkpoint
from typer.testing import CliRunner

from gapbench.cli import app
from gapbench.models import zoo
from gapbench.models.vila_u import config
from gapbench.models.vila_u.depth import DepthTransformer
from gapbench.models.vila_u.files import local_files
from gapbench.models.vila_u.model import VilaU
from gapbench.records import InputError

SIGLIP = "rqvaesiglip.siglip_model.vision_model"
BOOK = "rqvaesiglip.quantizer.codebooks"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("whole") / "vila-u")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "vila-u"))


def load(folder: Path) -> VilaU:
    return zoo.load(str(folder), "cpu")


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    return str(error.value).replace(f"{folder}/", "")


def same(one: VilaU, other: VilaU) -> bool:
    parts = ("llama", "projector", "vision", "depth")
    states = [{part: getattr(model.parts, part).state_dict() for part in parts} for model in (one, other)]
    return all(torch.equal(value, states[1][part][key]) for part in parts for key, value in states[0][part].items())


def test_sizes_of_the_published_checkpoints(folder: Path) -> None:
    def tower(width: int, side: int, depth: int, latent: list[int] | None) -> config.Vision:
        def edit(told: dict) -> None:
            told["rqvaesiglip"] |= {"embed_dim": width, "latent_shape": [side, side, width], "n_embed": [16384] * depth}
            told["rqvaesiglip"] |= {"code_shape": [side, side, depth], "decoder_latent_shape": latent}
            told["rqvaesiglip"].pop("siglip_config", None)
            told["rqtransformer"] |= {
                "input_embed_dim_1": width,
                "block_size": [side, side, depth],
                "vocab_size": 16384,
            }

        configure(folder, "vision_tower", edit)
        return config.read(local_files(folder)).vision

    small, large = tower(1024, 16, 4, None), tower(1152, 27, 16, [24, 24])
    assert (small.siglip.image_size, small.siglip.patch_size, small.siglip.num_hidden_layers) == (256, 16, 24)
    assert (large.siglip.image_size, large.siglip.patch_size, large.siglip.intermediate_size) == (384, 14, 4304)
    assert (small.codes, large.depth, small.latent, large.latent) == (16384, 16, None, (24, 24))
    with torch.device("meta"):
        depth = DepthTransformer(config.Depth(1024, 4096, 2560, 40, 6, 4, 16384))
    assert sum(value.numel() for value in depth.parameters()) == 527_145_984  # as the file's size has it
    assert "rqvaesiglip.embed_dim is 768; published towers have 1024 and 1152" in refused_read(folder, 768)


def refused_read(folder: Path, width: int) -> str:
    configure(folder, "vision_tower", lambda told: told["rqvaesiglip"].update(embed_dim=width))
    with pytest.raises(InputError) as error:
        config.read(local_files(folder))
    return str(error.value)


def test_shards_and_pickled_tensors(whole: Path, folder: Path) -> None:
    llm = folder / "llm"
    state = load_file(llm / "model.safetensors")
    names, shards = sorted(state), ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    halves = (names[:9], names[9:])
    for shard, keys in zip(shards, halves, strict=True):
        save_file({key: state[key] for key in keys}, llm / shard)
    where = {key: shard for shard, keys in zip(shards, halves, strict=True) for key in keys}
    (llm / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (llm / "model.safetensors").unlink()
    projector = folder / "mm_projector"
    torch.save(load_file(projector / "model.safetensors"), projector / "pytorch_model.bin")
    (projector / "model.safetensors").unlink()
    assert same(load(whole), load(folder))

    (llm / shards[1]).unlink()
    assert f"no whole VILA-U checkpoint: llm/{shards[1]} missing" in refused(folder)
    (llm / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x"}}))
    assert refused(folder).startswith("llm/model.safetensors.index.json: weight_map does not name the files")


def test_one_code_book_for_all_depths(folder: Path) -> None:
    configure(folder, "vision_tower", lambda told: told["rqvaesiglip"].update(shared_codebook=True))
    quantizer = load(folder).parts.vision.quantizer
    assert len(quantizer.codebooks) == 1
    (codes,) = quantizer.encode(torch.randn(1, 9, 16)).unbind(0)
    assert torch.equal(quantizer.features(codes), quantizer.codebooks[0].weight[codes].sum(-2))
    change(folder, "vision_tower", lambda state: [state.pop(f"{BOOK}.{n}.weight") for n in (1, 2)])
    assert torch.equal(load(folder).parts.vision.quantizer.codebooks[0].weight, quantizer.codebooks[0].weight)


def test_the_padding_code_is_never_chosen(folder: Path) -> None:
    quantizer = load(folder).parts.vision.quantizer
    padding = quantizer.codebooks[0].weight[-1].expand(1, 9, -1)
    assert quantizer.encode(padding).max() < 40


def test_missing_parts_are_named(folder: Path) -> None:
    shutil.rmtree(folder / "mm_projector")
    (folder / "llm" / "tokenizer.model").unlink()
    line = refused(folder)
    assert (
        "mm_projector/config.json, llm/tokenizer.model or llm/tokenizer.json, mm_projector/model.safetensors or" in line
    )


@pytest.mark.parametrize(
    ("part", "key", "shown"),
    [
        ("llm", "model.norm.weight", "llm/model.safetensors: tensor model.norm.weight is missing"),
        ("mm_projector", "layers.2.bias", "mm_projector/model.safetensors: tensor layers.2.bias is missing"),
        ("vision_tower", f"{BOOK}.1.weight", f"vision_tower/model.safetensors: tensor {BOOK}.1.weight is missing"),
        ("vision_tower", "rqtransformer.pos_emb_d", "tensor rqtransformer.pos_emb_d is missing"),
        ("vision_tower", f"{SIGLIP}.encoder.layers.1.mlp.fc1.weight", "encoder.layers.1.mlp.fc1.weight is missing"),
    ],
)
def test_missing_tensors_are_named(folder: Path, part: str, key: str, shown: str) -> None:
    change(folder, part, lambda state: state.pop(key))
    assert shown in refused(folder)


def test_other_wrong_tensors(folder: Path) -> None:
    change(folder, "vision_tower", lambda state: state.update({"rqtransformer.odd": torch.zeros(1)}))
    assert "tensor rqtransformer.odd is unexpected" in refused(folder)
    change(folder, "vision_tower", lambda state: [state.pop("rqtransformer.odd"), state.pop("rqtransformer.pos_emb_d")])
    change(folder, "vision_tower", lambda state: state.update({"rqtransformer.pos_emb_d": torch.zeros(1, 4, 24)}))
    assert "pos_emb_d has shape (1, 4, 24), wanted (1, 3, 24) by the config" in refused(folder)
    change(folder, "llm", lambda state: state["lm_head.weight"].fill_(torch.nan))
    assert "tensor lm_head.weight has values that are not finite" in refused(folder)
    change(folder, "llm", lambda state: state.update({"lm_head.weight": torch.zeros(9, 32)}))
    assert "tensor lm_head.weight has shape (9, 32)" in refused(folder)


@pytest.mark.parametrize(
    ("part", "edit", "shown"),
    [
        ("", lambda told: told.update(image_aspect_ratio="pad"), 'image_aspect_ratio is "pad"; only "resize"'),
        ("llm", lambda told: told.pop("hidden_size"), "llm/config.json: hidden_size must be a positive whole number"),
        ("llm", lambda told: told.update(model_type="qwen2"), 'model_type is "qwen2"'),
        ("llm", lambda told: told.update(num_attention_heads=5), "llm/config.json: describes no Llama"),
        ("mm_projector", lambda told: told.update(mm_projector_type="linear"), "only mlpNx_gelu can be read"),
        ("vision_tower", lambda told: told.pop("rqtransformer"), "rqtransformer.block_size must be a list"),
        ("vision_tower", lambda told: told["rqtransformer"].update(vocab_size=41), "vocab_size says 41, but"),
        ("vision_tower", lambda told: told["rqtransformer"]["head"]["block"].update(n_head=7), "no multiple of n_head"),
        ("vision_tower", lambda told: told["rqvaesiglip"].update(code_shape=[3, 2, 3]), "code_shape [3, 2, 3]; wanted"),
        ("vision_tower", lambda told: told["rqvaesiglip"].update(n_embed=[40, 40, 41]), "n_embed must be one number"),
        ("vision_tower", lambda told: told["rqvaesiglip"].update(decoder_latent_shape=[6]), "must be height and width"),
    ],
)
def test_wrong_configs(folder: Path, part: str, edit: object, shown: str) -> None:
    configure(folder, part, edit)
    assert shown in refused(folder)


def test_wrong_tokenizers(folder: Path) -> None:
    file = folder / "llm" / "tokenizer.model"
    for content, shown in [
        (sentencepiece([*pieces(), ("more", 1)]), "it has"),
        (sentencepiece(pieces(), kind=1), "only a byte-pair model can be read"),
        (b"version https://git-lfs.github.com/spec/v1", "the tokenizer cannot be read"),
        (sentencepiece(pieces())[:-1], "the tokenizer cannot be read"),
        (sentencepiece(pieces()[:-9]), f"it has {len(pieces()) - 5} tokens; the model has {len(pieces()) + 4}"),
        (b"", "no SentencePiece model"),
    ]:
        file.write_bytes(content)
        assert refused(folder).startswith("llm/tokenizer.model: ")
        assert shown in refused(folder)


def test_a_converted_tokenizer_is_read_as_well(whole: Path, folder: Path) -> None:
    before = load(whole).parts.text
    before.tokenizer.save_pretrained(folder / "llm")
    (folder / "llm" / "tokenizer.model").unlink(missing_ok=True)
    after = load(folder).parts.text
    for text in ("the red star", " two  spaces\nand é", "a<im_start>"):
        assert after.tokens(text) == before.tokens(text)
    assert (after.bos, after.eos, after.im_start) == (before.bos, before.eos, before.im_start)


def test_without_a_connection_the_line_says_what_to_do(hub_cache: Path) -> None:
    with pytest.raises(InputError) as error:
        zoo.load("vila-u", "cpu")
    line = str(error.value)
    assert line.startswith("vila-u: cannot fetch config.json of mit-han-lab/vila-u-7b-256 from the hub (HF_HUB_OFFLINE")
    assert line.endswith("pass the folder: --model DIR (with llm/, vision_tower/, mm_projector/ inside)")


def test_the_hubs_cache_is_read(hub_cache: Path, whole: Path) -> None:
    repo = hub_cache / "models--mit-han-lab--vila-u-7b-256"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("89ee1eb")
    shutil.copytree(whole, repo / "snapshots" / "89ee1eb")
    model = zoo.load("vila-u", "cpu")
    told = model.describe()
    assert (told["repo"], told["commit"], model.defaults.guidance) == ("mit-han-lab/vila-u-7b-256", "89ee1eb", 3.0)
    assert same(model, load(whole))


def test_a_run_of_the_miniature(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["run", "--model", str(whole), "--suite", "mini", "--limit", "4", "--device", "cpu", "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    manifest = json.loads((out / "run.json").read_text())
    assert manifest["request"]["sampling"] == {"guidance": 3.0, "temperature": 1.0, "top_k": 900, "top_p": 0.96}
    records = [json.loads(line) for file in (out / "records").glob("*.jsonl") for line in file.read_text().splitlines()]
    assert len(records) > 20
    assert not [record for record in records if record["error"]]
    assert any((out / "images").rglob("*.png"))
