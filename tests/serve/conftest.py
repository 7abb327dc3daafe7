"""Fixtures that the tests of serving share."""

from __future__ import annotations

import pytest
from echo_model import Echo


@pytest.fixture
def echo() -> Echo:
    return Echo()
