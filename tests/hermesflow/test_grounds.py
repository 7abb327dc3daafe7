"""One's own items: parts that share nothing, what is left out counted, and what is wrong said in one line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gapbench import homologous
from gapbench.homologous import Homologous, HomologousQuestion
from gapbench.records import InputError, Picture
from gapbench.tasks.matching import Exact, Likelihood, Nearest
from hermesflow import grounds as module
from hermesflow import recipes
from hermesflow.grounds import Grounds, own
from hermesflow.homologous import own_items
from hermesflow.train import Training


def item(name: str, cluster: str = "", caption: str = "", choices: tuple[str, ...] = ("yes", "no")) -> Homologous:
    picture = Picture(name, lambda: Image.new("RGB", (8, 8)))
    question = HomologousQuestion("Is it?", "yes", "object", choices)
    return Homologous(name, picture, caption or f"caption of {name}", (question,), cluster or name)


def write(folder: Path, items: Sequence[Homologous]) -> Path:
    homologous.write(folder, items)
    return folder


def data(grounds: Grounds) -> list[list[Homologous]]:
    return [list(grounds.items), list(grounds.follow.data), list(grounds.judge[0].data)]


def test_the_three_parts_share_no_cluster(tmp_path: Path) -> None:
    items = [item(f"{n}", f"cluster {n % 10}") for n in range(30)]
    found = own(write(tmp_path / "mine", items), 0.4, "eye", seed=3)
    parts = data(found)
    clusters = [{h.cluster for h in part} for part in parts]
    assert [len(each) for each in clusters] == [6, 2, 2]
    assert len(set.union(*clusters)) == 10
    assert sum(map(len, parts)) == 30
    for part in parts[1:]:  # those of a cluster stand together
        assert [h.cluster for h in part] == sorted((h.cluster for h in part), key=[h.cluster for h in part].index)
    assert (found.name, found.gap, found.left_out) == ("mine", "gap-judge", {})
    assert found.follow.name == "gap-follow"
    assert [[h.id for h in part] for part in data(own(tmp_path / "mine", 0.4, "eye", seed=3))] == [
        [h.id for h in part] for part in parts
    ]
    assert data(own(tmp_path / "mine", 0.4, "eye", seed=4)) != parts


@given(st.lists(st.integers(0, 5), min_size=12, max_size=24), st.integers(0, 3))
def test_no_caption_that_is_held_out_is_trained_on(captions: list[int], seed: int) -> None:
    items = [item(str(n), caption=f"Caption {number}.") for n, number in enumerate(captions)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "own_items", lambda place, count, seed, left_out: items)
        if len(set(captions)) == 1:
            with pytest.raises(InputError, match="every caption to train on is held out too"):
                own(Path("mine"), 0.25, "eye", seed=seed)
            return
        try:
            found = own(Path("mine"), 0.25, "eye", seed=seed)
        except InputError:  # the few that are held out have all captions
            return
    train, follow, judge = data(found)
    assert not {h.caption for h in train} & {h.caption for h in (*follow, *judge)}
    left = sum(found.left_out.values())
    assert left + len(train) + len(follow) + len(judge) == len(items)
    assert found.left_out == ({"items to train on whose caption is held out too": left} if left else {})


def test_how_answers_are_matched(tmp_path: Path) -> None:
    items = [item(str(n)) for n in range(12)]
    assert isinstance(own(write(tmp_path / "a", items), 0.4, "eye").follow.matching, Likelihood)
    assert isinstance(own(tmp_path / "a", 0.4, "eye", "exact").judge[0].matching, Exact)
    free = [replace(each, questions=(HomologousQuestion("What?", "a cat", "object"),)) for each in items]
    assert isinstance(own(write(tmp_path / "b", free), 0.4, "eye").follow.matching, Nearest)


def test_who_judges_is_the_papers_unless_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(module, "judge_by_name", lambda name, device: asked.append(name))
    own(write(tmp_path, [item(str(n)) for n in range(12)]), 0.4)
    own(tmp_path, 0.4, "eye")
    assert asked == ["openai:gpt-4o", "eye"]


def test_images_that_are_not_there_are_counted(tmp_path: Path) -> None:
    write(tmp_path, [item(str(n)) for n in range(12)])
    (tmp_path / "images" / "000003.png").unlink()
    (tmp_path / "images" / "000005.png").write_bytes(b"no picture")
    found = own(tmp_path, 0.4, "eye")
    assert found.left_out == {"items whose image cannot be opened": 2}
    assert not {"3", "5"} & {h.id for part in data(found) for h in part}
    assert sum(map(len, data(found))) == 10


def test_no_image_at_all(tmp_path: Path) -> None:
    write(tmp_path, [item(str(n)) for n in range(3)])
    for image in (tmp_path / "images").iterdir():
        image.unlink()
    with pytest.raises(InputError, match=r"none of 3 images can be opened, the first is .*000000\.png; they are"):
        own_items(tmp_path)


def test_an_empty_data_set(tmp_path: Path) -> None:
    (tmp_path / homologous.FILE).write_text("\n")
    with pytest.raises(InputError, match=r"homologous\.jsonl: no items in it"):
        own(tmp_path, 0.2, "eye")


def test_a_folder_without_items(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither homologous\.jsonl nor JourneyDB's train/ in it; `gapbench data"):
        own(tmp_path, 0.2, "eye")


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    write(tmp_path, [item(str(n)) for n in range(3)])
    file = tmp_path / homologous.FILE
    file.write_text(file.read_text() + "{\n")
    with pytest.raises(InputError, match=r"homologous\.jsonl:4: not JSON"):
        own(tmp_path, 0.2, "eye")


@pytest.mark.parametrize(("count", "share"), [(1, 0.5), (2, 0.5), (12, 0.0), (12, 1.0), (12, 0.05)])
def test_too_few_items_for_three_parts(count: int, share: float, tmp_path: Path) -> None:
    write(tmp_path, [item(str(n)) for n in range(count)])
    with pytest.raises(InputError, match=f"{count} items do not suffice to train, follow and judge") as refused:
        own(tmp_path, share, "eye")
    assert "\n" not in str(refused.value)


def test_prompts_of_an_evaluation_are_refused(tmp_path: Path) -> None:
    captions = ["a photo of a bench", *(f"caption {n}" for n in range(40))]
    write(tmp_path, [item(str(n), caption=caption) for n, caption in enumerate(captions)])
    with pytest.raises(InputError, match=r"1 of \d+ captions to train on .* \('a photo of a bench', geneval\)"):
        recipes.own_grounds(tmp_path, 0.1, "eye")


# --- Recipes ----------------------------------------------------------------------------------------------------------


def test_the_recipe_is_by_size(tmp_path: Path, tiny_checkpoint: Path) -> None:
    assert recipes.is_miniature("show-o-mini")
    assert recipes.is_miniature(str(tiny_checkpoint))
    assert not recipes.is_miniature("show-o-512")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "Showo", "num_vq_tokens": 1024}))
    assert not recipes.is_miniature(str(tmp_path))
    assert recipes.of("show-o-mini", own=False) == recipes.miniature()
    with pytest.raises(InputError, match="openai:x: cannot be trained here"):
        recipes.is_miniature("openai:x")
    with pytest.raises(InputError, match="--model nothing: no such model"):
        recipes.of("nothing", own=True)


def test_the_published_recipe_is_the_papers() -> None:
    how = recipes.published()
    assert (len(how.curation.ways), how.curation.images, how.curation.scorer) == (10, 16, "bert")
    assert (how.pairs.image_threshold, how.iterations) == (0.6, 3)
    stage = how.training
    assert (stage.loss.beta, stage.loss.anchor, stage.learning_rate, stage.batch) == (0.2, 0.0, 2e-5, 4)
    assert stage.epochs * 5000 / stage.batch == 3000
    assert stage == replace(Training(), epochs=2.4, at_once=1, gradient_checkpointing=True)


def test_own_items_are_scored_as_the_paper_does() -> None:
    how = recipes.of("show-o-mini", own=True)
    assert (how.curation.scorer, how.curation.matching) == ("bert", "nearest")
    assert how.training == recipes.miniature().training
