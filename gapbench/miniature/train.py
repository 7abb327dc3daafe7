"""The recipe of `show-o-mini`: the same Show-o code at 2.9 million parameters, trained on the world's training split.

    python -m gapbench.miniature.train --out weights/show-o-mini            # about three hours on one core
    python -m gapbench.miniature.train --out weights/show-o-mini --device cuda

Nine stages. The image tokenizer (MAGVIT-v2 at 1.9 million parameters) learns the code book of `tiles.py`: its encoder
the bits of every code, its decoder the pixels, on random grids, coherent and not. The transformer learns both
directions at once, as Show-o does: to draw, the masked codes of a picture under its caption (masked token prediction
with a cosine mask rate); to answer, the text after a question, several questions about a picture sharing one row.
Drawing comes later than answering, so a third stage goes on with it, and with every fourth batch of questions; counting
and relations come last of all, so a fourth goes on with harder questions, and with every fourth batch of drawings. The
fifth shows bad drawings among the pictures: a model that never saw a broken thing takes it for a whole one, and cannot
judge what it draws. The sixth goes on with everything. By Muon (see muon.py) the seventh then learns to draw what
belongs together, the eighth to count and to tell where things are, and the last what is not there.
Everything is drawn from the seed; the transformer sees scenes of the training split alone.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from gapbench.miniature import eye, lessons, tiles, tokenizer
from gapbench.miniature.muon import MuonAndAdamW
from gapbench.miniature.world import SHAPES, scenes
from gapbench.models.show_o.layout import Layout, question_text, visible_drawing, visible_packed
from gapbench.models.show_o.magvit import Magvit, MagvitConfig
from gapbench.models.unified.pictures import to_images

MAX_TEXT = 48
PHI = {
    "vocab_size": 0,  # filled in from the layout
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "hidden_act": "gelu_new",
    "partial_rotary_factor": 0.5,
    "max_position_embeddings": 2048,
    "qk_layernorm": True,
    "tie_word_embeddings": False,
}
MAGVIT = MagvitConfig(
    channels=16,
    encoder_mult=(1, 1, 2, 2, 4),
    decoder_mult=(1, 1, 2, 4, 8),
    encoder_blocks=(1, 1, 1, 1, 1),
    decoder_blocks=(1, 1, 1, 1, 2),
    bits=tiles.BITS,
    groups=8,
)


# ---------------------------------------------------------------------------------------------------------------------
# Stage 1: the image tokenizer
# ---------------------------------------------------------------------------------------------------------------------


def train_magvit(steps: dict[str, int], batch: int, seed: int, device: torch.device, log) -> Magvit:
    """Encoder and decoder share nothing but the code book, so each learns its own half alone."""
    torch.manual_seed(seed)
    model = Magvit(MAGVIT).to(device)
    for name in ("encoder", "decoder"):
        module, rng = getattr(model, name), np.random.default_rng(seed)
        optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps[name], pct_start=0.05)
        log(f"magvit {name}: {sum(p.numel() for p in module.parameters()):,} parameters")
        started = time.time()
        for step in range(1, steps[name] + 1):
            grids = lessons.code_grids(rng, batch)
            codes = torch.from_numpy(grids).to(device).unflatten(1, (tiles.SIDE, tiles.SIDE))
            pixels = torch.from_numpy(tiles.picture_of(grids)).to(device).permute(0, 3, 1, 2).float().div(127.5).sub(1)
            with torch.autocast(device.type, torch.bfloat16):
                if name == "encoder":
                    # Codes that mean bare ground all look alike, so only one of them can be asked for.
                    codes = torch.where(codes & 7 >= len(SHAPES), tiles.BARE, codes)
                    said, right = module(pixels).float(), (model.code_vectors(codes) + 1) / 2
                    loss = F.binary_cross_entropy_with_logits(said, right)
                else:
                    loss = F.l1_loss(module(model.code_vectors(codes)).float(), pixels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % 100 == 0 or step == steps[name]:
                log(f"magvit {name} {step}/{steps[name]} loss {loss:.5f} {step / (time.time() - started):.2f} steps/s")
    return model.eval()


def check_magvit(model: Magvit, device: torch.device, log) -> None:
    """How many held-out pictures are encoded exactly, and how many decoded ones the exact eye reads back exactly."""
    held_out = scenes("test", 500)
    encoded = read_back = 0
    for start in range(0, len(held_out), 100):
        some = held_out[start : start + 100]
        right = np.stack([tiles.codes_of(scene) for scene in some])
        pixels = torch.from_numpy(tiles.picture_of(right)).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        encoded += (model.encode(pixels.to(device)).cpu().numpy() == right).all(axis=1).sum()
        with torch.inference_mode():
            pictures = to_images(model.decode(torch.from_numpy(right).to(device), tiles.SIDE, tiles.SIDE))
        read_back += sum(eye.read(picture) == scene for picture, scene in zip(pictures, some, strict=True))
    log(f"magvit: of {len(held_out)} held-out scenes {encoded} encode exactly, {read_back} are read back from decoding")


# ---------------------------------------------------------------------------------------------------------------------
# Stage 2: the transformer
# ---------------------------------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """A batch ready for the body: ids, positions and masks, and where the loss is taken."""

    ids: Tensor  # (B, L)
    positions: Tensor  # (B, L)
    visible: Tensor  # (B, 1, L, L) bool
    at: Tensor  # (n,) flat index of the positions that predict
    target: Tensor  # (n,) token ids


class Writer:
    """Turns scenes into rows."""

    def __init__(self, text_tokenizer, layout: Layout) -> None:
        self.tokenizer, self.layout = text_tokenizer, layout

    def tokens(self, text: str) -> list[int]:
        return self.tokenizer(text).input_ids

    def drawing(self, rng: random.Random, count: int, dense: bool, text_length: int, high: float = 0.0) -> Rows:
        """`count` drawing rows, text left-padded to `text_length`; one row in ten has the empty prompt.

        high: so many of the rows have a mask rate of the upper half of the schedule, where the text alone tells what
        to draw; below it most codes follow from their neighbours.
        """
        layout, side = self.layout, self.layout.image_tokens
        rows, pads, at, target = [], [], [], []
        length = text_length + side + 2
        for row in range(count):
            scene = lessons.training_scene(rng)
            caption = lessons.drawn_caption(scene, rng, dense)
            block = layout.prompt_block([] if rng.random() < 0.1 else self.tokens(caption))
            codes = tiles.codes_of(scene) + layout.image_offset
            within = rng.random() * (0.5 if row < high * count else 1.0)
            masked = rng.sample(range(side), max(1, round(side * math.cos(math.pi / 2 * within))))
            image = codes.copy()
            image[masked] = layout.mask
            pads.append(text_length - len(block))
            rows.append([layout.pad] * pads[-1] + block + [layout.soi, *image.tolist(), layout.eoi])
            at += [row * length + text_length + 1 + position for position in masked]
            target += codes[masked].tolist()
        visible = visible_drawing(torch.tensor(pads), text_length, length)[:, None]
        positions = torch.arange(length).expand(count, -1)
        return Rows(torch.tensor(rows), positions, visible, torch.tensor(at), torch.tensor(target))

    def answering(
        self, rng: random.Random, count: int, length: int, harder: bool = False, damaged: float = 0.0
    ) -> Rows:
        """`count` rows, each one picture followed by as many questions and answers as fit.

        harder: see `lessons.exchange`; damaged: share of pictures that are bad drawings, answered about as the eye
        sees them.
        """
        layout = self.layout
        prefix = layout.image_tokens + 3
        ids = torch.full((count, length), layout.pad)
        positions = torch.zeros((count, length), dtype=torch.long)
        segments = torch.full((count, length), -1)
        at, target = [], []
        for row in range(count):
            scene = lessons.training_scene(rng)
            codes, seen = lessons.picture(scene, rng, damaged)
            ids[row, :prefix] = layout.picture_prefix(torch.from_numpy(codes)[None])[0]
            positions[row, :prefix] = torch.arange(prefix)
            segments[row, :prefix] = 0
            start, segment = prefix, 1
            while True:
                question, answer = lessons.asked(scene, seen, rng, harder)
                asked = [layout.eot, *self.tokens(question_text(question))]
                said = [*self.tokens(f" {answer}"), layout.eot]
                end = start + len(asked) + len(said)
                if end > length:
                    break
                ids[row, start:end] = torch.tensor(asked + said)
                positions[row, start:end] = torch.arange(prefix, prefix + end - start)
                segments[row, start:end] = segment
                first = row * length + end - len(said)
                at += range(first - 1, first - 1 + len(said))
                target += said
                start, segment = end, segment + 1
        visible = visible_packed(segments)
        visible |= torch.eye(length, dtype=torch.bool)  # padding sees itself, so that no softmax is empty
        return Rows(ids, positions, visible[:, None], torch.tensor(at), torch.tensor(target))


class Course(NamedTuple):
    """Every `draw_every`-th step has 32 drawing rows, every fourth of these dense, every `answer_every`-th 20 answering
    rows. high: see `Writer.drawing`; harder, damaged: see `Writer.answering`. rate: of AdamW; muon: of Muon for the
    layers' matrices, where they are not AdamW's too.
    """

    name: str
    steps: int
    draw_every: int = 1
    answer_every: int = 1
    high: float = 0.0
    harder: bool = False
    damaged: float = 0.0
    rate: float = 1e-3
    warm_up: int = 200
    muon: float | None = None


def new_transformer(text_tokenizer, seed: int) -> tuple[torch.nn.Module, Layout]:
    from transformers import PhiConfig, PhiForCausalLM

    torch.manual_seed(seed)
    layout = Layout(len(text_tokenizer), 2**tiles.BITS, tiles.SIDE**2, text_tokenizer.eos_token_id, MAX_TEXT)
    # On a CPU, compiled eager attention takes half the time of the fused kernel at these sizes.
    config = PhiConfig(**{**PHI, "vocab_size": layout.vocabulary}, attn_implementation="eager")
    return PhiForCausalLM(config), layout


def train_transformer(
    model: torch.nn.Module, layout: Layout, course: Course, text_tokenizer, seed: int, device: torch.device, log, save
) -> None:
    steps = course.steps
    model = model.to(device).train()
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]

    def rate(step: int) -> float:
        return min((step + 1) / course.warm_up, 0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)

    rates = course.muon or 0.0, course.rate
    optimizer = MuonAndAdamW(model.parameters(), matrices if course.muon else (), rates, 0.02, rate)
    body = torch.compile(model.model, dynamic=False)
    writer, rng = Writer(text_tokenizer, layout), random.Random(f"{seed}/{course.name}" if course.high else seed)
    log(f"{course.name}: {sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {layout.vocabulary}")

    def loss_of(rows: Rows) -> Tensor:
        ids, positions, visible, at, target = (x.to(device) for x in rows)
        bias = torch.zeros(visible.shape, dtype=torch.bfloat16, device=device).masked_fill(~visible, -1e4)
        with torch.autocast(device.type, torch.bfloat16):
            hidden = body(input_ids=ids, attention_mask=bias, position_ids=positions, use_cache=False).last_hidden_state
            logits = model.lm_head(hidden.flatten(0, 1)[at])
        return F.cross_entropy(logits.float(), target)

    started, seen, means = time.time(), 0, {}
    for step in range(1, steps + 1):
        batches = {}
        if step % course.draw_every == 0:
            dense = step % (4 * course.draw_every) == 0
            batches["draw"] = writer.drawing(rng, 32, dense, 38 if dense else 22, course.high)
        if step % course.answer_every == 0:
            batches["answer"] = writer.answering(rng, 20, 160, course.harder, course.damaged)
        losses = {name: loss_of(rows) for name, rows in batches.items()}
        optimizer.step(sum(losses.values()))
        seen += sum(rows.ids.numel() for rows in batches.values())
        for name, loss in losses.items():
            times, mean = means.get(name, (0, 0.0))
            means[name] = times + 1, mean + (loss.item() - mean) / min(times + 1, 100)
        if step % 100 == 0 or step == steps:
            told = " ".join(f"{name} {mean:.4f}" for name, (_, mean) in means.items())
            log(f"{course.name} {step}/{steps} {told} {seen / (time.time() - started):.0f} tokens/s")
        if step % 1000 == 0 or step == steps:
            save(model, layout)


# ---------------------------------------------------------------------------------------------------------------------
# Writing the checkpoint, in the layout of the published ones
# ---------------------------------------------------------------------------------------------------------------------


def save_transformer(model: torch.nn.Module, layout: Layout, folder: Path) -> None:
    """config.json and pytorch_model.safetensors with Show-o's keys, bfloat16."""
    config = {
        "_class_name": "Showo",
        "codebook_size": layout.codebook_size,
        "llm_model_path": "show-o-mini",
        "llm_vocab_size": layout.text_vocabulary,
        "mask_token_id": layout.mask,
        "num_vq_tokens": layout.image_tokens,
        "vocab_size": layout.vocabulary,
        "w_clip_vit": False,
        "max_seq_length": layout.max_text,
        "phi_config": {**PHI, "vocab_size": layout.vocabulary},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(
        {f"showo.{key}": value.bfloat16().contiguous() for key, value in model.state_dict().items()},
        folder / "pytorch_model.safetensors",
    )


def transformer_state(folder: Path) -> dict[str, Tensor]:
    """What `save_transformer` wrote, in float32."""
    state = load_file(folder / "pytorch_model.safetensors")
    return {key.removeprefix("showo."): value.float() for key, value in state.items()}


def save_magvit(model: Magvit, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(MAGVIT.to_dict(), indent=1) + "\n")
    state = {k: v if v.dtype == torch.int64 else v.bfloat16() for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "pytorch_model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the checkpoint into")
    stages = ("all", "magvit", "transformer", "drawing", "asking", "judging", "both", "binding", "relating", "refusing")
    parser.add_argument("--stage", choices=stages, default="all")
    parser.add_argument("--steps", type=int, default=4000, help="of the transformer, both ways")
    parser.add_argument("--drawing-steps", type=int, default=5000, help="of the transformer, mostly drawing")
    parser.add_argument("--asking-steps", type=int, default=2400, help="of the transformer, mostly answering")
    parser.add_argument("--judging-steps", type=int, default=1600, help="the same, bad drawings among the pictures")
    parser.add_argument("--both-steps", type=int, default=1400, help="the same, and drawing in every step")
    parser.add_argument("--binding-steps", type=int, default=3000, help="drawing in every step, with Muon")
    parser.add_argument("--relating-steps", type=int, default=1000, help="mostly answering, with Muon")
    parser.add_argument("--refusing-steps", type=int, default=1500, help="the same, more bad drawings")
    parser.add_argument("--encoder-steps", type=int, default=800)
    parser.add_argument("--decoder-steps", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(args.device)

    from transformers import AutoTokenizer

    def log(line: str) -> None:
        print(line, flush=True)

    log(f"show-o-mini: seed {args.seed}, torch {torch.__version__}, {device}, {torch.get_num_threads()} threads")
    tokenizer.build(args.out)
    if args.stage in ("all", "magvit"):
        steps = {"encoder": args.encoder_steps, "decoder": args.decoder_steps}
        magvit = train_magvit(steps, 32, args.seed, device, log)
        save_magvit(magvit, args.out / "magvitv2")
        check_magvit(magvit, device, log)
    if args.stage == "magvit":
        return
    text_tokenizer = AutoTokenizer.from_pretrained(args.out)
    model, layout = new_transformer(text_tokenizer, args.seed)
    if args.stage in stages[3:]:
        model.load_state_dict(transformer_state(args.out))
    courses = (
        Course("transformer", args.steps),
        Course("drawing", args.drawing_steps, answer_every=4, high=0.5),
        Course("asking", args.asking_steps, draw_every=4, high=0.5, harder=True, rate=5e-4, warm_up=100),
        Course("judging", args.judging_steps, 4, 1, 0.5, harder=True, damaged=0.4, rate=5e-4, warm_up=100),
        Course("both", args.both_steps, 1, 1, 0.5, harder=True, damaged=0.3, rate=5e-4, warm_up=100),
        Course("binding", args.binding_steps, 1, 4, 0.5, harder=True, damaged=0.3, rate=5e-4, muon=2e-3),
        Course("relating", args.relating_steps, 4, 1, 0.5, harder=True, damaged=0.4, rate=5e-4, muon=2e-3),
        Course("refusing", args.refusing_steps, 2, 1, 0.5, harder=True, damaged=0.5, rate=5e-4, muon=2e-3),
    )
    for course in courses:
        if args.stage in ("all", course.name):
            train_transformer(
                model,
                layout,
                course,
                text_tokenizer,
                args.seed,
                device,
                log,
                lambda m, lay: save_transformer(m, lay, args.out),
            )


if __name__ == "__main__":
    main()
