"""Answers with their tokens, each in its own way of decoding, and pictures that are known by their codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from gapbench.models import zoo
from gapbench.models.unified import answering
from gapbench.models.unified.sampling import Sampled
from gapbench.records import Decoding, Failure, Picture, Prompt, Question, Sampling

ASKED = ("Give a caption for this image.", "How many red stars are there?")
WAYS = [Decoding(6), *(Decoding(6, t, k, seed=2) for k in (2, 3, None) for t in (0.1, 2.0))]


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path):
    return zoo.load(str(tiny_checkpoint), "cpu")


def codes(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return list(torch.randint(0, 16, (count, 9), generator=generator))


def questions(model, pictures: int = 3) -> list[Question]:
    return [
        Question(f"{row}/{text}/{number}", text, (model.coded(each),))
        for row, each in enumerate(codes(pictures))
        for text in ASKED
        for number in range(len(WAYS))
    ]


def test_what_is_said_depends_on_question_picture_and_way_alone(model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = questions(model)
    ways = WAYS * (len(asked) // len(WAYS))
    together = list(model.say(asked, ways))
    assert together == [next(model.say([q], [way])) for q, way in zip(asked, ways, strict=True)]
    assert together == list(model.say(asked[::-1], ways[::-1]))[::-1]
    monkeypatch.setattr(model, "questions_per_batch", 5)
    assert together == list(model.say(asked, ways))
    assert len({said.tokens for said in together}) > len(asked) // 2


def test_it_is_what_answer_says(model) -> None:
    asked = questions(model)
    for way in WAYS:
        assert [said.text for said in model.say(asked, [way] * len(asked))] == list(model.answer(asked, way))


def test_tokens_leave_the_end_out_and_tell_of_it(model, monkeypatch: pytest.MonkeyPatch) -> None:
    (asked,) = [Question("a", ASKED[0], (model.coded(codes(1)[0]),))]
    whole = next(model.say([asked], [Decoding(6)]))
    assert not whole.ended
    assert len(whole.tokens) == 6
    monkeypatch.setattr(answering, "decode", lambda *_: [[*whole.tokens[:2], model.layout.eot]])
    assert next(model.say([asked], [Decoding(6)])) == (model._text(whole.tokens[:2]), whole.tokens[:2], True)


def test_each_has_its_own_limit(model) -> None:
    asked = questions(model, 1)[:3]
    ways = [Decoding(2, 1.0, seed=1), Decoding(40, 1.0, seed=1), Decoding(1)]
    together = list(model.say(asked, ways))
    assert [len(said.tokens) for said in together[::2]] == [2, 1]
    assert 2 < len(together[1].tokens) <= 40
    assert together == [next(model.say([q], [way])) for q, way in zip(asked, ways, strict=True)]
    with pytest.raises(ValueError, match="3 questions, but 2 ways"):
        next(model.say(asked, ways[:2]))


def test_top_k_and_temperature_hold_for_their_own_rows() -> None:
    logits = torch.tensor([[5.0, 4.0, 3.0, 0.0]]).repeat(400, 1)
    ways = [Decoding(1), Decoding(1, 2.0, 2), Decoding(1, 2.0), Decoding(1, 0.01)] * 100
    tokens = Sampled(range(400), ways)(0, logits, torch.arange(400)).unflatten(0, (100, 4)).T
    assert tokens[0].unique().tolist() == [0]
    assert tokens[1].unique().tolist() == [0, 1]
    assert tokens[2].unique().tolist() == [0, 1, 2, 3]
    assert tokens[3].unique().tolist() == [0]


def test_known_codes_are_read_as_they_are(model, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(7)
    array = torch.randint(0, 256, (48, 48, 3), generator=generator, dtype=torch.uint8).numpy()
    picture = Picture("noise", lambda: Image.fromarray(array))
    (code,) = model.encode([picture.open()])
    seen = [Question("a", text, (picture,)) for text in ASKED]
    known = [Question("a", text, (model.coded(code),)) for text in ASKED]
    expected = list(model.answer(seen, Decoding(6)))
    likely = list(model.log_likelihood(seen, [" two"] * 2))
    monkeypatch.setattr(type(model.parts.magvit), "encode", lambda *_: pytest.fail("encoded"))
    assert list(model.answer(known, Decoding(6))) == expected
    assert list(model.log_likelihood(known, [" two"] * 2)) == likely
    other = Question("b", ASKED[0], (model.coded((code + 1) % 16),))
    assert next(model.answer([known[0], other], Decoding(6))) == expected[0]
    assert model.coded(code) == model.coded(code.clone()) != other.pictures[0]


def test_codes_become_the_pictures_that_are_drawn(model) -> None:
    prompts = [Prompt(str(seed), "a red circle", seed) for seed in range(20)]
    drawn = list(model.draw(prompts, Sampling(steps=2)))
    decoded = list(model.decode(list(model.draw_codes(prompts, Sampling(steps=2)))))
    for one, other in zip(drawn, decoded, strict=True):
        difference = torch.tensor(list(one.tobytes())).sub(torch.tensor(list(other.tobytes()))).abs()
        assert difference.max() <= 1  # a batch of another size rounds otherwise
    coded = model.coded(next(model.draw_codes(prompts[:1], Sampling(steps=2))))
    assert coded.open().tobytes() == drawn[0].tobytes()


def test_a_picture_that_cannot_be_read_fails_alone(model) -> None:
    def broken() -> Image.Image:
        raise OSError("truncated file")

    asked = [Question("a", ASKED[0], (Picture("broken", broken),)), questions(model, 1)[0]]
    found = list(model.say(asked, [Decoding(3)] * 2))
    assert found[0] == Failure("broken: truncated file")
    assert found[1] == next(model.say(asked[1:], [Decoding(3)]))
