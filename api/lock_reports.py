"""What is done about locks by who did not acquire them here: renewing and releasing by a credential, ending a session,
and looking which there are. As `locking`, a shell over `lock_machine`.
"""

from __future__ import annotations

import hashlib
from uuid import uuid4

import anyio

from keylane import commands
from keylane.command_answers import not_told
from keylane.errors import LeaseLost, Unavailable, translated
from keylane.journal.errors import Unavailable as JournalUnavailable
from keylane.journal.port import Journal
from keylane.lock_machine import ReportMachine, SessionMachine
from keylane.locks import Credential, LockInfo, lock_infos
from keylane.publishing import Publisher
from keylane.receipts import Receipts
from keylane.schemas.events import Renewed
from keylane.schemas.requests import Release, Renewal, SessionEnded
from keylane.sessions import Session
from keylane.views import read_state
from keylane.waiting import ANSWER_S, Watch, settled

SILENCE_S = 1.0
"""After this long without an answer to a release, the lane's state is looked at: a repeated one is not answered."""


class LockReports:
    """One client's."""

    def __init__(self, journal: Journal, publisher: Publisher, receipts: Receipts, *, actor: str) -> None:
        self._journal = journal
        self._publisher = publisher
        self._receipts = receipts
        self._source = commands.source_of(actor)

    async def renew(self, credential: Credential, *, blocked: str | None) -> Renewed:
        """See `Client.renew`."""
        renewal = Renewal(
            id=uuid4().hex,
            resource=credential.resource,
            run=credential.run,
            token=credential.token,
            secret=credential.secret,
            blocked=blocked,
        )
        machine = await self._reported(renewal)
        assert machine.renewed is not None
        return machine.renewed

    async def release(self, credential: Credential) -> None:
        """See `Client.release`."""
        release = Release(
            id=uuid4().hex,
            resource=credential.resource,
            run=credential.run,
            token=credential.token,
            secret=credential.secret,
        )
        await self._reported(release)

    async def _reported(self, report: Renewal | Release) -> ReportMachine:
        with translated():
            layout = await self._publisher.layout_now()
        record = commands.record_of(report, layout, self._source, None)
        is_release = isinstance(report, Release)
        machine = ReportMachine(report.id, report.run, report.token, record.partition, is_release=is_release)
        watch = Watch(machine)
        for name in (report.id, report.run):
            self._receipts.watch(watch, name)
        try:
            await self._publisher.publish([record], [watch])
            known = await watch.until(settled, SILENCE_S if is_release else ANSWER_S)
            if not known and is_release:
                known = await self._was_released(report, record.partition)
                machine.released |= known
                known = known or await watch.until(settled, ANSWER_S - SILENCE_S)
        finally:
            self._receipts.drop(watch)
        if not known:
            said = f"{type(report).__name__} of {report.resource}"
            raise Unavailable(f"no router answered the {said} within {ANSWER_S:g} s; it stays on record")
        if machine.lost is not None:
            raise LeaseLost(f"{report.resource}: not held any more: {machine.lost}")
        if machine.error is not None:
            raise not_told(machine.error)
        return machine

    async def _was_released(self, report: Renewal | Release, partition: int) -> bool:
        """Whether the lock had been given back before. A lane says nothing to a release that comes again."""
        try:
            run = (await read_state(self._journal, partition)).runs.get(report.run)
        except JournalUnavailable:
            return False  # the answer may come yet
        if run is None or run.lock is None or run.token != report.token:
            return False
        is_its = run.lock.secret_sha256 == hashlib.sha256(report.secret.encode()).hexdigest()
        return is_its and run.status in ("completed", "cancelled")

    async def end_session(self, session: Session) -> tuple[str, ...]:
        """See `Client.end_session`."""
        command = SessionEnded(id=uuid4().hex, session=session.id, secret=session.secret)
        with translated():
            partitions = (await self._publisher.layout_now()).partitions
        records = [commands.record_at(command, each, session.id, self._source, None) for each in range(partitions)]
        watches = [Watch(SessionMachine(command.id, each)) for each in range(partitions)]
        for watch in watches:
            self._receipts.watch(watch, command.id)
        try:
            await self._publisher.publish(records, watches)
            with anyio.move_on_after(ANSWER_S):
                for watch in watches:
                    await watch.until(settled, None)
        finally:
            for watch in watches:
                self._receipts.drop(watch)
        silent = [str(watch.machine.partition) for watch in watches if not watch.machine.settled]
        if silent:
            told = f"within {ANSWER_S:g} s; it stays on record"
            raise Unavailable(f"no router has ended session {session.id} in lane {', '.join(silent)} {told}")
        for watch in watches:
            if watch.machine.error is not None:
                raise not_told(watch.machine.error)
        return tuple(run for watch in watches for run in watch.machine.runs or ())

    async def locks(self, resource: str | None, session_id: str | None) -> list[LockInfo]:
        """See `Client.locks`."""
        key = None if resource is None else commands.checked_key(resource)
        found: list[LockInfo] = []
        with translated():
            layout = await self._publisher.layout_now()
            owner = None if key is None else layout.owner_of(key)
            for partition in layout.chosen(key):
                found += lock_infos(await read_state(self._journal, partition), owner, session_id)
        return found
