"""Candidates and pairs come back from their lines as they were."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermesflow.records import (
    Candidates,
    CaptionCandidate,
    ImageCandidate,
    Pair,
    Preference,
    candidates_from,
    pair_from,
    to_json,
)

number = st.floats(allow_nan=False)
codes = st.lists(st.integers(0, 2**16 - 1), max_size=9).map(tuple)
skills = st.lists(st.text(max_size=5), max_size=4).map(tuple)
captions = st.builds(
    CaptionCandidate,
    st.text(),
    st.lists(st.integers(0, 60_000), max_size=5).map(tuple),
    st.booleans(),
    number,
    st.none() | st.integers(1, 9),
    number,
)
right = st.lists(st.none() | st.booleans(), max_size=5).map(tuple)
images = st.builds(ImageCandidate, codes, st.integers(0, 2**63), right, number)
candidates = st.builds(
    Candidates,
    st.text(),
    st.text(),
    st.text(),
    skills,
    codes,
    st.lists(captions, max_size=2).map(tuple),
    st.lists(images, max_size=2).map(tuple),
)
pairs = st.builds(
    Pair,
    st.text(),
    st.text(),
    st.text(),
    skills,
    codes,
    st.none() | st.builds(Preference, captions, captions),
    st.none() | st.builds(Preference, images, images),
    number,
    number,
)


@given(candidates)
def test_candidates_come_back(made: Candidates) -> None:
    line = to_json(made)
    assert "\n" not in line
    assert candidates_from(line) == made


@given(pairs)
def test_pairs_come_back(pair: Pair) -> None:
    line = to_json(pair)
    assert "\n" not in line
    assert pair_from(line) == pair


IMAGE = ImageCandidate((0, 1, 8191), 3, (True, None, False), 0.5)
PAIR = Pair("a", "b", "two dogs", ("count",), (256,), None, Preference(IMAGE, replace(IMAGE, score=0.0)))


def test_codes_are_little_endian_uint16_in_base64() -> None:
    row = json.loads(to_json(PAIR))
    assert row["codes"] == base64.b64encode(b"\x00\x01").decode()
    decoded = np.frombuffer(base64.b64decode(row["images"]["win"]["codes"]), "<u2")
    assert decoded.tolist() == [0, 1, 8191]
    assert row["captions"] is None
    assert row["images"]["win"]["right"] == [True, None, False]


def test_an_unknown_score_stays_unknown() -> None:
    made = Candidates("a", "a", "c", (), (), (), (replace(IMAGE, score=math.nan),))
    assert math.isnan(candidates_from(to_json(made)).images[0].score)


@pytest.mark.parametrize("code", [-1, 2**16])
def test_a_code_that_does_not_fit_is_refused(code: int) -> None:
    with pytest.raises(OverflowError):
        to_json(replace(PAIR, codes=(code,)))


@pytest.mark.parametrize(
    "line",
    [
        "",
        to_json(PAIR)[:-9],
        "[]",
        "{}",
        json.dumps({**json.loads(to_json(PAIR)), "codes": "!AAA="}),  # a sign that is not of base64
        json.dumps({**json.loads(to_json(PAIR)), "codes": "AAAA"}),  # three bytes
        json.dumps({**json.loads(to_json(PAIR)), "more": 1}),
    ],
)
def test_what_is_no_line_is_refused(line: str) -> None:
    for read in (pair_from, candidates_from):
        with pytest.raises((ValueError, KeyError, TypeError)):
            read(line)
