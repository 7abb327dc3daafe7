"""The real judges' whole way, on tiny random networks: folders of pictures in, scores out, through the command line."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_color_head
import test_mask2former
import test_mplug
from PIL import Image

from benchmarks import judging
from gapbench import cli
from gapbench.judges import inception, mask2former
from gapbench.tasks import coco, dpg_table, geneval

Scored = Callable[..., tuple[int, dict[str, Any], str]]
PROMPTS = 3  # of each benchmark


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Scored:
    def command(*words: object) -> tuple[int, dict[str, Any], str]:
        monkeypatch.setattr(sys, "argv", ["gapbench", "score", *map(str, words), "--device", "cpu", "--json"])
        capsys.readouterr()  # what making the networks printed
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        said = capsys.readouterr()
        return status, json.loads(said.out or "{}"), said.err

    return command


def picture(seed: int, side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


# --- GenEval ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A detector with its color head, and three prompts for 553."""
    monkeypatch.setattr(mask2former, "SHORT", 96)
    monkeypatch.setattr(mask2former, "LONG", 160)
    folder = tmp_path / "detector"
    test_mask2former.tiny_network().save_pretrained(folder)
    model, tokenizer = test_color_head.tiny_clip()
    model.save_pretrained(folder / "clip-vit-large-patch14")
    tokenizer.save_pretrained(folder / "clip-vit-large-patch14")
    prompts, data = geneval.read_prompts("geneval")
    some = [prompts[0], prompts[200], prompts[300]]  # an object, a count, a color
    monkeypatch.setattr(geneval, "read_prompts", lambda name: (some, data))
    return folder


@pytest.fixture
def samples(tmp_path: Path, detector: Path) -> Path:
    folder = tmp_path / "images"
    for number, metadata in enumerate(geneval.read_prompts("geneval")[0]):
        place = folder / f"{number:05d}" / "samples"
        place.mkdir(parents=True)
        (place.parent / "metadata.jsonl").write_text(json.dumps(metadata) + "\n")
        for image in range(4):
            picture(10 * number + image).save(place / f"{image:05d}.png")
    return folder


def test_geneval(scored: Scored, samples: Path, detector: Path) -> None:
    status, told, _ = scored("geneval", "--responses", samples, "--judge", detector)
    assert (status, told["partial"], told["counts"]["done"]) == (0, False, 12)
    assert set(told["metrics"]) == {"overall", "single_object", "counting", "colors", "images", "prompts"}
    assert any("Mask2Former" in note and "quick_gelu" in note for note in told["notes"])
    # A run's own layout holds the same images.
    runs = samples.parent / "run"
    for place in samples.iterdir():
        (runs / place.name).mkdir(parents=True)
        for image in (place / "samples").iterdir():
            shutil.copy(image, runs / place.name / f"{int(image.stem)}.png")
    again = scored("geneval", "--responses", runs, "--judge", detector)[1]
    assert again["metrics"] == told["metrics"]


def without(folder: Path) -> None:
    (folder / "00001/samples/00002.png").unlink()


def torn(folder: Path) -> None:
    (folder / "00001/samples/00002.png").write_bytes(b"\x89PNG\r\n")


def extra(folder: Path) -> None:
    (folder / "00007").mkdir()


def misnamed(folder: Path) -> None:
    (folder / "grids").mkdir()


def other(folder: Path) -> None:
    (folder / "00002/metadata.jsonl").write_text('{"prompt": "a photo of a bench"}')


def mode(name: str) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        image = Image.new(name, (64, 64))
        image.save(folder / "00001/samples/00002.png")

    return save


def fifth(folder: Path) -> None:
    picture(0).save(folder / "00001/samples/00004.png")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without, "1 missing (00001/3)"),
        (torn, "00001/samples/00002.png: cannot identify image file"),
        (extra, "00007: an extra folder, prompts are 00000 to 00002"),
        (misnamed, "grids: an extra folder"),
        (other, "00002: drawn for 'a photo of a bench', prompt 00002 is"),
        (mode("RGBA"), "00002.png: mode RGBA, not RGB"),
        (mode("L"), "00002.png: mode L, not RGB"),
        (mode("I;16"), "00002.png: mode I;16, not RGB"),
        (fifth, "1 extra (00001/4)"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(
    scored: Scored, samples: Path, detector: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(samples)
    status, _, err = scored("geneval", "--responses", samples, "--judge", detector)
    assert (status, len(err.splitlines())) == (2, 1)
    assert said in err
    status, told, _ = scored("geneval", "--responses", samples, "--judge", detector, "--allow-partial")
    assert (status, told["partial"]) == (0, True)
    assert told["notes"][-1].startswith(f"partial, {told['counts']['done']}/12: ")


# --- DPG-Bench --------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The benchmark's table with three prompts, and mPLUG's files beside it."""
    folder = tmp_path / "dpg"
    folder.mkdir()
    header = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    with (folder / dpg_table.FILE).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header.rstrip(",").split(","), "question_natural_language"])
        for item in ("a1", "b2", "c3"):
            writer.writerow([item, f"a cat {item}", "", 1, 0, "", "", "entity - whole (cat)", "Is there a cat?"])
            writer.writerow([item, f"a cat {item}", "", 2, 1, "", "", "attribute - color (cat, red)", "Is it red?"])
    test_mplug.write(folder / "mplug")
    return folder


def test_dpg_grids(scored: Scored, table: Path, tmp_path: Path) -> None:
    grids = tmp_path / "grids"
    grids.mkdir()
    for number, item in enumerate(("a1", "b2", "c3")):
        picture(number, 128).save(grids / f"{item}.png")
    words = ("dpg", "--responses", grids, "--data", table, "--allow-partial")
    status, told, err = scored(*words)
    assert (status, err) == (0, "")
    assert told["counts"]["done"] == 12
    assert {"overall", "L1/entity", "L1/attribute", "official/overall"} <= set(told["metrics"])
    picture(0, 128).crop((0, 0, 128, 127)).save(grids / "b2.png")
    told = scored(*words)[1]
    assert told["counts"]["done"] == 8
    assert "b2.png" in told["notes"][-1]


# --- COCO -------------------------------------------------------------------------------------------------------------


def test_coco(scored: Scored, tmp_path: Path) -> None:
    data, images = tmp_path / "coco", tmp_path / "images"
    (data / "reference").mkdir(parents=True)
    images.mkdir()
    judging.random_weights(data / "inception.pth")
    lines = ["image_id,text"]
    for number in range(PROMPTS):
        lines.append(f"{number + 40},a cat {number}")
        picture(number, 80).save(images / f"{number + 40:012d}.png")
        picture(100 + number, 90).save(data / "reference" / f"{number}.jpg")
    (data / coco.CAPTIONS).write_text("\n".join(lines))
    assert inception.FEATURES == 2048
    clip = data / "clip-vit-base-patch32"
    model, tokenizer = test_color_head.tiny_clip()
    model.save_pretrained(clip)
    tokenizer.save_pretrained(clip)
    status, told, err = scored("coco", "--responses", images, "--data", data, "--allow-partial")
    assert (status, err) == (0, "")
    assert told["counts"]["done"] == PROMPTS
    assert set(told["metrics"]) == {"clip_score", "truncated"}  # three images have no FID
    assert any("3 images of reference/" in note for note in told["notes"])
    (images / f"{41:012d}.png").unlink()
    told = scored("coco", "--responses", images, "--data", data, "--allow-partial")[1]
    assert told["counts"]["done"] == PROMPTS - 1


# --- A run ------------------------------------------------------------------------------------------------------------


def test_a_run_draws_judges_and_can_be_judged_again(
    scored: Scored,
    detector: Path,
    table: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["gapbench", "run", "--model", str(tiny_checkpoint), *map(str, words)])
        cli.main()

    out = tmp_path / "run"
    words = ["--tasks", "geneval,dpg", "--data", table, "--allow-partial", "--steps", 2, "--device", "cpu"]
    run(*words, "--judge", f"geneval={detector}", "--out", out)
    found = json.loads((out / "results.json").read_text())["tasks"]
    assert (found["geneval"]["done"], found["geneval"]["expected"]) == (12, 12)
    assert (found["dpg"]["done"], found["dpg"]["expected"]) == (12, 4260)
    assert found["geneval"]["protocol"]["detector"]["detector"]["detector"] == "Mask2Former"
    told = scored("geneval", "--responses", out / "images" / "geneval", "--judge", detector)[1]
    assert told["metrics"] == found["geneval"]["metrics"]
    told = scored("dpg", "--responses", out / "images" / "dpg", "--data", table, "--allow-partial")[1]
    assert told["metrics"] == found["dpg"]["metrics"]
    with pytest.raises(SystemExit):
        run(*words, "--judge", "pope=mine", "--out", tmp_path / "other")
    assert "--judge pope=mine: give TASK=JUDGE, TASK one of geneval, dpg" in capsys.readouterr().err
