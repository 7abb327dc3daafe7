"""Show-o as gapbench sees it: results depend on the item and its seed, not on batch, order, padding or caching."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from tiny_show_o import write_checkpoint

from benchmarks import plain_show_o
from gapbench.models import zoo
from gapbench.models.base import in_batches
from gapbench.models.show_o.answering import discrete_picture_cache
from gapbench.models.show_o.layout import Layout, visible_answering, visible_clip, visible_packed
from gapbench.models.show_o.sampling import ItemNoise, MaskGit, SharedNoise, Trace, sample_codes
from gapbench.models.unified.answering import decode
from gapbench.records import Decoding, Failure, Picture, Prompt, Question, Sampling

TEXTS = ("a red circle", "two green stars and a blue heart", "a photo of a cross", "an orange square above a heart")
ASKED = ("Is there a circle in the image?", "How many red stars are there?", "What color is the heart?")
SAMPLING = Sampling(steps=5, guidance=1.5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    return zoo.load(str(write_checkpoint(tmp_path_factory.mktemp("tiny") / "show-o")), "cpu")


def pictures(count: int) -> list[Picture]:
    generator = torch.Generator().manual_seed(7)
    arrays = torch.randint(0, 256, (count, 40, 56, 3), generator=generator, dtype=torch.uint8).numpy()
    return [Picture(f"noise-{i}", lambda a=a: Image.fromarray(a)) for i, a in enumerate(arrays)]


def prompts() -> list[Prompt]:
    return [Prompt(f"{i}", TEXTS[i % len(TEXTS)], seed=i // len(TEXTS)) for i in range(16)]


def questions() -> list[Question]:
    return [Question(f"{p.key}/{k}", text, (p,)) for p in pictures(6) for k, text in enumerate(ASKED)]


def codes_of(model, some: list[Prompt]) -> list[list[int]]:
    return [codes.tolist() for codes in model.draw_codes(some, SAMPLING)]


def test_a_drawing_depends_on_its_prompt_and_seed_alone(model, monkeypatch: pytest.MonkeyPatch) -> None:
    together = codes_of(model, prompts())
    assert len({tuple(codes) for codes in together}) == 16
    alone = [codes_of(model, [prompt])[0] for prompt in prompts()]
    backwards = codes_of(model, prompts()[::-1])[::-1]
    monkeypatch.setattr(model, "images_per_batch", 5)
    assert together == alone == backwards == codes_of(model, prompts())


@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_cached_drawing_equals_recomputing_everything(model, guidance: float) -> None:
    texts = [model._tokens(prompt.text) for prompt in prompts()]
    settings = MaskGit(steps=6, guidance=guidance)

    def draw(module) -> torch.Tensor:
        noise = ItemNoise(range(16), settings.steps, model.layout.image_tokens, torch.device("cpu"))
        return module.draw_codes(model.backbone, model.layout, texts, settings, noise)

    from gapbench.models.show_o import drawing

    assert torch.equal(draw(drawing), draw(plain_show_o))


def test_inpainting_keeps_what_is_known(model) -> None:
    from gapbench.models.show_o import drawing

    initial = torch.full((1, 9), -1)
    initial[0, :4] = torch.tensor([3, 1, 4, 1])
    noise = ItemNoise([5], 4, 9, torch.device("cpu"))
    codes = drawing.draw_codes(model.backbone, model.layout, [[]], MaskGit(4, 0.0), noise, initial)
    assert codes[0, :4].tolist() == [3, 1, 4, 1]
    assert ((codes >= 0) & (codes < 16)).all()


def test_an_answer_depends_on_its_question_and_picture_alone(model, monkeypatch: pytest.MonkeyPatch) -> None:
    decoding = Decoding(max_new_tokens=6)
    together = list(model.answer(questions(), decoding))
    assert len(set(together)) > 3
    alone = [next(model.answer([question], decoding)) for question in questions()]
    mixed = list(model.answer(questions()[::-1], decoding))[::-1]
    monkeypatch.setattr(model, "questions_per_batch", 4)
    assert together == alone == mixed == list(model.answer(questions(), decoding))


def test_sampled_answers_have_a_generator_each(model) -> None:
    decoding = Decoding(max_new_tokens=6, temperature=1.0, top_k=50, seed=3)
    together = list(model.answer(questions(), decoding))
    assert together == [next(model.answer([question], decoding)) for question in questions()]
    assert together != list(model.answer(questions(), Decoding(max_new_tokens=6, temperature=1.0, top_k=50, seed=4)))


def test_cached_answers_equal_recomputing_everything(model) -> None:
    codes = torch.stack(list(model.encode([p.open() for p in pictures(4)])))
    texts = [model._question_tokens(text) for text in ASKED] * 4
    rows = torch.arange(4).repeat_interleave(3)
    cached = decode(
        model.backbone, discrete_picture_cache(model.backbone, model.layout, codes), rows, texts, model.layout.eot, 8
    )
    plain = [
        plain_show_o.answer(model.backbone, model.layout, codes[row], text, 8)
        for row, text in zip(rows.tolist(), texts, strict=True)
    ]
    assert cached == plain


@torch.inference_mode()
def plain_text_answer(model, row: list[int], limit: int) -> str:
    start = len(row)
    while len(row) < start + limit and (len(row) == start or row[-1] != model.layout.eot):
        visible, positions = visible_answering(0, len(row))[None, None], torch.arange(len(row))[None]
        logits = model.backbone.logits(model.backbone.hidden(torch.tensor([row]), visible, positions))
        row = [*row, int(logits[0, -1].argmax())]
    return model._text(row[start:])


def test_questions_about_no_picture_are_answered_after_sot_alone(model) -> None:
    sot, decoding = model.layout.eot, Decoding(max_new_tokens=6)
    prompts = [*((text, True) for text in ASKED), *((text, False) for text in (*TEXTS, "", " a"))]
    alone = [Question(text, text, template=template) for text, template in prompts]
    rows = [[sot, *model._tokens(f"USER: \n{text} ASSISTANT:" if template else text)] for text, template in prompts]
    wanted = [plain_text_answer(model, row, 6) for row in rows]
    assert list(model.answer(alone, decoding)) == wanted
    assert len(set(wanted)) > 3

    mixed = [question for pair in zip(alone, questions(), strict=False) for question in pair]
    for how in (decoding, Decoding(max_new_tokens=6, temperature=1.0, seed=3)):
        together = list(model.answer(mixed, how))
        assert together == [next(model.answer([question], how)) for question in mixed]
    assert list(model.answer(mixed, decoding))[::2] == wanted


def test_no_row_of_a_mask_is_empty(model, monkeypatch: pytest.MonkeyPatch) -> None:
    # What attention gives for an empty row, not a number or zeros, is its kernel's affair.
    masks, hidden = [], model.backbone.hidden
    monkeypatch.setattr(
        model.backbone, "hidden", lambda ids, visible, *more: masks.append(visible) or hidden(ids, visible, *more)
    )
    asked = [*(Question(text, text) for text in TEXTS), *questions()]
    list(model.answer(asked, Decoding(max_new_tokens=3)))
    assert len(masks) > 4
    assert all(mask.any(dim=-1).all() for mask in masks)


def test_a_raw_prompt_about_a_picture_has_no_template(model) -> None:
    (code,) = model.encode([pictures(1)[0].open()])
    raw = Question("a", f"USER: \n{ASKED[0]} ASSISTANT:", tuple(pictures(1)), template=False)
    bare = Question("b", ASKED[0], tuple(pictures(1)), template=False)
    text = [model.layout.eot, *model._tokens(ASKED[0])]
    wanted = model._text(plain_show_o.answer(model.backbone, model.layout, code, text, 6))
    assert list(model.answer([raw, bare], Decoding(max_new_tokens=6))) == [
        next(model.answer([Question("c", ASKED[0], tuple(pictures(1)))], Decoding(max_new_tokens=6))),
        wanted,
    ]


def test_a_long_question_loses_its_beginning(model, monkeypatch: pytest.MonkeyPatch) -> None:
    long = " ".join(TEXTS)
    tokens = model._tokens(long)
    (code,) = model.encode([pictures(1)[0].open()])
    asked = [Question("a", long, template=False), Question("b", long, tuple(pictures(1)), template=False)]
    for limit, left in ((4, 6), (9, 1), (50, 1)):  # an answer takes no more than what one token leaves
        with monkeypatch.context() as patch:
            patch.setattr(model.backbone.phi.config, "max_position_embeddings", 10)
            about_none = list(model.answer(asked[:1], Decoding(max_new_tokens=limit)))
            patch.setattr(model.backbone.phi.config, "max_position_embeddings", model.layout.image_tokens + 3 + 10)
            about_one = list(model.answer(asked[1:], Decoding(max_new_tokens=limit)))
        kept, fits = tokens[-left:], min(limit, 9)
        assert about_none == [plain_text_answer(model, kept, fits)]
        assert about_one == [model._text(plain_show_o.answer(model.backbone, model.layout, code, kept, fits))]


def test_what_cannot_be_asked_fails_alone(model) -> None:
    def broken() -> Image.Image:
        raise OSError("truncated file")

    good = pictures(1)[0]
    asked = [
        Question("a", ASKED[0], (good,)),
        Question("b", ASKED[0], (Picture("broken", broken),)),
        Question("c", ASKED[0], (good, pictures(2)[1])),
        Question("d", ASKED[1], (good,)),
    ]
    answers = list(model.answer(asked, Decoding(max_new_tokens=3)))
    assert answers[1] == Failure("broken: truncated file")
    assert answers[2] == answers[0]  # of several pictures the first
    assert [answers[0], answers[3]] == list(model.answer([asked[0], asked[3]], Decoding(max_new_tokens=3)))
    drawn = list(model.draw([Prompt("a", "a red circle", 0), Prompt("b", " ", 0)], SAMPLING))
    assert isinstance(drawn[0], Image.Image)
    assert drawn[0].size == (48, 48)
    assert drawn[1] == Failure("the prompt is empty")


def test_a_batch_that_does_not_fit_is_halved() -> None:
    sizes = []

    def work(batch: list[int]) -> list[int]:
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError
        return [2 * x for x in batch]

    assert list(in_batches(list(range(10)), 8, work)) == [2 * x for x in range(10)]
    assert sizes == [8, 4, 2, 2, 2, 2, 2]
    with pytest.raises(torch.OutOfMemoryError):
        list(in_batches([1], 8, lambda batch: (_ for _ in ()).throw(torch.OutOfMemoryError())))


def test_item_noise_follows_the_distribution() -> None:
    probs = torch.tensor([0.0, 0.5, 0.2, 0.0, 0.3, 0.0])
    noise = ItemNoise(range(200), 1, 100, torch.device("cpu"))
    masked = torch.ones(200, 100, dtype=torch.bool)
    counts = noise.codes(0, probs.expand(20_000, -1), masked).bincount(minlength=6) / 20_000
    assert (counts[probs == 0] == 0).all()
    torch.testing.assert_close(counts, probs, atol=0.015, rtol=0)


def test_a_known_position_is_never_masked_again() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = []

    def logits(codes: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        seen.append(codes.clone())
        return torch.randn((int(masked.sum()), 8), generator=generator)

    free = torch.full((3, 20), -1)
    trace = Trace.of(free, 9)
    final = sample_codes(logits, free, MaskGit(9, 0.0, 4.5), SharedNoise(generator), trace)
    for step, (before, after) in enumerate(zip(seen, [*seen[1:], final], strict=True)):
        assert torch.equal(trace.step_BN == step, (before < 0) & (after >= 0))
    for before, after in zip(seen, [*seen[1:], final], strict=True):
        known = before >= 0
        assert torch.equal(after[known], before[known])
        assert ((after < 0).sum(1) < (before < 0).sum(1)).all()


def test_packed_texts_see_what_rows_of_their_own_see() -> None:
    prefix, lengths = 4, (3, 5)
    segments = torch.tensor([[0] * prefix + [1] * lengths[0] + [2] * lengths[1] + [-1, -1]])
    visible = visible_packed(segments)[0]
    start = prefix
    for length in lengths:
        at = torch.tensor([*range(prefix), *range(start, start + length)])
        assert torch.equal(visible[at][:, at], visible_answering(prefix, prefix + length))
        outside = torch.ones(visible.shape[0], dtype=torch.bool)
        outside[at] = False
        assert not visible[start : start + length][:, outside].any()
        start += length


def test_clip_features_are_seen_by_all_and_the_rest_is_causal() -> None:
    visible = visible_clip(system=2, features=3, length=9)
    assert visible[0].tolist() == [True, False, False, False, True, True, True, False, False]
    assert visible[7].tolist() == [True] * 8 + [False]


def test_a_long_prompt_keeps_its_beginning() -> None:
    layout = Layout(text_vocabulary=100, codebook_size=8, image_tokens=4, eot=99, max_text=6)
    block = layout.prompt_block(list(range(20)))
    assert block == [layout.special("t2i"), 99, 0, 1, 2, 3, 99]
    assert len(layout.drawing_row([], [])) == len(layout.drawing_row(list(range(20)), [])) == 7 + 2
