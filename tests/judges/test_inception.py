"""FID's features: the libraries' own, mode by mode, with one random Inception; and weights that are what they say."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from unittest.mock import patch
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks import judging
from gapbench.judges import inception
from gapbench.judges.inception import Features, find_weights
from gapbench.judges.resize import MODES
from gapbench.records import InputError

SIZES = ((256, 256), (299, 299), (512, 512), (131, 407), (1024, 331))  # width, height
CLOSE = 1e-5  # of the largest feature


def noise(size: tuple[int, int]) -> Image.Image:
    rng = np.random.default_rng(size)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]


def apart(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference of a feature, relative to the largest feature."""
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return judging.random_weights(tmp_path_factory.mktemp("inception") / "random.pth")


@pytest.fixture(scope="module")
def torch_fidelity(weights: Path) -> torch.nn.Module:
    """Without the rest of the package, which takes seconds to import."""
    spec = importlib.util.find_spec("torch_fidelity")
    package = ModuleType("torch_fidelity")
    package.__path__ = list(spec.submodule_search_locations)
    with patch.dict(sys.modules, {"torch_fidelity": package}):
        return judging.torch_fidelity(weights)


@pytest.fixture(scope="module")
def features(weights: Path) -> Callable[[str], Features]:
    made: dict[str, Features] = {}
    return lambda mode: made.setdefault(mode, Features(weights, mode, "cpu"))


# ---------------------------------------------------------------------------------------------------------------------
# Features


def test_features_are_torch_fidelitys(torch_fidelity: torch.nn.Module, features: Callable[[str], Features]) -> None:
    images = [noise(size) for size in SIZES]
    found = features("torch-fidelity")(images)
    wanted = np.concatenate([torch_fidelity(tensor(image))[0].numpy() for image in images])
    assert found.dtype == np.float32
    assert wanted.std(axis=0).max() > 0.01 * np.abs(wanted).max()  # the random network tells images apart
    assert apart(found, wanted) < CLOSE


def test_a_feature_does_not_depend_on_the_batch_or_the_mode_of_the_picture(
    features: Callable[[str], Features],
) -> None:
    images = [noise((40, 30)), noise((30, 40)).convert("L"), noise((20, 20)).convert("RGBA")]
    ours = features("torch-fidelity")
    together = ours(images)
    alone = np.concatenate([ours([image.convert("RGB")]) for image in images])
    assert apart(together, alone) < CLOSE
    assert ours([]).shape == (0, 2048)


def test_memory_that_runs_out_halves_the_batch(features: Callable[[str], Features]) -> None:
    ours, sizes = features("torch-fidelity"), []

    def run(pixels: list[np.ndarray]) -> np.ndarray:
        sizes.append(len(pixels))
        if len(pixels) > 1:
            raise torch.OutOfMemoryError
        return np.full((1, 2048), pixels[0][0, 0, 0])

    with patch.object(ours, "_run", run), patch("torch.cuda.empty_cache"):
        found = ours([Image.new("RGB", (9, 9), (128 + 32 * i, 0, 0)) for i in range(3)])
    assert sizes == [3, 2, 1, 1, 1]
    assert found[:, 0].tolist() == [0, 0.25, 0.5]


def test_streaming_opens_few_pictures_ahead_and_keeps_their_order(features: Callable[[str], Features]) -> None:
    ours, opened, lock = features("torch-fidelity"), [], threading.Lock()

    def opener(number: int) -> Image.Image:
        with lock:
            opened.append(number)
        return Image.new("RGB", (5, 5), (128 + number, 0, 0))

    with patch.object(ours, "batch", 4), patch.object(ours, "_run", lambda pixels: np.stack(pixels)[:, 0, 0, :1]):
        chunks = ours.stream(partial(opener, number) for number in range(100))
        first = next(chunks)
        assert len(opened) <= 4 * (inception.AHEAD + 1)
        rest = np.concatenate([first, *chunks])
    assert (rest[:, 0] * 128).tolist() == list(range(100))


def test_a_picture_that_cannot_be_opened_is_told(features: Callable[[str], Features], tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"no picture")
    with pytest.raises(OSError, match=r"broken\.png"):
        list(features("torch-fidelity").stream([partial(Image.open, path)]))


@pytest.mark.gpu
def test_a_gpu_gives_the_same_features(features: Callable[[str], Features], weights: Path) -> None:
    """TF32, which the libraries leave on, would be a thousandth apart."""
    images = [noise(size) for size in SIZES]
    assert apart(Features(weights, device="cuda")(images), features("torch-fidelity")(images)) < CLOSE


# ---------------------------------------------------------------------------------------------------------------------
# Resizing

INTERPOLATED = {
    "pytorch-fid": lambda x: 2 * F.interpolate(x / 255, (299, 299), mode="bilinear", align_corners=False) - 1,
    "torchmetrics": lambda x: (F.interpolate(x, (299, 299), mode="bilinear", antialias=True) - 128) / 128,
}
# torch computes weights in float32, and with several threads in another order; pixels are in [-1, 1].
PIXELS_APART = {"pytorch-fid": 5e-5, "torchmetrics": 1e-4}


@pytest.mark.parametrize("mode", INTERPOLATED)
@pytest.mark.parametrize("size", [*SIZES, (1, 1), (300, 299), (2, 5)])
def test_pixels_are_torchs(mode: str, size: tuple[int, int]) -> None:
    image = noise(size)
    found = MODES[mode](np.asarray(image))
    assert found.dtype == np.float32
    wanted = INTERPOLATED[mode](tensor(image).float())[0].permute(1, 2, 0)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=PIXELS_APART[mode])


def test_tensorflows_pixels_are_exact() -> None:
    """Place i * n / 299 of a ramp of n = 598 is its pixel 2 i, and of n = 2 the way from the first to the last."""
    ramp = np.zeros((598, 2, 3), dtype=np.uint8)
    ramp[:, 1], ramp[:, :, 1] = 64, (np.arange(598) % 256)[:, None]
    found = MODES["torch-fidelity"](ramp) * 128 + 128
    assert np.array_equal(found[:, 0, 1], 2 * np.arange(299) % 256)
    way = np.minimum(np.arange(299, dtype=np.float32) * np.float32(2 / 299), 1) * 64
    np.testing.assert_allclose(found[0, :, 0], way, atol=1e-4)


def test_clean_fids_pixels_are_clipped_and_not_rounded() -> None:
    step = np.zeros((32, 32, 3), dtype=np.uint8)
    step[:, 16:] = 255
    found = MODES["clean-fid"](step) * 128 + 128
    assert found.min() == 0
    assert found.max() == 255
    assert np.any(found % 1 > 0.01)


def test_no_mode_changes_a_picture_of_299() -> None:
    pixels = np.asarray(noise((299, 299)))
    for name, resize in MODES.items():
        scaled = pixels / np.float32(127.5) - 1 if name == "pytorch-fid" else (pixels.astype(np.float32) - 128) / 128
        np.testing.assert_allclose(resize(pixels), scaled, atol=1e-6, err_msg=name)


def test_unknown_modes_are_refused(weights: Path) -> None:
    with pytest.raises(InputError, match="'bicubic'; known: torch-fidelity, pytorch-fid, torchmetrics, clean-fid"):
        Features(weights, "bicubic")


# ---------------------------------------------------------------------------------------------------------------------
# Weights


def test_features_say_what_they_are(features: Callable[[str], Features], weights: Path) -> None:
    told = features("clean-fid").describe()
    assert told["weights"] == {"file": "random.pth", "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    assert told["resize"] == "clean-fid 299"


def test_weights_are_found_where_the_libraries_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    content = weights.read_bytes()
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(content).hexdigest())
    for name in inception.NAMES:
        path = tmp_path / "checkpoints" / name
        path.write_bytes(content)
        assert find_weights() == path
        assert find_weights(path.parent) == path
        assert find_weights(path) == path
        path.write_bytes(content[:-1])
        with pytest.raises(InputError, match="damaged, its sha256"):
            find_weights()
        path.unlink()
    assert find_weights(weights) == weights
    with pytest.raises(InputError, match="no such file, and no folder with pt_inception"):
        find_weights(tmp_path / "nowhere")


def test_a_download_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with patch("urllib.request.urlopen", side_effect=URLError("no route")), pytest.raises(InputError) as error:
        find_weights()
    assert str(error.value) == (
        f"cannot download {inception.URL} (no route). Download it elsewhere and put it into {tmp_path / 'checkpoints'}"
    )


def test_other_weights_are_refused(tmp_path: Path, weights: Path) -> None:
    path = tmp_path / "other.pth"
    state = torch.load(weights)
    del state["Mixed_7c.branch_pool.bn.running_var"]
    edits = {
        "Mixed_7c.branch_pool.bn.running_var is missing": state,
        r"fc.weight is \(1000, 2048\), not \(1008, 2048\)": torch.load(weights)
        | {"fc.weight": torch.zeros(1000, 2048)},
        "AuxLogits.fc.bias is": torch.load(weights) | {"AuxLogits.fc.bias": torch.zeros(1008)},
        "not a file of weights": [1, 2],
    }
    for told, content in edits.items():
        torch.save(content, path)
        with pytest.raises(InputError, match=told) as error:
            inception.load(path)
        assert "\n" not in str(error.value)
    path.write_bytes(b"<html>")
    with pytest.raises(InputError, match="not a file of weights"):
        inception.load(path)


def test_counters_of_newer_batch_norms_are_accepted(tmp_path: Path, weights: Path) -> None:
    state = torch.load(weights) | {"Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(0)}
    torch.save(state, tmp_path / "saved.pth")
    inception.load(tmp_path / "saved.pth")


# ---------------------------------------------------------------------------------------------------------------------
# The libraries themselves


def needed(module: str) -> ModuleType:
    found = judging.peer(module)
    if found is None:
        pytest.skip(f"no {module}; see benchmarks/judging.py")
    return found


@pytest.mark.peer
@pytest.mark.parametrize(("mode", "antialias"), [("torchmetrics", True), ("torch-fidelity", False)])
def test_features_are_torchmetrics(
    features: Callable[[str], Features], weights: Path, mode: str, antialias: bool
) -> None:
    network = needed("torchmetrics.image.fid").NoTrainInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights), antialias=antialias
    )
    for size in SIZES:
        image = noise(size)
        distance = apart(features(mode)([image]), network(tensor(image)).numpy())
        print(f"torchmetrics antialias={antialias} {size}: {distance:.1e}")
        assert distance < CLOSE


@pytest.mark.peer
def test_features_are_pytorch_fids(features: Callable[[str], Features], weights: Path) -> None:
    library = needed("pytorch_fid.inception")
    with patch.object(library, "load_state_dict_from_url", lambda *_, **__: torch.load(weights)):
        network = library.InceptionV3([3]).eval()
    for size in SIZES:
        image = noise(size)
        distance = apart(features("pytorch-fid")([image]), network(tensor(image) / 255)[0][:, :, 0, 0].numpy())
        print(f"pytorch-fid {size}: {distance:.1e}")
        assert distance < CLOSE


@pytest.mark.peer
def test_features_are_clean_fids(features: Callable[[str], Features], torch_fidelity: torch.nn.Module) -> None:
    resize = needed("cleanfid.resize").build_resizer("clean")
    for size in SIZES:
        image = noise(size)
        pixels = torch.from_numpy(resize(np.array(image))).permute(2, 0, 1)[None]
        wanted = judging.without_resize(torch_fidelity, (pixels - 128) / 128)
        distance = apart(features("clean-fid")([image]), wanted.numpy())
        print(f"clean-fid {size}: {distance:.1e}")
        assert distance < CLOSE
