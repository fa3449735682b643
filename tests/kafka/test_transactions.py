"""The rules R1 to R4 of the Kafka adapter, each on a real broker (docs/decisions/kafka-adapter.md)."""

import asyncio
import signal
import sys
import time

import anyio
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource
from kafka import proxy as requests
from kafka.conftest import Site
from kafka.proxy import proxied

from keylane.journal import _kafka_lane
from keylane.journal.errors import LaneLost, TooLarge
from keylane.journal.port import Record

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]

STOPPED_OWNER = """
import asyncio, sys
from keylane.journal.connect import connect
from keylane.journal.errors import LaneLost
from keylane.journal.port import Record

async def main(url, requests, state):
    journal = await connect(url)
    session = await journal.claim(0, [requests], state)
    await session.commit([Record(state, 0, b"owner", b"first")])
    print("owns", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    try:
        await session.commit([Record(state, 0, b"owner", b"zombie")])
        print("committed", flush=True)
    except LaneLost as lost:
        print("lost", lost.fenced, flush=True)
    await session.close()
    await journal.close()

asyncio.run(main(*sys.argv[1:]))
"""

KILLED_OWNER = """
import asyncio, sys
from aiokafka import AIOKafkaProducer

async def main(server, transactional_id, topic):
    producer = AIOKafkaProducer(bootstrap_servers=server, transactional_id=transactional_id)
    await producer.start()
    await producer.begin_transaction()
    await producer.send_and_wait(topic, b"never committed", partition=0)
    print("open", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main(*sys.argv[1:]))
"""


async def python(code: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    with anyio.fail_after(30):
        return (await process.stdout.readline()).decode().strip()


async def values(site: Site, topic: str, *, left_open: bool = False) -> list[bytes | None]:
    return [record.value for record in await site.committed(await site.journal(), topic, left_open=left_open)]


async def test_one_refused_batch_aborts_the_whole_commit(site: Site) -> None:
    """R2: aiokafka's own commit would make the other topics' records visible: a torn transaction."""
    journal = await site.journal()
    session = await site.claim(journal)
    await session.commit([Record(site.state, 0, b"k", b"before"), Record(site.events, 0, b"k", b"before")])
    # Lowered behind the adapter's back, so that its own check passes and the broker refuses.
    admin = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{site.broker.port}")
    await admin.start()
    await admin.alter_configs([ConfigResource("topic", site.full(site.events), {"max.message.bytes": "1000"})])
    await admin.close()

    with pytest.raises(TooLarge):
        await session.commit([Record(site.state, 0, b"k", b"torn"), Record(site.events, 0, b"k", b"x" * 5000)])

    assert await values(site, site.state) == [b"before"]
    with pytest.raises(LaneLost):
        await session.commit([Record(site.state, 0, b"k", b"later")])
    successor = await site.claim(journal)
    await successor.commit([Record(site.state, 0, b"k", b"after")])
    assert await values(site, site.state) == [b"before", b"after"]


async def test_a_delayed_end_of_a_transaction_does_not_commit_the_next(site: Site) -> None:
    """R1, KAFKA-17754: a lost session's late EndTxn arrives while its successor's transaction is open."""
    async with proxied(site.broker) as proxy:
        journal = await site.journal(site.broker.proxy_port)
        session = await site.claim(journal)
        late = proxy.hold(requests.END_TXN, cut=True)
        with pytest.raises(LaneLost) as lost:
            await session.commit([Record(site.state, 0, b"first", b"1")])
        assert not lost.value.fenced, "nobody else claimed it; the outcome is unknown"
        assert late.arrived.is_set()

        successor = await site.claim(journal)
        assert await successor.load() == [], "the claim ended the first transaction uncommitted"
        open_end = proxy.hold(requests.END_TXN)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(successor.commit, [Record(site.state, 0, b"second", b"2")])
            with anyio.fail_after(20):
                await open_end.arrived.wait()
                late.release()
                await late.answered.wait()
            seen = await values(site, site.state, left_open=True)
            assert seen == [], "the late request committed an open transaction"
            open_end.release()
        assert await values(site, site.state) == [b"2"]
        assert proxy.seen.count(requests.END_TXN) == 2, "an EndTxn without an answer was sent again"


async def test_a_commit_without_an_answer_ends_in_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka would wait for 40 s and ask again; `close` must not wait for the answer either."""
    monkeypatch.setattr(_kafka_lane, "COMMIT_TIMEOUT_S", 0.5)
    async with proxied(site.broker) as proxy:
        session = await site.claim(await site.journal(site.broker.proxy_port))
        held = proxy.hold(requests.END_TXN)
        with anyio.fail_after(10):
            with pytest.raises(LaneLost) as lost:
                await session.commit([Record(site.state, 0, b"first", b"1")])
            await session.close()
        assert held.arrived.is_set()
        assert not lost.value.fenced


async def test_an_unanswered_addition_to_a_transaction_ends_the_session(site: Site) -> None:
    """R1 for AddPartitionsToTxn: cut off without an answer, it is not asked again by the same producer."""
    async with proxied(site.broker) as proxy:
        journal = await site.journal(site.broker.proxy_port)
        session = await site.claim(journal)
        proxy.hold(requests.ADD_PARTITIONS_TO_TXN, cut=True)
        started_s = time.monotonic()
        with pytest.raises(LaneLost) as lost:
            await session.commit([Record(site.state, 0, b"first", b"1")])
        assert not lost.value.fenced
        assert time.monotonic() - started_s < _kafka_lane.COMMIT_TIMEOUT_S, "it was not noticed, only timed out"
        assert proxy.seen.count(requests.ADD_PARTITIONS_TO_TXN) == 1
        successor = await site.claim(journal)
        await successor.commit([Record(site.state, 0, b"second", b"2")])
    assert await values(site, site.state) == [b"2"]


async def test_a_non_owner_cannot_move_positions(site: Site) -> None:
    """R3: positions are records of the lane's transaction; no request that moves a group's offset is sent."""
    async with proxied(site.broker) as proxy:
        journal = await site.journal(site.broker.proxy_port)
        former = await site.claim(journal)
        await former.seek({})
        owner = await site.claim(journal)
        await owner.commit([Record(site.state, 0, b"lane", b"position 5")])
        with pytest.raises(LaneLost) as lost:
            await former.commit([Record(site.state, 0, b"lane", b"position 99")])
        assert lost.value.fenced
        await owner.commit([Record(site.events, 0, None, b"still the owner")])
        assert [record.value for record in await owner.load()] == [b"position 5"]
        moving = {requests.OFFSET_COMMIT, requests.ADD_OFFSETS_TO_TXN, requests.TXN_OFFSET_COMMIT}
        assert not moving & set(proxy.seen)


async def test_a_stopped_owner_is_fenced_when_it_wakes(site: Site) -> None:
    """R4: a SIGSTOPped process believes that it owns its lane; the broker knows better."""
    process = await python(STOPPED_OWNER, site.url(), site.requests, site.state)
    assert await line(process) == "owns"
    process.send_signal(signal.SIGSTOP)
    try:
        successor = await site.claim(await site.journal())
        await successor.commit([Record(site.state, 0, b"owner", b"successor")])
    finally:
        process.send_signal(signal.SIGCONT)
    assert process.stdin is not None
    process.stdin.write(b"commit\n")
    assert await line(process) == "lost True"
    assert await process.wait() == 0
    assert await values(site, site.state) == [b"first", b"successor"]
    await successor.commit([Record(site.state, 0, b"owner", b"still here")])


async def test_the_next_claim_ends_a_killed_owners_transaction(site: Site) -> None:
    """Readers of the partition would wait for the killed owner's own timeout, here 60 s."""
    server = f"127.0.0.1:{site.broker.port}"
    process = await python(KILLED_OWNER, server, site.full("lane.0"), site.full(site.events))
    assert await line(process) == "open"
    process.kill()
    await process.wait()
    journal = await site.journal()
    await journal.append([Record(site.events, 0, None, b"behind it")])
    assert await values(site, site.events) == [], "the open transaction hides what comes after it"

    started_s = time.monotonic()
    await site.claim(journal)

    assert await values(site, site.events) == [b"behind it"]
    assert time.monotonic() - started_s < 10


async def test_a_strangers_transaction_on_an_input_leaves_its_end_in_reach(site: Site) -> None:
    """Its marker is an offset without a record, and a lane's timers wait until the high watermark is reached."""
    server = f"127.0.0.1:{site.broker.port}"
    producer = AIOKafkaProducer(bootstrap_servers=server, transactional_id=site.full("stranger"))
    await producer.start()
    async with producer.transaction():
        await producer.send_and_wait(site.full(site.requests), b"by a stranger", partition=0)
    await producer.stop()

    session = await site.claim(await site.journal())
    await session.seek({})
    records = []
    with anyio.fail_after(20):
        while session.positions() != await session.high_watermarks():
            records += await session.poll(100, 0.5)
    assert [record.value for record in records] == [b"by a stranger"]
    assert session.positions()[site.requests] == 2
