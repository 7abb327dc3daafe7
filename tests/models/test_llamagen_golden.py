"""LlamaGen against vectors computed with the reference code (golden/llamagen; tolerances from its README)."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from gapbench.models.llamagen import checkpoint, config
from gapbench.models.llamagen.captions import cleaned
from gapbench.models.llamagen.drawing import draw_codes
from gapbench.models.llamagen.gpt import Condition, Gpt, rotary, visible_causal
from gapbench.models.llamagen.likelihood import image_log_probs
from gapbench.models.llamagen.sampling import Sampler, code_probs
from gapbench.models.llamagen.text import at_the_end
from gapbench.models.llamagen.vq import VqTokenizer, crop, to_levels, to_pixels
from gapbench.models.unified.sampling import guided
from gapbench.models.unified.weights import Filled, fill

CPU = torch.device("cpu")
SETTINGS = ("greedy", "greedy_cfg", "default", "topk_temp", "topp", "nocfg", "interval", "nomask_single")


def close(found: Tensor, wanted: Tensor, atol: float) -> None:
    torch.testing.assert_close(found, wanted, atol=atol, rtol=0)


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden" / "llamagen"


@pytest.fixture(scope="module")
def told(golden: Path) -> dict:
    return json.loads((golden / "config.json").read_text())


@pytest.fixture(scope="module")
def gpt(golden: Path, told: dict) -> Gpt:
    sizes = {name: value for name, value in told["gpt"].items() if name in config.GptConfig.__dataclass_fields__}
    gpt = Gpt(config.GptConfig(**sizes))
    assert (gpt.config.ffn_hidden, gpt.config.head_dim, gpt.config.side) == tuple(
        told["gpt"][name] for name in ("ffn_hidden", "head_dim", "grid")
    )
    fill({"": Filled(gpt, torch.float32)}, [golden / "gpt.safetensors"], CPU, checkpoint.GPT_BUFFERS)
    return gpt.eval()


@pytest.fixture(scope="module")
def vq(golden: Path, told: dict) -> VqTokenizer:
    sizes = {name: value for name, value in told["vq"].items() if name in config.VqConfig.__dataclass_fields__}
    vq = VqTokenizer(config.VqConfig(**{**sizes, "ch_mult": tuple(sizes["ch_mult"])}))
    assert vq.config.downsampling == told["vq"]["downsample"]
    fill({"": Filled(vq, torch.float32)}, [golden / "vq.safetensors"], CPU, checkpoint.VQ_BUFFERS)
    return vq


@pytest.fixture(scope="module")
def forward(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "forward.safetensors")


@pytest.fixture(scope="module")
def losses(golden: Path) -> dict:
    return json.loads((golden / "forward.json").read_text())


@pytest.fixture(scope="module")
def condition(gpt: Gpt, forward: dict[str, Tensor]) -> Condition:
    with torch.no_grad():
        return gpt.cls_embedding.condition(forward["cond"], forward["cond_mask"].bool())


def test_features_stand_at_the_end(forward: dict[str, Tensor]) -> None:
    moved, visible = at_the_end(forward["t5_features"], forward["t5_mask"], forward["cond"].shape[1])
    assert torch.equal(moved, forward["cond"])
    assert torch.equal(visible.long(), forward["cond_mask"].long())


def test_conditions_angles_and_masks(gpt: Gpt, forward: dict[str, Tensor], condition: Condition) -> None:
    close(condition.given, forward["cond_embeddings"], 1e-5)
    close(rotary(gpt.config), forward["freqs_cis"], 1e-6)
    assert torch.equal(visible_causal(condition.visible, forward["visible"].shape[1]), forward["visible"].bool())


@torch.inference_mode()
def test_logits(gpt: Gpt, forward: dict[str, Tensor], condition: Condition) -> None:
    codes = forward["codes"]
    close(gpt.image_logits(condition.given, condition.visible, codes), forward["image_logits"], 3e-5)
    close(gpt.image_logits(condition.without, condition.visible, codes), forward["uncond_image_logits"], 3e-5)
    everything = torch.ones_like(condition.visible)
    close(gpt.image_logits(condition.given, everything, codes), forward["nomask_image_logits"], 3e-5)


@torch.inference_mode()
def test_hidden_slots_may_be_left_out(gpt: Gpt, forward: dict[str, Tensor]) -> None:
    longest = int(forward["cond_mask"].sum(dim=1).max())
    cut = gpt.cls_embedding.condition(forward["cond"][:, -longest:], forward["cond_mask"][:, -longest:].bool())
    close(gpt.image_logits(cut.given, cut.visible, forward["codes"]), forward["image_logits"], 3e-5)
    close(gpt.image_logits(cut.without, cut.visible, forward["codes"]), forward["uncond_image_logits"], 3e-5)


@torch.inference_mode()
def test_likelihoods(gpt: Gpt, forward: dict[str, Tensor], losses: dict, condition: Condition) -> None:
    without = condition._replace(given=condition.without)
    for name, given, guidance, atol in (
        ("logprob", condition, 1.0, 3e-5),
        ("uncond_logprob", without, 1.0, 3e-5),
        ("guided_logprob", condition, 7.5, 2e-4),
    ):
        found = image_log_probs(gpt, given, forward["codes"], guidance)
        close(found, forward[name], atol)
        for wanted in (torch.tensor(losses[f"{name}_sum"]), forward.get(f"{name}_sum", found.sum(dim=1))):
            close(found.sum(dim=1), wanted, 3e-4)


@torch.inference_mode()
def test_losses(gpt: Gpt, forward: dict[str, Tensor], losses: dict, condition: Condition) -> None:
    told, codes = losses["train"], forward["codes"]
    loss = -image_log_probs(gpt, condition, codes)
    valid = torch.tensor(told["valid"])[:, None].expand_as(loss)
    assert ((loss * valid).sum() / max(int(valid.sum()), 1)).item() == pytest.approx(told["loss"], abs=1e-5)
    assert loss.mean().item() == pytest.approx(told["loss_without_valid"], abs=1e-5)
    for case in told["drop"]:
        random = torch.Generator().manual_seed(case["seed"])
        dropped = torch.rand(len(codes), generator=random) < case["class_dropout_prob"]
        assert dropped.tolist() == case["dropped"]
        given = torch.where(dropped[:, None, None], condition.without, condition.given)
        found = image_log_probs(gpt, condition._replace(given=given), codes)
        assert -found.mean().item() == pytest.approx(case["loss"], abs=1e-5)


@pytest.mark.parametrize("name", SETTINGS)
@torch.inference_mode()
def test_drawn_codes(golden: Path, gpt: Gpt, forward: dict[str, Tensor], name: str) -> None:
    book = {case["name"]: case for case in json.loads((golden / "generate.json").read_text())["settings"]}
    assert set(book) == set(SETTINGS)
    case, trace = book[name], load_file(golden / "generate.safetensors")
    visible = forward["cond_mask"][case["rows"]].bool()
    visible = visible if case["mask"] else torch.ones_like(visible)
    condition = gpt.cls_embedding.condition(forward["cond"][case["rows"]], visible)
    how = Sampler(case["cfg_scale"], case["temperature"], case["top_k"], case["top_p"], case["cfg_interval"])
    wanted, seen = torch.tensor(case["codes"]), []

    def choose(position: int, probs: Tensor) -> Tensor:
        seen.append(probs)
        return (probs / trace[f"{name}.noise"][position] if case["sample"] else probs).argmax(dim=-1)

    codes = draw_codes(gpt, condition, torch.arange(len(wanted)), how, choose)
    assert torch.equal(codes, wanted)
    if case["sample"]:
        assert trace[f"{name}.noise"][0].flatten()[:6].tolist() == case["rng_probe"]
    if f"{name}.raw_logits" in trace:
        close(torch.stack(seen), trace[f"{name}.probs"], 3e-5)
        raw = gpt.image_logits(*condition.rows(both=True), wanted.repeat(2, 1))
        close(raw.transpose(0, 1), trace[f"{name}.raw_logits"], 3e-5)
        close(guided(raw, how.guidance).transpose(0, 1), trace[f"{name}.guided_logits"], 2e-4)
        for logits, probs in zip(trace[f"{name}.guided_logits"], trace[f"{name}.probs"], strict=True):
            close(code_probs(logits, how), probs, 3e-5)


def check_tokenizer(vq: VqTokenizer, io: dict[str, Tensor]) -> None:
    numbers = [name.removeprefix("image_") for name in io if name.startswith("image_")]
    assert numbers
    for number in numbers:
        wanted = {name.removesuffix(f"_{number}"): value for name, value in io.items() if name.endswith(f"_{number}")}
        close(vq.hidden(wanted["image"]), wanted["z"], 3e-5)
        assert torch.equal(vq.encode(wanted["image"]), wanted["codes"])
        height, width = wanted["z"].shape[-2:]
        close(vq.quantize.vectors(wanted["codes"].unflatten(1, (height, width))), wanted["quant"], 1e-6)
        close(vq.decode(wanted["grid"], height, width), wanted["decoded"], 1e-4)
        close(vq.decode(wanted["codes"], height, width), wanted["recon"], 1e-4)


@torch.inference_mode()
def test_tokenizer(golden: Path, vq: VqTokenizer) -> None:
    check_tokenizer(vq, load_file(golden / "vq_io.safetensors"))


def mixed(x: np.ndarray) -> np.ndarray:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    x ^= x >> np.uint32(16)
    return x


def by_formula(name: str, shape: list[int], salt: str, numbers: np.ndarray) -> Tensor:
    """The weights of a tensor, from its name and shape (README, section 4). numbers: 0, 1, ..., mixed."""
    start = np.uint32(zlib.crc32(f"{salt}/{name}".encode()))
    r = (mixed(numbers[: np.prod(shape)] + start) >> np.uint32(8)) * 2.0**-23 - 1.0
    if len(shape) > 1:
        values = np.sqrt(3.0 / np.prod(shape[1:])) * r
    else:
        values = 1.0 + 0.25 * r if name.endswith(".weight") else 0.1 * r
    return torch.from_numpy(values.astype(np.float32)).view(*shape)


@torch.inference_mode()
def test_tokenizer_of_the_published_sizes(golden: Path) -> None:
    formula = json.loads((golden / "vq16_formula.json").read_text())
    unused = "quantize.codebook_used"
    names = sorted(name for name in formula["shapes"] if name != unused)
    numbers = mixed(np.arange(max(np.prod(shape) for shape in formula["shapes"].values()), dtype=np.uint32))
    state = {name: by_formula(name, formula["shapes"][name], formula["salt"], numbers) for name in names}
    hashed = hashlib.sha256()
    for name in names:
        hashed.update(state[name].numpy().tobytes())
    assert hashed.hexdigest() == formula["sha256"]
    with torch.device("meta"):
        vq = VqTokenizer(config.VqConfig())
    vq.load_state_dict(state, assign=True)
    assert sum(value.numel() for value in vq.parameters()) == 71_883_403
    check_tokenizer(vq, load_file(golden / "vq16_io.safetensors"))


def test_names_and_shapes_of_the_published_tokenizer(golden: Path) -> None:
    shapes = json.loads((golden / "vq16_formula.json").read_text())["shapes"]
    with torch.device("meta"):
        state = VqTokenizer(config.VqConfig()).state_dict()
    wanted = {name: list(value.shape) for name, value in state.items()}
    assert {name: shape for name, shape in shapes.items() if name != "quantize.codebook_used"} == wanted


def test_pictures_become_pixels(golden: Path, told: dict) -> None:
    tensors = load_file(golden / "preprocess.safetensors")
    for number, side in enumerate(told["crop_sizes"]):
        image = Image.fromarray(tensors[f"in_{number}"].numpy())
        assert np.array_equal(np.array(crop(image, side)), tensors[f"crop_{number}"].numpy())
        close(to_pixels(image, side), tensors[f"out_{number}"], 1e-6)


def test_levels(told: dict) -> None:
    assert to_levels(torch.tensor(told["post"]["x"])).tolist() == told["post"]["uint8"]


def test_captions(golden: Path) -> None:
    for case in json.loads((golden / "captions.json").read_text()):
        assert cleaned(case["text"]) == case["cleaned"]
