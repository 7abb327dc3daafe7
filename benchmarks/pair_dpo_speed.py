"""Pair-DPO's speed and memory: the released HermesFlow code's schedule against ours, in one run, at equal loss.

    uv run python -m benchmarks.pair_dpo_speed --size mini          # the shipped miniature, CPU
    uv run python -m benchmarks.pair_dpo_speed --size mid           # random weights, 58,498 tokens, 256 codes, CPU
    python -m benchmarks.pair_dpo_speed --size 256 --device cuda    # the published 1.3B shape, random weights
    python -m benchmarks.pair_dpo_speed --size 512 --device cuda
    uv run python -m benchmarks.pair_dpo_speed --part curation      # candidates, see curation_speed.py

Each schedule runs in a process of its own, on the same pairs with the same masks, one an image; captions and prompts
have 70 to 90 tokens, fewer where the model's rows are shorter. The policy is the reference with a little noise, so that
no margin is 0. The first step is in full float32; its loss and gradient must be the same in `released`
(released_pair_dpo.py) and in `ours`, or the run ends with an error. For that `ours` lets the whole vocabulary be
possible and scores both edges of an image, as released; `ours, codes` does not, and with 4 masks it is the default.

Timed are the steps after the first: float32 on a CPU; on CUDA float32 with TF32 for the released code, whose autocast
never reaches its loss, and bfloat16 autocast with gradient checkpointing for ours. `step` is an update; `reference` is
the share of our pass over the pairs before training, every pair being visited once, which is the least that it can
save. `peak` is the growth of the process over its imports (CUDA: the most that torch had allocated), `beyond` what
of this is not policy, reference, gradient and AdamW's state, five times the weights in any schedule.

MFU: 6 * (parameters of the layers * tokens + width of the head * scored positions) / seconds of a step / 989 TFLOP/s,
the dense bfloat16 peak of an H100. Tokens are those of the schedule's own rows without pads; attention, embeddings and
what gradient checkpointing computes twice do not count. The released step's forwards of the reference count, with 2.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from benchmarks import curation_speed
from benchmarks.released_pair_dpo import Example, Released
from benchmarks.show_o_speed import SIZES, random_model, timed
from gapbench.models.show_o.checkpoint import Parts
from gapbench.models.show_o.layout import Layout, question_text
from gapbench.models.show_o.magvit import Magvit, MagvitConfig
from gapbench.models.show_o.model import ShowO
from gapbench.records import Sampling
from hermesflow import train
from hermesflow.curate import CAPTION_QUESTION
from hermesflow.likelihood import Likelihoods
from hermesflow.pair_dpo import PairDPO
from hermesflow.records import CaptionCandidate, ImageCandidate, Pair, Preference
from hermesflow.reference import fill
from hermesflow.schedule import Visit, visits
from hermesflow.train import Stage, Training
from hermesflow.views import Masks

PEAK = 989e12  # FLOP/s
TOLERANCE = 1e-3  # relative, of the first step's loss and of its gradient's norm
NOISE = 0.03  # of a parameter's mean size
RATE = 1e-6
STATE = 5  # times the weights: policy, reference, gradient, two of AdamW
RELEASED, EQUAL = "released", "ours"
ITEMS = {"mini": 8, "mid": 1, "256": 1, "512": 1}  # of curation
TOKENS = {"mini": 100, "mid": 24, "256": 100, "512": 100}  # of a caption, at most


@dataclass(frozen=True)
class Schedule:
    full_vocabulary: bool
    masks: int


OURS = {EQUAL: Schedule(True, 1), "ours, codes": Schedule(False, 1), "ours, 4 masks": Schedule(False, 4)}


# --- The same for all schedules ---------------------------------------------------------------------------------------


class Words:
    """A tokenizer for models without one: an id a word."""

    def __init__(self, layout: Layout) -> None:
        self.size = min(layout.text_vocabulary, 50_000)

    def __call__(self, text: str, **_: Any) -> SimpleNamespace:
        words = re.findall(r"\w+|[^\w\s]", text)
        return SimpleNamespace(input_ids=[1 + crc32(word.encode()) % (self.size - 1) for word in words])

    def decode(self, tokens: Sequence[int], **_: Any) -> str:
        return " ".join(map(str, tokens))


def load(size: str, device: str) -> ShowO:
    """Of random weights where the size is not the miniature's, with an image tokenizer in proportion."""
    if size == "mini":
        from gapbench.models import zoo

        return with_words(zoo.load("show-o-mini", device, "float32"))
    backbone, layout, steps = random_model(size, device)
    with torch.device(device):
        magvit = Magvit(MagvitConfig(channels=32 if size == "mid" else 128)).eval()
    parts = Parts(backbone.phi, None, None, magvit, Words(layout), layout, None, {})
    return ShowO(parts, size, Sampling(steps=steps, guidance=5.0, temperature=1.0))


def with_words(model: ShowO) -> ShowO:
    return ShowO(replace(model.parts, tokenizer=Words(model.layout)), model.name, model.defaults)


def tokens(model: ShowO, text: str) -> list[int]:
    return model.parts.tokenizer(text).input_ids


def question(model: ShowO) -> list[int]:
    return [model.layout.eot, *tokens(model, question_text(CAPTION_QUESTION))]


def pictures(model: ShowO, number: int) -> Tensor:
    """Pixels (3,3,H,W) of a pair: the real picture, the winner, the loser."""
    random = torch.Generator().manual_seed(number)
    pixels = torch.rand((3, 3, model.resolution, model.resolution), generator=random) * 2 - 1
    return pixels.to(model.backbone.device)


def make_pair(model: ShowO, number: int) -> Pair:
    """Random words about the pictures of that number. The longest caption fits the released code's fixed rows."""
    random = torch.Generator().manual_seed(10_000 + number)
    longest = min(90, model.layout.max_text - len(question(model)) - 1)
    lengths = torch.randint(longest * 7 // 9, longest + 1, (3,), generator=random).tolist()
    prompt, *captions = (
        torch.randint(1, Words(model.layout).size, (length,), generator=random).tolist() for length in lengths
    )
    real, *drawn = (tuple(model.parts.magvit.encode(each[None])[0].tolist()) for each in pictures(model, number))
    return Pair(
        f"pair-{number}",
        "",
        " ".join(f"word{token}" for token in prompt),
        (),
        real,
        Preference(*(CaptionCandidate("", tuple(said), True, 0.5, 1, 1.0) for said in captions)),
        Preference(*(ImageCandidate(codes, 0, (True,), 0.5) for codes in drawn)),
    )


@torch.no_grad()
def disturb(phi: nn.Module) -> None:
    """Away from the reference, so that margins are not 0; the same way for all schedules."""
    random: torch.Generator | None = None
    for value in phi.parameters():
        random = random or torch.Generator(value.device).manual_seed(2)
        noise = torch.randn(value.shape, generator=random, device=value.device)
        value.add_(noise, alpha=NOISE * float(value.abs().mean()))


# --- A schedule -------------------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """loss, gradient: of the first step, the latter its norm. step: seconds; reference: seconds of a pair, taken before
    the first step. flops: of a step, as MFU counts them.
    """

    loss: float
    gradient: float
    step: float
    reference: float
    flops: float


def run_released(model: ShowO, pairs: Sequence[Pair], batch: int, steps: int) -> Measured:
    order = visits([1.0] * len(pairs), steps * batch, seed=0)
    masks = Masks(count=1, condition_dropout=0.0)
    examples = [
        Example(
            pictures(model, visit.pair),
            tokens(model, pairs[visit.pair].caption),
            question(model),
            (pairs[visit.pair].captions.win.tokens, pairs[visit.pair].captions.lose.tokens),
            masks.draw(pairs[visit.pair].id, visit.visit, model.layout.image_tokens)[0],
        )
        for visit in order
    ]
    training = Released(model.backbone, model.layout, model.parts.magvit, beta=0.2, learning_rate=RATE)
    disturb(training.policy.phi)
    loss = training.step(examples[:batch])
    gradient = float(get_total_norm(value.grad for value in training.policy.phi.parameters()))
    torch.set_float32_matmul_precision("high")
    seconds = [
        timed(lambda start=start: training.step(examples[start : start + batch]), model.backbone.device.type, 1)[0]
        for start in range(batch, len(examples), batch)
    ]
    return Measured(loss, gradient, statistics.median(seconds), 0.0, flops(model, pairs, order, batch, None))


def run_ours(
    model: ShowO, pairs: Sequence[Pair], batch: int, steps: int, schedule: Schedule, checkpointing: bool, folder: Path
) -> Measured:
    how = Training(
        PairDPO(beta=0.2),
        learning_rate=RATE,
        steps=steps,
        batch=batch,
        warm_up=0.0,
        weight_decay=0.0,
        clip=None,
        masks=schedule.masks,
        condition_dropout=0.0,
        gradient_checkpointing=checkpointing,
    )
    stage = Stage(model, model, pairs, how, steps, folder)
    disturb(stage.model.backbone.phi)
    stage.likelihoods.full_vocabulary = schedule.full_vocabulary
    known = Likelihoods(model, stage.likelihoods.views, CAPTION_QUESTION, schedule.full_vocabulary)

    autocast = train.autocast
    train.autocast = lambda *_: nullcontext()
    first = [pairs[visit.pair] for visit in stage.order[:batch]]
    stage.reference = fill(folder / "first.jsonl", known, first, 1)
    line = stage.step()
    train.autocast = autocast

    at: list[float] = []
    with autocast(model.backbone.device, False):
        stage.reference = fill(folder / "all.jsonl", known, pairs, 1, lambda *_: at.append(time.perf_counter()))
    if model.backbone.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for stage.done in range(1, steps):
        seconds.append(timed(stage.step, model.backbone.device.type, 1)[0])
    reference = (at[-1] - at[0]) / len(pairs)
    counted = flops(model, pairs, stage.order, batch, schedule)
    return Measured(line["loss"], line["gradient_norm"], statistics.median(seconds), reference, counted)


def flops(model: ShowO, pairs: Sequence[Pair], order: Sequence[Visit], batch: int, schedule: Schedule | None) -> float:
    """Of an average step after the first; None is the released schedule."""
    layout, phi = model.layout, model.backbone.phi
    count = schedule.masks if schedule else 1
    masks = Masks(count=count, condition_dropout=0.0)
    whole = schedule is None or schedule.full_vocabulary
    image = layout.image_tokens + 2
    positions = columns = 0
    for visit in order[batch:]:
        pair = pairs[visit.pair]
        prompt = len(layout.prompt_block(tokens(model, pair.caption)))
        said = len(pair.captions.win.tokens) + len(pair.captions.lose.tokens)
        starts = 1 + image + len(question(model)) + count * prompt
        positions += said + 2 * count * image + (starts if schedule else 2 * starts)
        hidden = int(masks.draw(pair.id, visit.visit, layout.image_tokens).sum())
        scored = (hidden + 2 * count) * layout.vocabulary if whole else hidden * layout.codebook_size
        columns += (said + 2) * layout.vocabulary + 2 * scored
    layers = sum(value.numel() for value in phi.model.layers.parameters())
    work = layers * positions + phi.config.hidden_size * columns
    return (6 if schedule else 8) * work / (len(order) / batch - 1)


def run(name: str, size: str, device: str, batch: int, repeats: int) -> dict[str, float]:
    """In this process, which should be a new one."""
    before = status("VmRSS")
    model = load(size, device)
    steps = 1 + repeats
    pairs = [make_pair(model, number) for number in range(steps * batch)]
    cuda = device == "cuda"
    if name == RELEASED:
        found = run_released(model, pairs, batch, steps)
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = run_ours(model, pairs, batch, steps, OURS[name], cuda, Path(folder))
    peak = torch.cuda.max_memory_allocated() if cuda else status("VmHWM") - before
    weights = sum(value.numel() * value.element_size() for value in model.backbone.phi.parameters())
    return {**found._asdict(), "peak": peak, "beyond": peak - STATE * weights}


def status(name: str) -> int:
    """Bytes, of this process alone: getrusage's peak begins at what the parent held."""
    return 1024 * int(re.search(rf"^{name}:\s+(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)[1])


# --- Side by side -----------------------------------------------------------------------------------------------------


def agree(found: dict[str, dict[str, float]]) -> None:
    """Ends the program where the released loss and ours differ by more than rounding."""
    released, ours = found[RELEASED], found[EQUAL]
    margins = released["loss"] - 2 * math.log(2)  # what the margins make of it; without them any schedule would agree
    apart = abs(released["loss"] - ours["loss"]) / abs(margins)
    steeper = abs(released["gradient"] - ours["gradient"]) / released["gradient"]
    print(f"loss of the first step: released {released['loss']:.7f}, ours {ours['loss']:.7f}; "
          f"of what it is beyond 2 log 2, {apart:.1e} apart")  # fmt: skip
    print(f"norm of its gradient: {released['gradient']:.6g}, {ours['gradient']:.6g}; {steeper:.1e} apart", flush=True)
    if not max(apart, steeper) < TOLERANCE:
        raise SystemExit("the two schedules differ in loss or gradient, which must be the same: no ratios are given")


def table(found: dict[str, dict[str, float]], batch: int, cuda: bool) -> None:
    mfu = "      MFU" if cuda else ""
    print(f"{'':14} {'pairs/s':>9} {'step':>9} {'reference':>10} {'peak':>10} {'beyond':>10}{mfu}")
    rates = {name: batch / (each["step"] + batch * each["reference"]) for name, each in found.items()}
    for name, each in found.items():
        used = f" {each['flops'] / each['step'] / PEAK:8.1%}" if cuda else ""
        print(
            f"{name:14} {rates[name]:9.3f} {each['step']:7.3f} s {batch * each['reference']:8.3f} s "
            f"{each['peak'] / 2**20:6.0f} MiB {each['beyond'] / 2**20:6.0f} MiB{used}"
        )
    for name in OURS:
        peak, beyond = (found[RELEASED][key] / found[name][key] for key in ("peak", "beyond"))
        faster = rates[name] / rates[RELEASED]
        print(f"{name} against released: {faster:.2f}x pairs per second, peak 1/{peak:.2f}, beyond 1/{beyond:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("training", "curation"), default="training")
    parser.add_argument("--size", choices=("mini", *SIZES), default="mini")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=3, help="steps, or rounds of curation, that are timed")
    parser.add_argument("--batch", type=int, help="pairs a step: 4 as in the paper, at size 512 1 as in the code")
    parser.add_argument("--schedule", help=argparse.SUPPRESS)
    args = parser.parse_args()
    batch = args.batch or (1 if args.size == "512" else 4)
    if args.schedule:
        print(json.dumps(run(args.schedule, args.size, args.device, batch, args.repeats)))
        return
    cuda = args.device == "cuda"
    machine = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    print(f"{args.part}, {args.size}, {machine}, torch {torch.__version__}", flush=True)
    if args.part == "curation":
        model = load(args.size, args.device)
        made = [make_pair(model, number) for number in range(ITEMS[args.size])]
        items = [curation_speed.Item(torch.tensor(pair.codes), pair.caption) for pair in made]
        curation_speed.measure(model, items, TOKENS[args.size], args.repeats)
        return
    print(f"{batch} pairs a step, median of {args.repeats} steps", flush=True)
    found = {}
    for name in (RELEASED, *OURS):
        command = [sys.executable, "-m", "benchmarks.pair_dpo_speed", "--schedule", name, "--size", args.size]
        command += ["--device", args.device, "--batch", str(batch), "--repeats", str(args.repeats)]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[name] = json.loads(told.splitlines()[-1])
        if name == EQUAL:
            agree(found)
    table(found, batch, cuda)


if __name__ == "__main__":
    main()
