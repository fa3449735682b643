"""What the demo plays on: real processes, a journal, and the record against which each claim is checked.

No story here (that is `demo`), and nothing that the story would need to be true: what is claimed is read from
the topics `events` and `conflicts` as anybody could read them.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import anyio
import msgspec
from anyio.abc import Process, TaskStatus

from keylane.cli_answers import Claim, Said, Scene
from keylane.cli_context import ClaimBroken
from keylane.journal.port import Journal, Place
from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_conflict, decode_event
from keylane.schemas.conflicts import ConflictArtifact
from keylane.schemas.events import (
    AnyEvent,
    Ended,
    Fenced,
    Granted,
    Lost,
    Progressed,
    Refused,
    WorkerClosed,
    WorkerOpened,
)

T = TypeVar("T")
E = TypeVar("E", Ended, Fenced, Granted, Lost, Progressed, Refused)

SEEN_S = 30.0
"""How long a claim waits for its event: a Kafka group needs up to 10 s to miss a killed member."""
OUTCOME_S = 30.0
"""How long a request may take to end."""
STOPPED_S = 5.0
POLL_S = 0.5
LOG_LINES_SHOWN = 15


class Recording:
    """Everything that lanes have put on record since the demo began, in order within a lane."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []
        self.conflicts: list[ConflictArtifact] = []
        self.sessions: dict[str, tuple[int, str]] = {}
        """The live worker sessions: their lane, and the worker's name."""
        self._grown = anyio.Event()

    async def follow(self, journal: Journal, *, task_status: TaskStatus[None]) -> None:
        """Record from now on, until cancelled."""
        places = []
        for topic in (topics.EVENTS, topics.CONFLICTS):
            partitions = await journal.partitions(topic)
            places += [Place(topic, partition) for partition in range(partitions or 0)]
        reader = await journal.reader(await journal.end_positions(places))
        task_status.started()
        try:
            while True:
                for stored in await reader.poll(500, POLL_S):
                    self._take(stored.topic, stored.partition, stored.value)
                self._grown.set()
                self._grown = anyio.Event()
        finally:
            with anyio.CancelScope(shield=True):
                await reader.close()

    def _take(self, topic: str, partition: int, value: bytes | None) -> None:
        if topic == topics.CONFLICTS:
            conflict = decode_conflict(value)
            if isinstance(conflict, ConflictArtifact):
                self.conflicts.append(conflict)
            return
        event = decode_event(value)
        match event:
            case Undecodable():
                return
            case WorkerOpened():
                self.sessions[event.session] = (partition, event.name)
            case WorkerClosed():
                self.sessions.pop(event.session, None)
        self.events.append(event)

    def of(self, kind: type[E], resource: str) -> list[E]:
        """The events of one kind on one resource, in order."""
        return [event for event in self.events if isinstance(event, kind) and event.resource == resource]

    def artifacts(self, kind: str, resource: str) -> list[ConflictArtifact]:
        """The conflict artifacts of one kind on one resource, in order."""
        return [each for each in self.conflicts if each.resource == resource and each.kind == kind]

    async def until(self, what: str, found: Callable[[], T | None]) -> T:
        """What `found` finds, as soon as it does. Raises `ClaimBroken` when nothing like it comes."""
        with anyio.move_on_after(SEEN_S):
            while (thing := found()) is None:
                await self._grown.wait()
            return thing
        raise ClaimBroken(f"not on record within {SEEN_S:.0f} s: {what}")


def first(found: Sequence[T]) -> T | None:
    """The first, once it is there."""
    return found[0] if found else None


def two(found: Sequence[T]) -> Sequence[T] | None:
    """The first two, once both are there."""
    return found[:2] if len(found) >= 2 else None


class Stage:
    """The processes of one telling, and how it is told."""

    def __init__(self, directory: Path, record: Recording, show: Callable[[msgspec.Struct], None]) -> None:
        self.directory = directory
        self.record = record
        self.workers: dict[str, Process] = {}
        self.claims = 0
        self.show = show
        self._scenes = 0

    def scene(self, title: str) -> None:
        """A new part of the story."""
        self._scenes += 1
        self.show(Scene(number=self._scenes, title=title))

    def say(self, text: str) -> None:
        """What happens now."""
        self.show(Said(text=text))

    def claim(self, text: str, holds: bool) -> None:
        """State what the record shows. Raises `ClaimBroken` when it does not."""
        self.show(Claim(text=text, holds=holds))
        if not holds:
            raise ClaimBroken(text)
        self.claims += 1

    def signal(self, worker: str, number: signal.Signals) -> None:
        """Send a signal to one of the worker processes."""
        self.workers[worker].send_signal(number)


@asynccontextmanager
async def process(
    directory: Path, name: str, environ: Mapping[str, str], *arguments: str, listened_to: bool = False
) -> AsyncIterator[Process]:
    """A process of our own interpreter in `directory`, told to stop at the end, and killed if it does not."""
    with (directory / f"{name}.log").open("wb") as log:
        started = await anyio.open_process(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if listened_to else log,
            stderr=log,
            cwd=directory,
            env=environ,
        )
        try:
            yield started
        finally:
            with anyio.CancelScope(shield=True):
                await _end(started)


async def _end(started: Process) -> None:
    if started.returncode is None:
        started.send_signal(signal.SIGCONT)
        started.terminate()
        with anyio.move_on_after(STOPPED_S):
            await started.wait()
    if started.returncode is None:
        started.kill()
        await started.wait()
    await started.aclose()


async def router_ready(router: Process) -> None:
    """Wait until `keylane up` or `keylane router` says that it serves. Raises `ClaimBroken` when it does not."""
    assert router.stdout is not None
    said = b""
    with anyio.move_on_after(SEEN_S):
        while not said.endswith(b"\n"):
            try:
                said += await router.stdout.receive()
            except anyio.EndOfStream:
                raise ClaimBroken("the router starts") from None
        return
    raise ClaimBroken(f"the router serves within {SEEN_S:.0f} s")


async def start_workers(
    stage: Stage, stack: AsyncExitStack, names: list[str], environ: Mapping[str, str], partitions: int
) -> None:
    """Start them all, and wait until every lane has exactly one of their sessions and each has some."""
    for name in names:
        stage.workers[name] = await stack.enter_async_context(
            process(stage.directory, name, environ, "keylane.demo_worker", name)
        )

    def settled() -> bool | None:
        lanes = [lane for lane, name in stage.record.sessions.values() if name in names]
        shared = {name for _, name in stage.record.sessions.values()} >= set(names)
        return (sorted(lanes) == list(range(partitions)) and shared) or None

    await stage.record.until("each worker serves its share of the lanes", settled)


def log_tails(directory: Path) -> list[str]:
    """The last lines that the processes wrote, to say why a claim did not hold."""
    return [
        f"{log.stem}: {text}"
        for log in sorted(directory.glob("*.log"))
        for text in log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
    ]


def environ_of(outer: Mapping[str, str], url: str) -> dict[str, str]:
    """The environment of the processes: ours without what configures keylane, which their own folder does, but for what
    lets them in at a Kafka."""
    kept = {
        name: value
        for name, value in outer.items()
        if name.startswith("KEYLANE_KAFKA_") or not name.startswith("KEYLANE_")
    }
    return {**kept, "KEYLANE_URL": url}
