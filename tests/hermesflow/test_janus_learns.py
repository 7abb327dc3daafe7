"""A model that draws code after code goes through the stages as Show-o does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_janus import write_checkpoint

from gapbench.models import zoo
from gapbench.models.janus.model import Janus
from gapbench.records import InputError, Prompt, Question, Sampling
from hermesflow import recipes
from hermesflow.curate import CAPTION_QUESTION, MINIATURE, curate, read_candidates
from hermesflow.homologous import train_items
from hermesflow.learners import copied, learner
from hermesflow.preferences import Rule, choose
from hermesflow.records import CaptionCandidate, ImageCandidate, Pair, Preference
from hermesflow.train import Training, train

HOW = Training(learning_rate=1e-3, steps=2, batch=2, states=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Janus:
    return zoo.load(str(write_checkpoint(tmp_path_factory.mktemp("tiny") / "janus")), "cpu")


def pair(model: Janus, number: int) -> Pair:
    codes = torch.randint(model.codebook_size, (3, model.image_tokens), generator=torch.Generator().manual_seed(number))
    real, win, lose = codes.tolist()
    images = (ImageCandidate(tuple(each), 0, (True,), score) for each, score in ((win, 1.0), (lose, 0.0)))
    said = (CaptionCandidate("", tokens, ended, 0.5, 1, 1.0) for tokens, ended in (((5, 6, 7), True), ((8, 9), False)))
    caption = ("a red circle", "two green stars above a blue heart")[number % 2]
    return Pair(f"p{number}", f"p{number}", caption, ("object",), tuple(real), Preference(*said), Preference(*images))


def test_likelihoods_are_those_of_what_it_says_and_draws(model: Janus) -> None:
    """The model's own: of texts after the real picture, and of drawings under their guidance."""
    found, one = learner(model, HOW), pair(model, 0)
    captions, images = found.captions([one]), found.images([one], [3])
    seen = model.coded(torch.tensor(one.codes))
    alone = [
        model.caption_log_likelihood([seen], CAPTION_QUESTION, [(c.tokens, c.ended)])
        for c in (one.captions.win, one.captions.lose)
    ]
    assert captions.log_B2[0].tolist() == pytest.approx([each.item() for each in alone], rel=1e-5)
    assert captions.tokens_B2.tolist() == [[4.0, 2.0]]
    guidance = model.settings(Sampling()).guidance
    for side, image in enumerate((one.images.win, one.images.lose)):
        wanted = model.image_log_likelihood([one.caption], torch.tensor([image.codes]), guidance)
        assert images.log_B2[0, side].item() == pytest.approx(wanted.item(), rel=1e-5)
    assert guidance != 1
    assert torch.equal(images.log_B2, found.images([one], [0]).log_B2), "visits do not differ"


def test_batches_and_absent_sides(model: Janus) -> None:
    found = learner(model, HOW)
    some = [pair(model, 0), replace(pair(model, 1), images=None), replace(pair(model, 2), captions=None)]
    captions, images = found.captions(some), found.images(some, [0, 0, 0])
    assert captions.present_B.tolist() == [True, True, False]
    assert images.present_B.tolist() == [True, False, True]
    for number, one in enumerate(some):
        torch.testing.assert_close(captions.log_B2[number], found.captions([one]).log_B2[0], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(images.log_B2[number], found.images([one], [0]).log_B2[0], rtol=1e-4, atol=1e-3)


def test_what_paints_is_not_trained(model: Janus) -> None:
    network = copied(model).network
    still = {name for name, value in network.named_parameters() if not value.requires_grad}
    assert still
    assert all(name.startswith("model.vqmodel.") for name in still)
    assert {name for name, _ in network.named_parameters() if name.startswith("model.vqmodel.")} == still
    assert not any(value.requires_grad for value in model.network.parameters() if value is network)


def test_a_stage_changes_the_model_and_leaves_a_checkpoint_of_its_kind(model: Janus, tmp_path: Path) -> None:
    pairs = [pair(model, number) for number in range(4)]
    folder = train(model, model, pairs, HOW, tmp_path / "stage")
    trained = zoo.load(str(folder), "cpu")
    assert isinstance(trained, Janus)
    before, after = model.network.state_dict(), trained.network.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("model.generation_head") for name in changed)
    assert any(name.startswith("model.language_model") for name in changed)
    assert not any(name.startswith("model.vqmodel") for name in changed)
    prompts = [Prompt("", "a red circle", 1)]
    assert trained.settings(Sampling()) == model.settings(Sampling())
    assert next(trained.draw(prompts, Sampling())).size == next(model.draw(prompts, Sampling())).size


@pytest.mark.parametrize("how", [{"lora": 2}, {"gradient_checkpointing": True}])
def test_other_ways_to_train(model: Janus, tmp_path: Path, how: dict) -> None:
    if "lora" in how:
        pytest.importorskip("peft")
    pairs = [pair(model, number) for number in range(2)]
    plain = train(model, model, pairs, replace(HOW, steps=1), tmp_path / "plain")
    other = train(model, model, pairs, replace(HOW, steps=1, **how), tmp_path / "other")
    first, second = (zoo.load(str(folder), "cpu").network.state_dict() for folder in (plain, other))
    assert first.keys() == second.keys()
    base = model.network.state_dict()
    assert any(not torch.equal(base[name], second[name]) for name in base)
    if "lora" not in how:
        assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


def test_candidates_are_made_as_of_any_model(model: Janus, tmp_path: Path) -> None:
    items = train_items(3)
    how = replace(MINIATURE, images=2, caption_tokens=5, ways=((1, 1.0), (None, 1.0)))
    made = read_candidates(curate(model, items, how, tmp_path))
    assert [each.id for each in made] == [item.id for item in items]
    for each, item in zip(made, items, strict=True):
        assert len(each.codes) == model.image_tokens
        for image in each.images:
            (codes,) = model.draw_codes([Prompt("", item.caption, image.seed)], Sampling())
            assert (image.codes, image.steps, image.nats) == (tuple(codes.tolist()), (), ())
        seen = model.coded(torch.tensor(each.codes))
        for caption in each.captions:
            assert caption.tokens
        (greedy,) = model.answer([Question("", CAPTION_QUESTION, (seen,))], replace(_greedy(), max_new_tokens=5))
        assert greedy in {caption.text for caption in each.captions} | {""}
    learner(model, HOW).check(choose(made, Rule(image_threshold=0.0)).pairs)


def _greedy():
    from gapbench.records import Decoding

    return Decoding()


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"codes": (0,)}, "pair p0: an image of 1 codes; the model's have 16"),
        ({"codes": (24,) * 16}, "pair p0: image code 24; the model has 24"),
    ],
)
def test_pairs_of_another_model(model: Janus, wrong: dict, line: str) -> None:
    with pytest.raises(InputError, match=line):
        learner(model, HOW).check([replace(pair(model, 0), **wrong)])


def test_captions_that_do_not_fit(model: Janus) -> None:
    room = model.caption_room(CAPTION_QUESTION)

    def with_tokens(tokens: tuple[int, ...]) -> Pair:
        one = pair(model, 0)
        return replace(one, captions=replace(one.captions, win=replace(one.captions.win, tokens=tokens)))

    learner(model, HOW).captions([with_tokens((5,) * room)])
    with pytest.raises(InputError, match=f"pair p0: a caption takes {room + 1} tokens, there is room for {room}"):
        learner(model, HOW).check([with_tokens((5,) * (room + 1))])
    with pytest.raises(InputError, match="pair p0: token 100000 is none of the model's"):
        learner(model, HOW).check([with_tokens((100000,))])


def test_small_ones_take_the_miniatures_recipe(model: Janus) -> None:
    assert recipes.is_miniature(model.name)
    with pytest.raises(InputError, match="cannot be trained here; give a Show-o or a Janus"):
        recipes.is_miniature("vila-u")
