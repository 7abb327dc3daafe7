"""Show-o's speed: the reference's schedule against ours, side by side in one run, with the same outputs.

    uv run python -m benchmarks.show_o_speed --size mini          # the shipped miniature, CPU
    uv run python -m benchmarks.show_o_speed --size mid           # random weights, 58,498 tokens, 256 codes, CPU
    python -m benchmarks.show_o_speed --size 256 --device cuda    # the published 1.3B shape, random weights
    python -m benchmarks.show_o_speed --size 512 --device cuda

Reference: `plain_show_o.py`, which recomputes every position at every step, applies the whole head everywhere, answers
one question at a time, and on CUDA runs in float32 as the released scripts do. Ours runs in bfloat16 on CUDA; the
column `same` compares outputs where both run in float32.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import plain_show_o
from gapbench.models.show_o import drawing
from gapbench.models.show_o.answering import discrete_picture_cache
from gapbench.models.show_o.layout import Layout
from gapbench.models.show_o.sampling import ItemNoise, MaskGit
from gapbench.models.unified.answering import decode
from gapbench.models.unified.backbone import Backbone
from gapbench.records import Sampling

IMAGES, QUESTIONS, NEW_TOKENS = 16, 18, 32
PHI = {
    "partial_rotary_factor": 0.5,
    "qk_layernorm": True,
    "tie_word_embeddings": False,
    "hidden_act": "gelu_pytorch_tanh",
}
FULL = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 32}
SIZES: dict[str, tuple[dict[str, int], int, int]] = {  # sizes, image tokens, steps timed
    "mid": ({"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8}, 256, 4),
    "256": (FULL, 256, 16),
    "512": (FULL, 1024, 10),
}


def random_model(size: str, device: str) -> tuple[Backbone, Layout, int]:
    from transformers import PhiConfig, PhiForCausalLM

    sizes, image_tokens, steps = SIZES[size]
    layout = Layout(50295, 8192, image_tokens, eot=50256)
    torch.manual_seed(0)
    with torch.device(device):
        phi = PhiForCausalLM(PhiConfig(**PHI, **sizes, vocab_size=layout.vocabulary, attn_implementation="sdpa"))
    for parameter in phi.parameters():
        if parameter.ndim > 1:  # decisive logits, as a trained model has them
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return Backbone(phi.eval()), layout, steps


def mini_model() -> tuple[Backbone, Layout, int]:
    from gapbench.models import zoo

    model = zoo.load("show-o-mini", "cpu")
    return model.backbone, model.layout, model.settings(Sampling()).steps


def timed(work: Callable[[], Any], device: str, repeats: int) -> tuple[float, Any]:
    """Median seconds and the last result."""
    seconds = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        result = work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("mini", *SIZES), default="mini")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    cuda = args.device == "cuda"

    backbone, layout, steps = mini_model() if args.size == "mini" else random_model(args.size, args.device)
    machine = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    parameters = sum(p.numel() for p in backbone.phi.parameters())
    print(
        f"{args.size}: {parameters / 1e6:.1f} M parameters, {layout.image_tokens} codes, "
        f"{machine}, torch {torch.__version__}"
    )

    settings = MaskGit(steps, guidance=5.0)
    words = torch.randint(0, min(layout.text_vocabulary, 50000), (64,), generator=torch.Generator().manual_seed(1))
    prompt = words[:12].tolist()
    texts = [[layout.eot, *words[i : i + 16].tolist()] for i in range(QUESTIONS)]
    codes = torch.randint(0, layout.codebook_size, (layout.image_tokens,), generator=torch.Generator().manual_seed(2))

    def draw(module: Any) -> torch.Tensor:
        noise = ItemNoise(range(IMAGES), steps, layout.image_tokens, backbone.device)
        return module.draw_codes(backbone, layout, [prompt] * IMAGES, settings, noise)

    def answer_plain() -> list[list[int]]:
        return [plain_show_o.answer(backbone, layout, codes, text, NEW_TOKENS, stop=False) for text in texts]

    def answer_ours() -> list[list[int]]:
        pictures = discrete_picture_cache(backbone, layout, codes[None])
        rows = torch.zeros(QUESTIONS, dtype=torch.long)
        return decode(backbone, pictures, rows, texts, -1, NEW_TOKENS)  # no token is -1: all 32 are generated

    print(f"drawing: {IMAGES} images of one prompt, {steps} steps, guidance 5; "
          f"answering: {QUESTIONS} questions on one image, {NEW_TOKENS} new tokens each")  # fmt: skip
    print(f"{'':10} {'reference':>12} {'ours':>12} {'ratio':>8}   same")
    work = {"drawing": (lambda: draw(plain_show_o), lambda: draw(drawing)), "answering": (answer_plain, answer_ours)}
    plain, same = {}, {}
    for name, (reference, ours) in work.items():
        ours()  # warm-up
        plain[name], expected = timed(reference, args.device, 1 if cuda else args.repeats)
        if not cuda:
            report(name, plain[name], *timed(ours, args.device, args.repeats), expected)
        else:
            same[name] = agreement(ours(), expected)
    if cuda:
        backbone.phi.bfloat16()
        for name, (_, ours) in work.items():
            ours()
            seconds, _ = timed(ours, args.device, args.repeats)
            print(f"{name:10} {plain[name]:10.2f} s {seconds:10.2f} s {plain[name] / seconds:7.1f}x   {same[name]:.1%}")
        print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


def agreement(found: Any, expected: Any) -> float:
    """Share of equal codes or tokens."""
    return (torch.as_tensor(found) == torch.as_tensor(expected)).double().mean().item()


def report(name: str, reference: float, ours: float, found: Any, expected: Any) -> None:
    same = agreement(found, expected)
    print(f"{name:10} {reference:10.2f} s {ours:10.2f} s {reference / ours:7.1f}x   {same:.1%}")


if __name__ == "__main__":
    main()
