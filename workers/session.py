"""One worker session in one partition, as a machine without I/O: inputs with the time they came, outputs as values.

It owns the numbering, the read counter, the heartbeats and the deadlines (design section 4, workers and leases).
Nothing here awaits, reads a clock, draws an id or calls a handler: that is the process's.

Every input first looks at the clock, so after a stop or a suspend what is over is given up before anything else.
"""

from __future__ import annotations

from typing import NamedTuple

from keylane.schemas.items import ItemRecord, Notice, SessionClosed, SessionOpened, WorkItem
from keylane.schemas.results import (
    Completed,
    Failed,
    Progress,
    Result,
    WorkerHeartbeat,
    WorkerJoined,
    WorkerLeft,
)
from keylane.workers.lease import Held, usable_ms

HEARTBEAT_MS_MAX = 3_000
JOIN_AGAIN_MS_MAX = 60_000
LAPSE_MS = 10_000
"""Assumed until `SessionOpened` says the real one."""
BEATS_KEPT = 256


class Publish(NamedTuple):
    """Append `record` to the session's partition of `results`: ask `sending` before each try, tell `acknowledged`."""

    serial: int
    """Names it within its session, over repeated tries."""
    record: Result
    key: str
    traceparent: str | None = None


class Start(NamedTuple):
    """Call the handler for this item."""

    item: WorkItem
    traceparent: str | None


class Cancel(NamedTuple):
    """Stop the handler of this item. Unless the lane asked for it (`stop`), whatever it returns is discarded."""

    token: int
    reason: str


class Warn(NamedTuple):
    """Tell the person who runs this worker."""

    token: int
    message: str


class Over(NamedTuple):
    """The session is no more. `rejoin`: it did not end by its own will, so the partition wants a new one."""

    rejoin: bool
    reason: str


Output = Publish | Start | Cancel | Warn | Over


class Session:
    """A session from its join on. Call `join` first; after `Over` it answers nothing any more.

    All `now_ms` are milliseconds of one clock that counts suspend.
    """

    def __init__(self, id: str, *, pool: str, name: str, actions: tuple[str, ...], generation: int, slots: int) -> None:
        self.id = id
        self.slots = slots
        self.draining = False
        self.over = False
        self.held: dict[int, Held] = {}
        self._joined = WorkerJoined(
            session=id, pool=pool, name=name, actions=actions, slots=slots, generation=generation
        )
        self._pool = pool
        self._serial = 0
        self._lapse_ms = LAPSE_MS
        self._alive_ms = 0  # when that was sent from which the session's own lease counts
        self._read: int | None = None  # None until opened
        self._join_again_ms = 0
        self._join_gap_ms = HEARTBEAT_MS_MAX
        self._beat = 0
        self._beat_due_ms = 0
        self._beat_waits = False
        self._beats: dict[int, int] = {}  # when each heartbeat was sent; 0 is the join
        self._sent: dict[int, int] = {}  # when each renewal was last sent, by serial
        self._left_ms = 0

    @property
    def is_open(self) -> bool:
        """Whether the lane has answered its join: items can come."""
        return self._read is not None

    def join(self, now_ms: int) -> Publish:
        """Begin. The join is sent again, ever more rarely, until the lane answers: it is idempotent."""
        self._join_again_ms = now_ms + self._join_gap_ms
        self._join_gap_ms = min(self._join_gap_ms * 2, JOIN_AGAIN_MS_MAX)
        return self._publish(self._joined, "")

    def tick(self, now_ms: int) -> list[Output]:
        """What is due: leases that ended, a join or heartbeat to send, a warning. Idempotent at one time."""
        if self.over:
            return []
        if self.held and now_ms >= self._lapses_ms():
            return self._give_up("no heartbeat was acknowledged in time", now_ms)
        outputs: list[Output] = []
        for token, held in list(self.held.items()):
            if now_ms >= held.ends_ms():
                del self.held[token]
                outputs.append(Cancel(token, "its lease was not renewed in time"))
            elif (warn_ms := held.warn_ms()) is not None and now_ms >= warn_ms:
                held.warned = True
                outputs.append(Warn(token, _silence(held, now_ms)))
        if self.draining and not self.held:
            return [*outputs, *self._leave("drained", now_ms)]
        if self._read is None:
            if now_ms >= self._join_again_ms:
                outputs.append(self.join(now_ms))
        elif now_ms >= self._beat_due_ms and not self._beat_waits:
            outputs.append(self._heartbeat(now_ms))
        return outputs

    def next_due_ms(self) -> int | None:
        """When `tick` has something to do if nothing else happens; None after `Over`."""
        if self.over:
            return None
        due = [self._join_again_ms if self._read is None else self._beat_due_ms]
        if self._beat_waits:
            due.clear()
        if self.held:
            due.append(self._lapses_ms())
        for held in self.held.values():
            due.append(held.ends_ms())
            if (warn_ms := held.warn_ms()) is not None:
                due.append(warn_ms)
        return min(due) if due else None

    def received(self, record: ItemRecord, traceparent: str | None, now_ms: int) -> list[Output]:
        """A record of the pool's topic in this partition. Those to other sessions are ignored."""
        outputs = self.tick(now_ms)
        if self.over or record.session != self.id:
            return outputs
        if isinstance(record, SessionClosed):
            # The lane does not know it (any more), so there is nothing to leave.
            return [*outputs, *self._cancel_all(record.reason), self._end(not self.draining, record.reason)]
        if isinstance(record, SessionOpened) and self._read is None:
            self._read = record.number
            self._lapse_ms = record.lapse_ms
            self._alive_ms = self._beats.get(0, now_ms)
            self._beat_due_ms = now_ms
            return [*outputs, *self.tick(now_ms)]
        if self._read is None or record.number != self._read + 1:
            return [*outputs, *self._give_up(f"read item record {record.number} after {self._read}", now_ms)]
        self._read = record.number
        match record:
            case WorkItem():
                outputs += self._granted(record, traceparent, now_ms)
            case Notice():
                outputs += self._noticed(record, now_ms)
            case SessionOpened():
                pass  # the answer to a join that was sent again
        return outputs

    def sending(self, publish: Publish, now_ms: int) -> bool:
        """Whether to send it now; called right before each try. False: drop it for good."""
        record = publish.record
        match record:
            case WorkerJoined():
                self._beats.setdefault(0, now_ms)  # the lane may have applied the first of them
                return not self.over and self._read is None
            case WorkerHeartbeat():
                # Sent once: whether a failed try was applied is unknown, so the next one has its own number.
                self._beat_waits = not self.over and record.number not in self._beats
                if self._beat_waits:
                    self._beats[record.number] = now_ms
                    if len(self._beats) > BEATS_KEPT:
                        del self._beats[min(self._beats)]
                return self._beat_waits
            case WorkerLeft():
                return now_ms < self._left_ms + self._lapse_ms  # by then the lane has noticed by itself
            case Progress() | Completed() | Failed():
                if self.remaining_ms(record.token, now_ms) <= 0:
                    self._sent.pop(publish.serial, None)
                    return False
                self._sent[publish.serial] = now_ms
                return True

    def acknowledged(self, publish: Publish, now_ms: int) -> list[Output]:
        """The journal has it. Only what was acknowledged before the old deadline renews, from when it was sent."""
        outputs = self.tick(now_ms)
        record = publish.record
        if self.over:
            return outputs
        if isinstance(record, WorkerHeartbeat):
            self._beat_waits = False
            if now_ms < self._lapses_ms():
                self._alive_ms = max(self._alive_ms, self._beats.get(record.number, 0))
        elif isinstance(record, Progress | Completed | Failed):
            sent_ms = self._sent.pop(publish.serial, 0)
            held = self.held.get(record.token)
            if held is None:
                return outputs
            if not isinstance(record, Progress):
                del self.held[record.token]
                return [*outputs, *self.tick(now_ms)]
            held.blocked = record.blocked is not None
            if not held.blocked:
                held.renewed_ms = max(held.renewed_ms, sent_ms)
                held.warned = False
        return outputs

    def refused(self, publish: Publish) -> None:
        """The journal will never take it. A report that is lost in this way leaves its item to its lease."""
        self._sent.pop(publish.serial, None)

    def report(self, report: Progress | Completed | Failed, now_ms: int) -> list[Output]:
        """A handler's word on its item. It is not published when the item is not held any more."""
        outputs = self.tick(now_ms)
        held = self.held.get(report.token)
        if held is None:
            return outputs
        if not isinstance(report, Progress):
            held.reporting = True
        return [*outputs, self._publish(report, held.item.owner, held.traceparent)]

    def remaining_ms(self, token: int, now_ms: int) -> int:
        """How long the item is still held; 0 or less when it is not. Safe to call from any thread."""
        held = self.held.get(token)
        return 0 if held is None else min(self._lapses_ms(), held.ends_ms()) - now_ms

    def drain(self, now_ms: int) -> list[Output]:
        """Take nothing more; finish what is held, then leave."""
        self.slots = 0
        self.draining = True
        outputs = self.tick(now_ms)
        if self.over:
            return outputs
        return [*outputs, self._heartbeat(now_ms)] if self._read is not None else outputs

    def leave(self, now_ms: int) -> list[Output]:
        """End at once: whatever runs is cancelled, and the lane gives it to others."""
        return [] if self.over else self._leave("the worker stops", now_ms)

    def lose(self, reason: str, now_ms: int) -> list[Output]:
        """Records to this session may have been missed: let everything go and join anew."""
        return [] if self.over else self._give_up(reason, now_ms)

    def _granted(self, item: WorkItem, traceparent: str | None, now_ms: int) -> list[Output]:
        sent_ms = self._beats.get(item.heartbeat)
        if sent_ms is None:
            return self._give_up("an item names a heartbeat that is not remembered", now_ms)
        # The lane says that it applied this one while the session lived, whatever our own clock made of it.
        self._alive_ms = max(self._alive_ms, sent_ms)
        self._beats = {number: at for number, at in self._beats.items() if number >= item.heartbeat}
        if now_ms >= self._lapses_ms():
            return self._give_up("an item names a heartbeat from too long ago", now_ms)
        held = Held(item, traceparent, granted_ms=sent_ms, renewed_ms=sent_ms)
        if now_ms >= held.ends_ms():
            # Left at once, so that the lane grants it again: kept in silence, it would stay held by nobody until
            # the lane ends its lease. It was never reported read, so no attempt is spent.
            return self._give_up("an item came after its lease had ended", now_ms)
        self.held[item.token] = held
        return [Start(item, traceparent)]

    def _noticed(self, notice: Notice, now_ms: int) -> list[Output]:
        held = self.held.get(notice.token)
        if held is None:
            return []
        if notice.kind == "changed":
            return [Warn(notice.token, f"the resource was changed outside: {notice.reason}")]
        if notice.kind == "lost":
            del self.held[notice.token]
            return [Cancel(notice.token, f"the lane took it back: {notice.reason}"), *self.tick(now_ms)]
        held.stop = notice.reason
        return [] if held.reporting else [Cancel(notice.token, f"asked to stop: {notice.reason}")]

    def _lapses_ms(self) -> int:
        return self._alive_ms + usable_ms(self._lapse_ms)

    def _heartbeat(self, now_ms: int) -> Publish:
        # On one grid for all sessions of the process, so that one append carries all their heartbeats.
        gap_ms = max(1, min(HEARTBEAT_MS_MAX, self._lapse_ms // 4))
        self._beat_due_ms = (now_ms // gap_ms + 1) * gap_ms
        self._beat += 1
        self._beat_waits = True
        beat = WorkerHeartbeat(
            session=self.id, pool=self._pool, number=self._beat, slots=self.slots, read=self._read or 0
        )
        return self._publish(beat, "")

    def _give_up(self, reason: str, now_ms: int) -> list[Output]:
        """Over against its will. A session that drains has a successor, or needs none."""
        return self._leave(reason, now_ms, rejoin=not self.draining)

    def _leave(self, reason: str, now_ms: int, *, rejoin: bool = False) -> list[Output]:
        self._left_ms = now_ms
        left = self._publish(WorkerLeft(session=self.id, pool=self._pool), "")
        return [*self._cancel_all(reason), left, self._end(rejoin, reason)]

    def _cancel_all(self, reason: str) -> list[Output]:
        tokens = list(self.held)
        self.held.clear()
        return [Cancel(token, reason) for token in tokens]

    def _end(self, rejoin: bool, reason: str) -> Over:
        self.over = True
        return Over(rejoin, reason)

    def _publish(self, record: Result, owner: str, traceparent: str | None = None) -> Publish:
        self._serial += 1
        return Publish(self._serial, record, owner or self.id, traceparent)


def _silence(held: Held, now_ms: int) -> str:
    left_s = (held.ends_ms() - now_ms) / 1000
    why = "is blocked" if held.blocked else "has not called item.progress()"
    return f"its handler {why}: it loses its lease in {left_s:.0f} s"
