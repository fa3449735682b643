"""What is to happen in one run, as plain values: made from a seed (`draw`), or read from a file that was shrunk.

Nothing here runs. What a scenario does not say (how long a way takes, who is first among equals) its seed decides.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct
from simulation.wire import Net

from keylane.router.core.policy import Policy
from keylane.schemas.event_parts import Verdict
from keylane.schemas.metadata import ScopeRule

Does = Literal[
    "submit", "submit_twice", "reuse_id", "cancel", "request_raw", "request_alias", "request_astray", "garbage",
    "decide", "resolve", "lock", "change", "end_session", "renew", "release", "false_report",
]  # fmt: skip
"""What an agent does. Those before `cancel` and itself go through a client; the rest is written as it is."""
What = Literal["pause", "suspend", "stall", "crash", "stop", "cut", "down", "jump", "hide", "truncate"]
"""What befalls a process or the journal: see `faults`."""


class Act(Struct, frozen=True, omit_defaults=True):
    """Something that an agent does at a time."""

    at_ms: int
    agent: int
    does: Does
    id: str
    resource: str
    action: str = "restart"
    payload: str = "0"
    reject_if_busy: bool = False
    deadline_s: float | None = None
    expected_version: str | None = None
    idempotency_key: str | None = None
    coalesce_key: str | None = None
    requires: tuple[str, ...] = ()
    version: str = "v1"
    """Of a decision: the version that was seen; of a change: the one that was made. Empty: none is known."""
    verdict: Verdict = "approve"
    digest: Literal["", "seen", "other"] = ""
    """Of a decision: whether it names the payload of the request, another one, or none."""
    what: str = "edit"
    source: str = ""
    sequence: int | None = None
    number: int = 0
    """Tells apart what one agent says twice about one request."""


class LockPlan(Struct, frozen=True, omit_defaults=True):
    """What a session of an agent does with locks from a time on: it takes them in this order, holds them, lets go.

    Without any it only ends its session.
    """

    at_ms: int
    agent: int
    id: str
    """Its requests are `<id>-0`, `<id>-1`, …"""
    session: str
    """Of several plans: what one holds another has again under the same `hold`, and either can end the session."""
    resources: tuple[str, ...]
    by: Literal["", "lock", "nested", "credential"] = ""
    """By the real client: in one `lock`, in one within another, or by credentials. Empty: in all ways, also wrong."""
    secret: str = ""
    """Not the session's own: that of somebody who only knows its id."""
    hold: str = ""
    explicit: bool = False
    wait_ms: int = 0
    ttl_ms: int | None = None
    tries: int = 1
    """How often it asks for each, with what `LOCK_HELD` says in between."""
    between_ms: int = 0
    """From one to the next."""
    hold_ms: int = 500
    claims: bool = True
    """Answers when its turn comes."""
    again: Literal["", "same", "anew", "other"] = ""
    """Asks for each twice: under the same id, another one, or the same for something else."""
    renews: Literal["", "well", "late", "blocked", "token", "secret", "resource"] = "well"
    """In time, after its lease ended, blocked, or with what is not its own."""
    ends: Literal[
        "release", "twice", "token", "secret", "cancel", "cancel_bare", "end", "end_secret", "forget", "obey"
    ] = "release"
    """How it lets go. `obey`: when it is asked to stop; until then it holds on."""
    gives_up_ms: int | None = None
    """Cancels what it then waits for; with 0 before it has asked."""
    astray: bool = False
    """Asks at a wrong partition."""


class Fault(Struct, frozen=True, omit_defaults=True):
    """Something that goes wrong at a time, and for how long."""

    at_ms: int
    what: What
    whom: str = ""
    """The process, by its role: `router0`, `worker1`, `agent0`."""
    for_ms: int = 0


class Hand(Struct, frozen=True, omit_defaults=True):
    """A worker process."""

    actions: tuple[str, ...]
    slots: int = 4
    pool: str = "default"


class Handling(Struct, frozen=True, omit_defaults=True):
    """How handlers behave: chances, each of an attempt, and times."""

    fails: float = 0.0
    fails_for_good: float = 0.0
    retries: float = 0.0
    dawdles: float = 0.0
    """Works on past its lease without a word."""
    blocked: float = 0.0
    inconsistent: float = 0.0
    mismatches: float = 0.0
    """Finds another version than the requester decided on."""
    versions: int = 1
    """How many there are that a completion can report."""
    steps_max: int = 3
    step_ms_max: int = 400


class Scenario(Struct, frozen=True, omit_defaults=True):
    """A run, whole."""

    seed: int
    character: Literal["kafka", "sqlite"]
    policy: Policy
    partitions: int = 2
    scopes: tuple[ScopeRule, ...] = ()
    routers: int = 1
    workers: tuple[Hand, ...] = ()
    agents: int = 1
    net: Net = Net()
    handling: Handling = Handling()
    skew_ppm: int = 0
    """How much faster or slower than true time a machine's clocks run at most."""
    acts: tuple[Act, ...] = ()
    locks: tuple[LockPlan, ...] = ()
    faults: tuple[Fault, ...] = ()
    chaos_ms: int = 10_000
    """When all faults end and everything is healed."""


def to_json(scenario: Scenario) -> bytes:
    """As it is kept in `found/`: readable, without what is usual."""
    return msgspec.json.format(msgspec.json.encode(_unusual(scenario)), indent=1) + b"\n"


def _unusual(value: object) -> object:
    if isinstance(value, Struct):
        fields = {field.name: (getattr(value, field.name), field) for field in msgspec.structs.fields(value)}
        return {name: _unusual(held) for name, (held, field) in fields.items() if held != _usual(field)}
    if isinstance(value, tuple | list):
        return [_unusual(each) for each in value]
    return {name: _unusual(each) for name, each in value.items()} if isinstance(value, dict) else value


def _usual(field: msgspec.structs.FieldInfo) -> object:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def from_json(text: bytes) -> Scenario:
    return msgspec.json.decode(text, type=Scenario)
