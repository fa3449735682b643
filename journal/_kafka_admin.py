"""Topics of Kafka through aiokafka's admin client: what they are, and making them. No settings of ours."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)

from ._kafka_access import begin
from ._kafka_connection import Cluster


class TopicState(NamedTuple):
    """A topic as the broker describes it."""

    partitions: int
    leaderless: bool


class Admin:
    """One short connection for each call, for calls are rare. Raises aiokafka's errors."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def create(self, name: str, partitions: int, settings: Mapping[str, str]) -> bool:
        """Whether the topic was made; False when it was there. Replicas as the broker is configured."""
        client = await self._client()
        try:
            topic = NewTopic(name, partitions, -1, replica_assignments={}, topic_configs=dict(settings))
            answer = await client.create_topics([topic])
        finally:
            await client.close()
        code, message = answer.topic_errors[0][1], answer.topic_errors[0][2]
        if code and for_code(code) is not TopicAlreadyExistsError:
            raise for_code(code)(f"creating {name}: {message}")
        return not code

    async def state(self, topic: str) -> TopicState | None:
        client = await self._client()
        try:
            (found,) = await client.describe_topics([topic])
        finally:
            await client.close()
        if for_code(found["error_code"]) is UnknownTopicOrPartitionError:
            return None
        if for_code(found["error_code"]) is TopicAuthorizationFailedError:
            raise TopicAuthorizationFailedError(topic)
        leaders = [partition["leader"] for partition in found["partitions"]]
        return TopicState(len(leaders), found["error_code"] != 0 or -1 in leaders)

    async def settings(self, topics: Collection[str]) -> dict[str, dict[str, str]]:
        """Every setting of each topic. Raises aiokafka's error where one does not exist."""
        client = await self._client()
        try:
            wanted = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
            (answer,) = await client.describe_configs(wanted)
        finally:
            await client.close()
        found = {}
        for code, message, _, topic, entries in answer.resources:
            if code:
                raise for_code(code)(f"{topic}: {message}")
            found[topic] = {entry[0]: entry[1] for entry in entries}
        return found

    async def _client(self) -> AIOKafkaAdminClient:
        client = AIOKafkaAdminClient(**self._cluster.keywords())
        try:
            await begin(self._cluster, client.start())
        except BaseException:
            await client.close()
            raise
        return client
