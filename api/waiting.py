"""Waiting for an answer: a watch over any machine, and `Ticket`, the one that callers hold.

Machines are `ticket`'s; who feeds them is `receipts`. Here are only waiting, deadlines and what to raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import anyio

from keylane.errors import Unavailable, refusal
from keylane.outcome import Outcome, Status
from keylane.schemas.events import AnyEvent
from keylane.ticket import TicketMachine

ANSWER_S = 10.0
"""After this long without any event about a request, no router has answered (design section 3)."""


class Machine(Protocol):
    """What is fed: a ticket's or a cancellation's machine."""

    partition: int

    @property
    def settled(self) -> bool: ...

    def feed(self, event: AnyEvent) -> None: ...


M = TypeVar("M", bound=Machine)


class Watch(Generic[M]):
    """Waits for what a machine learns. `failure` says why nothing more will come."""

    def __init__(self, machine: M) -> None:
        self.machine = machine
        self.failure: str | None = None
        self.names: set[str] = set()
        self.listener: Callable[[], None] | None = None
        """Called at each wake too, for who waits for several."""
        self._changed = anyio.Event()

    def wake(self) -> None:
        """Let those who wait look again."""
        self._changed.set()
        self._changed = anyio.Event()
        if self.listener is not None:
            self.listener()

    async def changed(self) -> None:
        """Wait until the machine was fed again, or nothing more will come."""
        await self._changed.wait()

    async def until(self, reached: Callable[[M], bool], timeout_s: float | None) -> bool:
        """Whether the machine got there within `timeout_s`. Raises `Unavailable` when it never will."""
        with anyio.move_on_after(timeout_s):
            while not reached(self.machine):
                if self.failure is not None:
                    raise Unavailable(self.failure)
                await self._changed.wait()
        return reached(self.machine)


class Ticket:
    """One published request. Waiting on it, or ceasing to, changes nothing about the request."""

    def __init__(self, watch: Watch[TicketMachine], trouble: Callable[[], str | None]) -> None:
        self._watch = watch
        self._trouble = trouble

    @property
    def request_id(self) -> str:
        """The id under which the request is known."""
        return self._watch.machine.request_id

    async def accepted(self, timeout_s: float = ANSWER_S) -> Status:
        """How it stood when a router had answered; `unserved` there says that no worker handles the action.

        Raises `Refused`, and `Unavailable` when no router answered within `timeout_s`.
        """
        status = await self._answer(timeout_s)
        if status.outcome is not None and status.outcome.status == "refused":
            assert status.outcome.error is not None
            raise refusal(status.outcome.error)
        return status

    async def outcome(self, timeout_s: float | None = None) -> Outcome:
        """How it ended; a refusal is an outcome too. Waits for ever without `timeout_s`.

        Raises `Unavailable` when no router answered at all, and `TimeoutError` when it has not ended within
        `timeout_s`: it may end yet, and `Client.status` tells.
        """
        started_s = anyio.current_time()
        answer_s = ANSWER_S if timeout_s is None else min(ANSWER_S, timeout_s)
        status = await self._answer(answer_s)
        left_s = None if timeout_s is None else max(0.0, timeout_s - (anyio.current_time() - started_s))
        if not await self._watch.until(settled, left_s):
            raise TimeoutError(f"request {self.request_id} on {status.resource} has not ended within {timeout_s} s")
        outcome = self._watch.machine.outcome
        if outcome is None:
            raise self._moved()
        return outcome

    async def _answer(self, timeout_s: float) -> Status:
        machine = self._watch.machine
        if not await self._watch.until(_answered, timeout_s):
            trouble = f" ({why})" if (why := self._trouble()) else ""
            raise Unavailable(
                f"no router answered request {self.request_id} within {timeout_s:g} s{trouble};"
                " it stays on record, and will be answered when a router runs"
            )
        if machine.status is None:
            raise self._moved()
        return machine.status

    def _moved(self) -> Unavailable:
        return Unavailable(
            f"request {self.request_id} was sent on to partition {self._watch.machine.moved_to}: scope rules"
            " were changed since this client read them; ask for its status"
        )


def _answered(machine: TicketMachine) -> bool:
    return machine.status is not None or machine.settled


def settled(machine: Machine) -> bool:
    """Whether a machine knows its answer, to wait for."""
    return machine.settled
