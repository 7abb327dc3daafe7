"""Judging's speed: FID against torchmetrics, pytorch-fid and clean-fid, and GenEval's detector in batches, in one run.

    uv run python -m benchmarks.judging                      # 2,000 images of 512x512; about an hour on two cores
    uv run python -m benchmarks.judging --images 200
    uv run python -m benchmarks.judging --device cuda --images 10000

All with one random Inception, each library with its own loader, resize, network and statistics, as its documentation
calls it. Ours runs in that library's resize mode, on the same files right after it. `apart` is the relative difference
of the FIDs to the same reference statistics, both by our distance, so that it compares features and statistics.
Before that, our peak memory for growing numbers of images, and the distance alone in 2,048 dimensions.

GenEval's detector with random weights, full size on CUDA and tiny on a CPU, where the processing around it is what
costs: a chunk of images at once against one at a time, with the same boxes.

torchmetrics and scipy are installed with gapbench; pytorch-fid 0.3.0 and clean-fid 0.1.35 take part where the folder
GAPBENCH_PEERS has them (uv pip install --target "$GAPBENCH_PEERS" --no-deps pytorch-fid==0.3.0 clean-fid==0.1.35).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from gapbench.judges.inception import FEATURES, Features, shapes
from gapbench.metrics.frechet import Gaussian, Moments, frechet_distance

SIDE, REFERENCES = 512, 64
MEMORY = (100, 300, 900)


def random_weights(path: Path, seed: int = 0) -> Path:
    """A file laid out as the released one, with weights that keep activations in range and norms that do something."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes().items():
        normal, uniform = torch.randn(shape, generator=draw), torch.rand(shape, generator=draw)
        if len(shape) > 1:
            state[key] = normal * (2 / np.prod(shape[1:])) ** 0.5
        else:
            state[key] = 0.6 + 0.8 * uniform if key.endswith(("bn.weight", "running_var")) else 0.1 * normal
    torch.save(state, path)
    return path


def peer(name: str) -> ModuleType | None:
    """A module of a package in GAPBENCH_PEERS, or an installed one; None where it is neither."""
    folder = os.environ.get("GAPBENCH_PEERS")
    if folder and folder not in sys.path:
        sys.path.append(folder)
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def write_images(folder: Path, count: int, side: int = SIDE) -> list[Path]:
    """PNG files of smooth colours with some noise, each of its own."""
    paths = []
    for number in range(count):
        rng = np.random.default_rng(number)
        smooth = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((side, side))
        noisy = np.asarray(smooth, dtype=np.int16) + rng.integers(-12, 13, (side, side, 1), dtype=np.int16)
        paths.append(folder / f"{number:05}.png")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(paths[-1], compress_level=1)
    return paths


def open_all(paths: Sequence[Path]) -> Iterator[Callable[[], Image.Image]]:
    return (partial(Image.open, path) for path in paths)


def ours(features: Features, paths: Sequence[Path]) -> Gaussian:
    moments = Moments(FEATURES)
    for chunk in features.stream(open_all(paths)):
        moments.add(chunk)
    return moments.gaussian()


# ---------------------------------------------------------------------------------------------------------------------
# The libraries: each returns statistics of the files, and its network is made beforehand


def by_torchmetrics(weights: Path, device: str, antialias: bool) -> Callable[[Sequence[Path]], Gaussian] | None:
    module = peer("torchmetrics.image.fid")
    if module is None:
        return None
    metric = module.FrechetInceptionDistance(feature_extractor_weights_path=str(weights), antialias=antialias)
    metric = metric.to(device)

    def pixels(path: Path) -> torch.Tensor:
        return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)

    def statistics(paths: Sequence[Path]) -> Gaussian:
        metric.reset()
        with torch.no_grad():
            for start in range(0, len(paths), 32):
                batch = torch.stack([pixels(path) for path in paths[start : start + 32]])
                metric.update(batch.to(device), real=False)
        n = metric.fake_features_num_samples.item()
        mean = (metric.fake_features_sum / n).cpu().numpy()
        covariance = (metric.fake_features_cov_sum.cpu().numpy() - n * np.outer(mean, mean)) / (n - 1)
        return Gaussian(mean, covariance)

    return statistics


def by_pytorch_fid(weights: Path, device: str) -> Callable[[Sequence[Path]], Gaussian] | None:
    module = peer("pytorch_fid.fid_score")
    if module is None:
        return None
    inception = peer("pytorch_fid.inception")
    with patch.object(inception, "load_state_dict_from_url", lambda *_, **__: torch.load(weights)):
        network = inception.InceptionV3([3]).to(device)

    def statistics(paths: Sequence[Path]) -> Gaussian:
        workers = os.cpu_count() or 1
        return Gaussian(*module.calculate_activation_statistics(list(paths), network, 50, 2048, device, workers))

    return statistics


def by_clean_fid(weights: Path, device: str) -> Callable[[Sequence[Path]], Gaussian] | None:
    """Its network is a torchscript file of its own; torch-fidelity's stands in for that."""
    module = peer("cleanfid.fid")
    if module is None:
        return None
    network = torch_fidelity(weights).to(device)

    def layers(pixels_B3HW: torch.Tensor) -> torch.Tensor:
        return without_resize(network, (pixels_B3HW - 128) / 128)

    def statistics(paths: Sequence[Path]) -> Gaussian:
        names = [str(path) for path in paths]
        features = module.get_files_features(
            names, model=layers, num_workers=os.cpu_count(), batch_size=32, device=torch.device(device), mode="clean"
        )
        return Gaussian(features.mean(axis=0), np.cov(features, rowvar=False))

    return statistics


def torch_fidelity(weights: Path) -> Any:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    return FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(weights))


def without_resize(network: Any, scaled_B3HW: torch.Tensor) -> torch.Tensor:
    """torch-fidelity's layers on what is 299x299 and scaled already."""
    name = "torch_fidelity.feature_extractor_inceptionv3.interpolate_bilinear_2d_like_tensorflow1x"
    with torch.no_grad(), patch(name, lambda *_, **__: scaled_B3HW * 128 + 128):
        return network(scaled_B3HW.to(torch.uint8))[0]


# ---------------------------------------------------------------------------------------------------------------------


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):  # progress bars
        result = work()
    return time.perf_counter() - started, result


def measure_pipelines(weights: Path, count: int, device: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        paths = write_images(Path(place), count)
        libraries = {
            "torchmetrics": ("torchmetrics", by_torchmetrics(weights, device, antialias=True)),
            "torchmetrics, antialias=False": ("torch-fidelity", by_torchmetrics(weights, device, antialias=False)),
            "pytorch-fid": ("pytorch-fid", by_pytorch_fid(weights, device)),
            "clean-fid": ("clean-fid", by_clean_fid(weights, device)),
        }
        print(f"{count} PNG files of {SIDE}x{SIDE} to FID's statistics; seconds, images per second")
        print(f"{'':30} {'theirs':>16} {'ours':>16} {'ratio':>7}   {'FID':>9} {'apart':>8}")
        for name, (mode, statistics) in libraries.items():
            if statistics is None:
                print(f"{name:30} not installed")
                continue
            features = Features(weights, mode, device)
            reference = ours(features, paths[: min(REFERENCES, count // 2)])  # warm-up, too
            timed(lambda statistics=statistics: statistics(paths[:32]))
            theirs, wanted = timed(lambda statistics=statistics: statistics(paths))
            seconds, found = timed(lambda features=features: ours(features, paths))
            fid, other = frechet_distance(found, reference), frechet_distance(wanted, reference)
            print(
                f"{name:30} {theirs:8.1f} {count / theirs:7.1f} {seconds:8.1f} {count / seconds:7.1f}"
                f" {theirs / seconds:6.2f}x   {fid:9.4f} {abs(fid - other) / other:8.1e}",
                flush=True,
            )


def measure_distance(d: int) -> None:
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(0)
    spectrum = np.arange(1, d + 1) ** -0.5
    a, b = Moments(d), Moments(d)
    for moments, shift in ((a, 0.0), (b, 0.1)):
        for _ in range(4):
            moments.add(shift + rng.standard_normal((d, d)) * spectrum)
    a, b = a.gaussian(), b.gaussian()

    def by_sqrtm() -> float:
        root = sqrtm(a.covariance @ b.covariance).real
        return ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.trace(root)

    theirs, wanted = timed(by_sqrtm)
    seconds, found = timed(lambda: frechet_distance(a, b))
    print(f"the distance, {d} dimensions: scipy.linalg.sqrtm {theirs:.1f} s, ours {seconds:.1f} s,", end=" ")
    print(f"ratio {theirs / seconds:.1f}x, apart {abs(found - wanted) / wanted:.1e}", flush=True)


def measure_memory(weights: Path, count: int, device: str) -> None:
    """Of this process, which is a new one."""
    with tempfile.TemporaryDirectory() as place:
        paths = write_images(Path(place), count)
        ours(Features(weights, device=device), paths)
    print(f"{count:6} images: peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:6.0f} MiB")


def measure_geneval(count: int, device: str) -> None:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    from gapbench.judges.mask2former import Mask2Former

    stages = ["stage1", "stage2", "stage3", "stage4"]
    small = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
    swin_s = {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
    tiny = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "num_queries": 20, "decoder_layers": 2}
    tiny |= {"num_attention_heads": 2, "encoder_layers": 1, "encoder_feedforward_dim": 16, "dim_feedforward": 16}
    cpu = device == "cpu"
    backbone = SwinConfig(**(small if cpu else swin_s), out_features=stages)
    config = Mask2FormerConfig(backbone_config=backbone, num_labels=80, **(tiny if cpu else {"num_queries": 100}))
    torch.manual_seed(0)
    detector = Mask2Former(Mask2FormerForUniversalSegmentation(config), {"weights": "random"}, device)
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)) for _ in range(count)]
    detector.detect(pictures[:2], 0.001)
    single, one = timed(lambda: [found for picture in pictures for found in detector.detect([picture], 0.001)])
    batched, many = timed(lambda: detector.detect(pictures, 0.001))
    boxes = [[[(d.name, d.box) for d in found] for found in each] for each in (one, many)]
    same = sum(a == b for a, b in zip(*boxes, strict=True))
    print(f"GenEval's detector, {count} images: one at a time {single:.1f} s, together {batched:.1f} s,", end=" ")
    print(f"ratio {single / batched:.1f}x, {same}/{count} with equal objects", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dimensions", type=int, default=FEATURES, help="of the distance that is timed")
    parser.add_argument("--memory", type=int, nargs="*", default=MEMORY, help="numbers of images; none: not measured")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        weights = random_weights(Path(place) / "random.pth")
        if args.memory_of:
            measure_memory(weights, args.memory_of, args.device)
            return
        machine = torch.cuda.get_device_name() if args.device != "cpu" else f"{platform.machine()} CPU"
        machine = f"{machine}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
        print(f"{machine}, torch {torch.__version__}", flush=True)
        for count in args.memory:  # before anything large is in this process: a child's peak begins at its parent's
            command = [sys.executable, "-m", "benchmarks.judging", "--device", args.device, "--memory-of", str(count)]
            subprocess.run(command, check=True)
        measure_distance(args.dimensions)
        measure_geneval(16, args.device)
        measure_pipelines(weights, args.images, args.device)


if __name__ == "__main__":
    main()
