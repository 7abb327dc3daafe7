"""The exact eye: right about everything that is rendered, blind to noise and to broken things, and quick."""

from __future__ import annotations

import io
import random
import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import ndimage

from gapbench.metrics.relations import Box
from gapbench.miniature import tiles
from gapbench.miniature.eye import THRESHOLD, Eye, detect, frame, read
from gapbench.miniature.language import random_query
from gapbench.miniature.picture import GROUND, RGB, render, render_array, tile
from gapbench.miniature.world import COLORS, SHAPES, SIZES, SPLITS, Scene, Thing, scenes
from gapbench.models.base import Answers, Described
from gapbench.records import Decoding, Failure, Picture, Question

SCENES = [scene for split in SPLITS for scene in scenes(split, 400, seed=7)]
LARGE_STAR = Scene((Thing(4, "red", "star", "large"),))


def exactly_read(change: Callable[[Image.Image], Image.Image], every: int = 1) -> float:
    some = SCENES[::every]
    return statistics.mean(read(change(render(scene))) == scene for scene in some)


# --- What is rendered -------------------------------------------------------------------------------------------------


def test_boxes_are_those_of_the_scene() -> None:
    for scene in SCENES[::3]:
        seen = detect(render_array(scene))
        assert {(d.color, d.shape, d.size, d.box) for d in seen} == {
            (t.color, t.shape, t.size, t.box) for t in scene.things
        }
        assert len(seen) == len(scene.things)


def test_every_rendered_scene_reads_back_exactly() -> None:
    assert exactly_read(lambda picture: picture) == 1


def test_every_thing_is_read_alone_and_scored_high() -> None:
    for color in COLORS:
        for shape in SHAPES:
            for size in SIZES:
                (seen,) = detect(render(Scene((Thing(5, color, shape, size),))))
                assert (seen.color, seen.shape, seen.size) == (color, shape, size)
                assert 0.98 < seen.score <= 1


def noisy(picture: Image.Image) -> Image.Image:
    pixels = np.asarray(picture, dtype=float)
    noise = np.random.default_rng(int(pixels.sum())).normal(0, 6, pixels.shape)
    return Image.fromarray(np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8))


def jpeg(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return Image.open(file)


def test_noise_blur_and_jpeg_do_no_harm() -> None:
    assert exactly_read(noisy, every=4) >= 0.99
    assert exactly_read(lambda picture: picture.filter(ImageFilter.GaussianBlur(0.7)), every=4) >= 0.99
    assert exactly_read(jpeg, every=4) >= 0.99


@pytest.mark.parametrize("side", [256, 512])
@pytest.mark.parametrize("how", ["NEAREST", "BILINEAR", "BICUBIC", "LANCZOS"])
def test_enlarged_pictures_are_read(side: int, how: str) -> None:
    assert exactly_read(lambda picture: picture.resize((side, side), Image.Resampling[how]), every=12) >= 0.99


def test_too_blurred_counts_as_absent() -> None:
    assert not detect(render(LARGE_STAR).filter(ImageFilter.GaussianBlur(4)))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_any_mode_is_read(mode: str) -> None:
    assert read(render(LARGE_STAR).convert(mode)) == LARGE_STAR


def test_transparency_shows_the_ground() -> None:
    picture = render(LARGE_STAR).convert("RGBA")
    away = (np.asarray(render(LARGE_STAR)) == GROUND).all(axis=-1)
    pixels = np.array(picture)
    pixels[away] = 0
    assert read(Image.fromarray(pixels)) == LARGE_STAR
    assert frame(Image.fromarray(pixels)).shape == (96, 96, 3)


def test_things_need_no_cells() -> None:
    canvas = np.empty((96, 96, 3), dtype=np.uint8)
    canvas[:] = GROUND
    canvas[7:39, 45:77] = tile("blue", "heart", "large")
    canvas[60:92, 0:32] = tile("pink", "cross", "small")
    heart, cross = sorted(detect(canvas), key=lambda seen: seen.box.top)
    assert (heart.color, heart.shape, heart.size, heart.box) == ("blue", "heart", "large", Box(47.5, 9.5, 74.5, 36.5))
    assert (cross.color, cross.shape, cross.size, cross.box) == ("pink", "cross", "small", Box(7.5, 67.5, 24.5, 84.5))
    assert [thing.cell for thing in read(canvas).things] == [1, 6]


def test_of_two_things_in_one_cell_the_better_stays() -> None:
    canvas = np.empty((96, 96, 3), dtype=np.uint8)
    canvas[:] = GROUND
    canvas[0:20, 0:20] = tile("blue", "square", "small")[6:26, 6:26]
    canvas[6, 6:8] = GROUND  # a flaw
    canvas[20:40, 20:40] = tile("green", "square", "small")[6:26, 6:26]
    canvas[44:76, 44:76] = tile("red", "star", "small")
    green, blue = (next(d for d in detect(canvas) if d.color == color) for color in ("green", "blue"))
    assert green.score > blue.score
    assert [(thing.cell, thing.color) for thing in read(canvas).things] == [(0, "green"), (4, "red")]


# --- What is not there ------------------------------------------------------------------------------------------------

RANDOM = np.random.default_rng(3)


def as_pixels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def smooth(scale: float, strength: float, around: tuple[int, int, int]) -> np.ndarray:
    field = ndimage.gaussian_filter(RANDOM.normal(size=(96, 96, 3)), (scale, scale, 0))
    return as_pixels(np.array(around) + strength * field / field.std())


def flat_blobs(scale: float) -> np.ndarray:
    """Sharp blobs in the very colors of the world: the hardest."""
    fields = ndimage.gaussian_filter(RANDOM.normal(size=(1 + len(COLORS), 96, 96)), (0, scale, scale))
    fields[0] += fields.std()
    return np.array([GROUND, *RGB.values()], dtype=np.uint8)[fields.argmax(axis=0)]


def salt_and_pepper(share: float) -> np.ndarray:
    struck, white = RANDOM.random((96, 96, 1)) < share, RANDOM.random((96, 96, 1)) < 0.5
    return as_pixels(np.where(struck, 255.0 * white, np.array(GROUND)))


NOISES: dict[str, Callable[[], np.ndarray]] = {
    "uniform": lambda: as_pixels(RANDOM.uniform(0, 255, (96, 96, 3))),
    "ground, weak": lambda: as_pixels(np.array(GROUND) + RANDOM.normal(0, 10, (96, 96, 3))),
    "ground, strong": lambda: as_pixels(np.array(GROUND) + RANDOM.normal(0, 40, (96, 96, 3))),
    "salt and pepper": lambda: salt_and_pepper(0.1),
    "much salt and pepper": lambda: salt_and_pepper(0.5),
    **{f"grey smooth {s}": lambda s=s: smooth(s, 50, (128, 128, 128)) for s in (3, 5, 8)},
    **{f"garish smooth {s}": lambda s=s: smooth(s, 150, (128, 128, 128)) for s in (3, 5, 8)},
    **{f"smooth on ground {s}": lambda s=s: smooth(s, 100, GROUND) for s in (3, 5, 8)},
    **{f"flat blobs {s}": lambda s=s: flat_blobs(s) for s in (3, 5, 8)},
}


@pytest.mark.parametrize("noise", NOISES)
def test_noise_holds_nothing(noise: str) -> None:
    assert sum(bool(detect(NOISES[noise]())) for _ in range(100)) <= 1


def test_random_codes_hold_almost_nothing() -> None:
    """A whole thing by chance is legitimate, but takes four matching codes."""
    pictures = tiles.picture_of(RANDOM.integers(0, 512, (100, 36)))
    assert sum(bool(detect(picture)) for picture in pictures) <= 2


def broken(how: str) -> float:
    """Share of scenes where a thing with a bad quadrant is still seen; the other things always are."""
    rng = random.Random(1)
    still = 0
    for scene in SCENES[::3]:
        thing, quadrant = rng.choice(scene.things), rng.randrange(4)
        other = rng.choice([color for color in COLORS if color != thing.color])
        codes = tiles.codes_of(scene)
        row, column = divmod(thing.cell, 3)
        codes[(2 * row + quadrant // 2) * 6 + 2 * column + quadrant % 2] = (
            tiles.BARE if how == "missing" else tiles.code(quadrant, thing.size, other, thing.shape)
        )
        seen = read(tiles.picture_of(codes)).things
        still += thing.cell in {t.cell for t in seen}
        assert set(scene.things) - {thing} <= set(seen)
        assert set(seen) <= set(scene.things), "broken into another thing"
    return still / len(SCENES[::3])


def test_a_thing_with_a_missing_quadrant_is_absent() -> None:
    assert broken("missing") == 0


def test_a_thing_with_a_quadrant_of_another_color_is_absent() -> None:
    assert broken("color") <= 0.01


def test_pale_edges_of_red_are_not_pink() -> None:
    for shape in SHAPES:
        for radius in (0, 0.7, 1.5, 3):
            picture = render(Scene((Thing(4, "red", shape, "large"),))).filter(ImageFilter.GaussianBlur(radius))
            assert {seen.color for seen in detect(picture, threshold=0.2)} <= {"red"}


def test_a_wrong_size_or_aspect_is_absent() -> None:
    square = np.empty((96, 96, 3), dtype=np.uint8)
    for height, width in ((20, 20), (25, 16), (16, 25), (12, 12), (31, 31), (60, 60)):
        square[:] = GROUND
        square[20 : 20 + height, 20 : 20 + width] = RGB["green"]
        assert not detect(square), (height, width)


@pytest.mark.parametrize("color", [GROUND, (255, 255, 255), (0, 0, 0), RGB["red"], (128, 128, 128)])
def test_an_empty_picture_holds_nothing(color: tuple[int, int, int]) -> None:
    assert detect(Image.new("RGB", (64, 48), color)) == []
    assert read(Image.new("RGB", (96, 96), color)) == Scene(())


# --- Answers ----------------------------------------------------------------------------------------------------------


def pictured(scene: Scene, opened: list[str], key: str) -> Picture:
    def load() -> Image.Image:
        opened.append(key)
        return render(scene)

    return Picture(key, load)


def test_answers_are_right_and_a_picture_is_opened_once() -> None:
    rng, opened = random.Random(0), []
    questions, right = [], []
    for number, scene in enumerate(SCENES[:50]):
        for index in range(4):
            query = random_query(scene, rng)
            picture = pictured(scene, opened, str(number))
            text = query.text + ("\nAnswer with one word." if index % 2 else "")
            questions.append(Question(f"{number}/{index}", text, (picture,)))
            right.append(query.answer(scene.things))
    assert list(Eye().answer(questions, Decoding())) == right
    assert opened == [str(number) for number in range(50)]


def test_what_cannot_be_answered_fails_with_a_reason() -> None:
    def broken_file() -> Image.Image:
        return Image.open(io.BytesIO(b"not a picture"))

    def cut_file() -> Image.Image:
        file = io.BytesIO()
        render(LARGE_STAR).save(file, "PNG")
        return Image.open(io.BytesIO(file.getvalue()[:200]))

    good = Picture("good", lambda: render(LARGE_STAR))
    questions = [
        Question("1", "Who painted this?", (good,)),
        Question("2", "Is there a star in the image?"),
        Question("3", "Is there a star in the image?", (good, good)),
        Question("4", "Is there a star in the image?", (Picture("bad.png", broken_file),)),
        Question("5", "Is there a star in the image?", (Picture("cut.png", cut_file),)),
        Question("6", "Is there a star in the image?", (good,)),
    ]
    *failures, answer = Eye().answer(questions, Decoding())
    reasons = [failure.reason for failure in failures if isinstance(failure, Failure)]
    assert "Who painted this?" in reasons[0]
    assert "one picture, not 0" in reasons[1]
    assert "one picture, not 2" in reasons[2]
    assert "bad.png cannot be read" in reasons[3]
    assert "cut.png cannot be read" in reasons[4]
    assert answer == "yes"


def test_the_threshold_decides_and_is_described() -> None:
    eye = Eye(threshold=0.995)
    assert isinstance(eye, Answers)
    assert isinstance(eye, Described)
    assert eye.describe() == {"name": "eye", "version": "1", "threshold": 0.995}
    assert Eye().describe()["threshold"] == THRESHOLD
    blurred = Picture("blurred", lambda: render(LARGE_STAR).filter(ImageFilter.GaussianBlur(0.7)))
    question = Question("1", "How many objects are there?", (blurred,))
    assert list(eye.answer([question], Decoding())) == ["0"]
    assert list(Eye().answer([question], Decoding())) == ["1"]


def test_detection_is_quick() -> None:
    pictures = [render_array(scene) for scene in SCENES[:200]]
    times = []
    for picture in pictures:
        start = time.perf_counter()
        detect(picture)
        times.append(time.perf_counter() - start)
    assert statistics.median(times) < 0.01  # 0.8 ms on a free core
