"""What an agent of the simulation hears about its locks: the events of all lanes, by the names that they bear."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from simulation import tasks
from simulation.decoding import decode_event

from keylane.journal.errors import PositionLost, Unavailable
from keylane.journal.port import Journal, Place
from keylane.schemas import topics

POLL_S = 8.0
AGAIN_S = 0.3
NAMES = ("request", "run", "renewal", "report_id", "ended")


class LockEvents:
    """Follows every lane from where it ends when this begins. `run` is its one task."""

    def __init__(self, journal: Journal, partitions: int) -> None:
        self._journal = journal
        self._places = [Place(topics.EVENTS, partition) for partition in range(partitions)]
        self._heard: dict[str, list[Any]] = defaultdict(list)
        self._wakes: dict[str, tasks.Event] = {}

    async def begin(self) -> dict[Place, int | None]:
        """Where to read from. Raises `Unavailable`."""
        return dict(await self._journal.end_positions(self._places))

    async def run(self, positions: dict[Place, int | None]) -> None:
        """Until cancelled."""
        while True:
            try:
                reader = await self._journal.reader(positions)
                while True:
                    for stored in await reader.poll(1_000, POLL_S):
                        self._hear(decode_event(stored.value))
                    positions = dict(reader.positions())
            except PositionLost:
                positions = dict.fromkeys(self._places)
            except Unavailable:
                await tasks.sleep(AGAIN_S)

    def _hear(self, event: Any) -> None:
        said = {getattr(event, field, "") for field in NAMES} | set(getattr(event, "requests", ()))
        for name in sorted(said):
            if name:
                self._heard[name].append(event)
                wake = self._wakes.pop(name, None)
                if wake is not None:
                    wake.set()

    def about(self, name: str, *kinds: type) -> list[Any]:
        """What was heard of these kinds so far."""
        return [event for event in self._heard.get(name, ()) if isinstance(event, kinds)]

    async def until(self, name: str, is_it: Callable[[Any], bool], timeout_s: float) -> Any:
        """The first event about `name` that is what is waited for; None where none comes in time."""
        seen = 0
        with tasks.move_on_after(timeout_s):
            while True:
                heard = self._heard.get(name, [])
                while seen < len(heard):
                    seen += 1
                    if is_it(heard[seen - 1]):
                        return heard[seen - 1]
                wake = self._wakes.get(name)
                if wake is None:
                    wake = self._wakes[name] = tasks.Event()
                await wake.wait()
        return None
