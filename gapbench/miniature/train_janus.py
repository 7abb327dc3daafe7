"""The recipe of `janus-mini`: transformers' Janus at 6.6 million parameters, trained on the world's training split.

    python -m gapbench.miniature.train_janus --out weights/janus-mini            # two hours and a half on one core
    python -m gapbench.miniature.train_janus --out weights/janus-mini --device cuda

The vision tower first learns to see: a head that is thrown away afterwards says which code each of its patches shows;
without that, answering forms very late. Tower, aligner and language model then learn both directions at once: to
answer, the text after a question, several questions about a picture sharing one row; to draw, each of a picture's codes
after its caption and the codes before. Drawing forms first, so the next stage is mostly of answering; the last shows
bad drawings among the pictures, see train.py. The image tokenizer learns apart (see train_janus_vq.py); the language
model needs none of it, for the right codes of a scene are known. Everything is drawn from the seed.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import JanusConfig, JanusForConditionalGeneration, JanusProcessor, LlamaConfig

from gapbench.miniature import lessons, tiles, tokenizer, train_janus_vq
from gapbench.miniature.muon import MuonAndAdamW
from gapbench.miniature.train_janus_vq import Log, pixels_of
from gapbench.miniature.world import CELL_PIXELS, GRID, SHAPES
from gapbench.models.janus import files, text
from gapbench.models.janus.text import Text
from gapbench.models.show_o.layout import visible_packed
from gapbench.models.unified.backbone import positions_after, visible_causal
from gapbench.records import Picture, Question

CODES = tiles.SIDE**2
WIDTH, POSITIONS = 192, 256
LANGUAGE = {
    "hidden_size": WIDTH,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": POSITIONS,
}
SEEING = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": tiles.CODE_PIXELS}
ROLE = " ASSISTANT:"  # one token of the miniature's tokenizer
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image_placeholder>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}" + ROLE
)
GUIDANCE = 1.5  # validation scenes come out right most often: 0.77 at 1.0, 0.84 at 1.5 and 2.0, 0.63 at 3.0
SIGHT_STEPS = 300
VQ_STEPS = {"encoder": (800, 400), "decoder": (2000, 500)}
DRAWN, ASKED = 32, 20  # rows of a step
ROW = 160  # positions of a row with questions, its picture's among them


def new_network(words: Any, seed: int) -> JanusForConditionalGeneration:
    torch.manual_seed(seed)
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    config = JanusConfig(
        # On a CPU, compiled eager attention takes half the time of the fused kernel at these sizes.
        text_config=LlamaConfig(**LANGUAGE, **ids, vocab_size=len(words), tie_word_embeddings=False),
        vision_config={
            **SEEING,
            "image_size": GRID * CELL_PIXELS,
            "num_image_tokens": CODES,
            "projection_dim": WIDTH,
        },
        vq_config={
            **train_janus_vq.CONFIG,
            "num_hidden_layers": 2,
            "projection_dim": WIDTH,
            "image_token_embed_dim": WIDTH,
        },
        image_token_id=words.image_token_id,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    network = JanusForConditionalGeneration(config)
    network.generation_config._from_model_config = False  # or transformers forgets the next on loading
    network.generation_config.generation_kwargs = {"boi_token_id": words.boi_token_id}
    network.generation_config.guidance_scale = GUIDANCE
    bits = (torch.arange(2**tiles.BITS)[:, None] >> torch.arange(tiles.BITS) & 1).float() * 2 - 1
    with torch.no_grad():
        network.model.vqmodel.quantize.embedding.weight.copy_(F.normalize(bits, dim=-1))
        network.model.generation_embeddings.weight.copy_(bits)
    return network


def new_words(folder: Path) -> Any:
    """The miniature's words with Janus' special tokens, as the processor wants them."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer.build(folder, start="<|begin|>")
    words = AutoTokenizer.from_pretrained(folder, extra_special_tokens=text.SPECIAL, pad_token="<|pad|>")
    begin = words.bos_token
    words.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, words.bos_token_id)]
    )
    return words


def save(network: JanusForConditionalGeneration, words: Any, folder: Path) -> None:
    """In the layout of the published checkpoints, bfloat16."""
    from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

    side = GRID * CELL_PIXELS
    kept = {name: value.bfloat16() for name, value in network.state_dict().items()}
    network.save_pretrained(folder, state_dict=kept)
    images = JanusImageProcessorPil(
        size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3, min_size=14
    )
    JanusProcessor(
        images, words, chat_template=TEMPLATE, use_default_system_prompt=False, num_image_tokens=CODES
    ).save_pretrained(folder)


def train_sight(network: JanusForConditionalGeneration, steps: int, seed: int, device: str, log: Log) -> None:
    """The vision tower alone, patch by patch."""
    tower, rng = network.model.vision_model.to(device).train(), np.random.default_rng(seed)
    head = torch.nn.Linear(SEEING["hidden_size"], 2**tiles.BITS, device=device)
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=1e-3, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
    for step in range(1, steps + 1):
        grids = lessons.code_grids(rng, 32)
        codes = torch.from_numpy(np.where(grids & 7 >= len(SHAPES), tiles.BARE, grids)).to(device)
        with torch.autocast(device, torch.bfloat16):
            said = head(tower(pixels_of(grids).to(device), return_dict=True).last_hidden_state)
        loss = F.cross_entropy(said.float().flatten(0, 1), codes.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
        if step % 100 == 0 or step == steps:
            right = (said.argmax(dim=-1) == codes).float().mean()
            log(f"sight {step}/{steps} loss {loss:.4f}, {right:.4f} of the patches right")


class Rows(NamedTuple):
    """A batch for the language model, and where the loss is taken; ids where features or codes come in mean nothing."""

    ids: Tensor  # (B, L)
    positions: Tensor  # (B, L)
    visible: Tensor  # (B, 1, L, L) bool
    at: Tensor  # (n,) flat index of the positions that predict
    target: Tensor  # (n,) token ids or image codes


class Writer:
    """Turns scenes into rows, of the very tokens that `models/janus` makes of a question and a prompt."""

    def __init__(self, words: Text) -> None:
        self.words = words
        picture = Picture("", lambda: None)  # type: ignore[arg-type, return-value]
        self._asked = Question("", "{}", (picture,))
        stretches = words.stretches(self._asked)
        (before,) = words.before_pictures(stretches)
        self.before, self._after = before, stretches[-1]

    def drawing(self, rng: random.Random, dense: bool, length: int) -> tuple[Rows, Tensor]:
        """Rows, prompts left-padded to `length`, and the codes (B,36); one prompt in ten is dropped."""
        rows, pads, codes = [], [], []
        for _ in range(DRAWN):
            scene = lessons.training_scene(rng)
            row = self.words.drawing_row(lessons.drawn_caption(scene, rng, dense))
            if rng.random() < 0.1:
                row = self.words.unprompted(row)
            pads.append(length - len(row))
            rows.append([self.words.pad] * pads[-1] + row + [self.words.pad] * (CODES - 1))
            codes.append(torch.from_numpy(tiles.codes_of(scene)))
        whole = length + CODES - 1
        at = (torch.arange(DRAWN)[:, None] * whole + length - 1 + torch.arange(CODES)).flatten()
        right = torch.stack(codes)
        pads_B = torch.tensor(pads)
        visible, positions = visible_causal(pads_B, whole), positions_after(pads_B, whole)
        return Rows(torch.tensor(rows), positions, visible, at, right.flatten()), right

    def answering(self, rng: random.Random, harder: float, damaged: float) -> tuple[Rows, Tensor]:
        """Rows, each a picture followed by as many questions and answers as fit, and the pixels (B,3,96,96).

        harder: share of the questions that are asked to teach counting and relations, see `lessons.exchange`; damaged:
        of the pictures that are bad drawings, answered about as the eye sees them.
        """
        words, prefix = self.words, len(self.before) + CODES
        ids = torch.full((ASKED, ROW), words.pad)
        positions, segments = torch.zeros((ASKED, ROW), dtype=torch.long), torch.full((ASKED, ROW), -1)
        at, target, codes = [], [], []
        for row in range(ASKED):
            scene = lessons.training_scene(rng)
            picture, seen = lessons.picture(scene, rng, damaged)
            codes.append(picture)
            ids[row, : len(self.before)] = torch.tensor(self.before)
            positions[row, :prefix] = torch.arange(prefix)
            segments[row, :prefix] = 0
            start, segment = prefix, 1
            while True:
                question, answer = lessons.asked(scene, seen, rng, rng.random() < harder)
                asked = words.after_pictures(self._after.replace("{}", question), True)
                said = [*words.tokens(f" {answer}"), words.eos]
                end = start + len(asked) + len(said)
                if end > ROW:
                    break
                ids[row, start:end] = torch.tensor(asked + said)
                positions[row, start:end] = torch.arange(prefix, prefix + end - start)
                segments[row, start:end] = segment
                first = row * ROW + end - len(said)
                at += range(first - 1, first - 1 + len(said))
                target += said
                start, segment = end, segment + 1
        visible = visible_packed(segments) & torch.ones(ROW, ROW, dtype=torch.bool).tril()
        visible |= torch.eye(ROW, dtype=torch.bool)  # padding sees itself, so that no softmax is empty
        rows = Rows(ids, positions, visible[:, None], torch.tensor(at), torch.tensor(target))
        return rows, pixels_of(np.stack(codes))


class Lessons:
    """The losses of both directions."""

    def __init__(self, network: JanusForConditionalGeneration, words: Text, device: str) -> None:
        self.network, self.writer, self.device = network, Writer(words), device
        self.body = torch.compile(network.model.language_model, dynamic=False)

    def draw(self, rng: random.Random, dense: bool) -> Tensor:
        rows, codes = self.writer.drawing(rng, dense, 38 if dense else 22)
        parts = self.network.model
        with torch.autocast(self.device, torch.bfloat16):
            texts = parts.get_input_embeddings()(rows.ids[:, : 1 - CODES].to(self.device))
            drawn = parts.generation_aligner(parts.generation_embeddings(codes[:, :-1].to(self.device)))
            return self._loss(rows, torch.cat([texts, drawn], dim=1), parts.generation_head)

    def answer(self, rng: random.Random, harder: float, damaged: float) -> Tensor:
        rows, pixels = self.writer.answering(rng, harder, damaged)
        parts, start = self.network.model, len(self.writer.before)
        with torch.autocast(self.device, torch.bfloat16):
            seen = parts.aligner(parts.vision_model(pixels.to(self.device), return_dict=True).last_hidden_state)
            texts = parts.get_input_embeddings()(rows.ids.to(self.device))
            embedded = torch.cat([texts[:, :start], seen.to(texts.dtype), texts[:, start + CODES :]], dim=1)
            return self._loss(rows, embedded, self.network.lm_head)

    def _loss(self, rows: Rows, embedded: Tensor, head: torch.nn.Module) -> Tensor:
        bias = torch.zeros(rows.visible.shape, dtype=torch.bfloat16).masked_fill(~rows.visible, -1e4)
        hidden = self.body(
            inputs_embeds=embedded.float(),
            attention_mask=bias.to(self.device),
            position_ids=rows.positions.to(self.device),
            use_cache=False,
        ).last_hidden_state
        logits = head(hidden.flatten(0, 1)[rows.at.to(self.device)])
        return F.cross_entropy(logits.float(), rows.target.to(self.device))


class Stage(NamedTuple):
    """Of the language model. Every step has rows with questions, every `drawing`-th one also drawings.

    harder: of the questions, in the first and in the second half; damaged: of the pictures, see `Writer.answering`.
    begin, end: factors of the rates, in the first half, and after the last step, toward which they fall linearly.
    """

    name: str
    steps: int
    drawing: int
    harder: tuple[float, float]
    damaged: float
    begin: float
    end: float


STAGES = (
    Stage("both", 3500, 1, (0.0, 1.0), 0.0, 1.0, 0.25),
    Stage("asking", 4000, 4, (0.5, 0.5), 0.0, 1.0, 0.0),
    Stage("judging", 1600, 4, (0.7, 0.7), 0.4, 0.5, 0.0),
)


def train_language(
    network: JanusForConditionalGeneration, words: Text, stage: Stage, seed: int, device: str, log: Log
) -> None:
    """All but the image tokenizer."""
    network = network.to(device).train()
    trained = {name: value for name, value in network.named_parameters() if not name.startswith("model.vqmodel.")}
    matrices = [p for name, p in trained.items() if p.ndim == 2 and "language_model.layers." in name]

    def rate(step: int) -> float:
        left = 2 * (1 - step / stage.steps)
        return min((step + 1) / 200, stage.begin, max(0.02, stage.end + (stage.begin - stage.end) * left))

    optimizer = MuonAndAdamW(trained.values(), matrices, (2e-3, 1e-3), 0.02, rate)
    lesson, rng, means = Lessons(network, words, device), random.Random(f"{seed}/janus-mini/{stage.name}"), {}
    log(f"{stage.name}: {sum(p.numel() for p in trained.values()):,} parameters")
    began = time.time()
    for step in range(1, stage.steps + 1):
        losses = {"answer": lesson.answer(rng, stage.harder[2 * step > stage.steps], stage.damaged)}
        if step % stage.drawing == 0:
            dense = step // stage.drawing % 4 == 0
            losses["draw densely" if dense else "draw"] = lesson.draw(rng, dense)
        optimizer.step(sum(losses.values()))
        for name, loss in losses.items():
            means[name] = means.get(name, loss.item()) * 0.98 + 0.02 * loss.item()
        if step % 100 == 0 or step == stage.steps:
            told = " ".join(f"{name} {mean:.4f}" for name, mean in sorted(means.items()))
            log(f"{stage.name} {step}/{stage.steps} {told} {step / (time.time() - began):.2f} steps/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the checkpoint into")
    names = [*(stage.name for stage in STAGES), "vq"]
    parser.add_argument("--stages", nargs="+", choices=names, default=names, help="both begins anew; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    def log(line: str) -> None:
        print(line, flush=True)

    log(f"janus-mini: seed {args.seed}, torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads")
    words = new_words(args.out)
    if "both" in args.stages:
        network = new_network(words, args.seed)
        train_sight(network, SIGHT_STEPS, args.seed, args.device, log)
    else:
        network = JanusForConditionalGeneration.from_pretrained(
            args.out, dtype=torch.float32, attn_implementation="eager"
        )
    save(network, words, args.out)
    spoken = text.load(files.local_files(args.out), len(words))
    for stage in STAGES:
        if stage.name in args.stages:
            train_language(network, spoken, stage, args.seed, args.device, log)
            save(network, words, args.out)
    if "vq" in args.stages:
        train_janus_vq.train(network, VQ_STEPS, args.seed, args.device, log)
        save(network, words, args.out)


if __name__ == "__main__":
    main()
