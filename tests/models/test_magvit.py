"""Show-o's tokenizer against the reference's numbers, and the rules of lookup-free codes."""

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from gapbench.models.show_o.magvit import LookupFree, Magvit, MagvitConfig
from gapbench.models.unified.pictures import to_images, to_pixels

TINY = MagvitConfig(
    channels=16,
    groups=8,
    encoder_mult=(1, 1, 2, 2, 4),
    decoder_mult=(1, 1, 2, 2, 4),
    encoder_blocks=(1, 1, 1, 1, 1),
    decoder_blocks=(1, 1, 1, 1, 1),
    bits=9,
)


@pytest.fixture(scope="module")
def tiny() -> Magvit:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Magvit(TINY).eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


# ---------------------------------------------------------------------------------------------------------------------
# The reference's numbers


def mix(x: np.ndarray) -> np.ndarray:
    """A 32-bit integer hash, in place."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    return x


def golden_weights(model: Magvit, salt: str) -> dict[str, torch.Tensor]:
    """Pseudo-random weights, the same on every machine: a hash of the tensor's name and the position within it."""
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items() if not name.startswith("quantize.")}
    positions = mix(np.arange(max(int(np.prod(shape)) for shape in shapes.values()), dtype=np.uint32))
    weights = {}
    for name, shape in shapes.items():
        count = int(np.prod(shape))
        x = mix(positions[:count] + np.uint32(zlib.crc32(f"{salt}/{name}".encode())))
        r = (x >> np.uint32(8)) * 2.0**-23 - 1
        if len(shape) > 1:
            r *= np.sqrt(3 / np.prod(shape[1:]))
        elif name.endswith(".weight"):
            r = 1 + 0.25 * r
        else:
            r *= 0.1
        weights[name] = torch.from_numpy(r.astype(np.float32).reshape(shape))
    return weights


def test_names_shapes_and_dtypes_are_the_published_ones(shared: Path) -> None:
    expected = json.loads((shared / "golden/showo/magvitv2_shapes.json").read_text())
    with torch.device("meta"):
        model = Magvit()
    found = {
        name: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
        for name, t in model.state_dict().items()
    }
    assert found == expected["tensors"]
    assert sum(p.numel() for p in model.parameters()) == expected["parameters"] == 95_387_004
    assert sum(t.nbytes for t in model.state_dict().values()) == expected["bytes"]  # with the two buffers


@torch.inference_mode()
def test_codes_and_pictures_are_the_references(shared: Path) -> None:
    formula = json.loads((shared / "golden/showo/magvitv2_formula.json").read_text())
    golden = load_file(shared / "golden/showo/magvitv2.safetensors")
    with torch.device("meta"):
        model = Magvit()
    weights = golden_weights(model, formula["salt"])
    for name, probe in formula["probes"].items():
        values = weights[name].numpy().ravel()
        assert values[:5].tolist() == probe["first"], name
        assert values[-1] == probe["last"], name
        assert hashlib.sha256(values.astype("<f4")).hexdigest() == probe["sha256"], name
    everything = hashlib.sha256()
    for name in sorted(weights):
        everything.update(weights[name].numpy().astype("<f4", copy=False))
    assert everything.hexdigest() == formula["sha256_all_generated_tensors_sorted_by_name"]
    buffers = {f"quantize.{name}": t for name, t in LookupFree(13).state_dict().items()}
    model.load_state_dict(weights | buffers, assign=True)

    for case, grid in (("a", (4, 4)), ("b", (6, 8))):
        hidden = model.hidden(golden[f"image_{case}"])
        torch.testing.assert_close(hidden, golden[f"hidden_{case}"], rtol=0, atol=1e-4)
        assert torch.equal(model.quantize.codes(hidden).flatten(1), golden[f"codes_{case}"])
        decoded = model.decode(golden[f"grid_{case}"], *grid)
        torch.testing.assert_close(decoded, golden[f"decoded_{case}"], rtol=0, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# Codes


@pytest.mark.parametrize(("height", "width"), [(4, 4), (2, 5), (1, 1)])
@torch.inference_mode()
def test_shapes_there_and_back(tiny: Magvit, height: int, width: int) -> None:
    codes = tiny.encode(noise(2, 3, 16 * height, 16 * width))
    assert codes.shape == (2, height * width)
    assert codes.dtype == torch.int64
    assert codes.min() >= 0
    assert codes.max() < tiny.codebook_size == 512
    decoded = tiny.decode(codes, height, width)
    assert decoded.shape == (2, 3, 16 * height, 16 * width)
    assert tiny.encode(decoded).shape == codes.shape


def test_raster_order(tiny: Magvit) -> None:
    """Column x of row y is code y * width + x, on the way in and on the way out."""
    pixels = noise(1, 3, 32, 48)
    with torch.inference_mode():
        signs = tiny.hidden(pixels) > 0
        codes = tiny.encode(pixels)
    bits = [bool(codes[0, 1 * 3 + 2] >> (8 - c) & 1) for c in range(9)]
    assert bits == signs[0, :, 1, 2].tolist()
    assert torch.equal(tiny.code_vectors(codes.view(1, 2, 3)) > 0, signs)


def test_codes_and_vectors_are_two_names_of_one_thing(tiny: Magvit) -> None:
    codes = torch.arange(512).view(2, 16, 16)
    vectors = tiny.code_vectors(codes)
    assert vectors.shape == (2, 9, 16, 16)
    assert vectors.dtype == torch.float32
    assert torch.equal(tiny.quantize.codes(vectors), codes)
    assert torch.equal(vectors.movedim(1, -1), tiny.quantize.embedding[codes])
    assert torch.equal(tiny.code_vectors(codes.flatten(1)), vectors.flatten(2))


def test_the_first_channel_is_the_most_significant_bit() -> None:
    vectors = LookupFree(13).vectors(torch.tensor([[0, 1, 4096, 8191]]))[0].T
    expected = torch.full((4, 13), -1.0)
    expected[1, -1] = 1
    expected[2, 0] = 1
    expected[3] = 1
    assert torch.equal(vectors, expected)


def test_exactly_zero_is_an_unset_bit() -> None:
    values = torch.tensor([0.0, -0.0, 1e-38, -1e-38]).view(1, 4, 1, 1)
    assert LookupFree(4).codes(values).item() == 0b0010


@torch.inference_mode()
def test_codes_do_not_depend_on_the_batch(tiny: Magvit) -> None:
    pixels = noise(4, 3, 64, 64)
    together = tiny.encode(pixels)
    alone = torch.cat([tiny.encode(image) for image in pixels.split(1)])
    assert torch.equal(together, alone)
    assert together.unique().numel() > 4  # or the comparison would say little


def test_gradients_reach_both_ends(tiny: Magvit) -> None:
    hidden = tiny.hidden(noise(1, 3, 32, 32))
    straight_through = hidden + (hidden.sign() - hidden).detach()
    loss = tiny.decoder(straight_through).square().mean()
    grads = torch.autograd.grad(loss, list(tiny.parameters()))
    assert all(grad.isfinite().all() for grad in grads)
    assert all(grad.any() for grad in (grads[0], grads[-1]))


def test_wrong_sizes_and_codes_are_refused(tiny: Magvit) -> None:
    with pytest.raises(ValueError, match="40 x 64; both sides must be multiples of 16"):
        tiny.encode(noise(1, 3, 40, 64))
    with pytest.raises(ValueError, match="no batch of 2 x 3 grids"):
        tiny.decode(torch.zeros(1, 5, dtype=torch.int64), 2, 3)
    for code in (-1, 512):
        with pytest.raises(ValueError, match=r"0\.\.511"):
            tiny.decode(torch.full((1, 6), code), 2, 3)


# ---------------------------------------------------------------------------------------------------------------------
# Configuration


def test_config_round_trip() -> None:
    assert MagvitConfig.from_dict(json.loads(json.dumps(TINY.to_dict()))) == TINY
    assert MagvitConfig.from_dict({"_class_name": "MAGVITv2", "_diffusers_version": "0.30.1"}) == MagvitConfig()
    assert Magvit(TINY).downsampling == 16


def test_config_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="depth, dropout"):
        MagvitConfig.from_dict({"dropout": 0.1, "bits": 13, "depth": 2})
    with pytest.raises(ValueError, match="one entry per level"):
        MagvitConfig(encoder_mult=(1, 2))


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(rgb).convert(mode)


@pytest.mark.parametrize("size", [(64, 64), (101, 67), (67, 101), (33, 47), (64, 91), (300, 65), (63, 64), (1, 3)])
def test_to_pixels_is_torchvisions_pipeline(size: tuple[int, int]) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    pipeline = transforms.Compose(
        [
            transforms.Resize(64, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(64),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    image = picture(*size)
    pixels = to_pixels(image, 64)
    assert pixels.shape == (3, 64, 64)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    assert torch.equal(pixels, pipeline(image))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_to_pixels_converts_every_mode(mode: str) -> None:
    image = picture(40, 32, mode)
    assert torch.equal(to_pixels(image, 32), to_pixels(image.convert("RGB"), 32))


def test_grey_values_cover_the_range() -> None:
    assert to_pixels(Image.new("L", (8, 8), 0), 8).unique().tolist() == [-1]
    assert to_pixels(Image.new("L", (8, 8), 255), 8).unique().tolist() == [1]


def test_to_images_clamps_and_truncates() -> None:
    levels = torch.tensor([-3.0, -1.0, 2 * 0.9 / 255 - 1, 2 * 1.5 / 255 - 1, 2 * 254.9 / 255 - 1, 1.0, 7.0])
    images = to_images(levels.view(1, 1, 1, 7).expand(2, 3, 1, 7).clone().requires_grad_())
    assert [image.mode for image in images] == ["RGB", "RGB"]
    assert images[1].size == (7, 1)
    assert np.asarray(images[1])[0, :, 0].tolist() == [0, 0, 0, 1, 254, 255, 255]


def test_to_images_keeps_height_width_and_channels_apart() -> None:
    decoded = torch.full((1, 3, 2, 3), -1.0)
    decoded[0, 1, 1, 2] = 1
    (image,) = to_images(decoded.bfloat16())
    assert image.size == (3, 2)
    assert image.getpixel((2, 1)) == (0, 255, 0)
    assert image.getpixel((1, 1)) == (0, 0, 0)
