"""What the adapters without a broker share: how a record is measured and how one poll is split up.

Pure functions over the port's values. Nothing of a particular store belongs here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .errors import TooLarge
from .port import Record, TopicSpec

TOMBSTONE_KEPT_MS = 15 * 60_000
"""How long a compacted topic keeps a tombstone, as Kafka's `delete.retention.ms`: a reader that is further
behind than this can miss that a key was deleted. Kafka's day would keep a busy lane's runs for a day too."""


def record_bytes(record: Record) -> int:
    """What counts against `max_record_bytes`: key, value and headers, without a store's own framing."""
    size = len(record.key or b"") + len(record.value or b"")
    for name, value in record.headers:
        size += len(name.encode()) + len(value)
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
