"""Emphasis: diagnostics -> weights of pairs, so that training is spent on what is missing.

What a skill needs, of diagnostics.json (gapbench/diagnostics.py):

    drawings   p10: understood and not drawn. What is not understood cannot be judged by the model itself.
    captions   (p01 + 1 - U) / 2: what is drawn and not understood counts whole, what is neither counts half.

Benchmarks have no 2x2 table, since they ask about other images than are drawn. There p10 = U (1 - G) and
p01 = (1 - U) G, as if understanding and drawing were independent; both are shares, unlike U - G, whose sign is decided
by how hard the benchmarks are. A side that nothing measured counts as perfect, so that the other one decides.

Each measure of a skill is shrunk toward the overall value by its uncertainty first (see `shrink`), and what was not
measured is overall. A pair's caption need is the mean over its questions; its drawing need the mean over those that the
winner has right and the loser wrong, for these are what preferring the one to the other teaches. Needs become weights
by one factor per side, within FLOOR and CAP and with mean 1 over the pairs that have the side (see `bounded`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from gapbench.diagnostics import SCHEMA
from gapbench.records import Estimate, InputError
from gapbench.report.table import Column, Figure, Row, Table
from gapbench.skills import SKILLS
from gapbench.stats import TAIL
from gapbench.store import RunFolder
from hermesflow.records import NoPairs, Pair

RULES = ("gap", "uniform", "understanding", "generation")
FLOOR = 0.25
CAP = 4.0
DIGITS = 9  # of weights, so that they are the same on every machine
OVERALL = "overall"
SHOWN = ("U", "G", "p10", "p01")


@dataclass(frozen=True, slots=True)
class Emphasis:
    """Pairs with their weights, and everything that was decided: to read, and as JSON."""

    pairs: Sequence[Pair]
    table: Table
    told: Mapping[str, Any]


class Need(NamedTuple):
    """How much of a skill is missing, in [0, 1]."""

    captions: float
    drawings: float


def weigh(
    pairs: Sequence[Pair], diagnostics: Mapping[str, Any] | None, rule: str, model: str | None = None
) -> Emphasis:
    """Give each pair its weights, in place of those that it has.

    rule: "gap" as above; "uniform", all 1, the paper's Pair-DPO; "understanding" and "generation", 1 on this side
    and 0 on the other. A weight of a side that a pair lacks is 1, or 0 where the rule leaves the side out, and means
    nothing. diagnostics: None where nothing was measured; the rule gap cannot do without. model: the name of the model
    that the diagnostics must be of, if given.

    Raises InputError for another rule, diagnostics of another schema or model, without skills or that cannot be read,
    and where no pair has a side with a weight.
    """
    if rule not in RULES:
        raise InputError(f"emphasis {rule}: unknown; there is {', '.join(RULES)}")
    if diagnostics is None and rule == "gap":
        others = ", ".join(other for other in RULES if other != rule)
        raise InputError(f"emphasis gap: needs the diagnostics of a run; without any there is {others}")
    measured = {OVERALL: {}} if diagnostics is None else _measured(diagnostics, model)
    needs, spread = _needs(measured)
    captions = [_mean(needs, pair.skills).captions if pair.captions else None for pair in pairs]
    drawings = [_mean(needs, taught(pair)).drawings if pair.images else None for pair in pairs]
    trained = {"understanding": captions, "generation": drawings}.get(rule, [*captions, *drawings])
    if all(need is None for need in trained):
        raise NoPairs(f"emphasis {rule}: none of {len(pairs)} pairs has what it trains; curate more items")
    weighed = [
        replace(
            pair,
            understanding_weight=0.0 if rule == "generation" else caption_weight,
            generation_weight=0.0 if rule == "understanding" else drawing_weight,
        )
        for pair, caption_weight, drawing_weight in zip(
            pairs, _weights(captions, rule), _weights(drawings, rule), strict=True
        )
    ]
    told, known = diagnostics or {}, {} if diagnostics is None else needs
    rows = _rows(weighed, measured, known)
    head = {"rule": rule, "run": told.get("run"), "model": told.get("model"), "floor": FLOOR, "cap": CAP}
    spread = spread if known else {}
    return Emphasis(weighed, _table(rows, head, spread), {**head, "spread": spread, "skills": rows})


def taught(pair: Pair) -> tuple[str, ...]:
    """Skills of the questions that tell its winning drawing from the losing one: right on this, wrong on that.

    All its skills where no single question does, or where it has no drawings.
    """
    if pair.images is None:
        return pair.skills
    right = zip(pair.skills, pair.images.win.right, pair.images.lose.right, strict=True)
    return tuple(skill for skill, win, lose in right if win and lose is False) or pair.skills


# --- Arithmetic -------------------------------------------------------------------------------------------------------


def shrink(values: np.ndarray, variances: np.ndarray, overall: float) -> tuple[np.ndarray, float]:
    """Empirical Bayes: each value moved toward `overall` as far as it is uncertain; and the spread between skills.

    A skill's value y_s varies about its truth with variance v_s, and the truths about `overall` m with variance t, so
    the best guess is m + t / (t + v_s) (y_s - m) (James and Stein 1961; Efron and Morris 1975). t is the moment
    estimate that solves sum_s (y_s - m)^2 / (t + v_s) = number of skills (Paule and Mandel 1982), 0 where the values
    differ no more than chance makes them: all skills then count alike. values, variances: float64 (skills,). The
    spread is sqrt(t).
    """
    from scipy.optimize import brentq

    squares = (values - overall) ** 2
    variances = np.maximum(variances, 1e-12)

    def excess(between: float) -> float:
        return float(np.sum(squares / (between + variances))) - len(values)

    if not len(values) or excess(0.0) <= 0:
        return np.full(len(values), overall), 0.0
    between = brentq(excess, 0.0, float(squares.max()))
    return overall + between / (between + variances) * (values - overall), math.sqrt(between)


def bounded(needs: Sequence[float]) -> list[float]:
    """Weights in proportion to needs of at least 0, except that none is below FLOOR or above CAP; their mean is 1.

    weight = clip(scale * need, FLOOR, CAP), with the one scale that gives this mean. All 1 where there is no need.
    """
    from scipy.optimize import brentq

    if not needs or max(needs) <= 0:
        return [1.0] * len(needs)
    # Where few need anything and the cap holds these, what is left goes to the others alike.
    lifted = np.maximum(np.asarray(needs) / max(needs), 1e-9)
    values, counts = np.unique(lifted, return_counts=True)

    def surplus(scale: float) -> float:
        return float(counts @ np.clip(math.exp(scale) * values, FLOOR, CAP)) / len(needs) - 1

    scale = brentq(surplus, math.log(FLOOR), math.log(CAP / values[0]), xtol=1e-14)
    return np.clip(math.exp(scale) * lifted, FLOOR, CAP).round(DIGITS).tolist()


def _weights(needs: Sequence[float | None], rule: str) -> list[float]:
    if rule != "gap":
        return [1.0] * len(needs)
    weights = iter(bounded([need for need in needs if need is not None]))
    return [1.0 if need is None else next(weights) for need in needs]


def _mean(needs: Mapping[str, Need], skills: Sequence[str]) -> Need:
    found = [needs.get(skill, needs[OVERALL]) for skill in skills] or [needs[OVERALL]]
    return Need(*(math.fsum(side) / len(found) for side in zip(*found, strict=True)))


def _needs(measured: Mapping[str, Mapping[str, Estimate]]) -> tuple[dict[str, Need], dict[str, float]]:
    """Of each skill and of all, and of each measure the spread between skills."""
    cells = "p10" in measured[OVERALL]
    shrunk, spread = {}, {}
    for measure in ("U", "p10", "p01") if cells else ("U", "G"):
        shrunk[measure], spread[measure] = _shrunk(measured, measure)
    needs = {}
    for name in (OVERALL, *SKILLS):
        u = shrunk["U"][name]
        p10 = shrunk["p10"][name] if cells else u * (1 - shrunk["G"][name])
        p01 = shrunk["p01"][name] if cells else (1 - u) * shrunk["G"][name]
        needs[name] = Need((p01 + 1 - u) / 2, p10)
    return needs, spread


def _shrunk(measured: Mapping[str, Mapping[str, Estimate]], measure: str) -> tuple[dict[str, float], float]:
    overall = measured[OVERALL][measure].value if measure in measured[OVERALL] else 1.0
    skills = [skill for skill in SKILLS if measure in measured.get(skill, {})]
    found = [measured[skill][measure] for skill in skills]
    errors = np.array([_error(e, overall) for e in found])
    values, spread = shrink(np.array([e.value for e in found]), errors**2, overall)
    return {**dict.fromkeys((OVERALL, *SKILLS), overall), **dict(zip(skills, values.tolist(), strict=True))}, spread


def _error(e: Estimate, overall: float) -> float:
    """Standard error by the interval: half of it, or all that lies toward `overall` if that is more.

    Three questions that agree on 1 have all their doubt below: [0.29, 1].
    """
    toward = e.value - e.low if e.value > overall else e.high - e.value
    return max(toward, (e.high - e.low) / 2) / NormalDist().inv_cdf(1 - TAIL)


# --- Reading ----------------------------------------------------------------------------------------------------------


def read_diagnostics(place: Path, model: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A run's diagnostics, by its folder or by the file.

    model: what they must be of, as it describes itself; told by its weights where the run's manifest is there, else by
    its name. Raises InputError where there are none, or they are of another model.
    """
    file = place / "diagnostics.json" if place.is_dir() else place
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file}: no diagnostics there; give a run of a gap task, or of benchmarks") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as diagnostics ({error}); measure anew") from None
    if not isinstance(found, dict):
        raise InputError(f"{file}: cannot be read as diagnostics; measure anew")
    run = RunFolder(file.parent)
    told = found.get("model")
    measured = run.manifest()["request"]["model"] if run.manifest_path.is_file() else {"name": told}
    if model is not None and (wanted := _identity(model, measured)) and wanted != _identity(measured, measured):
        raise InputError(f"{file}: of {told}, which is another model; give those of a run of this one")
    return found


def _identity(model: Mapping[str, Any], like: Mapping[str, Any]) -> Any:
    """The hashes of its weights, wherever they lie, or its name where `like` has none; None or empty if unknown."""
    if "weights" in like:
        return {part: file["sha256"] for part, file in model.get("weights", {}).items()}
    return model.get("name")


def _measured(diagnostics: Mapping[str, Any], model: str | None) -> dict[str, dict[str, Estimate]]:
    """skill (and `overall`) -> measure -> estimate, of what is needed here."""
    if not isinstance(diagnostics, Mapping) or diagnostics.get("schema") != SCHEMA:
        found = diagnostics.get("schema") if isinstance(diagnostics, Mapping) else None
        raise InputError(f"diagnostics: schema {found!r}, not {SCHEMA}; measure anew with this gapbench")
    where = f"diagnostics of {diagnostics.get('run')}"
    if model is not None and diagnostics.get("model") != model:
        raise InputError(f"{where}: of the model {diagnostics.get('model')}, not of {model}; give those of a run of it")
    skills = diagnostics.get("skills")
    if not isinstance(skills, Mapping) or not skills:
        raise InputError(f"{where}: no skills in it; run a gap task, or benchmarks that tell skills")
    measured = {OVERALL: _estimates(diagnostics.get("overall"), f"{where}: overall")}
    for skill, told in skills.items():
        if skill not in SKILLS:
            raise InputError(f"{where}: unknown skill {skill!r}; measure anew with this gapbench")
        measured[skill] = _estimates(told, f"{where}: {skill}")
        if lacking := measured[skill].keys() - measured[OVERALL].keys():
            raise InputError(f"{where}: {skill} has {min(lacking)} but overall has not; measure anew")
    if "p10" in measured[OVERALL] and (lacking := {"U", "p01"} - measured[OVERALL].keys()):
        raise InputError(f"{where}: overall has p10 but no {min(lacking)}; measure anew")
    return measured


def _estimates(told: Any, where: str) -> dict[str, Estimate]:
    if not isinstance(told, Mapping):
        raise InputError(f"{where}: no estimates in it; measure anew")
    found = {}
    for measure in SHOWN:
        if measure not in told:
            continue
        try:
            e = found[measure] = Estimate(**told[measure])
            sound = -1e-9 <= e.value <= 1 + 1e-9 and e.low <= e.high and math.isfinite(e.high - e.low)
        except TypeError:
            sound = False
        if not sound:
            raise InputError(f"{where}: {measure} is no estimate of a share; measure anew")
    return found


# --- What was decided -------------------------------------------------------------------------------------------------


def _rows(
    pairs: Sequence[Pair], measured: Mapping[str, Mapping[str, Estimate]], needs: Mapping[str, Need]
) -> dict[str, dict[str, Any]]:
    """As JSON: of all and of each skill that was measured or that a pair has; without needs where there are none."""
    sides = (
        [(set(pair.skills), pair.understanding_weight) for pair in pairs if pair.captions],
        [(set(taught(pair)), pair.generation_weight) for pair in pairs if pair.images],
    )
    seen = set(measured).union(*(skills for side in sides for skills, _ in side))
    rows: dict[str, dict[str, Any]] = {}
    for name in (OVERALL, *SKILLS, *sorted(seen - {OVERALL, *SKILLS})):
        if name not in seen:
            continue
        rows[name] = {measure: asdict(e) for measure, e in measured.get(name, {}).items()}
        needed = needs.get(name, needs.get(OVERALL, (None, None)))
        for side, weighed, need in zip(Need._fields, sides, needed, strict=True):
            weights = [weight for skills, weight in weighed if name == OVERALL or name in skills]
            mean = math.fsum(weights) / len(weights) if weights else None
            rows[name][side] = {"need": need, "pairs": len(weights), "weight": mean}
    return rows


def _table(rows: Mapping[str, Mapping[str, Any]], head: Mapping[str, Any], spread: Mapping[str, float]) -> Table:
    columns = [Column(measure) for measure in SHOWN]
    columns += [
        Column(f"{side.removesuffix('s')} {what}") for side in Need._fields for what in ("need", "pairs", "weight")
    ]
    drawn = []
    for name, row in rows.items():
        shown = [row.get(measure) for measure in SHOWN]
        cells = [e and Figure(e["value"], e["low"], e["high"]) for e in shown]
        for side in Need._fields:
            told = row[side]
            need, weight = (None if told[name] is None else Figure(told[name]) for name in ("need", "weight"))
            cells += [need, Figure(told["pairs"], digits=0), weight]
        drawn.append(Row("all" if name == OVERALL else name, cells))
    drawings = "Pairs are those with a question of the skill; of drawings, with one that tells winner from loser."
    if not spread:
        note = f"Rule {head['rule']}, without diagnostics: no skill is said to need more than another."
        return Table("Emphasis", "skill", columns, drawn, [note, drawings])
    spreads = ", ".join(f"{measure} {value:.3f}" for measure, value in spread.items())
    blank = [name for name, row in rows.items() if not any(measure in row for measure in SHOWN)]
    notes = [
        f"Rule {head['rule']}, model {head['model']}; weights of the rule gap lie between {FLOOR:g} and {CAP:g}.",
        f"Needs are shrunk toward that of all; spread between skills, as a standard deviation: {spreads}.",
        drawings,
        *([f"Not measured, taken as all: {', '.join(blank)}."] if blank else []),
        f"Intervals: 95 %, as in the diagnostics of {head['run']}.",
    ]
    return Table("Emphasis", "skill", columns, drawn, notes)
