"""LoRA (arXiv 2106.09685) by peft: low-rank updates of a language model's matrices, merged into them at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gapbench.records import InputError

if TYPE_CHECKING:
    from torch import nn

PHI, LLAMA = ["dense", "fc1", "fc2"], ["o_proj", "gate_proj", "up_proj", "down_proj"]
MATRICES = ["q_proj", "k_proj", "v_proj", *PHI, *LLAMA]


class LowRank:
    """Adds trainable updates of this rank to `network` in place, at first zero, and freezes all else.

    Updates are scaled by 2, as with peft's usual alpha of twice the rank.
    """

    def __init__(self, network: nn.Module, rank: int, seed: int) -> None:
        try:
            from peft import LoraConfig, LoraModel
        except ImportError:
            raise InputError("lora: peft is not installed; `pip install peft`, or take lora 0") from None
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=MATRICES)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._tuner = LoraModel(network, config, "default")

    def merge(self) -> None:
        """The model as it was, with the updates in its weights and under its own names."""
        self._tuner.merge_and_unload()
