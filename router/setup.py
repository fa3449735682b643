"""What a router needs before its first lane: the topics, and the pinned metadata that everybody must share; and
whether that is still as it was, which each lane asks when it is claimed."""

from __future__ import annotations

from keylane.journal.port import Journal, Place, Record, TopicSpec
from keylane.router.config import BadConfig, Config
from keylane.router.core.records import Halted
from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_metadata, encode
from keylane.schemas.metadata import METADATA_KEY, Metadata

DAY_MS = 86_400_000
INPUT_RETENTION_MS = 7 * DAY_MS
OUTPUT_RETENTION_MS = 7 * DAY_MS
RECORD_MARGIN_BYTES = 4_096
"""What headers and framing add to a value."""
BEING_CHANGED = (
    "the scope rules are being changed: wait until keylane config apply has ended; if it was cut off, run it again"
)


class Changing(Exception):
    """The metadata is marked as changing. Nothing may be decided until it is not; the message says what to do."""


def topic_specs(partitions: int, pools: tuple[str, ...]) -> list[TopicSpec]:
    """Every topic as it should be (design section 3)."""
    outputs = [topics.EVENTS, topics.CONFLICTS, topics.DEADLETTERS, *(topics.items(pool) for pool in pools)]
    input_bytes = topics.REQUEST_BYTES_MAX + RECORD_MARGIN_BYTES
    return [
        *(
            TopicSpec(name, partitions, retention_ms=INPUT_RETENTION_MS, max_record_bytes=input_bytes)
            for name in (topics.REQUESTS, topics.RESULTS)
        ),
        *(
            TopicSpec(name, partitions, retention_ms=OUTPUT_RETENTION_MS, max_record_bytes=topics.OUTPUT_BYTES_MAX)
            for name in outputs
        ),
        TopicSpec(topics.STATE, partitions, compacted=True, max_record_bytes=topics.OUTPUT_BYTES_MAX),
        TopicSpec(topics.WAITS, 1, compacted=True),
        TopicSpec(topics.METADATA, 1, compacted=True),
    ]


def wanted_topics(config: Config) -> list[TopicSpec]:
    """Every topic as a router of this configuration needs it."""
    return [
        spec._replace(replicas=config.replication_factor, min_in_sync=config.min_insync_replicas)
        for spec in topic_specs(config.partitions, config.policy.pools)
    ]


async def prepare(journal: Journal, config: Config) -> Metadata:
    """Create what is missing and pin the metadata, or hold it against what is pinned.

    Raises `BadConfig` where this router would order differently from what is pinned, `journal.TopicMismatch`.
    """
    # The pinned metadata comes first: a router that differs must not create a topic either.
    specs = wanted_topics(config)
    await journal.create_topics([spec for spec in specs if spec.name == topics.METADATA])
    pinned = await read_metadata(journal)
    if pinned is not None:
        check_pinned(pinned, config)
    await journal.create_topics(specs)
    return pinned or await pin(journal, config)


async def pin(journal: Journal, config: Config) -> Metadata:
    """Write down what orders, where nothing is pinned yet. Raises `BadConfig` where another pinned something else."""
    first = Metadata(partitions=config.partitions, scopes=config.scopes)
    await journal.append([Record(topics.METADATA, 0, METADATA_KEY, encode(first))])
    # Two may have pinned at once: the last record holds for both.
    pinned = await read_metadata(journal)
    assert pinned is not None
    check_pinned(pinned, config)
    return pinned


def check_pinned(pinned: Metadata, config: Config) -> None:
    """Raises `BadConfig` where this configuration would order differently from what is pinned."""
    wanted = Metadata(partitions=config.partitions, scopes=config.scopes, token_floor=pinned.token_floor)
    if pinned.changing:
        raise BadConfig(f"{_pinned_to(pinned)}, changing: {BEING_CHANGED}")
    if pinned != wanted:
        same = len(pinned.scopes) == len(wanted.scopes) and pinned.scopes != wanted.scopes
        other = ", which are other ones" if same else ""
        raise BadConfig(
            f"{_pinned_to(pinned)}; this router has "
            f"{wanted.partitions}, {wanted.hash} and {len(wanted.scopes)}{other}: set the same or use another journal"
            f"{'' if pinned.scopes == wanted.scopes else '; keylane config apply changes scope rules'}"
        )


def _pinned_to(pinned: Metadata) -> str:
    rules = f"scope rules: {len(pinned.scopes)}"
    return f"this journal is pinned to {pinned.partitions} partitions, hash {pinned.hash}, {rules}"


async def check_agreed(journal: Journal, metadata: Metadata) -> None:
    """Whether what is pinned is what this router began with.

    Raises `Changing` while it is being changed, `Halted` where it is another: only a router that begins anew can
    follow that.
    """
    try:
        pinned = await read_metadata(journal)
    except BadConfig as error:
        raise Halted(str(error)) from error
    if pinned == metadata:
        return
    if pinned is None:
        raise Halted("the metadata is gone: the store was set back, or the topic emptied")
    if pinned.changing:
        raise Changing(BEING_CHANGED)
    raise Halted(
        f"{_pinned_to(pinned)}, which are other ones than this router began with: restart it with the configuration "
        "that keylane config apply was given"
    )


async def read_metadata(journal: Journal) -> Metadata | None:
    """What is pinned; None where nothing is. Raises `BadConfig` where it cannot be read."""
    place = Place(topics.METADATA, 0)
    end = (await journal.end_positions([place]))[place]
    reader = await journal.reader({place: None})
    newest: Metadata | None = None
    try:
        while reader.positions()[place] < end:
            for stored in await reader.poll(1_000, 1.0):
                if stored.key != METADATA_KEY:
                    continue
                found = decode_metadata(stored.value)
                if isinstance(found, Undecodable):
                    raise BadConfig(f"the metadata at offset {stored.offset} cannot be read: {found.reason}")
                newest = found
    finally:
        await reader.close()
    return newest
