"""LaTeX: it compiles whatever a model is called, it says what a figure is, and wide tables are broken, not shrunk."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapbench.report.latex import latex
from gapbench.report.latex_text import escaped
from gapbench.report.leaderboard import leaderboard
from gapbench.report.table import Column, Figure, Row, Table

AWFUL = r"""100% & $5 #1 _a_ {b} ~c ^d \e <f> [g] *h* |i| "j" `k` l--m?`n!`o 日本 naïve Łódź τ ½ é\\[1em]"""
TABLE = Table(
    "Scores",
    "model",
    [Column("FID", "lower"), Column("# params"), Column("acc_norm", "higher")],
    [
        Row("a_b", (Figure(9.25, 9.0, 9.5, 2, "best"), "1.3B", Figure(-0.5, -0.75, -0.25, 2, "tied"))),
        Row("[c]", (Figure(10, digits=2), None, "0.5 (7/20)")),
        Row("d", (Figure(1.5, digits=1), None, None), "Paper 1, 50 %"),
        Row("e", (None, None, Figure(0.1, digits=1)), "Paper 2"),
    ],
    ["Intervals: told", "a note"],
)


def test_a_table_by_hand() -> None:
    assert (
        latex([TABLE])
        == r"""\begin{table}[!htbp]
\centering\small
\setlength{\tabcolsep}{4pt}\setlength{\belowcaptionskip}{4pt}
\caption{Scores}
\label{tab:scores}
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%
\begin{tabular}{@{}lrrr@{}}
\toprule
model & FID $\downarrow$ & \# params & acc\_norm $\uparrow$ \\
\midrule
a\_b & \textbf{9.25} & 1.3B & \underline{$-$0.50} \\
 & {\scriptsize [9.00, 9.50]} &  & {\scriptsize [$-$0.75, $-$0.25]} \\
\addlinespace[2pt]
{[}c{]} & 10.00 & -- & 0.5 (7/20) \\
\midrule
\multicolumn{4}{@{}l}{\emph{reported}} \\
d$^{\dagger}$ & 1.5 & -- & -- \\
e$^{\ddagger}$ & -- & -- & 0.1 \\
\bottomrule
\end{tabular}}
\par\smallskip
\parbox{\linewidth}{\footnotesize\raggedright
$^{\dagger}$ Reported by Paper 1, 50 \%\par
$^{\ddagger}$ Reported by Paper 2\par
Intervals: told\par
a note\par
}
\end{table}
"""
    )


def test_without_intervals_nothing_speaks_of_them() -> None:
    text = latex([TABLE], intervals=False)
    assert "scriptsize" not in text
    assert "Intervals" not in text
    assert r"\textbf{9.25}" in text


def test_labels_are_told_apart_and_documents_are_whole() -> None:
    text = latex([TABLE, TABLE], document=True)
    assert re.findall(r"\\label\{(.*)\}", text) == ["tab:scores", "tab:scores-2"]
    assert text.startswith("\\documentclass")
    assert text.endswith("\\end{document}\n")
    assert "documentclass" not in latex([TABLE])


def test_a_wide_table_is_broken_into_panels() -> None:
    names = [f"a column of some length, {n}" for n in range(12)]
    row = Row("m", [Figure(float(n), digits=0) for n in range(12)])
    text = latex([Table("wide", "model", [Column(name) for name in names], [row])])
    bodies = re.findall(r"\\midrule\n(.*) \\\\", text)
    assert len(bodies) > 1
    assert [body.split(" & ")[0] for body in bodies] == ["m"] * len(bodies)
    assert [cell for body in bodies for cell in body.split(" & ")[1:]] == [str(n) for n in range(12)]
    assert max(len(body.split(" & ")) for body in bodies) - min(len(body.split(" & ")) for body in bodies) <= 1
    assert latex([TABLE]).count("begin{tabular}") == 1


def test_a_table_without_rows_or_columns() -> None:
    assert r"\begin{tabular}{@{}l@{}}" in latex([Table("t", "t", (), (), ["nothing"])])


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a & b_c 5% #1 $2", r"a \& b\_c 5\% \#1 \$2"),
        ("{~^\\}", r"\{\textasciitilde{}\textasciicircum{}\textbackslash{}\}"),
        ("<a> [b] *", r"\textless{}a\textgreater{} {[}b{]} {*}"),
        ("a--b---c -d", "a-{}-b-{}-{}-c -d"),
        ("naïve Łódź Ångström", "na\\\"{\\i{}}ve \\L{}\\'{o}d\\'{z} \\r{A}ngstr\\\"{o}m"),
        ("i\N{COMBINING DIAERESIS}", '\\"{\\i{}}'),  # the same letter, written as two characters
        ("τ-bench ±", r"$\tau$-bench $\pm$"),
        ("日 🙂", r"\texttt{U+65E5} \texttt{U+1F642}"),
        ("one\n two\tthree ", "one two three"),
    ],
)
def test_characters(text: str, written: str) -> None:
    assert escaped(text) == written


@given(st.text())
def test_any_text_becomes_plain_ascii_without_what_latex_reads_as_its_own(text: str) -> None:
    written = escaped(text)
    assert written.isascii()
    assert written.isprintable()
    assert not re.search(r"(?<!\\)[&%#_]", written)
    assert written.count("{") - written.count(r"\{") == written.count("}") - written.count(r"\}")


def test_only_long_words_of_notes_may_be_broken() -> None:
    path = "/a/long/way/to/a/file/of/some/name.npz"
    assert escaped(f"{path} a/b", breaks=True).replace(r"\allowbreak{}", "") == f"{path} a/b"
    assert escaped(f"{path} a/b", breaks=True).count(r"\allowbreak{}") == 10
    assert r"\allowbreak" not in escaped(path)


def test_it_compiles(tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    columns = [Column(AWFUL, better) for better in ("higher", "lower", "")]
    figure = Figure(0.5, 0.25, 0.75, 2, "best")
    row = (figure, AWFUL, None)
    awful = Table(AWFUL, AWFUL, columns, [Row(AWFUL, row), Row(AWFUL, row, AWFUL)], [AWFUL, "/" + "a/" * 200])
    letters = Table("letters", "t", (), (), [" ".join(map(chr, range(0x21, 0x250)))])
    file = tmp_path / "tables.tex"
    file.write_text(latex([*leaderboard([], published=True), awful, letters, TABLE], document=True), encoding="ascii")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", file.name]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace").stdout
    assert (tmp_path / "tables.pdf").is_file(), said[-2000:]
    assert "Overfull" not in said
    assert "Missing character" not in (tmp_path / "tables.log").read_text(errors="replace")
