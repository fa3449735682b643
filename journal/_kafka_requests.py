"""Requests of Kafka's protocol that aiokafka lacks, or has wrongly, and how a set of authorized operations is read.

Layouts are those of Kafka's protocol guide, in the last version of each before flexible encoding. Nothing is sent here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

from aiokafka.protocol.admin import DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int8, Int16, Int32, Schema, String

TEXT = String("utf-8")
NOT_TOLD = -(2**31)
"""What a broker answers where it was not asked, or is too old, to tell authorized operations."""
SET = 0
TOPIC = 2


class Operation(IntEnum):
    """KIP-430: a bit each in a set of authorized operations."""

    READ = 3
    WRITE = 4
    CREATE = 5
    DESCRIBE = 8
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11


def operations(bits: int) -> frozenset[Operation] | None:
    """The operations in an answer's set; None where it is not told. Those that keylane never needs are left out."""
    if bits == NOT_TOLD:
        return None
    return frozenset(operation for operation in Operation if bits >> operation & 1)


class MetadataResponse_v8(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node_id", Int32), ("host", TEXT), ("port", Int32), ("rack", TEXT))),
        ("cluster_id", TEXT),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", TEXT),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("authorized_operations", Int32),
    )


class MetadataRequest_v8(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = MetadataResponse_v8
    SCHEMA = Schema(
        ("topics", Array(TEXT)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class DescribeTopics(Request[MetadataRequest_v8]):  # type: ignore[misc]
    """Topics (None: all) with their authorized operations.

    aiokafka's own request makes a topic that it asks about, where the broker makes topics by itself.
    """

    API_KEY = 3

    def __init__(self, topics: Sequence[str] | None) -> None:
        self._topics = topics

    def build(self, struct: type[MetadataRequest_v8]) -> MetadataRequest_v8:
        return struct(self._topics, False, True, True)


class DescribeGroupsRequest_v3(RequestStruct):  # type: ignore[misc]
    API_KEY = 15
    API_VERSION = 3
    RESPONSE_TYPE = DescribeGroupsResponse_v3  # aiokafka reads the answer as that of version 2
    SCHEMA = Schema(("groups", Array(TEXT)), ("include_authorized_operations", Boolean))


class DescribeGroup(Request[DescribeGroupsRequest_v3]):  # type: ignore[misc]
    """A group with its authorized operations. For its coordinator."""

    API_KEY = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, struct: type[DescribeGroupsRequest_v3]) -> DescribeGroupsRequest_v3:
        return struct([self._group], True)


class IncrementalAlterConfigsResponse_v0(Response):  # type: ignore[misc]
    API_KEY = 44
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "responses",
            Array(("error_code", Int16), ("error_message", TEXT), ("resource_type", Int8), ("resource_name", TEXT)),
        ),
    )


class IncrementalAlterConfigsRequest_v0(RequestStruct):  # type: ignore[misc]
    API_KEY = 44
    API_VERSION = 0
    RESPONSE_TYPE = IncrementalAlterConfigsResponse_v0
    SCHEMA = Schema(
        (
            "resources",
            Array(
                ("resource_type", Int8),
                ("resource_name", TEXT),
                ("configs", Array(("name", TEXT), ("operation", Int8), ("value", TEXT))),
            ),
        ),
        ("validate_only", Boolean),
    )


class AlterTopic(Request[IncrementalAlterConfigsRequest_v0]):  # type: ignore[misc]
    """Set some of a topic's settings. AlterConfigs, which aiokafka has, would reset all the others (KIP-339)."""

    API_KEY = 44

    def __init__(self, topic: str, settings: Mapping[str, str]) -> None:
        self._topic = topic
        self._settings = settings

    def build(self, struct: type[IncrementalAlterConfigsRequest_v0]) -> IncrementalAlterConfigsRequest_v0:
        configs = [(name, SET, value) for name, value in self._settings.items()]
        return struct([(TOPIC, self._topic, configs)], False)
