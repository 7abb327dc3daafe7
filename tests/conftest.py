"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the benchmarks' public data and golden vectors: GAPBENCH_SHARED, or ../shared of the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("GAPBENCH_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set GAPBENCH_SHARED")
    return folder
