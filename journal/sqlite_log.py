"""The tables of the SQLite journal and the statements over them: topics, places, records, claims.

Plain functions over a `Database`; those that write say whether they need its write transaction. No waiting,
no tasks: when to commit and whom to wake is `sqlite_journal.py`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from .errors import JournalError, LaneLost, PositionLost, TopicMismatch, Unavailable
from .port import Headers, Record, Stored, TopicSpec
from .rules import ALTERABLE, TOMBSTONE_KEPT_MS, compared
from .sqlite import Database, Row, Value
from .upkeep import TopicState

# A record's row number is its place's number, shifted, plus its offset: so a partition is a range of rows,
# appending is at the end of that range, and reading needs no index.
OFFSET_BITS = 40
READ_BYTES = 16 * 1024 * 1024
"""A poll ends at this many bytes of values, however many records it may have."""
LOAD_PAGE = 1_000

SCHEMA = """
CREATE TABLE topics (
    name TEXT PRIMARY KEY, partitions INTEGER NOT NULL, compacted INTEGER NOT NULL,
    retention_ms INTEGER, max_record_bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- Offsets from `start` to before `next`; `next` only grows, so no offset is ever used twice.
CREATE TABLE places (
    id INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    start INTEGER NOT NULL DEFAULT 0, next INTEGER NOT NULL DEFAULT 0, UNIQUE (topic, partition)
) STRICT;
-- `compacted_in` is the place's number in a compacted topic, where a key's newer record replaces the older.
CREATE TABLE records (
    id INTEGER PRIMARY KEY, key BLOB, value BLOB, headers BLOB, at_ms INTEGER NOT NULL, compacted_in INTEGER
) STRICT;
CREATE UNIQUE INDEX newest ON records (compacted_in, key) WHERE compacted_in IS NOT NULL;
CREATE INDEX tombstones ON records (at_ms) WHERE compacted_in IS NOT NULL AND value IS NULL;
-- A claim of a lane's state partition raises its epoch; a commit under a lower one is refused.
CREATE TABLE claims (
    state TEXT NOT NULL, partition INTEGER NOT NULL, epoch INTEGER NOT NULL, PRIMARY KEY (state, partition)
) STRICT, WITHOUT ROWID;
-- `changes` grows with everything that a member may wait for; times are CLOCK_MONOTONIC of one boot.
CREATE TABLE groups (
    name TEXT PRIMARY KEY, id INTEGER NOT NULL, generation INTEGER NOT NULL, changes INTEGER NOT NULL,
    since_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE members (
    number INTEGER PRIMARY KEY AUTOINCREMENT, group_name TEXT NOT NULL, boot TEXT NOT NULL,
    timeout_ms INTEGER NOT NULL, seen_ms INTEGER NOT NULL, agreed INTEGER NOT NULL
) STRICT;
"""

_INSERT = "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?)"

_encode_headers: Callable[[Headers], bytes] = msgspec.msgpack.Encoder().encode
_decode_headers: Callable[[bytes], Headers] = msgspec.msgpack.Decoder(tuple[tuple[str, bytes], ...]).decode


class Located(NamedTuple):
    """One partition as the tables know it."""

    id: int
    spec: TopicSpec
    partition: int


class Claim(NamedTuple):
    """The right to a lane, as long as nobody has a higher epoch."""

    state: str
    partition: int
    epoch: int


class Job:
    """Records that are written together or not at all, and afterwards their offsets or the error."""

    def __init__(self, places: Sequence[Located], records: Sequence[Record], claim: Claim | None) -> None:
        self.places = places
        self.records = records
        self.claim = claim
        self.offsets: list[int] | None = None
        self.error: JournalError | None = None


def create_topic(db: Database, spec: TopicSpec) -> None:
    """Create a topic unless it is there. Inside `db.write`. Raises `TopicMismatch`."""
    known = find_topic(db, spec.name)
    if known is None:
        db.run(
            "INSERT INTO topics VALUES (?, ?, ?, ?, ?)",
            (spec.name, spec.partitions, spec.compacted, spec.retention_ms, spec.max_record_bytes),
        )
        db.run_many(
            "INSERT INTO places (topic, partition) VALUES (?, ?)",
            [(spec.name, partition) for partition in range(spec.partitions)],
        )
    elif (known.partitions, known.compacted) != (spec.partitions, spec.compacted):
        raise TopicMismatch(f"topic {spec.name} exists as {known}, not as {spec}")


def find_topic(db: Database, name: str) -> TopicSpec | None:
    """A topic's settings, or None when there is no such topic."""
    row = db.row(
        "SELECT name, partitions, compacted, retention_ms, max_record_bytes FROM topics WHERE name = ?",
        (name,),
    )
    return None if row is None else msgspec.convert(row, TopicSpec, strict=False)


def topic_names(db: Database) -> list[str]:
    """Every topic, sorted."""
    return [str(name) for (name,) in db.rows("SELECT name FROM topics ORDER BY name")]


def compare(db: Database, spec: TopicSpec) -> TopicState:
    """A topic as the tables have it, against how it should be."""
    return compared(spec, find_topic(db, spec.name))


def alter(db: Database, spec: TopicSpec, settings: Collection[str]) -> None:
    """Set what can be set of a topic, as specified. Inside `db.write`."""
    for setting in set(settings) & set(ALTERABLE):
        db.run(f"UPDATE topics SET {setting} = ? WHERE name = ?", (getattr(spec, setting), spec.name))


def locate(db: Database, topic: str, partition: int) -> Located:
    """Find a partition. Raises `Unavailable` when there is none such."""
    spec = find_topic(db, topic)
    number = db.number("SELECT id FROM places WHERE topic = ? AND partition = ?", (topic, partition))
    if spec is None or number is None:
        raise Unavailable(f"topic {topic} has no partition {partition}: create the topics first")
    return Located(number, spec, partition)


def bounds(db: Database, place: Located) -> tuple[int, int]:
    """The offsets of a place's first record and after its last."""
    row = db.row("SELECT start, next FROM places WHERE id = ?", (place.id,))
    assert row is not None, place
    start, end = row
    assert isinstance(start, int) and isinstance(end, int)
    return start, end


def check_position(db: Database, place: Located, position: int) -> int:
    """The end of the place. Raises `PositionLost` when `position` lies before its start or after its end."""
    start, end = bounds(db, place)
    if not start <= position <= end:
        raise PositionLost(
            f"position {position} of {place.spec.name}/{place.partition} lies outside its log, {start} to {end}"
        )
    return end


def read(db: Database, place: Located, position: int, max_records: int) -> tuple[list[Stored], int]:
    """Records from `position` on, ended by their number or their bytes, and where to read on. Raises `PositionLost`."""
    end = check_position(db, place, position)
    if end == position:
        return [], position
    first = place.id << OFFSET_BITS
    rows = db.rows(
        "SELECT id, key, value, headers, at_ms FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
        (first + position, first + (1 << OFFSET_BITS), max_records),
    )
    found: list[Stored] = []
    size = 0
    for row in rows:
        found.append(_stored(place, row))
        size += len(found[-1].value or b"")
        if size >= READ_BYTES:
            break
    if len(found) < max_records and size < READ_BYTES:
        return found, end  # beyond the last record: the tombstones that came after it may have had their time
    return found, found[-1].offset + 1 if found else position


def with_news(db: Database, positions: Mapping[Located, int]) -> list[Located]:
    """The places that may have something for a cursor: those that do not end where it stands.

    One statement however many places there are, as most looks find nothing.
    """
    marks = ",".join("?" * len(positions))
    found = db.rows(f"SELECT id, next FROM places WHERE id IN ({marks})", [place.id for place in positions])
    ends = {number: end for number, end in found}
    return [place for place, position in positions.items() if ends[place.id] != position]


def load_page(db: Database, place: Located, position: int) -> list[Stored]:
    """The next live records of a compacted place, at most `LOAD_PAGE`; [] at the end."""
    first = place.id << OFFSET_BITS
    rows = db.rows(
        "SELECT id, key, value, headers, at_ms FROM records"
        " WHERE id >= ? AND id < ? AND value IS NOT NULL ORDER BY id LIMIT ?",
        (first + position, first + (1 << OFFSET_BITS), LOAD_PAGE),
    )
    return [_stored(place, row) for row in rows]


def _stored(place: Located, row: Row) -> Stored:
    number, key, value, headers, at_ms = row
    assert isinstance(number, int) and isinstance(at_ms, int)
    assert not isinstance(key, int | str) and not isinstance(value, int | str)
    return Stored(
        place.spec.name,
        place.partition,
        number - (place.id << OFFSET_BITS),
        key,
        value,
        _decode_headers(headers) if isinstance(headers, bytes) else (),
        at_ms,
    )


def claim(db: Database, state: str, partition: int) -> Claim:
    """Take a lane: every claim before this one is fenced once the transaction is committed."""
    epoch = db.number(
        "INSERT INTO claims VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET epoch = epoch + 1 RETURNING epoch",
        (state, partition),
    )
    assert epoch is not None
    return Claim(state, partition, epoch)


def check_claim(db: Database, held: Claim) -> None:
    """Raise `LaneLost` when a later claimant exists."""
    epoch = db.number("SELECT epoch FROM claims WHERE state = ? AND partition = ?", held[:2])
    if epoch != held.epoch:
        raise LaneLost(f"partition {held.partition} was claimed by another", fenced=True)


def write_jobs(db: Database, jobs: Sequence[Job]) -> dict[int, int]:
    """Write several jobs in one commit; returns the new ends by place number.

    A fenced job gets its error and writes nothing; the others are written. Claims are checked under the write
    lock, so a claimant that slept through being fenced cannot slip in.
    """
    with db.write():
        now_ms = time.time_ns() // 1_000_000
        ends: dict[int, int] = {}
        places: dict[int, Located] = {}
        rows: list[tuple[Value, ...]] = []
        for job in jobs:
            try:
                if job.claim is not None:
                    check_claim(db, job.claim)
            except LaneLost as lost:
                job.error = lost
                continue
            for place in job.places:
                if place.id not in ends:
                    ends[place.id] = bounds(db, place)[1]
                    places[place.id] = place
            job.offsets = _lay_out(job, ends, rows, now_ms)
        db.run_many(_INSERT, rows)
        db.run_many("UPDATE places SET next = ? WHERE id = ?", [(end, number) for number, end in ends.items()])
        _expire(db, places, now_ms, 2 * len(rows) + 16)
    return ends


def _lay_out(job: Job, ends: dict[int, int], rows: list[tuple[Value, ...]], now_ms: int) -> list[int]:
    offsets = []
    for place, record in zip(job.places, job.records, strict=True):
        number = place.id
        offset = ends[number]
        ends[number] = offset + 1
        offsets.append(offset)
        headers = _encode_headers(record.headers) if record.headers else None
        compacted_in = number if place.spec.compacted else None
        rows.append(((number << OFFSET_BITS) + offset, record.key, record.value, headers, now_ms, compacted_in))
    return offsets


def _expire(db: Database, places: Mapping[int, Located], now_ms: int, limit: int) -> None:
    """Delete at most `limit` records that are over their time, in each place that was just written.

    Twice what was written, so that it keeps up, and nothing ever has a great deal to do at once.
    """
    if any(place.spec.compacted for place in places.values()):
        db.run(
            "DELETE FROM records WHERE id IN (SELECT id FROM records"
            " WHERE compacted_in IS NOT NULL AND value IS NULL AND at_ms < ? ORDER BY at_ms LIMIT ?)",
            (now_ms - TOMBSTONE_KEPT_MS, limit),
        )
    for place in places.values():
        if place.spec.retention_ms is not None and not place.spec.compacted:
            _expire_place(db, place, now_ms - place.spec.retention_ms, limit)


def _expire_place(db: Database, place: Located, oldest_ms: int, limit: int) -> None:
    first = (place.id << OFFSET_BITS) + bounds(db, place)[0]
    after = (place.id + 1) << OFFSET_BITS
    oldest = db.number("SELECT at_ms FROM records WHERE id >= ? AND id < ? LIMIT 1", (first, after))
    if oldest is None or oldest >= oldest_ms:
        return
    last = first
    # From the front, up to the first that is kept: a clock that was set back must not leave a hole.
    for number, at_ms in db.rows(
        "SELECT id, at_ms FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT ?", (first, after, limit)
    ):
        assert isinstance(number, int) and isinstance(at_ms, int)
        if at_ms >= oldest_ms:
            break
        last = number
    db.run("DELETE FROM records WHERE id >= ? AND id <= ?", (first, last))
    db.run("UPDATE places SET start = ? WHERE id = ?", (last + 1 - (place.id << OFFSET_BITS), place.id))
