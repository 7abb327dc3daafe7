"""Tables -> LaTeX with booktabs, as papers have them.

Needs the packages booktabs and graphicx, and any engine: what is written is plain ASCII. A table too wide for a line is
broken into panels of fewer columns, one below the other, so that its type stays as large as the others'.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from gapbench.report.latex_text import escaped
from gapbench.report.table import Column, Figure, Row, Table, notes_of, reported_by

WIDTH = 132  # digits of \small type on a line of 16.6 cm, made a fifth smaller by \resizebox where it must be
_PREAMBLE = r"""\documentclass[10pt]{article}
\usepackage[a4paper, margin=2.2cm]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\raggedbottom
\makeatletter
\setlength{\@fptop}{0pt}
\makeatother
\begin{document}
"""
_ARROWS = {"higher": r" $\uparrow$", "lower": r" $\downarrow$", "": ""}
_MARKS = {"best": r"\textbf{%s}", "tied": r"\underline{%s}", "": "%s"}
_SYMBOLS = (r"\dagger", r"\ddagger", r"\S", r"\P", r"\|")


def latex(tables: Iterable[Table], intervals: bool = True, document: bool = False) -> str:
    r"""A `table` environment each, to be read by \input; with `document` a whole document, ready for pdflatex.

    intervals: in small type below each figure that has one. What others reported stands below a rule, with a dagger.
    """
    labels: dict[str, int] = {}
    text = "\n".join(_table(table, intervals, _label(table, labels)) for table in tables)
    return f"{_PREAMBLE}\n{text}\n\\end{{document}}\n" if document else text


def _label(table: Table, given: dict[str, int]) -> str:
    name = "-".join(re.findall("[a-z0-9]+", table.title.lower()))
    given[name] = given.get(name, 0) + 1
    return name if given[name] == 1 else f"{name}-{given[name]}"


def _table(table: Table, intervals: bool, label: str) -> str:
    signs = {
        source: _SYMBOLS[n % len(_SYMBOLS)] * (1 + n // len(_SYMBOLS)) for n, source in enumerate(reported_by(table))
    }
    notes = [f"$^{{{sign}}}$ Reported by {escaped(source, True)}" for source, sign in signs.items()]
    notes += [escaped(note, True) for note in notes_of(table, intervals)]
    lines = [r"\begin{table}[!htbp]", r"\centering\small"]
    lines += [r"\setlength{\tabcolsep}{4pt}\setlength{\belowcaptionskip}{4pt}"]
    lines += [f"\\caption{{{escaped(table.title)}}}", f"\\label{{tab:{label}}}"]
    for number, places in enumerate(_panels(table, intervals)):
        lines += [r"\par\medskip"] * (number > 0)
        lines += [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]
        lines += [*_tabular(table, places, intervals, signs)]
    if notes:
        lines += [r"\par\smallskip", r"\parbox{\linewidth}{\footnotesize\raggedright"]
        lines += [f"{note}\\par" for note in notes] + ["}"]
    return "\n".join([*lines, r"\end{table}", ""])


def _tabular(table: Table, places: Sequence[int], intervals: bool, signs: dict[str, str]) -> Iterator[str]:
    yield f"\\begin{{tabular}}{{@{{}}l{'r' * len(places)}@{{}}}}"
    yield r"\toprule"
    yield _line([escaped(table.label), *(_head(table.columns[place]) for place in places)])
    yield r"\midrule"
    measured = [row for row in table.rows if not row.source]
    for row in measured:
        yield from _row(row, places, intervals, "")
    for number, row in enumerate(row for row in table.rows if row.source):
        if number == 0:
            yield from [r"\midrule"] * bool(measured)
            yield f"\\multicolumn{{{len(places) + 1}}}{{@{{}}l}}{{\\emph{{reported}}}} \\\\"
        yield from _row(row, places, intervals, f"$^{{{signs[row.source]}}}$")
    yield r"\bottomrule"
    yield r"\end{tabular}}"


def _row(row: Row, places: Sequence[int], intervals: bool, sign: str) -> Iterator[str]:
    cells = [row.cells[place] for place in places]
    yield _line([escaped(row.label) + sign, *map(_cell, cells)])
    below = [cell.interval if intervals and isinstance(cell, Figure) else "" for cell in cells]
    if any(below):
        yield _line(["", *(f"{{\\scriptsize {_signed(text)}}}" if text else "" for text in below)])
        yield r"\addlinespace[2pt]"


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _head(column: Column) -> str:
    return escaped(column.name) + _ARROWS[column.better]


def _cell(cell: Figure | str | None) -> str:
    if isinstance(cell, Figure):
        return _MARKS[cell.mark] % _signed(cell.text)
    return escaped(cell) if cell else "--"


def _signed(text: str) -> str:
    """With minus signs, not hyphens."""
    return text.replace("-", "$-$")


# --- Panels -----------------------------------------------------------------------------------------------------------


def _panels(table: Table, intervals: bool) -> list[list[int]]:
    """The places of the columns, in as few panels of equal size as fit the line."""
    first = max(len(text) for text in (table.label, *(row.label for row in table.rows)))
    widths = [_width(table, place, intervals) for place in range(len(table.columns))]
    for count in range(1, len(widths) + 1):
        size = -(-len(widths) // count)
        panels = [list(range(start, len(widths)))[:size] for start in range(0, len(widths), size)]
        if size == 1 or all(first + sum(widths[place] for place in panel) <= WIDTH for panel in panels):
            return panels
    return [[]]


def _width(table: Table, place: int, intervals: bool) -> float:
    """Of a column with the space before it, in digits."""
    column, cells = table.columns[place], [row.cells[place] for row in table.rows]
    widest = len(column.name) + 2 * bool(column.better)
    for cell in cells:
        if isinstance(cell, Figure):
            widest = max(widest, len(cell.text), 0.8 * len(cell.interval) if intervals else 0)
        else:
            widest = max(widest, len(cell or ""))
    return widest + 1.8
