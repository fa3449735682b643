"""Process groups of programs that are ours to end: whoever leads one was started by us, and its pid names it."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable

import anyio

GROUP_POLL_S = 0.02
"""Of a group that is not ours to wait for, nothing tells that it is empty."""


def signal_group(leader: int, number: int) -> bool:
    """Whether there was anybody to signal. Number 0 only asks."""
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # macOS: only zombies are left of it
    return True


async def end_group(leader: int, ended: Callable[[], Awaitable[object]], kill_after_s: float) -> None:
    """SIGTERM, and SIGKILL after `kill_after_s`: nothing of the group is left when this returns.

    `ended` returns once the leader has been waited for; until then its pid is not another's. Not cut short by
    cancellation.
    """
    if not signal_group(leader, signal.SIGTERM):
        return
    signal_group(leader, signal.SIGCONT)  # one that is stopped hears it only so
    with anyio.move_on_after(kill_after_s, shield=True):
        await ended()
        while signal_group(leader, 0):  # noqa: ASYNC110
            await anyio.sleep(GROUP_POLL_S)
        return
    signal_group(leader, signal.SIGKILL)
    with anyio.CancelScope(shield=True):
        await ended()
