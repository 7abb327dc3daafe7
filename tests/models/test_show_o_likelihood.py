"""Likelihoods of continuations: what recomputing one row at a time gives, joined and cut as lm-eval does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from checkpoints import load_folder
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from PIL import Image
from tiny_show_o import write_checkpoint

from gapbench.models import zoo
from gapbench.models.base import ScoresText
from gapbench.models.show_o.answering import discrete_picture_cache
from gapbench.models.show_o.clip import clip_pixels, clip_prefix
from gapbench.models.show_o.layout import visible_answering, visible_clip
from gapbench.models.show_o.model import ShowO
from gapbench.models.unified import answering
from gapbench.models.unified.answering import SYSTEM_PROMPT, decode
from gapbench.models.unified.backbone import KeyValues
from gapbench.models.unified.likelihood import Window, joined, score, windows
from gapbench.records import Decoding, Failure, Picture, Question, Sampling, TextLikelihood

TEXT = "Is there a circle in the image?"
LONG = "one red star and two green hearts left of a blue circle in the image, three orange squares right of a cross"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ShowO:
    return zoo.load(str(write_checkpoint(tmp_path_factory.mktemp("tiny") / "show-o")), "cpu")


def picture(seed: int) -> Picture:
    generator = torch.Generator().manual_seed(seed)
    array = torch.randint(0, 256, (40, 56, 3), generator=generator, dtype=torch.uint8).numpy()
    return Picture(f"noise-{seed}", lambda: Image.fromarray(array))


def broken() -> Image.Image:
    raise OSError("truncated file")


def requests() -> list[tuple[Question, str]]:
    """About three pictures and none, with template and without, of several lengths."""
    pictures = [(), *((picture(seed),) for seed in range(3))]
    prompts = [(TEXT, True), ("a red circle left of", False), (LONG, False), ("", False)]
    return [
        (Question(f"{i}/{k}/{text}", text, shown, template=template), text_after)
        for i, shown in enumerate(pictures)
        for k, (text, template) in enumerate(prompts)
        for text_after in (" yes", " two green stars above a heart", " no, a blue cross and a red star.")
    ]


def scored(model: ShowO, asked: Sequence[tuple[Question, str]]) -> list[TextLikelihood | Failure]:
    return list(model.log_likelihood([question for question, _ in asked], [text for _, text in asked]))


@torch.inference_mode()
def plain(model: ShowO, question: Question, before: list[int], after: list[int]) -> TextLikelihood:
    """One row, the whole mask, no cache, the head everywhere."""
    layout, backbone = model.layout, model.backbone
    prefix: list[int] = []
    if question.pictures:
        (codes,) = model.encode([question.pictures[0].open()])
        prefix = layout.picture_prefix(codes[None])[0].tolist()
    row = torch.tensor([[*prefix, *before, *after]])
    visible = visible_answering(len(prefix), row.shape[1])
    return of_row(backbone.logits(backbone.hidden(row, visible[None, None], torch.arange(row.shape[1])[None])), after)


def of_row(logits_1LV: torch.Tensor, after: list[int]) -> TextLikelihood:
    logits = logits_1LV[0, -len(after) - 1 : -1]
    logs = logits.log_softmax(dim=-1)
    total = sum(logs[i, token].item() for i, token in enumerate(after))
    return TextLikelihood(total, len(after), logits.argmax(dim=-1).tolist() == after)


def assert_close(found: Sequence[TextLikelihood], wanted: Sequence[TextLikelihood]) -> None:
    assert [each[1:] for each in found] == [each[1:] for each in wanted]
    assert [each.total for each in found] == pytest.approx([each.total for each in wanted], abs=1e-4)


def test_likelihoods_equal_recomputing_everything(model: ShowO) -> None:
    assert isinstance(model, ScoresText)
    wanted = []
    for question, after in requests():
        prompt = f"USER: \n{question.text} ASSISTANT:" if question.template else question.text
        wanted.append(plain(model, question, [model.layout.eot, *model._tokens(prompt)], model._tokens(after)))
    assert_close(scored(model, requests()), wanted)
    assert len({round(each.total, 3) for each in wanted}) == len(wanted)  # picture and prompt both matter


def test_a_likelihood_depends_on_its_question_alone(model: ShowO, monkeypatch: pytest.MonkeyPatch) -> None:
    together = scored(model, requests())
    alone = [scored(model, [request])[0] for request in requests()]
    backwards = scored(model, requests()[::-1])[::-1]
    monkeypatch.setattr(model, "questions_per_batch", 5)
    for other in (alone, backwards, scored(model, requests())):
        assert_close(other, together)


def test_a_batch_that_does_not_fit_is_halved(model: ShowO, monkeypatch: pytest.MonkeyPatch) -> None:
    together, sizes = scored(model, requests()), []

    def small(backbone, pictures, picture_of, some):
        sizes.append(len(some))
        if len(some) > 4:
            raise torch.OutOfMemoryError
        return score(backbone, pictures, picture_of, some)

    monkeypatch.setattr(answering, "score", small)
    assert_close(scored(model, requests()), together)
    assert max(sizes) > 4


def test_greedy_says_whether_it_is_the_answer(model: ShowO) -> None:
    about = [(), (picture(0),), (picture(1),)]
    answers = list(model.answer([Question(f"{i}", TEXT, p) for i, p in enumerate(about)], Decoding(max_new_tokens=6)))
    before = model._question_tokens(TEXT)
    for shown, answer in zip(about, answers, strict=True):
        cache = KeyValues(0)
        if shown:
            cache = discrete_picture_cache(model.backbone, model.layout, next(model.encode([shown[0].open()]))[None])
        row = torch.tensor([0])
        (tokens,) = decode(model.backbone, cache, row, [before], model.layout.eot, 6)
        assert model._text(tokens) == answer
        other = [*tokens[:-1], tokens[-1] - 1]
        found = score(model.backbone, cache, row.expand(2), [Window([*before, *t], len(t)) for t in (tokens, other)])
        assert [each.greedy for each in found] == [True, False]
        assert found[0].total > found[1].total


def test_all_tokens_together_are_certain(model: ShowO) -> None:
    count = model.layout.vocabulary
    every = [Window([model.layout.eot, 5, token], 1) for token in range(count)]
    found = score(model.backbone, KeyValues(0), torch.zeros(count, dtype=torch.long), every)
    assert sum(math.exp(each.total) for each in found) == pytest.approx(1, abs=1e-5)
    assert sum(each.greedy for each in found) == 1


def test_white_space_at_the_end_of_a_prompt_is_the_continuations(model: ShowO) -> None:
    tokens = model._tokens
    assert joined(tokens, "Is there a ", "circle") == (tokens("Is there a"), tokens(" circle"))
    assert joined(tokens, "  ", "circle") == ([], tokens("  circle"))
    for shown in ((), (picture(0),)):
        pair = [(Question("a", "Is there a ", shown, template=False), "circle"),
                (Question("a", "Is there a", shown, template=False), " circle")]  # fmt: skip
        left, right = scored(model, pair)
        assert left == right


def test_nothing_is_certain(model: ShowO) -> None:
    assert scored(model, [(Question("a", TEXT), ""), (Question("b", "", template=False), "")]) == [(0.0, 0, True)] * 2


@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 21])
def test_windows_are_those_of_lm_eval(length: int) -> None:
    tokens = list(range(length))
    rolling = get_rolling_token_windows(tokens, prefix_token=-1, max_seq_len=8, context_len=1)
    wanted = [
        Window([*context, *predicted], len(predicted)) for context, predicted in map(make_disjoint_window, rolling)
    ]
    assert list(windows([-1], tokens, 8)) == wanted


def test_a_long_prompt_loses_its_beginning_and_a_long_continuation_is_cut(
    model: ShowO, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = model.layout.image_tokens + 3
    prompt, after = model._tokens(LONG), model._tokens(f" {LONG}")
    assert 16 < len(after) == len(prompt) < 40
    for shown, positions in (((), 8), ((picture(0),), prefix + 8)):
        monkeypatch.setattr(model.backbone.phi.config, "max_position_embeddings", positions)
        question = Question("a", LONG, shown, template=False)
        (short,) = scored(model, [(question, " yes")])
        assert_close([short], [plain(model, question, prompt[-8:], model._tokens(" yes"))])

        (long,) = scored(model, [(question, f" {LONG}")])
        parts = [plain(model, question, prompt[-1:], after[:8]), plain(model, question, after[7:8], after[8:16])]
        for start in range(16, len(after), 8):
            end = min(start + 8, len(after))
            parts.append(plain(model, question, after[end - 9 : start], after[start:end]))
        totals, counts, greedy = zip(*parts, strict=True)
        assert_close([long], [TextLikelihood(sum(totals), sum(counts), all(greedy))])
        assert long.tokens == len(after)


def test_a_picture_must_leave_room(model: ShowO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.backbone.phi.config, "max_position_embeddings", 13)
    with pytest.raises(ValueError, match="max_position_embeddings is 13; a picture takes 12"):
        scored(model, [(Question("a", TEXT, (picture(0),)), " yes")])


def test_what_cannot_be_scored_fails_alone(model: ShowO) -> None:
    good = picture(0)
    asked = [
        (Question("a", TEXT, (good,)), " yes"),
        (Question("b", TEXT, (Picture("broken", broken),)), " yes"),
        (Question("c", TEXT, (good, picture(1))), " yes"),
        (Question("d", TEXT), " yes"),
    ]
    found = scored(model, asked)
    assert found[1] == Failure("broken: truncated file")
    assert found[2] == found[0]  # of several pictures the first
    assert_close([found[0], found[3]], scored(model, [asked[0], asked[3]]))
    with pytest.raises(ValueError, match="1 questions, but 0 continuations"):
        model.log_likelihood([asked[0][0]], [])


@torch.inference_mode()
def test_the_clip_variant(clip_folder: Path) -> None:
    model = ShowO(load_folder(clip_folder), "tiny", Sampling(steps=3, guidance=1.0))
    parts, backbone, eot = model.parts, model.backbone, model.layout.eot
    system = model._tokens(SYSTEM_PROMPT)
    asked = [
        (Question("a", TEXT, (picture(0),)), " yes, a red star"),
        (Question("b", LONG, (picture(0),), template=False), " yes"),
        (Question("c", "", (picture(1),), template=False), " a red circle"),
        (Question("d", TEXT), " a red star"),
        (Question("e", "", template=False), " a red circle"),
    ]
    template = model._tokens(f"USER: {TEXT} ASSISTANT:")
    before = [template, model._tokens(LONG), [eot], [eot, *template], [eot]]
    wanted = []
    for (question, text), tokens in zip(asked, before, strict=True):
        after = model._tokens(text)
        if not question.pictures:
            wanted.append(plain(model, question, tokens, after))
            continue
        pixels = clip_pixels(question.pictures[0].open(), parts.clip.config.image_size)[None]
        prefix, _ = clip_prefix(backbone, model.layout, parts.clip, parts.projector, system, pixels)
        row = torch.cat([prefix, backbone.embed(torch.tensor([[*tokens, *after]]))], dim=1)
        visible = visible_clip(len(system), prefix.shape[1] - len(system) - 3, row.shape[1])
        hidden = backbone.hidden(row, visible[None, None], torch.arange(row.shape[1])[None])
        wanted.append(of_row(backbone.logits(hidden), after))
    assert_close(scored(model, asked), wanted)
