"""Flickr30k against pycocoevalcap's golden numbers; both layouts and Karpathy's split; saved captions."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import flickr30k as layouts

from gapbench.records import Failure, InputError, Picture, Question, Record
from gapbench.tasks import flickr30k, flickr30k_answers
from gapbench.tasks.base import Options, QuestionTask

FIRST = "36979"


def record(image: str, caption: str | Failure, references: list[str], variant: str = "official") -> Record:
    item = flickr30k.item_of(flickr30k.Row(image, tuple(references)), Picture(image, lambda: None))
    judged = flickr30k.judge_item(item, caption, variant)
    text, error = (caption, None) if isinstance(caption, str) else ("", caption.reason)
    return Record("flickr30k", item.id, item.cluster, item.skills, 0, text, judged.score, judged.details, error=error)


def values(records: list[Record]) -> dict[str, float]:
    return {name: estimate.value for name, estimate in flickr30k.metrics(records).items()}


def load(folder: Path) -> QuestionTask:
    return flickr30k.real(Options(data=folder, allow_partial=True))


# --- Golden -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "golden/understanding/caption_expected.json").read_text())


@pytest.fixture(scope="module")
def captions(shared: Path) -> list[dict[str, Any]]:
    text = (shared / "data/understanding/caption/pope_captions_100.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def expected_values(numbers: dict[str, Any]) -> dict[str, float]:
    bleu = {f"bleu_{n}": value for n, value in enumerate(numbers["BLEU"], start=1)}
    return {"cider": 100 * numbers["CIDEr"], "rouge_l": numbers["ROUGE_L"], **bleu}


def test_golden_captions_of_100_images(golden, captions) -> None:
    records = [record(str(row["image_id"]), row["prediction"], row["references"]) for row in captions]
    found = flickr30k.metrics(records)
    assert values(records) == pytest.approx(expected_values(golden["pope_captions_100"]), abs=1e-9)
    assert next(iter(found)) == "cider"
    for estimate in found.values():
        assert (estimate.n, estimate.clusters) == (100, 100)
        assert estimate.low < estimate.value < estimate.high
    assert [r.details["said"] for r in records] == [row["ptb_prediction"] for row in captions]
    assert [r.details["references"] for r in records] == [row["ptb_references"] for row in captions]


def test_golden_vlmevalkit(golden, captions) -> None:
    records = [record(str(row["image_id"]), row["prediction"], row["references"], "vlmevalkit") for row in captions]
    expected = golden["pope_captions_100"]["CIDEr_without_ptb_vlmevalkit_style"]
    assert values(records)["cider"] == pytest.approx(100 * expected, abs=1e-9)


def test_golden_synthetic_set_with_an_empty_caption(golden) -> None:
    corpus = golden["synthetic"]["corpus"]
    records = [record(image, row["prediction"], row["references"]) for image, row in corpus.items()]
    assert values(records) == pytest.approx(expected_values(golden["synthetic"]), abs=1e-9)
    for made, row in zip(records, corpus.values(), strict=True):
        assert made.details == {"said": row["ptb_prediction"], "references": row["ptb_references"]}
    assert values(records[:1])["cider"] == golden["synthetic"]["single_image_corpus_cider"] == 0


@pytest.mark.skipif(
    importlib.util.find_spec("pycocoevalcap") is None or shutil.which("java") is None,
    reason="needs pycocoevalcap and Java",
)
def test_the_library_itself_agrees(captions) -> None:
    said = {str(row["image_id"]): row["prediction"] for row in captions}
    references = {str(row["image_id"]): [*row["references"][:4], "a\u2028b"] for row in captions}
    ours = [record(image, caption, references[image]) for image, caption in said.items()]
    by_java = flickr30k_answers._java_words(references)
    assert [by_java[r.item] for r in ours] == [r.details["references"] for r in ours]
    library = flickr30k_answers.metrics(ours, "pycocoevalcap")
    assert {name: e.value for name, e in library.items()} == pytest.approx(values(ours), abs=1e-9)


# --- Judging and averaging --------------------------------------------------------------------------------------------


def test_a_failure_scores_nothing_even_where_a_reference_is_empty() -> None:
    failed = record("1", Failure("out of memory"), ["", "a dog", "a cat", "a cow", "a bus"])
    assert (failed.score, failed.details["said"]) == (0.0, "")
    assert failed.details["references"] == ["", "a dog", "a cat", "a cow", "a bus"]
    right = record("2", "A red bus .", ["a red bus"] * 5)
    assert right.score == 1.0
    found = values([failed, right])
    assert found["rouge_l"] == 0.5
    assert found["cider"] == pytest.approx(100 * 10 * 3 / 4 / 2)  # of the right one; it has no 4-gram


def test_document_frequencies_are_those_of_the_evaluated_images() -> None:
    texts = {str(n): f"a {word} on the street" for n, word in enumerate(("dog", "bus", "cat", "man"))}
    records = [record(image, text.replace("the", "my"), [text, "my street"]) for image, text in texts.items()]
    records[3] = record("3", "a man", ["five men"])
    of_all, of_two = values(records)["cider"], values(records[:2])["cider"]
    assert of_all != pytest.approx(of_two)
    assert values(records[:1])["cider"] == 0
    told = flickr30k_answers.remarks(records[:1], flickr30k.metrics(records[:1]))
    assert told[0].startswith("N = 1: ")
    assert told[0].endswith("that of one image is 0")


def test_bleu_is_of_the_set_and_no_mean() -> None:
    records = [record("1", "a b c d e f g h i j", ["a b c d e f g h i j"]), record("2", "x y", ["u v"])]
    assert values(records)["bleu_1"] == pytest.approx(10 / 12)


def test_nothing_to_average() -> None:
    with pytest.raises(ValueError, match="no Flickr30k records"):
        flickr30k.metrics([])


@given(st.text(), st.sampled_from(("official", "vlmevalkit")))
def test_any_caption_has_a_score(caption, variant) -> None:
    assert record("1", caption, ["a red bus", caption, "", "two", "three"], variant).score == 1
    assert 0 <= record("1", caption, ["a red bus"], variant).score <= 1


# --- Data -------------------------------------------------------------------------------------------------------------


def test_both_layouts_give_the_same_items(tmp_path) -> None:
    own, hub = load(layouts.write_own(tmp_path / "own")), load(layouts.write_parquet(tmp_path / "hub"))
    assert own.asked == hub.asked
    assert own.protocol() == hub.protocol()
    assert own.protocol()["data"].startswith("whole corpus, 40 images; rows ")
    assert "N = 40 " in own.protocol()["document frequencies"]
    assert (own.name, own.whole, len(own.asked), own.decoding.max_new_tokens) == ("flickr30k", 31_783, 40, 64)
    for ours, theirs in zip(own.asked, hub.asked, strict=True):
        assert ours.ask.pictures[0].open().tobytes() == theirs.ask.pictures[0].open().tobytes()
    first = own.asked[0]
    assert first.ask == Question(FIRST, flickr30k.PROMPT, first.ask.pictures)
    assert (first.id, first.cluster, first.skills) == (FIRST, FIRST, ("other",))
    assert first.ask.pictures[0].key == f"flickr30k/{FIRST}"
    assert first.truth == {"references": tuple(layouts.rows(40)[0]["caption"])}


def test_karpathys_split_from_files_and_tables(tmp_path) -> None:
    folders = [layouts.write_own(tmp_path / "own"), layouts.write_parquet(tmp_path / "hub")]
    tasks = []
    for folder in folders:
        layouts.write_karpathy(folder)
        tasks.append(flickr30k.karpathy(Options(data=folder, allow_partial=True)))
    own, hub = tasks
    assert own.asked == hub.asked
    assert own.protocol() == hub.protocol()
    assert own.protocol()["data"].startswith("Karpathy's test split, 20 images; rows ")
    assert (own.name, own.whole) == ("flickr30k-karpathy", 1_000)
    assert [item.id for item in own.asked] == [item.id for item in load(folders[0]).asked][1::2]
    for ours, theirs in zip(own.asked, hub.asked, strict=True):
        assert ours.ask.pictures[0].open().tobytes() == theirs.ask.pictures[0].open().tobytes()


def test_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path) -> None:
    folder = layouts.write_own(tmp_path)
    before = load(folder)
    file = folder / flickr30k.TOKEN_FILE
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert load(folder).asked == before.asked
    assert "\t" in before.asked[3].truth["references"][1]
    assert "\u2028" in before.asked[3].truth["references"][1]


def test_missing_images_are_named(tmp_path) -> None:
    folder = layouts.write_karpathy(layouts.write_own(tmp_path))
    data = load(folder).protocol()["data"]
    (folder / "flickr30k-images/1036982.jpg").unlink()
    assert len(load(folder).asked) == 39
    assert load(folder).whole == 31_783
    assert load(folder).protocol()["data"] != data
    assert len(flickr30k.read(folder, pictures=False, allow_partial=True).items) == 40
    assert len(flickr30k.read_karpathy(folder, allow_partial=True).items) == 19
    for image in (folder / "flickr30k-images").iterdir():
        image.unlink()
    with pytest.raises(InputError, match="flickr30k-images: 40 of 40 images are missing"):
        load(folder)


@pytest.mark.parametrize("write", [layouts.write_own, layouts.write_parquet])
def test_fewer_images_only_as_a_part(tmp_path, write, monkeypatch) -> None:
    folder = write(tmp_path)
    with pytest.raises(InputError, match=r"40 images, the official data have 31783; .*--allow-partial"):
        flickr30k.read(folder)
    monkeypatch.setattr(flickr30k, "IMAGES", 39)
    with pytest.raises(InputError, match=r"40 images, the official data have 39; download them again$"):
        flickr30k.read(folder, allow_partial=True)


def test_karpathys_split_without_its_images(tmp_path, monkeypatch) -> None:
    folder = layouts.write_karpathy(layouts.write_parquet(tmp_path, count=20), count=40)
    with pytest.raises(InputError, match="20 images of split test, the official data have 1000"):
        flickr30k.read_karpathy(folder)
    monkeypatch.setattr(flickr30k, "KARPATHY_IMAGES", 20)
    with pytest.raises(
        InputError, match=r"data \(2 files\): 10 of 20 images are missing \(21037042, .*--allow-partial"
    ):
        flickr30k.read_karpathy(folder)
    assert len(flickr30k.read_karpathy(folder, allow_partial=True).items) == 10
    assert len(flickr30k.read_karpathy(folder, pictures=False).items) == 20


def test_folders_without_the_data(tmp_path) -> None:
    with pytest.raises(InputError, match=r"neither results_20130124\.token nor data/test-\*\.parquet in this folder$"):
        load(tmp_path)
    with pytest.raises(InputError, match=r"dataset_flickr30k\.json: no such file"):
        flickr30k.read_karpathy(tmp_path)
    layouts.write_karpathy(tmp_path)
    with pytest.raises(InputError, match=r"dataset_flickr30k\.json lacks 769 images"):
        load(tmp_path)


LINES = {
    "no tab": (lambda lines: [*lines[:2], "36979.jpg#2 a dog", *lines[3:]], r"token:3: not FILE\.jpg#0, a tab"),
    "four captions": (lambda lines: lines[:4] + lines[5:], r"token: 36979\.jpg has 4 captions, not 5"),
    "caption missing inside": (lambda lines: lines[:2] + lines[3:], r"token:3: 36979\.jpg#3 where #2 is due"),
    "twice": (lambda lines: [*lines, lines[7]], r"token:201: 1036982\.jpg#2 is there twice"),
    "six captions": (lambda lines: [*lines, "36979.jpg#5\tmore"], r"36979\.jpg has 6 captions, not 5"),
    "empty": (lambda lines: [], "no images in it"),
}


@pytest.mark.parametrize("fault", LINES)
def test_a_wrong_caption_file_is_named_with_its_line(tmp_path, fault) -> None:
    damage, message = LINES[fault]
    folder = layouts.write_own(tmp_path)
    file = folder / flickr30k.TOKEN_FILE
    lines = file.read_text("utf-8").split("\n")[:-1]
    file.write_text("".join(f"{line}\n" for line in damage(lines)), "utf-8")
    with pytest.raises(InputError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def without(column: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda row: {key: value for key, value in row.items() if key != column}


ROWS = {
    "no captions": (without("caption"), "no column 'caption'"),
    "no file names": (without("filename"), "no column 'filename'"),
    "four captions": (lambda row: {**row, "caption": row["caption"][:4]}, r"row 0: 36979\.jpg has 4 captions"),
    "a text": (lambda row: {**row, "caption": "a dog"}, r"row 0: the captions of 36979\.jpg are not a list of texts"),
    "no name": (lambda row: {**row, "filename": None}, "row 0: filename None, not that of a .jpg file"),
    "one name": (lambda row: {**row, "filename": "7.jpg"}, r"row 1: 7\.jpg is there twice"),
    "one number": (lambda row: {**row, "img_id": "7"}, "40 images have 20 numbers"),
}


@pytest.mark.parametrize("fault", ROWS)
def test_a_wrong_table_is_named_with_its_row(tmp_path, fault) -> None:
    damage, message = ROWS[fault]
    folder = layouts.write_parquet(tmp_path)
    file = folder / "data/test-00000-of-00002.parquet"
    pq.write_table(pa.Table.from_pylist([damage(row) for row in pq.read_table(file).to_pylist()]), file)
    with pytest.raises(InputError, match=message):
        load(folder)


def test_a_wrong_split_file_is_named_with_its_image(tmp_path) -> None:
    folder = layouts.write_karpathy(layouts.write_own(tmp_path))
    file = folder / flickr30k.KARPATHY_FILE
    whole = json.loads(file.read_text())

    def refused(message: str, text: str) -> None:
        file.write_text(text)
        with pytest.raises(InputError, match=message) as caught:
            flickr30k.read_karpathy(folder, allow_partial=True)
        assert "\n" not in str(caught.value)

    def with_image(**changes: Any) -> str:
        return json.dumps({"images": [whole["images"][0], {**whole["images"][1], **changes}]})

    refused(r"dataset_flickr30k\.json: not JSON", json.dumps(whole)[:-9])
    refused("no list of images", "[]")
    refused("image 1: split 'restval', not train, val or test", with_image(split="restval"))
    refused(r"image 1: 1036982\.jpg has 4 captions", with_image(sentences=whole["images"][1]["sentences"][:4]))
    refused(r"image 1: the captions of 1036982\.jpg are not", with_image(sentences=["a dog"] * 5))
    refused("image 1: filename 7, not", with_image(filename=7))


# --- Saved captions ---------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """The hub's tables of 40 images, as if there were no more, and Karpathy's split of them."""
    monkeypatch.setattr(flickr30k, "IMAGES", 40)
    monkeypatch.setattr(flickr30k, "KARPATHY_IMAGES", 20)
    return layouts.write_karpathy(layouts.write_parquet(tmp_path / "hub"))


FORMS = {
    "ours": lambda row: {"id": row["filename"][:-4], "response": row["caption"][0]},
    "run": lambda row: {"item": row["filename"][:-4], "response": row["caption"][0], "score": 0.0},
    "file names": lambda row: {"image_id": row["filename"][:-4], "caption": row["caption"][0]},
    "file names as numbers": lambda row: {"image_id": int(row["filename"][:-4]), "caption": row["caption"][0]},
    "the hub's numbers": lambda row: {"image_id": int(row["img_id"]), "caption": row["caption"][0]},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_captions_gives_the_same_score(hub, tmp_path, form) -> None:
    file = tmp_path / "captions.json"
    file.write_text(json.dumps([FORMS[form](row) for row in layouts.rows(40)]))
    saved = flickr30k_answers.read_saved(file, hub)
    assert saved.answers.whole
    assert saved.notes[0].startswith("data: whole corpus, 40 images; rows ")
    records = saved.judge("official")
    assert [r.item for r in records] == [row["filename"][:-4] for row in layouts.rows(40)]
    assert {r.score for r in records} == {1.0}
    assert values(records)["bleu_4"] == pytest.approx(1)
    exact = saved.judge("vlmevalkit")[0].details["said"]
    assert exact == layouts.rows(40)[0]["caption"][0]
    assert records[0].details["said"] == exact.removesuffix(" .").lower()


def test_karpathys_numbers_are_those_of_his_file(hub, tmp_path) -> None:
    file = tmp_path / "captions.json"
    rows = layouts.rows(40)
    file.write_text(json.dumps([{"image_id": n, "caption": rows[n]["caption"][0]} for n in range(1, 40, 2)]))
    saved = flickr30k_answers.read_saved_karpathy(file, hub)
    assert saved.answers.whole
    records = saved.judge("official")
    assert {r.score for r in records} == {1.0}
    assert {r.task for r in records} == {"flickr30k-karpathy"}
    # The hub's numbers of the same images are others.
    file.write_text(json.dumps([{"image_id": rows[n]["img_id"], "caption": "a"} for n in range(1, 40, 2)]))
    assert len(flickr30k_answers.read_saved_karpathy(file, hub).answers.wrong["missing"]) == 20


def test_faults_of_saved_captions_are_named(hub, tmp_path) -> None:
    rows = [FORMS["the hub's numbers"](row) for row in layouts.rows(40)]
    name = layouts.rows(40)[0]["filename"][:-4]
    rows[1:3] = [{"image_id": int(name), "caption": "twice, by its other name"}, {"image_id": 40, "caption": "none"}]
    rows[5] = {"image_id": 3, "caption": None}
    file = tmp_path / "captions.json"
    file.write_text(json.dumps(rows))
    faults = flickr30k_answers.read_saved(file, hub).answers.faults()
    assert faults == (
        f"3 missing (1036982, 2036985, 5036994), 1 extra (40), 1 duplicate ({name}), "
        f"1 unreadable ({file}: entry 6: no text to score)"
    )


def test_the_library_is_named_where_it_is_missing(hub, tmp_path, monkeypatch) -> None:
    file = tmp_path / "captions.json"
    file.write_text(json.dumps([FORMS["ours"](row) for row in layouts.rows(40)]))
    saved = flickr30k_answers.read_saved(file, hub)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package pycocoevalcap \(pip install pycocoevalcap\)"):
        saved.judge("pycocoevalcap")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="needs java on the PATH"):
        saved.judge("pycocoevalcap")
    records = saved.judge("official")
    assert len(flickr30k_answers.remarks(records, flickr30k.metrics(records))) == 1


# --- Miniature --------------------------------------------------------------------------------------------------------


def test_the_miniature_asks_for_captions_of_a_hundred_scenes() -> None:
    task = flickr30k.mini(Options())
    items = list(task.asked)
    assert (task.name, task.whole, len({item.id for item in items})) == ("flickr30k-mini", 100, 100)
    assert {item.ask.text for item in items} == {flickr30k.PROMPT}
    said = [item.truth["references"][0] for item in items]
    records = [
        Record(task.name, item.id, item.cluster, item.skills, 0, text, judged.score, judged.details)
        for item, text, judged in zip(items, said, task.judge(items, said), strict=True)
    ]
    found = task.metrics(records)
    assert found["rouge_l"].value == 1
    assert 100 < found["cider"].value < 1000
