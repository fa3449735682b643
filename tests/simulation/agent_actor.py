"""An agent process: the real client for what clients do, and plain appends for what other producers may write."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Raw
from simulation import tasks
from simulation.lock_hand import LockHand
from simulation.odd_records import odd_record
from simulation.process import Process
from simulation.scenario import Act, LockPlan, Scenario
from simulation.truth import Truth

from keylane.client import Client
from keylane.errors import Refused, Unavailable
from keylane.journal.errors import Unavailable as JournalUnavailable
from keylane.journal.port import Journal

AGAIN_S = 0.5
THROUGH_A_CLIENT = ("submit", "submit_twice", "reuse_id", "cancel")
"""But for what a scope rule gives to another resource: as from plain producers, some of it to a wrong lane."""


class AgentActor:
    """One life of an agent process: it does what it is not too late for."""

    def __init__(
        self,
        scenario: Scenario,
        process: Process,
        journal: Journal,
        truth: Truth,
        acts: Sequence[Act],
        plans: Sequence[LockPlan] = (),
    ) -> None:
        self._scenario = scenario
        self._process = process
        self._journal = journal
        self._truth = truth
        self._acts = acts
        self.pending = 0
        """What it has not finished yet."""
        process.spawn(self._live)
        now_ms = process.world.now_us // 1_000
        ahead = [(plan, plan.at_ms - now_ms) for plan in plans if plan.at_ms >= now_ms]
        if ahead:
            self.pending += len(ahead)
            process.spawn(LockHand(scenario, process, journal, truth).live, ahead, self._done)

    def _done(self) -> None:
        self.pending -= 1

    def stop(self) -> None:
        """SIGTERM: it just ends."""
        self._process.crash()

    async def _live(self) -> None:
        while True:
            try:
                async with Client("memory://simulated", actor=self._process.name) as client:
                    async with tasks.TaskGroup() as group:
                        now_ms = self._process.world.now_us // 1_000
                        for act in self._acts:
                            if act.at_ms >= now_ms:
                                self.pending += 1
                                group.start_soon(self._perform, client, act, act.at_ms - now_ms)
                return
            except Unavailable:
                await tasks.sleep(AGAIN_S)

    async def _perform(self, client: Client, act: Act, wait_ms: int) -> None:
        await tasks.sleep_us(wait_ms * 1_000)
        try:
            if act.resource.startswith("pod:") or act.does not in THROUGH_A_CLIENT:
                record, is_request = odd_record(act, self._scenario, self._truth)
                await self._journal.append([record])
                if is_request:
                    self._truth.requests.acknowledged.append(act.id)
            elif act.does == "cancel":
                await client.cancel(act.resource, act.id)
            else:
                await self._submit(client, act)
                if act.does == "submit_twice":
                    await self._submit(client, act)
        except (Refused, Unavailable, JournalUnavailable):
            pass  # what an agent does about it is not keylane's
        finally:
            self.pending -= 1

    async def _submit(self, client: Client, act: Act) -> None:
        ticket = await client.submit(
            act.resource,
            act.action,
            Raw(act.payload.encode()),
            request_id=act.id,
            reject_if_busy=act.reject_if_busy,
            deadline_s=act.deadline_s,
            idempotency_key=act.idempotency_key,
            expected_version=act.expected_version,
            coalesce_key=act.coalesce_key,
            requires=act.requires,
        )
        if act.does != "reuse_id":
            self._truth.requests.acknowledged.append(act.id)
        outcome = await ticket.outcome()
        self._truth.requests.ticket_ended(act.id, outcome.status, None if outcome.error is None else outcome.error.code)
