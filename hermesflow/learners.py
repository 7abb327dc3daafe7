"""What a stage needs of a model, whatever its family: log-likelihoods with gradients, and a copy to train."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from gapbench.models.show_o.model import ShowO
from gapbench.records import Sampling
from hermesflow.curate import CAPTION_QUESTION
from hermesflow.likelihood import Likelihood, Likelihoods
from hermesflow.records import Pair
from hermesflow.views import Masks, States

if TYPE_CHECKING:
    import torch

    from gapbench.models.janus.model import Janus
    from hermesflow.train import Training

    Model = ShowO | Janus


class Learner(Protocol):
    """Log-likelihoods of pairs under `network`, whose gradients they have unless they are taken without."""

    @property
    def device(self) -> torch.device: ...

    @property
    def network(self) -> torch.nn.Module: ...

    def captions(self, pairs: Sequence[Pair]) -> Likelihood: ...

    def images(self, pairs: Sequence[Pair], visits: Sequence[int]) -> Likelihood: ...

    def check(self, pairs: Sequence[Pair]) -> None:
        """Raises InputError, naming the pair, for one that this model cannot have made."""

    def same_as(self, visit: int) -> int:
        """The first visit that sees the same of a drawing."""

    def told(self) -> dict[str, Any]:
        """All that values depend on besides the weights and the pair."""


def learner(model: Model, how: Training) -> Learner:
    if not isinstance(model, ShowO):
        from hermesflow.autoregressive import AutoregressiveLikelihoods

        return AutoregressiveLikelihoods(model, CAPTION_QUESTION, model.settings(Sampling()).guidance)
    if how.states:
        drawn = model.settings(Sampling())
        views, guidance = States(how.seed, how.states, how.mask_sets, drawn.temperature), drawn.guidance
    else:
        views, guidance = Masks(how.seed, how.masks, how.rates, how.condition_dropout, how.mask_sets), how.guidance
    return Likelihoods(model, views, CAPTION_QUESTION, guidance=guidance)


def copied(model: Model) -> Model:
    """With a network of its own, float32, that takes gradients, but for what turns codes into pixels."""
    network = copy.deepcopy(model.network).float()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(model.frozen))
    return model.with_network(network)
