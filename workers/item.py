"""What a handler sees: the item it works on, and the ways to end it other than by returning a value.

No journal, clock or session here: an item reaches them through `Holding`, so that a handler can be tested alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from keylane.schemas import items
from keylane.schemas.base import NULL

P = TypeVar("P")
Json = Any
"""Whatever JSON can say, and structs and dataclasses that msgspec can encode as JSON."""

VERSION_CHARACTERS_MAX = 256
"""Longer ones are no versions: the lane would not remember them."""
TEXT_CHARACTERS_MAX = 1_000
"""What a handler writes for people (reasons, questions, errors) is cut to this."""
QUESTIONS_MAX = 32


class Fail(Exception):
    """Raise it to end the run for good: trying again would not help. The requesters get the message."""


class Retry(Exception):
    """Raise it to fail this attempt and have the next one after `after_s` seconds, if the policy has one left.

    None: after the policy's own backoff.
    """

    def __init__(self, after_s: float | None = None, message: str = "") -> None:
        if not message:
            message = "to be tried again" if after_s is None else f"to be tried again after {after_s:g} s"
        super().__init__(message)
        self.after_s = after_s


class StaleVersion(Exception):
    """Raised by `Item.expect`: the resource is not what the requester decided on."""

    def __init__(self, expected: str, actual: object) -> None:
        super().__init__(f"expected version {expected}, but it is {actual}")
        self.actual_version = actual if isinstance(actual, str) and len(actual) <= VERSION_CHARACTERS_MAX else None


class Done(msgspec.Struct, frozen=True):
    """An action that is done and verified. Made by `Item.done`."""

    result: Json = None
    version: str | None = None
    observed_version: str | None = None


class Checkpoint(msgspec.Struct, frozen=True):
    """What the attempt before saved with `Item.progress`. Written by agents: look before you trust it.

    `msgspec.convert(checkpoint.data, SomeStruct)` gives it a type.
    """

    data: Json
    evidence: Json
    open_questions: tuple[str, ...]


class Saved(msgspec.Struct, frozen=True):
    """What one call of `Item.progress` says, encoded and cut to size."""

    checkpoint: msgspec.Raw = NULL
    evidence: msgspec.Raw = NULL
    open_questions: tuple[str, ...] = ()
    blocked: str | None = None


class Holding(Protocol):
    """What an item needs of whoever holds it."""

    async def progress(self, saved: Saved) -> None:
        """Publish it; return when the journal has acknowledged it. Raises LeaseLost."""
        ...

    def check(self) -> None:
        """Raise LeaseLost when the item is not held any more, or is to stop. Any thread may call it."""
        ...


class Item(Generic[P]):
    """A grant: `resource` is yours until the lease ends. Give `token` to every target that can check it.

    Only `progress` renews the lease: that the worker process is alive does not. A handler that says nothing for
    the action's lease (300 s unless configured) loses the item, and another attempt begins elsewhere.
    """

    def __init__(
        self,
        record: items.WorkItem,
        payload: P,
        merged: Sequence[P],
        holding: Holding,
        traceparent: str | None = None,
    ) -> None:
        self.run = record.run
        self.resource = record.resource
        self.action = record.action
        self.payload = payload
        self.merged = merged
        """Distinct payloads of equal requests that were merged into this run, oldest first."""
        self.requests = record.requests
        self.actor = record.actor
        self.token = record.token
        """Grows with every grant: a target that remembers the highest it has seen can refuse older ones."""
        self.attempt = record.attempt
        self.version = record.expected_version
        """The version that the requester decided on, if it named one. See `expect`."""
        self.checkpoint = None if record.checkpoint is None else decoded(record.checkpoint)
        self.previous_end = record.previous_end
        """How the attempt before ended, where there was one."""
        self.traceparent = traceparent
        """The trace that the request belongs to (W3C Trace Context)."""
        self._holding = holding

    async def progress(
        self,
        checkpoint: Json = None,
        *,
        evidence: Json = None,
        open_questions: Sequence[str] = (),
        blocked: str | None = None,
    ) -> None:
        """Renew the lease, and save what the next attempt should know. Returns when the journal has it.

        A checkpoint replaces the last one, its evidence and its questions too; what comes without a checkpoint is added
        to the last one. With `blocked`, a reason, the lease is *not* renewed, until a call without it. From a thread:
        `anyio.from_thread.run(item.progress, checkpoint)`.
        Raises LeaseLost, and TooLarge when the journal does not take that much.
        """
        saved = Saved(
            NULL if checkpoint is None else raw(checkpoint),
            NULL if evidence is None else raw(evidence),
            tuple(cut(question) for question in open_questions[:QUESTIONS_MAX]),
            None if blocked is None else cut(blocked),
        )
        await self._holding.progress(saved)

    def check(self) -> None:
        """Raise LeaseLost when the item is not held any more: for handlers in threads, before each effect."""
        self._holding.check()

    def expect(self, actual_version: str) -> None:
        """End the run as `STALE_VERSION` when the requester decided on another version than this."""
        if self.version is not None and actual_version != self.version:
            raise StaleVersion(self.version, actual_version)

    def done(self, result: Json = None, *, version: str | None = None, observed_version: str | None = None) -> Done:
        """What to return when there is more to say than a result: the version that the action made, and the one
        that was seen when looking afterwards."""
        return Done(result, version, observed_version)


def raw(value: Json) -> msgspec.Raw:
    """As JSON, to be carried untouched. Raises TypeError for what JSON cannot say."""
    return msgspec.Raw(msgspec.json.encode(value))


def cut(text: str) -> str:
    """Text for people, written by agents, at most TEXT_CHARACTERS_MAX long, and such that it can be encoded: what
    names a file can hold halves of surrogate pairs."""
    text = text if len(text) <= TEXT_CHARACTERS_MAX else text[: TEXT_CHARACTERS_MAX - 1] + "…"
    return text.encode(errors="replace").decode()


def decoded(saved: items.Checkpoint) -> Checkpoint:
    """A checkpoint as handlers see it."""
    decode: Callable[[msgspec.Raw], Json] = msgspec.json.decode
    return Checkpoint(decode(saved.data), decode(saved.evidence), saved.open_questions)
