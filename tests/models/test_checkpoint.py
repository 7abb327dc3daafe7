"""A checkpoint is loaded whole and exact; what is wrong with one is said in a line that names it."""

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import CLIP, MAGVIT, as_bin, change, configure, fails, load_folder, same
from safetensors.torch import load_file, save_file
from torch import Tensor

from gapbench.miniature import tokenizer
from gapbench.models.show_o import checkpoint, files
from gapbench.models.show_o.checkpoint import ShowOConfig
from gapbench.models.show_o.magvit import Magvit, MagvitConfig
from gapbench.records import InputError

pytestmark = pytest.mark.usefixtures("hub_cache")
FIRST = "showo.model.layers.0.mlp.fc1.weight"

# ---------------------------------------------------------------------------------------------------------------------
# What is loaded


def test_the_golden_model_gives_the_golden_logits(folder: Path, shared: Path) -> None:
    parts = load_folder(folder)
    t2i = load_file(shared / "golden" / "showo" / "t2i.safetensors")
    with torch.no_grad():
        logits = parts.phi(t2i["input_ids"], attention_mask=t2i["visible"][:, None], use_cache=False).logits
    valid = t2i["valid"]
    assert (logits - t2i["all_logits"])[valid].abs().max() <= 1e-5


def test_parts(folder: Path) -> None:
    parts = load_folder(folder)
    layout = parts.layout
    assert (layout.text_vocabulary, layout.codebook_size, layout.image_tokens, layout.max_text) == (300, 64, 16, 128)
    assert layout.eot == parts.tokenizer.eos_token_id == parts.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert len(parts.tokenizer) == len(set(parts.tokenizer.get_vocab().values()))
    assert not any(module.training for module in (parts.phi, parts.magvit))
    assert (parts.projector, parts.clip) == (None, None)
    weights = folder / "pytorch_model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert parts.provenance["name"] == "tiny"
    assert parts.provenance["folder"] == str(folder)
    assert parts.provenance["weights"]["transformer"] == {"file": weights.name, "sha256": digest}
    assert parts.provenance["weights"].keys() == {"transformer", "magvit"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_the_language_models_and_the_image_tokenizer_stays_in_float32(
    folder: Path, dtype: torch.dtype
) -> None:
    parts = load_folder(folder, dtype)
    stored = load_file(folder / "pytorch_model.safetensors")
    assert {p.dtype for p in parts.phi.parameters()} == {dtype}
    assert torch.equal(parts.phi.lm_head.weight, stored["showo.lm_head.weight"].to(dtype))
    assert {p.dtype for p in parts.magvit.parameters()} == {torch.float32}
    assert parts.magvit.quantize.power_vals.tolist() == [32, 16, 8, 4, 2, 1]


def test_rotary_frequencies_are_those_of_a_model_built_the_usual_way(folder: Path) -> None:
    from transformers import PhiForCausalLM

    parts = load_folder(folder, torch.bfloat16)
    usual = dict(PhiForCausalLM(parts.phi.config).named_buffers())
    found = dict(parts.phi.named_buffers())
    assert found.keys() == usual.keys()
    assert all(torch.equal(found[key], usual[key]) and found[key].dtype == torch.float32 for key in usual)
    assert not any(tensor.is_meta for tensor in (*parts.phi.parameters(), *parts.magvit.buffers()))


def test_the_model_does_not_change_with_its_file(folder: Path) -> None:
    parts = load_folder(folder)
    before = parts.phi.lm_head.weight.clone()
    path = folder / "pytorch_model.safetensors"
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        stream.write(bytes(path.stat().st_size // 2))
    assert torch.equal(parts.phi.lm_head.weight, before)


def test_full_size_has_the_published_tensors(shared: Path, tmp_path: Path) -> None:
    from transformers.activations import ACT2FN

    known = json.loads((shared / "golden" / "showo" / "showo_1p3b_shapes.json").read_text())
    path = tmp_path / "config.json"
    values = {"codebook_size": 8192, "llm_vocab_size": 50295, "mask_token_id": 58497, "num_vq_tokens": 1024}
    path.write_text(json.dumps({"_class_name": "Showo", **values, "vocab_size": 58498, "w_clip_vit": True}))
    phi, projector = checkpoint.build_transformer(ShowOConfig.from_file(path), path)
    assert {f"showo.{key}": list(value.shape) for key, value in phi.state_dict().items()} == known["tensors"]
    assert sum(p.numel() for p in phi.parameters()) == known["parameters"] == 1_448_176_770
    shapes = {f"mm_projector.{key}": list(value.shape) for key, value in projector.state_dict().items()}
    assert shapes == known["extra_tensors_w_clip_vit"]
    config = phi.config
    assert config.rope_parameters == {"rope_theta": 10000.0, "partial_rotary_factor": 0.5, "rope_type": "default"}
    assert (config.layer_norm_eps, config.num_attention_heads) == (1e-5, 32)
    x = torch.linspace(-6, 6, 1001)
    torch.testing.assert_close(ACT2FN[config.hidden_act](x), ACT2FN["gelu_new"](x), atol=1e-6, rtol=0)
    assert checkpoint.build_magvit(None, 8192, path).config == MagvitConfig()


def test_miniatures_writer_and_this_reader_agree(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, PhiConfig, PhiForCausalLM

    from gapbench.miniature import train
    from gapbench.models.show_o.layout import Layout

    tokenizer.build(tmp_path)
    words = AutoTokenizer.from_pretrained(tmp_path)
    layout = Layout(len(words), 2**train.MAGVIT.bits, 36, words.eos_token_id, train.MAX_TEXT)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        phi = PhiForCausalLM(PhiConfig(**{**train.PHI, "vocab_size": layout.vocabulary}))
        magvit = Magvit(train.MAGVIT)
    train.save_transformer(phi, layout, tmp_path)
    train.save_magvit(magvit, tmp_path / "magvitv2")
    parts = load_folder(tmp_path)
    assert parts.layout == layout
    assert parts.phi.num_parameters() == phi.num_parameters()
    assert same(parts.phi, phi.bfloat16().float())
    assert parts.magvit.config == train.MAGVIT


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_clip_variant(clip_folder: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    encoder = clip_folder / files.CLIP_FOLDER
    stored = load_file(encoder / "model.safetensors")
    if suffix == ".bin":  # as openai publishes it: the text encoder is in the file too
        torch.save({**stored, "text_model.final_layer_norm.bias": torch.ones(2)}, encoder / "pytorch_model.bin")
        (encoder / "model.safetensors").unlink()
    capfd.readouterr()
    parts = load_folder(clip_folder, torch.bfloat16)
    assert capfd.readouterr() == ("", "")
    weights = load_file(clip_folder / "pytorch_model.safetensors")
    assert torch.equal(parts.projector[2].weight, weights["mm_projector.2.weight"].bfloat16())
    assert parts.projector(torch.ones(1, 8, dtype=torch.bfloat16)).shape == (1, 64)
    assert parts.clip.dtype == torch.bfloat16
    assert parts.clip(torch.zeros(1, 3, 28, 28, dtype=torch.bfloat16)).last_hidden_state.shape == (1, 5, 8)
    name = next(key for key in stored if key.endswith("class_embedding"))
    found = next(p for key, p in parts.clip.named_parameters() if key.endswith("class_embedding"))
    assert torch.equal(found, stored[name].bfloat16())
    assert parts.provenance["weights"]["clip"]["file"].endswith(suffix)


# ---------------------------------------------------------------------------------------------------------------------
# What can be wrong


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"vocab_size": 374}, "vocab_size is 374, but llm_vocab_size 300 + 10 special tokens + codebook_size 64"),
        ({"mask_token_id": 300}, "mask_token_id is 300, not the last of 375 tokens"),
        ({"num_vq_tokens": 15}, "num_vq_tokens is 15, not a square"),
        ({"num_vq_tokens": "absent"}, "num_vq_tokens is missing"),
        ({"codebook_size": "64"}, 'codebook_size must be a positive whole number, not "64"'),
        ({"codebook_size": True}, "codebook_size must be a positive whole number, not true"),
        ({"max_seq_length": 0}, "max_seq_length must be a positive whole number, not 0"),
        ({"w_clip_vit": "no"}, 'w_clip_vit must be true or false, not "no"'),
        ({"phi_config": [1]}, "phi_config must be an object, not [1]"),
        ({"phi_config": {"hidden_size": "wide"}}, "phi_config describes no Phi model"),
        ({"_class_name": "Showo2Qwen2_5"}, '_class_name is "Showo2Qwen2_5"; only Show-o version 1'),
    ],
)
def test_wrong_config(folder: Path, values: dict[str, object], said: str) -> None:
    configure(folder, **values)
    path = folder / "config.json"
    # The config alone, so that a broken w_clip_vit does not send the search to the hub.
    with pytest.raises(InputError) as error:
        checkpoint.build_transformer(ShowOConfig.from_file(path), path)
    assert str(error.value).startswith(f"{path}: {said}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_broken_config(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    assert str(folder / "config.json") in fails(folder)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda s: s.pop(FIRST), f"tensor {FIRST} is missing"),
        (lambda s: [s.pop(key) for key in list(s) if "fc2" in key], "layers.0.mlp.fc2.weight is missing (and 5 more)"),
        (lambda s: s.update(extra=torch.ones(1)), "tensor extra is unexpected"),
        (lambda s: s.update({"mm_projector.0.bias": torch.ones(1)}), "tensor mm_projector.0.bias is unexpected"),
        (lambda s: s.update({FIRST: torch.ones(2, 3)}), f"tensor {FIRST} has shape (2, 3), wanted (160, 64)"),
        (
            lambda s: s.update({"showo.lm_head.bias": torch.ones(320)}),
            "tensor showo.lm_head.bias has shape (320,), wanted (375,); the vocabulary differs from the config's",
        ),
        (lambda s: s[FIRST][3, 4].fill_(float("nan")), f"tensor {FIRST} has values that are not finite"),
        (lambda s: s[FIRST][3, 4].fill_(float("-inf")), f"tensor {FIRST} has values that are not finite"),
        (lambda s: s.update({FIRST: torch.ones(160, 64, dtype=torch.int8)}), f"tensor {FIRST} has dtype torch.int8"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_wrong_weights(folder: Path, edit: Callable[[dict[str, Tensor]], object], said: str, suffix: str) -> None:
    change(folder, edit)
    if suffix == ".bin":
        as_bin(folder / "pytorch_model.safetensors")
    message = fails(folder)
    assert said in message
    assert f"pytorch_model{suffix}" in message


def test_values_beyond_the_dtype(folder: Path) -> None:
    change(folder, lambda state: state[FIRST][0].fill_(1e5))
    load_folder(folder)
    with pytest.raises(InputError, match=f"tensor {FIRST} has values that do not fit torch.float16"):
        load_folder(folder, torch.float16)


def test_truncated_safetensors_names_the_tensor(folder: Path) -> None:
    path = folder / "pytorch_model.safetensors"
    whole = path.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header = {k: v for k, v in json.loads(whole[8 : 8 + length]).items() if k != "__metadata__"}
    begin, end = header[FIRST]["data_offsets"]
    for offset in (begin, end - 1):
        path.write_bytes(whole[: 8 + length + offset])
        assert f"cut off in tensor {FIRST}; it has {8 + length + offset} of {len(whole)} bytes" in fails(folder)
    path.write_bytes(whole[:100])
    assert "cut off in its header" in fails(folder)


@pytest.mark.parametrize("part", ["", "magvitv2", files.CLIP_FOLDER])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_files_that_are_no_weights(clip_folder: Path, part: str, suffix: str) -> None:
    place = clip_folder / part
    for path in place.glob("*model.*"):
        path.unlink()
    name = "model.safetensors" if suffix == ".safetensors" else "pytorch_model.bin"  # known in every part
    path = place / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5792738504\n")
    assert fails(clip_folder) == f"{path}: is a git-LFS pointer; run git lfs pull"
    for text in ("", "no such luck", "<html>" * 100):
        path.write_text(text)
        message = fails(clip_folder)
        assert ("not a safetensors file" if suffix == ".safetensors" else "cannot be read") in message


class Code:
    """Unpickling it would run code of ours."""

    def __reduce__(self) -> tuple[object, ...]:
        return print, ("ran",)


def test_bin_is_read_without_running_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "pytorch_model.bin"
    (folder / "pytorch_model.safetensors").unlink()
    torch.save({"x": Code()}, path)
    assert "cannot be read with weights_only=True" in fails(folder)
    assert capsys.readouterr().out == ""
    torch.save({"state_dict": {"x": torch.ones(1)}}, path)
    assert "holds something other than tensors by name" in fails(folder)


def test_old_bin_format(folder: Path, golden: Path) -> None:
    state = load_file(folder / "pytorch_model.safetensors")
    (folder / "pytorch_model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert same(load_folder(folder).phi, load_folder(golden).phi)


def test_wrong_companions(folder: Path) -> None:
    configure(folder, llm_vocab_size=20, vocab_size=95, mask_token_id=94)
    assert "the tokenizer has 152 tokens, but llm_vocab_size is 20" in fails(folder)
    configure(folder, llm_vocab_size=300, codebook_size=32, vocab_size=343, mask_token_id=342)
    message = fails(folder)
    assert "embed_tokens.weight has shape (375, 64), wanted (343, 64); the vocabulary differs" in message
    configure(folder, codebook_size=64, vocab_size=375, mask_token_id=374)
    (folder / "magvitv2" / "config.json").write_text(json.dumps({**MAGVIT.to_dict(), "bits": 5}))
    assert "codebook_size is 64, but the image tokenizer" in fails(folder)
    (folder / "magvitv2" / "config.json").write_text('{"sizes": 3}')
    assert "unknown keys in the MAGVIT-v2 config: sizes" in fails(folder)
    (folder / "tokenizer.json").write_text("{")
    assert "the tokenizer cannot be read" in fails(folder)


def test_clip_of_another_size(clip_folder: Path) -> None:
    configure(clip_folder, clip_config={**CLIP, "image_size": 336})
    assert "CLIP's image_size is 28, but the checkpoint wants 336" in fails(clip_folder)


def test_missing_tensors_of_clip(clip_folder: Path) -> None:
    path = clip_folder / files.CLIP_FOLDER / "model.safetensors"
    state = load_file(path)
    gone = next(key for key in state if key.endswith("class_embedding"))
    del state[gone]
    save_file(state, path, {"format": "pt"})
    message = fails(clip_folder)
    assert "class_embedding is missing" in message
