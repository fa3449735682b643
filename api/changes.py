"""What becomes of a change made outside that was published among requests: `ChangeTicket` waits for it.

As `waiting` for requests; a change has one answer, which `command_answers` learns.
"""

from __future__ import annotations

from keylane.command_answers import ToldMachine, not_told
from keylane.errors import Unavailable
from keylane.schemas.event_parts import ChangeEffect
from keylane.schemas.events import Changed
from keylane.waiting import ANSWER_S, Watch, settled


class ChangeTicket:
    """One change that was published. Waiting on it, or ceasing to, changes nothing about it."""

    def __init__(self, watch: Watch[ToldMachine]) -> None:
        self._watch = watch

    async def recorded(self, timeout_s: float = ANSWER_S) -> ChangeEffect:
        """What it meant for what was known: `applied`, `known` before, `older` than that, or `repeated`.

        Raises `Refused`, and `Unavailable` when no router answered within `timeout_s`.
        """
        machine = self._watch.machine
        if not await self._watch.until(settled, timeout_s):
            raise Unavailable(f"no router answered the change {machine.command_id} within {timeout_s:g} s")
        if machine.error is not None:
            raise not_told(machine.error)
        assert isinstance(machine.answer, Changed)
        return machine.answer.effect
