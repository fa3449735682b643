"""Both backends, each new for every test."""

import itertools
import os
from pathlib import Path

import pytest

numbers = itertools.count()


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def journal_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A journal that nobody has used yet. The broker is shared, so there a prefix keeps tests apart."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/journal.db"
    broker = request.getfixturevalue("kafka_broker")
    return f"{broker.url}?prefix={request.getfixturevalue('kafka_prefix')}"


@pytest.fixture
def kafka_prefix() -> str:
    """What keeps this test's topics apart on the shared broker."""
    return f"e2e-{os.getpid()}-{next(numbers)}."
