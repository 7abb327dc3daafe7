"""Scores of captions: BERT's and BERTScore's by hand on a tiny random network, a server's model, and the exact one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image

from gapbench.homologous import Homologous, HomologousQuestion
from gapbench.miniature.benchmarks import picture_of
from gapbench.miniature.world import Scene, Thing
from gapbench.records import Failure, InputError, Picture
from hermesflow.caption_scores import Answered, BertCosine, BertScore, Facts, scorer

WORDS = "a two red blue circle cross dog left of dark forest".split()
SCENE = Scene((Thing(0, "red", "circle", "large"), Thing(2, "blue", "cross", "small")))
QUESTIONS = (
    HomologousQuestion("What color is the circle?", "red", "color", ("red", "blue", "pink")),
    HomologousQuestion("Is there a cross?", "yes", "object", ("yes", "no")),
    HomologousQuestion("What is it?", "drawing", "other"),
)
ITEM = Homologous("one", picture_of(SCENE, "scene"), "a red circle left of a blue cross", QUESTIONS)
OTHER = replace(ITEM, id="two", caption="two dark dog")
CAPTIONED = [(ITEM, [ITEM.caption, "a dog", "a blue circle left of a red cross"]), (OTHER, ["a dog", "dark forest"])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizer

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=24, **sizes))
        for parameter in network.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    place = tmp_path_factory.mktemp("models") / "tiny-bert"
    network.save_pretrained(place)
    BertTokenizer(vocabulary, model_max_length=24).save_pretrained(place)
    return place


def states(folder: Path, text: str) -> np.ndarray:
    """Last states (L,D) of one text alone, of length 1 each."""
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.inference_mode():
        found = AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state[0].numpy()
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def flat(scores: list[list[float | None]]) -> list[float | None]:
    return [score for of_item in scores for score in of_item]


def test_cosines_of_first_tokens(folder: Path) -> None:
    found = scorer(f"bert:{folder}", "cpu").scores(CAPTIONED)
    assert [len(of_item) for of_item in found] == [3, 2]
    expected = [float(states(folder, item.caption)[0] @ states(folder, t)[0]) for item, ts in CAPTIONED for t in ts]
    np.testing.assert_allclose(flat(found), expected, atol=1e-5)
    assert found[0][0] == pytest.approx(1.0)
    assert found[0][1] < 0.999


def test_bertscore_matches_tokens_greedily(folder: Path) -> None:
    found = scorer(f"bertscore:{folder}", "cpu").scores(CAPTIONED)
    expected = []
    for item, texts in CAPTIONED:
        for text in texts:
            # The package gives [CLS] and [SEP] no weight, but lets words match them.
            alike = states(folder, text) @ states(folder, item.caption).T
            precision, recall = alike.max(axis=1)[1:-1].mean(), alike.max(axis=0)[1:-1].mean()
            expected.append(2 * precision * recall / (precision + recall))
    np.testing.assert_allclose(flat(found), expected, atol=1e-5)
    assert [len(of_item) for of_item in found] == [3, 2]


def test_what_is_told(folder: Path) -> None:
    for name, made in (("bert", BertCosine), ("bertscore", BertScore)):
        told = made(str(folder), "cpu").describe()
        assert (told["name"], told["model"]) == (name, "tiny-bert")
        assert len(told["weights"]["sha256"]) == 64
        assert str(folder) not in str(told)
    assert BertScore(str(folder)).describe()["layer"] == 2
    assert BertCosine(str(folder)).describe()["pooling"] == "[CLS]"


@pytest.mark.parametrize("name", ["bert", "bertscore"])
def test_weights_that_are_missing_or_broken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    torn = shutil.copytree(folder, tmp_path / "torn")
    (torn / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"torn: .* cannot be read"):
        scorer(f"{name}:{torn}", "cpu").scores(CAPTIONED)
    (torn / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has none of model\.safetensors"):
        scorer(f"{name}:{torn}", "cpu").describe()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(InputError, match="bert:FOLDER, or choose another scorer") as error:
        scorer(name, "cpu").describe()
    assert "\n" not in str(error.value)


def test_questions_that_a_caption_answers() -> None:
    class Reader:
        """Reads the caption of a request: right if it has a word of the right answer in it, none else."""

        model = "reader"

        def chat(self, chats, read) -> Iterator[str | Failure]:
            for chat in chats:
                asked.append(chat.text)
                caption, _, rest = chat.text.removeprefix("Description: ").partition("\n\nQuestion: ")
                if "broken" in caption:
                    yield Failure("no reply")
                    continue
                lines = dict(line.split(". ") for line in rest.split("\n")[1:])
                wanted = "yes" if "yes" in lines.values() and "cross" in caption else caption.split()[1]
                letter = next((letter for letter, choice in lines.items() if choice == wanted), "none")
                yield read(SimpleNamespace(text=f'{{"choice": "{letter}"}}'))

    asked: list[str] = []
    found = Answered(Reader()).scores(
        [(ITEM, ["a red circle and a cross", "a red dog", "a pink cross", "a dog", "broken"]), (OTHER, ["a red"])]
    )
    assert found == [[1.0, 0.5, 0.5, 0.0, None], [0.5]]
    assert len(asked) == 2 * 6  # the question without choices is not asked
    assert not any(caption in text for text in asked for caption in (ITEM.caption, OTHER.caption))
    with pytest.raises(InputError, match="item 'one': no question with two to four choices"):
        Answered(Reader()).scores([(replace(ITEM, questions=QUESTIONS[2:]), ["a"])])


def test_facts_are_read_off_the_picture() -> None:
    wrong = replace(ITEM, caption="nothing that matters")
    assert Facts().scores([(wrong, [ITEM.caption, "a red circle", "a blue circle"])]) == [
        [1.0, pytest.approx(2 / 3), 0]
    ]
    blank = replace(ITEM, picture=Picture("blank", lambda: Image.new("RGB", (96, 96), "white")))
    with pytest.raises(InputError, match="'one': not a picture of the miniature world"):
        Facts().scores([(blank, ["a"])])


@pytest.mark.parametrize("name", ["odd", "facts:x", "questions", "bert:", "bertscore:"])
def test_unknown_scorers(name: str) -> None:
    with pytest.raises(InputError, match=rf"caption scorer {name}: unknown; there is bert\[:FOLDER\]"):
        scorer(name)
