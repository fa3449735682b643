"""Both backends with short timeouts, each new for every test."""

import itertools
import os
from pathlib import Path

import pytest

SESSION_TIMEOUT_MS = 2_000
numbers = itertools.count()


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def journal_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A journal that nobody has used yet, whose groups notice a silent member soon."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/journal.db?session_timeout_ms={SESSION_TIMEOUT_MS}"
    broker = request.getfixturevalue("kafka_broker")
    return f"{broker.url}?prefix=faults-{os.getpid()}-{next(numbers)}.&session_timeout_ms={SESSION_TIMEOUT_MS}"
