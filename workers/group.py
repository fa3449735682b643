"""Which partitions this process works in: its membership in the group of workers that can stand in for it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

import anyio

from keylane.journal import AccessDenied, Assignment, Journal, Membership, Unavailable
from keylane.workers.crew import Crew
from keylane.workers.reading import Reading

log = logging.getLogger("keylane.workers")

POLL_S = 1.0
UNSURE_MS = 5_000
"""Every rebalance takes all partitions away for a moment. Sessions end only when that lasts longer: until another
process joins a partition, the lane is right to go on with the one that it has."""
LEAVE_S = 5.0
AGAIN_S_MIN = 0.2
AGAIN_S_MAX = 5.0


def group_of(pool: str, actions: tuple[str, ...]) -> str:
    """The name of the group: one pool, the same actions."""
    digest = hashlib.sha256("\n".join(actions).encode()).hexdigest()
    return f"workers.{pool}.{digest[:8]}"


async def follow_group(
    journal: Journal, group: str, topic: str, reading: Reading, crew: Crew, now_ms: Callable[[], int]
) -> None:
    """Be a member and tell the crew of every assignment, until cancelled; then leave.

    Raises AccessDenied where the process may not be one from the start; later that may be given back.
    """
    again_s = AGAIN_S_MIN
    while True:
        try:
            membership = await journal.join(group, topic)
            try:
                again_s = AGAIN_S_MIN
                await _follow(membership, reading, crew, now_ms)
            finally:
                with anyio.move_on_after(LEAVE_S, shield=True):
                    await membership.leave()
        except Unavailable as error:
            if isinstance(error, AccessDenied) and not crew.places():
                raise
            log.warning("the group %s is unavailable, trying again in %.1f s: %s", group, again_s, error)
            await anyio.sleep(again_s)
            again_s = min(again_s * 2, AGAIN_S_MAX)


async def _follow(membership: Membership, reading: Reading, crew: Crew, now_ms: Callable[[], int]) -> None:
    unsure: tuple[int, Assignment] | None = None
    while True:
        assignment = await membership.changed(POLL_S)
        if assignment is not None and assignment.partitions:
            unsure = None
            await reading.note(assignment.partitions)
            crew.assign(assignment)
        elif assignment is not None:
            unsure = (now_ms() if unsure is None else unsure[0], assignment)
        elif unsure is not None and now_ms() - unsure[0] >= UNSURE_MS:
            crew.assign(unsure[1])
            unsure = None
