"""The suite's fixtures: the same site on each adapter."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from contract.adapters import Adapter, MemoryAdapter, SqliteAdapter
from contract.kafka_adapter import KafkaAdapter
from contract.sites import Site

SEVERAL_PROCESSES = ["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test runs on every adapter, those of several processes on every adapter that has them."""
    if "site" in metafunc.fixturenames:
        several = metafunc.definition.get_closest_marker("several_processes") is not None
        metafunc.parametrize("site", SEVERAL_PROCESSES if several else ["memory", *SEVERAL_PROCESSES], indirect=True)


@pytest.fixture
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        adapter: Adapter
        match request.param:
            case "memory":
                adapter = MemoryAdapter()
            case "sqlite":
                adapter = SqliteAdapter(tmp_path, stack)
            case _:
                adapter = KafkaAdapter(request.getfixturevalue("kafka_broker"), stack)
        site = Site(adapter, stack)
        site.journal = await site.open()
        await site.journal.create_topics(site.specs)
        yield site
