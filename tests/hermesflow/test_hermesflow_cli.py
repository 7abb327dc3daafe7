"""hermesflow's commands: what they leave and say, that they go on, and that what is wrong is one line."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from miniature_pairs import make_pairs
from safetensors.torch import load_file

from gapbench import homologous, store
from gapbench.homologous import Homologous
from gapbench.models import zoo
from gapbench.records import InputError
from gapbench.skills import SKILLS
from hermesflow import candidate_files, cli, close_gap, pair_files
from hermesflow import train as training
from hermesflow.emphasis import read_diagnostics, weigh
from hermesflow.homologous import train_items
from hermesflow.pair_dpo import PairDPO
from hermesflow.pair_files import read_pairs
from hermesflow.records import Candidates, CaptionCandidate, ImageCandidate, Pair, to_json

E = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 40, "clusters": 20}
MEASURED = dict.fromkeys(("U", "G", "gap", "p11", "p10", "p01", "p00"), E)
TRAINING = ("--steps", 2, "--batch", 2, "--masks", 1, "--states", 0)


class Said(NamedTuple):
    status: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def hermesflow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def command(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["hermesflow", *map(str, words)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code
        return Said(status, *capsys.readouterr())

    return command


class ByLength:
    """Scores captions: the longer, the better."""

    def describe(self) -> dict[str, Any]:
        return {"name": "length"}

    def scores(self, told: Sequence[tuple[Homologous, Sequence[str]]]) -> list[list[float]]:
        return [[1 - 1 / (1 + len(text)) for text in texts] for _, texts in told]


@pytest.fixture
def by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with random weights says nothing that any other scorer tells apart."""
    monkeypatch.setattr("hermesflow.curate.scorer", lambda *_: ByLength())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    homologous.write(tmp_path / "mine", train_items(12))
    return tmp_path / "mine"


@pytest.fixture
def tiny(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint, which draws in few steps and whose captions mostly end by themselves."""
    from safetensors.torch import save_file

    folder = tmp_path / "tiny"
    folder.mkdir()
    for path in tiny_checkpoint.iterdir():
        (folder / path.name).symlink_to(path)
    config, weights = folder / "config.json", folder / "pytorch_model.safetensors"
    told, tensors = json.loads(config.read_text()), load_file(weights)
    tensors["showo.lm_head.bias"][zoo.load(str(tiny_checkpoint), "cpu").layout.eot] += 4
    config.unlink(), weights.unlink()
    config.write_text(json.dumps({**told, "sampling": {"steps": 2, "guidance": 1.0}}))
    save_file(tensors, weights)
    return folder


def candidate(name: str, drawings: Sequence[float], captions: Sequence[float] = ()) -> Candidates:
    images = tuple(
        ImageCandidate((number,) * 9, number, (score > 0.5, None if score < 0 else True), score)
        for number, score in enumerate(drawings)
    )
    said = tuple(
        CaptionCandidate(f"caption {number}", (5, 6, 7 + number), True, score, None, 1.0)
        for number, score in enumerate(captions)
    )
    return Candidates(name, name, f"caption of {name}", ("count", "color"), (1,) * 9, said, images)


def write_candidates(folder: Path, *candidates: Candidates) -> Path:
    folder.mkdir()
    (folder / candidate_files.FILE).write_text("".join(to_json(each) + "\n" for each in candidates))
    return folder


def write_run(folder: Path, sha256: str = "0", model: str = "one", **needs: dict[str, Any]) -> Path:
    """A run's folder as far as emphasis reads it."""
    folder.mkdir()
    told = {
        "schema": 1,
        "run": folder.name,
        "model": model,
        "overall": MEASURED,
        "skills": {"count": MEASURED, **needs},
    }
    (folder / "diagnostics.json").write_text(json.dumps(told))
    made_of = {"name": model, "weights": {"transformer": {"file": "x", "sha256": sha256}}}
    (folder / "run.json").write_text(json.dumps({"request": {"model": made_of}}))
    return folder


def write_pairs(file: Path, pairs: Sequence[Pair]) -> Path:
    file.write_text("".join(to_json(pair) + "\n" for pair in pairs))
    return file


def one_line(said: Said, part: str) -> None:
    assert (said.status, said.out) == (2, ""), said
    assert part in said.err
    assert said.err.startswith("error: ")
    assert said.err.rstrip("\n").count("\n") == 0


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# --- Help and wrong input ---------------------------------------------------------------------------------------------


def test_the_command_line_imports_nothing_heavy() -> None:
    code = "import sys, hermesflow.cli; print(*{'torch', 'transformers', 'pandas', 'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_help(hermesflow: Command) -> None:
    said = hermesflow()
    assert (said.status, said.err) == (0, "")
    for name in ("close-gap", "curate", "pairs", "train"):
        assert name in said.out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("close-gap", "--model", "nothing"), "--model nothing: no such model or folder"),
        (("close-gap", "--model", "openai:x"), "openai:x: cannot be trained here"),
        (("close-gap", "--model", "show-o-512"), "--data: show-o-512 is too large for the miniature"),
        (("close-gap", "--emphasis", "most"), "--emphasis most: unknown; there is gap, uniform"),
        (("close-gap", "--reference", "mine"), "--reference mine: unknown; there is previous, base"),
        (("close-gap", "--hold-out", "0.5"), "--hold-out: only with --data"),
        (("close-gap", "--judge-gap", "eye"), "--judge-gap: only with --data"),
        (("close-gap", "--diagnostics", "nowhere"), "nowhere: no diagnostics there; give a run"),
        (("close-gap", "--data", "nowhere"), "nowhere"),
        (("close-gap", "--data", ".", "--judge-gap", "eye"), "neither homologous.jsonl nor JourneyDB's train/ in it"),
        (("close-gap", "--track", "paper"), "--track paper: unknown; there is tensorboard, wandb"),
        (("close-gap", "--iterations", "0"), "'--iterations'"),
        (("curate",), "--out"),
        (("curate", "--out", "x", "--data", "."), "neither homologous.jsonl nor JourneyDB's train/ in it"),
        (("curate", "--out", "x", "--model", "show-o"), "--data: show-o is too large for the miniature"),
        (("curate", "--out", "x", "--scorer", "taste"), "caption scorer taste: unknown"),
        (
            ("pairs", "nowhere", "--out", "x"),
            "--emphasis gap: give --diagnostics, a run of the model; without it there",
        ),
        (("pairs", "nowhere", "--out", "x", "--emphasis", "uniform"), "nowhere: cannot be read (No such file"),
        (("pairs", "nowhere", "--out", "x", "--diagnostics", "else"), "else: no diagnostics there"),
        (("pairs", "nowhere", "--out", "x", "--emphasis", "uniform", "--image-margin", "2"), "image_margin is 2.0"),
        (("pairs", "x", "--out", "y", "--emphasis", "uniform", "--previous", "z"), "z: cannot be read"),
        (("train", "nowhere", "--out", "x"), "nowhere: cannot be read (No such file or directory); `hermesflow pairs`"),
        (("train", "nowhere", "--out", "x", "--steps", "0"), "steps is 0"),
        (("train", "nowhere", "--out", "x", "--steps", "1", "--epochs", "1"), "--epochs and --steps: both say"),
        (("train", "nowhere", "--out", "x", "--product", "--anchor", "1"), "product has neither anchor nor balance"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    hermesflow: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    one_line(hermesflow(*words), part)
    assert list(tmp_path.iterdir()) == []


# --- curate -----------------------------------------------------------------------------------------------------------


def test_candidates_are_made_once(hermesflow: Command, by_length: None, data: Path, tiny: Path, tmp_path: Path) -> None:
    words = ("--model", tiny, "--data", data, "--items", 5, "--images", 2, "--matching", "exact", "--device", "cpu")
    said = hermesflow("curate", *words, "--out", tmp_path / "made")
    assert said.status == 0, said.err
    file = tmp_path / "made" / candidate_files.FILE
    lines = said.out.splitlines()
    assert lines[0].startswith("5 items, ")
    assert lines[0].endswith(" captions, 10 drawings")
    assert lines[-1] == f"candidates {file}"
    before = file.read_bytes()
    again = hermesflow("curate", *words, "--out", tmp_path / "made")
    assert (again.status, again.out, file.read_bytes()) == (0, said.out, before)
    assert "curate: " not in again.err
    one_line(hermesflow("curate", *words, "--seed", 1, "--out", tmp_path / "made"), "holds candidates with another")


def test_what_curation_leaves_out_is_told(hermesflow: Command, by_length: None, tiny: Path, tmp_path: Path) -> None:
    items = train_items(5)
    items[1] = replace(items[1], caption=f"{items[1].caption} " + "red square " * 80)
    homologous.write(tmp_path / "mine", items)
    images = sorted((tmp_path / "mine" / "images").iterdir())
    images[2].unlink()
    images[3].write_bytes(images[3].read_bytes()[:-100])  # begins as an image does
    words = ("--data", tmp_path / "mine", "--images", 2, "--matching", "exact", "--device", "cpu")
    said = hermesflow("curate", "--model", tiny, *words, "--out", tmp_path / "made")
    assert said.status == 0, said.err
    told = [line.strip() for line in said.out.splitlines() if "left out" in line]
    assert told[:1] == ["left out: 1 items whose image cannot be opened"]
    assert "left out: 1 items whose image cannot be read" in told
    assert "left out: 1 all drawings of captions that are too long" in told
    found = {each.id: each for each in candidate_files.read_candidates(tmp_path / "made")}
    assert [len(found[items[number].id].images) for number in (0, 1, 3, 4)] == [2, 0, 0, 2]
    assert found[items[1].id].captions


def test_no_image_that_can_be_read(
    hermesflow: Command, by_length: None, tiny: Path, data: Path, tmp_path: Path
) -> None:
    for image in (data / "images").iterdir():
        image.write_bytes(image.read_bytes()[:-100])
    words = ("curate", "--model", tiny, "--data", data, "--images", 1, "--matching", "exact", "--device", "cpu")
    for _ in range(2):  # also when it is found complete
        said = hermesflow(*words, "--out", tmp_path / "made")
        assert said.status == 2
        assert "none of 12 images can be read, the first is " in said.err.splitlines()[-1]


def test_more_tokens_than_the_model_has_room_for(tiny: Path, tmp_path: Path) -> None:
    from hermesflow.curate import MINIATURE, Curator

    model = zoo.load(str(tiny), "cpu")
    with pytest.raises(InputError, match=r"2048 tokens a caption: .* has room for \d+; ask for fewer") as refused:
        Curator(model, replace(MINIATURE, caption_tokens=2048))
    room = int(str(refused.value).split("room for ")[1].split(";")[0])
    Curator(model, replace(MINIATURE, caption_tokens=room))


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_pairs_and_their_weights(hermesflow: Command, tmp_path: Path) -> None:
    made = write_candidates(tmp_path / "made", candidate("a", (0.9, 0.1), (0.9, 0.2)), candidate("b", (0.5, 0.4)))
    run, out = write_run(tmp_path / "run"), tmp_path / "out"
    said = hermesflow("pairs", made, "--diagnostics", run, "--out", out)
    assert said.status == 0, said.err
    for part in ("Rule gap, model one", "left out: 1 drawings: none above 0.6", "left out: 1 items without a pair"):
        assert part in said.out
    assert said.out.splitlines()[-1] == f"1 pairs {out / 'pairs.jsonl'}"
    (pair,) = read_pairs(out)
    assert (pair.id, pair.images.win.score, pair.captions.lose.score) == ("a", 0.9, 0.2)
    assert json.loads((out / "pairs.json").read_text())["pairs"] == 1
    assert json.loads((out / "emphasis.json").read_text())["rule"] == "gap"
    assert (out / "emphasis.md").read_text().startswith("### Emphasis")

    again = hermesflow("pairs", made, "--diagnostics", run / "diagnostics.json", "--out", out)
    assert (again.status, again.out) == (0, said.out)
    other = hermesflow("pairs", made, "--diagnostics", run, "--image-threshold", 0.1, "--out", out)
    one_line(other, f"{out}: holds other pairs; give another folder")
    assert len(read_pairs(out)) == json.loads((out / "pairs.json").read_text())["pairs"] == 1


def test_without_diagnostics(hermesflow: Command, tmp_path: Path) -> None:
    made = write_candidates(tmp_path / "made", candidate("a", (0.9, 0.1), (0.9, 0.2)))
    weights = {}
    for rule in ("uniform", "understanding", "generation"):
        said = hermesflow("pairs", made, "--emphasis", rule, "--out", tmp_path / rule)
        assert said.status == 0, said.err
        assert f"Rule {rule}, without diagnostics" in said.out
        (pair,) = read_pairs(tmp_path / rule)
        weights[rule] = (pair.understanding_weight, pair.generation_weight)
        told = json.loads((tmp_path / rule / "emphasis.json").read_text())
        assert told["skills"]["overall"]["drawings"]["need"] is None
    assert weights == {"uniform": (1, 1), "understanding": (1, 0), "generation": (0, 1)}
    with pytest.raises(InputError, match="emphasis gap: needs the diagnostics of a run; without any there is uniform"):
        weigh(read_pairs(tmp_path / "uniform"), None, "gap")


def test_the_iteration_before(hermesflow: Command, tmp_path: Path) -> None:
    first = write_candidates(tmp_path / "first", candidate("a", (0.8, 0.1)))
    second = write_candidates(tmp_path / "second", candidate("a", (0.2, 0.9)))
    rule = ("--emphasis", "uniform")
    assert hermesflow("pairs", first, *rule, "--out", tmp_path / "1").status == 0
    assert hermesflow("pairs", second, *rule, "--previous", tmp_path / "1", "--out", tmp_path / "2").status == 0
    (pair,) = read_pairs(tmp_path / "2")
    assert (pair.images.win.score, pair.images.lose.score) == (0.9, 0.8)


def test_no_pairs(hermesflow: Command, tmp_path: Path) -> None:
    made = write_candidates(tmp_path / "made", candidate("a", (0.5, 0.4)), candidate("b", ()))
    said = hermesflow("pairs", made, "--emphasis", "uniform", "--out", tmp_path / "out")
    one_line(said, "no pair in 2 items (2 captions: none made, 1 drawings: none above 0.6, 1 drawings: none made, ")
    assert not (tmp_path / "out" / "pairs.jsonl").exists()


def test_diagnostics_of_another_model(hermesflow: Command, tmp_path: Path) -> None:
    made = write_candidates(tmp_path / "made", candidate("a", (0.9, 0.1)))
    about = {"request": {"model": {"weights": {"transformer": {"file": "moved", "sha256": "1"}}}}}
    (made / "curation.json").write_text(json.dumps(about))
    other, same = write_run(tmp_path / "other", "2"), write_run(tmp_path / "same", "1")
    said = hermesflow("pairs", made, "--diagnostics", other, "--out", tmp_path / "out")
    one_line(said, "diagnostics.json: of one, which is another model; give those of a run of this one")
    assert hermesflow("pairs", made, "--diagnostics", same, "--out", tmp_path / "out").status == 0


def test_diagnostics_are_told_by_name_where_they_lie_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "run.json").unlink()
    assert read_diagnostics(run, {"name": "one"})["run"] == "run"
    assert read_diagnostics(run, {})["run"] == "run"
    with pytest.raises(InputError, match="of one, which is another model"):
        read_diagnostics(run, {"name": "two"})
    for text in ("{", "[]"):
        (run / "diagnostics.json").write_text(text)
        with pytest.raises(InputError, match=r"diagnostics\.json: cannot be read as diagnostics"):
            read_diagnostics(run)


@pytest.mark.parametrize("line", ["{", "{}", "[]", "7", '{"id": "a"}'])
def test_a_broken_line_of_pairs_is_named(line: str, tiny: Path, tmp_path: Path, hermesflow: Command) -> None:
    file = write_pairs(tmp_path / "pairs.jsonl", make_pairs(zoo.load(str(tiny), "cpu"), 2))
    file.write_text(file.read_text() + line)
    said = hermesflow("train", file, "--model", tiny, "--out", tmp_path / "out")
    one_line(said, f"{file}:3: no pair (")
    assert not (tmp_path / "out").exists()
    file.write_text("")
    one_line(hermesflow("train", file, "--model", tiny, "--out", tmp_path / "out"), "no pairs in it")


# --- train ------------------------------------------------------------------------------------------------------------


def test_a_stage_ends_with_a_checkpoint(hermesflow: Command, tiny: Path, tmp_path: Path) -> None:
    pairs = make_pairs(zoo.load(str(tiny), "cpu"), 3)
    pairs[1] = replace(pairs[1], generation_weight=0.0)
    file, out = write_pairs(tmp_path / "pairs.jsonl", pairs), tmp_path / "out"
    words = ("train", file, "--model", tiny, *TRAINING, "--device", "cpu", "--out", out)
    said = hermesflow(*words)
    assert said.status == 0, said.err
    assert said.out.splitlines() == [
        "2 steps over 3 pairs",
        "  left out: 1 drawings of weight 0",
        f"checkpoint {out / 'checkpoint'}",
    ]
    assert (out / "metrics.jsonl").read_text().count("\n") == 2
    zoo.load(str(out / "checkpoint"), "cpu")
    assert hermesflow(*words).out == said.out
    one_line(hermesflow(*words, "--beta", 0.3), "holds a stage of another loss; give another folder")


def test_flags_reach_the_stage(
    hermesflow: Command, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def train(model: Any, reference: Any, pairs: Any, how: Any, folder: Path, *rest: Any) -> None:
        seen.append((model, reference, how))
        raise InputError("enough")

    monkeypatch.setattr(training, "train", train)
    file = write_pairs(tmp_path / "pairs.jsonl", make_pairs(zoo.load(str(tiny), "cpu"), 2))
    words = ["train", file, "--model", tiny, "--device", "cpu", "--out", tmp_path / "out"]
    flags = {"learning_rate": 0.5, "steps": 7, "batch": 6, "at_once": 2, "masks": 3, "condition_dropout": 0.25}
    more = {"lora": 4, "seed": 5, "balanced": True, "sampling": True, "gradient_checkpointing": True}
    loss = {"beta": 0.1, "balance": 0.3, "anchor": 0.0, "per_token": True}
    for name, value in {**flags, **more, **loss}.items():
        words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [value])
    hermesflow(*words)
    hermesflow(*words[:8], "--epochs", 3, "--product", "--reference", tiny)
    (model, reference, how), (_, frozen, product) = seen
    assert reference is model
    assert {name: getattr(how, name) for name in (*flags, *more)} == {**flags, **more}
    assert how.loss == PairDPO(**loss)
    assert (product.epochs, product.steps, product.loss.product) == (3, None, True)
    assert frozen is not model


def test_what_is_trained_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    from hermesflow import cli_stages

    asked: list[Any] = []
    monkeypatch.setattr(zoo, "load", lambda *told: asked.append(told))
    cli_stages.load_master("a", "cuda")
    cli_stages.load("a", "cuda", None)
    assert asked == [("a", "cuda", "float32"), ("a", "cuda", None)]


# --- close-gap on one's own items -------------------------------------------------------------------------------------

LOOP = (
    "--hold-out",
    0.4,
    "--judge-gap",
    "eye",
    "--matching",
    "exact",
    "--images",
    1,
    "--iterations",
    1,
    "--target",
    -1,
)


def test_the_loop_on_ones_own_items(
    hermesflow: Command, by_length: None, data: Path, tiny: Path, tmp_path: Path
) -> None:
    (data / "images" / "000004.png").unlink()
    run = write_run(tmp_path / "given")
    weights = zoo.load(str(tiny), "cpu").describe()["weights"]
    made_of = {"request": {"model": {"name": "elsewhere", "weights": weights}}}
    (run / "run.json").write_text(json.dumps(made_of))
    words = ("close-gap", "--model", tiny, "--data", data, *LOOP, "--epochs", 1, "--device", "cpu")
    said = hermesflow(*words, "--diagnostics", run, "--out", tmp_path / "out")
    assert said.status == 0, said.err
    assert "all: gap" in said.out
    assert "1 of 1 rounds" in said.out
    assert "left out: 1 items whose image cannot be opened" in said.out
    assert said.out.splitlines()[-1].startswith("checkpoint ")
    told = json.loads((tmp_path / "out" / "loop.json").read_text())
    assert (told["status"], told["done"], told["left_out"]) == (
        "complete",
        1,
        {"items whose image cannot be opened": 1},
    )
    assert told["request"]["data"] == "mine"
    weighed = json.loads((tmp_path / "out" / "1" / "emphasis.json").read_text())
    assert (weighed["run"], set(weighed["skills"]) <= {"overall", *SKILLS}) == ("given", True)
    trained = {each.id for each in candidate_files.read_candidates(tmp_path / "out" / "1" / "candidates")}
    measured = set()
    for place, task in (("before", "gap-judge"), ("1/follow", "gap-follow")):
        measured |= {record.cluster for record in store.RunFolder(tmp_path / "out" / place).records(task)}
    assert (len(trained), len(measured), trained & measured) == (7, 4, set())
    assert hermesflow(*words, "--diagnostics", run, "--out", tmp_path / "out").out == said.out
    for other in (("--diagnostics", write_run(tmp_path / "second")), ()):
        again = hermesflow(*words, *other, "--out", tmp_path / "out")
        assert (again.status, "holds a loop with another diagnostics" in again.err) == (2, True)


def test_diagnostics_of_another_model_do_not_weigh_the_loop(
    hermesflow: Command, data: Path, tiny: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run")
    words = ("--model", tiny, "--data", data, *LOOP, "--device", "cpu", "--diagnostics", run)
    said = hermesflow("close-gap", *words, "--out", tmp_path / "out")
    assert said.status == 2
    assert "of one, which is another model" in said.err.splitlines()[-1]


def test_of_other_types_the_loop_trains_a_master(tiny: Path) -> None:
    low, high = (zoo.load(str(tiny), "cpu", dtype) for dtype in ("bfloat16", "float32"))
    assert close_gap._master(low, "name", lambda name: (name, high)) == ("name", high)
    assert close_gap._master(high, "name", lambda name: None) is high
    assert close_gap._master(low, "name", None) is low
    assert high.backbone.dtype == torch.float32


# --- A full disk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [(candidate_files.os, "fsync"), (candidate_files, "write_json")])
def test_a_full_disk_stops_curation_in_one_line(
    place: tuple[Any, str], hermesflow: Command, by_length: None, data: Path, tiny: Path, tmp_path: Path
) -> None:
    words = ("curate", "--model", tiny, "--data", data, "--images", 1, "--matching", "exact", "--device", "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*place, full_disk)
        said = hermesflow(*words, "--out", tmp_path / "made")
    assert said.status == 2
    assert "cannot be written (No space left on device); make room" in said.err.splitlines()[-1]
    assert hermesflow(*words, "--out", tmp_path / "made").status == 0


def test_a_full_disk_stops_pairing_in_one_line(hermesflow: Command, tmp_path: Path) -> None:
    made = write_candidates(tmp_path / "made", candidate("a", (0.9, 0.1)))
    words = ("pairs", made, "--emphasis", "uniform", "--out", tmp_path / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_files, "write_bytes", full_disk)
        one_line(hermesflow(*words), "pairs.jsonl: cannot be written (No space left on device); make room")
    assert hermesflow(*words).status == 0


@pytest.mark.parametrize("place", [(close_gap, "write_json"), (store.RunFolder, "append")])
def test_a_full_disk_stops_the_loop_in_one_line(
    place: tuple[Any, str], hermesflow: Command, data: Path, tiny: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*place, full_disk)
        words = ("--model", tiny, "--data", data, *LOOP, "--device", "cpu", "--out", tmp_path / "out")
        said = hermesflow("close-gap", *words)
    assert said.status == 2
    assert "cannot be written (No space left on device); make room" in said.err.splitlines()[-1]
