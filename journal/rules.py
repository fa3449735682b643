"""What the adapters without a broker share: how a record is measured, how one poll is split up, and how a topic is
held against its specification.

Pure functions over the port's values. Nothing of a particular store belongs here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .errors import TooLarge
from .port import Record, TopicSpec
from .upkeep import Difference, TopicState, Weight

TOMBSTONE_KEPT_MS = 15 * 60_000
"""How long a compacted topic keeps a tombstone, as Kafka's `delete.retention.ms`: a reader that is further
behind than this can miss that a key was deleted. Kafka's day would keep a busy lane's runs for a day too."""


def record_bytes(record: Record) -> int:
    """What counts against `max_record_bytes`: key, value and headers, without a store's own framing."""
    size = len(record.key or b"") + len(record.value or b"")
    for name, value in record.headers:
        size += (len(name) if name.isascii() else len(name.encode())) + len(value)
    return size


def refuse_large(records: Iterable[Record], specs: dict[str, TopicSpec]) -> None:
    """Raise `TooLarge` for the first record that its topic does not take."""
    for record in records:
        allowed = specs[record.topic].max_record_bytes
        size = record_bytes(record)
        if size > allowed:
            raise TooLarge(f"a record of {size} bytes is over the {allowed} that topic {record.topic} takes")


def poll_limit(max_records: int, found: Sequence[int], inputs: int) -> int:
    """How many records the next input may give to a poll, `found` being what those before it gave.

    An earlier input comes first, but one that never runs dry must not starve the later ones: an eighth of
    the poll, at least one record, is kept for each of them. The last takes all that is left.
    """
    later = inputs - len(found) - 1
    kept_back = later * max(1, max_records // 8)
    return max(1, max_records - sum(found) - kept_back)


ALTERABLE = ("retention_ms", "max_record_bytes")
"""What can be changed of a topic that exists. The others are how its records lie."""


def compared(spec: TopicSpec, found: TopicSpec | None) -> TopicState:
    """A topic as it was made, or None, against how it should be."""
    if found is None:
        return TopicState(spec.name, None)
    differences = []
    for setting in ("partitions", "compacted", *ALTERABLE):
        is_now, wanted = getattr(found, setting), getattr(spec, setting)
        if is_now != wanted:
            weight: Weight = "chosen" if setting in ALTERABLE else "refused"
            if setting == "max_record_bytes" and is_now < wanted:
                weight = "harmful"
            told, should = (("for ever" if value is None else str(value)) for value in (is_now, wanted))
            differences.append(Difference(setting, told, should, weight, changeable=setting in ALTERABLE))
    return TopicState(spec.name, found.partitions, found.retention_ms, tuple(differences))
