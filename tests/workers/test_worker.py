"""The worker process against lanes that the test plays, on the memory journal."""

from __future__ import annotations

import threading

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from worker_lane import FakeLanes, lanes, serving

from keylane.journal import Place, Record, Unavailable
from keylane.schemas import codec
from keylane.schemas.results import Completed, Failed, Progress, WorkerHeartbeat, WorkerJoined, WorkerLeft
from keylane.workers import Item, LeaseLost, Worker, runner

pytestmark = pytest.mark.anyio

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Bell:
    """A handler that starts, waits to be let go, and notes how it ended."""

    def __init__(self) -> None:
        self.started = anyio.Event()
        self.go = anyio.Event()
        self.ended = anyio.Event()
        self.how = ""

    async def handle(self, item: Item[None]) -> str:
        self.started.set()
        try:
            await self.go.wait()
            self.how = "returned"
            return "rung"
        except BaseException as error:
            self.how = type(error).__name__
            raise
        finally:
            self.ended.set()


def worker_of(fake: FakeLanes, handler: object, **options: float) -> Worker:
    worker = Worker(fake.url, name="w", **options)  # type: ignore[arg-type]
    worker.handler("restart")(handler)  # type: ignore[type-var]
    return worker


async def wait(event: anyio.Event) -> None:
    with anyio.fail_after(10):
        await event.wait()


async def test_item_is_worked_on_and_its_report_carries_owner_and_trace() -> None:
    async def restart(item: Item[dict[str, int]]) -> list[object]:
        return [item.payload, item.token, item.traceparent]

    async with lanes() as fake, serving(fake, worker_of(fake, restart)):
        session = fake.sessions()[1]
        item = await fake.give(session, payload=b'{"a":1}', traceparent=TRACE)
        done = await fake.until(Completed)
        stored = fake.stored[[record for _, record in fake.heard].index(done)]
    assert (done.session, done.pool, done.run, done.token) == (session, "default", item.run, item.token)
    assert bytes(done.result) == f'[{{"a":1}},1,"{TRACE}"]'.encode()
    assert (stored.partition, stored.key) == (1, b"deploy://owner")
    assert codec.traceparent_of(stored.headers) == TRACE
    assert dict(stored.headers)["ce_type"] == b"keylane.Completed"


async def test_slots_are_split_over_partitions_with_one_at_least() -> None:
    bell = Bell()
    async with lanes() as fake:
        for slots, share in ((7, 3), (1, 1)):
            async with serving(fake, worker_of(fake, bell.handle, slots=slots)):
                assert fake.of(WorkerJoined)[-1].slots == share


async def test_items_run_at_the_same_time() -> None:
    bells = [Bell(), Bell()]
    waiting = list(bells)

    async def restart(item: Item[None]) -> str:
        return await waiting.pop().handle(item)

    async with lanes() as fake, serving(fake, worker_of(fake, restart)):
        for _ in bells:
            await fake.give(fake.sessions()[0])
        for bell in bells:
            await wait(bell.started)
            bell.go.set()
        await fake.until(Completed, lambda done: done.token == 1)
        await fake.until(Completed, lambda done: done.token == 2)


async def test_progress_returns_when_the_journal_has_it_and_not_before() -> None:
    started, saved = anyio.Event(), anyio.Event()

    async def restart(item: Item[None]) -> None:
        started.set()
        await item.progress({"step": 1})
        saved.set()

    async with lanes() as fake, serving(fake, worker_of(fake, restart)):
        session = fake.sessions()[0]
        with fake.outage():
            await fake.give(session)
            await wait(started)
            await anyio.wait_all_tasks_blocked()
            assert not saved.is_set()
        await wait(saved)
        assert bytes((await fake.until(Progress)).checkpoint) == b'{"step":1}'


async def test_gap_cancels_what_runs_and_joins_under_a_new_id() -> None:
    bell = Bell()
    async with lanes() as fake, serving(fake, worker_of(fake, bell.handle)):
        old = fake.sessions()[0]
        await fake.give(old)
        await wait(bell.started)
        await fake.give(old, skip=1)
        await wait(bell.ended)
        left = await fake.until(WorkerLeft)
        joined = await fake.until(WorkerJoined, after=[record for _, record in fake.heard].index(left))
        bell.go.set()
        await fake.give(joined.session)
        assert (await fake.until(Completed)).session == joined.session
    assert (bell.how, left.session) == ("returned", old)
    assert joined.session != old


async def test_records_that_were_removed_before_they_were_read_are_a_gap() -> None:
    bell = Bell()
    async with lanes() as fake, serving(fake, worker_of(fake, bell.handle)):
        before = len(fake.heard)
        topic = "items.default"
        (offset,) = fake.log.write([Record(topic, 0, b"k", b"never read", ())])
        fake.log.forget(Place(topic, 0), offset + 1)
        joined = await fake.until(WorkerJoined, after=before)
        bell.go.set()
        await fake.give(joined.session)
        await fake.until(Completed)


@pytest.mark.parametrize("kind", ["stop", "lost"])
async def test_notice_cancels_an_async_handler_and_only_a_stop_is_reported(kind: str) -> None:
    bell, second = Bell(), Bell()
    second.go.set()
    waiting = [second, bell]

    async def restart(item: Item[None]) -> str:
        return await waiting.pop().handle(item)

    async with lanes() as fake, serving(fake, worker_of(fake, restart)):
        item = await fake.give(fake.sessions()[0])
        await wait(bell.started)
        await fake.notify(item, kind)  # type: ignore[arg-type]
        await wait(bell.ended)
        await fake.give(fake.sessions()[0])
        await fake.until(Completed, lambda done: done.token == 2)
        reports = [(report.token, report.error.code, report.final) for report in fake.of(Failed)]
    assert bell.how == "CancelledError"
    assert reports == ([(1, "STOPPED", True)] if kind == "stop" else [])


async def test_handler_in_a_thread_finds_out_by_check_and_its_result_is_discarded() -> None:
    started, told, ended = anyio.Event(), threading.Event(), anyio.Event()
    errors: list[LeaseLost] = []

    def restart(item: Item[None]) -> str:
        if item.token > 1:
            return "the next"
        item.check()
        anyio.from_thread.run_sync(started.set)
        assert told.wait(10)
        try:
            item.check()
        except LeaseLost as error:
            errors.append(error)
        anyio.from_thread.run_sync(ended.set)
        return "too late"

    async with lanes() as fake, serving(fake, worker_of(fake, restart)):
        item = await fake.give(fake.sessions()[0])
        await wait(started)
        await fake.notify(item, "lost")
        await fake.give(item.session)
        await fake.until(Completed, lambda done: done.token == 2)
        told.set()
        await wait(ended)
    assert [error.code for error in errors] == ["FENCED"]
    assert [done.token for done in fake.of(Completed)] == [2]


async def test_lease_that_ran_out_is_noticed_in_a_thread_by_the_clock_alone() -> None:
    """Also when the event loop has not come round to it, as after a stop of the process."""
    checks: list[str] = []

    def restart(item: Item[None]) -> None:
        item.check()
        checks.append("held")
        anyio.from_thread.run(until_refused, item)

    async def until_refused(item: Item[None]) -> None:
        deadline_ms = runner.boottime_ms() + 10_000
        while runner.boottime_ms() < deadline_ms:  # nothing is awaited: the loop stands still, time goes on
            try:
                item.check()
            except LeaseLost:
                checks.append("lost")
                return

    async with lanes() as fake, serving(fake, worker_of(fake, restart)):
        await fake.give(fake.sessions()[0], lease_ms=200)
        with anyio.fail_after(10):
            while len(checks) < 2:
                await anyio.lowlevel.checkpoint()
    assert checks == ["held", "lost"]
    assert fake.of(Completed) == []


async def test_cancelling_serve_drains() -> None:
    bell = Bell()
    async with lanes() as fake, serving(fake, worker_of(fake, bell.handle)) as scope:
        busy = fake.sessions()[0]
        await fake.give(busy)
        await wait(bell.started)
        scope.cancel()
        await fake.until(WorkerHeartbeat, lambda beat: beat.session == busy and beat.slots == 0)
        assert not bell.ended.is_set()
        bell.go.set()
        await fake.until(WorkerLeft, lambda left: left.session == busy)
        order = [type(record) for _, record in fake.heard if not isinstance(record, WorkerHeartbeat)]
        assert order[-2:] == [Completed, WorkerLeft]
    assert fake.left() == set(fake.sessions().values())
    assert fake.log.groups and all(not group.agreed for group in fake.log.groups.values())


async def test_drain_ends_when_its_time_is_over() -> None:
    bell = Bell()
    async with lanes() as fake:
        async with serving(fake, worker_of(fake, bell.handle, drain_s=0.05)) as scope:
            await fake.give(fake.sessions()[0])
            await wait(bell.started)
            scope.cancel()
            await wait(bell.ended)
        await fake.until(WorkerLeft, lambda left: left.session == fake.sessions()[0])
    assert bell.how == "CancelledError"
    assert fake.of(Completed) == []


async def test_outage_loses_leases_and_then_joins_anew() -> None:
    bell = Bell()
    async with lanes(lapse_ms=400) as fake, serving(fake, worker_of(fake, bell.handle)):
        old = fake.sessions()[0]
        await fake.give(old)
        await wait(bell.started)
        before = len(fake.heard)
        with fake.outage():
            await wait(bell.ended)
        assert bell.how == "CancelledError"
        bell.go.set()
        joined = await fake.until(WorkerJoined, lambda joined: joined.session != old, after=before)
        await fake.until(WorkerHeartbeat, lambda beat: beat.session == joined.session)
        await fake.give(joined.session)
        await fake.until(Completed, lambda done: done.session == joined.session)


async def test_partition_that_was_lost_is_finished_by_the_old_session_while_the_new_one_takes_over() -> None:
    bell = Bell()
    async with lanes() as fake, serving(fake, worker_of(fake, bell.handle)):
        sessions = fake.sessions()
        for session in sessions.values():
            await fake.give(session)
        await wait(bell.started)
        before = len(fake.heard)
        async with serving(fake, worker_of(fake, bell.handle), partitions=1):
            joined = await fake.until(WorkerJoined, after=before)
            old = sessions[fake.partition_of(joined.session)]
            await fake.until(WorkerHeartbeat, lambda beat: beat.session == old and beat.slots == 0)
            assert joined.generation > fake.of(WorkerJoined)[0].generation
            assert old not in fake.left()
            bell.go.set()
            await fake.until(Completed, lambda done: done.session == old)
            await fake.until(WorkerLeft, lambda left: left.session == old)
            (kept,) = set(sessions.values()) - {old}
            assert kept not in fake.left()


async def test_generation_that_was_missed_makes_every_session_anew() -> None:
    """Another may have joined these partitions under it, and the lane goes on with the highest."""
    async with lanes() as fake, serving(fake, worker_of(fake, Bell().handle)):
        old, before = fake.sessions(), len(fake.heard)
        (group,) = fake.log.groups.values()
        group.generation += 2
        fake.log.wake()
        for session in old.values():
            await fake.until(WorkerLeft, lambda left, session=session: left.session == session)  # type: ignore[misc]
        for partition in old:
            await fake.until(
                WorkerJoined,
                lambda j, p=partition: fake.partition_of(j.session) == p,
                after=before,  # type: ignore[misc]
            )
        assert {joined.generation for joined in fake.of(WorkerJoined)} == {1, 3}


async def test_without_a_router_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "SET_UP_S", 0.01)
    worker = worker_of(FakeLanes(), Bell().handle)
    with pytest.raises(Unavailable, match="no router has set up this journal for pool 'default'"):
        await worker.serve()


async def test_worker_that_was_started_first_waits_for_the_router() -> None:
    fake = FakeLanes()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker_of(fake, Bell().handle).serve)
        await anyio.wait_all_tasks_blocked()
        await fake.set_up()
        tasks.start_soon(fake.listen)
        await fake.until(WorkerJoined)
        tasks.cancel_scope.cancel()


async def test_worker_without_handlers_is_refused() -> None:
    with pytest.raises(ValueError, match="without handlers"):
        await Worker("memory://none").serve()
