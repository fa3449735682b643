"""What goes into a step and what comes out of it, beside the records of `keylane.schemas`. Plain values only."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from keylane.schemas.base import Schema
from keylane.schemas.codec import Undecodable
from keylane.schemas.event_parts import Party
from keylane.schemas.refusals import Code
from keylane.schemas.requests import Request
from keylane.schemas.results import Result
from keylane.schemas.state import Run


class Now(NamedTuple):
    """The time, as an argument. `clock_ms` orders and decides; `time` (RFC 3339) is written down for people."""

    clock_ms: int
    time: str


# Structs of msgspec where there is one or more a request: they are made in a quarter of a named tuple's time.
class Arrived(Struct, frozen=True, gc=False):
    """One record read from an input, decoded, with its place and what its sender asked to have carried along."""

    record: Request | Result | Undecodable
    topic: str = ""
    offset: int = 0
    traceparent: str | None = None
    key: str = ""
    excerpt: str = ""
    digest: str = ""
    """Of the whole request and of its payload alone; computed once it has passed the first rule."""
    payload_digest: str = ""
    owner: str = ""
    """The owning key of the resource that a command names."""

    @property
    def place(self) -> str:
        """Where it lies on the lane's partition, as events name it."""
        return f"{self.topic}/{self.offset}"


class Grounds(NamedTuple):
    """Why something is refused: a value, so that rules can be asked in order and say nothing themselves."""

    code: Code
    message: str
    retry_after_ms: int | None = None
    holder: Run | None = None
    position: int | None = None
    expected_version: str | None = None
    known_version: str | None = None
    parties: tuple[Party, ...] = ()
    action: str = ""
    """Where the command names none itself."""
    cycle: tuple[str, ...] = ()
    waits_position: int | None = None
    """With `cycle`: where in `waits` it was closed."""


class Due(NamedTuple):
    """A run's timer has fired."""

    run: str


class WaitChecked(NamedTuple):
    """The lane's own wait edge came back from `waits`, with the cycle that it closes, if any."""

    request: str
    holder: str = ""
    """The session that the edge names as the holder: of another one than holds it now it says nothing."""
    position: int = 0
    """Its offset in `waits`."""
    cycle: tuple[str, ...] = ()
    """Session, resource, session, resource, …: its own session first."""


class Gone(NamedTuple):
    """Put in place of a record, it forgets the one under this key."""

    key: bytes


class Output(Struct, frozen=True, gc=False):
    """A record to be published on the lane's own partition. `id` with the lane names it once and for all."""

    topic: str
    key: str
    record: Schema
    id: str
    traceparent: str | None


class Forward(NamedTuple):
    """A command that came to the wrong partition: to be published plainly there before the turn commits."""

    partition: int
    key: str
    record: Request
    traceparent: str | None


class Halted(Exception):
    """The lane must not go on: an operator has to look. Never caught by poison isolation."""
