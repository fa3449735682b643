"""What becomes of a change made outside that was told: `ChangeMachine` learns it, `ChangeTicket` waits for it.

As `ticket` and `waiting` for requests; a change has one answer, and ends with it.
"""

from __future__ import annotations

from keylane.errors import ErrorBody, Unavailable, error_body, refusal
from keylane.schemas.events import AnyEvent, Changed, ChangeEffect, DeadLettered, Refused
from keylane.ticket import refused_body
from keylane.waiting import ANSWER_S, Watch, settled


class ChangeMachine:
    """One change from its publish to its answer: `effect`, or `error` when it was refused. Sans-I/O."""

    def __init__(self, change_id: str, partition: int) -> None:
        self.change_id = change_id
        self.partition = partition
        self.effect: ChangeEffect | None = None
        self.error: ErrorBody | None = None

    @property
    def settled(self) -> bool:
        """Whether the answer is known."""
        return self.effect is not None or self.error is not None

    def feed(self, event: AnyEvent) -> None:
        """Take the next event that names the change or its record."""
        match event:
            case Changed(change=self.change_id):
                self.effect = event.effect
            case Refused(request=self.change_id):
                self.error = refused_body(event, self.partition)
            case DeadLettered():
                self.error = error_body(event.code, event.reason)


class ChangeTicket:
    """One change that was published. Waiting on it, or ceasing to, changes nothing about it."""

    def __init__(self, watch: Watch[ChangeMachine]) -> None:
        self._watch = watch

    async def recorded(self, timeout_s: float = ANSWER_S) -> ChangeEffect:
        """What it meant for what was known: `applied`, `known` before, `older` than that, or `repeated`.

        Raises `Refused`, and `Unavailable` when no router answered within `timeout_s`.
        """
        machine = self._watch.machine
        if not await self._watch.until(settled, timeout_s):
            raise Unavailable(f"no router answered the change {machine.change_id} within {timeout_s:g} s")
        if machine.error is not None:
            raise refusal(machine.error)
        assert machine.effect is not None
        return machine.effect
