"""Publishing commands: where they lie by the metadata of now, writing them until that is acknowledged, and a person's
command or a cancellation until it is answered.

`Client` says what is published, `receipts` reads what is read back; here is neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio

from keylane.command_answers import CancelAnswer, CancelMachine, Told, ToldMachine, not_told
from keylane.commands import record_of
from keylane.errors import Unavailable, translated
from keylane.journal import errors as journal_errors
from keylane.journal.port import Journal, Record
from keylane.layout import Layout
from keylane.receipts import Receipts
from keylane.request_status import request_status
from keylane.schemas.requests import Cancellation, Decision, Resolution, ResourceChange
from keylane.views import pinned_end, read_metadata, read_state
from keylane.waiting import ANSWER_S, Watch, settled

PUBLISH_S = 10.0
"""How long a publish whose acknowledgement failed is tried again."""
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 1.0


class Publisher:
    """One client's. Its `layout` is there after the first `layout_now`."""

    def __init__(self, journal: Journal, receipts: Receipts) -> None:
        self._journal = journal
        self._receipts = receipts
        self._pinned_end: int | None = None

    async def layout_now(self) -> Layout:
        """Where resources lie, read again where the metadata was written since. An answer from where a resource lay
        before would be a wrong one."""
        end = await pinned_end(self._journal)
        if end != self._pinned_end:
            self.layout, self._pinned_end = Layout(await read_metadata(self._journal)), end
        return self.layout

    async def told(self, command: ResourceChange | Decision | Resolution, record: Record) -> Told:
        """Publish a person's command, which is `record`, and return what it became. Raises `Refused`, `Unavailable`."""
        watch = Watch(ToldMachine(command.id, record.partition))
        self._receipts.watch(watch, command.id)
        try:
            await self.publish([record], [watch])
            if not await watch.until(settled, ANSWER_S):
                kind = type(command).__name__
                raise Unavailable(f"no router answered {kind} {command.id} within {ANSWER_S:g} s; it stays on record")
        finally:
            self._receipts.drop(watch)
        if watch.machine.error is not None:
            raise not_told(watch.machine.error)
        assert watch.machine.answer is not None
        return watch.machine.answer

    async def cancelled(self, command: Cancellation, source: str) -> CancelAnswer:
        """Publish a cancellation, and return what it became. Raises `Refused`, `Unavailable`."""
        with translated():
            layout = await self.layout_now()
        partition = layout.partition_of(command.resource)
        watch = Watch(CancelMachine(command.id, command.request, partition))
        for name in (command.id, command.request):
            self._receipts.watch(watch, name)
        try:
            with translated():
                await self._receipts.follow(partition)
                # The answer may name the run alone. Read after the lane is followed, so that a merge is
                # either in the state or seen as an event.
                seen = await read_state(self._journal, partition)
            known = request_status(seen, command.resource, command.request)
            if known is not None and known.run:
                watch.machine.run = known.run
                self._receipts.watch(watch, known.run)
            await self.publish([record_of(command, layout, source, None)], [watch])
            if not await watch.until(settled, ANSWER_S):
                raise Unavailable(f"no router answered the cancellation of {command.request} within {ANSWER_S:g} s")
        finally:
            self._receipts.drop(watch)
        if watch.machine.error is not None:
            raise not_told(watch.machine.error)
        assert watch.machine.answer is not None
        return watch.machine.answer

    async def publish(self, records: Sequence[Record], watches: Sequence[Watch[Any]]) -> None:
        """As `write`, for commands each of which is watched: no more, where they cannot be written."""
        try:
            offsets = await self.write(records)
        except BaseException:
            for watch in watches:
                self._receipts.drop(watch)
            raise
        for watch, offset in zip(watches, offsets, strict=True):
            self._receipts.published(watch, offset)

    async def write(self, records: Sequence[Record]) -> list[int]:
        """Write commands, and again under their ids while it is not known whether they were written. Raises
        `Unavailable`, `Refused` (`TOO_LARGE`), `ConfigError`."""
        with translated():
            return await self._written(records)

    async def _written(self, records: Sequence[Record]) -> list[int]:
        give_up_s = anyio.current_time() + PUBLISH_S
        pause_s = RETRY_FIRST_S
        while True:
            try:
                for partition in {record.partition for record in records}:
                    await self._receipts.follow(partition)
                return await self._journal.append(records)
            except journal_errors.AccessDenied:
                raise
            except journal_errors.Unavailable:
                # The router knows a second copy by its id and answers it as a repeat.
                if anyio.current_time() + pause_s > give_up_s:
                    raise
            await anyio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_MAX_S)
