"""LlamaGen as gapbench sees it: results depend on the item and its seed, not on batch, order, padding or caching."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_llamagen import WORDS, write_checkpoint
from torch import Tensor

from gapbench.models import zoo
from gapbench.models.base import Answers, Described, Draws, ScoresText
from gapbench.models.llamagen.captions import cleaned, without_markup
from gapbench.models.llamagen.classes import Classes, imagenet_names
from gapbench.models.llamagen.config import GptConfig
from gapbench.models.llamagen.gpt import LabelEmbedder
from gapbench.models.llamagen.model import LlamaGen
from gapbench.models.llamagen.sampling import ItemChoice, Sampler, code_probs
from gapbench.models.unified.sampling import seed_of
from gapbench.records import Failure, InputError, Prompt, Sampling

TEXTS = ("a red circle", "two green stars and a blue heart", "a photo of a cross", "an orange square above a heart")
PROMPTS = {"t2i": TEXTS, "c2i": ("0", "3", " 6 ", "5")}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LlamaGen]:
    folder = tmp_path_factory.mktemp("tiny")
    return {kind: zoo.load(str(write_checkpoint(folder / kind, kind)), "cpu") for kind in PROMPTS}


@pytest.fixture(params=list(PROMPTS))
def model(models: dict[str, LlamaGen], request: pytest.FixtureRequest) -> LlamaGen:
    return models[request.param]


@pytest.fixture
def captions(models: dict[str, LlamaGen]) -> LlamaGen:
    return models["t2i"]


def prompts(model: LlamaGen) -> list[Prompt]:
    return [Prompt(str(i), PROMPTS[model.kind][i % 4], seed=i // 4) for i in range(8)]


def codes_of(model: LlamaGen, some: list[Prompt], sampling: Sampling) -> list[list[int]]:
    return [codes.tolist() for codes in model.draw_codes(some, sampling)]


def noise(seed: int) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (40, 56, 3), generator=generator, dtype=torch.uint8).numpy())


@torch.inference_mode()
def whole_logits(model: LlamaGen, prompt: str, codes: list[int], given: bool = True) -> Tensor:
    """(n+1,V): logits after a prompt and n codes, all slots in place, nothing cached."""
    gpt, conditions = model.gpt, model.parts.conditions
    if model.kind == "c2i":
        embedder = gpt.cls_embedding.embedding_table
        slots = embedder.weight[int(prompt) if given else -1][None]
        visible = torch.ones(1, dtype=torch.bool)
    else:
        ids = conditions.tokenizer.encode(cleaned(prompt)).ids
        count, mask = len(ids), torch.arange(12) < len(ids)
        padded = torch.tensor([[*ids, *[0] * (12 - count)]])
        features = conditions.t5(input_ids=padded, attention_mask=mask[None].long()).last_hidden_state[0]
        features = torch.cat([features[count:] * 0, features[:count]])
        visible = mask.flip(0)
        slots = gpt.cls_embedding.cap_proj(features if given else gpt.cls_embedding.uncond_embedding)
    inputs = torch.cat([slots, gpt.tok_embeddings(torch.tensor(codes, dtype=torch.int64))])
    seen = torch.ones(len(inputs), len(inputs), dtype=torch.bool).tril()
    seen[:, : len(visible)] &= visible
    hidden = gpt.hidden(inputs[None], (seen | torch.eye(len(inputs), dtype=torch.bool))[None, None], 0)
    return gpt.logits(hidden[0, len(slots) - 1 :])


def test_it_keeps_the_protocols(model: LlamaGen) -> None:
    assert isinstance(model, Draws)
    assert isinstance(model, Described)
    assert not isinstance(model, Answers | ScoresText)
    told = model.describe()
    on = {"t2i": "captions", "c2i": "classes"}[model.kind]
    assert (told["family"], told["conditioned_on"], told["image_tokens"], told["resolution"]) == ("llamagen", on, 9, 24)
    encoder = {"text_encoder/model.safetensors"} if model.kind == "t2i" else set()
    assert set(told["weights"]) == {"language_model", "image_tokenizer"} | encoder


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(guidance=1.0), Sampling(temperature=0.0)])
def test_a_drawing_depends_on_its_prompt_and_seed_alone(
    model: LlamaGen, monkeypatch: pytest.MonkeyPatch, sampling: Sampling
) -> None:
    some = prompts(model)
    together = codes_of(model, some, sampling)
    assert len(set(map(str, together))) == (4 if sampling.temperature == 0 else 8)
    assert together == [codes_of(model, [prompt], sampling)[0] for prompt in some]
    assert together == codes_of(model, some[::-1], sampling)[::-1]
    monkeypatch.setattr(model, "images_per_batch", 3)
    assert together == codes_of(model, some, sampling)


def test_a_drawing_is_what_recomputing_everything_gives(model: LlamaGen) -> None:
    for prompt in PROMPTS[model.kind][:2]:
        choose, codes = ItemChoice([seed_of(prompt, 5)], 9, torch.device("cpu")), []
        how = model.settings(Sampling())
        for position in range(9):
            c, u = (whole_logits(model, prompt, codes, given)[-1] for given in (True, False))
            codes += choose(position, code_probs((u + how.guidance * (c - u))[None], how)).tolist()
        assert codes_of(model, [Prompt("a", prompt, 5)], Sampling()) == [codes]


def test_guidance_of_some_steps(model: LlamaGen, monkeypatch: pytest.MonkeyPatch) -> None:
    some = prompts(model)[:4]

    def drawn(guidance: float, interval: int) -> list[list[int]]:
        how = Sampler(guidance, top_k=20, cfg_interval=interval)
        monkeypatch.setattr(model, "settings", lambda sampling: how)
        return codes_of(model, some, Sampling())

    assert drawn(5.0, 7) == drawn(5.0, -1) != drawn(5.0, 3)
    assert [codes[:5] for codes in drawn(5.0, 3)] == [codes[:5] for codes in drawn(5.0, -1)]
    assert [codes[0] for codes in drawn(5.0, -1)] != [codes[0] for codes in drawn(1.0, -1)]
    assert drawn(0.0, -1) == drawn(1.0, -1)


def test_a_prompt_is_computed_once_for_all_its_drawings(captions: LlamaGen, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[tuple[int, ...]] = []
    hidden, features = captions.gpt.hidden, captions.parts.conditions.features

    def counted(inputs: Tensor, *others: object) -> Tensor:
        rows.append(tuple(inputs.shape[:2]))
        return hidden(inputs, *others)

    def read(some: list[str]) -> tuple[Tensor, Tensor]:
        rows.append((len(some),))
        return features(some)

    monkeypatch.setattr(captions.gpt, "hidden", counted)
    monkeypatch.setattr(captions.parts.conditions, "features", read)
    list(captions.draw_codes([Prompt(str(seed), TEXTS[seed % 2], seed) for seed in range(6)], Sampling()))
    # Two captions, of which the longer takes 8 slots with its end; with and without; then six images' codes, twice.
    assert rows == [(2,), (4, 8), *[(12, 1)] * 8]


def test_drawings_are_the_pictures_of_their_codes(model: LlamaGen) -> None:
    some = prompts(model)[:3]
    for one, other in zip(
        model.draw(some, Sampling()), model.decode(list(model.draw_codes(some, Sampling()))), strict=True
    ):
        assert (one.size, one.mode) == ((24, 24), "RGB")
        difference = torch.tensor(list(one.tobytes())).sub(torch.tensor(list(other.tobytes()))).abs()
        assert difference.max() <= 1  # a batch of another size rounds otherwise
    with pytest.raises(ValueError, match="codes must lie in 0"):
        next(model.decode([torch.full((9,), 40)]))
    with pytest.raises(ValueError, match="no batch of 9 codes"):
        next(model.decode([torch.zeros(8, dtype=torch.int64)]))


def test_pictures_become_codes(model: LlamaGen) -> None:
    pictures = [noise(seed) for seed in range(18)]
    together = list(model.encode(pictures))
    assert {(codes.shape, codes.dtype) for codes in together} == {((9,), torch.int64)}
    assert len({tuple(codes.tolist()) for codes in together}) > 9
    assert all(torch.equal(next(model.encode([one])), codes) for one, codes in zip(pictures, together, strict=True))
    grey = noise(0).convert("L").resize((24, 30))
    assert next(model.encode([grey])).shape == (9,)


def test_settings(models: dict[str, LlamaGen]) -> None:
    assert models["t2i"].settings(Sampling()) == Sampler(7.5, 1.0, 1000, 1.0, -1)
    assert models["c2i"].settings(Sampling()) == Sampler(4.0, 1.0, 2000, 1.0, -1)
    assert models["t2i"].settings(Sampling(guidance=1.5, temperature=0.5)) == Sampler(1.5, 0.5, 1000)
    with pytest.raises(InputError, match=r"--steps 20: .* draws code after code"):
        models["t2i"].settings(Sampling(steps=20))
    for wrong in ({"guidance": -1.0}, {"temperature": -1.0}, {"top_k": -1}, {"cfg_interval": -2}):
        with pytest.raises(ValueError, match="at least 0"):
            Sampler(**{"guidance": 1.0, **wrong})
    with pytest.raises(ValueError, match="top_p must be"):
        Sampler(1.0, top_p=0.0)


def test_what_top_k_and_top_p_leave() -> None:
    logits = torch.tensor([[0.5, 0.2, 0.2, 0.06, 0.04]]).log()

    def left(top_k: int, top_p: float, temperature: float = 1.0) -> list[float]:
        return code_probs(logits, Sampler(1.0, temperature, top_k, top_p))[0].tolist()

    assert left(0, 1.0) == pytest.approx([0.5, 0.2, 0.2, 0.06, 0.04])
    assert left(2, 1.0) == pytest.approx([5 / 9, 2 / 9, 2 / 9, 0, 0])  # ties with the last stay
    assert left(900, 0.89) == pytest.approx([5 / 9, 2 / 9, 2 / 9, 0, 0])  # the one that crosses it stays
    assert left(0, 0.1) == [1, 0, 0, 0, 0]
    assert left(3, 0.55) == [1, 0, 0, 0, 0]  # of what top-k has left, 5 / 9
    assert left(1, 1.0, 9.0) == left(0, 1.0, 0.0) == [1, 0, 0, 0, 0]


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=30, unique=True),
    st.integers(0, 40),
    st.floats(0.01, 1.0),
    st.floats(0.1, 5.0),
)
def test_top_k_and_top_p_keep_the_likeliest(values: list[float], top_k: int, top_p: float, temperature: float) -> None:
    logits = torch.tensor([values])
    probs = code_probs(logits, Sampler(1.0, temperature, top_k, top_p))[0]
    assert probs.sum().item() == pytest.approx(1.0, abs=1e-5)
    kept = (probs > 0).nonzero().flatten().tolist()
    assert logits[0].argmax().item() in kept
    left = logits[0].topk(min(top_k or len(values), len(values))).indices
    assert set(kept) <= set(left.tolist())
    whole = (logits[0, left] / temperature).softmax(0)
    if len(kept) > 1:  # all but the last one kept do not exceed top_p
        assert whole[: len(kept) - 1].sum().item() <= top_p + 1e-5
    if len(kept) < len(left) and whole[len(kept)] > 1e-30:
        assert whole[: len(kept)].sum().item() > top_p - 1e-5


def test_prompts_that_cannot_be_drawn_are_failures_in_their_place(models: dict[str, LlamaGen]) -> None:
    def drawn(kind: str, *texts: str) -> list[str | None]:
        some = [Prompt(str(number), text, 0) for number, text in enumerate(texts)]
        found = list(models[kind].draw(some, Sampling()))
        return [each.reason if isinstance(each, Failure) else None for each in found]

    assert drawn("t2i", " ", "a star", "", "(&)", "日本") == [
        "the prompt is empty",
        None,
        "the prompt is empty",
        None,
        None,
    ]
    found = drawn("c2i", "a\nstar", "2", "7", "-1", "", "9" * 99, "²")
    assert found[0] == '"a star" is no class of ImageNet, and only classes are drawn: give a number from 0 to 6'
    assert [reason is None for reason in found] == [False, True, False, False, False, False, False]
    assert found[4] == "the prompt is empty"
    assert f'"{"9" * 57}..."' in found[5]


def test_classes_by_name() -> None:
    names = imagenet_names()
    assert (len(names), names[0], names[207], names[360]) == (1000, "tench", "golden retriever", "otter")
    classes = Classes(LabelEmbedder(GptConfig("c2i", 1, 1, 4, 1)))
    for text, wanted in ((" golden retriever", [207]), ("Golden Retriever", [207]), ("0207", [207]), ("999", [999])):
        assert (classes.numbers(text), classes.refusal(text)) == (wanted, None)
    # A dog and a garment: only these two differ in case alone.
    assert [classes.numbers(text) for text in ("Cardigan", "cardigan", "CARDIGAN")] == [[264], [474], [264, 474]]
    assert classes.refusal("CARDIGAN") == '"CARDIGAN" names several classes: 264, 474; give the number of one'
    assert classes.refusal("retriever").endswith('give a number from 0 to 999 or a name as "golden retriever"')
    assert all(classes.refusal(name) is None for name in names)
    condition = classes.conditions(["otter", "", "360"])
    table = classes.embedder.embedding_table.weight
    assert torch.equal(condition.given[:, 0], table[[360, 1000, 360]])
    assert torch.equal(condition.without[:, 0], table[[1000] * 3])


def test_features_are_the_whole_rows_and_long_captions_are_cut(captions: LlamaGen) -> None:
    conditions = captions.parts.conditions
    texts = ["a red circle", "two green stars", "a", " ".join(WORDS[:15]), ""]
    features, mask = conditions.features(texts)
    assert mask.sum(dim=1).tolist() == [4, 4, 2, 12, 1]  # with the end
    for row, text in enumerate(texts):
        alone, _ = conditions.features([text])
        torch.testing.assert_close(features[row, mask[row]], alone[0], atol=1e-5, rtol=0)
    short = conditions.conditions(["A (red) CIRCLE"])  # cleaned
    assert short.visible.tolist() == [[True] * 4]
    torch.testing.assert_close(short.given[0], captions.gpt.cls_embedding.cap_proj(features[0, :4]), atol=1e-5, rtol=0)
    both = conditions.conditions(["a", ""])
    assert both.visible.tolist() == [[False] * 10 + [True] * 2, [True] * 12]
    assert torch.equal(both.given[1], both.without[1])
    assert both.given[0, :10].abs().sum() == 0


def test_likelihoods_are_what_recomputing_everything_gives(model: LlamaGen) -> None:
    texts = list(PROMPTS[model.kind])
    codes = torch.stack(list(model.draw_codes([Prompt("a", text, 3) for text in texts], Sampling())))
    for guidance in (None, 1.0, 0.0, 4.0):
        wanted = []
        for text, row in zip(texts, codes.tolist(), strict=True):
            c, u = (whole_logits(model, text, row[:-1], given) for given in (True, False))
            logits = c if not guidance or guidance <= 1 else u + guidance * (c - u)
            wanted.append(logits.log_softmax(-1)[range(9), row].sum())
        found = model.image_log_likelihood(texts, codes, guidance)
        assert (found.shape, found.dtype) == ((4,), torch.float32)
        torch.testing.assert_close(found, torch.stack(wanted), atol=1e-3, rtol=0)
    alone = torch.cat([model.image_log_likelihood([text], codes[i : i + 1]) for i, text in enumerate(texts)])
    torch.testing.assert_close(alone, model.image_log_likelihood(texts, codes), atol=1e-4, rtol=0)


def test_an_empty_prompt_is_the_unconditional_one(model: LlamaGen) -> None:
    text, codes = PROMPTS[model.kind][0], torch.arange(9)[None]
    condition = model.parts.conditions.conditions([""])
    with torch.no_grad():
        logits = model.gpt.image_logits(condition.without, torch.ones_like(condition.visible), codes)
    wanted = logits[0].log_softmax(-1)[range(9), range(9)].sum()
    found = model.image_log_likelihood(["", text, " "], codes.repeat(3, 1))
    assert found[0].item() == pytest.approx(wanted.item(), abs=1e-4) == found[2].item()
    assert found[1].item() != pytest.approx(wanted.item(), abs=1e-2)
    guided = model.image_log_likelihood([""], codes, 5.0)
    assert guided.item() == pytest.approx(wanted.item(), abs=1e-3)


def test_likelihoods_have_gradients_where_training_needs_them(model: LlamaGen) -> None:
    texts = list(PROMPTS[model.kind])[:2]
    codes = torch.stack(list(model.draw_codes([Prompt("a", text, 0) for text in texts], Sampling())))
    model.image_log_likelihood(texts, codes, 3.0).sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in model.gpt.parameters())
    if model.kind == "t2i":
        assert all(value.grad is None for value in model.parts.conditions.t5.parameters())
    model.gpt.zero_grad(set_to_none=True)


def test_the_gradient_is_the_likelihoods_slope(captions: LlamaGen) -> None:
    weight, codes = captions.gpt.output.weight, torch.arange(9)[None]
    captions.image_log_likelihood(["a red star"], codes, 3.0).sum().backward()
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    slope = (weight.grad * direction).sum().item()
    captions.gpt.zero_grad(set_to_none=True)

    def moved(step: float) -> float:
        with torch.no_grad():
            weight.add_(direction, alpha=step)
            found = captions.image_log_likelihood(["a red star"], codes, 3.0).item()
            weight.sub_(direction, alpha=step)
        return found

    assert (moved(1e-3) - moved(-1e-3)) / 2e-3 == pytest.approx(slope, rel=1e-2)


def test_wrong_codes_and_prompts(models: dict[str, LlamaGen]) -> None:
    codes = torch.zeros(2, 9, dtype=torch.int64)
    for wrong, shown in (
        (codes[:, :8], "no batch of 9 codes"),
        (codes + 40, "must lie in 0..39"),
        (codes[:1], "of 1 im"),
    ):
        with pytest.raises(ValueError, match=shown):
            models["t2i"].image_log_likelihood(TEXTS[:2], wrong)
    with pytest.raises(InputError, match='"a star" is no class of ImageNet'):
        models["c2i"].image_log_likelihood(["1", "a star"], codes)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a <b>bold</b> cat<br>here", "a bold cathere"),
        ("x<script>var a</script>y<rp>(</rp>z", "xyz"),
        ("x<template>a<b>c</template>y", "xy"),
        ("x</p>y<!-- no -->z<?pi?>", "xyz"),
        ("a &lt; b &eacute;&#233;&#xe9;&#150; &ampfoo &nothing;", "a < b ééé\u2013 &ampfoo &nothing"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("a <![CDATA[b]]> c", "a b c"),
    ],
)
def test_markup(text: str, wanted: str) -> None:
    assert without_markup(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A cat%20and+a dog", "a cat and a dog"),
        ("visit www.example.com/x now", "visit now"),
        ("a-b_c-d-e", "a b c d e"),
        ("a-b_c", "a-b_c"),
        ("jc6640 jc6640vc 6640vc231 kept", "kept"),
        ("free download of worldwide free shipping", "of"),
        ("3x4 and 3\u04454 and 10 x 20", "and and 10 x 20"),
        ("192.168.0.1 server", "server"),
        ("-a:", "a"),
    ],
)
def test_cleaned(text: str, wanted: str) -> None:
    assert cleaned(text) == wanted


@given(st.text(max_size=40), st.sampled_from([str.upper, lambda text: f"  {text}\n", lambda text: f"{text}日本"]))
def test_cleaning_takes_any_text(text: str, change: Callable[[str], str]) -> None:
    found = cleaned(change(text))
    assert found == found.strip()
    assert "  " not in found
