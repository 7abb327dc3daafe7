"""mPLUG on tiny random weights in the published layout, against the network and the beam search written out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from gapbench.judges import mplug
from gapbench.judges.mplug import MPlug
from gapbench.judges.mplug_decoding import CLS, SEP, Decoder, beam_search
from gapbench.judges.mplug_network import build, published, read_checkpoint
from gapbench.models.base import Answers, Described
from gapbench.records import Decoding, Failure, InputError, Picture, Question

WIDTH, DEPTH, PATCH = 64, 2, 14  # of the vision tower; a head is 64 wide
HIDDEN, HEADS, INNER, TEXT_LAYERS, DECODER_LAYERS = 24, 2, 40, 2, 3
WORDS = "is there a red blue green circle square star in the image on left of large small two three yes no ? . old new"
VOCABULARY = [
    "[PAD]",
    *(f"[unused{n}]" for n in range(99)),
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *WORDS.split(),
]
BERT = {
    "architectures": ["BertForMaskedLM"],
    "hidden_act": "gelu",
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "vocab_size": len(VOCABULARY),
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "num_hidden_layers": 12,
    "fusion_layers": 6,
    "text_encoder_layers": TEXT_LAYERS,
    "text_decode_layers": DECODER_LAYERS,
    "encoder_width": HIDDEN,
    "add_cross_attention": False,
    "model_type": "bert",
}


# --- Files as they are published --------------------------------------------------------------------------------------


def published_state(grid: int, seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def put(name: str, *shape: int, scale: float = 0.3, mean: float = 0.0) -> None:
        state[name] = mean + scale * torch.randn(shape, generator=rng)

    def linear(name: str, outputs: int, inputs: int) -> None:
        put(f"{name}.weight", outputs, inputs, scale=1.2 / math.sqrt(inputs))
        put(f"{name}.bias", outputs)

    def norm(name: str, width: int) -> None:
        put(f"{name}.weight", width, mean=1.0)
        put(f"{name}.bias", width)

    def attention(name: str) -> None:
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linear(f"{name}.{part}", HIDDEN, HIDDEN)
        norm(f"{name}.output.LayerNorm", HIDDEN)

    def bert_layer(name: str, looks: bool) -> None:
        attention(f"{name}.attention")
        if looks:
            attention(f"{name}.crossattention")
        linear(f"{name}.intermediate.dense", INNER, HIDDEN)
        linear(f"{name}.output.dense", HIDDEN, INNER)
        norm(f"{name}.output.LayerNorm", HIDDEN)

    def embeddings(name: str) -> None:
        put(f"{name}.word_embeddings.weight", len(VOCABULARY), HIDDEN, scale=1.0)
        put(f"{name}.position_embeddings.weight", 32, HIDDEN)
        put(f"{name}.token_type_embeddings.weight", 2, HIDDEN)
        norm(f"{name}.LayerNorm", HIDDEN)
        state[f"{name}.position_ids"] = torch.arange(32)[None]

    def clip_block(name: str, width: int) -> None:
        put(f"{name}.attn.in_proj_weight", 3 * width, width, scale=1.2 / math.sqrt(width))
        put(f"{name}.attn.in_proj_bias", 3 * width)
        linear(f"{name}.attn.out_proj", width, width)
        norm(f"{name}.ln_1", width)
        linear(f"{name}.mlp.c_fc", 4 * width, width)
        linear(f"{name}.mlp.c_proj", width, 4 * width)
        norm(f"{name}.ln_2", width)

    for teacher in ("", "_m"):
        visual = f"visual_encoder{teacher}"
        put(f"{visual}.visual.class_embedding", WIDTH)
        put(f"{visual}.visual.positional_embedding", grid * grid + 1, WIDTH)
        put(f"{visual}.visual.proj", WIDTH, 16)
        put(f"{visual}.visual.conv1.weight", WIDTH, 3, PATCH, PATCH, scale=0.05)
        norm(f"{visual}.visual.ln_pre", WIDTH)
        for number in range(DEPTH):
            clip_block(f"{visual}.visual.transformer.resblocks.{number}", WIDTH)
        norm(f"{visual}.visual.ln_post", WIDTH)
        # CLIP's text tower, which a VQA model has no use for
        put(f"{visual}.positional_embedding", 7, 8)
        put(f"{visual}.text_projection", 8, 16)
        put(f"{visual}.logit_scale")
        clip_block(f"{visual}.transformer.resblocks.0", 8)
        put(f"{visual}.token_embedding.weight", 9, 8)
        norm(f"{visual}.ln_final", 8)

        linear(f"visn_fc{teacher}", HIDDEN, WIDTH)
        norm(f"visn_layer_norm{teacher}", HIDDEN)
        embeddings(f"text_encoder{teacher}.embeddings")
        for number in range(TEXT_LAYERS):
            bert_layer(f"text_encoder{teacher}.encoder.layer.{number}", looks=False)
        for number in range(12):
            bert_layer(f"fusion_encoder{teacher}.encoder.layer.{number}", looks=True)
        decoder = f"text_decoder{teacher}"
        embeddings(f"{decoder}.bert.embeddings")
        for number in range(DECODER_LAYERS):
            bert_layer(f"{decoder}.bert.encoder.layer.{number}", looks=True)
        linear(f"{decoder}.cls.predictions.transform.dense", HIDDEN, HIDDEN)
        norm(f"{decoder}.cls.predictions.transform.LayerNorm", HIDDEN)
        put(f"{decoder}.cls.predictions.decoder.weight", len(VOCABULARY), HIDDEN, scale=0.5)
        put(f"{decoder}.cls.predictions.bias", len(VOCABULARY))
        state[f"{decoder}.cls.predictions.decoder.bias"] = state[f"{decoder}.cls.predictions.bias"]
    # Special tokens are rare, but for an end now and then.
    bias = state["text_decoder.cls.predictions.bias"]
    bias[:104] -= 20
    bias[SEP] += 25.5
    return state


def write(folder: Path, stride: int = 3, grid: int = 3, change: Callable[[dict], object] = lambda state: None) -> Path:
    folder.mkdir()
    state = published_state(grid)
    change(state)
    # As DeepSpeed leaves it: wrapped twice, with "model." in the names.
    wrapped = {"model": {"module": {f"model.{name}": tensor for name, tensor in state.items()}}, "epoch": 3}
    torch.save(wrapped, folder / "pytorch_model.bin")
    (folder / "config.yaml").write_text("bert_config: config_bert.json\nimage_res: 504\nbeam_size: 5\n")
    (folder / "config_bert.json").write_text(json.dumps(BERT | {"stride_layer": stride}))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder


@pytest.fixture(scope="module", params=[3, 6])
def folder(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("mplug") / "files", stride=request.param)


@pytest.fixture(scope="module")
def judge(folder: Path) -> MPlug:
    return MPlug(folder, "cpu")


def noise(seed: int, size: tuple[int, int] = (50, 42)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def questions_about(pictures: int, each: int) -> list[Question]:
    words = WORDS.split()
    found = []
    for number in range(pictures):
        picture = Picture(f"picture-{number}", lambda number=number: noise(number))
        rng = np.random.default_rng(number)
        for k in range(each):
            text = " ".join(rng.choice(words, size=int(rng.integers(2, 30))))
            found.append(Question(f"{number}/{k}", text, (picture,)))
    return found


# --- By hand ----------------------------------------------------------------------------------------------------------


class ByHand:
    """The published graph in plain tensor operations, one question at a time, nothing cached."""

    def __init__(self, grid: int, stride: int) -> None:
        self.w, self.grid, self.stride = published_state(grid), grid, stride

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, x: Tensor, name: str, eps: float = 1e-12) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor) -> Tensor:
        width = q.shape[-1] // heads
        parts = []
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            scores = q[:, part] @ k[:, part].T / math.sqrt(width)
            parts.append(scores.masked_fill(~mask, -10000.0).softmax(-1) @ v[:, part])
        return torch.cat(parts, dim=-1)

    def attention(self, x: Tensor, over: Tensor, name: str, mask: Tensor) -> Tensor:
        q, k, v = (self.linear(y, f"{name}.self.{p}") for y, p in ((x, "query"), (over, "key"), (over, "value")))
        out = self.linear(self.attend(q, k, v, HEADS, mask), f"{name}.output.dense")
        return self.norm(out + x, f"{name}.output.LayerNorm")

    def feed_forward(self, x: Tensor, name: str) -> Tensor:
        out = self.linear(F.gelu(self.linear(x, f"{name}.intermediate.dense")), f"{name}.output.dense")
        return self.norm(out + x, f"{name}.output.LayerNorm")

    def embed(self, ids: Tensor, name: str) -> Tensor:
        words, places, types = (
            self.w[f"{name}.{kind}_embeddings.weight"] for kind in ("word", "position", "token_type")
        )
        return self.norm(words[ids] + places[: len(ids)] + types[0], f"{name}.LayerNorm")

    def see(self, pixels: Tensor) -> Tensor:
        v = "visual_encoder.visual"
        patches = F.conv2d(pixels[None], self.w[f"{v}.conv1.weight"], stride=PATCH)[0].flatten(1).T
        x = torch.cat([self.w[f"{v}.class_embedding"][None], patches]) + self.w[f"{v}.positional_embedding"]
        x = self.norm(x, f"{v}.ln_pre", 1e-5)
        everywhere = torch.ones(len(x), len(x), dtype=torch.bool)
        for number in range(DEPTH):
            block = f"{v}.transformer.resblocks.{number}"
            y = self.norm(x, f"{block}.ln_1", 1e-5)
            q, k, u = (y @ self.w[f"{block}.attn.in_proj_weight"].T + self.w[f"{block}.attn.in_proj_bias"]).chunk(3, -1)
            x = x + self.linear(self.attend(q, k, u, WIDTH // 64, everywhere), f"{block}.attn.out_proj")
            y = self.linear(self.norm(x, f"{block}.ln_2", 1e-5), f"{block}.mlp.c_fc")
            x = x + self.linear(y * torch.sigmoid(1.702 * y), f"{block}.mlp.c_proj")
        return self.norm(self.linear(self.norm(x, f"{v}.ln_post", 1e-5), "visn_fc"), "visn_layer_norm")

    def fuse(self, image: Tensor, ids: Tensor) -> Tensor:
        text = self.embed(ids, "text_encoder.embeddings")
        for number in range(TEXT_LAYERS):
            layer = f"text_encoder.encoder.layer.{number}"
            everywhere = torch.ones(len(text), len(text), dtype=torch.bool)
            text = self.feed_forward(self.attention(text, text, f"{layer}.attention", everywhere), layer)
        for j in range(6):
            layer = f"fusion_encoder.encoder.layer.{j + 6}"
            if j != 0 and j % self.stride == 0:
                both = torch.cat([image, text])
                everywhere = torch.ones(len(both), len(both), dtype=torch.bool)
                both = self.feed_forward(self.attention(both, both, f"{layer}.attention", everywhere), layer)
                image, text = image + both[: len(image)], both[len(image) :]
            else:
                among = torch.ones(len(text), len(text), dtype=torch.bool)
                over = torch.ones(len(text), len(image), dtype=torch.bool)
                text = self.attention(text, text, f"{layer}.attention", among)
                text = self.feed_forward(self.attention(text, image, f"{layer}.crossattention", over), layer)
        return torch.cat([image, text])

    def logits(self, memory: Tensor, sequence: Sequence[int]) -> Tensor:
        """Of what follows the sequence."""
        d = "text_decoder.bert"
        x = self.embed(torch.tensor(sequence), f"{d}.embeddings")
        causal = torch.ones(len(x), len(x), dtype=torch.bool).tril()
        over = torch.ones(len(x), len(memory), dtype=torch.bool)
        for number in range(DECODER_LAYERS):
            layer = f"{d}.encoder.layer.{number}"
            x = self.attention(x, x, f"{layer}.attention", causal)
            x = self.feed_forward(self.attention(x, memory, f"{layer}.crossattention", over), layer)
        head = "text_decoder.cls.predictions"
        x = self.norm(F.gelu(self.linear(x[-1], f"{head}.transform.dense")), f"{head}.transform.LayerNorm")
        return x @ self.w[f"{head}.decoder.weight"].T + self.w[f"{head}.bias"]


def plain_beam(next_logits: Callable[[list[int]], Tensor], beams: int = 5, longest: int = 10) -> tuple[list[int], int]:
    """The published rules, one question, sequences in lists. Also how many steps it took."""
    alive = [(0.0, [CLS])]
    stored = []
    for t in range(longest):
        penalty = ((5 + t + 1) / 6) ** 0.6
        grown = []
        for logp, sequence in alive:
            logps = next_logits(sequence).double().log_softmax(-1)
            for word, value in enumerate(logps.tolist()):
                if not (t == 0 and word == SEP):
                    grown.append(((logp + value) / penalty, [*sequence, word]))
        best = sorted(grown, key=lambda each: -each[0])[:beams]
        alive = [(score * penalty, sequence) for score, sequence in best]
        stop = best[0][1][-1] == SEP or t == longest - 1
        stored += [each for each in best if stop or each[1][-1] == SEP]
        if stop:
            return max(stored, key=lambda each: each[0])[1], t + 1
    raise AssertionError


# --- Loading ----------------------------------------------------------------------------------------------------------


def test_it_is_an_answerer_that_tells_what_its_numbers_depend_on(judge: MPlug, folder: Path) -> None:
    assert isinstance(judge, Answers)
    assert isinstance(judge, Described)
    told = judge.describe()
    assert len(told.pop("weights")) == 64
    assert told == {
        "name": "mplug_visual-question-answering_coco_large_en",
        "picture": "42x42, bicubic, aspect ignored",
        "question_tokens": 25,
        "stride_layer": json.loads((folder / "config_bert.json").read_text())["stride_layer"],
        "beams": 5,
        "max_tokens": 10,
        "min_tokens": 1,
        "dtype": "float32",
    }


@pytest.mark.parametrize(("grid", "side"), [(36, 504), (24, 336)])
def test_position_embeddings_decide_the_size_of_pictures(tmp_path: Path, grid: int, side: int) -> None:
    assert read_checkpoint(write(tmp_path / "files", grid=grid)).side == side


def test_every_tensor_comes_from_the_place_that_is_its_own(folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    taken = [published(name, 6) for name in build(checkpoint).state_dict()]
    assert len(set(taken)) == len(taken)


def test_the_bias_of_the_words_may_have_one_name_only(tmp_path: Path, folder: Path) -> None:
    def drop(state: dict) -> None:
        del state["text_decoder.cls.predictions.decoder.bias"]

    with_one = build(read_checkpoint(write(tmp_path / "files", change=drop))).state_dict()
    with_two = build(read_checkpoint(folder)).state_dict()
    assert all(torch.equal(tensor, with_two[name]) for name, tensor in with_one.items())


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("text_encoder.encoder.layer.0.attention.self.query.weight", "missing"),
        ("visual_encoder.visual.transformer.resblocks.1.attn.in_proj_bias", "missing"),
        ("fusion_encoder.encoder.layer.9.crossattention.self.key.bias", "missing"),
        ("itm_head.weight", "unexpected"),
        ("text_decoder.bert.encoder.layer.7.output.dense.bias", "unexpected"),
        ("visual_encoder.visual.ln_middle.weight", "unexpected"),
    ],
)
def test_missing_and_unexpected_tensors_are_refused_by_name(tmp_path: Path, name: str, error: str) -> None:
    def change(state: dict) -> None:
        if error == "missing":
            del state[name]
        else:
            state[name] = torch.zeros(3)

    where = write(tmp_path / "files", change=change)
    with pytest.raises(InputError, match=rf"pytorch_model.bin: tensor {name} is {error}$"):
        build(read_checkpoint(where))


def test_other_bad_files_are_refused_in_one_line(tmp_path: Path) -> None:
    where = write(tmp_path / "files")

    def refused(match: str) -> None:
        with pytest.raises(InputError, match=match) as caught:
            list(MPlug(where, "cpu").answer(questions_about(1, 1), Decoding()))
        assert "\n" not in str(caught.value)

    good = (where / "config_bert.json").read_text()
    (where / "config_bert.json").write_text(good.replace('"stride_layer": 3', '"stride_layer": 0'))
    refused("config_bert.json: stride_layer 0")
    (where / "config_bert.json").write_text(good.replace('"fusion_layers": 6', '"fusion": 6'))
    refused("config_bert.json: fusion_layers is missing")
    (where / "config_bert.json").write_text(good.replace('"intermediate_size": 40', '"intermediate_size": 44'))
    refused(r"intermediate.dense.weight has shape \(40, 24\), wanted \(44, 24\)")
    (where / "config_bert.json").write_text(good)
    (where / "vocab.txt").write_text("\n".join(VOCABULARY[1:]))
    refused("vocab.txt: .* bert-base-uncased")
    (where / "vocab.txt").unlink()
    refused("no vocab.txt in it")
    (where / "vocab.txt").write_text("\n".join(VOCABULARY))
    (where / "config.yaml").write_text("a: [")
    refused("config.yaml: cannot be read as YAML")
    (where / "config.yaml").write_text("a: 1")
    (where / "pytorch_model.bin").write_bytes(b"no zip")
    refused("pytorch_model.bin: cannot be read")
    with pytest.raises(InputError, match=r"/nowhere: no such folder"):
        read_checkpoint("/nowhere")


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    def spoil(state: dict) -> None:
        state["visn_fc.bias"][3] = float("nan")

    with pytest.raises(InputError, match=r"visn_fc.bias has values that are not finite"):
        build(read_checkpoint(write(tmp_path / "files", change=spoil)))


# --- What goes in -----------------------------------------------------------------------------------------------------


def test_pictures_are_squares_whatever_their_aspect_in_cubic_steps() -> None:
    picture = noise(0, (700, 300))
    pixels = mplug.preprocess(picture, 504)
    assert pixels.shape == (3, 504, 504)
    wanted = np.asarray(picture.resize((504, 504), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    wanted = (wanted - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    assert np.allclose(pixels.permute(1, 2, 0), wanted, atol=1e-5)


def test_pictures_are_preprocessed_as_torchvision_does_it() -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    steps = [
        transforms.Resize((504, 504), interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.ToTensor(),
        transforms.Normalize(mplug.MEAN, mplug.STD),
    ]
    for size in ((512, 512), (90, 640), (504, 504)):
        picture = noise(1, size)
        assert torch.allclose(mplug.preprocess(picture, 504), transforms.Compose(steps)(picture), atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_pictures_of_any_mode_are_taken(mode: str) -> None:
    assert mplug.preprocess(noise(0).convert(mode), 42).shape == (3, 42, 42)


def test_questions_are_in_lower_case_and_cut_to_25_tokens(judge: MPlug) -> None:
    ids, mask = mplug.tokenize(judge._tokenizer, ["Is THERE a Red circle?", " ".join(["circle"] * 40)])
    of = {word: number for number, word in enumerate(VOCABULARY)}
    short = [CLS, *(of[word] for word in ("is", "there", "a", "red", "circle", "?")), SEP]
    assert ids.tolist() == [short + [0] * 17, [CLS, *[of["circle"]] * 23, SEP]]
    assert mask.sum(dim=1).tolist() == [8, 25]


def test_answers_lose_special_tokens_but_not_what_followed_them(judge: MPlug) -> None:
    of = {word: number for number, word in enumerate(VOCABULARY)}
    assert mplug.read_answer(judge._tokenizer, [CLS, of["yes"], SEP]) == "yes"
    assert mplug.read_answer(judge._tokenizer, [CLS, of["no"], SEP, of["red"]]) == "no red"


# --- The network ------------------------------------------------------------------------------------------------------


def test_pictures_memory_and_logits_are_those_computed_by_hand(judge: MPlug) -> None:
    hand = ByHand(3, judge._checkpoint.stride)
    network = judge._network
    texts = ["is there a red circle ?", "yes", " ".join(["star"] * 40)]
    ids, mask = mplug.tokenize(judge._tokenizer, texts)
    pixels = torch.stack([mplug.preprocess(noise(n), 42) for n in range(3)])
    with torch.inference_mode():
        images = network.see(pixels)
        memory, memory_mask = network.fuse(images, ids, mask)
        decoder = Decoder(network.decoder, memory, memory_mask)
        sequences = torch.tensor([[[CLS, 104 + a, 110 + a] for a in range(2)] for _ in range(3)])
        straight = torch.arange(2).expand(3, 2)
        stepped = [decoder.step(sequences[:, :, t], straight) for t in range(3)]
    for q in range(3):
        seen = hand.see(pixels[q])
        assert torch.allclose(images[q], seen, atol=2e-5)
        wanted = hand.fuse(seen, ids[q, : mask[q].sum()])
        assert memory_mask[q].tolist() == [True] * len(wanted) + [False] * (memory.shape[1] - len(wanted))
        assert torch.allclose(memory[q, : len(wanted)], wanted, atol=2e-5)
        for beam in range(2):
            for t in range(3):
                logits = hand.logits(wanted, sequences[q, beam, : t + 1].tolist())
                assert torch.allclose(stepped[t][q, beam], logits, atol=1e-4)


def test_only_a_stride_of_three_changes_the_picture(judge: MPlug) -> None:
    ids, mask = mplug.tokenize(judge._tokenizer, ["is there a red circle ?"])
    with torch.inference_mode():
        image = judge._network.see(mplug.preprocess(noise(0), 42)[None])
        memory, _ = judge._network.fuse(image, ids, mask)
    assert torch.equal(memory[:, : image.shape[1]], image) == (judge._checkpoint.stride == 6)


# --- The beam search --------------------------------------------------------------------------------------------------


def step_of(models: Sequence[Callable[[list[int]], Tensor]], beams: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The step of `beam_search` for language models of whole sequences."""
    sequences: list[list[list[int]]] = [[[] for _ in range(beams)] for _ in models]

    def step(tokens: Tensor, origins: Tensor) -> Tensor:
        for q in range(len(models)):
            grown = [[*sequences[q][int(o)], int(t)] for o, t in zip(origins[q], tokens[q], strict=True)]
            sequences[q] = grown
        return torch.stack([torch.stack([m(s) for s in grown]) for m, grown in zip(models, sequences, strict=True)])

    return step


def random_language(seed: int, ends: float) -> Callable[[list[int]], Tensor]:
    def logits(sequence: list[int]) -> Tensor:
        rng = np.random.default_rng([seed, *sequence])
        found = torch.from_numpy(rng.normal(size=110).astype(np.float32)) * 2
        found[SEP] += ends
        return found

    return logits


def test_beam_search_is_the_published_one_on_random_languages() -> None:
    ends = [-3.0, 0.0, 2.0, 3.0, 4.0, 5.0, 7.0]
    models = [random_language(seed, ends[seed % len(ends)]) for seed in range(35)]
    wanted, steps = zip(*(plain_beam(model) for model in models), strict=True)
    assert min(steps) == 2
    assert max(steps) == 10
    assert len(set(steps)) > 4
    assert any(SEP in sequence[:-1] for sequence in wanted) or any(sequence[-1] != SEP for sequence in wanted)
    assert beam_search(step_of(models, 5), len(models), torch.device("cpu")) == list(wanted)
    for model, sequence in zip(models[:7], wanted, strict=False):
        assert beam_search(step_of([model], 5), 1, torch.device("cpu")) == [sequence]


def fixed_language(table: dict[tuple[int, ...], dict[int, float]]) -> Callable[[list[int]], Tensor]:
    """Probabilities by what has been said; what is not named shares what is left."""

    def logits(sequence: list[int]) -> Tensor:
        named = table.get(tuple(sequence[1:]), {})
        rest = (1 - sum(named.values())) / (110 - len(named))
        return torch.tensor([named.get(word, rest) for word in range(110)]).log()

    return logits


def search(table: dict[tuple[int, ...], dict[int, float]], **settings: int) -> list[int]:
    return beam_search(step_of([fixed_language(table)], settings.get("beams", 5)), 1, torch.device("cpu"), **settings)[
        0
    ]


def test_nothing_is_no_answer() -> None:
    assert search({(): {SEP: 0.99}, (7,): {SEP: 0.9}} | {(w,): {SEP: 0.5} for w in range(110) if w != 7})[1] != SEP


def test_it_stops_when_its_best_beam_ends() -> None:
    # After "7" the end is certain, so nothing longer is looked at, were it ever so likely.
    table = {(): {7: 0.6, 8: 0.39}, (7,): {SEP: 0.98}, (8,): {9: 0.99}, (8, 9): {SEP: 0.999}}
    assert search(table) == [CLS, 7, SEP]


def test_a_beam_that_ended_below_the_best_is_stored_and_can_win() -> None:
    # [8, SEP] ends second, while [7, 9] leads; what follows [7, 9] is spread out and falls behind.
    table = {(): {7: 0.6, 8: 0.39}, (7,): {9: 0.9}, (8,): {SEP: 0.95}}
    assert search(table) == [CLS, 8, SEP]


def test_an_ended_beam_goes_on() -> None:
    # [8, SEP, 9, SEP] is the first to end on top: its own beginning was stored, with a lower score for its length.
    table = {(): {7: 0.6, 8: 0.39}, (7,): {9: 0.9}, (8,): {SEP: 0.999}, (8, SEP): {9: 0.999}, (8, SEP, 9): {SEP: 0.999}}
    assert search(table) == plain_beam(fixed_language(table))[0] == [CLS, 8, SEP, 9, SEP]


def test_longer_answers_are_favored_by_the_length_penalty() -> None:
    # Both have the same probability but for 0.97; ((5 + 3) / 6) ** 0.6 against ((5 + 2) / 6) ** 0.6 outweighs it.
    table = {(): {7: 0.5, 8: 0.5}, (7,): {SEP: 0.9}, (8,): {9: 0.95}, (8, 9): {SEP: 0.95}}
    scores = {n: math.log(p) / ((5 + n) / 6) ** 0.6 for n, p in ((2, 0.45), (3, 0.5 * 0.95**2))}
    assert scores[3] > scores[2]
    assert search(table) == [CLS, 8, 9, SEP]


def test_it_is_cut_off_after_ten_tokens() -> None:
    found = search({(7,) * n: {7: 0.99} for n in range(12)})
    assert found == [CLS, *[7] * 10]


# --- Answers ----------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_the_graph_and_beam_by_hand(judge: MPlug) -> None:
    asked = questions_about(4, 5)
    hand = ByHand(3, judge._checkpoint.stride)
    found = list(judge.answer(asked, Decoding()))
    wanted, lengths = [], set()
    for question in asked:
        ids, mask = mplug.tokenize(judge._tokenizer, [question.text])
        memory = hand.fuse(hand.see(mplug.preprocess(question.pictures[0].open(), 42)), ids[0, : mask.sum()])
        sequence, steps = plain_beam(lambda s, memory=memory: hand.logits(memory, s))
        lengths.add(steps)
        wanted.append(mplug.read_answer(judge._tokenizer, sequence))
    assert found == wanted
    assert len(set(found)) > 3
    assert min(lengths) < 10


def test_a_batch_of_one_answers_as_a_batch_of_many(judge: MPlug, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = questions_about(5, 4)
    together = list(judge.answer(asked, Decoding()))
    assert list(judge.answer(asked, Decoding(max_new_tokens=1, seed=5))) == together
    assert [answer for question in asked for answer in judge.answer([question], Decoding())] == together
    monkeypatch.setattr(mplug, "QUESTIONS_PER_BATCH", 3)
    assert list(judge.answer(asked, Decoding())) == together
    assert list(judge.answer(asked[::-1], Decoding())) == together[::-1]


def test_a_picture_is_opened_and_seen_once_for_its_questions(judge: MPlug, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def open_it(number: int) -> Image.Image:
        opened.append(number)
        return noise(number)

    pictures = [Picture(f"p{n}", lambda n=n: open_it(n)) for n in range(3)]
    asked = [Question(f"{n}/{k}", "is there a star ?", (pictures[n],)) for n in range(3) for k in range(5)]
    monkeypatch.setattr(mplug, "QUESTIONS_PER_BATCH", 4)  # pictures go on over the ends of batches
    assert len(list(judge.answer(asked, Decoding()))) == 15
    assert opened == [0, 1, 2]


def test_what_cannot_be_answered_is_a_failure_of_its_own(judge: MPlug) -> None:
    def broken() -> Image.Image:
        raise OSError("truncated")

    good = questions_about(1, 2)
    picture = good[0].pictures[0]
    bad = [
        Question("a", "is there a star ?", (Picture("broken", broken),)),
        Question("b", "is there a star ?"),
        Question("c", "is there a star ?", (picture, picture)),
        Question("d", " ", (picture,)),
    ]
    found = list(judge.answer([good[0], *bad, good[1]], Decoding()))
    assert [found[0], found[-1]] == list(judge.answer(good, Decoding()))
    assert found[1] == Failure("picture broken cannot be read: truncated")
    assert "about one picture, not 0" in found[2].reason
    assert "about one picture, not 2" in found[3].reason
    assert "empty" in found[4].reason
    assert list(judge.answer(bad[:1], Decoding())) == [found[1]]
    assert list(judge.answer([], Decoding())) == []
