"""The contract suite's Kafka, on the tests' broker. What is only Kafka's is in `tests/kafka`."""

import itertools
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaConnectionError
from contract.adapters import ChildMember, Doomed
from contract.children import Child
from kafka.running import Broker, settled

from keylane.journal import Journal, LaneSession, Place, TopicSpec
from keylane.journal._kafka_admin import Admin
from keylane.journal._kafka_connection import Cluster
from keylane.journal._kafka_lane import KafkaLane

numbers = itertools.count()


class KafkaAdapter:
    def __init__(self, broker: Broker, stack: AsyncExitStack) -> None:
        self._server = f"127.0.0.1:{broker.port}"
        self._stack = stack
        # The broker outlives a test and serves all of pytest's workers.
        self.prefix = f"contract-{os.getpid()}-{next(numbers)}."
        self.url = f"{broker.url}?prefix={self.prefix}&session_timeout_ms=3000"

    async def doomed(self, group: str, topic: str) -> Doomed:
        return ChildMember(await Child.start(self._stack, "member", self.url, group, topic))

    async def forget(self, journal: Journal, place: Place, before: int) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._server)
        await admin.start()
        full = TopicPartition(self.prefix + place.topic, place.partition)
        await admin.delete_records({full: RecordsToDelete(before_offset=before)})
        await admin.close()

    async def settled(self, journal: Journal, place: Place) -> None:
        await settled(journal, place)

    @contextmanager
    def unknown_commit(self, session: LaneSession, *, written: bool) -> Iterator[None]:
        assert isinstance(session, KafkaLane)
        producer = session._producer
        commit = producer.commit_transaction

        async def broken() -> None:
            if written:
                await commit()
            raise KafkaConnectionError("the broker's answer was lost")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(producer, "commit_transaction", broken)
            yield

    async def settings(self, journal: Journal, topic: str) -> TopicSpec:
        partitions = await journal.partitions(topic)
        assert partitions is not None
        full = self.prefix + topic
        found = (await Admin(Cluster((self._server,))).settings([full]))[full]
        retention_ms = int(found["retention.ms"])
        return TopicSpec(
            topic,
            partitions,
            compacted=found["cleanup.policy"] == "compact",
            retention_ms=None if retention_ms == -1 else retention_ms,
            max_record_bytes=int(found["max.message.bytes"]),
        )
