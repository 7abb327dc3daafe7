"""Settings by name, and what they are for."""

from __future__ import annotations

from dataclasses import replace

from hermesflow.close_gap import Loop
from hermesflow.curate import MINIATURE
from hermesflow.grounds import Grounds
from hermesflow.grounds import miniature as grounds_of
from hermesflow.homologous import refuse_contaminated, train_items
from hermesflow.pair_dpo import PairDPO
from hermesflow.preferences import Rule
from hermesflow.train import Training

WAYS = ((1, 1.0), (3, 0.7), (4, 2.0), (None, 1.0), (None, 2.0))
ITEMS, QUICK_ITEMS = 240, 32


def miniature(quick: bool = False) -> Loop:
    """Of show-o-mini on two CPU cores. A beginning: reports/LOG.md tells what was tried, and that none of it does."""
    curation = replace(MINIATURE, images=6 if quick else 10, ways=WAYS, caption_tokens=40)
    pairs = Rule(image_threshold=0.6, image_margin=0.1, caption_margin=0.05, per_item=2)
    training = Training(
        loss=PairDPO(beta=0.2, anchor=1.0),
        learning_rate=1e-4,
        epochs=2.0 if quick else 4.0,
        batch=16,
        masks=4,
        condition_dropout=0.0,
        save_every=10,
    )
    return Loop(curation=curation, pairs=pairs, training=training)


def miniature_grounds(count: int, seed: int, device: str | None, panel: bool) -> Grounds:
    """Training items of the miniature world, and what they are measured on. Raises InputError where these overlap."""
    grounds = grounds_of(train_items(count, seed), seed, device, panel)
    refuse_contaminated(grounds.items, (grounds.follow, *grounds.judge))
    return grounds
