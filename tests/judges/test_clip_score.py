"""CLIP-Score on a tiny random CLIP with CLIP's real tokenizer: truncation that keeps the end, and names that tell."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from gapbench.judges.clip_score import ClipScore, pixels
from gapbench.records import InputError

LENGTHS = (5, 75, 76, 77, 200)
END = 49407


def open_clips_tokenizer() -> ModuleType:
    """Without the rest of open_clip, which takes seconds to import."""
    package = ModuleType("open_clip")
    package.__path__ = list(importlib.util.find_spec("open_clip").submodule_search_locations)
    with patch.dict(sys.modules, {"open_clip": package}), patch.dict("os.environ"):
        return importlib.import_module("open_clip.tokenizer")


@pytest.fixture(scope="module")
def open_clip() -> Callable[[list[str]], torch.Tensor]:
    return open_clips_tokenizer().tokenize


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Named and laid out as OpenAI's."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    module = open_clips_tokenizer()
    letters = list(module.bytes_to_unicode().values())
    with gzip.open(module.default_bpe(), "rt", encoding="utf-8") as file:
        merges = [tuple(line.split()) for line in file.read().split("\n")[1 : 49152 - 256 - 2 + 1]]
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer({word: number for number, word in enumerate(words)}, merges)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = sizes | {"image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config=sizes | {"vocab_size": len(words)}, vision_config=vision, projection_dim=12)
    torch.manual_seed(0)
    model = CLIPModel(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    place = tmp_path_factory.mktemp("models") / "clip-vit-tiny"
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def judge(folder: Path) -> ClipScore:
    return ClipScore(str(folder), "cpu")


def text(length: int) -> str:
    """Of so many tokens, one a word; the last ones are words of their own."""
    words = ["a", "photo", "of", "two", "dogs", "and", "the", "red", "car"]
    return " ".join(words[i % 9] for i in range(length - 1)) + " cat"


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def by_hand(judge: ClipScore, image: Image.Image, tokens: torch.Tensor, **more: torch.Tensor) -> float:
    """torchmetrics' formula: 100 (image / |image|) . (text / |text|)."""
    with torch.inference_mode():
        shown = judge.clip.get_image_features(pixel_values=torch.from_numpy(pixels(image, 32))[None]).pooler_output
        read = judge.clip.get_text_features(input_ids=tokens, **more).pooler_output
    return float(100 * ((shown / shown.norm()) * (read / read.norm())).sum())


def test_tokens_are_open_clips_and_the_end_is_kept(judge: ClipScore, open_clip: Callable) -> None:
    texts = [text(length) for length in LENGTHS] + ["", "Ünïcode  café's 1234\n!!", "x" * 300]
    tokens, truncated = judge.tokens(texts)
    assert truncated == [False, False, True, True, True, False, False, truncated[-1]]
    wanted = open_clip(texts)
    assert tokens.shape == (8, 77)
    ends = wanted.argmax(dim=1)
    assert ends[:6].tolist() == [6, 76, 76, 76, 76, 1]
    for row, reference, end in zip(tokens, wanted, ends, strict=True):
        assert row[: end + 1].tolist() == reference[: end + 1].tolist()
        assert row[-1] == END
    assert judge.tokens(["a cat"])[0].shape == (1, 4)


def test_scores_of_short_texts_are_torchmetrics(judge: ClipScore) -> None:
    for length in (5, 75):
        (found,) = judge([picture(length)], [text(length)])
        inputs = judge.tokenizer([text(length)], return_tensors="pt", padding=True)
        assert inputs["input_ids"].shape == (1, length + 2)
        wanted = by_hand(judge, picture(length), inputs["input_ids"], attention_mask=inputs["attention_mask"])
        assert found.value == pytest.approx(wanted, abs=1e-4)
        assert not found.truncated


def test_scores_of_long_texts_are_open_clips_and_not_those_of_a_slice(judge: ClipScore, open_clip: Callable) -> None:
    for length in (76, 77, 200):
        (found,) = judge([picture(length)], [text(length)])
        assert found.truncated
        assert found.value == pytest.approx(by_hand(judge, picture(length), open_clip([text(length)])), abs=1e-4)
        sliced = judge.tokenizer([text(length)], return_tensors="pt")["input_ids"][:, :77]
        assert abs(found.value - by_hand(judge, picture(length), sliced)) > 0.1


def test_a_score_does_not_depend_on_its_neighbours(judge: ClipScore) -> None:
    pictures, texts = [picture(i) for i in range(5)], [text(length) for length in LENGTHS]
    together = list(judge(pictures, texts))
    alone = [score for pair in zip(pictures, texts, strict=True) for score in judge(pair[:1], pair[1:])]
    assert [s.value for s in together] == pytest.approx([s.value for s in alone], abs=1e-4)
    assert np.ptp([s.value for s in together]) > 1
    assert list(judge([], [])) == []
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        judge(pictures, texts[1:])


def test_memory_that_runs_out_halves_the_batch(judge: ClipScore) -> None:
    scores = judge._scores

    def run(pairs: list) -> list:
        if len(pairs) > 2:
            raise torch.OutOfMemoryError
        return scores(pairs)

    pictures, texts = [picture(i) for i in range(5)], [text(5 + i) for i in range(5)]
    wanted = [score.value for score in judge(pictures, texts)]
    with patch.object(judge, "_scores", run), patch("torch.cuda.empty_cache"):
        assert [score.value for score in judge(pictures, texts)] == pytest.approx(wanted, abs=1e-4)


def test_pictures_of_any_mode_and_shape(judge: ClipScore) -> None:
    wide = Image.new("RGB", (67, 32), (255, 0, 0))
    wide.paste((0, 255, 0), (18, 0, 50, 32))  # what is left of the crop: columns 18 to 49, as round(17.5) is 18
    values = pixels(wide, 32)
    assert values.shape == (3, 32, 32)
    green = (np.array([0, 1, 0]) - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    np.testing.assert_allclose(values, np.broadcast_to(green[:, None, None], values.shape), rtol=1e-5)
    assert pixels(Image.new("LA", (1, 90)), 32).shape == (3, 32, 32)
    gray = Image.new("L", (50, 40), 77)
    one, two = judge([gray, gray.convert("RGB")], ["a cat"] * 2)
    assert one == two


def test_a_score_says_what_it_is(judge: ClipScore) -> None:
    assert judge.name == "CLIP-Score[clip-vit-tiny, 100cos, no prefix, trunc=EOT]"
    told = judge.describe()
    assert told["activation"] == "quick_gelu"
    assert told["weights"]["file"] == "model.safetensors"
    json.dumps(told)


def changed(folder: Path, to: Path, edit: Callable[[dict], None]) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    config = json.loads((to / "config.json").read_text())
    edit(config)
    (to / "config.json").write_text(json.dumps(config))
    return to


def fails(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        ClipScore(str(folder), "cpu")
    message = str(error.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


@pytest.mark.parametrize("tower", ["text_config", "vision_config"])
def test_openais_weights_without_quick_gelu_are_refused(folder: Path, tmp_path: Path, tower: str) -> None:
    def edit(config: dict) -> None:
        config[tower]["hidden_act"] = "gelu"

    assert "needs QuickGELU" in fails(changed(folder, tmp_path / "clip-vit-base-patch32", edit))
    other = ClipScore(str(changed(folder, tmp_path / "CLIP-ViT-H-14-laion2B", edit)), "cpu")
    assert other.name.startswith("CLIP-Score[CLIP-ViT-H-14-laion2B,")


def test_broken_folders_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    def of_type(config: dict) -> None:
        config["model_type"] = "siglip"

    def one_layer_more(config: dict) -> None:
        config["text_config"]["num_hidden_layers"] = 3

    def read_elsewhere(config: dict) -> None:
        config["text_config"]["eos_token_id"] = 5

    def nothing(config: dict) -> None:
        pass

    assert "type siglip, not clip" in fails(changed(folder, tmp_path / "a", of_type))
    assert "text_model.encoder.layers.2" in fails(changed(folder, tmp_path / "b", one_layer_more))
    assert "reads a text at token 5" in fails(changed(folder, tmp_path / "c", read_elsewhere))
    cut = changed(folder, tmp_path / "d", nothing)
    (cut / "model.safetensors").write_bytes(b"\0" * 20)
    assert "cannot be read" in fails(cut)
    (cut / "model.safetensors").unlink()
    assert "has none of model.safetensors, pytorch_model.bin" in fails(cut)
    (cut / "config.json").write_text("{")
    (cut / "model.safetensors").write_bytes(b"")
    assert "config.json is missing or cannot be read" in fails(cut)


def test_without_the_hub_the_advice_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="give the folder in place of the name") as error:
        ClipScore("openai/no-such-clip")
    assert "\n" not in str(error.value)


@pytest.mark.peer
@pytest.mark.parametrize("size", [(512, 512), (300, 201), (97, 640), (32, 31)])
def test_pixels_are_open_clips(size: tuple[int, int]) -> None:
    from open_clip.transform import image_transform

    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    wanted = image_transform(224, is_train=False)(image)
    np.testing.assert_allclose(pixels(image, 224), wanted, atol=1e-6)
