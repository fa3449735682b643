"""The members table of the SQLite journal: joining, agreeing, heartbeats, and who has lapsed.

The rules of the agreement are in `groups.py`. Times are CLOCK_MONOTONIC, which all processes of a machine
share: not wall time, which is set; and not CLOCK_BOOTTIME, because while a machine sleeps all its members
stand still alike, and none should lapse for it.
"""

from __future__ import annotations

import time
from pathlib import Path

from .errors import JournalError
from .groups import GroupView
from .sqlite import Database


def now_ms() -> int:
    """CLOCK_MONOTONIC in milliseconds."""
    return time.monotonic_ns() // 1_000_000


def boot_name() -> str:
    """What tells this boot of the machine from others. Where the system has none, clocks alone must do."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        return "unknown"


def join(db: Database, group: str, boot: str, timeout_ms: int) -> int:
    """Add a member to a group, which starts a generation; returns its number. Inside `db.write`."""
    db.run(
        "INSERT INTO groups VALUES (?, (SELECT count(*) FROM groups), 0, 0, ?) ON CONFLICT DO NOTHING",
        (group, now_ms()),
    )
    drop_lapsed(db, group, boot)
    _start_generation(db, group)
    number = db.number(
        "INSERT INTO members (group_name, boot, timeout_ms, seen_ms, agreed)"
        " VALUES (?, ?, ?, ?, (SELECT generation FROM groups WHERE name = ?)) RETURNING number",
        (group, boot, timeout_ms, now_ms(), group),
    )
    assert number is not None
    return number


def group_number(db: Database, group: str) -> int:
    """The number by which a group's changes are noticed."""
    number = db.number("SELECT id FROM groups WHERE name = ?", (group,))
    assert number is not None
    return number


def agree(db: Database, group: str, number: int, generation: int) -> None:
    """Note that a member has let go of what it had before `generation`. Inside `db.write`."""
    db.run("UPDATE members SET agreed = ? WHERE number = ?", (generation, number))
    db.run("UPDATE groups SET changes = changes + 1 WHERE name = ?", (group,))


def leave(db: Database, group: str, number: int) -> None:
    """Take a member out. Inside `db.write`."""
    if db.row("DELETE FROM members WHERE number = ? RETURNING number", (number,)) is not None:
        _start_generation(db, group)


def view(db: Database, group: str, partitions: int) -> GroupView:
    """The group as it is now. Inside `db.snapshot`."""
    generation = db.number("SELECT generation FROM groups WHERE name = ?", (group,))
    assert generation is not None
    agreed = {}
    for number, at in db.rows("SELECT number, agreed FROM members WHERE group_name = ?", (group,)):
        assert isinstance(number, int) and isinstance(at, int)
        agreed[number] = at
    return GroupView(generation, agreed, partitions)


def alive(db: Database, group: str, boot: str) -> int:
    """How many members have shown themselves in time. The others stay in the table until a living one drops them."""
    found = db.number(
        "SELECT count(*) FROM members"
        " WHERE group_name = ?1 AND boot = ?2 AND seen_ms <= ?3 AND seen_ms + timeout_ms >= ?3",
        (group, boot, now_ms()),
    )
    assert found is not None
    return found


def drop_lapsed(db: Database, group: str, boot: str) -> None:
    """Take out the members whose heartbeats stopped, or who do not agree to a generation in that time.

    Also those of an earlier boot: their clock was another. Inside `db.write`.
    """
    now = now_ms()
    lapsed = db.row(
        "DELETE FROM members WHERE group_name = ?1 AND ("
        " boot != ?2 OR seen_ms > ?3 OR seen_ms + timeout_ms < ?3"
        " OR EXISTS (SELECT 1 FROM groups"
        "  WHERE name = ?1 AND agreed < generation AND since_ms + timeout_ms < ?3)"
        ") RETURNING number",
        (group, boot, now),
    )
    if lapsed is not None:
        _start_generation(db, group)


def _start_generation(db: Database, group: str) -> None:
    db.run(
        "UPDATE groups SET generation = generation + 1, changes = changes + 1, since_ms = ? WHERE name = ?",
        (now_ms(), group),
    )


class Heartbeats:
    """The members that live in this process and when each was last confirmed. One thread calls `beat`."""

    def __init__(self, boot: str) -> None:
        self._boot = boot
        self._groups: dict[int, str] = {}
        self._confirmed_s: dict[int, float] = {}

    def add(self, number: int, group: str) -> None:
        """Keep a member alive from now on."""
        self._groups[number] = group

    def remove(self, number: int) -> None:
        """Let a member lapse."""
        self._groups.pop(number, None)
        self._confirmed_s.pop(number, None)

    def any(self) -> bool:
        """Whether there is anybody to keep alive."""
        return bool(self._groups)

    def confirmed_since(self, number: int, since_s: float) -> bool:
        """Whether a heartbeat sent after `since_s` (time.monotonic) found the member still in its group."""
        return self._confirmed_s.get(number, float("-inf")) > since_s

    def beat(self, db: Database) -> bool:
        """One heartbeat for all members, and the lapsed ones of their groups dropped; whether it succeeded.

        A full disk or the like means that nobody is confirmed; the next beat may succeed.
        """
        members = dict(self._groups)
        sent_s = time.monotonic()
        alive = []
        try:
            with db.write():
                for number in members:
                    beaten = "UPDATE members SET seen_ms = ? WHERE number = ? RETURNING number"
                    if db.row(beaten, (now_ms(), number)) is not None:
                        alive.append(number)
                for group in set(members.values()):
                    drop_lapsed(db, group, self._boot)
        except JournalError:
            return False
        for number in members:
            if number in alive and number in self._groups:
                self._confirmed_s[number] = sent_s
            else:
                self.remove(number)
        return True
