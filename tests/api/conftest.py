"""A memory journal as a router leaves it, for the tests of the client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from client_lane import set_up

from keylane.journal.memory import MemoryJournal


@pytest.fixture
def url() -> str:
    return f"memory://{uuid4().hex}"


@pytest.fixture
async def journal(url: str) -> AsyncIterator[MemoryJournal]:
    journal = await set_up(url)
    assert isinstance(journal, MemoryJournal)
    yield journal
    await journal.close()
