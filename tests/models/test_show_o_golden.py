"""Show-o against vectors computed with the reference code (golden/showo; tolerances from its README)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import plain_show_o
from gapbench.models.show_o import checkpoint
from gapbench.models.show_o.answering import discrete_picture_cache
from gapbench.models.show_o.drawing import draw_codes
from gapbench.models.show_o.layout import Layout, visible_answering, visible_drawing
from gapbench.models.show_o.sampling import GivenNoise, MaskGit, SharedNoise, remask_count, sample_codes
from gapbench.models.unified.answering import decode
from gapbench.models.unified.backbone import Backbone
from gapbench.models.unified.sampling import next_token_probs

DRAWERS = {"cached": draw_codes, "plain": plain_show_o.draw_codes}


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden" / "showo"


@pytest.fixture(scope="module")
def layout(golden: Path) -> Layout:
    tokens = json.loads((golden / "tokens.json").read_text())
    layout = Layout(
        tokens["text_vocab_size"],
        tokens["codebook_size"],
        tokens["num_vq_tokens"],
        tokens["eot"],
        tokens["max_seq_length"],
    )
    for name in ("pad", "soi", "eoi", "sov", "eov", "t2i", "mmu", "t2v", "v2v", "lvg"):
        assert layout.special(name) == tokens[name]
    assert (layout.mask, layout.vocabulary) == (tokens["mask_token_id"], tokens["vocab_size"])
    return layout


@pytest.fixture(scope="module")
def backbone(golden: Path) -> Backbone:
    file = golden / "config.json"
    phi, _ = checkpoint.build_transformer(checkpoint.ShowOConfig.from_file(file), file)
    checkpoint.fill({"": phi}, golden / "showo_tiny.safetensors", torch.device("cpu"), torch.float32)
    phi.model.rotary_emb = type(phi.model.rotary_emb)(config=phi.config)
    return Backbone(phi.eval())


@pytest.fixture(scope="module")
def prompts(golden: Path) -> dict:
    return json.loads((golden / "t2i_prompts.json").read_text())


def test_prompt_blocks(layout: Layout, prompts: dict) -> None:
    for text, block in zip(prompts["prompts"], prompts["text_blocks"], strict=True):
        assert layout.drawing_row(text, [])[: layout.max_text + 1] == block
    assert layout.drawing_row([], [])[: layout.max_text + 1] == prompts["uncond_text_block"]


@pytest.mark.parametrize("kind", ["", "uncond_"])
@torch.inference_mode()
def test_drawing_rows(golden: Path, layout: Layout, backbone: Backbone, prompts: dict, kind: str) -> None:
    want = load_file(golden / "t2i.safetensors")
    texts = prompts["prompts"] if not kind else [[]] * 3
    codes = want["image_codes"].masked_fill(want["image_masked"], -1)
    image = layout.image_block(codes)
    rows = torch.tensor([layout.drawing_row(t, i[1:-1].tolist()) for t, i in zip(texts, image, strict=True)])
    assert torch.equal(rows, want[f"{kind}input_ids"])

    pads = (rows == layout.pad).sum(dim=1)
    visible = visible_drawing(pads, layout.max_text + 1, rows.shape[1])
    assert torch.equal(visible, want[f"{kind}visible"])

    positions = torch.arange(rows.shape[1])[None]
    logits = backbone.logits(backbone.hidden(rows, visible[:, None], positions))
    valid = want[f"{kind}valid"]
    torch.testing.assert_close(logits[valid], want[f"{kind}all_logits"][valid], atol=1e-5, rtol=0)
    book = slice(layout.image_offset, layout.mask)
    torch.testing.assert_close(logits[:, -17:-1, book], want[f"{kind}image_logits"], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_answering_rows(golden: Path, layout: Layout, backbone: Backbone) -> None:
    want = load_file(golden / "mmu.safetensors")
    ids = want["input_ids"]
    prefix = layout.picture_prefix(want["image_codes"])
    assert torch.equal(ids[:, : prefix.shape[1]], prefix)
    visible = visible_answering(prefix.shape[1], ids.shape[1])
    assert torch.equal(visible.expand(3, -1, -1), want["visible"])
    positions = torch.arange(ids.shape[1])[None]
    logits = backbone.logits(backbone.hidden(ids, visible[None, None], positions))
    valid = want["text_valid"]
    torch.testing.assert_close(logits[:, 19:][valid], want["text_logits"][valid], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits[:, :19], want["prefix_logits"], atol=1e-5, rtol=0)


def settings_of(golden: Path) -> list[dict]:
    return json.loads((golden / "t2i_generate.json").read_text())["settings"]


@pytest.mark.parametrize("drawer", list(DRAWERS))
@pytest.mark.parametrize("number", range(7), ids="ABCDEFG")
def test_drawn_codes(golden: Path, layout: Layout, backbone: Backbone, prompts: dict, number: int, drawer: str) -> None:
    case = settings_of(golden)[number]
    generator = torch.Generator().manual_seed(case["seed"])
    settings = MaskGit(case["steps"], case["guidance"], case["temperature"])
    initial = torch.tensor(case["initial_codes"]) if case["initial_codes"] is not None else None
    codes = DRAWERS[drawer](backbone, layout, prompts["prompts"], settings, SharedNoise(generator), initial)
    assert codes.tolist() == case["codes"]


@pytest.mark.parametrize("drawer", list(DRAWERS))
def test_drawn_codes_with_given_noise(
    golden: Path, layout: Layout, backbone: Backbone, prompts: dict, drawer: str
) -> None:
    trace = load_file(golden / "t2i_generate_trace.safetensors")
    case = settings_of(golden)[0]
    settings = MaskGit(case["steps"], case["guidance"], case["temperature"])
    noise = GivenNoise(trace["exponential"], trace["uniform"])
    codes = DRAWERS[drawer](backbone, layout, prompts["prompts"], settings, noise)
    assert torch.equal(codes, trace["final_codes"])


def test_every_step_of_the_trace(golden: Path) -> None:
    trace = load_file(golden / "t2i_generate_trace.safetensors")
    seen = []

    def logits(codes: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        step = len(seen)
        seen.append(codes)
        assert torch.equal(codes, trace["state_in"][step])
        return trace["guided_logits"][step][masked]

    noise = GivenNoise(trace["exponential"], trace["uniform"])
    codes = sample_codes(logits, trace["state_in"][0], MaskGit(len(trace["tau"]), 3.0, 1.0), noise)
    assert torch.equal(codes, trace["final_codes"])
    assert len(seen) == len(trace["tau"])


def test_remask_counts(golden: Path) -> None:
    tables = json.loads((golden / "t2i_generate.json").read_text())["remask_count_tables"]
    assert len(tables) > 5
    for table in tables:
        unknown, counts = table["N"], []
        for step in range(table["T"]):
            unknown = max(1, min(unknown - 1, remask_count(step, table["T"], table["N"])))
            counts.append(unknown)
        assert counts == table["counts"]


def text_of(case: dict, layout: Layout) -> list[int]:
    return [layout.eot, *case["question_ids"]]


def test_greedy_answers(golden: Path, layout: Layout, backbone: Backbone) -> None:
    cases = json.loads((golden / "mmu_generate.json").read_text())["greedy"]
    codes = torch.tensor([case["input_ids"][2 : 2 + layout.image_tokens] for case in cases]) - layout.image_offset
    pictures = discrete_picture_cache(backbone, layout, codes)
    longest = max(case["max_new_tokens"] for case in cases)
    texts = [text_of(case, layout) for case in cases]
    together = decode(backbone, pictures, torch.arange(len(cases)), texts, layout.eot, longest)
    for row, case in enumerate(cases):
        assert together[row][: case["max_new_tokens"]] == case["tokens"]
        alone = decode(backbone, pictures, torch.tensor([row]), [texts[row]], layout.eot, case["max_new_tokens"])
        assert alone == [case["tokens"]]
        assert plain_show_o.answer(backbone, layout, codes[row], texts[row], case["max_new_tokens"]) == case["tokens"]


def test_sampled_answers(golden: Path, layout: Layout, backbone: Backbone) -> None:
    noise = load_file(golden / "mmu_generate.safetensors")
    book = json.loads((golden / "mmu_generate.json").read_text())
    for number, case in enumerate(book["sampled"]):
        exponentials = noise[f"sampled_{number}_exponential"]
        want_logits = noise[f"sampled_{number}_last_logits"]

        def choose(
            step: int, logits: torch.Tensor, rows: torch.Tensor, case=case, e=exponentials, want=want_logits
        ) -> torch.Tensor:
            torch.testing.assert_close(logits[0], want[step], atol=1e-5, rtol=0)
            probs = next_token_probs(logits, case["temperature"], case["top_k"])
            return (probs / e[step]).argmax(dim=-1)

        codes = torch.tensor([case["input_ids"][2 : 2 + layout.image_tokens]]) - layout.image_offset
        pictures = discrete_picture_cache(backbone, layout, codes)
        text = text_of(case, layout)
        tokens = decode(backbone, pictures, torch.tensor([0]), [text], layout.eot, case["max_new_tokens"], choose)
        assert tokens == [case["tokens"]]
