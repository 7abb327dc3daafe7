"""One step of the miniature's optimizer: matrices and convolutions by Muon, the rest by AdamW."""

from __future__ import annotations

import torch

from gapbench.miniature.muon import MuonAndAdamW


def test_a_step_moves_a_convolution_as_the_matrix_that_it_is() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8, 5))
    convolution, linear = network[0], network[2]
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    optimizer = MuonAndAdamW(network.parameters(), [convolution.weight], (1e-2, 1e-3), 0.0, lambda step: 1.0)
    optimizer.step(network(torch.randn(6, 4, 3, 3)).square().sum())

    moved = (convolution.weight.detach() - before["0.weight"]).view(8, 36)
    assert _evenness(moved) > 3 * _evenness(convolution.weight.grad.view(8, 36))
    assert moved.square().mean().sqrt() < 2.5e-3  # 0.2 of the rate, AdamW's usual size
    adamw = (linear.weight.detach() - before["2.weight"]).abs()
    assert torch.allclose(adamw, torch.full_like(adamw, 1e-3), rtol=1e-3)


def test_rates_follow_the_schedule_and_gradients_are_clipped() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 4))
    bias = torch.nn.Parameter(torch.zeros(4))
    optimizer = MuonAndAdamW([weight, bias], [weight], (1e-2, 1e-3), 0.0, lambda step: 1 / (step + 1))
    optimizer.step(1e6 * (weight.sum() + bias.sum()))
    assert torch.sqrt(weight.grad.square().sum() + bias.grad.square().sum()) < 1.001
    adamw, muon = (each.param_groups[0]["lr"] for each in optimizer.optimizers)
    assert (muon, adamw) == (5e-3, 5e-4)


def _evenness(matrix: torch.Tensor) -> float:
    """1 of orthogonal rows."""
    sizes = torch.linalg.svdvals(matrix)
    return float(sizes.min() / sizes.max())
