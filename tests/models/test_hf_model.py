"""Models of transformers: what recomputing one row at a time gives, whatever stands beside it in a batch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import tiny_hf
import torch
from PIL import Image

from gapbench.models import hf_model, zoo
from gapbench.models.base import Answers, Described, Draws, ScoresText
from gapbench.models.hf_decoding import Picked, Told
from gapbench.models.hf_model import SHARES, ImageTextToText
from gapbench.records import Decoding, Failure, Picture, Question, TextLikelihood

KINDS = tuple(tiny_hf.BUILDERS)
TEXTS = (
    "Is there a circle in the image?",
    "What color is the star?",
    "How many red circles are there left of the blue square?",
    "one",
)
SIZES = ((40, 56), (56, 40), (30, 80))
LENGTH = 5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    from transformers.models.smolvlm import processing_smolvlm

    folder = tmp_path_factory.mktemp("hf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processing_smolvlm, "num2words", str)
        yield {kind: tiny_hf.write(kind, folder / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, ImageTextToText]:
    return {kind: zoo.load(str(folder), "cpu") for kind, folder in folders.items()}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, models: dict[str, ImageTextToText]) -> ImageTextToText:
    return models[request.param]


@pytest.fixture
def llava(models: dict[str, ImageTextToText]) -> ImageTextToText:
    return models["llava"]


def picture(number: int, size: tuple[int, int] | None = None) -> Picture:
    height, width = size or SIZES[number]
    generator = torch.Generator().manual_seed(number)
    array = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8).numpy()
    return Picture(f"noise-{number}", lambda: Image.fromarray(array))


def broken() -> Image.Image:
    raise OSError("truncated file")


def questions() -> list[Question]:
    """All texts about one picture, which they share; two about another and about none, one about others and two."""
    a, b, c = (picture(number) for number in range(3))
    shown = [((), 1), ((a,), 0), ((b,), 2), ((), 3), ((a,), 1), ((a,), 2), ((c,), 0), ((b,), 3), ((a,), 3), ((a, b), 3)]
    return [
        Question(f"{number}", TEXTS[text], pictures, template=text != 3 or pictures == (a,))
        for number, (pictures, text) in enumerate(shown)
    ]


def plain_logits(model: ImageTextToText, question: Question, tokens: Sequence[int]) -> torch.Tensor:
    """Logits (T+1,V) from the prompt's last token on: one row, no pads, no cache, one pass of the class itself."""
    images = [[shown.open() for shown in question.pictures]] if question.pictures else None
    prompt = model.prompts.prompt(question)
    inputs = model.processor(text=[prompt], images=images, return_tensors="pt", **model.prompts.processor_arguments)
    start = inputs["input_ids"].shape[1]
    after = torch.tensor([list(tokens)], dtype=torch.long)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], after], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(after)], dim=1)
    with torch.inference_mode():
        return model.model(**inputs, use_cache=False).logits[0, start - 1 :]


def plain_answer(model: ImageTextToText, question: Question) -> str:
    tokens: list[int] = []
    while len(tokens) < LENGTH:
        tokens.append(int(plain_logits(model, question, tokens)[-1].argmax()))
        if tokens[-1] == tiny_hf.END:
            break
    return model.tokenizer.decode(tokens, skip_special_tokens=True).strip()


def plain_likelihood(model: ImageTextToText, question: Question, tokens: Sequence[int]) -> TextLikelihood:
    logits = plain_logits(model, question, tokens)[:-1]
    logs = logits.log_softmax(dim=-1)
    total = sum(logs[step, token].item() for step, token in enumerate(tokens))
    return TextLikelihood(total, len(tokens), logits.argmax(dim=-1).tolist() == list(tokens))


def answers(model: ImageTextToText, asked: Sequence[Question], **how: object) -> list[str | Failure]:
    return list(model.answer(asked, Decoding(max_new_tokens=LENGTH, **how)))


def assert_close(found: Sequence[TextLikelihood], wanted: Sequence[TextLikelihood]) -> None:
    assert [each[1:] for each in found] == [each[1:] for each in wanted]
    assert [each.total for each in found] == pytest.approx([each.total for each in wanted], abs=1e-4)


# --- answers ----------------------------------------------------------------------------------------------------------


def test_answers_equal_recomputing_everything(model: ImageTextToText) -> None:
    asked = questions()
    found = answers(model, asked)
    assert found == [plain_answer(model, question) for question in asked]
    assert len(set(found)) == len(asked)  # pictures and texts both matter


@pytest.mark.parametrize("how", [{}, {"temperature": 1.0, "top_k": 20, "seed": 3}], ids=["greedy", "sampled"])
def test_an_answer_depends_on_its_question_alone(
    model: ImageTextToText, monkeypatch: pytest.MonkeyPatch, how: dict[str, float]
) -> None:
    asked = questions()
    together = answers(model, asked, **how)
    assert together == [answers(model, [question], **how)[0] for question in asked]
    assert together == answers(model, asked[::-1], **how)[::-1]
    monkeypatch.setattr(hf_model, "ROWS_PER_BATCH", 3)
    assert together == answers(model, asked, **how)
    monkeypatch.setattr(model, "shares", False)
    assert together == answers(model, asked, **how)


def test_what_is_asked_about_a_picture_shares_its_prefix(
    model: ImageTextToText, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = model.model.config.model_type
    assert model.shares == (kind in SHARES) == (kind != "qwen2_vl")
    widths = []
    generate = model.model.generate

    def noted(**inputs: torch.Tensor) -> torch.Tensor:
        cache = inputs.get("past_key_values")
        widths.append((len(inputs["input_ids"]), cache.get_seq_length() if cache is not None else 0))
        return generate(**inputs)

    monkeypatch.setattr(model.model, "generate", noted)
    asked = [Question(f"{n}", text, (picture(0),)) for n, text in enumerate(TEXTS)]
    found = answers(model, asked)
    ((rows, shared),) = widths
    assert rows == len(TEXTS)
    assert (shared > 4) == model.shares
    assert found == [answers(model, [question])[0] for question in asked]
    assert widths[1:] == [(1, 0)] * len(TEXTS)

    widths.clear()  # what stands before the picture differs, so nothing is shared
    mixed = [*asked[:3], Question("3", TEXTS[3], (picture(0),), template=False)]
    assert answers(model, mixed)[:3] == found[:3]
    assert (widths[0][1] == 0) or model.model.config.model_type == "chameleon"

    widths.clear()  # the same prompt again and again, as choices are weighed
    likelihoods = list(model.log_likelihood([asked[0]] * 4, [" red", " blue", " yes", " red"]))
    assert likelihoods[0].total == pytest.approx(likelihoods[3].total, rel=1e-5) != likelihoods[1].total
    assert (widths[0][1] > shared) == model.shares  # all of it but its last token


def test_emu3_reads_no_picture_beside_another(models: dict[str, ImageTextToText]) -> None:
    """Its processor pads pictures to one size, and its image tokenizer reads the padding."""
    model = models["emu3"]
    asked = [Question("a", TEXTS[0], (picture(0),)), Question("b", TEXTS[1], (picture(2),))]
    alone = [answers(model, [question])[0] for question in asked]
    assert answers(model, asked) == alone
    model._alone = False
    try:
        assert answers(model, asked) != alone
    finally:
        model._alone = True


def test_sampling_is_seeded_by_question_and_seed(llava: ImageTextToText) -> None:
    asked = [Question(f"{n}", TEXTS[0], (picture(0),)) for n in range(8)]
    found = answers(llava, asked, temperature=1.0)
    assert len(set(found)) > 4  # the id is part of the seed
    assert found == answers(llava, asked, temperature=1.0)
    assert found != answers(llava, asked, temperature=1.0, seed=1)
    assert answers(llava, asked, temperature=1.0, top_k=1) == answers(llava, asked)
    assert answers(llava, asked, temperature=1e-4) == answers(llava, asked)


def test_of_a_checkpoints_generation_settings_its_end_tokens_are_kept(
    folders: dict[str, Path], llava: ImageTextToText, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["llava"], tmp_path / "llava"))
    settings = {"do_sample": True, "temperature": 9.0, "top_p": 0.5, "repetition_penalty": 5.0, "min_new_tokens": 5}
    settings |= {"max_length": 7, "num_beams": 2, "pad_token_id": 3}
    settings |= {"eos_token_id": [tiny_hf.END, 151]}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    other = zoo.load(str(folder), "cpu")
    assert other.describe()["end_tokens"] == [tiny_hf.END, 151]
    assert llava.describe()["end_tokens"] == [tiny_hf.END]
    word = other.tokenizer.decode([151])
    for mine, others in zip(answers(llava, questions()), answers(other, questions()), strict=True):
        assert others == mine.partition(word)[0].strip()


def test_an_answer_ends_at_an_end_token(llava: ImageTextToText) -> None:
    assert llava._said([20, 31, tiny_hf.END, 20]) == llava.tokenizer.decode([20, 31]).strip()
    assert llava._said([tiny_hf.END, 31]) == ""
    chosen = torch.tensor([[20, 20], [31, tiny_hf.END]])
    picked = Picked(lambda step, logits, rows: chosen[step], 2)
    scores = torch.zeros(2, 40)
    only = picked(torch.zeros(2, 1), scores)
    assert (only == 0).nonzero().tolist() == [[0, 20], [1, 20]]
    picked(torch.zeros(2, 2), scores)
    assert picked(torch.zeros(2, 3), scores) is scores  # a step more than was asked for, as on a GPU
    assert picked.tokens() == [[20, 31], [20, tiny_hf.END]]


def test_a_batch_that_does_not_fit_is_halved(model: ImageTextToText, monkeypatch: pytest.MonkeyPatch) -> None:
    together, sizes = answers(model, questions()), []
    generate = model._generate

    def small(inputs: dict[str, torch.Tensor], *rest: object) -> None:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError
        generate(inputs, *rest)

    monkeypatch.setattr(model, "_generate", small)
    assert answers(model, questions()) == together
    assert max(sizes) > 2


def test_what_cannot_be_answered_fails_alone(model: ImageTextToText) -> None:
    good = picture(0)
    asked = [
        Question("a", TEXTS[0], (good,)),
        Question("b", TEXTS[0], (Picture("broken", broken),)),
        Question("c", TEXTS[0], (good, Picture("broken", broken))),
        Question("d", " "),
        Question("e", f"{TEXTS[0]} " * 40),
        Question("f", f"{TEXTS[0]} " * 40, (good,)),
        Question("g", TEXTS[1]),
        Question("h", "", (good,)),
    ]
    found = answers(model, asked)
    assert found[1] == found[2] == Failure("broken: truncated file")
    assert found[3] == Failure("the question is empty")
    for long in found[4:6]:
        assert isinstance(long, Failure)
        assert long.reason.endswith("tokens are too many for a model of 256 positions")
    kept = [0, 6, 7]
    assert [found[n] for n in kept] == answers(model, [asked[n] for n in kept])
    assert all(isinstance(found[n], str) for n in kept)


def test_a_picture_that_the_processor_refuses_fails_alone(models: dict[str, ImageTextToText]) -> None:
    model = models["qwen2_vl"]
    thin = Question("b", TEXTS[0], (picture(7, (1, 300)),))
    asked = [Question("a", TEXTS[0], (picture(0),)), thin, Question("c", TEXTS[0], (picture(1),))]
    first, refused, last = answers(model, asked)
    assert isinstance(refused, Failure)
    assert "aspect ratio" in refused.reason
    assert [first, last] == answers(model, asked[::2])


def test_an_answer_ends_where_positions_do(llava: ImageTextToText, monkeypatch: pytest.MonkeyPatch) -> None:
    question = Question("a", TEXTS[0])
    prompt = len(llava._tokens(llava.prompts.prompt(question)))
    decoding = Decoding(max_new_tokens=8)
    (whole,) = llava.answer([question], decoding)
    monkeypatch.setattr(llava, "positions", prompt + 1)
    (cut,) = llava.answer([question], decoding)
    assert whole.startswith(cut)
    assert 0 < len(llava._tokens(cut)) <= 2 < len(llava._tokens(whole))
    monkeypatch.setattr(llava, "positions", prompt - 1)
    assert list(llava.answer([question], decoding)) == [
        Failure(f"{prompt} tokens are too many for a model of {prompt - 1} positions")
    ]


def test_pictures_are_read_in_rgb(llava: ImageTextToText) -> None:
    grey = Image.new("L", (32, 32), 90)
    rgb, other = answers(llava, [Question("a", TEXTS[0], (Picture("rgb", lambda: grey.convert("RGB")),)),
                                 Question("a", TEXTS[0], (Picture("grey", lambda: grey),))])  # fmt: skip
    assert rgb == other


# --- likelihoods ------------------------------------------------------------------------------------------------------


def requests() -> list[tuple[Question, str]]:
    return [(q, after) for q in questions() for after in (" yes", " two green stars above a heart")]


def scored(model: ImageTextToText, asked: Sequence[tuple[Question, str]]) -> list[TextLikelihood | Failure]:
    return list(model.log_likelihood([question for question, _ in asked], [text for _, text in asked]))


def test_likelihoods_equal_recomputing_everything(model: ImageTextToText) -> None:
    found = scored(model, requests())
    assert_close(found, [plain_likelihood(model, q, model._tokens(after)) for q, after in requests()])
    assert len({each.total for each in found}) == len(found)


def test_a_likelihood_depends_on_its_question_alone(model: ImageTextToText, monkeypatch: pytest.MonkeyPatch) -> None:
    together = scored(model, requests())
    assert_close([scored(model, [request])[0] for request in requests()], together)
    monkeypatch.setattr(model, "shares", False)
    assert_close(scored(model, requests()[::-1])[::-1], together)


def test_greedy_says_whether_it_is_the_answer(model: ImageTextToText) -> None:
    question = Question("a", TEXTS[0], (picture(0),))
    picked = Picked(lambda step, logits, rows: logits.argmax(dim=-1), LENGTH)
    row = model._row(model.prompts.prompt(question), question.pictures)
    model._generate(model._inputs([row], model._images([row])), picked, LENGTH, None)
    (tokens,) = picked.tokens()
    for said in (tokens, [*tokens[:-1], tokens[-1] ^ 1]):
        told = Told([said], torch.device("cpu"))
        model._generate(model._inputs([row], model._images([row])), Picked(told, LENGTH), LENGTH, None)
        assert told.likelihoods()[0].greedy == (said == tokens)


def test_end_tokens_among_what_is_weighed_are_tokens(llava: ImageTextToText) -> None:
    end = llava.tokenizer.eos_token
    question = Question("a", TEXTS[0], (picture(0),))
    tokens = [*llava._tokens(" yes"), tiny_hf.END, *llava._tokens(" no")]
    assert llava._tokens(f" yes{end} no") == tokens
    assert_close(scored(llava, [(question, f" yes{end} no")]), [plain_likelihood(llava, question, tokens)])


def test_white_space_at_the_end_of_a_prompt_is_the_continuations(model: ImageTextToText) -> None:
    for shown in ((), (picture(0),)):
        left, right = scored(
            model,
            [
                (Question("a", "Is there a ", shown, template=False), "circle"),
                (Question("a", "Is there a", shown, template=False), " circle"),
            ],
        )
        assert_close([left], [right])


def test_nothing_is_certain(model: ImageTextToText) -> None:
    empty = [(Question("a", TEXTS[0], (picture(0),)), ""), (Question("b", "", template=False), "")]
    assert scored(model, empty) == [TextLikelihood(0.0, 0, True)] * 2


def test_a_long_prompt_loses_its_beginning_and_a_long_continuation_is_cut(
    llava: ImageTextToText, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llava, "positions", 8)
    prompt, after = llava._tokens(TEXTS[2]), llava._tokens(f" {TEXTS[2]}")
    assert len(prompt) == len(after) == 12

    def part(before: Sequence[int], predicted: Sequence[int]) -> TextLikelihood:
        ids = torch.tensor([[*before, *predicted]])
        logits = llava.model(input_ids=ids).logits[0, len(before) - 1 : -1]
        logs = logits.log_softmax(dim=-1)
        total = sum(logs[step, token].item() for step, token in enumerate(predicted))
        return TextLikelihood(total, len(predicted), logits.argmax(dim=-1).tolist() == list(predicted))

    question = Question("a", TEXTS[2], template=False)
    yes = llava._tokens(" yes")
    assert_close(scored(llava, [(question, " yes")]), [part(prompt[-8:], yes)])
    (long,) = scored(llava, [(question, f" {TEXTS[2]}")])
    parts = [part(prompt[-1:], after[:8]), part(after[3:8], after[8:])]  # full windows: 1 + 8 and 5 + 4 tokens
    totals, counts, greedy = zip(*parts, strict=True)
    assert_close([long], [TextLikelihood(sum(totals), sum(counts), all(greedy))])

    shown = Question("b", TEXTS[2], (picture(0),), template=False)
    (failed,) = scored(llava, [(shown, " yes")])
    assert failed == Failure("17 tokens are too many for a model of 8 positions")


def test_an_empty_prompt_is_begun_with_the_start_token(llava: ImageTextToText) -> None:
    yes = llava._tokens(" yes")
    logs = llava.model(input_ids=torch.tensor([[tiny_hf.END]])).logits[0, -1].log_softmax(dim=-1)
    (found,) = scored(llava, [(Question("a", "", template=False), " yes")])
    assert found.total == pytest.approx(logs[yes[0]].item(), abs=1e-5)


def test_what_cannot_be_scored_fails_alone(model: ImageTextToText) -> None:
    good = Question("a", TEXTS[0], (picture(0),))
    asked = [(good, " yes"), (Question("b", TEXTS[0], (Picture("broken", broken),)), " yes"), (good, " no")]
    found = scored(model, asked)
    assert found[1] == Failure("broken: truncated file")
    assert_close([found[0], found[2]], scored(model, asked[::2]))
    with pytest.raises(ValueError, match="1 questions, but 0 continuations"):
        model.log_likelihood([good], [])


# --- what it says of itself -------------------------------------------------------------------------------------------


def test_it_is_what_it_says(model: ImageTextToText, folders: dict[str, Path]) -> None:
    assert isinstance(model, Answers)
    assert isinstance(model, ScoresText)
    assert isinstance(model, Described)
    assert not isinstance(model, Draws)
    told = model.describe()
    kind = model.model.config.model_type
    assert told["name"] == told["folder"] == str(folders[kind])
    assert (told["family"], told["device"], told["dtype"]) == ("hf", "cpu", "float32")
    assert told["class"].endswith("ForConditionalGeneration")
    assert len(told["weights"]["model.safetensors"]["sha256"]) == 64
    assert {"config.json", "tokenizer.json"} <= set(told["files"])
    assert told["chat_template"]["of"] == ("text and separator" if kind == "chameleon" else "processor")
    assert told["unused_weights"] == 0
    assert told["remote_code"] is False
    assert told["versions"]["transformers"]
