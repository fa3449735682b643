"""What drives a session machine by hand: a clock made of integers, and a journal that acknowledges at once or never."""

from __future__ import annotations

from typing import TypeVar

from keylane.schemas.items import ItemRecord, Notice, NoticeKind, SessionOpened, WorkItem
from keylane.schemas.results import Completed, Failed, Progress, Result, WorkerHeartbeat
from keylane.workers.session import Output, Publish, Session

LAPSE_MS = 10_000
SESSION_USABLE_MS = 9_000
LEASE_MS = 60_000
LEASE_USABLE_MS = 59_000
T0 = 1_000_000

Out = TypeVar("Out", bound=Output)
R = TypeVar("R", bound=Result)


class Bench:
    """A session and a journal that acknowledges at once, unless told otherwise."""

    def __init__(self) -> None:
        self.now_ms = T0
        self.session = Session("s1", pool="p", name="w", actions=("a",), generation=3, slots=4)
        self.outputs: list[Output] = []
        self.next_number = 1
        self.broken = False
        self.alive_ms = T0
        self.applied_beats: list[int] = []

    def take(self, outputs: list[Output]) -> list[Output]:
        """Note the outputs; send and acknowledge what is to be published."""
        self.outputs += outputs
        for output in outputs:
            if isinstance(output, Publish) and not self.broken and self.session.sending(output, self.now_ms):
                if isinstance(output.record, WorkerHeartbeat):
                    self.alive_ms = self.now_ms
                    self.applied_beats.append(output.record.number)
                self.take(self.session.acknowledged(output, self.now_ms))
        return outputs

    def open(self, lapse_ms: int = LAPSE_MS) -> Bench:
        self.take([self.session.join(self.now_ms)])
        self.tell(SessionOpened(session="s1", number=self.number(), lapse_ms=lapse_ms))
        return self

    def number(self) -> int:
        self.next_number += 1
        return self.next_number - 1

    def tell(self, record: ItemRecord) -> list[Output]:
        return self.take(self.session.received(record, None, self.now_ms))

    def item(
        self, token: int = 1, *, heartbeat: int | None = None, lease_ms: int = LEASE_MS, session: str = "s1"
    ) -> list[Output]:
        beat = self.beats()[-1].number if heartbeat is None else heartbeat
        return self.tell(work_item(self.number(), token, beat, lease_ms, session))

    def notice(self, kind: NoticeKind, token: int = 1) -> list[Output]:
        notice = Notice(session="s1", number=self.number(), kind=kind, run=f"r{token}", token=token, reason="why")
        return self.tell(notice)

    def tick_to(self, now_ms: int) -> list[Output]:
        """Step as a process would, waking when something is due; returns all the outputs."""
        before = len(self.outputs)
        while (due_ms := self.session.next_due_ms()) is not None and due_ms < now_ms:
            self.now_ms = max(self.now_ms + 1, due_ms)
            self.take(self.session.tick(self.now_ms))
        self.now_ms = now_ms
        self.take(self.session.tick(now_ms))
        return self.outputs[before:]

    def jump(self, by_ms: int) -> list[Output]:
        """The process stood still for that long, and looks at the clock."""
        self.now_ms += by_ms
        return self.take(self.session.tick(self.now_ms))

    def beats(self) -> list[WorkerHeartbeat]:
        return published(self.outputs, WorkerHeartbeat)


def work_item(number: int, token: int, heartbeat: int, lease_ms: int = LEASE_MS, session: str = "s1") -> WorkItem:
    return WorkItem(
        session=session,
        number=number,
        heartbeat=heartbeat,
        run=f"r{token}",
        resource="x://a",
        owner="x://owner",
        action="a",
        token=token,
        attempt=1,
        lease_ms=lease_ms,
    )


def of(outputs: list[Output], kind: type[Out]) -> list[Out]:
    return [output for output in outputs if isinstance(output, kind)]


def published(outputs: list[Output], kind: type[R]) -> list[R]:
    return [output.record for output in of(outputs, Publish) if isinstance(output.record, kind)]


def progress(token: int = 1, blocked: str | None = None) -> Progress:
    return Progress(session="s1", pool="p", resource="x://a", run=f"r{token}", token=token, blocked=blocked)


def completed(token: int = 1) -> Completed:
    return Completed(session="s1", pool="p", resource="x://a", run=f"r{token}", token=token)


def report(bench: Bench, record: Progress | Completed | Failed) -> list[Output]:
    return bench.take(bench.session.report(record, bench.now_ms))


def ends(outputs: list[Output]) -> list[tuple[str, ...]]:
    """The kinds of outputs that matter when something is let go, in order."""
    return [
        (type(output).__name__, type(output.record).__name__)
        if isinstance(output, Publish)
        else (type(output).__name__,)
        for output in outputs
    ]
