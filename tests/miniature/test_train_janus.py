"""The recipe of the autoregressive miniature: what it saves can be loaded, and it trains on the rows that are asked."""

from __future__ import annotations

import random

import pytest
import torch

from gapbench.miniature import lessons, tiles, train_janus
from gapbench.miniature.picture import render
from gapbench.models import zoo
from gapbench.models.janus import vision
from gapbench.records import Picture, Question


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    """Untrained, as the recipe saves it."""
    folder = tmp_path_factory.mktemp("janus-mini")
    words = train_janus.new_words(folder)
    train_janus.save(train_janus.new_network(words, 0), words, folder)
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 16 * 2**20
    return zoo.load(str(folder), "cpu")


@pytest.fixture(scope="module")
def writer(model) -> train_janus.Writer:
    return train_janus.Writer(model.parts.text)


def test_rows_of_questions_are_those_that_the_model_makes(model, writer) -> None:
    words, rng = model.parts.text, random.Random(0)
    scene = lessons.training_scene(rng)
    question, answer = lessons.exchange(scene, rng, rng.random() < 0.5)
    (before,), after = asked(words, question)
    said = [*words.tokens(f" {answer}"), words.eos]
    rows, pixels = writer.answering(random.Random(0), 0.5, 0.0)
    start = len(before) + model.image_tokens
    first = start + len(after) - 1
    assert rows.ids[0, : len(before)].tolist() == list(before)
    assert rows.ids[0, start : first + 1 + len(said)].tolist() == [*after, *said]
    assert rows.at[: len(said)].tolist() == list(range(first, first + len(said)))
    assert rows.target[: len(said)].tolist() == said
    assert rows.visible[0, 0, first].nonzero()[:, 0].tolist() == list(range(first + 1))
    assert torch.allclose(pixels[0], model.parts.frame.pixels(render(scene)))


def test_a_later_question_sees_the_picture_and_itself_alone(model, writer) -> None:
    rows, _ = writer.answering(random.Random(0), 0.5, 0.0)
    (start,) = (rows.at[1:] - rows.at[:-1] > 1).nonzero()[:1, 0].tolist()  # where the second answer begins
    at = int(rows.at[start + 1])
    seen = rows.visible[0, 0, at].nonzero()[:, 0].tolist()
    prefix = len(writer.before) + model.image_tokens
    assert seen[:prefix] == list(range(prefix))
    assert seen[prefix:] == list(range(seen[prefix], at + 1))
    assert rows.positions[0, seen].tolist() == list(range(len(seen)))


def test_rows_of_drawings_are_those_that_the_model_draws_from(model, writer) -> None:
    words, rng = model.parts.text, random.Random(3)
    scene = lessons.training_scene(rng)
    prompt = words.drawing_row(lessons.drawn_caption(scene, rng, False))
    rows, codes = writer.drawing(random.Random(3), False, 22)
    shown = rows.ids[0, :22].tolist()[-len(prompt) :]
    assert shown in (prompt, words.unprompted(prompt))
    assert codes[0].tolist() == tiles.codes_of(scene).tolist()
    assert rows.at[:36].tolist() == list(range(21, 21 + 36))
    assert rows.target[:36].tolist() == codes[0].tolist()


def test_the_code_book_is_the_worlds(model) -> None:
    book = model.vq.quantize.embedding.weight
    assert (book > 0).long().mul(2 ** torch.arange(tiles.BITS)).sum(dim=1).tolist() == list(range(2**tiles.BITS))
    assert vision.downsampling(model.vq) == tiles.CODE_PIXELS


def asked(words, question: str) -> tuple[tuple[tuple[int, ...], ...], list[int]]:
    stretches = words.stretches(Question("", question, (Picture("", lambda: None),)))  # type: ignore[arg-type, return-value]
    return words.before_pictures(stretches), words.after_pictures(stretches[-1], True)
