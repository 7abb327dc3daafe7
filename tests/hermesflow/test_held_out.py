"""What the miniature's loop trains on, follows and is judged by has no scene and no caption in common."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gapbench import tasks
from gapbench.homologous import normal
from gapbench.miniature import eye
from gapbench.records import InputError
from hermesflow import recipes
from hermesflow.grounds import miniature
from hermesflow.homologous import train_items


def test_training_following_and_judging_share_neither_scene_nor_caption() -> None:
    found = miniature(train_items(240), 0, None, panel=False)
    followed, judged = list(found.follow.data), list(found.judge[0].data)
    assert (len(found.items), len(followed), len(judged)) == (240, 100, 150)
    scenes, captions = [], []
    for items in (found.items, followed, judged):
        scenes.append({frozenset(eye.read(item.picture.open()).things) for item in items})
        captions.append({normal(item.caption) for item in items})
    for sets in (scenes, captions):
        for a, b in ((0, 1), (0, 2), (1, 2)):
            assert not sets[a] & sets[b]


def test_recipes_refuse_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(recipes, "refuse_contaminated", lambda *told: asked.append(told))
    found = recipes.miniature_grounds(12, 0, None, panel=False)
    ((items, measured),) = asked
    assert list(items) == list(found.items)
    assert [task.name for task in measured] == ["gap-validation", "gap-mini"]
    monkeypatch.undo()

    leaked = replace(found.items[0], caption=list(found.follow.data)[3].caption)
    monkeypatch.setattr(recipes, "train_items", lambda *_: [leaked, *found.items[1:]])
    with pytest.raises(InputError, match=r"1 of 12 captions to train on .*gap-validation"):
        recipes.miniature_grounds(12, 0, None, panel=False)


def test_the_panel_is_measured_with_the_gap_first() -> None:
    found = recipes.miniature_grounds(4, 0, None, panel=True)
    assert found.gap == "gap-mini"
    assert [task.name for task in found.judge] == list(tasks.SUITES["mini"])
