"""The client against the real router and worker, in one process on a memory journal: `keylane.testing.local`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest

from keylane import (
    Client,
    ConfigError,
    Fail,
    Item,
    LockHeld,
    Ownership,
    Position,
    Refused,
    RunFailed,
    Status,
    Unavailable,
    Worker,
)
from keylane.embedded import load, run_router
from keylane.journal import errors as journal_errors
from keylane.journal.memory import MemoryMembership
from keylane.journal.port import Assignment
from keylane.layout import Layout
from keylane.schemas.events import Ended, Granted, WorkerOpened
from keylane.schemas.metadata import Metadata, ScopeRule
from keylane.testing import CONFIG, local

pytestmark = pytest.mark.anyio

KEY = "deploy://api"
DEADLINE_S = 20


class Bench:
    """A client and a worker whose handler waits for `go`; `begun` is set when it has an item."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.begun = anyio.Event()
        self.go = anyio.Event()
        self.stopped = anyio.Event()

    async def restart(self, item: Item[object]) -> object:
        self.begun.set()
        try:
            await self.go.wait()
        except anyio.get_cancelled_exc_class():
            self.stopped.set()
            raise
        return {"payload": item.payload, "merged": list(item.merged), "attempt": item.attempt}

    async def refuse(self, item: Item[object]) -> None:
        raise Fail("no such deployment")

    async def until(self, reached: Callable[[Ownership], bool]) -> Ownership:
        """Who owns the resource, once that is so. Looks again after every event."""
        with anyio.fail_after(DEADLINE_S):
            async with self.client.events(KEY) as stream:
                while not reached(ownership := await self.client.who(KEY)):
                    await anext(stream)
        return ownership


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    with anyio.fail_after(60):
        async with local() as url, Client(url, actor="agent-1") as client:
            bench = Bench(client)
            worker = Worker(url, name="worker-1")
            worker.handler("restart")(bench.restart)
            worker.handler("refuse")(bench.refuse)
            async with anyio.create_task_group() as tasks, client.events(after=Position()) as stream:
                tasks.start_soon(worker.serve)
                opened = 0
                while opened < 4:
                    opened += isinstance(await anext(stream), WorkerOpened)
                try:
                    yield bench
                finally:
                    bench.go.set()
                    tasks.cancel_scope.cancel()


async def test_equal_requests_are_one_run_and_both_get_its_outcome() -> None:
    async with bench() as b:
        first = await b.client.submit(KEY, "restart", {"n": 1}, request_id="r-1")
        second = await b.client.submit(KEY, "restart", {"n": 1}, request_id="r-2")
        accepted = await second.accepted()
        b.go.set()
        outcomes = [await first.outcome(DEADLINE_S), await second.outcome(DEADLINE_S)]
    assert (accepted.run, accepted.coalesced) == ("r-1", True)
    assert [(each.run, each.coalesced) for each in outcomes] == [("r-1", False), ("r-1", True)]
    assert outcomes[0].result == outcomes[1].result == {"payload": {"n": 1}, "merged": [], "attempt": 1}


async def test_other_work_waits_or_is_told_who_holds_it() -> None:
    async with bench() as b:
        first = await b.client.submit(KEY, "restart", 1, request_id="r-1")
        await b.begun.wait()
        second = await b.client.submit(KEY, "restart", 2, request_id="r-2")
        status = await second.accepted()
        with pytest.raises(LockHeld) as held:
            await b.client.run(KEY, "restart", 3, reject_if_busy=True)
        ownership = await b.client.who(KEY)
        b.go.set()
        assert (await first.outcome(DEADLINE_S)).status == (await second.outcome(DEADLINE_S)).status == "completed"
    assert (status.state, status.position, status.holder) == ("waiting", 0, "worker-1")
    assert (held.value.holder, held.value.code) == ("worker-1", "LOCK_HELD")
    assert held.value.retry_after_ms is not None and held.value.retry_after_ms > 0
    assert held.value.lease_expires_at is not None and held.value.conflict_id is not None
    assert ownership.held is not None
    assert (ownership.held.holder, ownership.held.requests) == ("worker-1", ("r-1",))
    assert 0 < ownership.held.lease_left_ms <= 10_000
    assert [(each.run, each.actor, each.position) for each in ownership.waiting] == [("r-2", "agent-1", 0)]


async def test_a_request_followed_from_held_to_done_by_status() -> None:
    async with bench() as b:
        ticket = await b.client.submit(KEY, "restart", request_id="r-1")
        await b.begun.wait()
        held = await b.client.status(KEY, "r-1")
        b.go.set()
        outcome = await ticket.outcome(DEADLINE_S)
        done = await b.client.status(KEY, "r-1")
    assert (held.state, held.holder, held.attempt) == ("held", "worker-1", 1)
    assert isinstance(done, Status) and done.outcome == outcome


async def test_a_repeated_id_gets_the_first_answer_and_other_work_under_it_none() -> None:
    async with bench() as b:
        b.go.set()
        first = await b.client.run(KEY, "restart", 1, request_id="r-1", timeout_s=DEADLINE_S)
        again = await b.client.run(KEY, "restart", 1, request_id="r-1", timeout_s=DEADLINE_S)
        with pytest.raises(Refused) as reused:
            await b.client.run(KEY, "restart", 2, request_id="r-1", timeout_s=DEADLINE_S)
    assert (first.repeated, again.repeated) == (False, True)
    assert again.result == first.result
    assert reused.value.code == "ID_REUSED"


async def test_a_run_that_fails_for_good() -> None:
    async with bench() as b:
        with pytest.raises(RunFailed, match="no such deployment") as failed:
            await b.client.run(KEY, "refuse", timeout_s=DEADLINE_S)
        last = (await b.client.who(KEY)).last
    assert failed.value.outcome.status == "failed"
    assert last is not None and (last.status, last.error) == ("failed", failed.value.outcome.error)


async def test_an_action_that_no_worker_handles_is_told_at_once() -> None:
    async with bench() as b:
        ticket = await b.client.submit(KEY, "polish", request_id="r-1")
        accepted = await ticket.accepted()
        waiting = (await b.client.who(KEY)).waiting
        status = await b.client.status(KEY, "r-1")
    assert accepted.unserved and status.unserved
    assert [(each.state, each.wait.reason) for each in waiting] == [("waiting", "no_worker")]


async def test_cancelling_one_that_waits() -> None:
    async with bench() as b:
        await b.client.submit(KEY, "restart", 1)
        await b.begun.wait()
        second = await b.client.submit(KEY, "restart", 2, request_id="r-2")
        answer = await b.client.cancel(KEY, "r-2")
        outcome = await second.outcome(DEADLINE_S)
        with pytest.raises(Refused) as late:
            await b.client.cancel(KEY, "r-2")
    assert (answer, outcome.status) == ("withdrawn", "cancelled")
    assert late.value.code == "TOO_LATE"


async def test_cancelling_one_of_several_requesters_leaves_the_run_to_the_others() -> None:
    async with bench() as b:
        first = await b.client.submit(KEY, "restart", 1, request_id="r-1")
        second = await b.client.submit(KEY, "restart", 1, request_id="r-2")
        await b.begun.wait()
        assert (await second.accepted()).run == "r-1"
        answer = await b.client.cancel(KEY, "r-1")
        b.go.set()
        outcomes = [await first.outcome(DEADLINE_S), await second.outcome(DEADLINE_S)]
        left = await b.client.status(KEY, "r-1")
    assert answer == "withdrawn"
    assert [each.status for each in outcomes] == ["cancelled", "completed"]
    assert left.outcome is not None and left.outcome.status == "cancelled"


async def test_cancelling_the_last_requester_of_a_held_run_asks_its_holder_to_stop() -> None:
    async with bench() as b:
        first = await b.client.submit(KEY, "restart", 1, request_id="r-1")
        second = await b.client.submit(KEY, "restart", 1, request_id="r-2")
        await second.accepted()
        await b.begun.wait()
        answers = [await b.client.cancel(KEY, "r-1"), await b.client.cancel(KEY, "r-2")]
        outcomes = [await first.outcome(DEADLINE_S), await second.outcome(DEADLINE_S)]
        with anyio.fail_after(DEADLINE_S):
            await b.stopped.wait()
    assert answers == ["withdrawn", "stop_asked"]
    assert [each.status for each in outcomes] == ["cancelled", "cancelled"]


async def test_cancelling_what_is_not_known() -> None:
    async with bench() as b:
        with pytest.raises(Refused) as unknown:
            await b.client.cancel(KEY, "r-9")
    assert unknown.value.code == "NOT_FOUND"


async def test_a_deadline_withdraws_what_still_waits() -> None:
    async with bench() as b:
        await b.client.submit(KEY, "restart", 1)
        await b.begun.wait()
        with pytest.raises(RunFailed) as expired:
            await b.client.run(KEY, "restart", 2, deadline_s=0.1, timeout_s=DEADLINE_S)
    assert expired.value.outcome.status == "expired"
    assert expired.value.code == "EXPIRED"


async def test_an_idempotency_key_gets_the_outcome_that_its_work_had() -> None:
    async with bench() as b:
        b.go.set()
        first = await b.client.run(KEY, "restart", 1, idempotency_key="i", timeout_s=DEADLINE_S)
        again = await b.client.run(KEY, "restart", 1, idempotency_key="i", timeout_s=DEADLINE_S)
        newer = await b.client.run(KEY, "restart", 2, timeout_s=DEADLINE_S)
        late = await b.client.run(KEY, "restart", 1, idempotency_key="i", timeout_s=DEADLINE_S)
        with pytest.raises(Refused) as refused:
            await b.client.run(KEY, "restart", 3, idempotency_key="i", timeout_s=DEADLINE_S)
    assert (again.run, again.result, again.coalesced, again.superseded_since) == (first.run, first.result, True, None)
    assert (late.run, late.superseded_since) == (first.run, newer.run)
    assert refused.value.code == "IDEMPOTENCY_MISMATCH" and refused.value.body.conflict_id is not None


async def test_a_step_that_was_not_done_is_told_to_the_client() -> None:
    async with bench() as b:
        with pytest.raises(Refused) as refused:
            await b.client.run(KEY, "restart", requires=["drain"], timeout_s=DEADLINE_S)
    assert (refused.value.code, "drain" in refused.value.message) == ("ORDER_VIOLATION", True)


async def test_the_events_of_a_resource_tell_its_story() -> None:
    async with bench() as b:
        b.go.set()
        outcome = await b.client.run(KEY, "restart", timeout_s=DEADLINE_S)
        story = []
        async with b.client.events(KEY, Position()) as stream:
            while not story or not isinstance(story[-1], Ended):
                story.append(await anext(stream))
    (grant,) = [event for event in story if isinstance(event, Granted)]
    assert (grant.run, grant.holder) == (outcome.run, "worker-1")


async def test_a_configuration_that_cannot_be_used_is_told() -> None:
    with pytest.raises(ConfigError, match="lane_count"):
        async with local("lane_count = 3"):
            pass


async def test_a_client_that_was_there_before_a_change_finds_what_was_sent_on() -> None:
    """Its first request after the change is sent on, which it is told; then it goes by the new rules by itself."""
    rule = 'match = "k8s://{c}/pods/{app}/{pod}"\nowner = "k8s://{c}/deployments/{app}"'
    config = CONFIG + f"[[scopes]]\n{rule}\n"
    layout = Layout(Metadata(partitions=4, scopes=(ScopeRule(**msgspec.toml.decode(rule)),)))
    keys = (f"k8s://prod/pods/cart/{number}" for number in range(100))
    pod = next(key for key in keys if Layout(Metadata(partitions=4)).partition_of(key) != layout.partition_of(key))
    with anyio.fail_after(DEADLINE_S):
        async with local(config) as url, Client(url) as client:
            before = client._publisher
            before.layout, before._pinned_end = Layout(Metadata(partitions=4)), 0  # as it was before
            first = await client.submit(pod, "restart", request_id="first")
            with pytest.raises(Unavailable, match="sent on"):
                await first.accepted()
            second = await client.submit(pod, "restart", {"n": 2}, request_id="second")
            assert (await second.accepted()).state == "waiting"
            assert [each.run for each in (await client.who(pod)).waiting] == ["first", "second"]


async def test_an_error_in_the_body_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with local():
            raise KeyError("mine")


async def test_what_ends_a_router_is_told_without_its_task_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: MemoryMembership, timeout_s: float) -> Assignment | None:
        raise journal_errors.JournalError("the group is broken")

    monkeypatch.setattr(MemoryMembership, "changed", broken)
    with pytest.raises(Unavailable, match="the group is broken"):
        await run_router(load(None, {}, {"url": "memory://broken"}), ready=lambda _: None)
