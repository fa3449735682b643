"""The journal on Apache Kafka: `kafka://host:port[,host:port][?option=value&…]`.

Here live the URL, topics, plain writes and end positions. Lane sessions, readers and membership have a file
each (`_kafka_lane.py`, `_kafka_reader.py`, `_kafka_group.py`); aiokafka itself is in `_kafka_vendor.py`.

`prefix` (`keylane.`) stands before the names of topics, groups and transactional ids (`_kafka_names.py`): two
fleets on one cluster need two. `session_timeout_ms` (10000) is the group's. The options of TLS and SASL are in
`_kafka_connection.py`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar
from urllib.parse import parse_qsl, urlsplit

import anyio

from . import _kafka_checks as kafka_checks
from . import _kafka_vendor as vendor
from ._kafka_access import begin
from ._kafka_admin import Admin, TopicFound
from ._kafka_connection import OPTIONS, Cluster, cluster_of
from ._kafka_group import HEARTBEAT_MS, KafkaMember
from ._kafka_lane import KafkaLane, allowed_bytes, claim_lane
from ._kafka_names import Names
from ._kafka_reader import KafkaReader, open_reader
from ._kafka_topics import compare, topic_settings
from .errors import BadUrl, TopicMismatch, Unavailable
from .port import Place, Record, TopicSpec
from .upkeep import Finding, Need, TopicState

PREFIX = "keylane."
SESSION_TIMEOUT_MS = 10_000
TOPIC_POLL_S = 0.05

Opened = TypeVar("Opened", KafkaReader, KafkaMember, KafkaLane)


class KafkaJournal:
    """See the port's `Journal`. Connections are made when first needed."""

    def __init__(self, cluster: Cluster, prefix: str, session_timeout_ms: int) -> None:
        self._cluster = cluster
        self._names = Names(prefix)
        self._session_timeout_ms = session_timeout_ms
        self._admin = Admin(cluster)
        self._producer: vendor.Producer | None = None
        self._askers: dict[bool, vendor.Consumer] = {}
        self._limits: dict[str, int] = {}
        self._opened: list[KafkaReader | KafkaMember | KafkaLane] = []
        self._opening = anyio.Lock()

    async def open(self) -> None:
        """Connect once, so that a wrong address is noticed here. Raises `AccessDenied`, `Unavailable`."""
        asker = await self._asker(committed=True)
        try:
            with vendor.asking("connecting"):
                await vendor.reach(self._cluster, asker)
        except BaseException:
            await self.close()
            raise

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """See the port. Looks first: a router that was given no right to create must be able to start."""
        wanted = {self._names.full(spec.name): spec for spec in specs}
        with vendor.asking("describing topics"):
            there = (await self._admin.visible(list(wanted))).topics
        for name, spec in wanted.items():
            if name not in there:
                with vendor.asking(f"creating {name}"):
                    await self._admin.create(name, spec.partitions, spec.replicas or -1, topic_settings(spec))
        # Also for those that were there: another process may have made them a moment ago, without a leader yet.
        with vendor.asking("waiting for the leaders of new topics"):
            while not all_led((await self._admin.visible(list(wanted))).topics, wanted):  # noqa: ASYNC110
                await anyio.sleep(TOPIC_POLL_S)
        for state in await self.compare(specs):
            for setting, found, should, weight, _ in state.differences:
                if weight == "refused":
                    has = f"{found} partitions" if setting == "partitions" else f"{setting} {found}"
                    raise TopicMismatch(
                        f"{self._names.full(state.name)} has {has}, not {should}: see keylane topics plan"
                    )

    async def partitions(self, topic: str) -> int | None:
        with vendor.asking(f"describing {topic}"):
            found = (await self._admin.visible([self._names.full(topic)])).topics
        return found[self._names.full(topic)].partitions if found else None

    async def topic_names(self) -> list[str]:
        with vendor.asking("listing topics"):
            found = (await self._admin.describe(None)).topics
        prefix = self._names.prefix
        return sorted(
            self._names.own(name) for name, topic in found.items() if name.startswith(prefix) and not topic.internal
        )

    async def compare(self, specs: Sequence[TopicSpec]) -> list[TopicState]:
        wanted = {self._names.full(spec.name): spec for spec in specs}
        with vendor.asking("describing topics"):
            described = await self._admin.visible(list(wanted))
            settings = await self._admin.settings(described.topics) if described.topics else {}
        return [
            compare(spec, described.topics.get(name), settings.get(name, {}), len(described.brokers))
            for name, spec in wanted.items()
        ]

    async def alter(self, spec: TopicSpec, settings: Collection[str]) -> None:
        (state,) = await self.compare([spec])
        asked = [each for each in state.differences if each.changeable and each.setting in settings]
        changes = {each.setting: each.wanted for each in asked}
        if changes:
            name = self._names.full(spec.name)
            with vendor.asking(f"changing {spec.name}"):
                await self._admin.alter(name, changes)
                # The controller answers before the brokers have heard: who looks next would find nothing changed.
                while not changes.items() <= (await self._admin.settings([name]))[name].items():  # noqa: ASYNC110
                    await anyio.sleep(TOPIC_POLL_S)
        self._limits.pop(spec.name, None)

    async def members(self, group: str) -> int | None:
        return await kafka_checks.members(self._admin, self._names.full(group))

    async def checks(self, advance: Callable[[int], None]) -> list[Finding]:
        return await kafka_checks.checks(self._admin, self._names, self._session_timeout_ms)

    async def rights(self, needs: Sequence[Need]) -> list[Finding]:
        return await kafka_checks.rights(self._admin, self._names, needs)

    async def append(self, records: Sequence[Record]) -> list[int]:
        """See the port. Records of concurrent callers share batches.

        After a failure the producer is replaced: aiokafka's sequence numbers may have a hole then (#1017).
        """
        if not records:
            return []
        limits = await self._limits_of({record.topic for record in records})
        for record in records:
            allowed_bytes(record, limits)
        producer = await self._plain_producer()
        try:
            with vendor.asking("appending"):
                return await send_all(producer, records, self._names)
        except Unavailable:
            if self._producer is producer:
                self._producer = None
                await vendor.discard(producer)
            raise

    async def end_positions(self, places: Sequence[Place]) -> dict[Place, int]:
        return await self._ends(places, committed=True)

    async def reader(self, positions: Mapping[Place, int | None]) -> KafkaReader:
        reader = await open_reader(
            self._cluster, self._names, positions, self.end_positions, committed=True, check_end=False
        )
        return self._keep(reader)

    async def join(self, group: str, topic: str) -> KafkaMember:
        consumer = vendor.member(self._cluster, self._names.full(group), self._session_timeout_ms, HEARTBEAT_MS)
        member = KafkaMember(consumer, self._session_timeout_ms)
        try:
            await member.start(self._cluster, self._names.full(topic))
        except BaseException:
            await member.leave()
            raise
        return self._keep(member)

    async def claim(self, partition: int, inputs: Sequence[str], state: str) -> KafkaLane:
        lane = await claim_lane(
            self._cluster,
            self._names,
            Place(state, partition),
            inputs,
            limits=self._limits_of,
            append=self.append,
            committed_ends=self.end_positions,
            ends=self._high_watermarks,
        )
        return self._keep(lane)

    async def close(self) -> None:
        """Also closes what was opened here and not closed: aiokafka's tasks would go on without an owner."""
        await asyncio.gather(*(opened.close() for opened in self._opened))
        async with self._opening:
            producer, self._producer = self._producer, None
            askers, self._askers = self._askers, {}
            if producer is not None:
                await vendor.discard(producer)
            for asker in askers.values():
                await vendor.stop(asker)

    def _keep(self, opened: Opened) -> Opened:
        self._opened = [other for other in self._opened if not other.closed]
        self._opened.append(opened)
        return opened

    async def _high_watermarks(self, places: Sequence[Place]) -> dict[Place, int]:
        return await self._ends(places, committed=False)

    async def _ends(self, places: Sequence[Place], *, committed: bool) -> dict[Place, int]:
        """The last stable offset, or the high watermark, asked of the broker now (ListOffsets)."""
        asker = await self._asker(committed=committed)
        with vendor.asking("asking where partitions end"):
            ends = await vendor.end_offsets(asker, vendor.places(self._names.places(places)))
        return {Place(self._names.own(topic), number): end for (topic, number), end in ends.items()}

    async def _asker(self, *, committed: bool) -> vendor.Consumer:
        """A consumer that fetches nothing, so that its connection is free for questions."""
        async with self._opening:
            if committed not in self._askers:
                asker = vendor.consumer(self._cluster, committed=committed)
                await start_or_stop(self._cluster, asker)
                self._askers[committed] = asker
            return self._askers[committed]

    async def _plain_producer(self) -> vendor.Producer:
        async with self._opening:
            if self._producer is None:
                producer = vendor.plain_producer(self._cluster)
                try:
                    with vendor.asking("connecting"):
                        await begin(self._cluster, producer.start())
                except BaseException:
                    await vendor.discard(producer)
                    raise
                self._producer = producer
            return self._producer

    async def _limits_of(self, topics: Collection[str]) -> Mapping[str, int]:
        """The record size that each topic takes, asked once a journal."""
        unknown = set(topics) - self._limits.keys()
        if unknown:
            with vendor.asking(f"describing {', '.join(sorted(unknown))}"):
                settings = await self._admin.settings([self._names.full(topic) for topic in unknown])
            for topic in unknown:
                batch_bytes = int(settings[self._names.full(topic)]["max.message.bytes"])
                self._limits[topic] = batch_bytes - vendor.BATCH_OVERHEAD_BYTES
        return self._limits


async def send_all(producer: vendor.Producer, records: Sequence[Record], names: Names) -> list[int]:
    """Hand all the records over, then wait for every answer; the first error is raised once all are known."""
    futures = [
        await producer.send(
            names.full(record.topic), record.value, record.key, record.partition, None, list(record.headers)
        )
        for record in records
    ]
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    offsets = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        offsets.append(outcome.offset)
    return offsets


async def start_or_stop(cluster: Cluster, consumer: vendor.Consumer) -> None:
    try:
        with vendor.asking("connecting"):
            await begin(cluster, consumer.start())
    except BaseException:
        await vendor.stop(consumer)
        raise


def all_led(found: Mapping[str, TopicFound], names: Collection[str]) -> bool:
    """Whether each of these topics is there, with a leader for every partition."""
    return all(name in found and not found[name].leaderless for name in names)


async def open_kafka(url: str) -> KafkaJournal:
    """The journal that a URL names. Raises `BadUrl`, `AccessDenied`, and `Unavailable` when no broker answers."""
    if not __debug__:
        raise BadUrl("Kafka is refused under python -O: aiokafka guards its transactions by assertions")
    parts = urlsplit(url)
    servers = [server if ":" in server else f"{server}:9092" for server in parts.netloc.split(",") if server]
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    prefix = options.pop("prefix", PREFIX)
    session_timeout_ms = options.pop("session_timeout_ms", str(SESSION_TIMEOUT_MS))
    if parts.scheme != "kafka" or not servers or parts.path not in ("", "/"):
        raise BadUrl("the URL is not of the form kafka://host:port[,host:port][?option=value&…]")
    cluster = cluster_of(servers, options, os.environ)
    if options or not session_timeout_ms.isdecimal():
        # The rest of the URL is not repeated: what is wrong in it could be a secret in a place that is not for it.
        raise BadUrl(f"the URL's options are prefix, session_timeout_ms (a number), {', '.join(OPTIONS)}")
    journal = KafkaJournal(cluster, prefix, int(session_timeout_ms))
    await journal.open()
    return journal
