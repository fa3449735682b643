"""An agent that holds locks by the real client: what it counts, renews, claims and undoes is the client's own.

It acts on what it holds as long as its lease says that it may. What it raises is the agent's, and comes to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from simulation import tasks
from simulation.lock_secrets import secret_of
from simulation.process import Process
from simulation.scenario import LockPlan
from simulation.truth import Truth

from keylane.client import Client
from keylane.errors import KeylaneError, LeaseLost
from keylane.lease import Lease
from keylane.sessions import Session

STEP_S = 0.25


class LockUser:
    """The plans of an agent process that go through a client; each has one of its own."""

    def __init__(self, process: Process, truth: Truth) -> None:
        self._process = process
        self._truth = truth

    async def use(self, plan: LockPlan) -> None:
        """Hold the plan's resources in its way, for as long as it says."""
        session = None if plan.by == "lock" else Session(plan.session, secret_of(plan.session))
        ttl_s = None if plan.ttl_ms is None else plan.ttl_ms / 1_000
        try:
            async with Client("memory://simulated", actor=self._process.name, session=session) as client:
                if plan.by == "credential":
                    await self._by_credential(client, plan, ttl_s)
                elif plan.by == "lock":
                    async with client.lock(*plan.resources, wait_s=plan.wait_ms / 1_000, ttl_s=ttl_s) as lease:
                        await self._act(plan, [lease])
                else:
                    await self._nested(client, plan, plan.resources, [], ttl_s)
        except KeylaneError:
            pass

    async def _nested(
        self, client: Client, plan: LockPlan, left: Sequence[str], held: list[Lease], ttl_s: float | None
    ) -> None:
        """One after the other, in the plan's order: so that a cycle can come about."""
        if not left:
            await self._act(plan, held)
            return
        async with client.lock(left[0], wait_s=plan.wait_ms / 1_000, ttl_s=ttl_s) as lease:
            await tasks.sleep(plan.between_ms / 1_000)
            await self._nested(client, plan, left[1:], [*held, lease], ttl_s)

    async def _by_credential(self, client: Client, plan: LockPlan, ttl_s: float | None) -> None:
        """As the command line does: what it has had is all that it knows of it."""
        session = Session(plan.session, secret_of(plan.session))
        wait_s = plan.wait_ms / 1_000
        had = [
            await client.acquire(key, session=session, hold=plan.hold, wait_s=wait_s, ttl_s=ttl_s)
            for key in plan.resources
        ]
        for _ in range(plan.hold_ms // 500):
            await tasks.sleep(0.5)
            for credential in had:
                await client.renew(credential, blocked="a person" if plan.renews == "blocked" else None)
        if plan.ends == "end":
            await client.end_session(session)
        for credential in had:
            await client.release(credential)
        if plan.ends == "twice":
            await client.release(had[0])

    async def _act(self, plan: LockPlan, leases: Sequence[Lease]) -> None:
        """Until it is lost, or the plan's time is over."""
        world, grants = self._process.world, self._truth.grants
        until_us = world.now_us + plan.hold_ms * 1_000
        while world.now_us < until_us:
            for lease in leases:
                try:
                    lease.check()
                except LeaseLost:
                    return
                for request, watch in lease._locks:
                    run, token = watch.machine.run, watch.machine.token
                    grants.acts(self._process, request.resource, run, token)
                    world.after(10_000, grants.effect_arrives, request.resource, run, token)
            if plan.renews == "blocked":
                try:
                    await leases[0].renew(blocked="a person")
                except LeaseLost:
                    return
            await tasks.sleep(min(STEP_S, max(0.001, *(lease.expires_in_s - 0.001 for lease in leases))))
