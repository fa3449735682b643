"""What commands answer, beyond the structs of the client. Values only: `render` prints, `cli_exits` grades them."""

from __future__ import annotations

from typing import Literal

import msgspec


class CancelAnswered(msgspec.Struct, frozen=True, kw_only=True):
    """`withdrawn`: the request is over. `stop_asked`: its holder was asked to stop, and may finish all the same."""

    request_id: str
    resource: str
    answer: Literal["withdrawn", "stop_asked"]


class LockAcquired(msgspec.Struct, frozen=True, kw_only=True):
    """`resource` is held by `session` under the fencing token `token`. Its lease ends at `expires`, unless renewed."""

    resource: str
    run: str
    token: int
    session: str
    expires: str


class LockRenewed(msgspec.Struct, frozen=True, kw_only=True):
    """The lease of a lock runs anew, until `expires`; while it is `blocked` nothing renews it."""

    resource: str
    run: str
    token: int
    session: str
    expires: str
    blocked: str | None = None


class LockReleased(msgspec.Struct, frozen=True, kw_only=True):
    """A lock was given back; or withdrawn, where it was waited for and `token` is None."""

    resource: str
    run: str
    token: int | None
    session: str


class SessionOver(msgspec.Struct, frozen=True, kw_only=True):
    """An agent's session was ended. `runs`: the locks that it held or waited for until then."""

    session: str
    runs: tuple[str, ...]


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """A router owns lanes of the journal at `url` and turns them."""

    url: str
    pid: int
    metrics: str | None = None
    """Where metrics are served, if they are; health is beside them, at /healthz and /readyz."""


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """A router let its lanes go and stopped, told by `signal`."""

    url: str
    signal: str


class Ingested(msgspec.Struct, frozen=True, kw_only=True):
    """How an ingestion went: what was `published`, `requests` and `changes` made outside. `outcomes` of requests by
    status, `coalesced`, and `effects` of changes are known only when it was waited for."""

    source: str
    lines: int
    published: int
    requests: int
    changes: int
    unmapped: int
    malformed: int
    outcomes: dict[str, int] | None = None
    coalesced: int | None = None
    effects: dict[str, int] | None = None


class ReplayDone(msgspec.Struct, frozen=True, kw_only=True):
    """How a replay of several went."""

    replayed: int
    refused: int


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """A promise that was broken, and the records that show it: `topic/partition/offset`."""

    promise: int
    partition: int
    message: str
    places: tuple[str, ...]


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What `keylane verify` found. `found` counts violations by promise, of which only the first are in full;
    `undecided` says by promise what could not be decided; `open` counts what has not come to its end yet."""

    violations: tuple[Broken, ...]
    found: dict[int, int]
    undecided: dict[int, str]
    open: dict[str, int]
    records: dict[str, int]


class SettingShown(msgspec.Struct, frozen=True, kw_only=True):
    """A key of the configuration, its value, and, where asked for, what it comes from: a file, a variable, a flag, or
    `default`."""

    key: str
    value: object
    origin: str | None = None


class TopicStep(msgspec.Struct, frozen=True, kw_only=True):
    """One difference between the topics that are there and those that there should be. `create`, `pin` (the metadata)
    and `change` are what apply does; it leaves what is `kept` and `extra`, and does nothing while one is `blocked`."""

    what: Literal["create", "pin", "change", "kept", "blocked", "extra"]
    topic: str
    setting: str = ""
    found: str = ""
    wanted: str = ""
    why: str = ""


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """How much there is to do, and how much is in the way. `checked`: the exit code says so too."""

    pending: int
    blocked: int
    kept: int
    extra: int
    checked: bool = False


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """How many steps were taken; 0: all was as it should be."""

    taken: int


class RulesApplied(msgspec.Struct, frozen=True, kw_only=True):
    """How many scope rules there were and are. `changed`: they are others, or a change that was cut off is finished."""

    before: int
    rules: int
    changed: bool


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What one check of the doctor found, and what to do about it."""

    check: str
    level: Literal["ok", "warn", "fault"]
    said: str
    advice: str = ""


class Diagnosed(msgspec.Struct, frozen=True, kw_only=True):
    """How many checks ended how. `unreachable`: the only faults are that something does not answer."""

    ok: int
    warnings: int
    faults: int
    unreachable: bool


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """The demo: a new part of its story."""

    number: int
    title: str


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """The demo: what happens now."""

    text: str


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The demo: what it says that the record shows, and whether it does."""

    text: str
    holds: bool


class DemoDone(msgspec.Struct, frozen=True, kw_only=True):
    """How many claims the demo made; all of them were found in the recorded events."""

    claims: int
    seconds: float
