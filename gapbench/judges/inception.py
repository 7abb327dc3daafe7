"""Features for FID: the 2,048 numbers before the classifier of TensorFlow's Inception of 2015-12-05.

The network is torchvision's Inception v3 with 1,008 classes and two differences: average pools leave the padding out
of the average, and the last block takes a maximum instead. torchvision's own ImageNet weights give other features and
so another "FID". Batch norms are folded into the convolutions before them, in float64; everything runs in float32
without TF32, equal to the libraries' features to 1e-5.

Weights: https://github.com/mseitzer/pytorch-fid (release `fid_weights`); torch-fidelity hosts the same file.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gapbench.hub import fingerprint
from gapbench.judges.resize import MODES, SIDE
from gapbench.models.base import in_batches
from gapbench.records import InputError

if TYPE_CHECKING:
    from PIL import Image

FEATURES, CLASSES = 2048, 1008
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
NAMES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{NAMES[0]}"
PROBE_SECONDS = 8.0
NORM, EPSILON = ("weight", "bias", "running_mean", "running_var"), 1e-3  # of the batch norms
AHEAD = 2  # batches that are decoded and resized while the network runs


class Features:
    """Images to features (n, 2048), float32. One image's do not depend on the others, up to rounding.

    weights: a file, or a folder that holds it; None: torch's cache, where torchmetrics, torch-fidelity and pytorch-fid
    put it, else the release. resize: a mode of judges/resize.py, part of the number's name.
    """

    def __init__(
        self, weights: Path | None = None, resize: str = "torch-fidelity", device: torch.device | str | None = None
    ) -> None:
        if resize not in MODES:
            raise InputError(f"no FID is resized by {resize!r}; known: {', '.join(MODES)}")
        self.resize = resize
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.batch = 32 if self.device.type == "cpu" else 128
        file = find_weights(weights)
        self.weights = fingerprint(file)
        self.network = load(file).to(self.device, memory_format=torch.channels_last)

    def describe(self) -> dict[str, Any]:
        """All that can change a feature."""
        return {
            "network": "Inception 2015-12-05, pool3",
            "weights": self.weights,
            "resize": f"{self.resize} {SIDE}",
            "dtype": "float32",
        }

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Of images of any mode and size."""
        chunks = list(self.stream((lambda image=image: image) for image in images))
        return np.concatenate(chunks) if chunks else np.empty((0, FEATURES), dtype=np.float32)

    def stream(self, openers: Iterable[Callable[[], Image.Image]]) -> Iterator[np.ndarray]:
        """Features batch by batch and in order, of images that are opened when they are needed, on threads.

        Memory does not grow with their number. What an opener raises (OSError) is raised here.
        """
        openers, waiting = iter(openers), deque[list[Future[np.ndarray]]]()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            try:
                while batch := list(islice(openers, self.batch)):
                    waiting.append([pool.submit(self._pixels, opener) for opener in batch])
                    if len(waiting) > AHEAD:
                        yield self._features(waiting.popleft())
                while waiting:
                    yield self._features(waiting.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _pixels(self, opener: Callable[[], Image.Image]) -> np.ndarray:
        return MODES[self.resize](np.asarray(opener().convert("RGB")))

    def _features(self, pixels: Sequence[Future[np.ndarray]]) -> np.ndarray:
        return np.stack(list(in_batches([one.result() for one in pixels], self.batch, self._run)))

    @torch.inference_mode()
    def _run(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        pixels_B3HW = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)  # in memory the channels stay last
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self.network(pixels_B3HW.to(self.device)).cpu().numpy()


# ---------------------------------------------------------------------------------------------------------------------
# Weights


def find_weights(given: Path | None = None) -> Path:
    """The file of the weights; downloaded where neither `given` nor torch's cache has it. InputError where that fails.

    A file that carries the released file's name is held to its hash.
    """
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    if given is not None and given.is_file():
        found = given
    else:
        place = given or cache
        found = next((place / name for name in NAMES if (place / name).is_file()), None)
        if found is None and given is not None:
            raise InputError(f"{given}: there is no such file, and no folder with {' or '.join(NAMES)}")
    if found is None:
        return _download(cache / NAMES[0])
    if found.name in NAMES and fingerprint(found)["sha256"] != SHA256:
        raise InputError(f"{found}: damaged, its sha256 is not {SHA256[:8]}...; download it again from {URL}")
    return found


def _download(to: Path) -> Path:
    from urllib.request import Request, urlopen

    try:
        urlopen(Request(URL, method="HEAD"), timeout=PROBE_SECONDS).close()
        to.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL, str(to), hash_prefix=SHA256)
    except (OSError, RuntimeError) as error:  # no connection or no room; a wrong hash
        why = " ".join(str(getattr(error, "reason", error)).split())
        raise InputError(f"cannot download {URL} ({why}). Download it elsewhere and put it into {to.parent}") from None
    return to


def load(path: Path) -> Inception:
    """The network with the released weights, or others of its keys and shapes. InputError for any other file."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        tensors = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        found = {key: tuple(value.shape) for key, value in tensors.items()}
    except Exception:  # a file that is no state dict: torch, or what it gives, says so in many ways
        raise InputError(f"{path}: not a file of weights that torch can read; FID needs {NAMES[0]}") from None
    wanted = shapes()
    for key in (*wanted, *found):
        if found.get(key) != wanted.get(key):
            told = f"is {found.get(key, 'missing')}, not {wanted.get(key, 'known')}"
            raise InputError(f"{path}: tensor {key} {told}; FID needs the weights {NAMES[0]}")
    with torch.device("meta"):
        network = Inception()
    network.load_state_dict(_folded(tensors), assign=True)
    return network.eval().requires_grad_(False)


def shapes() -> dict[str, tuple[int, ...]]:
    """Of the released file's tensors, batch norms and classifier included."""
    with torch.device("meta"):
        kernels = {key: value.shape for key, value in Inception().state_dict().items() if key.endswith("weight")}
    norms = {key.replace("conv.weight", f"bn.{part}"): shape[:1] for key, shape in kernels.items() for part in NORM}
    classifier = {"fc.weight": (CLASSES, FEATURES), "fc.bias": (CLASSES,)}
    return {key: tuple(shape) for key, shape in {**kernels, **norms, **classifier}.items()}


def _folded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convolutions with the batch norms after them in their weights and biases: one pass over memory less for each."""
    folded = {}
    for key, kernel in tensors.items():
        if key.endswith(".conv.weight"):
            norm = key.replace("conv.weight", "bn.")
            weight, bias, mean, variance = (tensors[norm + part].double() for part in NORM)
            scale = weight / torch.sqrt(variance + EPSILON)
            folded[key] = (kernel.double() * scale[:, None, None, None]).float()
            folded[key.replace("weight", "bias")] = (bias - mean * scale).float()
    return folded


# ---------------------------------------------------------------------------------------------------------------------
# The network. Names are the released file's.


def unit(
    inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | str = "same"
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding)
    return nn.Sequential(OrderedDict(conv=conv, relu=nn.ReLU(inplace=True)))


def half(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    """Stride 2, no padding."""
    return unit(inputs, outputs, kernel, stride=2, padding=0)


def average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=False)


def largest(x: Tensor) -> Tensor:
    return F.max_pool2d(x, kernel_size=3, stride=1, padding=1)


def shrink(x: Tensor) -> Tensor:
    return F.max_pool2d(x, kernel_size=3, stride=2)


class Inception(nn.Module):
    """(B,3,299,299) in [-1, 1] to (B,2048)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = half(3, 32)
        self.Conv2d_2a_3x3 = unit(32, 32, 3, padding=0)
        self.Conv2d_2b_3x3 = unit(32, 64, 3)
        self.Conv2d_3b_1x1 = unit(64, 80, 1)
        self.Conv2d_4a_3x3 = unit(80, 192, 3, padding=0)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = MixedA(192, 32), MixedA(256, 64), MixedA(288, 64)
        self.Mixed_6a = MixedB(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (MixedC(c) for c in (128, 160, 160, 192))
        self.Mixed_7a = MixedD()
        self.Mixed_7b, self.Mixed_7c = MixedE(1280, average), MixedE(2048, largest)

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(shrink(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(shrink(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean(dim=(2, 3))


class MixedA(nn.Module):
    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = unit(inputs, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = unit(inputs, 48, 1), unit(48, 64, 5)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = unit(inputs, 64, 1), unit(64, 96, 3)
        self.branch3x3dbl_3 = unit(96, 96, 3)
        self.branch_pool = unit(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(average(x))], dim=1)


class MixedB(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = half(inputs, 384)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = unit(inputs, 64, 1), unit(64, 96, 3)
        self.branch3x3dbl_3 = half(96, 96)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, shrink(x)], dim=1)


class MixedC(nn.Module):
    def __init__(self, inner: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = unit(768, 192, 1)
        self.branch7x7_1, self.branch7x7_2 = unit(768, inner, 1), unit(inner, inner, row)
        self.branch7x7_3 = unit(inner, 192, column)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = unit(768, inner, 1), unit(inner, inner, column)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = unit(inner, inner, row), unit(inner, inner, column)
        self.branch7x7dbl_5 = unit(inner, 192, row)
        self.branch_pool = unit(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(average(x))], dim=1)


class MixedD(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = unit(768, 192, 1), half(192, 320)
        self.branch7x7x3_1, self.branch7x7x3_2 = unit(768, 192, 1), unit(192, 192, (1, 7))
        self.branch7x7x3_3, self.branch7x7x3_4 = unit(192, 192, (7, 1)), half(192, 192)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, shrink(x)], dim=1)


class MixedE(nn.Module):
    def __init__(self, inputs: int, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool = pool
        row, column = (1, 3), (3, 1)
        self.branch1x1 = unit(inputs, 320, 1)
        self.branch3x3_1 = unit(inputs, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = unit(384, 384, row), unit(384, 384, column)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = unit(inputs, 448, 1), unit(448, 384, 3)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = unit(384, 384, row), unit(384, 384, column)
        self.branch_pool = unit(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        threes = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        doubles = [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *threes, *doubles, self.branch_pool(self.pool(x))], dim=1)
