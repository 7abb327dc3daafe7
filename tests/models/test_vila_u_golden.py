"""VILA-U against vectors computed with the reference code (golden/vilau; tolerances from its README)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_vila_u import write_golden
from torch import Tensor

from gapbench.models import zoo
from gapbench.models.unified.backbone import positions_after, visible_causal
from gapbench.models.vila_u import drawing, likelihood
from gapbench.models.vila_u.model import VilaU
from gapbench.models.vila_u.sampling import Sampler, code_probs
from gapbench.models.vila_u.text import BEFORE_PICTURES, Text, after_pictures
from gapbench.models.vila_u.vision import to_levels
from gapbench.records import Decoding, Question

NO_PADS = torch.zeros(1, dtype=torch.int64)


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden" / "vilau"


@pytest.fixture(scope="module")
def model(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> VilaU:
    return zoo.load(str(write_golden(tmp_path_factory.mktemp("golden") / "vila-u", golden)), "cpu")


@pytest.fixture(scope="module")
def io(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "io.safetensors")


@pytest.fixture(scope="module")
def results(golden: Path) -> dict:
    return json.loads((golden / "results.json").read_text())


class Ids(Text):
    """The recorded ids in place of a tokenizer: of the prompts "0" and "1" and "", and around a picture."""

    book: dict

    def tokens(self, text: str) -> list[int]:
        about = self.book["understanding"]
        return {BEFORE_PICTURES: about["before"][1:], after_pictures("what"): about["after"]}[text]

    def drawing_row(self, text: str) -> list[int]:
        told = self.book["likelihood"]
        return told["prompts"][int(text)] if text else told["uncond_prompt"]


@pytest.fixture(scope="module")
def speaking(model: VilaU, results: dict) -> VilaU:
    words = model.parts.text
    ids = Ids(words.tokenizer, words.bos, words.eos, words.im_start, words.im_end, words.vocabulary)
    object.__setattr__(ids, "book", results)
    return VilaU(replace(model.parts, text=ids), "golden", model.defaults)


def close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0)


def rows_of(results: dict) -> list[list[int]]:
    told = results["likelihood"]
    return [*told["prompts"], *[told["uncond_prompt"]] * len(told["prompts"])]


def test_files_and_special_tokens(golden: Path, model: VilaU) -> None:
    for name, told in json.loads((golden / "manifest.json").read_text()).items():
        content = (golden / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (told["bytes"], told["sha256"])
    special = json.loads((golden / "config.json").read_text())["special"]
    words = model.parts.text
    assert (words.bos, words.eos) == (special["bos"], special["eos"])
    assert (words.im_start, words.im_end) == (special["im_start"], special["im_end"])
    assert words.vocabulary - 4 == special["im_start"]
    assert words.tokenizer.convert_tokens_to_ids(["<vi_start>", "<vi_end>"]) == [special["vi_start"], special["vi_end"]]


@torch.inference_mode()
def test_encoding_and_decoding(model: VilaU, io: dict[str, Tensor]) -> None:
    vision, codes = model.parts.vision, io["codes"].flatten(1, 2)
    close(vision.encoder(io["image"]), io["siglip_hidden"].flatten(1, 2), 2e-5)
    assert torch.equal(vision.encode(io["image"]), codes)
    close(vision.quantizer.features(codes), io["zq"].flatten(1, 2), 2e-5)
    assert torch.equal(vision.quantizer.vectors(codes), io["code_embeddings"].flatten(1, 2))
    close(model.parts.projector(vision.quantizer.features(codes)), io["projected"], 2e-5)
    close(vision.decode(codes), io["decoded"], 5e-5)
    close(vision.decode(io["random_codes"].flatten(1, 2)), io["random_decoded"], 5e-5)


@torch.inference_mode()
def states(model: VilaU, results: dict, io: dict[str, Tensor]) -> Tensor:
    codes, parts = io["codes"].flatten(1, 2).repeat(2, 1, 1), model.parts
    return likelihood.image_states(model.backbone, parts.projector, parts.vision.quantizer, rows_of(results), codes)


def test_hidden_states(golden: Path, model: VilaU, results: dict, io: dict[str, Tensor], tmp_path: Path) -> None:
    for row, ids, mask in zip(rows_of(results), io["ll_ids"], io["ll_mask"], strict=True):
        assert row == ids[mask.bool()].tolist()
    close(states(model, results, io), io["ll_hidden"], 2e-5)
    scalings = [
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
    ]
    for number, scaling in enumerate(scalings):  # as old and as new versions of transformers write it
        scaled = zoo.load(str(write_golden(tmp_path / str(number), golden, **scaling)), "cpu")
        close(states(scaled, results, io), io["ll_hidden_rope2"], 2e-5)
        assert (model.parts.positions, scaled.parts.positions) == (512, 1024)


@torch.inference_mode()
def test_likelihoods_of_images(speaking: VilaU, results: dict, io: dict[str, Tensor]) -> None:
    parts, told = speaking.parts, results["likelihood"]
    codes, quantizer = io["codes"].flatten(1, 2), parts.vision.quantizer
    vectors = quantizer.vectors(codes[:, :4]).flatten(0, 1)
    logits = parts.depth(states(speaking, results, io)[:2, :4].flatten(0, 1), vectors)
    close(logits.unflatten(0, (2, 4)), io["ll_logits"], 3e-5)

    logs = likelihood.image_log_probs(parts.depth, quantizer, states(speaking, results, io), codes.repeat(2, 1, 1))
    close(logs, io["ll_logprob"], 3e-5)
    assert -logs[:2].mean().item() == pytest.approx(told["image_loss"], abs=1e-5)
    found = speaking.image_log_likelihood(["0", "1", "", ""], codes.repeat(2, 1, 1))
    close(found, torch.tensor(told["logprob_sum"]), 5e-4)


@torch.inference_mode()
def test_what_follows_an_image(model: VilaU, results: dict, io: dict[str, Tensor]) -> None:
    backbone, words = model.backbone, model.parts.text
    for number, row in enumerate(rows_of(results)):
        image = io["projected"][number % 2][None]
        inputs = torch.cat([backbone.embed(torch.tensor([row])), image], dim=1)
        inputs = torch.cat([inputs, backbone.embed(torch.tensor([[words.im_end]]))], dim=1)
        length = inputs.shape[1]
        hidden = backbone.hidden(inputs, visible_causal(NO_PADS, length), positions_after(NO_PADS, length))
        logs = backbone.logits(hidden[0, -2:]).log_softmax(-1)
        close(logs[[0, 1], [words.im_end, words.eos]], io["ll_tail_logprob"][number], 3e-5)


@torch.inference_mode()
def test_answers(speaking: VilaU, results: dict, io: dict[str, Tensor]) -> None:
    told, backbone, parts = results["understanding"], speaking.backbone, speaking.parts
    codes, answer = io["codes"].flatten(1, 2), told["answer"]
    prefix = speaking._prefix([parts.text.before_pictures(1, template=True)] * 2, codes[:, None])
    text = torch.tensor([[*told["after"], *answer[:-1]]] * 2)
    inputs = torch.cat([prefix, backbone.embed(text)], dim=1)
    length = inputs.shape[1]
    hidden = backbone.hidden(inputs, visible_causal(NO_PADS, length), positions_after(NO_PADS, length))
    logits = backbone.logits(hidden[:, -len(answer) :])
    close(logits, io["und_answer_logits"], 3e-5)
    logs = logits.log_softmax(-1).gather(-1, torch.tensor([answer] * 2)[..., None])[..., 0]
    close(logs, io["und_answer_logprob"], 3e-5)

    pictures = [speaking.coded(each) for each in codes]
    assert answer[-1] == parts.text.eos
    found = speaking.caption_log_likelihood(pictures, "what", [(answer[:-1], True)] * 2)
    close(found, torch.tensor(told["answer_logprob_sum"]), 5e-4)
    open_ended = speaking.caption_log_likelihood(pictures, "what", [(answer[:-1], False)] * 2)
    close(open_ended, io["und_answer_logprob"][:, :-1].sum(1), 5e-4)

    asked = [Question(str(number), "what", (picture,)) for number, picture in enumerate(pictures)]
    said = list(speaking.say(asked, [Decoding(6)] * 2))
    assert [list(each.tokens) for each in said] == told["greedy"]


@pytest.mark.parametrize("number", range(3), ids=["greedy", "cfg3", "cfg1_5"])
def test_drawn_codes(model: VilaU, results: dict, io: dict[str, Tensor], number: int) -> None:
    case, parts, told = results["generation"][number], model.parts, results["likelihood"]
    how = Sampler(case["cfg"], temperature=0.0 if case["greedy"] else 1.0)
    name, kept = f"gen_{case['name']}", []
    noise, recorded = io.get(f"{name}.noise"), io.get(f"{name}.guided_logits")
    assert (noise is None) == case["greedy"]
    if noise is not None:
        close(noise.flatten()[:6], torch.tensor(case["rng_probe"]), 0)
        generator = torch.Generator().manual_seed(case["seed"])

    def choose(position: int, depth: int, logits: Tensor) -> Tensor:
        if recorded is not None and position < len(recorded):
            close(logits, recorded[position, depth], 2e-4)
        if noise is None:
            return logits.argmax(-1)
        probs = code_probs(logits, how)
        kept.extend((probs > 0).sum(-1).tolist())
        codes = (probs / noise[position, depth]).argmax(-1)
        assert torch.equal(codes, torch.multinomial(probs, 1, generator=generator)[:, 0])
        return codes

    found = drawing.draw_codes(
        model.backbone,
        parts.projector,
        parts.vision,
        parts.depth,
        told["prompts"],
        told["uncond_prompt"],
        case["cfg"],
        choose,
    )
    assert found.tolist() == case["codes"]
    assert case["kept"] == ([min(kept), max(kept)] if kept else None)
    if (pixels := io.get(f"{name}.pixels")) is not None:
        close(to_levels(parts.vision.decode(found)), pixels, 5e-3)
