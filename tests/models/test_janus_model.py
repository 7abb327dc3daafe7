"""Janus as gapbench sees it: what transformers' own code computes, whatever the batch, order, padding or caching."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_janus import CODES, SIDE, write_checkpoint
from torch import Tensor
from torch.nn import functional as F

from gapbench.models import zoo
from gapbench.models.base import Answers, Described, Draws, ScoresText
from gapbench.models.janus.drawing import ItemChoice, Sampler, draw_codes
from gapbench.models.janus.model import Janus
from gapbench.records import Decoding, Failure, InputError, Picture, Prompt, Question, Sampling, TextLikelihood

TEXTS = ("a red circle", "two green stars and a blue heart", "a photo of a cross", "an orange square above a heart")
ASKED = ("Is there a circle in the image?", "How many red stars are there?", "What color is the heart?")
SIZES = ((40, 56), (56, 40), (20, 20), (90, 2), (1, 64))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "janus")


@pytest.fixture(scope="module")
def model(folder: Path) -> Janus:
    return zoo.load(str(folder), "cpu")


@pytest.fixture(scope="module")
def library(folder: Path) -> Any:
    from transformers import JanusForConditionalGeneration

    return JanusForConditionalGeneration.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    from transformers import AutoTokenizer, JanusProcessor
    from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

    text = AutoTokenizer.from_pretrained(folder)
    how = {"use_default_system_prompt": True, "num_image_tokens": SIDE**2, "chat_template": text.chat_template}
    return JanusProcessor(JanusImageProcessorPil.from_pretrained(folder), text, **how)


def picture(seed: int) -> Picture:
    generator = torch.Generator().manual_seed(seed)
    array = torch.randint(0, 256, (*SIZES[seed], 3), generator=generator, dtype=torch.uint8).numpy()
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


def asked_of_library(processor: Any, question: Question) -> Any:
    content = [*[{"type": "image"}] * len(question.pictures), {"type": "text", "text": question.text}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    images = [each.open() for each in question.pictures] or None
    return processor(text=text, images=images, return_tensors="pt")


def codes_of(model: Janus, some: list[Prompt], sampling: Sampling) -> list[list[int]]:
    return [codes.tolist() for codes in model.draw_codes(some, sampling)]


def test_what_it_is(model: Janus) -> None:
    for protocol in (Answers, Draws, ScoresText, Described):
        assert isinstance(model, protocol)
    assert (model.image_tokens, model.codebook_size, model.resolution) == (16, CODES, 32)
    told = model.describe()
    assert told["family"] == "janus"
    assert (told["image_tokens"], told["resolution"], told["dtype"]) == (16, 32, "float32")
    assert len(told["weights"]["model.safetensors"]["sha256"]) == len(told["chat_template"]) == 64


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_a_drawing_depends_on_its_prompt_and_seed_alone(model: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    together = codes_of(model, prompts(), Sampling())
    assert len({tuple(codes) for codes in together}) == 8
    alone = [codes_of(model, [prompt], Sampling())[0] for prompt in prompts()]
    backwards = codes_of(model, prompts()[::-1], Sampling())[::-1]
    monkeypatch.setattr(model, "images_per_batch", 3)
    assert together == alone == backwards == codes_of(model, prompts(), Sampling())


def test_greedy_drawing_is_transformers_own(model: Janus, library: Any, processor: Any) -> None:
    text = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "text", "text": text}]}], add_generation_prompt=True
        )
        for text in TEXTS
    ]
    inputs = processor(text=text, padding=True, return_tensors="pt", generation_mode="image")
    rows = [model.parts.text.drawing_row(text) for text in TEXTS]
    assert [ids[mask == 1].tolist() for ids, mask in zip(inputs.input_ids, inputs.attention_mask, strict=True)] == rows
    for scale in (2.0, 5.0):
        wanted = library.generate(**inputs, generation_mode="image", guidance_scale=scale, do_sample=False)
        some = [Prompt("", text, 0) for text in TEXTS]
        assert codes_of(model, some, Sampling(guidance=scale, temperature=0.0)) == wanted.tolist()
        assert len(wanted.unique()) > 5


@torch.inference_mode()
def plain_logits(library: Any, row: list[int], codes: Tensor) -> Tensor:
    """(N,C): transformers' own forward over the whole row, without caches, pads or masks."""
    inner = library.model
    ids = library.get_input_embeddings()(torch.tensor([row]))
    known = library.prepare_embeddings_for_image_generation(codes[None, :-1])
    hidden = inner.language_model(inputs_embeds=torch.cat([ids, known], dim=1)).last_hidden_state
    return inner.generation_head(hidden[0, len(row) - 1 :])


@pytest.mark.parametrize("guidance", [0.0, 1.0, 5.0])
def test_guided_logits_are_those_of_transformers_forward(model: Janus, library: Any, guidance: float) -> None:
    codes = torch.randint(0, CODES, (len(TEXTS), 16), generator=torch.Generator().manual_seed(3))
    seen = []

    def choose(position: int, logits_BC: Tensor) -> Tensor:
        seen.append(logits_BC)
        return codes[:, position]

    words = model.parts.text
    rows = [words.drawing_row(text) for text in TEXTS]
    unprompted = [
        [words.bos, *[words.pad] * (len(row) - 2), words.boi] for row in rows
    ]  # every token but [bos] and [boi]
    assert [words.unprompted(row) for row in rows] == unprompted
    assert torch.equal(draw_codes(model.backbone, rows, unprompted, 16, guidance, choose), codes)
    for number, logits in enumerate(torch.stack(seen, dim=1)):
        with_ = plain_logits(library, rows[number], codes[number])
        without = plain_logits(library, unprompted[number], codes[number])
        torch.testing.assert_close(logits, without + guidance * (with_ - without), atol=2e-4, rtol=1e-4)
    assert (with_ - without).abs().max() > 0.1


def test_codes_are_sampled_from_the_whole_softmax() -> None:
    logits = torch.linspace(0, 2, 60)  # no top-k: all sixty are drawn
    for temperature in (0.5, 1.0, 2.0):
        choose = ItemChoice(range(200), 100, temperature, torch.device("cpu"))
        drawn = torch.stack([choose(position, logits.expand(200, -1)) for position in range(100)])
        share = drawn.flatten().bincount(minlength=60) / drawn.numel()
        torch.testing.assert_close(share, (logits / temperature).softmax(dim=-1), atol=0.005, rtol=0)
    assert ItemChoice([0], 1, 0.0, torch.device("cpu"))(0, logits[None]).tolist() == [59]


def test_settings(model: Janus) -> None:
    assert model.settings(Sampling()) == Sampler(guidance=4.0, temperature=1.0)  # the folder's generation_config.json
    assert model.settings(Sampling(guidance=2.0, temperature=0.5)) == Sampler(2.0, 0.5)
    bare = Janus(model.parts, "bare", Sampling())
    assert bare.settings(Sampling()) == Sampler(5.0, 1.0)
    with pytest.raises(InputError, match=r"^--steps 7: .* draws code after code; leave --steps out$"):
        model.settings(Sampling(steps=7))
    one, other = (codes_of(model, prompts()[:2], Sampling(temperature=t)) for t in (1.0, 3.0))
    assert one != other


def test_prompts_that_cannot_be_drawn_fail_alone(model: Janus) -> None:
    fits, too_long = (" ".join(["red"] * count) for count in (model.longest_prompt, model.longest_prompt + 1))
    some = [Prompt("a", "a red circle", 0), Prompt("b", " ", 0), Prompt("c", too_long, 0), Prompt("d", fits, 0)]
    drawn = list(model.draw(some, Sampling()))
    assert drawn[1:3] == [Failure("the prompt is empty"), Failure("the prompt takes 242 tokens; there is room for 241")]
    assert [drawn[0].size, drawn[3].size] == [(32, 32)] * 2


# --- the image tokenizer ---------------------------------------------------------------------------------------------


def test_codes_become_pictures_as_in_the_reference(model: Janus, library: Any) -> None:
    codes = torch.randint(0, CODES, (3, 16), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        wanted = library.decode_image_tokens(codes).add(1).div(2).mul(255).clamp(0, 255).to(torch.uint8)
    for drawn, levels in zip(model.decode(list(codes)), wanted, strict=True):
        difference = torch.tensor(list(drawn.tobytes())).sub(levels.flatten()).abs()
        assert difference.max() <= 1
    (drawn,) = model.draw(prompts()[:1], Sampling())
    coded = model.coded(next(model.draw_codes(prompts()[:1], Sampling())))
    assert coded.open().tobytes() == drawn.tobytes()
    assert model.coded(codes[0]) == model.coded(codes[0].clone()) != model.coded(codes[1])


def test_a_code_is_the_nearest_direction_of_the_book(model: Janus, library: Any) -> None:
    images = [picture(seed).open().resize((32, 32)) for seed in range(3)]
    found = torch.stack(list(model.encode(images)))
    assert torch.equal(found, torch.stack([next(model.encode([image])) for image in images]))
    vq = library.model.vqmodel
    pixels = torch.stack([torch.tensor(list(image.tobytes())).view(32, 32, 3) for image in images])
    with torch.inference_mode():
        latent = vq.quant_conv(vq.encoder(pixels.permute(0, 3, 1, 2) / 127.5 - 1))
    directions = F.normalize(latent, dim=1).permute(0, 2, 3, 1).reshape(3, 16, 1, -1)
    distance = (directions - F.normalize(vq.quantize.embedding.weight, dim=-1)).square().sum(dim=-1)
    assert torch.equal(found, distance.argmin(dim=-1))
    assert len(found.unique()) > 1


# --- answering -------------------------------------------------------------------------------------------------------


def test_rows_and_pixels_are_the_processors(model: Janus, processor: Any) -> None:
    words = model.parts.text
    for seed in range(len(SIZES)):
        for shown in ((), (picture(seed),), (picture(0), picture(seed))):
            question = Question("a", ASKED[0], shown)
            inputs = asked_of_library(processor, question)
            stretches = words.stretches(question)
            row: list[int] = []
            for before in words.before_pictures(stretches):
                row += [*before, *[words.tokenizer.image_token_id] * SIDE**2]
            row += words.after_pictures(stretches[-1], bool(shown))
            assert row == inputs.input_ids[0].tolist()
            if shown:
                pixels = torch.stack([model.parts.frame.pixels(each.open()) for each in shown])
                torch.testing.assert_close(pixels, torch.as_tensor(inputs.pixel_values).float())


def test_a_placeholder_in_a_questions_words_is_no_picture(model: Janus) -> None:
    asked = Question("a", "What is <image_placeholder> here?", (picture(0),))
    words = model.parts.text
    assert len(words.before_pictures(words.stretches(asked))) == 1
    assert words.tokenizer.image_token_id in words.after_pictures(words.stretches(asked)[-1], True)
    assert isinstance(next(model.answer([asked], Decoding(3))), str)


def test_greedy_answers_are_transformers_own(model: Janus, library: Any, processor: Any) -> None:
    some = [question for question in questions() if question.template]
    some += [Question(f"{seed}", ASKED[0], (picture(seed),)) for seed in range(2, len(SIZES))]
    found = list(model.say(some, [Decoding(12)] * len(some)))
    for question, said in zip(some, found, strict=True):
        inputs = asked_of_library(processor, question)
        with torch.inference_mode():
            whole = library.generate(**inputs, max_new_tokens=12, do_sample=False)[0].tolist()
        wanted = whole[inputs.input_ids.shape[1] :]
        assert [*said.tokens, *[model.parts.text.eos] * said.ended] == wanted
        known = [token for token in said.tokens if token < len(processor.tokenizer)]
        assert said.text == processor.tokenizer.decode(known, skip_special_tokens=True).strip()
    assert len({said.tokens for said in found}) > len(some) // 2


def test_an_answer_depends_on_its_question_and_pictures_alone(model: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    for how in (Decoding(6), Decoding(6, temperature=1.0, top_k=50, seed=3)):
        together = list(model.answer(questions(), how))
        assert len(set(together)) > 10
        alone = [next(model.answer([question], how)) for question in questions()]
        assert together == alone == list(model.answer(questions()[::-1], how))[::-1]
        with monkeypatch.context() as patch:
            patch.setattr(model, "questions_per_batch", 4)
            assert together == list(model.answer(questions(), how))


def test_a_pictures_prefix_is_computed_once(model: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, features = [], model.backbone.features
    monkeypatch.setattr(model.backbone, "features", lambda pixels: seen.append(len(pixels)) or features(pixels))
    asked = [Question(str(i), text, (picture(i % 2),)) for i, text in enumerate(ASKED * 4)]
    list(model.answer(asked, Decoding(2)))
    assert seen == [2]


def test_each_is_said_in_its_own_way(model: Janus) -> None:
    asked = questions()[6:9]
    ways = [Decoding(2, 1.0, seed=1), Decoding(40, 1.0, seed=1), Decoding(1)]
    together = list(model.say(asked, ways))
    assert [len(said.tokens) for said in together[::2]] == [2, 1]
    assert together == [next(model.say([q], [way])) for q, way in zip(asked, ways, strict=True)]
    with pytest.raises(ValueError, match="3 questions, but 2 ways"):
        next(model.say(asked, ways[:2]))


def test_a_known_drawing_is_seen_as_its_pixels(model: Janus) -> None:
    codes = next(model.draw_codes(prompts()[:1], Sampling()))
    (drawn,) = model.draw(prompts()[:1], Sampling())
    coded = [Question("a", text, (model.coded(codes),)) for text in ASKED]
    saved = [Question("a", text, (Picture("drawing.png", lambda: drawn),)) for text in ASKED]
    assert list(model.say(coded, [Decoding(6)] * 3)) == list(model.say(saved, [Decoding(6)] * 3))


def test_a_picture_that_cannot_be_read_fails_alone(model: Janus) -> None:
    good = questions()[6]
    bad = [
        Question("a", ASKED[0], (Picture("broken", broken),)),
        Question("b", ASKED[0], (picture(0), Picture("broken", broken))),
    ]
    for found in (
        list(model.answer([bad[0], good, bad[1]], Decoding(3))),
        list(model.log_likelihood([bad[0], good, bad[1]], [" yes"] * 3)),
    ):
        assert found[0] == found[2] == Failure("broken: truncated file")
        assert not isinstance(found[1], Failure)


def test_batches_that_do_not_fit_are_halved(model: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    together, sizes, prefix = list(model.answer(questions(), Decoding(4))), [], model._prefix

    def small(befores: Any, pixels: list[list[Tensor]]) -> Tensor:
        sizes.append(len(pixels))
        if len(pixels) > 1:
            raise torch.OutOfMemoryError
        return prefix(befores, pixels)

    monkeypatch.setattr(model, "_prefix", small)
    assert list(model.answer(questions(), Decoding(4))) == together
    assert set(sizes) == {1, 2}


@torch.inference_mode()
def plain_likelihood(model: Janus, library: Any, question: Question, after: str) -> TextLikelihood:
    """One row through transformers' own forward, all of it, without caches or masks."""
    words, stretches = model.parts.text, model.parts.text.stretches(question)
    embed = library.get_input_embeddings()
    parts = []
    for before, each in zip(words.before_pictures(stretches), question.pictures, strict=True):
        pixels = model.parts.frame.pixels(each.open())[None]
        parts += [embed(torch.tensor([before])), library.model.get_image_features(pixels).pooler_output]
    first = words.after_pictures(stretches[-1], bool(question.pictures))
    wanted = words.tokens(after)
    inputs = torch.cat([*parts, embed(torch.tensor([[*first, *wanted]]))], dim=1)
    logits = library(inputs_embeds=inputs).logits[0, -len(wanted) - 1 : -1]
    total = logits.log_softmax(dim=-1).gather(1, torch.tensor(wanted)[:, None]).sum()
    return TextLikelihood(float(total), len(wanted), logits.argmax(dim=-1).tolist() == wanted)


def test_likelihoods_equal_recomputing_everything(model: Janus, library: Any) -> None:
    bare = [Question("x", "", shown, template=False) for shown in ((), (picture(0),))]
    asked = [(q, text) for q in [*questions(), *bare] for text in (" yes", " two green stars above a heart")]
    found = list(model.log_likelihood([q for q, _ in asked], [text for _, text in asked]))
    for (question, text), each in zip(asked, found, strict=True):
        wanted = plain_likelihood(model, library, question, text)
        assert each[1:] == wanted[1:]
        assert each.total == pytest.approx(wanted.total, abs=1e-3)
    assert not any(each.greedy for each in found)
    words, checked = model.parts.text, 0
    for question in questions():
        (said,) = model.say([question], [Decoding(1)])
        text = words.tokenizer.decode(said.tokens)
        if text.startswith(" ") and words.tokens(text) == [*said.tokens]:
            checked += 1
            assert next(model.log_likelihood([question], [text])).greedy
    assert checked > 3


def test_a_long_question_loses_its_beginning(model: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    long = " ".join(TEXTS * 2)
    config, words = model.backbone.phi.config.text_config, type(model.parts.text)
    for shown, taken in (((), 0), ((picture(0),), 18)):  # [bos] [boi] and 16 features
        left = 30 - taken - 4
        short = model.parts.text.tokenizer.decode(model.parts.text.tokens(long)[-left:])
        with monkeypatch.context() as patch:
            patch.setattr(config, "max_position_embeddings", 30)
            (said,) = model.say([Question("a", long, shown, template=False)], [Decoding(4)])
        with monkeypatch.context() as patch:
            patch.setattr(words, "after_pictures", lambda self, text, _: self.tokens(text))
            (wanted,) = model.say([Question("a", short, shown, template=False)], [Decoding(4)])
        assert said == wanted
    monkeypatch.setattr(config, "max_position_embeddings", 19)
    with pytest.raises(InputError, match="rows have 19 positions; the pictures take 18"):
        list(model.answer([Question("a", long, (picture(0),), template=False)], Decoding(4)))
