"""The settings that a topic has on Kafka, and which of those that differ matter how much. Plain functions, no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from . import _kafka_vendor as vendor
from ._kafka_admin import TopicFound
from .port import TopicSpec
from .rules import TOMBSTONE_KEPT_MS
from .upkeep import Difference, TopicState, Weight

MIN_IN_SYNC = "min.insync.replicas"
IN_SYNC_WANTED = 2
REPLICAS_WANTED = 3


def topic_settings(spec: TopicSpec) -> dict[str, str]:
    """The broker's settings for a topic.

    Compacted topics get small segments and an eager cleaner: with the defaults a lane's small turns pile
    up uncompacted, about a million in one active segment, and every load reads them all.
    """
    settings = {
        "max.message.bytes": str(spec.max_record_bytes + vendor.BATCH_OVERHEAD_BYTES),
        "retention.ms": str(-1 if spec.retention_ms is None else spec.retention_ms),
        "cleanup.policy": "compact" if spec.compacted else "delete",
        # Whatever a producer sends: aiokafka has no codec but gzip by itself, and a record that it cannot open
        # would stop its lane for ever; nor does a small batch become 600 MiB in a reader.
        "compression.type": "uncompressed",
    }
    if spec.compacted:
        settings |= {
            "segment.bytes": str(32 * 1024 * 1024),
            "min.cleanable.dirty.ratio": "0.1",
            "delete.retention.ms": str(TOMBSTONE_KEPT_MS),
        }
    if spec.min_in_sync is not None:
        settings[MIN_IN_SYNC] = str(spec.min_in_sync)
    return settings


def compare(spec: TopicSpec, found: TopicFound | None, settings: Mapping[str, str], brokers: int) -> TopicState:
    """A topic as the broker has it, or None, against how it should be. `brokers` is how many of them live."""
    if found is None:
        return TopicState(spec.name, None)
    differences: list[Difference] = []
    if found.partitions != spec.partitions:
        count, wanted = str(found.partitions), str(spec.partitions)
        differences.append(Difference("partitions", count, wanted, "refused", changeable=False))
    for name, value in topic_settings(spec).items():
        if not _same(settings[name], value):
            differences.append(Difference(name, settings[name], value, _weight(name, settings[name], value)))
    differences += _copies(spec, found, settings, brokers)
    retention_ms = int(settings["retention.ms"])
    return TopicState(spec.name, found.partitions, None if retention_ms < 0 else retention_ms, tuple(differences))


def _copies(spec: TopicSpec, found: TopicFound, settings: Mapping[str, str], brokers: int) -> Iterator[Difference]:
    """What decides whether an acknowledged record outlives a broker."""
    replicas = spec.replicas
    if replicas is None and found.replicas == 1 and brokers > 1:
        replicas = min(REPLICAS_WANTED, brokers)
    if replicas is not None and found.replicas != replicas:
        count = str(found.replicas)
        yield Difference("replication factor", count, str(replicas), "risky", changeable=False)
    in_sync = settings[MIN_IN_SYNC]
    if spec.min_in_sync is None and found.replicas > 1 and int(in_sync) < IN_SYNC_WANTED:
        # With one, `acks=all` means the leader alone whenever the others lag.
        yield Difference(MIN_IN_SYNC, in_sync, str(IN_SYNC_WANTED), "risky")
    unclean = "unclean.leader.election.enable"
    if found.replicas > 1 and settings.get(unclean) == "true":
        yield Difference(unclean, "true", "false", "risky")


def _same(found: str, wanted: str) -> bool:
    try:
        return float(found) == float(wanted)
    except ValueError:
        return found == wanted


def _weight(setting: str, found: str, wanted: str) -> Weight:
    match setting:
        case "cleanup.policy" | "compression.type":
            return "refused"
        case "max.message.bytes":
            # Smaller, and a lane cannot write what it must; larger is harmless, since requests are measured on arrival.
            return "harmful" if int(found) < int(wanted) else "chosen"
        case "segment.bytes" | "min.cleanable.dirty.ratio":
            return "harmful" if float(found) > float(wanted) else "chosen"
        case "min.insync.replicas":
            return "harmful"
    return "chosen"
