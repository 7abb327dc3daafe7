"""The detector around a tiny random network: OpenCV's resize, mmdet's objects, batches, and files that are wrong."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gapbench.judges import mask2former
from gapbench.judges.coco_names import COCO_NAMES
from gapbench.judges.mask2former import Mask2Former, Prepared, load, objects, prepare, resize, rgb
from gapbench.metrics.relations import Box
from gapbench.records import InputError


def tiny_network(labels: int = 80):
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    stages = ["stage1", "stage2", "stage3", "stage4"]
    sizes = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
    config = Mask2FormerConfig(
        backbone_config=SwinConfig(**sizes, out_features=stages), num_labels=labels, feature_size=32,
        mask_feature_size=32, hidden_dim=32, num_queries=6, num_attention_heads=2, encoder_layers=1,
        encoder_feedforward_dim=16, decoder_layers=2, dim_feedforward=16,
    )  # fmt: skip
    torch.manual_seed(0)
    network = Mask2FormerForUniversalSegmentation(config)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=(6 if name.startswith("class") else 1) * parameter.shape[-1] ** -0.5)
    return network


@pytest.fixture(scope="module")
def detector() -> Mask2Former:
    return Mask2Former(tiny_network(), {"weights": "random"})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules at an eighth of the size: what is tested is the rules."""
    monkeypatch.setattr(mask2former, "SHORT", 96)
    monkeypatch.setattr(mask2former, "LONG", 160)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)


# What cv2.resize(..., INTER_LINEAR) of OpenCV 4.11 makes of the first channel: enlarged, reduced, halved.
OPENCV = {
    "3x5": [[32, 127, 154, 150, 79], [101, 81, 125, 168, 148], [170, 98, 95, 122, 216]],
    "5x4": [[28, 194, 105, 79], [91, 123, 168, 142], [99, 73, 176, 150], [107, 81, 126, 158], [170, 144, 55, 221]],
    "2x3": [[69, 163, 129], [121, 87, 181]],
}


# --- Before the network -----------------------------------------------------------------------------------------------


def test_resize_is_opencvs() -> None:
    pixels = (np.arange(4 * 6 * 3).reshape(4, 6, 3) * 37 % 256).astype(np.uint8)
    assert resize(pixels, 3, 5)[:, :, 0].tolist() == OPENCV["3x5"]
    assert resize(pixels, 5, 4)[:, :, 0].tolist() == OPENCV["5x4"]
    assert resize(pixels, 2, 3)[:, :, 0].tolist() == OPENCV["2x3"]
    assert resize(pixels, 4, 6) is pixels


@pytest.mark.parametrize(
    ("width", "height", "resized", "padded"),
    [
        (512, 512, (800, 800), (800, 800)),
        (1024, 1024, (800, 800), (800, 800)),
        (1344, 768, (762, 1333), (768, 1344)),
        (640, 480, (800, 1067), (800, 1088)),
        (3000, 10, (4, 1333), (32, 1344)),
    ],
)
def test_input_size(width: int, height: int, resized: tuple, padded: tuple) -> None:
    prepared = prepare(Image.new("RGB", (width, height), (10, 20, 30)))
    assert (prepared.resized, prepared.pixels.shape, prepared.original) == (resized, (*padded, 3), (height, width))
    h, w = resized
    assert (prepared.pixels[:h, :w] == (10, 20, 30)).all()
    assert (prepared.pixels[h:] == 128).all()
    assert (prepared.pixels[:, w:] == 128).all()


def test_any_mode_is_seen_as_opencv_decodes_it() -> None:
    assert rgb(Image.new("RGBA", (2, 2), (200, 100, 50, 0))).getpixel((0, 0)) == (200, 100, 50)
    assert rgb(Image.new("LA", (2, 2), (90, 0))).getpixel((0, 0)) == (90, 90, 90)
    deep = Image.fromarray(np.full((2, 2), 0x8123, dtype=np.uint16))
    assert rgb(deep).getpixel((1, 1)) == (0x81, 0x81, 0x81)
    turned = Image.new("RGB", (4, 2))
    turned.getexif()[0x0112] = 6
    assert rgb(turned).size == (2, 4)


# --- After the network ------------------------------------------------------------------------------------------------


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Half-pixel centres, in float64."""

    def matrix(size: int, wanted: int) -> np.ndarray:
        weights = np.zeros((wanted, size))
        for row in range(wanted):
            where = max((row + 0.5) * size / wanted - 0.5, 0)
            at = min(int(where), size - 1)
            weights[row, at] += 1 - (where - at)
            weights[row, min(at + 1, size - 1)] += where - at
        return weights

    return matrix(image.shape[0], height) @ image @ matrix(image.shape[1], width).T


def reference(classes: np.ndarray, masks: np.ndarray, prepared: Prepared) -> list[tuple]:
    """(name, box, score, mask), best first, straight from the definition."""
    found = []
    odds = np.exp(classes - classes.max(axis=1, keepdims=True))
    odds = (odds / odds.sum(axis=1, keepdims=True))[:, :-1]
    pairs = [(odds[q, c], q, c) for q in range(len(odds)) for c in range(odds.shape[1])]
    for odd, query, label in sorted(pairs, reverse=True)[:100]:
        height, width = prepared.resized
        logits = bilinear(masks[query], *prepared.pixels.shape[:2])[:height, :width]
        logits = bilinear(logits, *prepared.original)
        mask = logits > 0
        score = odd * (1 / (1 + np.exp(-logits)) * mask).sum() / (mask.sum() + 1e-6)
        y, x = np.nonzero(mask)
        box = (x.min(), y.min(), x.max() + 1, y.max() + 1) if len(x) else (0, 0, 0, 0)
        found.append((COCO_NAMES[label], tuple(map(float, box)), score, mask))
    return sorted(found, key=lambda each: -each[2])


@pytest.mark.parametrize(
    ("original", "resized", "padded"), [((50, 50), (64, 64), (64, 64)), ((30, 71), (54, 128), (64, 128))]
)
def test_objects_match_the_definition(original: tuple, resized: tuple, padded: tuple) -> None:
    rng = np.random.default_rng(1)
    classes = rng.normal(0, 3, (20, 81))
    masks = rng.normal(0, 4, (20, padded[0] // 4, padded[1] // 4))
    masks[3] = -9  # empty
    classes[3, 5] = 20
    masks[4] = 9  # everywhere
    classes[5, :2] = 15, 14.5  # one query, two objects
    classes[6, 80] = 30  # nothing
    prepared = Prepared(np.zeros((*padded, 3), np.uint8), resized, original)
    expected = reference(classes, masks, prepared)
    found = objects(torch.tensor(classes).float(), torch.tensor(masks).float(), prepared, lowest=-1)
    assert len(found) == len(expected) == 100
    for ours, (name, box, score, mask) in zip(found[:40], expected, strict=False):
        assert (ours.name, tuple(ours.box)) == (name, box)
        assert math.isclose(ours.score, score, rel_tol=1e-5, abs_tol=1e-6)
        left, top, right, bottom = map(int, box)
        whole = np.zeros_like(mask)
        whole[top:bottom, left:right] = ours.mask
        assert (whole == mask).all()
    assert {each.name for each in found if each.score == 0} >= {COCO_NAMES[5]}
    assert all(each.box == Box(0, 0, 0, 0) and each.mask.size == 0 for each in found if each.score == 0)


def test_a_threshold_only_drops() -> None:
    torch.manual_seed(0)
    classes, masks = torch.randn(20, 81) * 4, torch.randn(20, 16, 16)
    prepared = Prepared(np.zeros((64, 64, 3), np.uint8), (64, 60), (40, 37))
    everything = objects(classes, masks, prepared, lowest=-1)
    sure = objects(classes, masks, prepared, lowest=0.3)
    assert 0 < len(sure) < len(everything)
    wanted = [(each.name, each.box, each.score) for each in everything if each.score > 0.3]
    assert [(each.name, each.box, each.score) for each in sure] == wanted


def test_only_a_hundred_are_objects() -> None:
    classes = torch.zeros(2, 81)  # 160 pairs
    prepared = Prepared(np.zeros((32, 32, 3), np.uint8), (32, 32), (32, 32))
    assert len(objects(classes, torch.ones(2, 8, 8), prepared, lowest=0)) == 100


# --- The detector -----------------------------------------------------------------------------------------------------


def seen(detections: list) -> list[tuple]:
    return [(each.name, each.box, each.mask.sum()) for each in detections]


@pytest.mark.usefixtures("small")
def test_a_batch_sees_what_one_at_a_time_sees(detector: Mask2Former) -> None:
    sizes = [(64, 64), (100, 60), (60, 100), (512, 512), (104, 60), (64, 64)]
    pictures = [picture(width, height, seed) for seed, (width, height) in enumerate(sizes)]
    together = detector.detect(pictures, lowest=0.1)
    alone = [detector.detect([each], lowest=0.1)[0] for each in pictures]
    assert [seen(each) for each in together] == [seen(each) for each in alone]
    for one, other in zip(together, alone, strict=True):
        assert [each.score for each in one] == pytest.approx([each.score for each in other], abs=1e-5)
    assert all(together)
    assert len({tuple(seen(each)) for each in together}) == len(pictures)
    for (width, height), found in zip(sizes, together, strict=True):
        assert all(each.box.right <= width and each.box.bottom <= height for each in found)
        assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert detector.detect([]) == []


def test_the_network_sees_normalised_rgb_with_its_padding(detector: Mask2Former, monkeypatch) -> None:
    handed = {}
    forward = detector.model.forward
    monkeypatch.setattr(detector.model, "forward", lambda **given: handed.update(given) or forward(**given))
    detector.detect([Image.new("RGB", (1333, 790), (255, 0, 10))])
    pixels = handed["pixel_values"]
    assert pixels.shape == (1, 3, 800, 1344)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    assert torch.allclose(pixels[0, :, 0, 0], (torch.tensor([255.0, 0, 10]) - mean) / std)
    assert torch.allclose(pixels[0, :, -1, 0], (128 - mean) / std)
    assert torch.allclose(pixels[0, :, 0, -1], (128 - mean) / std)
    assert (handed["pixel_mask"] == 1).all()


def test_names_go_by_index_whatever_the_config_calls_them(detector: Mask2Former) -> None:
    assert detector.model.config.id2label[3] != "motorcycle"
    classes = torch.zeros(1, 81)
    for label, name in (
        (3, "motorcycle"),
        (57, "couch"),
        (64, "computer mouse"),
        (65, "tv remote"),
        (79, "toothbrush"),
    ):
        classes[:] = 0
        classes[0, label] = 30
        prepared = Prepared(np.zeros((32, 32, 3), np.uint8), (32, 32), (32, 32))
        assert [each.name for each in objects(classes, torch.full((1, 8, 8), 9.0), prepared)] == [name]


def test_names_are_genevals(shared: Path) -> None:
    lines = (shared / "data" / "generation" / "geneval" / "object_names.txt").read_text().splitlines()
    assert list(COCO_NAMES) == [line.strip() for line in lines]


def test_other_classes_are_refused() -> None:
    with pytest.raises(InputError, match=r"133 classes.*instance, not panoptic"):
        Mask2Former(tiny_network(133), {})


# --- Files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, detector: Mask2Former) -> Path:
    detector.model.save_pretrained(tmp_path / "detector")
    return tmp_path / "detector"


@pytest.mark.usefixtures("small")
def test_a_folder_is_the_network(folder: Path, detector: Mask2Former) -> None:
    loaded = load(str(folder))
    assert seen(loaded.detect([picture(64, 64)], 0.1)[0]) == seen(detector.detect([picture(64, 64)], 0.1)[0])
    told = loaded.describe()
    assert (told["weights"]["file"], len(told["weights"]["sha256"])) == ("model.safetensors", 64)
    assert (told["dtype"], told["detector"]) == ("float32", "Mask2Former")


def test_the_published_files_leftovers_are_no_fault(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    table = next(name for name in weights if name.endswith("relative_position_bias_table"))
    weights = {name: tensor for name, tensor in weights.items() if "swin.layernorm" not in name}
    weights[table.replace("bias_table", "index")] = torch.zeros(16, 16, dtype=torch.long)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    load(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("class_predictor.bias"), "lacks class_predictor.bias"),
        (lambda weights: weights.update(more=torch.ones(1)), "another network's more"),
        (
            lambda weights: weights.update({"class_predictor.bias": torch.ones(3)}),
            "another network's class_predictor.bias",
        ),
    ],
)
def test_other_weights_are_refused(folder: Path, change, message: str) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=message) as error:
        load(str(folder))
    assert "\n" not in str(error.value)


def test_broken_folders_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(InputError, match="detector: the weights cannot be read"):
        load(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no model.safetensors or pytorch_model.bin, so it is no detector"):
        load(str(folder))
    with pytest.raises(InputError, match="no such folder"):
        load(str(tmp_path / "nowhere"))


# --- Peers ------------------------------------------------------------------------------------------------------------


@pytest.mark.peer
def test_opencv_makes_the_same_pixels() -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    sizes = [(512, 512), (1024, 1024), (1600, 1600), (1344, 768), (7, 5), (30, 1000), *rng.integers(3, 1500, (20, 2))]
    for width, height in sizes:
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        prepared = prepare(Image.fromarray(pixels))
        h, w = prepared.resized
        assert (prepared.pixels[:h, :w] == cv2.resize(pixels, (w, h), interpolation=cv2.INTER_LINEAR)).all()


@pytest.mark.peer
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_opencv_decodes_the_same_pixels(tmp_path: Path, mode: str) -> None:
    cv2 = pytest.importorskip("cv2")
    noise = np.random.default_rng(0).integers(0, 65536, (20, 30), dtype=np.uint16)
    (Image.fromarray(noise) if mode == "I;16" else picture(30, 20).convert(mode)).save(tmp_path / "a.png")
    ours = np.asarray(rgb(Image.open(tmp_path / "a.png")))
    assert (ours[:, :, ::-1] == cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_COLOR)).all()
