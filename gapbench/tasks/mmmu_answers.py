"""MMMU's saved answers: its official output files, its parsed answers, and ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gapbench.data import sources
from gapbench.records import InputError, Judgement, Record
from gapbench.responses import RECORDED, Found, Row, Saved, few, found, match, read_rows, records_of, unreadable
from gapbench.skills import skills_of
from gapbench.tasks import mmmu


def read(path: Path, data: Path | None) -> Saved:
    """Answers to the 900 validation questions: one file, or the official folder of SUBJECT/output.json. Three forms:

    - the official output rows {id, question_type, answer, all_choices, index2ans, response}, which need no `data`
    - rows {id, response} and a run's records; without the options, the response to a multiple-choice question must be
      a letter
    - the official dict of parsed answers {"validation_Accounting_1": "D"}

    `data` is a folder with the hub's parquet files, which have the options, or answer_dict_val.json or its folder. It
    judges rows that have no gold, and must agree with those that do; where it is None, what is cached may judge them.
    """
    known = {} if data is None else _golds(data)
    files = sorted(path.glob("*/output.json")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: no SUBJECT/output.json in this folder")
    rows_found: list[Found] = []
    bad: list[str] = []
    own: dict[str, mmmu.Reference] = {}
    for row in (row for file in files for row in _rows(file)):
        answer = found(row.value) or found(row.value, RECORDED)
        if answer is None:
            bad.append(unreadable(row))
            continue
        rows_found.append(answer)
        if "answer" in row.value and answer.id not in own:
            own[answer.id] = reference = _reference(row.value, row.where)
            if answer.id in known and _gist(known[answer.id]) != _gist(reference):
                raise InputError(f"{row.where}: the gold of {answer.id} is not the one in {data}")
    answers = match(mmmu.VALIDATION_IDS, rows_found, bad)
    lacking = [name for name in answers.given if name not in known and name not in own]
    if lacking and data is None:
        place = sources.given_folder("mmmu", None) or sources.cached(sources.SOURCES["mmmu"])
        known = _golds(place.folder) if place else {}
        lacking = [name for name in lacking if name not in known]
    if lacking:
        raise InputError(
            f"{path}: {len(lacking)} answers have no gold ({few(lacking)}); "
            "give --data with the hub's parquet files or the official answer_dict_val.json"
        )
    references = {**own, **known} | {name: one for name, one in own.items() if one.open or one.options is not None}

    def judge(variant: str) -> list[Record]:
        def one(name: str, response: str) -> tuple[str, tuple[str, ...], Judgement]:
            skills = skills_of("mmmu", mmmu.place(name)[0])
            return name, skills, mmmu.judge_answer(references[name], response, variant)

        records = records_of("mmmu", answers, one)
        return mmmu.guess(records) if variant == "official-random" else records

    return Saved(answers, judge)


def unparsed(record: Record) -> bool:
    return mmmu.unparsed(record) or "guessed" in record.details


def _rows(file: Path) -> list[Row]:
    rows = read_rows(file)
    if len(rows) == 1 and isinstance(rows[0].value, dict) and not {"id", "item"} & rows[0].value.keys():
        return [Row(f"{file}: {name}", {"id": name, "response": said}) for name, said in rows[0].value.items()]
    return rows


def _golds(path: Path) -> dict[str, mmmu.Reference]:
    if path.is_dir():
        path = sources.given_folder("mmmu", path).folder
        if any(list(path.glob(pattern)) for pattern in ("validation*.parquet", "*/validation*.parquet")):
            items = mmmu.read(path, pictures=False, allow_partial=True).items
            return {item.id: item.truth["reference"] for item in items}
    file = path / "answer_dict_val.json" if path.is_dir() else path
    rows = read_rows(file)
    golds = rows[0].value if len(rows) == 1 else None
    if not isinstance(golds, dict) or set(golds) != set(mmmu.VALIDATION_IDS):
        raise InputError(f"{file}: not the official answer_dict_val.json, one object with MMMU's 900 validation ids")
    references = {}
    for name, gold in golds.items():
        if not isinstance(gold, dict) or "ground_truth" not in gold:
            raise InputError(f"{file}: {name}: no ground_truth")
        row = {"id": name, "question_type": gold.get("question_type"), "answer": gold["ground_truth"]}
        references[name] = _reference(row, f"{file}: {name}")
    return references


def _reference(row: Mapping[str, Any], where: str) -> mmmu.Reference:
    if not isinstance(row.get("question_type"), str):
        raise InputError(f"{where}: a gold needs its question_type")
    try:
        answers = mmmu.gold_answers(row["answer"])
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    is_open = row["question_type"] != "multiple-choice"
    options = None if is_open else row.get("index2ans")
    if options is not None and not (
        isinstance(options, dict)
        and options
        and all(isinstance(text, str) for text in options.values())
        and row.get("all_choices", list(options)) == list(options)
    ):
        raise InputError(f"{where}: index2ans must map the letters of all_choices, in their order, to texts")
    return mmmu.Reference(row["id"], is_open, answers, options)


def _gist(reference: mmmu.Reference) -> tuple[bool, frozenset[str]]:
    return reference.open, frozenset(reference.answers)
