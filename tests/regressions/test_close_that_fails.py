"""A lane session that cannot even be closed: its lane loads again, and the router's other lanes hear nothing of it."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest
from msgspec import Raw
from router.turning import agreed, lane_meter

from keylane.journal.memory import MemoryJournal, MemoryLog, MemorySession
from keylane.journal.port import Place, Record
from keylane.router.core.policy import Policy
from keylane.router.lane_task import LaneTask
from keylane.router.setup import topic_specs
from keylane.router.waits_task import WaitsTask
from keylane.schemas import topics
from keylane.schemas.codec import encode
from keylane.schemas.requests import WorkRequest

pytestmark = pytest.mark.anyio


class Session(MemorySession):
    async def close(self) -> None:
        await super().close()
        raise OSError("the connection was gone already")


class Journal(MemoryJournal):
    async def claim(self, partition: int, inputs: Sequence[str], state: str) -> MemorySession:
        await super().claim(partition, inputs, state)
        return Session(self.log, partition, inputs, state)


async def test_a_session_that_fails_to_close_is_followed_by_the_next() -> None:
    journal = Journal(MemoryLog())
    await journal.create_topics(topic_specs(1, ("default",)))
    membership = await journal.join("routers", topics.REQUESTS)
    waits = WaitsTask(journal)
    lane = LaneTask(
        0, journal, membership, Policy(), lambda owner: 0, 0, lambda partition: None, lane_meter(), agreed, waits
    )
    journal.log.break_next_commit(written=False)
    request = WorkRequest(id="r1", resource="deploy://api", action="restart", payload=Raw(b"null"))
    await journal.append([Record(topics.REQUESTS, 0, b"k", encode(request))])
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lane.run)
            reader = await journal.reader({Place(topics.EVENTS, 0): None})
            assert len(await reader.poll(10, 10.0)) == 1
            lane.stop()
            await lane.finished.wait()
