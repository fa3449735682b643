"""Histories to judge: the core at work with everything recorded that a journal would hold; and how to spoil one.

The core produces them; `keylane.verify` shares nothing with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from core.bench import Bench
from msgspec.structs import replace
from verify.waiting_lanes import Waiting

from keylane.journal.memory import MemoryJournal
from keylane.router.core.policy import Policy
from keylane.router.core.records import Output, WaitChecked
from keylane.router.core.step import step_checked
from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_request, decode_result, encode
from keylane.schemas.requests import Request
from keylane.schemas.results import Result
from keylane.schemas.state import WaitLink
from keylane.verify import Entry, Line, Report, verify


class Recorder(Bench):
    """A bench that keeps its history as a journal would: every topic, with positions in the lane's record."""

    def __init__(
        self,
        policy: Policy | None = None,
        partition: int = 0,
        partitions: int = 1,
        waiting: Waiting | None = None,
    ) -> None:
        self.entries: list[Entry] = []
        self.waiting = Waiting(self.entries) if waiting is None else waiting
        """What all lanes say of who waits for whom. Of one lane alone it is part of its history."""
        self.commits: list[int] = []
        """How many entries there were after each commit."""
        self.ends: dict[str, int] = {}
        self.positions: dict[str, int] = {}
        super().__init__(policy, partition, partitions)

    def _note(self, topic: str, key: bytes | None, value: bytes | None) -> int:
        offset = self.ends.get(topic, 0)
        self.ends[topic] = offset + 1
        self.entries.append(Entry(topic, self.partition, offset, key, value))
        return offset

    def feed(self, record: Request | Result | Undecodable, topic: str = topics.REQUESTS, **place: Any) -> list[Output]:
        value = b"{" if isinstance(record, Undecodable) else encode(record)
        self.offset = self._note(topic, b"k", value) - 1  # the bench counts it up
        self.positions[topic] = self.offset + 2
        # Read as a router reads it: the bench's own reports can name no token at all.
        read = (decode_request if topic == topics.REQUESTS else decode_result)(value)
        return super().feed(read, topic, **place)

    def commit(self) -> list[Output]:
        lane = self.lane
        lane.put(replace(lane.own, positions=dict(self.positions), clock_ms=self.clock_ms))
        changed = dict(lane.changed)
        outputs = super().commit()
        for output in outputs:
            self._note(output.topic, output.key.encode(), encode(output.record))
        for key, record in changed.items():
            self._note(topics.STATE, key, None if record is None else encode(record))
        for key, record in changed.items():
            if key.startswith(LINK):
                link = record if isinstance(record, WaitLink) else None
                self.waiting.say(self.partition, self.lane.own.claim, key[len(LINK) :].decode(), link)
        self.commits.append(len(self.entries))
        return outputs

    def reload(self) -> None:
        super().reload()
        self.waiting.load(self.partition, self.lane.own.claim, self.lane.links.values())

    def checked(self, request: str, holder: str | None = None, *cycle: str) -> list[Output]:
        """What the graph has to say of the request's edge, whatever is asked for; if it has one."""
        answer = self.waiting.answers.get(request)
        if answer is None:
            return []
        step_checked(self.lane, WaitChecked(request, *answer), self.now)
        return self.commit()


LINK = b"link/"


def recorded(journal: MemoryJournal) -> list[Entry]:
    """All that a memory journal holds."""
    return [
        Entry(each.topic, each.partition, each.offset, each.key, each.value)
        for (_, _), partition in sorted(journal.log.partitions.items())
        for each in partition.records
    ]


def judged(lines: Iterable[Line], *, drained: bool = True, **more: Any) -> Report:
    return verify(lines, drained=drained, **more)


def told(report: Report) -> str:
    return "\n".join(f"{each.promise}: {each.message} {each.places}" for each in report.violations)


def compacted(entries: Sequence[Entry]) -> list[Entry]:
    """As an embedded journal has it: of state only the newest of each key."""
    newest = {entry.key: entry.offset for entry in entries if entry.topic == topics.STATE}
    return [entry for entry in entries if entry.topic != topics.STATE or newest[entry.key] == entry.offset]


# -- spoiling ---------------------------------------------------------------------------------------------------

Change = Callable[[dict[str, Any]], object]


def value_of(entry: Entry) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(entry.value or b"{}")
    return found


def find(entries: Sequence[Entry], kind: str, nth: int = 0, /, **fields: Any) -> int:
    """The index of the nth record of a type with these fields."""
    found = []
    for index, entry in enumerate(entries):
        if entry.value is not None and f'"{kind}"'.encode() in entry.value:
            value = value_of(entry)
            if value.get("type") == kind and all(value.get(name) == wanted for name, wanted in fields.items()):
                found.append(index)
    return found[nth]


def changed(entries: Sequence[Entry], index: int, /, **fields: Any) -> list[Entry]:
    """The same with other values in one record; None takes a field away."""
    value = value_of(entries[index]) | fields
    value = {name: each for name, each in value.items() if each is not None}
    again = list(entries)
    again[index] = msgspec.structs.replace(entries[index], value=msgspec.json.encode(value))
    return again


def without(entries: Sequence[Entry], *indexes: int) -> list[Entry]:
    return [entry for index, entry in enumerate(entries) if index not in indexes]


def inserted(entries: Sequence[Entry], index: int, like: int, **fields: Any) -> list[Entry]:
    """The record `like` once more, with other values, before the one at `index`."""
    again = list(entries)
    again.insert(index, changed(entries, like, **fields)[like])
    return again


def swapped(entries: Sequence[Entry], one: int, other: int) -> list[Entry]:
    again = list(entries)
    again[one], again[other] = again[other], again[one]
    return again


def renumbered(entries: Sequence[Entry]) -> list[Entry]:
    """Offsets and event numbers without gaps, so that nothing but what was spoiled is wrong.

    What names an event by its number, and the lane's own count, moves along.
    """
    ends: dict[str, int] = {}
    numbers: dict[int, int] = {}
    count = 0
    laid = []
    for entry in entries:
        offset = ends.get(entry.topic, 0)
        ends[entry.topic] = offset + 1
        value = entry.value
        if entry.topic == topics.EVENTS:
            count += 1
            fields = value_of(entry)
            numbers.setdefault(fields["seq"], count)
            value = msgspec.json.encode(fields | {"seq": count})
        laid.append(msgspec.structs.replace(entry, offset=offset, value=value))
    return [_moved(entry, numbers) for entry in laid]


def _moved(entry: Entry, numbers: dict[int, int]) -> Entry:
    if entry.value is None or entry.topic not in (topics.CONFLICTS, topics.DEADLETTERS, topics.STATE):
        return entry
    fields = value_of(entry)
    for name in ("event_seq", "seq", "order", "completed_order", "ended_order", "granted_order"):
        if name in fields:
            fields[name] = numbers.get(fields[name], fields[name])
    if fields["type"] == "ConflictArtifact":
        fields["id"] = f"{entry.partition}-{fields['event_seq']}"
    return msgspec.structs.replace(entry, value=msgspec.json.encode(fields))
