"""A memory journal as a router leaves it, and one with a router, for the tests of the client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from client_lane import set_up
from e2e.lock_states import Looker, looking

from keylane import Client
from keylane.journal.memory import MemoryJournal
from keylane.testing import local


@pytest.fixture
def url() -> str:
    return f"memory://{uuid4().hex}"


@pytest.fixture
async def journal(url: str) -> AsyncIterator[MemoryJournal]:
    journal = await set_up(url)
    assert isinstance(journal, MemoryJournal)
    yield journal
    await journal.close()


ROUTED = """
partitions = 4
[[scopes]]
match = "k8s://{c}/pods/{ns}/{app}/{pod}"
owner = "k8s://{c}/deployments/{ns}/{app}"
"""


@pytest.fixture
async def routed() -> AsyncIterator[str]:
    """A memory journal with a router at work."""
    async with local(ROUTED) as url:
        yield url


@pytest.fixture
async def ann(routed: str) -> AsyncIterator[Client]:
    async with Client(routed, actor="ann") as client:
        yield client


@pytest.fixture
async def ben(routed: str) -> AsyncIterator[Client]:
    async with Client(routed, actor="ben") as client:
        yield client


@pytest.fixture
async def locks(routed: str) -> AsyncIterator[Looker]:
    """Whoever looks at the locks there."""
    async with looking(routed) as looker:
        yield looker
