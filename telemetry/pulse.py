"""Whether the event loop of this process turns: what liveness means here. A thread that answers HTTP cannot tell."""

from __future__ import annotations

import time

import anyio

BEAT_S = 0.5
SILENT_S_MAX = 10.0
"""A loop that has not come round for so long is stuck: far above any turn, far below an operator's patience."""


class Pulse:
    """One task of the loop beats; any thread may ask."""

    def __init__(self, silent_s_max: float = SILENT_S_MAX) -> None:
        self._silent_s_max = silent_s_max
        self._beat_s = time.monotonic()

    async def beat(self) -> None:
        """Beat until cancelled."""
        while True:
            self._beat_s = time.monotonic()
            await anyio.sleep(BEAT_S)

    def is_alive(self) -> bool:
        """Whether the loop came round lately. A process that was stopped and goes on is alive after one beat."""
        return time.monotonic() - self._beat_s < self._silent_s_max
