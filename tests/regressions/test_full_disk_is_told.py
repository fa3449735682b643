"""A disk that is full is told as that, by the journal and by `/readyz`: it was "disk I/O error", and "is loading"."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from prometheus_client import CollectorRegistry

from keylane.journal.connect import connect
from keylane.journal.errors import Unavailable
from keylane.journal.memory import MemoryJournal, MemoryLog, MemorySession
from keylane.journal.port import Record, TopicSpec
from keylane.router.config import Config
from keylane.router.core.policy import Policy
from keylane.router.metrics import RouterMetrics
from keylane.router.service import Router
from keylane.router.setup import prepare
from keylane.schemas import topics

pytestmark = pytest.mark.anyio


async def test_a_limit_on_file_sizes_is_a_full_disk(tmp_path: Path) -> None:
    """SQLite gives EFBIG and EDQUOT the name that a broken disk has."""
    journal = await connect(f"sqlite://{tmp_path}/journal.db")
    await journal.create_topics([TopicSpec("t", 1)])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    try:
        with pytest.raises(Unavailable, match=r"journal\.db: the commit failed: the disk is full, make room"):
            await journal.append([Record("t", 0, None, b"x" * 1_000_000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert await journal.append([Record("t", 0, None, b"x")]) == [0]
    await journal.close()


class Journal(MemoryJournal):
    async def claim(self, partition: int, inputs: Sequence[str], state: str) -> MemorySession:
        raise Unavailable("the disk is full")


async def test_what_is_not_ready_says_why_the_journal_dropped_it() -> None:
    journal, config = Journal(MemoryLog()), Config(url=None, partitions=1, policy=Policy())
    metadata = await prepare(journal, config)
    metrics = RouterMetrics(CollectorRegistry(), config.policy, 1)
    membership = await journal.join("routers", topics.REQUESTS)
    router = Router(journal, membership, config, metadata, metrics, lambda: None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(router.run)
        try:
            with anyio.fail_after(10):
                while "lane 0 is loading again: the disk is full" not in router.why_unready():
                    await anyio.lowlevel.checkpoint()
        finally:
            router.stop()  # it shields itself from the deadline
