"""VILA-U as gapbench sees it: results depend on the item and its seed, not on batch, order, padding or caching."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_vila_u import write_checkpoint
from torch import Tensor

from gapbench.models import zoo
from gapbench.models.base import Answers, Described, Draws, ScoresText
from gapbench.models.unified.answering import SYSTEM_PROMPT
from gapbench.models.unified.sampling import seed_of
from gapbench.models.vila_u import drawing
from gapbench.models.vila_u.model import VilaU
from gapbench.models.vila_u.sampling import ItemChoice, Sampler, code_probs
from gapbench.models.vila_u.text import question_text
from gapbench.records import Decoding, Failure, InputError, Picture, Prompt, Question, Sampling, TextLikelihood

TEXTS = ("a red circle", "two green stars and a blue heart", "a photo of a cross", "an orange square above a heart")
ASKED = ("Is there a circle in the image?", "How many red stars are there?", "What color is the heart?")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VilaU:
    return zoo.load(str(write_checkpoint(tmp_path_factory.mktemp("tiny") / "vila-u")), "cpu")


def picture(seed: int) -> Picture:
    generator = torch.Generator().manual_seed(seed)
    array = torch.randint(0, 256, (40, 56, 3), generator=generator, dtype=torch.uint8).numpy()
    return Picture(f"noise-{seed}", lambda: Image.fromarray(array))


def broken() -> Image.Image:
    raise OSError("truncated file")


def prompts() -> list[Prompt]:
    return [Prompt(str(i), TEXTS[i % len(TEXTS)], seed=i // len(TEXTS)) for i in range(8)]


def questions() -> list[Question]:
    """About no, one and several pictures, with template and without, of several lengths."""
    shown = [(), (picture(0),), (picture(1),), (picture(0), picture(1)), (picture(1), picture(0))]
    return [
        Question(f"{i}/{k}/{template}", text if template else text[:8], some, template=template)
        for i, some in enumerate(shown)
        for k, text in enumerate(ASKED)
        for template in (True, False)
    ]


def codes_of(model: VilaU, some: list[Prompt], sampling: Sampling) -> list[list[list[int]]]:
    return [codes.tolist() for codes in model.draw_codes(some, sampling)]


def ids_of(model: VilaU, question: Question) -> list[int | Tensor]:
    """The whole row of a question as the reference builds it; a picture's codes in its place."""
    pictures = [next(model.encode([each.open()])) for each in question.pictures]
    shown = "<image>\n" * len(pictures) + question.text
    if question.template:
        shown = f"{SYSTEM_PROMPT} USER: {shown.strip()} ASSISTANT:"
    row: list[int | Tensor] = [model.parts.text.bos]
    for number, stretch in enumerate(shown.split("<image>")):
        row += [pictures[number - 1]] if number else []
        row += model.parts.text.tokens(stretch)
    return row


@torch.inference_mode()
def plain_logits(model: VilaU, row: list[int | Tensor]) -> Tensor:
    """transformers' own forward over the whole row, without caches or masks."""
    parts = model.parts
    stretches = [
        parts.projector(parts.vision.quantizer.features(each))
        if isinstance(each, Tensor)
        else parts.llama.model.embed_tokens(torch.tensor([each]))
        for each in row
    ]
    return parts.llama(inputs_embeds=torch.cat(stretches)[None]).logits[0]


def test_it_keeps_the_protocols(model: VilaU) -> None:
    assert all(isinstance(model, kind) for kind in (Answers, Draws, ScoresText, Described))
    told = model.describe()
    assert (told["family"], told["image_positions"], told["codes_per_position"]) == ("vila_u", 9, 3)
    assert set(told["weights"]) == {f"{part}/model.safetensors" for part in ("llm", "vision_tower", "mm_projector")}


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(guidance=1.0), Sampling(temperature=0.0)])
def test_a_drawing_depends_on_its_prompt_and_seed_alone(
    model: VilaU, monkeypatch: pytest.MonkeyPatch, sampling: Sampling
) -> None:
    together = codes_of(model, prompts(), sampling)
    assert len(set(map(str, together))) == (4 if sampling.temperature == 0 else 8)
    assert together == [codes_of(model, [prompt], sampling)[0] for prompt in prompts()]
    assert together == codes_of(model, prompts()[::-1], sampling)[::-1]
    monkeypatch.setattr(model, "images_per_batch", 3)
    assert together == codes_of(model, prompts(), sampling)


def test_a_drawing_is_what_recomputing_everything_gives(model: VilaU) -> None:
    words, parts, how = model.parts.text, model.parts, Sampler(3.0)
    rows = [[words.bos, *words.tokens(f"{SYSTEM_PROMPT} USER: {TEXTS[0]} ASSISTANT: "), words.im_start]]
    rows += [[words.bos, *words.tokens(f"{SYSTEM_PROMPT} USER:ASSISTANT: "), words.im_start]]
    choose = ItemChoice([seed_of(TEXTS[0], 5)], 9, 3, how, torch.device("cpu"))
    drawn: list[Tensor] = []
    with torch.inference_mode():
        for position in range(9):
            states = []
            for row in rows:
                inputs = parts.llama.model.embed_tokens(torch.tensor(row))
                if drawn:
                    features = parts.vision.quantizer.features(torch.stack(drawn))
                    inputs = torch.cat([inputs, parts.projector(features)])
                states.append(parts.llama.model(inputs_embeds=inputs[None]).last_hidden_state[:, -1])
            codes = torch.zeros(1, 3, dtype=torch.int64)
            for depth in range(3):
                vectors = parts.vision.quantizer.vectors(codes)
                with_, without = (parts.depth(state, vectors)[:, depth] for state in states)
                codes[0, depth] = choose(position, depth, without + 3.0 * (with_ - without))
            drawn.append(codes[0])
    assert codes_of(model, [Prompt("a", f" {TEXTS[0]}\n", 5)], Sampling()) != [torch.stack(drawn).tolist()]
    assert codes_of(model, [Prompt("a", TEXTS[0], 5)], Sampling()) == [torch.stack(drawn).tolist()]


def test_drawings_are_the_pictures_of_their_codes(model: VilaU) -> None:
    drawn = list(model.draw(prompts()[:3], Sampling()))
    decoded = list(model.decode(list(model.draw_codes(prompts()[:3], Sampling()))))
    for one, other in zip(drawn, decoded, strict=True):
        assert (one.size, one.mode) == ((48, 48), "RGB")
        difference = torch.tensor(list(one.tobytes())).sub(torch.tensor(list(other.tobytes()))).abs()
        assert difference.max() <= 1  # a batch of another size rounds otherwise
    with pytest.raises(ValueError, match="codes must lie in 0"):
        next(model.decode([torch.full((9, 3), 40)]))


def test_settings(model: VilaU) -> None:
    assert model.settings(Sampling()) == Sampler(3.0, 1.0, 900, 0.96)
    assert model.settings(Sampling(guidance=1.5, temperature=0.5)) == Sampler(1.5, 0.5)
    with pytest.raises(InputError, match=r"--steps 20: .* draws code after code"):
        model.settings(Sampling(steps=20))
    with pytest.raises(ValueError, match="at least 0"):
        Sampler(-1.0)


def test_what_top_k_and_top_p_leave() -> None:
    logits = torch.tensor([[0.5, 0.2, 0.2, 0.06, 0.04]]).log()

    def left(top_k: int, top_p: float, temperature: float = 1.0) -> list[float]:
        return code_probs(logits, Sampler(1.0, temperature, top_k, top_p))[0].tolist()

    assert left(900, 1.0) == pytest.approx([0.5, 0.2, 0.2, 0.06, 0.04])
    assert left(2, 1.0) == pytest.approx([5 / 9, 2 / 9, 2 / 9, 0, 0])  # ties with the last stay
    assert left(900, 0.89) == pytest.approx([5 / 9, 2 / 9, 2 / 9, 0, 0])  # the one that reaches it stays
    assert left(900, 0.1) == [1, 0, 0, 0, 0]
    assert left(3, 0.55) == [1, 0, 0, 0, 0]  # of what top-k has left, 5 / 9
    assert left(1, 1.0, 9.0) == [1, 0, 0, 0, 0]


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=30, unique=True),
    st.integers(1, 40),
    st.floats(0.01, 1.0),
    st.floats(0.1, 5.0),
)
def test_top_k_and_top_p_keep_the_likeliest(values: list[float], top_k: int, top_p: float, temperature: float) -> None:
    logits = torch.tensor([values])
    probs = code_probs(logits, Sampler(1.0, temperature, top_k, top_p))[0]
    assert probs.sum().item() == pytest.approx(1.0, abs=1e-5)
    kept = (probs > 0).nonzero().flatten().tolist()
    assert logits[0].argmax().item() in kept
    left = logits[0].topk(min(top_k, len(values))).indices
    assert set(kept) <= set(left.tolist())
    whole = (logits[0, left] / temperature).softmax(0)
    if len(kept) > 1:  # all but the last one kept fall short of top_p
        assert whole[: len(kept) - 1].sum().item() <= top_p + 1e-5
    if len(kept) < len(left) and whole[len(kept)] > 0:
        assert whole[: len(kept)].sum().item() >= top_p - 1e-5


def test_an_answer_depends_on_its_question_and_pictures_alone(model: VilaU, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = questions()
    for way in (Decoding(5), Decoding(5, temperature=1.0, top_k=50, seed=3)):
        together = list(model.say(asked, [way] * len(asked)))
        assert len({each.tokens for each in together}) > len(asked) // 2
        assert together == [next(model.say([question], [way])) for question in asked]
        assert together == list(model.say(asked[::-1], [way] * len(asked)))[::-1]
        assert [each.text for each in together] == list(model.answer(asked, way))
        with monkeypatch.context() as patch:
            patch.setattr(model, "questions_per_batch", 4)
            assert together == list(model.say(asked, [way] * len(asked)))
    with pytest.raises(ValueError, match="but 1 ways"):
        next(model.say(asked, [Decoding()]))


def test_answers_are_what_recomputing_everything_gives(model: VilaU) -> None:
    for question, said in zip(questions(), model.say(questions(), [Decoding(4)] * 30), strict=True):
        row, start = ids_of(model, question), len(ids_of(model, question))
        while len(row) < start + 4 and (len(row) == start or row[-1] != model.parts.text.eos):
            row.append(int(plain_logits(model, row)[-1].argmax()))
        assert list(said.tokens) == [token for token in row[start:] if token != model.parts.text.eos]


def test_likelihoods_are_what_recomputing_everything_gives(model: VilaU) -> None:
    asked, after = questions(), " two red stars"
    found = list(model.log_likelihood(asked, [after] * len(asked)))
    for question, likelihood in zip(asked, found, strict=True):
        row = ids_of(model, question)
        scored = model.parts.text.tokens(after.strip())
        logs = plain_logits(model, [*row, *scored])[-len(scored) - 1 : -1].log_softmax(-1)
        total = logs[range(len(scored)), scored].sum().item()
        hits = logs.argmax(-1).tolist() == scored
        assert likelihood == TextLikelihood(pytest.approx(total, abs=1e-4), len(scored), hits)
    assert found == [pytest.approx(next(model.log_likelihood([question], [after])), abs=1e-4) for question in asked]


def test_a_prompt_of_white_space_is_continued(model: VilaU) -> None:
    asked = [Question("a", text, shown, template=False) for text in ("", " ") for shown in ((), (picture(0),))]
    found = list(model.log_likelihood(asked, ["two"] * 4))
    assert all(math.isfinite(each.total) and each.tokens > 0 for each in found)


def test_prompts_are_the_references(model: VilaU) -> None:
    assert question_text(" what? ") == f"{SYSTEM_PROMPT} USER: what? ASSISTANT:"
    words, space = model.parts.text, model.parts.text.tokens("a ")[-1]
    empty = words.drawing_row("  ")
    assert empty == [words.bos, *words.tokens(f"{SYSTEM_PROMPT} USER:ASSISTANT:"), space, words.im_start]
    assert words.tokens("red") == [words.tokenizer.convert_tokens_to_ids("▁red")]
    assert words.tokens(" red") == [space, *words.tokens("red")]
    assert words.tokens("\né") == [space, *(3 + byte for byte in "\né".encode())]  # bytes of what is no piece
    assert words.tokens("") == []
    assert words.words([*words.tokens("the red  star é"), words.im_end, words.eos]) == "the red  star é"


def test_what_cannot_be_asked_or_drawn_fails_alone(model: VilaU) -> None:
    good, bad = picture(0), Picture("broken", broken)
    asked = [Question(str(n), ASKED[0], shown) for n, shown in enumerate([(good,), (bad,), (good, bad), (good,)])]
    answers = list(model.answer(asked, Decoding(3)))
    assert answers[1] == answers[2] == Failure("broken: truncated file")
    assert answers[0] == answers[3] == next(model.answer([asked[0]], Decoding(3)))
    long = "star " * 600
    drawn = list(model.draw_codes([Prompt("a", " ", 0), Prompt("b", long, 0), *prompts()[:1]], Sampling()))
    assert drawn[0] == Failure("the prompt is empty")
    assert drawn[1] == Failure(
        f"the prompt takes {len(model.parts.text.drawing_row(long))} tokens; there is room for 503"
    )
    assert drawn[2].tolist() == codes_of(model, prompts()[:1], Sampling())[0]


def test_a_long_question_loses_its_beginning(model: VilaU) -> None:
    question = Question("a", "star " * 600 + ASKED[0], (picture(0),))
    said = next(model.say([question], [Decoding(4)]))
    row = ids_of(model, question)
    at = next(number for number, each in enumerate(row) if isinstance(each, Tensor))
    room = 512 - (at + 9)
    kept = [*row[: at + 1], *row[at + 1 :][4 - room :]]
    assert said.tokens[0] == int(plain_logits(model, kept)[-1].argmax())


def test_known_codes_are_read_as_they_are(model: VilaU, monkeypatch: pytest.MonkeyPatch) -> None:
    (codes,) = model.encode([picture(7).open()])
    assert (codes.shape, codes.dtype) == ((9, 3), torch.int64)
    seen = [Question("a", text, (picture(7),)) for text in ASKED]
    known = [Question("a", text, (model.coded(codes),)) for text in ASKED]
    expected = list(model.answer(seen, Decoding(4)))
    monkeypatch.setattr(type(model.parts.vision), "encode", lambda *_: pytest.fail("encoded"))
    assert list(model.answer(known, Decoding(4))) == expected
    assert list(model.answer(seen, Decoding(4))) == expected  # remembered
    assert model.coded(codes) == model.coded(codes.clone()) != model.coded((codes + 1) % 40)
    assert model.coded(codes).open().tobytes() == next(model.decode([codes])).tobytes()


def test_a_picture_is_computed_once_for_its_questions(model: VilaU, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, forward = [], model.backbone.hidden
    monkeypatch.setattr(
        model.backbone, "hidden", lambda x, *more: calls.append(tuple(x.shape[:2])) or forward(x, *more)
    )
    list(model.answer([Question(str(n), "what", (picture(n % 2),)) for n in range(6)], Decoding(1)))
    prefix, question = calls
    assert (prefix[0], question[0]) == (2, 6)
    assert question[1] < 30 < prefix[1]  # the picture and the system prompt are in no question's row
    calls.clear()
    list(model.draw_codes([Prompt(str(n), TEXTS[0], n) for n in range(4)], Sampling()))
    assert calls[0][0] == 2  # the prompt's row and the unconditional one
    assert calls[1:] == [(8, 1)] * 8


def test_likelihoods_for_training_have_gradients(model: VilaU) -> None:
    parts = model.parts
    codes = torch.stack(list(model.draw_codes(prompts()[:3], Sampling())))
    texts = [prompt.text for prompt in prompts()[:3]]
    for guidance in (None, 3.0):
        found = model.image_log_likelihood(texts, codes, guidance)
        assert (found.shape, found.dtype) == ((3,), torch.float32)
        alone = [
            model.image_log_likelihood([text], code[None], guidance) for text, code in zip(texts, codes, strict=True)
        ]
        torch.testing.assert_close(found, torch.cat(alone), atol=1e-4, rtol=0)
        found.sum().backward()
    torch.testing.assert_close(
        model.image_log_likelihood(texts, codes), model.image_log_likelihood(texts, codes, 1.0), atol=0, rtol=0
    )
    captions = [([5, 300, 7], True), ([300], False), ([270, 271, 272, 273], True)]
    pictures = [picture(0), picture(1), picture(0)]
    found = model.caption_log_likelihood(pictures, "what is this?", captions)
    assert (found.shape, found.dtype) == ((3,), torch.float32)
    for one, shown, (tokens, ended) in zip(found, pictures, captions, strict=True):
        labels = [*tokens, parts.text.eos] if ended else tokens
        row = [*ids_of(model, Question("", "what is this?", (shown,))), *labels]
        logs = plain_logits(model, row)[-len(labels) - 1 : -1].log_softmax(-1)
        assert one.item() == pytest.approx(logs[range(len(labels)), labels].sum().item(), abs=1e-4)
    found.sum().backward()
    trained = (parts.llama, parts.projector, parts.depth)
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for part in trained for value in part.parameters())
    assert all(value.grad is None for value in parts.vision.parameters())


def test_a_likelihood_of_a_drawing_is_exact(model: VilaU) -> None:
    codes = torch.stack(list(model.draw_codes(prompts()[:1], Sampling())))
    found: list[float] = []

    class Forced(ItemChoice):
        """Takes the given codes, noting how likely each was."""

        def __call__(self, position: int, depth: int, logits_BK: Tensor) -> Tensor:
            code = codes[:, position, depth]
            found.append(logits_BK.log_softmax(-1)[0, code].item())
            return code

    words, parts = model.parts.text, model.parts
    rows = [words.drawing_row(TEXTS[0])]
    for guidance in (1.0, 2.5):
        found.clear()
        choose = Forced([0], 9, 3, Sampler(), torch.device("cpu"))
        models = (model.backbone, parts.projector, parts.vision, parts.depth)
        drawing.draw_codes(*models, rows, words.drawing_row(""), guidance, choose)
        whole = model.image_log_likelihood([TEXTS[0]], codes, guidance).item()
        assert sum(found) == pytest.approx(whole, abs=1e-4)


def test_likelihoods_refuse_what_they_cannot_weigh(model: VilaU) -> None:
    with pytest.raises(InputError, match="broken: truncated file; leave it out"):
        model.caption_log_likelihood([Picture("broken", broken)], "what", [([5], True)])
    with pytest.raises(InputError, match=r"a caption takes .* positions"):
        model.caption_log_likelihood([picture(0)], "what", [([5] * 600, True)])
    with pytest.raises(ValueError, match="1 pictures, but 2 captions"):
        model.caption_log_likelihood([picture(0)], "what", [([5], True)] * 2)
    with pytest.raises(ValueError, match="no drawings of 1 prompts"):
        model.image_log_likelihood(["a"], torch.zeros(1, 8, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"codes must lie in 0\.\.39"):
        model.image_log_likelihood(["a"], torch.full((1, 9, 3), 40))


def test_bfloat16_runs_the_whole_way(tmp_path: Path) -> None:
    small = zoo.load(str(write_checkpoint(tmp_path / "vila-u")), "cpu", "bfloat16")
    assert small.parts.depth.pos_emb_d.dtype == small.parts.projector[0].weight.dtype == torch.bfloat16
    assert {value.dtype for value in small.parts.vision.parameters()} == {torch.float32}
    (drawn,) = small.draw(prompts()[:1], Sampling())
    assert drawn.size == (48, 48)
    codes = torch.stack(list(small.draw_codes(prompts()[:1], Sampling())))
    assert small.image_log_likelihood([TEXTS[0]], codes, 3.0).dtype == torch.float32
    assert len(list(small.say(questions(), [Decoding(2)] * 30))) == 30
    assert small.caption_log_likelihood([picture(0)], "what", [([5], True)]).dtype == torch.float32
