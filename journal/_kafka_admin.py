"""Topics of Kafka, its brokers and what a principal may do, through aiokafka's admin client. No settings of ours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import CoordinationType
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    IncompatibleBrokerVersion,
    InvalidProducerIdMapping,
    InvalidReplicationFactorError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.admin import ApiVersionRequest
from aiokafka.protocol.transaction import AddOffsetsToTxnRequest

from ._kafka_access import begin
from ._kafka_connection import Cluster
from ._kafka_requests import AlterTopic, DescribeGroup, DescribeTopics, Operation, operations
from .errors import TopicMismatch

NO_PRODUCER = 2**62
"""A producer id that no broker has given out: they count from 0."""


class TopicFound(NamedTuple):
    """A topic as the broker describes it. Replicas and those in sync are the fewest of any of its partitions."""

    partitions: int
    leaderless: bool
    replicas: int
    in_sync: int
    internal: bool
    allowed: frozenset[Operation] | None


class Described(NamedTuple):
    """A cluster, and of the topics that were asked about those that are there. `missing` may still be creatable."""

    cluster: str
    brokers: tuple[int, ...]
    controller: int
    topics: dict[str, TopicFound]
    missing: dict[str, frozenset[Operation] | None]
    hidden: frozenset[str]
    """Topics that may not be described, whether they are there or not."""
    allowed: frozenset[Operation] | None
    """On the cluster itself."""


class GroupFound(NamedTuple):
    """A group as its coordinator describes it. Both None: it may not be described."""

    members: int | None
    allowed: frozenset[Operation] | None


class Admin:
    """One short connection for each call, for calls are rare. Raises aiokafka's errors."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def create(self, name: str, partitions: int, replicas: int, settings: Mapping[str, str]) -> bool:
        """Whether the topic was made; False when it was there. -1 replicas: as the broker is configured.

        Raises `TopicMismatch` for more replicas than there are brokers.
        """
        async with self._connected() as client:
            # What aiokafka takes for an assignment decides whether it lets -1 pass.
            nowhere: dict[int, list[int]] | None = {} if replicas == -1 else None
            topic = NewTopic(name, partitions, replicas, replica_assignments=nowhere, topic_configs=dict(settings))
            answer = await client.create_topics([topic])
        code, message = answer.topic_errors[0][1], answer.topic_errors[0][2]
        if for_code(code) is InvalidReplicationFactorError:
            raise TopicMismatch(f"{name}: {message}")
        if code and for_code(code) is not TopicAlreadyExistsError:
            raise for_code(code)(f"creating {name}: {message}")
        return not code

    async def describe(self, topics: Sequence[str] | None) -> Described:
        """The cluster, and these topics; None: every topic that may be described. Makes none."""
        async with self._connected() as client:
            try:
                answer = await client._send_request(DescribeTopics(topics))
            except NotImplementedError as old:
                raise IncompatibleBrokerVersion("the broker is older than Kafka 2.3") from old
        found: dict[str, TopicFound] = {}
        missing: dict[str, frozenset[Operation] | None] = {}
        hidden = set()
        for code, name, internal, partitions, allowed in answer.topics:
            match for_code(code):
                case error if error is UnknownTopicOrPartitionError:
                    missing[name] = operations(allowed)
                case error if error is TopicAuthorizationFailedError:
                    hidden.add(name)
                case _:
                    found[name] = TopicFound(
                        partitions=len(partitions),
                        leaderless=code != 0 or any(leader == -1 for _, _, leader, *_ in partitions),
                        replicas=min((len(replicas) for *_, replicas, _, _ in partitions), default=0),
                        in_sync=min((len(in_sync) for *_, in_sync, _ in partitions), default=0),
                        internal=internal,
                        allowed=operations(allowed),
                    )
        brokers = tuple(sorted(node for node, *_ in answer.brokers))
        cluster, controller = str(answer.cluster_id), answer.controller_id
        whole = operations(answer.authorized_operations)
        return Described(cluster, brokers, controller, found, missing, frozenset(hidden), whole)

    async def visible(self, topics: Sequence[str]) -> Described:
        """As `describe`. Raises aiokafka's error where one may not be described: that is not the same as missing."""
        described = await self.describe(topics)
        if described.hidden:
            raise TopicAuthorizationFailedError(described.hidden)
        return described

    async def settings(self, topics: Collection[str]) -> dict[str, dict[str, str]]:
        """Every setting of each topic. Raises aiokafka's error where one does not exist."""
        return await self._settings([ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics])

    async def broker_settings(self, node: int) -> dict[str, str]:
        """Every setting of a broker that it tells."""
        return (await self._settings([ConfigResource(ConfigResourceType.BROKER, str(node))]))[str(node)]

    async def alter(self, topic: str, settings: Mapping[str, str]) -> None:
        """Set these of a topic's settings, and leave the others."""
        async with self._connected() as client:
            answer = await client._send_request(AlterTopic(topic, settings))
        code, message, _, _ = answer.responses[0]
        if code:
            raise for_code(code)(f"changing {topic}: {message}")

    async def api_versions(self) -> dict[int, tuple[int, int]]:
        """For each request, by its number, the lowest and highest version that a broker takes."""
        async with self._connected() as client:
            answer = await client._send_request(ApiVersionRequest())
        return {number: (least, most) for number, least, most in answer.api_versions}

    async def group(self, group: str) -> GroupFound:
        """A group as it is now; one that nobody ever joined has no members."""
        async with self._connected() as client:
            try:
                node = await client._client.coordinator_lookup(CoordinationType.GROUP, group)
                (found,) = (await client._send_request_to_node(node, DescribeGroup(group))).groups
                if found[0]:
                    raise for_code(found[0])(f"describing group {group}")
            except GroupAuthorizationFailedError:
                return GroupFound(None, None)
        return GroupFound(len(found[5]), operations(found[6]))

    async def may_claim(self, transactional_ids: Sequence[str]) -> dict[str, bool]:
        """Whether transactions may be begun under these ids.

        No request tells. So each is asked to add a group to a transaction of a producer that cannot exist: a broker
        looks at the right first, and at group and producer next, and so refuses in any case and changes nothing.
        """
        told = {}
        async with self._connected() as client:
            for name in transactional_ids:
                try:
                    node = await client._client.coordinator_lookup(CoordinationType.TRANSACTION, name)
                    request = AddOffsetsToTxnRequest(name, NO_PRODUCER, 0, name)
                    answer = await client._send_request_to_node(node, request)
                    refusal = for_code(answer.error_code)
                except TransactionalIdAuthorizationFailed:
                    refusal = TransactionalIdAuthorizationFailed
                if refusal not in (TransactionalIdAuthorizationFailed, *PAST_THE_RIGHT):
                    raise refusal(f"asking about transactional id {name}")
                told[name] = refusal in PAST_THE_RIGHT
        return told

    async def _settings(self, wanted: Sequence[ConfigResource]) -> dict[str, dict[str, str]]:
        async with self._connected() as client:
            (answer,) = await client.describe_configs(list(wanted))
        found = {}
        for code, message, _, name, entries in answer.resources:
            if code:
                raise for_code(code)(f"{name}: {message}")
            found[name] = {entry[0]: entry[1] for entry in entries}
        return found

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AIOKafkaAdminClient]:
        client = await self._client()
        try:
            yield client
        finally:
            await client.close()

    async def _client(self) -> AIOKafkaAdminClient:
        client = AIOKafkaAdminClient(**self._cluster.keywords())
        try:
            await begin(self._cluster, client.start())
        except BaseException:
            await client.close()
            raise
        return client


PAST_THE_RIGHT = (InvalidProducerIdMapping, GroupAuthorizationFailedError)
"""Refusals that come after the right to the transactional id was found to be there."""
