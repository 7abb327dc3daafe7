"""Candidates: complete, each scored as said, and the same bytes however often and by however many they are made."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from gapbench import judges
from gapbench.homologous import Homologous
from gapbench.miniature import captions, eye
from gapbench.models import zoo
from gapbench.prompts import SHORT_ANSWER
from gapbench.records import Decoding, Failure, InputError, Picture, Prompt, Question, Sampling
from gapbench.run import Shard
from hermesflow import candidate_files
from hermesflow.curate import CAPTION_QUESTION, CHUNK, MINIATURE, WAYS, Curation, curate, read_candidates
from hermesflow.homologous import train_items

HOW = replace(MINIATURE, images=3, caption_tokens=6, ways=((1, 1.0), (3, 0.7), (None, 2.0)), seed=2)
COUNT = 2 * CHUNK + 3


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path):
    return zoo.load(str(tiny_checkpoint), "cpu")


@pytest.fixture(scope="module")
def items() -> list[Homologous]:
    return train_items(COUNT)


@pytest.fixture(scope="module")
def whole(model, items, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return curate(model, items, HOW, tmp_path_factory.mktemp("curated"))


def test_every_item_has_its_candidates(model, items, whole: Path) -> None:
    found = read_candidates(whole)
    assert [each.id for each in found] == [item.id for item in items]
    assert found == read_candidates(whole.parent)
    for each, item in zip(found, items, strict=True):
        assert (each.caption, each.cluster) == (item.caption, item.cluster)
        assert each.skills == tuple(q.skill for q in item.questions)
        assert [image.seed for image in each.images] == [6, 7, 8]
        assert all(len(image.right) == len(each.skills) for image in each.images)
    assert len({image.codes for each in found for image in each.images}) > COUNT


def test_the_defaults_are_the_papers() -> None:
    how = Curation()
    assert (len(how.ways), how.images, how.scorer, how.judge) == (10, 16, "bert", "self")
    assert set(WAYS) == {(1, 1.0), *((k, t) for k in (2, 3, 4) for t in (0.1, 0.7, 2.0))}


def test_captions_are_said_of_the_real_image(model, items, whole: Path) -> None:
    item, found = items[4], read_candidates(whole)[4]
    (codes,) = model.encode([item.picture.open()])
    assert found.codes == tuple(codes.tolist())
    for number, (candidate, way) in enumerate(zip(found.captions, HOW.ways, strict=True)):
        assert (candidate.top_k, candidate.temperature) == way
        asked = Question(f"{item.id}/{number}", CAPTION_QUESTION, (item.picture,))
        decoding = Decoding(6, 0.0 if number == 0 else way[1], way[0], 2)
        assert (candidate.text, candidate.tokens, candidate.ended) == next(model.say([asked], [decoding]))
        scene = eye.read(item.picture.open())
        assert candidate.score == captions.truth(captions.read(candidate.text), scene)
    assert len({candidate.text for candidate in found.captions}) > 1


def test_drawings_are_of_the_caption_and_judged_by_the_model_itself(model, items, whole: Path) -> None:
    for item, found in list(zip(items, read_candidates(whole), strict=True))[::6]:
        for image in found.images:
            (codes,) = model.draw_codes([Prompt("", item.caption, image.seed)], Sampling())
            assert image.codes == tuple(codes.tolist())
            asked = [Question(q.text, q.text + SHORT_ANSWER, (model.coded(codes),)) for q in item.questions]
            said = model.answer(asked, judges.DECODING)
            right = tuple(text == q.answer for text, q in zip(said, item.questions, strict=True))
            assert image.right == right
            assert image.score == sum(right) / len(right)


def test_choices_may_be_weighed(model, items, tmp_path: Path) -> None:
    how = replace(HOW, matching="likelihood", ways=())
    found = read_candidates(curate(model, items[:2], how, tmp_path))
    assert not found[0].captions
    image, questions = found[1].images[2], items[1].questions
    picture = model.coded(torch.tensor(image.codes))
    for right, q in zip(image.right, questions, strict=True):
        ask = Question("", q.text + SHORT_ANSWER, (picture,))
        weights = [next(model.log_likelihood([ask], [f" {choice}"])) for choice in q.choices]
        best = max(range(len(weights)), key=lambda i: weights[i].total / weights[i].tokens)
        assert right == (q.choices[best] == q.answer)


def test_a_judge_sees_the_drawings(model, items, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd:
        """Right about every third question; about drawings that are white at the corner it cannot tell."""

        def judge(self, questions) -> Iterator[str | Failure]:
            for question in questions:
                assert SHORT_ANSWER not in question.text
                (picture,) = question.pictures
                seen.append(picture.open())
                yield Failure("cannot") if len(seen) <= 3 * len(items[0].questions) else question.choices[0]

        def describe(self) -> dict[str, str]:
            return {"name": "odd"}

    seen: list[Image.Image] = []
    monkeypatch.setattr(judges, "judge", lambda name, device: {"odd": Odd()}[name])
    found = read_candidates(curate(model, items[:3], replace(HOW, judge="odd"), tmp_path))
    assert found[0].images == ()
    for each, item in list(zip(found, items, strict=False))[1:]:
        right = tuple(q.answer == q.choices[0] for q in item.questions)
        assert [image.right for image in each.images] == [right] * 3
    (first,) = model.draw([Prompt("", items[0].caption, 6)], Sampling())
    assert seen[0].size == first.size
    told = json.loads((tmp_path / "curation.json").read_text())
    assert told["counts"]["left out: drawings"] == 3
    assert told["request"]["drawings"]["judge"] == {"name": "odd"}


def test_the_eye_judges_exactly(model, items, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = items[0].picture.open()
    monkeypatch.setattr(model, "decode", lambda codes: iter([shown] * len(codes)))
    found = read_candidates(curate(model, items[:1], replace(HOW, judge="eye"), tmp_path))
    assert [image.score for image in found[0].images] == [1.0] * 3


@pytest.mark.parametrize("torn", [True, False])
def test_a_killed_curation_ends_with_the_same_bytes(
    model, items, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    append, done = candidate_files.append, []

    def killed(file: Path, found) -> None:
        if done:
            if torn:  # a chunk is begun, and its second line cut off
                append(file, found)
                lines = file.read_bytes().splitlines(keepends=True)
                file.write_bytes(b"".join(lines[: CHUNK + 1]) + lines[CHUNK + 1][:50])
            raise KeyboardInterrupt
        append(file, found)
        done.append(found)

    with monkeypatch.context() as patch:
        patch.setattr(candidate_files, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            curate(model, items, HOW, tmp_path)
    assert not (tmp_path / "candidates.jsonl").exists()
    made = []
    monkeypatch.setattr(candidate_files, "append", lambda file, found: made.append(len(found)) or append(file, found))
    assert curate(model, items, HOW, tmp_path).read_bytes() == whole.read_bytes()
    assert made == [CHUNK, 3]
    assert curate(model, items, HOW, tmp_path).read_bytes() == whole.read_bytes()
    assert made == [CHUNK, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["candidates.jsonl", "curation.json"]
    assert (tmp_path / "curation.json").read_bytes() == (whole.parent / "curation.json").read_bytes()


def test_two_processes_make_the_same_bytes(model, items, whole: Path, tmp_path: Path) -> None:
    barrier, errors = threading.Barrier(2), []

    def work(rank: int) -> None:
        try:
            curate(model, items, HOW, tmp_path, shard=Shard(rank, 2, barrier.wait))
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert (tmp_path / "candidates.jsonl").read_bytes() == whole.read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("cores", [1, 3])
def test_any_number_of_cores_makes_the_same_bytes(model, items, whole: Path, tmp_path: Path, cores: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        assert curate(model, items, HOW, tmp_path / "made").read_bytes() == whole.read_bytes()
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)


def test_what_another_number_of_processes_left_is_gone_on_with(model, items, whole: Path, tmp_path: Path) -> None:
    lines = whole.read_bytes().splitlines(keepends=True)
    about = json.loads((whole.parent / "curation.json").read_text())
    (tmp_path / "curation.json").write_text(json.dumps({**about, "status": "running"}))
    (tmp_path / "candidates.1.jsonl").write_bytes(b"".join(lines[CHUNK : 2 * CHUNK]))
    assert curate(model, items, HOW, tmp_path).read_bytes() == whole.read_bytes()


def test_a_kill_between_merging_and_counting(model, items, whole: Path, tmp_path: Path) -> None:
    about = json.loads((whole.parent / "curation.json").read_text())
    counts = about.pop("counts")
    (tmp_path / "curation.json").write_text(json.dumps({**about, "status": "running"}))
    (tmp_path / "candidates.jsonl").write_bytes(whole.read_bytes())
    curate(model, items, HOW, tmp_path)
    told = json.loads((tmp_path / "curation.json").read_text())
    assert (told["status"], told["counts"]) == ("complete", counts)


def test_what_fails_is_left_out_and_counted(model, items, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Image.Image:
        raise OSError("truncated file")

    some = [*items[:2], replace(items[2], picture=Picture("broken", broken))]
    draw, say = model.draw_traced, model.say

    def drawn(prompts, sampling):
        return [Failure("no") if p.seed == 7 else c for p, c in zip(prompts, draw(prompts, sampling), strict=True)]

    def said(questions, ways):
        for question, each in zip(questions, say(questions, ways), strict=True):
            yield each._replace(text="") if question.id == f"{items[1].id}/0" else each

    monkeypatch.setattr(model, "draw_traced", drawn)
    monkeypatch.setattr(model, "say", said)
    found = read_candidates(curate(model, some, HOW, tmp_path))
    assert [image.seed for image in found[0].images] == [6, 8]
    assert [caption.top_k for caption in found[1].captions] == [3, None]
    assert (found[2].codes, found[2].captions, found[2].images) == ((), (), ())
    assert json.loads((tmp_path / "curation.json").read_text())["counts"] == {
        "items": 3,
        "captions": 5,
        "drawings": 4,
        "left out: captions": 1,
        "left out: drawings": 2,
        "left out: items whose image cannot be read": 1,
    }


def test_progress_is_told(model, items, tmp_path: Path) -> None:
    told: list[object] = []

    class Told:
        def start(self, title: str, total: int, done: int) -> None:
            told.append((title, total, done))

        def advance(self, count: int) -> None:
            told.append(count)

        def stop(self) -> None:
            told.append("stop")

    curate(model, items[: CHUNK + 1], replace(HOW, images=0), tmp_path, Told())
    assert told == [("curate", CHUNK + 1, 0), CHUNK, 1, "stop"]


def test_a_folder_of_another_request_is_refused(model, items, whole: Path, tmp_path: Path) -> None:
    before = whole.read_bytes()
    for other, name in (
        (replace(HOW, seed=3), "seed"),
        (replace(HOW, images=4), "drawings"),
        (replace(HOW, caption_tokens=7), "captions"),
    ):
        with pytest.raises(InputError, match=rf"holds candidates with another {name}; give another folder"):
            curate(model, items, other, whole.parent)
    with pytest.raises(InputError, match="another items"):
        curate(model, items[:-1], HOW, whole.parent)
    assert whole.read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files but no candidates"):
        curate(model, items, HOW, tmp_path)


def test_wrong_input(model, items, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="is there twice"):
        curate(model, [items[0], items[0]], HOW, tmp_path)
    with pytest.raises(InputError, match="make no candidates"):
        Curation(ways=(), images=0)
    for way in ((0, 1.0), (2, 0.0)):
        with pytest.raises(InputError, match="must be more than 0"):
            Curation(ways=(way,))
    question = replace(items[0].questions[0], choices=())
    with pytest.raises(InputError, match="has no choices to weigh"):
        curate(model, [replace(items[0], questions=(question,))], replace(HOW, matching="likelihood"), tmp_path)
    with pytest.raises(InputError, match="caption scorer odd: unknown"):
        curate(model, items, replace(HOW, scorer="odd"), tmp_path / "b")
    monkeypatch.setattr(model, "parts", replace(model.parts, clip=object()))
    with pytest.raises(InputError, match="CLIP-ViT"):
        curate(model, items, HOW, tmp_path / "c")


def test_candidates_that_cannot_be_read(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(InputError, match=r"candidates.jsonl: cannot be read .*curate first"):
        read_candidates(tmp_path)
    lines = whole.read_text().splitlines(keepends=True)
    (tmp_path / "candidates.jsonl").write_text(lines[0] + lines[1][:40])
    with pytest.raises(InputError, match=r"candidates\.jsonl:2: no line of candidates"):
        read_candidates(tmp_path)
