"""Timers fire though an input ends with what is no record: the marker of a stranger's transaction on a Kafka topic.

Found by the simulation: the lane counted how far it was by the records that it had read, so the high watermark behind
the marker was out of reach, and no lease, deadline or backoff of the lane ended until another record came.
"""

from __future__ import annotations

from typing import Any

import pytest
from router.turning import Clock, begin, journal_of, put, said, work

from keylane.journal.memory import MemorySession
from keylane.schemas import topics

pytestmark = pytest.mark.anyio


class MarkedSession:
    """A session on inputs whose last offset is a marker: read over, and no record."""

    def __init__(self, session: MemorySession) -> None:
        self.session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def positions(self) -> dict[str, int]:
        return {topic: position + 1 for topic, position in self.session.positions().items()}

    async def high_watermarks(self) -> dict[str, int]:
        return {topic: end + 1 for topic, end in (await self.session.high_watermarks()).items()}


async def test_a_deadline_ends_a_request_though_the_input_ends_with_a_marker() -> None:
    journal, clock = await journal_of(), Clock()
    life = await begin(journal, clock=clock)
    life.noted.session = MarkedSession(life.noted.session)  # type: ignore[assignment]  # as much of one as is asked
    await put(journal, work("r1", deadline_ms=1_000))
    await life.turn()
    clock.s += 2
    await life.turn(2)
    assert said(journal) == ["Queued r1", "Ended r1"]
    assert life.lane.own.positions[topics.REQUESTS] == 2
