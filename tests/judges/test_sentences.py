"""Sentence embeddings on tiny random networks: pooling by hand, padding that changes nothing, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st

from gapbench.judges import sentences
from gapbench.judges.sentences import DEFAULT, Sentences
from gapbench.records import InputError

WORDS = "a two red blue dog cat on the left of sitting dark bright city forest".split()


@pytest.fixture(scope="module", params=["bert", "mpnet"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizer, MPNetConfig, MPNetModel, MPNetTokenizer

    marks = {
        "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        "mpnet": ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"],
    }
    vocabulary = {word: number for number, word in enumerate(marks[request.param] + WORDS)}
    config, model, tokenizer = {
        "bert": (BertConfig, BertModel, BertTokenizer),
        "mpnet": (MPNetConfig, MPNetModel, MPNetTokenizer),
    }[request.param]
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    network = model(config(vocab_size=len(vocabulary), max_position_embeddings=24, **sizes))
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    place = tmp_path_factory.mktemp("models") / f"tiny-{request.param}"
    network.save_pretrained(place)
    tokenizer(vocabulary).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Sentences:
    return Sentences(str(folder), "cpu")


def by_hand(embedder: Sentences, text: str) -> np.ndarray:
    """One text alone, so that there is nothing to mask."""
    tokenizer, network = embedder._loaded
    with torch.inference_mode():
        states = network(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0].numpy()
    mean = states.mean(axis=0)
    return mean / np.linalg.norm(mean)


def test_vectors_are_means_over_all_tokens(embedder: Sentences) -> None:
    texts = ["red dog", "two cat sitting on the left of a dark forest", "city", ""]
    found = embedder.embed(texts)
    assert (found.shape, found.dtype) == ((4, 16), np.float32)
    for vector, text in zip(found, texts, strict=True):
        np.testing.assert_allclose(vector, by_hand(embedder, text), atol=1e-5)
    assert embedder.embed([]).shape[0] == 0


@settings(max_examples=15)
@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join), min_size=1, max_size=6))
def test_a_vector_does_not_depend_on_what_stands_beside_it(embedder: Sentences, texts: list[str]) -> None:
    together = embedder.embed(texts)
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(embedder.embed(texts[::-1]), together[::-1], atol=1e-5)


def test_the_choice_of_greatest_cosine(embedder: Sentences, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [("red dog", ["blue cat", "dark forest", "bright city"]), ("city", ["cat", "dog"]), ("cat", ["dog", "cat"])]
    expected = [
        max(choices, key=lambda c, t=text: float(by_hand(embedder, t) @ by_hand(embedder, c)))
        for text, choices in asked
    ]
    assert embedder.nearest(asked) == expected
    assert expected[2] == "cat"
    assert embedder.nearest([]) == []
    monkeypatch.setattr(sentences, "BATCH", 1)
    assert embedder.nearest(asked) == expected


def test_of_equals_the_first(embedder: Sentences) -> None:
    unknown = ["zebra", "giraffe"]  # one token to a tokenizer that knows neither
    np.testing.assert_allclose(*embedder.embed(unknown), atol=1e-6)
    assert embedder.nearest([("dog", unknown), ("dog", unknown[::-1])]) == ["zebra", "giraffe"]


def test_long_texts_lose_their_end(embedder: Sentences) -> None:
    start = " ".join(["dog"] * 30)
    np.testing.assert_allclose(*embedder.embed([start, f"{start} cat"]), atol=1e-6)


def test_what_is_told(folder: Path, embedder: Sentences) -> None:
    told = embedder.describe()
    assert told["name"] == folder.name
    assert told["weights"]["file"] == "model.safetensors"
    assert len(told["weights"]["sha256"]) == 64
    assert "cpu" not in str(told)


def test_files_that_are_missing_or_broken(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"has none of model\.safetensors"):
        Sentences(str(empty)).describe()
    torn = shutil.copytree(folder, tmp_path / "torn")
    (torn / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"torn: the sentence model cannot be read"):
        Sentences(str(torn)).embed(["dog"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(InputError, match=r"all-mpnet-base-v2 .*--matching nearest:FOLDER, or choose --matching exact"):
        Sentences(DEFAULT).describe()


def test_a_tensor_that_is_missing(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    short = shutil.copytree(folder, tmp_path / "short")
    tensors = load_file(short / "model.safetensors")
    gone = next(name for name in tensors if "layer.0" in name)
    save_file({k: v for k, v in tensors.items() if k != gone}, short / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=f"tensor {gone} is missing"):
        Sentences(str(short)).embed(["dog"])
