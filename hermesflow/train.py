"""One stage of training: pairs in, checkpoint out.

    FOLDER/stage.json        what was asked and of what; a folder is only ever gone on with for the same
    FOLDER/reference.jsonl   the reference's log-likelihoods, taken before the first step
    FOLDER/metrics.jsonl     a line a step
    FOLDER/state.pt          to go on from; gone once the checkpoint is there
    FOLDER/checkpoint        the trained model, as `gapbench run --model` reads it

A pair brings both its sides into the same step, its drawings under the same masks and the same prompt, and what a step
sees depends on the seed and its number alone. So a stage that is killed goes on, with the same call, to the same bytes.
Under torchrun or `accelerate launch` each process takes its share of every batch and the gradients are summed.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm

from gapbench.records import InputError
from gapbench.store import write_bytes
from hermesflow import processes
from hermesflow.checkpoints import claim, held, load_state, save_model, save_state, writing
from hermesflow.learners import Learner, copied, learner
from hermesflow.low_rank import LowRank
from hermesflow.pair_dpo import Margins, PairDPO, Term, pair_dpo
from hermesflow.precision import autocast
from hermesflow.records import Pair, to_json
from hermesflow.reference import ReferenceCache, fill, fingerprint, told_to
from hermesflow.schedule import Visit, frequency, learning_rate, reweighted, visits, with_weight

if TYPE_CHECKING:
    from gapbench.run import Progress
    from hermesflow.learners import Model

SIDES = ("understanding", "generation")
REMEMBERED = 0.9  # of a balance, from one step to the next


@dataclass(frozen=True, slots=True)
class Training:
    """The defaults are for Show-o at 1.3 billion parameters; with AdamW, arXiv 2502.12148 has its learning rate.

    epochs: passes over the pairs; `steps`, where given, says it instead. batch: pairs a step, of which `at_once` (None:
    all) are in memory together. warm_up: share of the steps. clip: largest norm of the gradient, None for any.
    masks, rates, condition_dropout, mask_sets: see `views.Masks`. guidance: see `likelihood.Likelihoods`. states: in
    place of masks, so many of the sampler's own states, under the model's own guidance; see `views.States`.
    sampling: pairs come as often as their weights say, instead of counting as much; the gradient is the same on
    average. balanced: the loss's balance follows the gradients, so that both sides pull alike. lora: rank of low-rank
    updates that are merged in at the end; 0 trains all weights. bfloat16: matrix products on a CPU too, not on a GPU
    alone. seed: of order and masks.
    """

    loss: PairDPO = field(default_factory=PairDPO)
    learning_rate: float = 2e-5
    epochs: float = 1.0
    steps: int | None = None
    batch: int = 4
    at_once: int | None = None
    warm_up: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip: float | None = 1.0
    masks: int = 4
    rates: tuple[float, float] = (0.0, 1.0)
    condition_dropout: float = 0.1
    mask_sets: int | None = None
    guidance: float = 0.0
    states: int = 0
    sampling: bool = False
    balanced: bool = False
    lora: int = 0
    gradient_checkpointing: bool = False
    bfloat16: bool = False
    save_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        at_least_1 = {"batch": self.batch, "save_every": self.save_every, "steps": self.steps, "at_once": self.at_once}
        for name, value in at_least_1.items():
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; give at least 1")
        for name in ("learning_rate", "epochs", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} is {value}; give a number above 0")
        if not 0 <= self.warm_up < 1:
            raise InputError(f"warm_up is {self.warm_up}; give a share of the steps below 1")
        if min(self.lora, self.weight_decay, self.states) < 0:
            told = f"lora is {self.lora}, weight_decay {self.weight_decay}, states {self.states}"
            raise InputError(f"{told}; give at least 0")
        if self.balanced and (self.loss.product or not self.loss.balance):
            raise InputError("balanced needs a loss that is a sum, with a balance above 0 to begin from")


def train(
    model: Model,
    reference: Model,
    pairs: Sequence[Pair],
    how: Training,
    folder: Path,
    progress: Progress | None = None,
    tracked: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Train a copy of `model` on `pairs` and return the checkpoint's folder. `reference` may be `model` itself.

    Neither is changed. Called again after a kill, it goes on; called again at the end, it returns at once.
    tracked: is told every line of metrics, in the first process; after a kill those that are kept once more, first.
    Raises InputError for no pairs, pairs that the model cannot have made, a folder of another stage or one that cannot
    be written, and a loss that is no longer finite (the model as it was before is then in FOLDER/stopped-STEP).
    """
    kept, left_out = with_weight(pairs, how.loss.product)
    steps = how.steps or math.ceil(round(how.epochs * len(kept)) / how.batch) or 1
    names = {"model": model.name, "reference": reference.name, "pairs": len(pairs), "left out": left_out}
    checkpoint = folder / "checkpoint"
    first = processes.rank() == 0
    with held(folder) if first else nullcontext():
        if first:
            claim(folder, {**names, "steps": steps}, _asked(model, reference, pairs, how))
        processes.wait_for_all()
        if not checkpoint.exists():
            Stage(model, reference, kept, how, steps, folder, progress, tracked).run(checkpoint)
        processes.wait_for_all()
        if first:
            (folder / "state.pt").unlink(missing_ok=True)
    return checkpoint


class Stage:
    """A stage on its way; `done` steps lie behind it."""

    def __init__(
        self,
        model: Model,
        reference: Model,
        pairs: Sequence[Pair],
        how: Training,
        steps: int,
        folder: Path,
        progress: Progress | None = None,
        tracked: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.how, self.steps, self.folder, self.progress, self.tracked = how, steps, folder, progress, tracked
        count = steps * how.batch if how.steps else max(1, round(how.epochs * len(pairs)))
        referred = learner(reference, how)
        referred.check(pairs)
        shares = [frequency(pair) if how.sampling else 1.0 for pair in pairs]
        self.order = visits(shares, count, how.seed)
        self.pairs = reweighted(pairs, shares)
        self.reference = self._referred(referred)

        self.model = copied(model)
        network = self.model.network
        self.low_rank = LowRank(network, how.lora, how.seed) if how.lora else None
        if how.gradient_checkpointing:
            network.activation_checkpointing_enable({"use_reentrant": False})
            for layer in network.get_decoder().layers:
                layer.training = True  # of the layer alone, not of what is in it: no dropout is wanted
        self.likelihoods = learner(self.model, how)
        self.parameters = {name: value for name, value in network.named_parameters() if value.requires_grad}
        self.optimizer = _optimizer(self.parameters, how)
        self.balance = how.loss.balance
        self.done = 0

    def _referred(self, likelihoods: Learner) -> ReferenceCache:
        """Only the visits that the order has of a pair are taken."""
        times = Counter(visit.pair for visit in self.order)
        file, cache = self.folder / "reference.jsonl", None
        device = likelihoods.device
        for rank in (0, 1):  # the first process writes, then the others find all there
            if min(processes.rank(), 1) == rank:
                for count in sorted(set(times.values())):
                    group = [pair for number, pair in enumerate(self.pairs) if times[number] == count]
                    with autocast(device, self.how.bfloat16), told_to(self.progress, "reference") as told:
                        cache = fill(file, likelihoods, group, count, told)
            processes.wait_for_all()
        assert cache is not None
        return cache

    def run(self, checkpoint: Path) -> None:
        """The steps that are left, then the checkpoint."""
        self._load()
        if self.progress and processes.rank() == 0:
            self.progress.start("training", self.steps, self.done)
        try:
            while self.done < self.steps:
                line = self.step()
                self.done += 1
                if processes.rank() == 0:
                    self._log(line)
                    if self.done % self.how.save_every == 0 or self.done == self.steps:
                        self._save()
        finally:
            if self.progress and processes.rank() == 0:
                self.progress.stop()
        if self.low_rank:
            self.low_rank.merge()
        if processes.rank() == 0:
            save_model(self.model, checkpoint)

    # --- a step ------------------------------------------------------------------------------------------------------

    def step(self) -> dict[str, Any]:
        """One update, and its line of metrics. Raises InputError, before the update, where loss or gradient is not
        finite.
        """
        how, began = self.how, time.perf_counter()
        batch = self.order[self.done * how.batch : (self.done + 1) * how.batch]
        mine = batch[processes.rank() :: processes.count()]
        gradients: list[list[Tensor] | None] = [None, None]
        found = []
        for start in range(0, len(mine), how.at_once or how.batch):
            chunk = mine[start : start + (how.at_once or how.batch)]
            found.append(self._backward(chunk, len(chunk) / len(batch), gradients))
        found = processes.gather(found)
        norms = self._combine(gradients)
        norm = float(clip_grad_norm_(self.parameters.values(), how.clip or math.inf))
        losses = [sum(part.losses[term] for part in found) for term in range(3)]
        if not math.isfinite(losses[0] + norm):
            raise self._stopped(losses[0], norm, batch)
        rate = learning_rate(self.done, self.steps, how.learning_rate, how.warm_up)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()

        line = {"step": self.done + 1, "loss": losses[0], "learning_rate": rate, "gradient_norm": norm}
        for side, name in enumerate(SIDES):
            rows = [row for part in found for row in part.rows[side] if not math.isnan(row[0])]
            line[name] = {"loss": losses[1 + side], "pairs": len(rows), **_averages(rows), "gradient_norm": norms[side]}
        line |= {"gradient_cosine": norms[2], "balance": self.balance}
        if how.balanced and norms[0] and norms[1]:
            wanted = norms[0] / (norms[1] / self.balance)
            self.balance = self.balance**REMEMBERED * wanted ** (1 - REMEMBERED)
        return line | {"pairs_per_second": len(batch) / (time.perf_counter() - began)}

    def _backward(self, chunk: Sequence[Visit], share: float, gradients: list[list[Tensor] | None]) -> Chunk:
        """Add the gradients of each side of a part of the batch, that is `share` of it, to `gradients`."""
        pairs, numbers = [self.pairs[visit.pair] for visit in chunk], [visit.visit for visit in chunk]
        device = self.likelihoods.device
        with autocast(device, self.how.bfloat16):
            policy = (self.likelihoods.captions(pairs), self.likelihoods.images(pairs, numbers))
        reference = (self.reference.captions(pairs), self.reference.images(pairs, numbers))
        weights = ([pair.understanding_weight for pair in pairs], [pair.generation_weight for pair in pairs])
        margins = [
            Margins(found.log_B2, known.to(device), found.tokens_B2, found.present_B, torch.tensor(w, device=device))
            if found.present_B.any()
            else None
            for found, known, w in zip(policy, reference, weights, strict=True)
        ]
        still = [m and m._replace(policy_B2=m.policy_B2.detach()) for m in margins]
        how = replace(self.how.loss, balance=self.balance)
        parameters = list(self.parameters.values())
        for side in (0, 1):
            if margins[side] is None:
                continue
            # The other side held still: the two gradients add up to that of the loss, of `product` too.
            loss = pair_dpo(*(margins[at] if at == side else still[at] for at in (0, 1)), how)
            fresh = torch.autograd.grad(loss.total * share, parameters, materialize_grads=True)
            known = gradients[side]
            gradients[side] = list(fresh) if known is None else [a + b for a, b in zip(known, fresh, strict=True)]
        loss = pair_dpo(*still, how)
        terms = (loss.understanding, loss.generation)
        losses = [float(loss.total), *(0.0 if term is None else float(term.loss) for term in terms)]
        return Chunk(tuple(value * share for value in losses), tuple(_rows(term) for term in terms))

    def _combine(self, gradients: Sequence[list[Tensor] | None]) -> tuple[float, float, float | None]:
        """Sum over processes and sides into the parameters' gradients; each side's norm, as it counts, and their
        cosine, None where a side is absent.
        """
        sides = list(gradients)
        if processes.count() > 1:
            sides = [side or [torch.zeros_like(value) for value in self.parameters.values()] for side in sides]
            for side in sides:
                processes.add_up(side)
        norms = [0.0 if side is None else float(get_total_norm(side)) for side in sides]
        first, second = sides
        cosine = None
        if norms[0] and norms[1]:
            product = sum(float((a * b).sum()) for a, b in zip(first, second, strict=True))
            cosine = product / norms[0] / norms[1]
        for number, value in enumerate(self.parameters.values()):
            parts = [side[number] for side in sides if side is not None]
            value.grad = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return norms[0], norms[1], cosine

    def _stopped(self, loss: float, norm: float, batch: Sequence[Visit]) -> InputError:
        """Keeps the model as it is, once, and says so."""
        place = self.folder / f"stopped-{self.done}"
        if processes.rank() == 0 and not place.exists():
            if self.low_rank:
                self.low_rank.merge()
            save_model(self.model, place)
        processes.wait_for_all()
        ids = ", ".join(self.pairs[visit.pair].id for visit in batch[:4])
        what = f"{self.folder}: step {self.done + 1}: the loss is {loss:g}, its gradient {norm:g} (pairs {ids})"
        return InputError(f"{what}; take a lower learning rate and another folder. The model before it is in {place}")

    # --- what is kept ------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Go back to the last state that was kept; the metrics' lines of later steps will come again."""
        state = load_state(self.folder / "state.pt")
        if state is not None:
            self.done, self.balance = state["step"], state["balance"]
            with torch.no_grad():
                for name, value in self.parameters.items():
                    value.copy_(state["parameters"][name])
            self.optimizer.load_state_dict(state["optimizer"])
        processes.wait_for_all()  # none may write before all have read
        if processes.rank() == 0:
            file = self.folder / "metrics.jsonl"
            with writing(file):
                lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
                write_bytes(file, b"".join(lines[: self.done]))
            for line in lines[: self.done] if self.tracked else ():
                self.tracked(json.loads(line))

    def _save(self) -> None:
        state = {
            "step": self.done,
            "balance": self.balance,
            "parameters": {name: value.detach() for name, value in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
        }
        save_state(self.folder / "state.pt", state)

    def _log(self, line: dict[str, Any]) -> None:
        file = self.folder / "metrics.jsonl"
        with writing(file), file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")
        if self.tracked:
            self.tracked(line)
        if self.progress:
            self.progress.advance(1)


class Chunk(NamedTuple):
    """Shares of the losses (all, understanding, generation), and for each side margin and gains of each pair."""

    losses: tuple[float, ...]
    rows: tuple[list[list[float]], ...]


def _rows(term: Term | None) -> list[list[float]]:
    return [] if term is None else torch.cat([term.margin_B[:, None], term.gain_B2], dim=1).tolist()


def _averages(rows: Sequence[Sequence[float]]) -> dict[str, float | None]:
    """margin: beta d. winner, loser: how much likelier than under the reference, in nats."""
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)] if rows else [None] * 3
    accuracy = sum(row[0] > 0 for row in rows) / len(rows) if rows else None
    return {"margin": means[0], "accuracy": accuracy, "winner": means[1], "loser": means[2]}


def _optimizer(parameters: dict[str, Tensor], how: Training) -> torch.optim.AdamW:
    """Norms, biases and embeddings are not decayed."""
    decayed = {name for name, value in parameters.items() if value.ndim > 1 and "embed" not in name}
    groups = [
        {"params": [parameters[name] for name in parameters if name in decayed], "weight_decay": how.weight_decay},
        {"params": [parameters[name] for name in parameters if name not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=how.learning_rate, betas=how.betas, fused=True)


def _asked(model: Model, reference: Model, pairs: Sequence[Pair], how: Training) -> dict[str, Any]:
    """What a stage's outcome depends on."""
    weights = fingerprint(model.network)
    return {
        "model": weights,
        "reference": weights if reference is model else fingerprint(reference.network),
        "pairs": hashlib.sha256("\n".join(map(to_json, pairs)).encode()).hexdigest(),
        **asdict(how),
    }
