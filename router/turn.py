"""The turn: poll, step, fire, commit. The path of a request through the router is `LaneTurns.turn`, read downwards.

Here inputs are decoded and outputs encoded; what is decided is the core's. An error of a turn that is not the
journal's names its culprit, and `lane_task` does the rest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import anyio
from msgspec.structs import replace

from keylane.journal.errors import JournalError, TooLarge
from keylane.journal.port import Headers, LaneSession, Record, Stored
from keylane.router.clock import LaneClock, wall_us
from keylane.router.core.lane import Lane
from keylane.router.core.records import Arrived, Forward, Gone, Halted, Now, Output
from keylane.router.core.retention import forgettable
from keylane.router.core.step import quarantine, quarantine_due, step, step_checked, step_due
from keylane.router.decisions import log_decisions
from keylane.router.lane_waits import LINK, LaneWaits
from keylane.router.meter import LaneMeter
from keylane.schemas import topics
from keylane.schemas.base import NULL
from keylane.schemas.codec import (
    Undecodable,
    decode_request,
    decode_result,
    decode_state,
    encode,
    excerpt,
    headers,
    traceparent_of,
)
from keylane.schemas.items import Checkpoint
from keylane.schemas.keys import BadKey
from keylane.schemas.state import Member, Resource, Run, StateRecord

log = logging.getLogger("keylane.router")

INPUTS = (topics.RESULTS, topics.REQUESTS)
"""In the order in which a turn applies them: a renewal before what competes with it (why.md)."""
TURN_RECORDS_MAX = 1_000
TURN_BYTES_MAX = 4 * 1024 * 1024
"""Of input values: outputs are a small multiple of it."""
FORGET_MAX = 2_000
CLOCK_COMMIT_MS = 5_000
"""While a deadline lives, the lane clock is committed at least this often (design section 4)."""
IDLE_POLL_S = 1.0
BEHIND_POLL_S = 0.05
"""While timers wait for what the log is known to hold: it comes by itself, so this is not to be a busy loop."""
SAY_S = 0.5
"""How long a turn may be held up by saying who waits for whom."""
ANSWER_POLL_S = 0.02
"""While the graph of waits may say something of a link that was just written: no input wakes it for that."""
KEY_CHARACTERS_MAX = 512
REASON_CHARACTERS_MAX = 256


class Culprit(Exception):
    """A turn failed at `what`: an input's (topic, offset), or a timer's state key. None: it is not known which.

    `at_ms` is the lane time by which what failed had come or fallen due.
    """

    def __init__(self, what: tuple[str, int] | bytes | None, reason: str, at_ms: int) -> None:
        super().__init__(reason)
        self.what = what
        self.reason = reason
        self.at_ms = at_ms


class Target(NamedTuple):
    """How far both inputs must be applied before timers that were due by `asked_ms` may fire."""

    asked_ms: int
    positions: Mapping[str, int]


def load(lane: Lane, stored: list[Stored], token_floor: int, wall_us: Callable[[], int] = wall_us) -> None:
    """Put every record of the state topic, then take over: a new claim number, tokens above any earlier one."""
    names: dict[str, str] = {}
    for each in stored:
        record = decode_state(each.value)
        if isinstance(record, Undecodable):
            raise Halted(f"lane {lane.partition}: state at offset {each.offset} cannot be read: {record.reason}")
        lane.put(kept(record, names))
    lane.changed.clear()
    lane.stirred.clear()
    lane.freed.clear()
    lane.relinked.clear()
    if lane.own.token < token_floor:  # the first load since the rules were changed (`rescope` raises the floor)
        _forget_elsewhere(lane)
    token = max(lane.own.token, token_floor, wall_us())
    lane.put(replace(lane.own, claim=lane.own.claim + 1, token=token))


def _forget_elsewhere(lane: Lane) -> None:
    """What is known of resources that other lanes decide on now. Kept, it would be believed again should they return,
    however much was done to them in between."""
    for key in [key for key in lane.resources if not _is_decided_on(lane, key)]:
        lane.put(Gone(b"resource/" + key.encode()))


def _is_decided_on(lane: Lane, key: str) -> bool:
    try:
        return lane.place(lane.owner_of(key)) == lane.partition
    except BadKey:  # the rules of now make no key of it: whatever names it is refused
        return False


def kept(record: StateRecord, names: dict[str, str]) -> StateRecord:
    """The record without what it was read from: raw JSON is a view that holds the whole of its bytes, and names repeat
    in runs and resources."""
    same = names.setdefault
    match record:
        case Run():
            return replace(
                record,
                id=same(record.id, record.id),
                resource=same(record.resource, record.resource),
                owner=same(record.owner, record.owner),
                action=same(record.action, record.action),
                actor=same(record.actor, record.actor),
                digest=same(record.digest, record.digest),
                payload=record.payload.copy(),
                result=record.result.copy(),
                checkpoint=None if record.checkpoint is None else _kept_checkpoint(record.checkpoint),
            )
        case Member(payload=payload) if payload is not NULL:
            return replace(record, payload=payload.copy())
        case Resource():
            return replace(
                record,
                key=same(record.key, record.key),
                completed_run=same(record.completed_run, record.completed_run),
                completed_action=same(record.completed_action, record.completed_action),
            )
    return record


def _kept_checkpoint(saved: Checkpoint) -> Checkpoint:
    return replace(saved, data=saved.data.copy(), evidence=saved.evidence.copy())


def decode(stored: Stored) -> Arrived:
    """Total: bad bytes decode to `Undecodable`."""
    record = (decode_result if stored.topic == topics.RESULTS else decode_request)(stored.value)
    bad = isinstance(record, Undecodable)
    return Arrived(
        record=record,
        topic=stored.topic,
        offset=stored.offset,
        traceparent=traceparent_of(stored.headers),
        key=(stored.key or b"").decode("utf-8", "replace")[:KEY_CHARACTERS_MAX] if bad else "",
        excerpt=excerpt(stored.value) if bad else "",
    )


def decode_culprit(stored: Stored, reason: str) -> Arrived:
    """As `decode`, also where that is what failed: else its record would be replayed for ever."""
    try:
        arrived = decode(stored)
    except Exception:
        arrived = Arrived(record=Undecodable(reason, None, None), topic=stored.topic, offset=stored.offset)
    return replace(arrived, excerpt=excerpt(stored.value))


class LaneTurns:
    """One lane, its session and its clock. `careful`: one record or timer a turn, so that a culprit is known."""

    def __init__(
        self,
        lane: Lane,
        session: LaneSession,
        clock: LaneClock,
        positions: dict[str, int],
        culprits: Mapping[tuple[str, int] | bytes, str],
        careful: bool,
        meter: LaneMeter,
    ) -> None:
        self.lane = lane
        self.careful = careful
        self.waits = LaneWaits(lane.partition, lane.own.claim)
        self._session = session
        self._clock = clock
        self._culprits = culprits
        self._positions = positions
        self._meter = meter
        self._unapplied: list[Stored] = []
        self._target: Target | None = None
        self._committed_ms = lane.own.clock_ms
        self._applying: tuple[str, int] | bytes | None = None
        """What the turn applied last: all that it applied, where it is careful."""
        self._took_record = False

    async def read(self) -> None:
        """Wait for input, or for the next timer. The one part of a turn that may be cut off."""
        if not self._unapplied:
            self._unapplied = await self._session.poll(TURN_RECORDS_MAX, self._patience_s())

    async def turn(self) -> None:
        """Apply what was read. Raises `Culprit`, `Halted` or a `JournalError`; the lane is to be dropped then."""
        began_s = time.perf_counter()
        try:
            heard = self._hear()
            # Careful turns take a record and what is due by turns: under load one would starve the other.
            applied = 0 if self.careful and (heard or self._took_record) else self._apply()
            self._took_record = applied > 0
            if not (self.careful and (heard or applied)):
                await self._fire()
            outputs = self._outputs() if self._worth_a_commit() else []
        except (JournalError, Halted):
            raise
        except Exception as error:
            raise self._culprit(f"{type(error).__name__}: {error}") from error
        if outputs:
            await self._commit(outputs, time.perf_counter() - began_s)
        self._meter.turned(self.lane, self._positions, self._clock.now().clock_ms)

    def _hear(self) -> int:
        """Apply what the graph of waits says of this lane's links."""
        answers = self.waits.answers(1 if self.careful else TURN_RECORDS_MAX)
        if not answers:
            return 0
        now = self._clock.now()
        for checked in answers:
            self._applying = key = LINK + checked.request.encode()
            if key in self._culprits:
                quarantine_due(self.lane, key, now, self._culprits[key])
            else:
                step_checked(self.lane, checked, now)
        return len(answers)

    def _apply(self) -> int:
        """Apply what was read, up to a bound in bytes; the rest waits for the next turn."""
        size = count = 0
        now = self._clock.now()
        for stored in self._unapplied:
            if size > TURN_BYTES_MAX or (self.careful and count):
                break
            size += len(stored.value or b"")
            count += 1
            self._applying = place = (stored.topic, stored.offset)
            if place in self._culprits:
                arrived = decode_culprit(stored, self._culprits[place])
                quarantine(self.lane, arrived, now, self._culprits[place])
            else:
                step(self.lane, decode(stored), now)
            self._positions[stored.topic] = stored.offset + 1
        del self._unapplied[:count]
        if not self._unapplied:
            # Beyond the last record too: an input may end with a marker of a stranger's transaction, and timers wait
            # until its high watermark is reached.
            self._positions.update(self._session.positions())
        return count

    async def _fire(self) -> None:
        """Fire due timers, once everything that was acknowledged before they fell due has been applied."""
        now = self._clock.now()
        due_ms = self.lane.deciding.next_ms()
        if due_ms is not None and due_ms <= now.clock_ms and self._target is None:
            # Asked for now, not taken from the last fetch, which may be older than a pause of this process.
            self._target = Target(now.clock_ms, await self._session.high_watermarks())
        target = self._target
        if target is not None and self._has_reached(target):
            self._fire_until(target.asked_ms, now)
            due_ms = self.lane.deciding.next_ms()
            if due_ms is None or due_ms > target.asked_ms:
                self._target = None  # else it holds for the rest of them: asking again would be later again
            if self.careful:
                return
        for _ in range(1 if self.careful else FORGET_MAX):
            key = forgettable(self.lane, now)
            if key is None:
                return
            self._apply_due(key, now)

    def _fire_until(self, until_ms: int, now: Now) -> None:
        lane = self.lane
        for _ in range(1 if self.careful else TURN_RECORDS_MAX):
            due_ms = lane.deciding.next_ms()
            if due_ms is None or due_ms > until_ms:
                return
            self._apply_due(lane.deciding.first(), now)

    def _apply_due(self, key: bytes, now: Now) -> None:
        self._applying = key
        if key in self._culprits:
            quarantine_due(self.lane, key, now, self._culprits[key])
        else:
            step_due(self.lane, key, now)

    def is_clear(self, failed_ms: int) -> bool:
        """Careful turns may end: what was read has been applied and written, and so has every timer that was due
        when a turn failed. A lane resumes at an earlier time than that, and newer timers do not count. What is said
        of its links comes anew in each life."""
        due_ms, now_ms = self.lane.deciding.next_ms(), self._clock.now().clock_ms
        is_due = now_ms < failed_ms or (due_ms is not None and due_ms <= failed_ms)
        is_written = not (self._unapplied or self.lane.outputs or self.lane.changed)
        return is_written and not is_due and not self.waits.is_waiting(now_ms)

    def _culprit(self, reason: str) -> Culprit:
        return Culprit(self._applying, reason[:REASON_CHARACTERS_MAX], self._clock.now().clock_ms)

    def _has_reached(self, target: Target) -> bool:
        return all(self._positions.get(topic, 0) >= end for topic, end in target.positions.items())

    def _patience_s(self) -> float:
        """How long an empty poll may take: until the next timer, and no longer than keeps the lane attentive."""
        if self._target is not None:
            return BEHIND_POLL_S if not self._has_reached(self._target) else 0.0
        now_ms = self._clock.now().clock_ms
        due_ms = self.lane.deciding.next_ms()
        most_s = ANSWER_POLL_S if self.waits.is_waiting(now_ms) else IDLE_POLL_S
        return most_s if due_ms is None else min(max(due_ms - now_ms, 0) / 1_000, most_s)

    def _worth_a_commit(self) -> bool:
        """At once for whatever somebody waits for. Heartbeats alone can be applied again, so they are gathered."""
        lane = self.lane
        if lane.outputs or lane.forwards or (self.careful and lane.changed) or self.waits.is_urgent(lane):
            return True
        since_ms = self._clock.now().clock_ms - self._committed_ms
        if lane.changed:
            return since_ms >= min(lane.policy.session_lapse_ms // 3, CLOCK_COMMIT_MS)
        # Also what changed nothing was read: retention may take it before the lane has anything else to write.
        is_behind = len(lane.deciding) > 0 or self._positions != lane.own.positions
        return is_behind and since_ms >= CLOCK_COMMIT_MS

    def _outputs(self) -> list[Record]:
        """The turn's records, encoded. The lane's own record is always among them: it carries the positions."""
        lane, now = self.lane, self._clock.now()
        lane.put(replace(lane.own, positions=dict(self._positions), clock_ms=now.clock_ms))
        source = f"/keylane/lanes/{lane.partition}"
        records = [self._encoded(output, source, now.time) for output in lane.outputs]
        for key, record in lane.changed.items():
            value = None if record is None else encode(record)
            records.append(Record(topics.STATE, lane.partition, key, value))
        return records

    def _encoded(self, output: Output, source: str, time: str) -> Record:
        carried = headers(output.record, id=output.id, source=source, time=time, traceparent=output.traceparent)
        return Record(output.topic, self.lane.partition, output.key.encode(), encode(output.record), carried)

    def _forwarded(self, forward: Forward) -> Record:
        """A command on its way to its own partition, with the trace that it came with."""
        trace = forward.traceparent
        carried: Headers = () if trace is None else (("traceparent", trace.encode()),)
        return Record(topics.REQUESTS, forward.partition, forward.key.encode(), encode(forward.record), carried)

    async def _commit(self, records: list[Record], turn_s: float) -> None:
        lane = self.lane
        began_s = time.perf_counter()
        try:
            if lane.forwards:
                # Plain and acknowledged before the commit: after a crash between the two it is sent on again, and
                # its id makes the second one a repeat. In the transaction, a dead router would hide it (why.md).
                await self._session.append([self._forwarded(forward) for forward in lane.forwards])
            await self._session.commit(records)
        except TooLarge as error:
            raise self._culprit(f"TooLarge: {error}") from error
        self._meter.committed(lane.outputs, turn_s, time.perf_counter() - began_s)
        log_decisions(lane.partition, lane.outputs)
        await self._say_waits()
        lane.outputs.clear()
        lane.forwards.clear()
        lane.changed.clear()
        self._committed_ms = lane.own.clock_ms

    async def _say_waits(self) -> None:
        """What the commit has changed of the lane's links. Written plainly: that it is said late, twice, or by a lane
        that is lost meanwhile does no harm. Trouble there is no reason to drop the lane, nor to hold it up for long:
        all lanes of all routers write to that one partition."""
        news = self.waits.news(self.lane, self._clock.now().clock_ms)
        if not news:
            return
        why = f"not within {SAY_S:g} s"
        with anyio.move_on_after(SAY_S):
            try:
                await self._session.append(news)
                self.waits.said(self._clock.now().clock_ms)
                return
            except JournalError as error:
                why = str(error)
        log.warning("lane %d cannot say who waits, so that deadlocks are not seen: %s", self.lane.partition, why)
        self.waits.failed(self._clock.now().clock_ms)
