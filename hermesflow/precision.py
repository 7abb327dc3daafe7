"""Where matrix products are taken in bfloat16."""

from __future__ import annotations

import torch


def autocast(device: torch.device, on_cpu: bool) -> torch.autocast:
    """Always on a GPU; on a CPU if asked for, and if it has instructions for it, without which it would be slower.

    For what is within the block, not around a `forward` that nothing calls; weights stay as they are.
    """
    fast = device.type == "cuda" or (on_cpu and device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)
