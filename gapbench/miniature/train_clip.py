"""The recipe of `clip-mini`: a CLIP of 1.1 million parameters that knows the miniature world.

    python -m gapbench.miniature.train_clip --out weights/clip-mini       # about a quarter of an hour on one core

It judges drawings as CLIP does in CLIP-Score, through the same code, and its image embeddings are what the miniature's
FID compares. Trained on scenes of the training split: a picture's caption among those of the batch and among captions
of scenes that differ in one thing (Radford et al. 2021, with hard negatives as in Yuksekgonul et al. 2023).
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gapbench.judges.clip_score import MEAN, STD, ClipScore
from gapbench.miniature import tiles, tokenizer
from gapbench.miniature.language import dense_caption, describe, photo_caption
from gapbench.miniature.picture import render
from gapbench.miniature.train import training_scene
from gapbench.miniature.world import COLORS, PICTURE_PIXELS, SHAPES, Scene, scenes

START = "<|startoftext|>"
TEXT = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
EMBEDDING = 64
MAX_TEXT = 48


def changed(scene: Scene, rng: random.Random) -> Scene:
    """A scene that differs in the color or shape of one group, or in that two groups have changed colors."""
    groups = scene.groups()
    name = rng.choice(list(groups))
    others = [other for other in groups if other[0] != name[0] and other[1] != name[1]]
    if others and rng.random() < 0.4:
        other = rng.choice(others)
        swap = {name: other[0], other: name[0]}
        return Scene(tuple(replace(t, color=swap.get(t.name, t.color)) for t in scene.things))
    if rng.random() < 0.5:
        color = rng.choice([c for c in COLORS if c != name[0]])
        return Scene(tuple(replace(t, color=color) if t.name == name else t for t in scene.things))
    shape = rng.choice([s for s in SHAPES if s != name[1]])
    return Scene(tuple(replace(t, shape=shape) if t.name == name else t for t in scene.things))


def caption(scene: Scene, kind: float, seed: float) -> str:
    """A caption of one of the three kinds; equal seeds word two scenes alike."""
    rng = random.Random(seed)
    if kind < 0.25:
        return dense_caption(scene, rng)
    photo = photo_caption(scene, rng) if kind < 0.55 else None
    return photo or describe(scene, rng).text


def batch_of(rng: random.Random, count: int) -> tuple[Tensor, list[str], list[str]]:
    """Pictures (count,3,96,96) normalised, their captions, and those of scenes changed in one thing."""
    some = [training_scene(rng) for _ in range(count)]
    pixels = tiles.picture_of(np.stack([tiles.codes_of(scene) for scene in some])).astype(np.float32) / 255
    pixels = (pixels - np.float32(MEAN)) / np.float32(STD)
    texts, wrong = [], []
    for scene in some:
        kind, seed = rng.random(), rng.random()
        texts.append(caption(scene, kind, seed))
        wrong.append(caption(changed(scene, rng), kind, seed))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), texts, wrong


def tokens_of(text_tokenizer, texts: list[str]) -> Tensor:
    start, end = text_tokenizer.bos_token_id, text_tokenizer.eos_token_id
    rows = [[start, *ids[: MAX_TEXT - 2], end] for ids in text_tokenizer(texts, add_special_tokens=False).input_ids]
    longest = max(map(len, rows))
    return torch.tensor([row + [end] * (longest - len(row)) for row in rows])


def train(folder: Path, steps: int, batch: int, seed: int, device: torch.device, log: Callable[[str], None]) -> None:
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    tokenizer.build(folder, START)
    words = AutoTokenizer.from_pretrained(folder)
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.eos_token_id}
    config = CLIPConfig(
        text_config={**TEXT, "vocab_size": len(words), "max_position_embeddings": MAX_TEXT, **ids},
        vision_config={**VISION, "image_size": PICTURE_PIXELS, "patch_size": PICTURE_PIXELS // tiles.SIDE},
        projection_dim=EMBEDDING,
    )
    torch.manual_seed(seed)
    model = CLIPModel(config).to(device)
    log(f"clip-mini: {sum(p.numel() for p in model.parameters()):,} parameters")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.05)
    rng, right, started = random.Random(seed), torch.arange(batch, device=device), time.time()
    for step in range(1, steps + 1):
        pixels, texts, wrong = batch_of(rng, batch)
        with torch.autocast(device.type, torch.bfloat16):
            ours = model.get_image_features(pixel_values=pixels.to(device)).pooler_output
            theirs = model.get_text_features(input_ids=tokens_of(words, texts + wrong).to(device)).pooler_output
        ours, theirs = F.normalize(ours.float(), dim=-1), F.normalize(theirs.float(), dim=-1)
        logits = model.logit_scale.exp().clamp(max=100) * ours @ theirs.T
        loss = (F.cross_entropy(logits, right) + F.cross_entropy(logits[:, :batch].T, right)) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            own = (logits.diagonal() > logits[right, batch + right]).float().mean()
            log(f"{step}/{steps} loss {loss:.3f}, {own:.1%} prefer their caption to the changed one, "
                f"{step / (time.time() - started):.2f} steps/s")  # fmt: skip
    model.to(torch.bfloat16).save_pretrained(folder)


def check(folder: Path, log: Callable[[str], None]) -> None:
    """On held-out scenes: how often a picture scores higher with its caption than with that of a changed scene."""
    judge, rng = ClipScore(str(folder), "cpu"), random.Random(0)
    held_out = scenes("test", 500)
    pictures = [render(scene) for scene in held_out]
    seeds = [(rng.random(), rng.random()) for _ in held_out]
    own = judge(pictures, [caption(scene, *seed) for scene, seed in zip(held_out, seeds, strict=True)])
    own = [score.value for score in own]
    wrong = judge(pictures, [caption(changed(s, rng), *seed) for s, seed in zip(held_out, seeds, strict=True)])
    better = sum(a > b.value for a, b in zip(own, wrong, strict=True))
    log(f"of {len(own)} held-out scenes {better} score higher with their own caption; mean score {np.mean(own):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    def log(line: str) -> None:
        print(line, flush=True)

    device = torch.device(args.device)
    log(f"seed {args.seed}, torch {torch.__version__}, {device}, {torch.get_num_threads()} threads")
    train(args.out, args.steps, args.batch, args.seed, device, log)
    check(args.out, log)


if __name__ == "__main__":
    main()
