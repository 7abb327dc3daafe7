"""Janus' likelihoods for training: what the cached paths that answer and draw give, beside others or alone."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from tiny_janus import CODES, write_checkpoint
from torch import Tensor

from gapbench.models import zoo
from gapbench.models.janus.drawing import draw_codes
from gapbench.models.janus.model import Janus
from gapbench.models.unified import answering
from gapbench.models.unified.answering import decode
from gapbench.models.unified.backbone import KeyValues
from gapbench.records import Decoding, InputError, Picture, Prompt, Question, Sampling

QUESTION = "Give a caption for this image."
PROMPTS = ("a red circle", "two green stars and a blue heart", "a photo of a cross")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Janus:
    return zoo.load(str(write_checkpoint(tmp_path_factory.mktemp("tiny") / "janus", seed=1)), "cpu")


def pictures(count: int) -> list[Picture]:
    generator = torch.Generator().manual_seed(2)
    arrays = torch.randint(0, 256, (count, 24, 40, 3), generator=generator, dtype=torch.uint8).numpy()
    return [Picture(f"noise-{i}", lambda a=a: Image.fromarray(a)) for i, a in enumerate(arrays)]


def captions(model: Janus) -> list[tuple[tuple[int, ...], bool]]:
    """As sampled, of several lengths, ended and not."""
    asked = [Question(each.key, QUESTION, (each,)) for each in pictures(3)]
    said = list(model.say(asked, [Decoding(count, 1.0, seed=5) for count in (3, 7, 5)]))
    return [(each.tokens, number == 1 or each.ended) for number, each in enumerate(said)]


def codes() -> Tensor:
    return torch.randint(0, CODES, (3, 16), generator=torch.Generator().manual_seed(9))


def forced_caption(
    model: Janus, monkeypatch: pytest.MonkeyPatch, picture: Picture, caption: tuple[tuple[int, ...], bool]
) -> float:
    """Through the path that answers, token by token on its cache, each token being forced."""
    tokens, ended = caption
    wanted = [*tokens, *[model.parts.text.eos] * ended]
    logs: list[float] = []

    def choose(step: int, logits_BV: Tensor, rows_B: Tensor) -> Tensor:
        logs.append(float(logits_BV[0].log_softmax(dim=-1)[wanted[step]]))
        return torch.tensor([wanted[step]])

    def forced(backbone, cache: KeyValues, rows: Tensor, texts, end: int, limit: int, _) -> list[list[int]]:
        return decode(backbone, cache, rows, texts, end, limit, choose)

    with monkeypatch.context() as patch:
        patch.setattr(answering, "decode", forced)
        list(model.say([Question("a", QUESTION, (picture,))], [Decoding(len(wanted))]))
    assert len(logs) == len(wanted)
    return sum(logs)


def forced_drawing(model: Janus, prompt: str, codes_N: Tensor, guidance: float) -> float:
    logs = []

    def choose(position: int, logits_BC: Tensor) -> Tensor:
        logs.append(float(logits_BC[0].log_softmax(dim=-1)[codes_N[position]]))
        return codes_N[position : position + 1]

    row = model.parts.text.drawing_row(prompt)
    draw_codes(model.backbone, [row], [model.parts.text.unprompted(row)], 16, guidance, choose)
    return sum(logs)


def test_captions_are_weighed_as_the_path_that_answers_does(model: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    found = model.caption_log_likelihood(pictures(3), QUESTION, captions(model))
    assert (found.shape, found.dtype) == ((3,), torch.float32)
    wanted = [
        forced_caption(model, monkeypatch, picture, caption)
        for picture, caption in zip(pictures(3), captions(model), strict=True)
    ]
    assert found.tolist() == pytest.approx(wanted, abs=1e-3)
    alone = [
        model.caption_log_likelihood([picture], QUESTION, [caption])
        for picture, caption in zip(pictures(3), captions(model), strict=True)
    ]
    torch.testing.assert_close(torch.cat(alone), found, atol=1e-4, rtol=1e-5)
    assert model.caption_log_likelihood(pictures(1), QUESTION, [((), False)]).tolist() == [0.0]


def test_a_caption_that_ended_has_its_end_weighed(model: Janus) -> None:
    (tokens, _), *_ = captions(model)
    both = model.caption_log_likelihood(pictures(1) * 2, QUESTION, [(tokens, True), (tokens, False)])
    ended, not_ended = both.tolist()
    asked = Question("a", QUESTION, tuple(pictures(1)))
    assert ended < not_ended
    (seen,) = model.caption_log_likelihood(pictures(1), QUESTION, [((*tokens, model.parts.text.eos), False)]).tolist()
    assert seen == pytest.approx(ended, abs=1e-4)
    assert next(model.say([asked], [Decoding(1)])).tokens  # and nothing of the model has changed


@pytest.mark.parametrize("guidance", [None, 1.0, 4.0, 0.0])
def test_drawings_are_weighed_as_the_path_that_draws_does(model: Janus, guidance: float | None) -> None:
    found = model.image_log_likelihood(PROMPTS, codes(), guidance)
    assert (found.shape, found.dtype) == ((3,), torch.float32)
    scale = 1.0 if guidance is None else guidance
    wanted = [forced_drawing(model, prompt, row, scale) for prompt, row in zip(PROMPTS, codes(), strict=True)]
    assert found.tolist() == pytest.approx(wanted, abs=2e-3)
    alone = [model.image_log_likelihood([p], row[None], guidance) for p, row in zip(PROMPTS, codes(), strict=True)]
    torch.testing.assert_close(torch.cat(alone), found, atol=1e-3, rtol=1e-5)


def test_what_was_drawn_is_likelier_than_what_was_not(model: Janus) -> None:
    prompts = [Prompt(str(seed), PROMPTS[0], seed) for seed in range(4)]
    drawn = torch.stack(list(model.draw_codes(prompts, Sampling(guidance=4.0, temperature=0.3))))
    shuffled = drawn.roll(5, dims=1)
    weighed = model.image_log_likelihood([PROMPTS[0]] * 8, torch.cat([drawn, shuffled]), 4.0)
    assert weighed.requires_grad  # codes of inference mode notwithstanding
    assert (weighed[:4] > weighed[4:]).all()


def reached(model: Janus, likelihood: Tensor) -> set[str]:
    """The modules that its gradient reaches."""
    model.parts.network.zero_grad()
    likelihood.sum().backward()
    names = {
        name for name, p in model.parts.network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    model.parts.network.zero_grad()
    return {name.removeprefix("model.").split(".")[0] for name in names}


def test_gradients_reach_what_takes_part_and_nothing_else(model: Janus) -> None:
    shared = {"language_model"}
    told = model.caption_log_likelihood(pictures(3), QUESTION, captions(model))
    assert reached(model, told) == shared | {"vision_model", "aligner", "lm_head"}
    drawn = shared | {"generation_embeddings", "generation_aligner", "generation_head"}
    for guidance in (None, 4.0):
        assert reached(model, model.image_log_likelihood(PROMPTS, codes(), guidance)) == drawn


def test_what_cannot_be_weighed_is_refused(model: Janus) -> None:
    def broken() -> Image.Image:
        raise OSError("truncated file")

    with pytest.raises(InputError, match=r"^broken: truncated file; leave it out$"):
        model.caption_log_likelihood([Picture("broken", broken)], QUESTION, [((3,), True)])
    with pytest.raises(InputError, match=r"^a caption takes \d+ positions, .* has \d+ after a picture; leave it out$"):
        model.caption_log_likelihood(pictures(1), QUESTION, [((3,) * 250, True)])
    with pytest.raises(ValueError, match="3 pictures, but 1 captions"):
        model.caption_log_likelihood(pictures(3), QUESTION, [((3,), True)])
    with pytest.raises(ValueError, match="codes of shape"):
        model.image_log_likelihood(PROMPTS[:2], codes())
    with pytest.raises(ValueError, match=rf"0\.\.{CODES - 1}"):
        model.image_log_likelihood(PROMPTS, codes() + CODES)
    long = " ".join(["red"] * 240)
    with pytest.raises(InputError, match=r'^prompt "red red .*": the prompt takes 247 tokens.*; leave it out$'):
        model.image_log_likelihood([long], codes()[:1])
