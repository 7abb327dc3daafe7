"""Items to train on: true, covered by their questions, and apart from all that is measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gapbench import homologous, tasks
from gapbench.homologous import Homologous, HomologousQuestion, normal
from gapbench.miniature import captions, eye
from gapbench.miniature.benchmarks import homologous_scenes
from gapbench.miniature.language import parse
from gapbench.miniature.prompts import drawn_captions, geneval_prompts
from gapbench.miniature.world import split_of
from gapbench.records import InputError, Picture
from gapbench.skills import SKILLS
from gapbench.tasks.base import Options
from hermesflow.homologous import hold_out, own_items, prompts_of, refuse_contaminated, train_items


def item(name: str, cluster: str = "", caption: str = "a caption") -> Homologous:
    question = HomologousQuestion("Is it?", "yes", "object", ("yes", "no"))
    return Homologous(name, Picture(name, lambda: Image.new("RGB", (4, 4))), caption, (question,), cluster)


def test_items_of_the_miniature() -> None:
    items = train_items(80, seed=3)
    assert len({h.id for h in items}) == len({h.caption for h in items}) == len({h.picture.key for h in items}) == 80
    for h in items:
        scene = eye.read(h.picture.open())
        assert split_of(scene) == "validation"
        assert captions.truth(captions.read(h.caption), scene) == 1.0
        assert {q.skill for q in h.questions} <= set(SKILLS)
        for q in h.questions:
            assert parse(q.text).answer(scene.things) == q.answer
            assert q.answer in q.choices
    lengths = [len(h.caption.split()) for h in items]
    assert min(lengths) <= 6
    assert max(lengths) >= 24
    assert {q.skill for h in items for q in h.questions} >= {"object", "color", "count", "binding", "position"}


def test_items_are_drawn_from_the_seed() -> None:
    assert train_items(12) == train_items(30)[:12]
    assert [h.caption for h in train_items(12, 1)] != [h.caption for h in train_items(12)]


def test_no_task_of_the_miniature_draws_what_is_trained_on() -> None:
    measured = [tasks.load(name) for name in ("gap-mini", "geneval-mini", "dpg-mini")]
    items = train_items(400)
    refuse_contaminated(items, measured)
    forbidden = {normal(c.caption) for c in drawn_captions()} | {normal(h.caption) for h in homologous_scenes()}
    assert not forbidden & {normal(h.caption) for h in items}


def test_captions_that_are_measured_are_refused() -> None:
    measured = tasks.load("geneval-mini")
    prompt = geneval_prompts()[40]["prompt"]
    items = [item("a"), item("b", caption=f" {prompt.upper()}.  "), item("c", caption=prompt)]
    with pytest.raises(InputError, match=r"2 of 3 captions .* first that of item 'b' \(.*, geneval-mini\); leave") as e:
        refuse_contaminated(items, [measured])
    assert "\n" not in str(e.value)
    refuse_contaminated(items, [])
    with pytest.raises(InputError, match=r"1 of 1 .*geneval\)"):
        refuse_contaminated([item("a", caption="A photo of a bench")], [])


def test_prompts_of_tasks() -> None:
    assert set(prompts_of(tasks.load("gap-mini"))) == {h.caption for h in homologous_scenes()}
    assert len(set(prompts_of(tasks.load("geneval", Options(pictures=False))))) == 553
    assert list(prompts_of(tasks.load("pope-mini"))) == []


@given(st.lists(st.integers(0, 9), min_size=12, max_size=40), st.integers(0, 5), st.randoms())
def test_clusters_are_held_out_whole(clusters: list[int], seed: int, rng) -> None:
    items = [item(str(number), f"cluster {cluster}") for number, cluster in enumerate(clusters)]
    if len(set(clusters)) < 3:
        return
    train, held = hold_out(items, 2, seed)
    assert len({h.cluster for h in held}) == 2
    assert not {h.cluster for h in held} & {h.cluster for h in train}
    assert sorted([*train, *held], key=lambda h: int(h.id)) == items
    shuffled = rng.sample(items, len(items))
    assert {h.id for h in hold_out(shuffled, 2, seed)[1]} == {h.id for h in held}


def test_a_share_is_held_out() -> None:
    items = [item(str(number)) for number in range(40)]
    train, held = hold_out(items, 0.25)
    assert (len(train), len(held)) == (30, 10)
    assert hold_out(items, 0.25, 1)[1] != held
    for share in (0, 0.0, 40, 0.999):
        with pytest.raises(InputError, match=r"of 40 clusters \d+ cannot be held out"):
            hold_out(items, share)


def test_items_of_ones_own(tmp_path: Path) -> None:
    homologous.write(tmp_path / "mine", [replace(item(str(n)), caption=f"caption {n}") for n in range(9)])
    every = own_items(tmp_path / "mine")
    assert [h.id for h in every] == list("012345678")
    some = own_items(tmp_path / "mine", 4, seed=1)
    assert [h for h in every if h in some] == some
    assert len(some) == 4
    assert {h.id for h in own_items(tmp_path / "mine", 3, seed=1)} < {h.id for h in some}
    assert own_items(tmp_path / "mine", 4, seed=2) != some
    with pytest.raises(InputError, match=homologous.FILE):
        own_items(tmp_path)


def test_a_sample_of_journeydb(tmp_path: Path) -> None:
    (tmp_path / "train" / "imgs").mkdir(parents=True)
    rows = []
    for number in range(6):
        Image.new("RGB", (4, 4)).save(tmp_path / "train" / "imgs" / f"{number}.png")
        asked = {"Question": "What?", "Options": ["a", "b"], "Answer": "a"}
        rows.append(
            {
                "img_path": f"{number}.png",
                "prompt": f"prompt {number // 2}",
                "Task2": {"Caption": f"caption {number}"},
                "Task3": {"Content Relevant Questions and Answers": [asked]},
            }
        )
    lines = "\n".join(map(json.dumps, rows))
    (tmp_path / "train" / "train_anno_realease_repath.jsonl").write_text(lines)
    items = own_items(tmp_path, 2, seed=1)
    assert len({h.cluster for h in items}) == len(items) == 2
    with pytest.raises(InputError, match="say how many"):
        own_items(tmp_path)
