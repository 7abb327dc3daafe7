"""The folder of pairs: candidates, paired and weighed, written down with all that was decided.

FOLDER/pairs.jsonl            a pair a line; it comes last, and says that all is there
FOLDER/pairs.json             how many, and why others were dropped
FOLDER/emphasis.md, .json     what the diagnostics say of each skill, and the weight that this gives
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gapbench.records import InputError
from gapbench.report.markdown import markdown
from gapbench.store import write_bytes, write_json
from hermesflow import emphasis, preferences
from hermesflow.candidate_files import read_candidates
from hermesflow.checkpoints import writing
from hermesflow.emphasis import Emphasis
from hermesflow.preferences import Rule
from hermesflow.records import Candidates, NoPairs, Pair, pair_from, to_json

FILE = "pairs.jsonl"


class Paired(NamedTuple):
    """The pairs with their weights, and the counts of what was dropped, by reason."""

    file: Path
    emphasis: Emphasis
    dropped: Mapping[str, int]


def pair_up(
    candidates: Path,
    old: Sequence[Pair],
    rule: Rule,
    diagnostics: Mapping[str, Any] | None,
    weighing: str,
    folder: Path,
) -> Paired:
    """Choose, or renew where there are `old` pairs, weigh by the rule of emphasis `weighing`, and write it all down.

    Raises InputError where there is no pair (NoPairs), the folder holds others, or cannot be written.
    """
    made: Sequence[Candidates] = read_candidates(candidates)
    if rule.trust is not None:
        made = list(preferences.as_trusted(made, rule.trust, diagnostics))
    found = preferences.renew(made, old, rule) if old else preferences.choose(made, rule)
    file = folder / FILE
    if not file.exists():
        with writing(file):
            write_json(folder / "pairs.json", {"pairs": len(found.pairs), "dropped": dict(found.dropped)})
    if not found.pairs:
        reasons = ", ".join(f"{count} {reason}" for reason, count in found.dropped.items())
        advice = "curate more items, or ask less of a pair"
        raise NoPairs(f"{candidates}: no pair in {len(made)} items ({reasons or 'it is empty'}); {advice}")
    weighed = emphasis.weigh(found.pairs, diagnostics, weighing)
    lines = "".join(to_json(pair) + "\n" for pair in weighed.pairs).encode()
    with writing(file):
        if file.exists() and file.read_bytes() != lines:
            raise InputError(f"{folder}: holds other pairs; give another folder")
        write_json(folder / "emphasis.json", weighed.told)
        write_bytes(folder / "emphasis.md", markdown([weighed.table]).encode())
        write_bytes(file, lines)
    return Paired(file, weighed, found.dropped)


def read_pairs(path: Path) -> list[Pair]:
    """All of a `pairs.jsonl`, or of its folder. Raises InputError naming the line that is none, or if none is there."""
    file = path / FILE if path.is_dir() else path
    pairs = []
    try:
        with file.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                pairs.append(_parsed(line, f"{file}:{number}"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); `hermesflow pairs` makes such a file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text ({error}); pair anew") from None
    if not pairs:
        raise InputError(f"{file}: no pairs in it; pair anew")
    return pairs


def _parsed(line: str, where: str) -> Pair:
    try:
        return pair_from(line)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{where}: no pair ({error or type(error).__name__}); pair anew") from None
