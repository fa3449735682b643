"""One user's connection, and for every operation of Kafka a request that needs it and changes nothing.

Kafka looks at the right first. So each request is wrong in another way as well (a partition that is not there, a
member that nobody is), and what is answered tells whether it got past the right.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.protocol.admin import (
    AlterConfigsRequest,
    CreateAclsRequest,
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteAclsRequest,
    DeleteRecordsRequest,
    DescribeConfigsRequest,
    DescribeGroupsRequest,
)
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from keylane.journal._kafka_connection import cluster_of

DENIED = {29, 30, 31, 53}
"""TOPIC_, GROUP_, CLUSTER_ and TRANSACTIONAL_ID_AUTHORIZATION_FAILED."""
NOWHERE = 1_000_000
"""No topic has so many partitions."""
TOPIC, GROUP, CLUSTER, TRANSACTIONAL_ID = 2, 3, 4, 5
LITERAL, PREFIXED = 3, 4
READ, WRITE, ALTER = 3, 4, 7
ALLOW = 3
BY_TRANSACTION = 1


@asynccontextmanager
async def asking(url: str) -> AsyncIterator["Asking"]:
    """As the user that a journal's URL names."""
    parts = urlsplit(url)
    security: dict[str, Any] = dict(cluster_of([parts.netloc], dict(parse_qsl(parts.query)), os.environ).security)
    connection = await create_conn(parts.hostname, parts.port, **security)
    try:
        yield Asking(connection)
    finally:
        await connection.close()


class Asking:
    """Whether the broker lets a user do something. Each method is an operation; it returns what was answered."""

    def __init__(self, connection: AIOKafkaConnection) -> None:
        self._connection = connection
        self.operations: dict[str, dict[str, Callable[[str], Awaitable[int]]]] = {
            "topic": {
                "Read": self.read,
                "Write": self.write,
                "Describe": self.describe,
                "Create": self.create,
                "Alter": self.alter,
                "Delete": self.delete,
                "DescribeConfigs": self.describe_configs,
                "AlterConfigs": self.alter_configs,
            },
            "group": {"Read": self.beat, "Describe": self.describe_group},
            "transactional id": {"Write": self.begin, "Describe": self.find},
        }

    async def read(self, topic: str) -> int:
        answer = await self._ask(FetchRequest(0, 0, 1, 0, [(topic, [(NOWHERE, 0, 1)])]))
        return int(answer.topics[0][1][0][1])

    async def write(self, topic: str) -> int:
        batch = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1_000)
        batch.append(0, None, b"k", b"v", [])
        answer = await self._ask(ProduceRequest(None, -1, 1_000, [(topic, [(NOWHERE, bytes(batch.build()))])]))
        return int(answer.topics[0][1][0][1])

    async def describe(self, topic: str) -> int:
        return int((await self._ask(MetadataRequest([topic], False))).topics[0][0])

    async def create(self, topic: str) -> int:
        answer = await self._ask(CreateTopicsRequest([(topic, 1, 1, [], [])], 1_000, True))
        return int(answer.topic_errors[0][1])

    async def alter(self, topic: str) -> int:
        answer = await self._ask(CreatePartitionsRequest([(topic, (1, None))], 1_000, True))
        return int(answer.topic_errors[0][1])

    async def delete(self, topic: str) -> int:
        answer = await self._ask(DeleteRecordsRequest([(topic, [(NOWHERE, 0)])], 1_000))
        return int(answer.topics[0][1][0][2])

    async def describe_configs(self, topic: str) -> int:
        return int((await self._ask(DescribeConfigsRequest([(TOPIC, topic, ["retention.ms"])]))).resources[0][0])

    async def alter_configs(self, topic: str) -> int:
        return int((await self._ask(AlterConfigsRequest([(TOPIC, topic, [])], True))).resources[0][0])

    async def beat(self, group: str) -> int:
        return int((await self._ask(HeartbeatRequest(group, 0, "nobody"))).error_code)

    async def describe_group(self, group: str) -> int:
        return int((await self._ask(DescribeGroupsRequest([group]))).groups[0][0])

    async def begin(self, transactional_id: str) -> int:
        return int((await self._ask(InitProducerIdRequest(transactional_id, 1_000))).error_code)

    async def find(self, transactional_id: str) -> int:
        return int((await self._ask(FindCoordinatorRequest(transactional_id, BY_TRANSACTION))).error_code)

    async def give(self, user: str) -> int:
        """Give a right to oneself: Alter on the cluster."""
        request = CreateAclsRequest(CLUSTER, "kafka-cluster", LITERAL, f"User:{user}", "*", ALTER, ALLOW)
        return int((await self._ask(request)).creation_responses[0][0])

    async def set_right(self, user: str, operation: int, kind: int, name: str, *, given: bool) -> None:
        """Give a right on everything that begins with `name`, or take it away. For who may do everything."""
        request = CreateAclsRequest if given else DeleteAclsRequest
        answer = await self._ask(request(kind, name, PREFIXED, f"User:{user}", "*", operation, ALLOW))
        done = answer.creation_responses if given else answer.filter_responses
        assert done[0][0] == 0 and (given or done[0][2]), done

    async def _ask(self, request: Any) -> Any:
        return await self._connection.send(request)
