"""That whatever is said about locks is answered: each record that a lane has applied, as its position tells."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from simulation.findings import true_owner
from simulation.log_model import Log
from simulation.true_runs import RulesSeen

from keylane.journal.port import Place
from keylane.schemas import topics
from keylane.schemas.codec import decode_request
from keylane.schemas.requests import LockRequest, Release, Renewal, SessionEnded

NAMES = (b'"LockRequest"', b'"Renewal"', b'"Release"', b'"SessionEnded"')


class TrueAnswers:
    """What lanes have answered, by the records' offsets."""

    def __init__(self, seen: RulesSeen, log: Log) -> None:
        self._seen = seen
        self._log = log
        self._applied: dict[int, int] = defaultdict(int)
        self._answered: dict[int, set[int]] = defaultdict(set)

    def event(self, event: Any, partition: int) -> None:
        """One event, which names what it answers."""
        topic, _, offset = event.input.partition("/")
        if topic == topics.REQUESTS:
            self._answered[partition].add(int(offset))

    def committed(self, partition: int, position: int) -> None:
        """A lane has applied its requests up to there."""
        slots = self._log.at(Place(topics.REQUESTS, partition)).slots
        for offset in range(self._applied[partition], position):
            stored = slots[offset].stored
            if stored is None or offset in self._answered[partition]:
                continue
            if any(name in (stored.value or b"") for name in NAMES):
                self._silent(decode_request(stored.value), partition, offset)
        self._applied[partition] = position
        self._answered[partition].clear()

    def _silent(self, record: Any, partition: int, offset: int) -> None:
        """Nothing is said only where what was given back is given back again."""
        if not isinstance(record, LockRequest | Renewal | Release | SessionEnded):
            return
        if isinstance(record, Release):
            lock = self._seen.locks.get((partition, record.run))
            is_again = lock is not None and lock.state == "Done" and lock.obeys(record)
            if is_again and lock.status in ("completed", "cancelled") and true_owner(record.resource) == lock.owner:  # type: ignore[union-attr]
                return
        where = f"requests/{partition}@{offset}"
        self._seen.broken("unanswered", f"{type(record).__name__} {record.id} at {where} was applied without a word")
