"""Settings by name, and what they are for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gapbench.models import zoo
from gapbench.models.show_o import files
from gapbench.models.unified.files import read_json
from gapbench.records import InputError
from hermesflow import grounds as grounds_of
from hermesflow.close_gap import Loop
from hermesflow.curate import MINIATURE, Curation
from hermesflow.grounds import Grounds
from hermesflow.homologous import refuse_contaminated, train_items
from hermesflow.pair_dpo import PairDPO
from hermesflow.preferences import Rule
from hermesflow.train import Training

WAYS = ((1, 1.0), (3, 0.7), (4, 1.0), (None, 1.0))  # hotter ones lose by adding things, which teaches to count fewer
ITEMS, QUICK_ITEMS = 900, 48
TRAINABLE = ("show_o", "janus")
PUBLISHED_WIDTH = 1024  # no published model's language side is as narrow


def miniature(quick: bool = False) -> Loop:
    """Of show-o-mini on two CPU cores; reports/LOG.md tells what was tried."""
    images = 6 if quick else 8
    curation = replace(MINIATURE, images=images, ways=WAYS, caption_tokens=40, bfloat16=True)
    pairs = Rule(image_threshold=0.6, image_margin=0.15, caption_margin=0.2, per_item=2, trust=0.8)
    training = Training(
        loss=PairDPO(beta=0.5, balance=4.0),
        learning_rate=5e-5,
        epochs=1.0,
        batch=16,
        states=2,
        betas=(0.9, 0.98),
        weight_decay=0.0,
        bfloat16=True,
        save_every=10,
    )
    return Loop(curation=curation, pairs=pairs, training=training, fresh_items=True)


def published(quick: bool = False) -> Loop:
    """Of Show-o at 1.3 billion parameters, after HermesFlow (arXiv 2502.12148): ten captions and 16 drawings an item,
    drawings above 0.6, batches of 4 pairs at 2e-5 with AdamW, beta 0.2.

    Its 3,000 steps over 5,000 items are 2.4 passes, which fit any number of items. One pair is in memory at a time.
    """
    training = Training(epochs=2.4, batch=4, at_once=1, gradient_checkpointing=True)
    if not quick:
        return Loop(training=training)
    return Loop(curation=Curation(images=4), training=replace(training, epochs=1.0))


def is_miniature(model: str) -> bool:
    """Whether a model, by zoo name or checkpoint folder, is smaller than the published ones.

    Raises InputError where there is no such model, or it cannot be trained.
    """
    entry = zoo.resolve(model)
    if entry.family not in TRAINABLE:
        raise InputError(f"--model {model}: cannot be trained here; give a Show-o or a Janus, by name or folder")
    config = entry.folder and files.find_config(entry.folder)
    if config is None:
        return False
    told = read_json(config)
    if entry.family == "show_o":
        return "phi_config" in told  # published ones are Phi-1.5, unsaid
    return told.get("text_config", {}).get("hidden_size", PUBLISHED_WIDTH) < PUBLISHED_WIDTH


def of(model: str, own: bool, quick: bool = False) -> Loop:
    """The settings for a model's size; on `own` items captions and answers are scored and paired as in the paper."""
    how = miniature(quick) if is_miniature(model) else published(quick)
    if not own:
        return how
    paper, rule = Curation(), Rule()
    curation = replace(how.curation, scorer=paper.scorer, matching=paper.matching)
    pairs = replace(how.pairs, caption_margin=rule.caption_margin, trust=rule.trust)
    return replace(how, curation=curation, pairs=pairs)


def miniature_grounds(count: int, seed: int, device: str | None, panel: bool) -> Grounds:
    """Training items of the miniature world, and what they are measured on. Raises InputError where these overlap."""
    return _apart(grounds_of.miniature(train_items(count, seed), seed, device, panel))


def own_grounds(
    place: Path,
    share: float,
    judge: str | None = None,
    rule: str | None = None,
    count: int | None = None,
    seed: int = 0,
    device: str | None = None,
) -> Grounds:
    """One's own homologous items, see `grounds.own`. Raises InputError where these overlap with an evaluation."""
    return _apart(grounds_of.own(place, share, judge, rule, count, seed, device))


def _apart(grounds: Grounds) -> Grounds:
    refuse_contaminated(grounds.items, (grounds.follow, *grounds.judge))
    return grounds
