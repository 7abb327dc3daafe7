"""Checkpoints in every layout, from folders or the hub, are the same model; without a connection help comes soon."""

import hashlib
import json
import logging
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from checkpoints import CPU, as_bin, configure, fails, load_folder, same
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from gapbench import hub
from gapbench.models.show_o import files
from gapbench.models.show_o.checkpoint import load
from gapbench.models.show_o.files import Files, hub_files, local_files
from gapbench.records import InputError

pytestmark = pytest.mark.usefixtures("hub_cache")

# ---------------------------------------------------------------------------------------------------------------------
# Layouts of folders


def no_prefix(folder: Path) -> None:
    state = load_file(folder / "pytorch_model.safetensors")
    bare = {key.removeprefix("showo."): value for key, value in state.items()}
    bare["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(bare, folder / "pytorch_model.safetensors")


def training_run(folder: Path) -> None:
    """Checkpoints 500 and 1000, and 1500 that was cut short; the config lies where each keeps it."""
    weights = folder / "pytorch_model.safetensors"
    for step in (500, 1000, 1500):
        (folder / f"checkpoint-{step}" / "unwrapped_model").mkdir(parents=True)
    (folder / "checkpoint-final" / "unwrapped_model").mkdir(parents=True)
    (folder / "checkpoint-500" / "unwrapped_model" / "pytorch_model.bin").write_bytes(b"older")
    torch.save(load_file(weights), folder / "checkpoint-1000" / "unwrapped_model" / "pytorch_model.bin")
    (folder / "config.json").rename(folder / "checkpoint-1000" / "unwrapped_model" / "config.json")
    weights.unlink()


def one_step(folder: Path) -> None:
    (folder / "unwrapped_model").mkdir()
    (folder / "pytorch_model.safetensors").rename(folder / "unwrapped_model" / "pytorch_model.safetensors")


def tokenizer_aside(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).rename(folder / name / file)


LAYOUTS = {
    "model.safetensors": lambda f: (f / "pytorch_model.safetensors").rename(f / "model.safetensors"),
    "bin": lambda f: as_bin(f / "pytorch_model.safetensors"),
    "bin of magvit": lambda f: as_bin(f / "magvitv2" / "pytorch_model.safetensors"),
    "no prefix": no_prefix,
    "training run": training_run,
    "training run, config on top": lambda f: (
        training_run(f),
        (f / "checkpoint-1000" / "unwrapped_model" / "config.json").rename(f / "config.json"),
    ),
    "one step": one_step,
    "phi-1_5": lambda f: tokenizer_aside(f, "phi-1_5"),
    "tokenizer": lambda f: tokenizer_aside(f, "tokenizer"),
    "tokenizer.json alone": lambda f: (f / "tokenizer_config.json").unlink(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(folder: Path, golden: Path, layout: str) -> None:
    LAYOUTS[layout](folder)
    parts, usual = load_folder(folder), load_folder(golden)
    assert same(parts.phi, usual.phi)
    assert same(parts.magvit, usual.magvit)
    assert parts.tokenizer("a red circle").input_ids == usual.tokenizer("a red circle").input_ids
    assert parts.layout == usual.layout


def test_bare_tokenizer_files_are_phis(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    pieces = ["<|endoftext|>", "a", "b", "ab", "Ġ"]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    parts = load_folder(folder)
    assert parts.tokenizer("ab a").input_ids == [3, 4, 1]
    assert parts.layout.eot == 0


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("config.json", "has no config.json"),
        ("pytorch_model.safetensors", "has none of pytorch_model.safetensors, model.safetensors, pytorch_model.bin"),
        ("magvitv2/pytorch_model.safetensors", "magvitv2 has none of pytorch_model.safetensors"),
    ],
)
def test_missing_files(folder: Path, gone: str, said: str) -> None:
    (folder / gone).unlink()
    assert said in fails(folder)


# ---------------------------------------------------------------------------------------------------------------------
# The hub


def cached(cache: Path, repo: str, source: Path, names: tuple[str, ...]) -> None:
    """Put files into the hub's cache as its client lays them out; weights are named by their sha256."""
    root = cache / f"models--{repo.replace('/', '--')}"
    commit = hashlib.sha1(repo.encode()).hexdigest()
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    (root / "blobs").mkdir(exist_ok=True)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    for name in names:
        data = (source / name).read_bytes()
        blob = (hashlib.sha256 if name.endswith(".safetensors") else hashlib.sha1)(data).hexdigest()
        (root / "blobs" / blob).write_bytes(data)
        (snapshot / name).symlink_to(Path("../../blobs") / blob)


ADVICE = "Download showlab/show-o elsewhere and pass the folder: --model DIR (with magvitv2/ and phi-1_5/ inside)"


def hub_fails() -> str:
    with pytest.raises(InputError) as error:
        hub_files("showlab/show-o")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_checkpoint_from_the_cache(
    folder: Path, golden: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline_says = "HF_HUB_OFFLINE is set and the cache does not have it"
    assert hub_fails() == f"cannot fetch config.json of showlab/show-o from the hub ({offline_says}). {ADVICE}"
    cached(hub_cache, "showlab/show-o", folder, ("config.json", "pytorch_model.safetensors"))
    assert "cannot fetch pytorch_model.safetensors of showlab/magvitv2" in hub_fails()
    cached(hub_cache, "showlab/magvitv2", folder / "magvitv2", ("pytorch_model.safetensors",))
    assert "cannot fetch tokenizer.json of microsoft/phi-1_5" in hub_fails()
    cached(hub_cache, "microsoft/phi-1_5", folder, ("tokenizer.json", "tokenizer_config.json"))
    found = hub_files("showlab/show-o")
    assert found.magvit_config is None
    tiny = Files(**{**vars(found), "magvit_config": folder / "magvitv2" / "config.json"})
    parts = load(tiny, CPU, torch.float32, "show-o")
    assert same(parts.phi, load_folder(golden).phi)
    commit = hashlib.sha1(b"showlab/show-o").hexdigest()
    expected = {"name": "show-o", "repo": "showlab/show-o", "revision": "main", "commit": commit}
    assert {key: parts.provenance[key] for key in expected} == expected
    assert parts.provenance["weights"]["transformer"] == {
        "file": "pytorch_model.safetensors",
        "repo": "showlab/show-o",
        "commit": commit,
        "sha256": hashlib.sha256((folder / "pytorch_model.safetensors").read_bytes()).hexdigest(),
    }
    # The name of the blob is taken at its word.
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert hub.fingerprint(found.weights)["sha256"] == parts.provenance["weights"]["transformer"]["sha256"]


def test_what_lies_deeper_in_a_snapshot_is_known_too(tmp_path: Path) -> None:
    file = tmp_path / "models--mit--vila" / "snapshots" / "abc123" / "llm" / "model.safetensors"
    file.parent.mkdir(parents=True)
    blob = tmp_path / "models--mit--vila" / "blobs" / ("f" * 64)
    blob.parent.mkdir()
    blob.write_bytes(b"weights")
    file.symlink_to(blob)
    told = hub.fingerprint(file)
    assert told == {"file": "model.safetensors", "repo": "mit/vila", "commit": "abc123", "sha256": "f" * 64}
    assert hub.cached_commit(file) == "abc123"
    assert hub.cached_commit(tmp_path / "model.safetensors") is None


def test_what_a_folder_lacks_comes_from_the_cache(folder: Path, golden: Path, hub_cache: Path) -> None:
    (folder / "magvitv2").rename(folder.parent / "aside")
    advice = f"Download showlab/magvitv2 elsewhere and put it into {folder / 'magvitv2'}"
    assert fails(folder).endswith(advice)
    cached(hub_cache, "showlab/magvitv2", folder.parent / "aside", ("pytorch_model.safetensors",))
    (folder / "tokenizer.json").unlink()
    assert fails(folder).endswith(f"Download microsoft/phi-1_5 elsewhere and put it into {folder / 'phi-1_5'}")
    cached(hub_cache, "microsoft/phi-1_5", golden, ("tokenizer.json", "tokenizer_config.json"))
    found = local_files(folder)
    assert found.magvit_weights.is_relative_to(hub_cache)
    assert found.tokenizer.is_relative_to(hub_cache)
    assert found.source == {"folder": str(folder)}
    configure(folder, w_clip_vit=True)
    assert "cannot fetch config.json of openai/clip-vit-large-patch14-336" in fails(folder)


def test_no_connection_is_noticed_soon_and_quietly(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuses(*_: object, **__: object) -> None:
        logging.getLogger("huggingface_hub.utils").warning("Retrying in 1s")
        raise RuntimeError("[Errno -2] Name or service not known")

    def hangs(*_: object, **__: object) -> None:
        time.sleep(5)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)  # retries for 23 seconds, so it must not be reached
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.2)
    for probe in (refuses, hangs):
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", probe)
        started = time.monotonic()
        assert hub_fails() == f"cannot fetch config.json of showlab/show-o from the hub (no connection). {ADVICE}"
        assert time.monotonic() - started < 2
    assert capfd.readouterr() == ("", "")


def test_weights_are_asked_for_by_each_name(folder: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError

    cached(hub_cache, "showlab/show-o", folder, ("config.json",))
    asked = []

    def probe(url: str, **_: object) -> None:
        asked.append(url.rpartition("/resolve/")[2])
        raise RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", probe)
    commit = hashlib.sha1(b"showlab/show-o").hexdigest()
    assert hub_fails().startswith(f"showlab/show-o has none of {', '.join(files.WEIGHTS)} at revision {commit}")
    assert asked == [f"{commit}/{name}" for name in files.WEIGHTS]

    def private(*_: object, **__: object) -> None:
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", private)
    assert "(no such repository, or it is private)" in hub_fails()


@pytest.mark.network
def test_real_look_up_ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the connection: a repository that does not exist."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    started = time.monotonic()
    with pytest.raises(InputError, match=r"no connection|no such repository"):
        hub_files("gapbench-tests/does-not-exist")
    assert time.monotonic() - started < 10
