"""The reference's log-likelihoods on disk: the same to the last bit, and none of other weights or masks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from preference_pairs import QUESTION, caption, drawing, pair
from tiny_show_o import write_checkpoint

from gapbench.models import zoo
from gapbench.models.show_o.model import ShowO
from gapbench.records import InputError
from hermesflow.likelihood import Likelihoods
from hermesflow.records import Pair, Preference
from hermesflow.reference import ReferenceCache, fill, fingerprint
from hermesflow.views import Masks

MASKS = Masks(seed=1, count=2, condition_dropout=0.3)
VISITS = 3


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> ShowO:
    return zoo.load(str(tiny_checkpoint), "cpu")


@pytest.fixture(scope="module")
def some(model: ShowO) -> list[Pair]:
    pairs = [pair(model, number) for number in range(4)]
    return [pairs[0], replace(pairs[1], images=None), replace(pairs[2], captions=None), pairs[3]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "stage" / "reference.jsonl"


def scored(model: ShowO, **change: Any) -> Likelihoods:
    return Likelihoods(model, replace(MASKS, **change), QUESTION)


class Counted(Likelihoods):
    """Counts how often the model is asked."""

    asked = 0

    def captions(self, *given: Any) -> Any:
        self.asked += 1
        return super().captions(*given)

    def images(self, *given: Any) -> Any:
        self.asked += 1
        return super().images(*given)


def counted(model: ShowO, **change: Any) -> Counted:
    return Counted(model, replace(MASKS, **change), QUESTION)


def looked_up(cache: ReferenceCache, pairs: list[Pair], visits: int = VISITS) -> list[Any]:
    return [cache.captions(pairs).tolist(), *(cache.images(pairs, [v] * len(pairs)).tolist() for v in range(visits))]


def test_equal_to_taking_them_again(model: ShowO, some: list[Pair], file: Path) -> None:
    taking = counted(model)
    cache = fill(file, taking, some, VISITS)
    assert taking.asked == 3 + 3 * VISITS
    again = scored(model)
    with torch.no_grad():
        for number, one in enumerate(some):
            assert torch.equal(cache.captions(some)[number], again.captions([one]).log_B2[0])
            for visit in range(VISITS):
                found = cache.images(some, [visit] * 4)
                assert torch.equal(found[number], again.images([one], [visit]).log_B2[0])
                assert found.dtype == torch.float32
    assert cache.captions(some)[2].tolist() == cache.images(some, [0] * 4)[1].tolist() == [0.0, 0.0]
    each = cache.images(some[3:] * 3, [2, 0, 1])
    assert torch.equal(each, torch.cat([cache.images(some[3:], [visit]) for visit in (2, 0, 1)]))


def test_read_back_without_the_model(model: ShowO, some: list[Pair], file: Path) -> None:
    first = looked_up(fill(file, scored(model), some, VISITS), some)
    written = file.read_bytes()
    again = counted(model)
    told: list[tuple[int, int]] = []
    cache = fill(file, again, some[::-1], VISITS, lambda done, total: told.append((done, total)))
    assert (looked_up(cache, some), again.asked, told) == (first, 0, [(12, 12)])
    assert file.read_bytes() == written


def test_order_and_company_do_not_matter(model: ShowO, some: list[Pair], file: Path) -> None:
    whole = looked_up(fill(file, scored(model), some, VISITS), some)
    for one in reversed(some):
        fill(file.with_name("other.jsonl"), scored(model), [one], VISITS)
    assert looked_up(fill(file.with_name("other.jsonl"), counted(model), some, VISITS), some) == whole


def test_cut_anywhere_it_is_made_whole(model: ShowO, some: list[Pair], file: Path) -> None:
    whole = looked_up(fill(file, scored(model), some, VISITS), some)
    written = file.read_bytes()
    head = written.index(b"\n") + 1
    for end in (0, 1, head - 1, head, head + 1, len(written) // 2, len(written) - 1):
        file.write_bytes(written[:end])
        assert looked_up(fill(file, scored(model), some, VISITS), some) == whole
        assert file.read_bytes() == written
    file.write_bytes(written[: len(written) // 2] + b"\x00" * 40)  # as after a loss of power
    assert looked_up(fill(file, scored(model), some, VISITS), some) == whole
    assert file.read_bytes() == written


def test_more_visits_are_added(model: ShowO, some: list[Pair], file: Path) -> None:
    fill(file, scored(model), some, 1)
    more = counted(model)
    assert (
        looked_up(fill(file, more, some, VISITS), some)[1] == looked_up(fill(file, scored(model), some, 1), some, 1)[1]
    )
    assert more.asked == 3 * (VISITS - 1)


def test_sets_of_masks_come_again(model: ShowO, some: list[Pair], file: Path) -> None:
    taking = counted(model, sets=2)
    cache = fill(file, taking, some, 5)
    assert taking.asked == 3 + 3 * 2
    assert torch.equal(cache.images(some, [4] * 4), cache.images(some, [0] * 4))
    assert not torch.equal(cache.images(some, [1] * 4), cache.images(some, [0] * 4))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 2}, "views"),
        ({"count": 3}, "views"),
        ({"rates": (0.5, 1.0)}, "views"),
        ({"condition_dropout": 0.0}, "views"),
    ],
)
def test_other_masks_are_refused(model: ShowO, some: list[Pair], file: Path, change: dict, named: str) -> None:
    fill(file, scored(model), some, 1)
    with pytest.raises(InputError, match=f"made with other {named}; remove it"):
        fill(file, scored(model, **change), some, 1)


def test_other_settings_are_refused(model: ShowO, some: list[Pair], file: Path) -> None:
    fill(file, scored(model), some, 1)
    written = file.read_bytes()
    with pytest.raises(InputError, match="made with other question, full vocabulary;"):
        fill(file, Likelihoods(model, MASKS, "What is it?", full_vocabulary=True), some, 1)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InputError, match="made with other autocast;"):
        fill(file, scored(model), some, 1)
    assert file.read_bytes() == written


def test_other_weights_are_refused(model: ShowO, some: list[Pair], file: Path, tmp_path: Path) -> None:
    fill(file, scored(model), some, 1)
    other = zoo.load(str(write_checkpoint(tmp_path / "other")), "cpu")
    assert fingerprint(other.backbone.phi) == fingerprint(model.backbone.phi)
    with torch.no_grad():
        other.backbone.phi.model.layers[1].self_attn.q_layernorm.bias[3] += 1e-7
    with pytest.raises(InputError, match=r"reference.jsonl: made with other weights; remove it"):
        fill(file, scored(other), some, 1)
    half = zoo.load(str(tmp_path / "other"), "cpu", "bfloat16")
    with pytest.raises(InputError, match="made with other weights"):
        fill(file, scored(half), some, 1)


def test_another_pair_of_the_same_id_is_taken_anew(model: ShowO, some: list[Pair], file: Path) -> None:
    first = some[0]
    fill(file, scored(model), [first], 1)
    changes = [
        ({"codes": pair(model, 1).codes}, 1),
        ({"caption": "a blue cross"}, 1),
        ({"captions": Preference(caption(model, "a cross"), first.captions.lose)}, 1),
        ({"captions": Preference(replace(first.captions.win, ended=False), first.captions.lose)}, 1),
        ({"images": Preference(drawing(range(9)), first.images.lose)}, 1),
        ({"captions": Preference(replace(first.captions.win, score=0.7), first.captions.lose)}, 0),
        ({"generation_weight": 2.0, "understanding_weight": 0.5, "skills": ("color",)}, 0),
    ]
    for change, asked in changes:
        taking, other = counted(model), replace(first, **change)
        cache = fill(file, taking, [other], 1)
        assert taking.asked == asked, change
        assert torch.equal(cache.captions([other])[0], scored(model).captions([other]).log_B2[0])
        assert torch.equal(cache.images([other], [0])[0], scored(model).images([other], [0]).log_B2[0])


def test_what_was_not_taken_is_not_made_up(model: ShowO, some: list[Pair], file: Path) -> None:
    cache = fill(file, scored(model), some, 1)
    with pytest.raises(KeyError):
        cache.images(some, [0, 0, 0, 1])
    with pytest.raises(KeyError):
        cache.captions([pair(model, 9)])


@pytest.mark.parametrize("line", ["something else", "[]", "{}", json.dumps({"version": 1})])
def test_other_files_are_left_alone(model: ShowO, some: list[Pair], file: Path, line: str) -> None:
    file.parent.mkdir()
    file.write_text(f"{line}\nand more\n")
    with pytest.raises(InputError, match="not a file of reference log-likelihoods"):
        fill(file, scored(model), some, 1)
    assert file.read_text() == f"{line}\nand more\n"


def test_one_line_where_it_cannot_be_written_or_taken(model: ShowO, some: list[Pair], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        fill(tmp_path / "file" / "reference.jsonl", scored(model), some, 1)
    with pytest.raises(InputError, match="pair item-0: an image of 1 codes"):
        fill(tmp_path / "new" / "reference.jsonl", scored(model), [replace(some[0], codes=(0,))], 1)
    assert not (tmp_path / "new").exists()
    unsound = zoo.load(str(write_checkpoint(tmp_path / "unsound")), "cpu")
    with torch.no_grad():
        unsound.backbone.phi.lm_head.bias[0] = torch.nan
    with pytest.raises(InputError, match="pair item-0: the reference's log-likelihoods are nan"):
        fill(tmp_path / "new" / "reference.jsonl", scored(unsound), some, 1)
