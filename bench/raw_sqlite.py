"""The ceiling of the embedded journal: rows like those that keylane wrote, inserted with apsw alone, commits as large.

`python -m bench.raw_sqlite FILE`, a process of its own; a `Shape` as JSON on its standard input, a `Rate` on its
standard output. The same tables and pragmas; keys, values and headers of the mean sizes; state rows replaced by
tombstones a while later, as they are when a lane forgets.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import apsw
import msgspec
from msgspec import Struct

from keylane.journal import sqlite, sqlite_log
from keylane.journal.sqlite_log import OFFSET_BITS

REMEMBERED = 40_000
"""Requests after which the state rows of one become tombstones."""
NEW_STATE_ROWS = 2
"""Of the rows that a request writes to the state: the run and its requester. The rest are of older ones."""

INSERT = "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?)"
Row = tuple[int, bytes, bytes | None, bytes | None, int, int | None]


class Rows(Struct, frozen=True):
    """What a request writes to one topic: how many rows, and their mean sizes."""

    per_request: float
    key_bytes: int
    value_bytes: int
    header_bytes: int


class Shape(Struct, frozen=True):
    """All that a request writes."""

    logs: list[Rows]
    """Topics that keep everything."""
    state: Rows
    rows_per_commit: int
    warm_s: float
    measured_s: float


class Rate(Struct, frozen=True):
    requests_per_s: float
    cpu_s: float
    seconds: float


def open_file(path: str) -> apsw.Connection:
    connection = apsw.Connection(path)
    for pragma in ("journal_mode=wal", "synchronous=full", f"wal_autocheckpoint={sqlite.WAL_PAGES}"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    connection.execute(sqlite_log.SCHEMA)
    return connection


def rows(shape: Shape) -> Iterator[list[Row]]:
    """Batch after batch, without end."""
    now_ms = time.time_ns() // 1_000_000
    per_request = sum(each.per_request for each in shape.logs) + shape.state.per_request
    batch_requests = max(1, round(shape.rows_per_commit / per_request))
    first = 0
    offsets = [(place + 1) << OFFSET_BITS for place in range(len(shape.logs) + 1)]
    owed = [0.0] * (len(shape.logs) + 1)
    filler = [(bytes(each.value_bytes), bytes(each.header_bytes) or None) for each in (*shape.logs, shape.state)]
    while True:
        batch: list[Row] = []
        for number in range(first, first + batch_requests):
            for place, each in enumerate(shape.logs):
                owed[place] += each.per_request
                while owed[place] >= 1:
                    owed[place] -= 1
                    offsets[place] += 1
                    batch.append((offsets[place], b"%0*d" % (each.key_bytes, number), *filler[place], now_ms, None))
            owed[-1] += shape.state.per_request
            row = 0
            while owed[-1] >= 1:
                owed[-1] -= 1
                offsets[-1] += 1
                is_new = row < NEW_STATE_ROWS
                key = b"%d/%0*d" % (row % NEW_STATE_ROWS, shape.state.key_bytes, number - (not is_new) * REMEMBERED)
                value, headers = filler[-1] if is_new else (None, None)
                batch.append((offsets[-1], key, value, headers, now_ms, len(shape.logs) + 1))
                row += 1
        first += batch_requests
        yield batch


def main(path: str, shape: Shape) -> Rate:
    connection = open_file(path)
    per_request = sum(each.per_request for each in shape.logs) + shape.state.per_request
    written = 0
    began_s = time.monotonic()
    since_s, since_cpu_s, since_rows = began_s, 0.0, 0
    for batch in rows(shape):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(INSERT, batch)
        connection.execute("COMMIT")
        written += len(batch)
        now_s = time.monotonic()
        if not since_rows and now_s - began_s > shape.warm_s:
            since_s, since_cpu_s, since_rows = now_s, time.process_time(), written
        if since_rows and now_s - since_s > shape.measured_s:
            break
    seconds = time.monotonic() - since_s
    connection.close()
    return Rate((written - since_rows) / per_request / seconds, time.process_time() - since_cpu_s, seconds)


class Sizes(NamedTuple):
    """Mean bytes of a topic's live rows."""

    key: int
    value: int
    headers: int


def sizes_in(path: Path, topic: str) -> Sizes:
    """Of the rows that keylane left in its file."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        places = [number for (number,) in connection.execute("SELECT id FROM places WHERE topic = ?", (topic,))]
        spans = " OR ".join(f"id BETWEEN {it << OFFSET_BITS} AND {((it + 1) << OFFSET_BITS) - 1}" for it in places)
        ((key, value, headers),) = connection.execute(
            "SELECT avg(length(key)), avg(length(value)), avg(coalesce(length(headers), 0))"
            f" FROM records WHERE value IS NOT NULL AND ({spans})"
        )
    finally:
        connection.close()
    return Sizes(round(key), round(value), round(headers))


if __name__ == "__main__":
    rate = main(sys.argv[1], msgspec.json.decode(sys.stdin.read(), type=Shape))
    sys.stdout.write(msgspec.json.encode(rate).decode() + "\n")
