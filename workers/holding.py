"""What ties one running handler to the session that holds its item: progress out, loss in."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from keylane.schemas.errors import LeaseLost
from keylane.schemas.items import WorkItem
from keylane.schemas.results import Progress
from keylane.workers.item import Saved
from keylane.workers.outbox import Letter
from keylane.workers.session import Session


class SessionHolding:
    """A `Holding` (see `item`) of a live session. `report` publishes, or returns None when it no longer counts."""

    def __init__(
        self,
        session: Session,
        item: WorkItem,
        *,
        pool: str,
        is_async: bool,
        now_ms: Callable[[], int],
        report: Callable[[Progress], Letter | None],
    ) -> None:
        self.scope = anyio.CancelScope()
        self.is_async = is_async
        self._session = session
        self._item = item
        self._pool = pool
        self._now_ms = now_ms
        self._report = report
        self._reason: str | None = None

    def cancel(self, reason: str) -> None:
        """The item is lost, or to stop. An async handler is cancelled, one in a thread finds out by `check`."""
        self._reason = reason
        if self.is_async:
            self.scope.cancel()

    def check(self) -> None:
        # The clock is asked too: after a stop of the process this may run before anybody has noticed.
        if self._reason is not None:
            raise LeaseLost(f"{self._item.resource}: {self._reason}")
        if self._session.remaining_ms(self._item.token, self._now_ms()) <= 0:
            raise LeaseLost(f"{self._item.resource}: its lease was not renewed in time")

    async def progress(self, saved: Saved) -> None:
        self.check()
        letter = self._report(
            Progress(
                session=self._session.id,
                pool=self._pool,
                resource=self._item.resource,
                run=self._item.run,
                token=self._item.token,
                checkpoint=saved.checkpoint,
                evidence=saved.evidence,
                open_questions=saved.open_questions,
                blocked=saved.blocked,
            )
        )
        if letter is not None:
            await letter.settled.wait()
            if letter.error is not None:
                raise letter.error
        self.check()
