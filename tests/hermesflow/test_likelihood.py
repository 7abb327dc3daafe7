"""Log-likelihoods of pairs: the released code's numbers, and rows one at a time; and what that code gets wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from preference_pairs import QUESTION, caption, drawing, pair, tokens
from safetensors.torch import load_file
from torch import Tensor

from gapbench.models import zoo
from gapbench.models.show_o import checkpoint
from gapbench.models.show_o.layout import Layout, question_text, visible_branches, visible_drawing
from gapbench.models.show_o.model import Drawn, ShowO
from gapbench.models.show_o.sampling import MASKED, MaskGit, SharedNoise, Trace, noise_scales, sample_codes
from gapbench.models.unified.backbone import Backbone
from gapbench.records import InputError, Picture, Prompt, Question, Sampling
from hermesflow.learners import copied
from hermesflow.likelihood import (
    Discarded,
    Likelihood,
    Likelihoods,
    Row,
    Target,
    caption_log_likelihood,
    caption_row,
    drawing_row,
    image_log_likelihood,
    log_likelihood,
)
from hermesflow.pair_dpo import Margins, PairDPO, pair_dpo
from hermesflow.records import ImageCandidate, Pair, Preference
from hermesflow.views import Masks, States, Views

# --- The released code's numbers --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden" / "showo"


@pytest.fixture(scope="module")
def vectors(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "pair_dpo.json").read_text())


@pytest.fixture(scope="module")
def layout(golden: Path) -> Layout:
    config = checkpoint.ShowOConfig.from_file(golden / "config.json")
    return config.layout(json.loads((golden / "tokens.json").read_text())["eot"])


@pytest.fixture
def backbone(golden: Path) -> Callable[[str], Backbone]:
    def load(name: str) -> Backbone:
        file = golden / "config.json"
        phi, _ = checkpoint.build_transformer(checkpoint.ShowOConfig.from_file(file), file)
        checkpoint.fill({"": phi}, golden / f"{name}.safetensors", torch.device("cpu"), torch.float32)
        phi.model.rotary_emb = type(phi.model.rotary_emb)(config=phi.config)
        return Backbone(phi.eval())

    return load


def golden_captions(layout: Layout, golden: dict[str, Any]) -> list[Row]:
    """In the released trainer's format, without [sot]."""
    kinds = ("win_caption_ids", "lose_caption_ids")
    return [
        caption_row(layout, p["mmu_image_codes"], p["question_ids"], [(p[kind][:-1], True) for kind in kinds])
        for p in golden["pairs"]
    ]


def golden_masks(golden: dict[str, Any]) -> Tensor:
    masked_BKN = torch.zeros((2, 1, 16), dtype=torch.bool)
    for number, p in enumerate(golden["pairs"]):
        masked_BKN[number, 0, p["masked_positions"]] = True
    return masked_BKN


def both(golden: dict[str, Any], whose: str, kind: str) -> Tensor:
    found = golden[f"{whose}_log_probs"]
    return torch.tensor([found[f"{kind}_win"], found[f"{kind}_lose"]]).T


def test_golden_pair_dpo(
    golden: Path, vectors: dict[str, Any], layout: Layout, backbone: Callable[[str], Backbone]
) -> None:
    prompts = [p["prompt_ids"] for p in vectors["pairs"]]
    images = [(p["win_image_codes"], p["lose_image_codes"]) for p in vectors["pairs"]]
    sides: dict[str, list[Tensor]] = {"txt": [], "img": []}
    policy, reference = backbone("showo_tiny"), backbone("showo_tiny_ref")
    for whose, network in (("policy", policy), ("reference", reference)):
        with torch.set_grad_enabled(whose == "policy"):
            sides["txt"].append(caption_log_likelihood(network, golden_captions(layout, vectors)))
            views = [Views.of_masks(masked_KN) for masked_KN in golden_masks(vectors)]
            sides["img"].append(image_log_likelihood(network, layout, prompts, images, views, full_vocabulary=True))
        for kind, found in sides.items():
            assert torch.allclose(found[-1], both(vectors, whose, kind), rtol=2e-6, atol=1e-5)

    there, one = torch.tensor([True, True]), torch.ones(2)
    margins = {kind: Margins(*found, torch.ones(2, 2), there, one) for kind, found in sides.items()}
    loss = pair_dpo(margins["txt"], margins["img"], PairDPO(beta=vectors["beta"])).total
    assert loss.item() == pytest.approx(vectors["loss"], abs=1e-4)

    loss.backward()
    gradients = {f"showo.{name}": value.grad for name, value in policy.phi.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    for name, norm in vectors["grad_norms"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-4)
    whole = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert whole.item() == pytest.approx(vectors["grad_norm_all_parameters"], rel=1e-4)
    tensors = load_file(golden / "pair_dpo.safetensors")
    for name in vectors["grads_in_full"]:
        wanted = tensors[f"grad.{name}"]
        assert (gradients[name] - wanted).norm() <= 1e-4 * wanted.norm()


def masks_of(row: Row) -> tuple[Tensor, Tensor]:
    """Visibility of a row laid out by hand, and the positions of its winner's whole sequence."""
    start, win, lose = len(row.start), len(row.ends[0]), len(row.ends[1])
    segment = torch.tensor([[0] * start + [1] * win + [2] * lose + [-1] * 2])
    picture = [True] * row.picture + [False] * (start - row.picture)
    image = torch.tensor([picture + [row.drawn] * (win + lose) + [False] * 2])
    return visible_branches(segment, image)[0], torch.arange(start + win)


def test_each_end_sees_what_its_own_row_would(golden: Path, vectors: dict[str, Any], layout: Layout) -> None:
    tensors = load_file(golden / "pair_dpo.safetensors")
    for number, p in enumerate(vectors["pairs"]):
        row = golden_captions(layout, vectors)[number]
        visible, own = masks_of(row)
        wanted = tensors["win_mmu_visible"][number, : len(own), : len(own)]
        assert torch.equal(visible[own][:, own], wanted)
        assert row.start + row.ends[0] == tensors["win_mmu_ids"][number, : len(own)].tolist()

        masked = golden_masks(vectors)[number, 0].expand(2, -1)
        images = (p["win_image_codes"], p["lose_image_codes"])
        row = drawing_row(layout, p["prompt_ids"], images, masked, full_vocabulary=True)
        visible, own = masks_of(row)
        pads = tensors["win_t2i_visible"].shape[1] - len(own)
        assert torch.equal(visible[own][:, own], tensors["win_t2i_visible"][number, pads:, pads:])
        assert row.start + row.ends[0] == tensors["win_t2i_ids"][number, pads:].tolist()
        end = slice(len(row.start), len(own) + len(row.ends[1]))
        assert not visible[: len(row.start), end].any(), "the beginning sees no end"
        assert not visible[own[-1], len(own) :].any(), "nor the winner's the loser's"
        assert visible.any(dim=1).all(), "no softmax is empty, padding's included"


# --- A model and pairs ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> ShowO:
    return zoo.load(str(tiny_checkpoint), "cpu")


@pytest.fixture(scope="module")
def some(model: ShowO) -> list[Pair]:
    """Captions and drawings of several lengths; the second lacks drawings, the third captions."""
    pairs = [pair(model, number) for number in range(4)]
    pairs[1] = replace(pairs[1], images=None)
    pairs[2] = replace(pairs[2], captions=None)
    return pairs


def likelihoods(model: ShowO, **how: Any) -> Likelihoods:
    return Likelihoods(model, Masks(**{"condition_dropout": 0.0, "count": 3, **how}), QUESTION)


def test_batches_do_not_matter(model: ShowO, some: list[Pair]) -> None:
    scored = likelihoods(model, condition_dropout=0.5)
    visits = [0, 1, 0, 5]
    captions, images = scored.captions(some), scored.images(some, visits)
    assert captions.present_B.tolist() == [True, True, False, True]
    assert images.present_B.tolist() == [True, False, True, True]
    for number, (one, visit) in enumerate(zip(some, visits, strict=True)):
        for whole, alone in ((captions, scored.captions([one])), (images, scored.images([one], [visit]))):
            assert torch.allclose(whole.log_B2[number], alone.log_B2[0], rtol=1e-5, atol=1e-4)
            assert torch.equal(whole.tokens_B2[number], alone.tokens_B2[0])
    assert captions.log_B2[2].tolist() == images.log_B2[1].tolist() == [0.0, 0.0]
    assert captions.tokens_B2[2].tolist() == [1.0, 1.0]
    assert captions.log_B2.dtype == torch.float32


def test_captions_as_inference_scores_them(model: ShowO) -> None:
    """gapbench's own likelihood of the same text about the same picture; without the end token, which it leaves out."""
    image = pair(model, 0).codes
    text = ("a red circle", "two green stars above a blue heart")
    captions = Preference(*(replace(caption(model, each), ended=False) for each in text))
    found = likelihoods(model).captions([replace(pair(model, 0), captions=captions)])

    shown = Picture("codes", lambda: None)
    model._codes["codes"] = torch.tensor(image)
    asked = [Question(str(number), QUESTION, (shown,)) for number in range(2)]
    wanted = list(model.log_likelihood(asked, [f" {each}" for each in text]))
    assert found.log_B2[0].tolist() == pytest.approx([each.total for each in wanted], rel=1e-5)
    assert found.tokens_B2[0].tolist() == [each.tokens for each in wanted]


def guided_logits(model: ShowO, text: str, codes: Sequence[int], hidden_N: Tensor, guidance: float) -> Tensor:
    """(N,C) of a drawing, some of whose codes are hidden."""
    layout = model.layout
    ids = torch.where(hidden_N, layout.mask, torch.tensor(codes) + layout.image_offset).tolist()
    columns = slice(layout.image_offset, layout.image_offset + layout.codebook_size)

    def logits(prompt: list[int]) -> Tensor:
        pads = layout.max_text + 1 - len(layout.prompt_block(prompt))
        row = torch.tensor([layout.drawing_row(prompt, ids)])
        visible = visible_drawing(torch.tensor([pads]), layout.max_text + 1, row.shape[1])
        positions = (torch.arange(row.shape[1]) - pads).clamp(min=0)[None]
        hidden = model.backbone.hidden(row, visible[:, None], positions)[0, layout.max_text + 2 : -1]
        return model.backbone.logits(hidden, columns)

    return (1 + guidance) * logits(tokens(model, text)) - guidance * logits([])


@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_drawings_one_row_at_a_time(model: ShowO, guidance: float) -> None:
    """Full rows under the drawing mask, log-probabilities among image codes at hidden places, mean over the masks; with
    guidance, of the logits that are drawn from.
    """
    one = pair(model, 3)
    scored = likelihoods(model)
    scored.guidance = guidance
    found = scored.images([one], [2])
    masked_KN = scored.views.draw(one.id, 2, model.layout.image_tokens)

    for side, image in enumerate((one.images.win, one.images.lose)):
        total = 0.0
        for masked in masked_KN:
            logs = guided_logits(model, one.caption, image.codes, masked, guidance).log_softmax(dim=-1)
            total += sum(logs[at, image.codes[at]].item() for at in masked.nonzero().flatten().tolist())
        assert found.log_B2[0, side].item() == pytest.approx(total / len(masked_KN), rel=1e-5)
    assert found.tokens_B2[0].tolist() == pytest.approx([masked_KN.sum().item() / len(masked_KN)] * 2)


def drawn(model: ShowO, number: int) -> Pair:
    """A pair whose two drawings the model has drawn itself."""
    one = pair(model, number)
    made = model.draw_traced([Prompt("", one.caption, seed) for seed in (1, 2)], Sampling())
    images = [
        ImageCandidate(m.codes, 0, (True,), 0.5, m.steps, m.nats, m.thresholds)
        for m in (Drawn(*(tuple(part.tolist()) for part in each)) for each in made)
    ]
    return replace(one, images=Preference(*images))


def of_states(model: ShowO, pairs: list[Pair], visits: list[int], **how: Any) -> Likelihood:
    sampled = model.settings(Sampling())
    states = States(temperature=sampled.temperature, **{"count": sampled.steps, **how})
    return Likelihoods(model, states, QUESTION, guidance=sampled.guidance).images(pairs, visits)


def test_a_drawing_is_as_likely_as_it_was_drawn(model: ShowO) -> None:
    """Over all states, guided: the sum of what each step took, as the sampler itself noted it."""
    pairs = [drawn(model, number) for number in range(3)]
    found = of_states(model, pairs, [0, 1, 2])
    for of_pair, one in zip(found.log_B2.tolist(), pairs, strict=True):
        assert of_pair == pytest.approx([-sum(one.images.win.nats), -sum(one.images.lose.nats)], rel=1e-4)
    assert found.tokens_B2.tolist() == [[model.layout.image_tokens] * 2] * 3


def test_the_gradient_knows_what_was_discarded(model: ShowO) -> None:
    """That of the chance that a code is sampled there and does not come up to what was kept, a state and a place at a
    time.
    """
    one, sampled = drawn(model, 1), model.settings(Sampling())
    noise_T = noise_scales(sampled.steps, sampled.temperature)
    trained = copied(model)
    weight = trained.network.lm_head.weight
    wanted = []
    for image in (one.images.win, one.images.lose):
        kept, discarded = [], []
        for step, threshold in enumerate((*image.thresholds, -math.inf)):
            hidden = torch.tensor(image.steps) >= step
            logs = guided_logits(trained, one.caption, image.codes, hidden, sampled.guidance).log_softmax(dim=-1)
            for at in hidden.nonzero().flatten().tolist():
                if image.steps[at] == step:
                    kept.append(logs[at, image.codes[at]])
                    continue
                below = [math.exp(-math.exp((p - threshold) / noise_T[step])) for p in logs[at].tolist()]
                discarded.append(torch.log((logs[at].exp() * torch.tensor(below)).sum()))
        assert len(discarded) > len(kept)
        wanted.append(torch.autograd.grad(sum(kept) + sum(discarded), weight)[0])
    found_2 = of_states(trained, [one], [0]).log_B2[0]
    for side, gradient in enumerate(wanted):
        torch.testing.assert_close(torch.autograd.grad(found_2[side], weight, retain_graph=True)[0], gradient)


def test_the_gradient_of_what_a_model_draws_is_zero_on_average() -> None:
    """As it is for every likelihood, of a table of logits that does not look at what is known; the codes that were kept
    do not have it by themselves.
    """
    count, steps, random = 40_000, 4, torch.Generator().manual_seed(0)
    table_NC = (1.5 * torch.randn((6, 5), generator=random)).requires_grad_()
    free_BN = torch.full((count, 6), MASKED)
    trace = Trace.of(free_BN, steps)

    def logits(codes_BN: Tensor, masked_BN: Tensor) -> Tensor:
        return table_NC.detach().expand(count, -1, -1)[masked_BN]

    codes_BN = sample_codes(logits, free_BN, MaskGit(steps, 0.0, 1.0), SharedNoise(random), trace)
    limits_T = zip(noise_scales(steps, 1.0), [*trace.threshold_BT.T, torch.full((count,), -math.inf)], strict=True)
    kept, discarded = torch.zeros(()), torch.zeros(())
    for step, (noise, threshold_B) in enumerate(limits_T):
        log_BNC = table_NC.log_softmax(dim=-1).expand(count, -1, -1)
        kept = kept + log_BNC.gather(2, codes_BN[..., None])[..., 0][trace.step_BN == step].sum() / count
        later_BN = trace.step_BN > step
        threshold_M = threshold_B[:, None].expand(-1, 6)[later_BN]
        everything = Discarded(torch.ones_like(threshold_M, dtype=torch.bool), threshold_M, threshold_M * 0 + noise)
        discarded = discarded + everything.log_likelihood(log_BNC[later_BN]).sum() / count
    biased, rest = (torch.autograd.grad(each, table_NC, retain_graph=True)[0] for each in (kept, discarded))
    assert biased.norm() > 0.5
    assert (biased + rest).norm() < 0.05


def test_few_states_are_right_on_average(model: ShowO) -> None:
    one = drawn(model, 0)
    found = of_states(model, [one] * 400, list(range(400)), count=2).log_B2
    wanted = torch.tensor([-sum(one.images.win.nats), -sum(one.images.lose.nats)])
    error = found.std(dim=0) / 400**0.5
    assert ((found.mean(dim=0) - wanted).abs() < 4 * error).all()
    assert (error < wanted.abs() * 0.05).all()


def test_drawings_of_unknown_steps_have_no_states(model: ShowO) -> None:
    with pytest.raises(InputError, match="pair item-0: does not tell the steps of its drawings; curate anew"):
        Likelihoods(model, States(), QUESTION).check([pair(model, 0)])


def test_winner_and_loser_change_places(model: ShowO, some: list[Pair]) -> None:
    def turned(one: Pair) -> Pair:
        swap = (side and Preference(side.lose, side.win) for side in (one.captions, one.images))
        return replace(one, **dict(zip(("captions", "images"), swap, strict=True)))

    scored = likelihoods(model, condition_dropout=0.5)
    other = [turned(one) for one in some]
    assert torch.allclose(scored.captions(some).log_B2, scored.captions(other).log_B2.flip(1), atol=1e-4)
    visits = range(4)
    assert torch.allclose(scored.images(some, visits).log_B2, scored.images(other, visits).log_B2.flip(1), atol=1e-4)


# --- What the released code gets wrong --------------------------------------------------------------------------------


def test_the_picture_reaches_the_captions(model: ShowO) -> None:
    """Released: the understanding side sees a blank picture."""
    one = pair(model, 0)
    other = replace(one, codes=pair(model, 1).codes)
    scored = likelihoods(model)
    assert (scored.captions([one]).log_B2 - scored.captions([other]).log_B2).abs().min() > 1e-2


def test_each_side_has_only_its_own_rows(model: ShowO) -> None:
    """Released: the likelihood of captions has that of the drawings' rows in it."""
    one, other = pair(model, 0), pair(model, 1)
    scored = likelihoods(model)
    assert torch.equal(
        scored.captions([one]).log_B2, scored.captions([replace(one, images=other.images, caption="")]).log_B2
    )
    assert torch.equal(
        scored.images([one], [0]).log_B2,
        scored.images([replace(one, captions=other.captions, codes=other.codes)], [0]).log_B2,
    )


def test_a_caption_that_was_cut_has_no_end(model: ShowO) -> None:
    """Released: it is trained to end there."""
    whole = pair(model, 0)
    cut = replace(
        whole, captions=Preference(*(replace(c, ended=False) for c in (whole.captions.win, whole.captions.lose)))
    )
    scored = likelihoods(model)
    ended, open_ = scored.captions([whole]), scored.captions([cut])
    assert (ended.tokens_B2 - open_.tokens_B2).tolist() == [[1.0, 1.0]]
    assert (ended.log_B2 < open_.log_B2).all(), "the end costs something"
    last = [target[-1] for target in scored._caption_row(whole).targets]
    assert [target.token for target in last] == [model.layout.eot] * 2


def test_captions_stand_as_they_were_sampled(model: ShowO) -> None:
    """Released: another question, no [sot], and the text tokenised anew."""
    layout, odd = model.layout, (5, 5, 9)  # tokens that no tokenizer gives for their text
    one = pair(model, 0)
    one = replace(one, captions=Preference(replace(one.captions.win, tokens=odd), one.captions.lose))
    row = likelihoods(model)._caption_row(one)
    prefix = [layout.special("mmu"), layout.soi, *(code + layout.image_offset for code in one.codes), layout.eoi]
    assert row.start == [*prefix, layout.eot, *tokens(model, question_text(QUESTION))]
    assert row.ends[0] == list(odd)
    assert row.targets[0] == [Target(-1, 5), Target(0, 5), Target(1, 9), Target(2, layout.eot)]


def test_one_condition_for_winner_and_loser(model: ShowO) -> None:
    """Released: in 18 % of pairs one of the two has lost its prompt."""
    one = pair(model, 0)
    same = replace(one, images=Preference(one.images.win, replace(one.images.win, seed=1)))
    scored = likelihoods(model, condition_dropout=0.5)
    values = []
    for visit in range(40):
        win, lose = scored.images([same], [visit]).log_B2[0].tolist()
        assert win == pytest.approx(lose, rel=1e-5)
        without = replace(same, caption="")
        values.append(win == pytest.approx(scored.images([without], [visit]).log_B2[0, 0].item(), rel=1e-6))
        assert values[-1] == scored.views.without_prompt(one.id, visit)
    assert 8 < sum(values) < 32


# --- Gradients --------------------------------------------------------------------------------------------------------


def test_gradients_reach_all_weights_and_no_text_column_from_drawings(tiny_checkpoint: Path) -> None:
    model = zoo.load(str(tiny_checkpoint), "cpu")
    model.backbone.phi.requires_grad_(True)
    scored = likelihoods(model)
    head = model.backbone.phi.lm_head.weight

    scored.images([pair(model, 0)], [0]).log_B2.sum().backward()
    offset, end = model.layout.image_offset, model.layout.mask
    assert head.grad[offset:end].abs().sum() > 0
    assert not head.grad[:offset].any()
    assert not head.grad[end:].any()
    scored.captions([pair(model, 0)]).log_B2.sum().backward()
    assert head.grad[:offset].abs().sum() > 0
    for name, value in model.backbone.phi.named_parameters():
        assert value.grad.isfinite().all(), name
        assert value.grad.any(), name


# --- Wrong input ------------------------------------------------------------------------------------------------------


def test_pairs_that_the_model_cannot_have_made(model: ShowO) -> None:
    one = pair(model, 0)
    win = one.captions.win

    def with_caption(**change: Any) -> Pair:
        return replace(one, captions=Preference(replace(win, **change), one.captions.lose))

    scored = likelihoods(model)
    scored.check([one])
    for wrong, why in [
        (replace(one, codes=(1, 2)), "pair item-0: an image of 2 codes; the model's have 9"),
        (replace(one, images=Preference(drawing([16] * 9), one.images.lose)), "image code 16; the model has 16"),
        (with_caption(tokens=(), ended=False), "pair item-0: a caption has no tokens"),
        (with_caption(tokens=(model.layout.vocabulary,)), f"token {model.layout.vocabulary} is none"),
        (with_caption(tokens=(5,) * 3000), "positions, the model has 2048"),
    ]:
        with pytest.raises(InputError, match=why):
            scored.check([one, wrong])
    clip = ShowO(replace(model.parts, clip=object()), "clip", Sampling())
    with pytest.raises(InputError, match="CLIP-ViT"):
        Likelihoods(clip, Masks(), QUESTION)


def test_a_caption_that_ends_at_once_counts_its_end(model: ShowO) -> None:
    one = pair(model, 0)
    silent = replace(one, captions=Preference(one.captions.win, replace(one.captions.lose, tokens=())))
    found = likelihoods(model).captions([silent])
    assert found.tokens_B2[0, 1] == 1
    assert found.log_B2[0, 1] < 0


def test_a_target_outside_the_columns_is_not_passed_over(model: ShowO) -> None:
    everywhere = torch.ones(2, 9, dtype=torch.bool)
    row = drawing_row(model.layout, [5], (list(range(9)), list(range(9))), everywhere, full_vocabulary=True)
    codes = slice(model.layout.image_offset, model.layout.mask)
    with pytest.raises(IndexError):
        log_likelihood(model.backbone, [row], codes)
