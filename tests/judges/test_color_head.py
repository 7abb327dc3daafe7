"""The color head on a tiny random CLIP: the formula by hand, open_clip's transform, and only on demand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gapbench.judges import color_head
from gapbench.judges.color_head import COLORS, ColoredObjects, ColorHead, cut_out, load, prepare
from gapbench.judges.mask2former import Detection
from gapbench.metrics.relations import Box
from gapbench.records import InputError
from gapbench.tasks.geneval import decide, keep


def tiny_clip(vision_act: str = "quick_gelu", text_act: str = "quick_gelu"):
    """A CLIP whose tokenizer knows letters only."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz-"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer({word: number for number, word in enumerate(words)}, [])
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    end = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    text = sizes | end | {"vocab_size": len(words), "hidden_act": text_act}
    vision = sizes | {"image_size": 32, "patch_size": 8, "hidden_act": vision_act}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model, tokenizer


@pytest.fixture(scope="module")
def head() -> ColorHead:
    return ColorHead(*tiny_clip(), {"weights": "random"}, batch_size=3)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


# --- Pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height"), [(224, 224), (32, 32), (500, 333), (333, 500), (7, 300), (300, 7), (1, 1), (225, 224)]
)
@pytest.mark.parametrize("size", [224, 32])
def test_transform_is_open_clips(width: int, height: int, size: int) -> None:
    from open_clip.transform import image_transform

    transform = image_transform(size, is_train=False, mean=color_head.MEAN, std=color_head.STD)
    expected = transform(picture(width, height)).numpy()
    assert np.abs(prepare(picture(width, height), size) - expected).max() < 1e-6


def test_cutting_out_is_composing_then_cropping() -> None:
    whole = picture(40, 30)
    mask = np.zeros((30, 40), dtype=bool)
    mask[5:20, 8:33] = np.random.default_rng(1).random((15, 25)) < 0.5
    mask[5, 8] = mask[19, 32] = True
    box = Box(8.0, 5.0, 33.0, 20.0)
    expected = Image.composite(whole, Image.new("RGB", whole.size, "#999"), Image.fromarray(mask)).crop(box)
    cut = cut_out(whole, box, mask[5:20, 8:33])
    assert cut.size == (25, 15)
    assert (np.asarray(cut) == np.asarray(expected)).all()
    assert cut.getpixel((0, 0)) == whole.getpixel((8, 5))
    outside = np.argwhere(~mask[5:20, 8:33])[0]
    assert cut.getpixel((int(outside[1]), int(outside[0]))) == (0x99, 0x99, 0x99)


# --- The head ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def by_hand(head: ColorHead, cut: Image.Image, name: str) -> np.ndarray:
    """Text by text without padding, image alone, the sums in float64."""
    pixels = torch.from_numpy(prepare(cut, 32))[None]
    image = head.model(input_ids=torch.tensor([[0]]), pixel_values=pixels).image_embeds[0].double().numpy()
    scores = []
    for color in COLORS:
        total = np.zeros(12)
        for text in (
            f"a photo of a {color} {name}",
            f"a photo of a {color}-colored {name}",
            f"a photo of a {color} object",
        ):
            ids = torch.tensor([head.tokenizer(text).input_ids])
            features = head.model.text_projection(head.model.text_model(ids).last_hidden_state[0, -1]).double().numpy()
            total += features / np.linalg.norm(features)
        scores.append(100 * image @ total / np.linalg.norm(total) / np.linalg.norm(image))
    return np.array(scores)


@pytest.mark.parametrize("name", ["bus", "computer mouse", "t-v"])
def test_scores_are_clip_benchmarks_formula(head: ColorHead, name: str) -> None:
    cuts = [picture(40, 30, 1), picture(9, 80, 2), Image.new("RGB", (50, 50), "red")]
    expected = np.array([by_hand(head, cut, name) for cut in cuts])
    np.testing.assert_allclose(head.scores(cuts, name).numpy(), expected, rtol=1e-5, atol=1e-4)
    assert head.colors(cuts, name) == [COLORS[row.argmax()] for row in expected]


def test_a_batch_names_what_one_at_a_time_names(head: ColorHead) -> None:
    cuts = [picture(20 + seed, 50 - seed, seed) for seed in range(8)]
    together = head.colors(cuts, "dog")  # in batches of 3
    assert together == [head.colors([cut], "dog")[0] for cut in cuts]
    assert len(set(together)) > 1
    assert head.colors([], "dog") == []


def test_a_classs_texts_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    head = ColorHead(*tiny_clip(), {})
    asked = []
    forward = head.model.text_model.forward
    monkeypatch.setattr(head.model.text_model, "forward", lambda *a, **k: asked.append(a[0].shape) or forward(*a, **k))
    for name in ("dog", "cat", "dog", "dog"):
        head.colors([picture(8, 8)], name)
    assert [shape[0] for shape in asked] == [30, 30]


@pytest.mark.parametrize(("acts", "tower"), [(("gelu", "quick_gelu"), "image"), (("quick_gelu", "gelu"), "text")])
def test_another_activation_is_refused(acts: tuple, tower: str) -> None:
    with pytest.raises(InputError, match=f"QuickGELU.*{tower} tower has gelu"):
        ColorHead(*tiny_clip(*acts), {})


# --- Files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model, tokenizer = tiny_clip()
    model.save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def test_a_folder_is_the_head(folder: Path, head: ColorHead) -> None:
    loaded = load(str(folder))
    cuts = [picture(30, 30, seed) for seed in range(4)]
    torch.testing.assert_close(loaded.scores(cuts, "zebra"), head.scores(cuts, "zebra"))
    told = loaded.describe()
    assert told["activation"] == "quick_gelu"
    assert (told["weights"]["file"], len(told["weights"]["sha256"])) == ("model.safetensors", 64)


def test_broken_folders_are_named(folder: Path, tmp_path: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:500])
    with pytest.raises(InputError, match="clip: the weights cannot be read as a CLIPModel"):
        load(str(folder))
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"has no tokenizer.json or vocab.json, so it is no CLIP"):
        load(str(folder))
    with pytest.raises(InputError, match="no such folder"):
        load(str(tmp_path / "a" / "b"))


# --- What GenEval's task asks for -------------------------------------------------------------------------------------


class OneOfEach:
    """Two dogs and a bus in every picture."""

    def detect(self, pictures):
        boxes = {"dog": [(2, 3, 12, 13), (20, 3, 30, 13)], "bus": [(0, 0, 40, 30)]}
        return [
            [
                Detection(
                    name, Box(*map(float, box)), 0.9 - 0.1 * number, np.ones((box[3] - box[1], box[2] - box[0]), bool)
                )
                for name, found in boxes.items()
                for number, box in enumerate(found)
            ]
            for _ in pictures
        ]

    def describe(self):
        return {"detector": "stub"}


def test_colors_are_named_only_where_a_prompt_asks(head: ColorHead, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    colors = head.colors
    monkeypatch.setattr(head, "colors", lambda cuts, name: asked.append((name, len(cuts))) or colors(cuts, name))
    detector = ColoredObjects(OneOfEach(), head)
    pictures = [picture(40, 30, 1).convert("RGBA"), picture(40, 30, 2)]
    detected = detector(pictures)
    assert [{name: len(objects) for name, objects in found.items()} for found in detected] == [{"dog": 2, "bus": 1}] * 2
    assert decide({"include": [{"class": "dog", "count": 2}]}, keep(detected[0], "counting"))[0] is False
    assert decide({"include": [{"class": "dog", "count": 2}]}, keep(detected[0], "two_object"))[0] is True
    assert asked == []
    first = pictures[1].crop((2, 3, 12, 13))
    color = colors([first], "dog")[0]
    wanted = {"include": [{"class": "dog", "count": 1, "color": color}]}
    assert decide(wanted, keep(detected[1], "colors"))[0] is True
    assert asked == [("dog", 1)]
    assert detector.describe()["detector"] == {"detector": "stub"}


# --- Peer -------------------------------------------------------------------------------------------------------------


@pytest.mark.peer
def test_clip_benchmark_names_the_same(head: ColorHead) -> None:
    zeroshot = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification")

    class OpenClips(torch.nn.Module):
        """Our CLIP in open_clip's clothes."""

        def encode_image(self, pixels):
            return head.model.visual_projection(head.model.vision_model(pixels).pooler_output)

        def encode_text(self, ids):
            return head.model.text_projection(head.model.text_model(ids).pooler_output)

    def tokenize(texts):
        return head.tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids

    templates = ["a photo of a {c} dog", "a photo of a {c}-colored dog", "a photo of a {c} object"]
    cuts = [picture(20 + seed, 50 - seed, seed) for seed in range(8)]
    pixels = torch.from_numpy(np.stack([prepare(cut, 32) for cut in cuts]))
    classifier = zeroshot.zero_shot_classifier(OpenClips(), tokenize, COLORS, templates, "cpu", amp=False)
    expected, _ = zeroshot.run_classification(OpenClips(), classifier, [(pixels, torch.zeros(8))], "cpu", amp=False)
    torch.testing.assert_close(head.scores(cuts, "dog"), expected, rtol=1e-5, atol=1e-4)
