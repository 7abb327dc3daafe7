from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_janus import write_checkpoint

from gapbench.miniature.picture import render
from gapbench.miniature.world import scenes
from gapbench.models import zoo
from gapbench.records import Decoding, InputError, Picture, Prompt, Question, Sampling
from hermesflow.checkpoints import load_state, save_model, save_state


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def responses(model) -> tuple[list[str], list[bytes]]:
    pictures = [Picture(f"p{n}", lambda scene=scene: render(scene)) for n, scene in enumerate(scenes("test", 3))]
    questions = [Question(p.key, "Give a caption for this image.", (p,)) for p in pictures]
    prompts = [Prompt("a", "a photo of a red circle", 0), Prompt("b", "a photo of two blue squares", 1)]
    answers = [str(answer) for answer in model.answer(questions, Decoding(max_new_tokens=12))]
    return answers, [image.tobytes() for image in model.draw(prompts, Sampling(4, 1.0, 1.0))]


@pytest.mark.parametrize("name", ["tiny", "show-o-mini"])
def test_a_written_model_answers_and_draws_as_it_did(name: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = zoo.load(str(tiny_checkpoint) if name == "tiny" else name, "cpu", "float32")
    with torch.no_grad():  # another model than the one on disk, by less than bfloat16 can tell
        model.backbone.phi.lm_head.bias += 1e-5
    save_model(model, tmp_path / "written")
    again = zoo.load(str(tmp_path / "written"), "cpu", "float32")
    for key, value in model.backbone.phi.state_dict().items():
        assert torch.equal(value, again.backbone.phi.state_dict()[key]), key
    assert responses(again) == responses(model)
    assert again.layout == model.layout
    assert again.settings(Sampling()) == model.settings(Sampling())
    assert "folder" in again.describe()


def test_the_layout_is_the_one_it_came_in(tiny_checkpoint: Path, tmp_path: Path) -> None:
    save_model(zoo.load(str(tiny_checkpoint), "cpu", "float32"), tmp_path / "written")
    before, after = (load_file(f / "pytorch_model.safetensors") for f in (tiny_checkpoint, tmp_path / "written"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    old, new = (json.loads((f / "config.json").read_text()) for f in (tiny_checkpoint, tmp_path / "written"))
    drawn = {"steps": 16, "guidance": 1.75}
    assert new == {**old, "max_seq_length": 128, "sampling": drawn}  # which the old one left to the defaults
    assert [path.name for path in tmp_path.iterdir()] == ["written"]  # nothing left beside it


def test_a_written_janus_draws_with_the_guidance_of_its_zoo_row(tmp_path: Path) -> None:
    model = zoo.load(str(write_checkpoint(tmp_path / "janus")), "cpu")
    model.defaults = replace(model.defaults, guidance=1.5)  # as a row says; the folder says 4
    save_model(model, tmp_path / "written")
    again = zoo.load(str(tmp_path / "written"), "cpu")
    assert again.settings(Sampling()) == model.settings(Sampling())
    prompts = [Prompt("a", "a photo of a red circle", 0), Prompt("b", "a photo of two blue squares", 1)]
    drawn = [list(each.draw_codes(prompts, Sampling())) for each in (model, again)]
    assert all(torch.equal(*pair) for pair in zip(*drawn, strict=True))


def test_nothing_is_written_over_and_what_a_kill_left_is_cleared(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = zoo.load(str(tiny_checkpoint), "cpu", "float32")
    (tmp_path / ".written.partial").mkdir()
    (tmp_path / ".written.partial" / "model.safetensors").write_text("half")
    save_model(model, tmp_path / "written")
    assert not (tmp_path / "written" / "model.safetensors").exists()
    with pytest.raises(InputError, match="is there already"):
        save_model(model, tmp_path / "written")


def test_a_full_disk_and_a_folder_that_is_none_are_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = zoo.load(str(tiny_checkpoint), "cpu", "float32")
    with disk_of(20_000), pytest.raises(InputError, match=r"written: cannot be written .* make room"):
        save_model(model, tmp_path / "written")
    assert not (tmp_path / "written").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written \(Not a directory\)"):
        save_model(model, tmp_path / "file" / "written")


def test_a_state_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    assert load_state(file) is None
    save_state(file, {"step": 3, "tensors": {"a": torch.arange(4.0)}, "rate": 0.1})
    with disk_of(500), pytest.raises(InputError, match=r"state.pt: cannot be written"):
        save_state(file, {"step": 4, "tensors": {"a": torch.arange(9_999.0)}})
    found = load_state(file)
    assert found is not None
    assert found["step"] == 3
    assert torch.equal(found["tensors"]["a"], torch.arange(4.0))


def test_only_tensors_and_plain_values_are_read(tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    torch.save({"step": Path("/")}, file)
    with pytest.raises(InputError, match=r"state.pt: cannot be read .* remove it"):
        load_state(file)
    file.write_bytes(b"torn")
    with pytest.raises(InputError, match="cannot be read"):
        load_state(file)
