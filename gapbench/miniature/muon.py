"""Muon for the matrices in a network's depth, AdamW for all else, as one optimizer.

With Muon (K. Jordan et al., 2024; torch's own) the miniature's models learn to bind colors to shapes in a third of the
steps that AdamW needs, and its convolutions learn in a fifth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_


class MuonAndAdamW:
    """A step clips the gradient to norm 1, and moves each rate as `schedule`, a factor of the number of steps, says.

    matrices: the parameters that are Muon's, of two dimensions or the weights of convolutions, which count as matrices
    of (out, in x height x width); none for AdamW alone. rates: of Muon, with the update's size that of AdamW, and of
    AdamW.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        matrices: Iterable[Parameter],
        rates: tuple[float, float],
        weight_decay: float,
        schedule: Callable[[int], float],
    ) -> None:
        self.parameters = list(parameters)
        self.matrices = list(matrices)
        # Views of the same numbers, because torch's Muon takes two dimensions only.
        self.flat = [Parameter(p.data.view(len(p), -1)) for p in self.matrices]
        known = {id(p) for p in self.matrices}
        others = [p for p in self.parameters if id(p) not in known]
        groups = [
            {"params": [p for p in others if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
        ]
        muon, adamw = rates
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=adamw, betas=(0.9, 0.98))]
        if self.flat:
            theirs = torch.optim.Muon(self.flat, lr=muon, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            self.optimizers.append(theirs)
        self.schedules = [torch.optim.lr_scheduler.LambdaLR(each, schedule) for each in self.optimizers]

    def step(self, loss: torch.Tensor) -> None:
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        clip_grad_norm_(self.parameters, 1.0)
        for flat, matrix in zip(self.flat, self.matrices, strict=True):
            flat.grad = None if matrix.grad is None else matrix.grad.view_as(flat)
        for optimizer in self.optimizers:
            optimizer.step()
        for schedule in self.schedules:
            schedule.step()
