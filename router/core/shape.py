"""Arrival rule 1: size and shape of a command. Pure checks, no state."""

from __future__ import annotations

import hashlib

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from keylane.router.core.policy import LockPolicy, Policy
from keylane.schemas.base import NULL
from keylane.schemas.keys import BadKey, canonical_key
from keylane.schemas.refusals import Code
from keylane.schemas.requests import (
    Cancellation,
    Decision,
    LockRequest,
    Release,
    Renewal,
    Request,
    Resolution,
    ResourceChange,
    SessionEnded,
    WorkRequest,
)
from keylane.schemas.state import LOCK_ACTION

NAME_CHARACTERS_MAX = 128
ACTOR_CHARACTERS_MAX = 256
VERSION_CHARACTERS_MAX = 256
REQUIRES_MAX = 16
NOTE_CHARACTERS_MAX = 2_048
SECRET_CHARACTERS_MIN = 16
"""256 bits are 43; who wants to make do with less takes the blame, and an empty one is a mistake."""
TTL_MS_MIN = 1_000
DEADLINE_MS_MAX = 30 * 24 * 3_600_000


class Misshapen(Exception):
    """Why a command is refused before anything is looked up."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message


def checked(request: Request, policy: Policy) -> Request:
    """The command with its resource in canonical form. Raises `Misshapen`."""
    _name("id", request.id)
    if isinstance(request, SessionEnded):
        _name("session", request.session)
        _secret(request.secret)
        return request
    if isinstance(request, Resolution):
        _resolution(request)
        return request
    try:
        resource = canonical_key(request.resource)
    except BadKey as error:
        raise Misshapen("BAD_KEY", f"resource: {error}") from None
    if len(getattr(request, "actor", "")) > ACTOR_CHARACTERS_MAX:
        raise Misshapen("BAD_RECORD", f"actor: longer than {ACTOR_CHARACTERS_MAX} characters")
    _shape(request, policy)
    return request if resource == request.resource else replace(request, resource=resource)


def _shape(request: Request, policy: Policy) -> None:
    match request:
        case WorkRequest():
            _work(request, policy.bounds.run_bytes)
        case LockRequest():
            _lock(request, policy.locks)
        case Renewal() | Release():
            _name("run", request.run)
            _secret(request.secret)
        case Cancellation():
            _name("request", request.request)
        case Decision():
            _name("request", request.request)
            _decision(request)
        case ResourceChange():
            _change(request)


def _work(request: WorkRequest, run_bytes_max: int) -> None:
    _name("action", request.action)
    if request.action == LOCK_ACTION:
        raise Misshapen("BAD_RECORD", f"action: {LOCK_ACTION!r} is what locks are called, which no worker does")
    if request.deadline_ms is not None and not 0 < request.deadline_ms <= DEADLINE_MS_MAX:
        raise Misshapen("BAD_RECORD", f"deadline_ms: must be from 1 to {DEADLINE_MS_MAX}")
    if request.idempotency_key is not None:
        _name("idempotency_key", request.idempotency_key)
    if request.coalesce_key is not None:
        _name("coalesce_key", request.coalesce_key)
    if request.expected_version is not None:
        _name("expected_version", request.expected_version, VERSION_CHARACTERS_MAX)
    if len(request.requires) > REQUIRES_MAX:
        raise Misshapen("BAD_RECORD", f"requires: at most {REQUIRES_MAX} actions")
    for action in request.requires:
        _name("requires", action)
    if len(memoryview(request.payload)) > run_bytes_max:
        raise Misshapen("TOO_LARGE", f"payload: more than {run_bytes_max} bytes")


def _lock(request: LockRequest, policy: LockPolicy) -> None:
    _name("session", request.session)
    _secret(request.secret)
    if request.hold:
        _name("hold", request.hold)
    if not 0 <= request.wait_ms <= policy.wait_ms_max:
        raise Misshapen("BAD_RECORD", f"wait_ms: must be from 0 to {policy.wait_ms_max}")
    if request.ttl_ms is not None and not TTL_MS_MIN <= request.ttl_ms <= policy.max_hold_ms:
        raise Misshapen("BAD_RECORD", f"ttl_ms: must be from {TTL_MS_MIN} to {policy.max_hold_ms}")


def _secret(text: str) -> None:
    if not SECRET_CHARACTERS_MIN <= len(text) <= NAME_CHARACTERS_MAX or not text.isprintable():
        most = NAME_CHARACTERS_MAX
        raise Misshapen("BAD_RECORD", f"secret: must be {SECRET_CHARACTERS_MIN} to {most} printable characters")


def _decision(decision: Decision) -> None:
    _name("by", decision.by, ACTOR_CHARACTERS_MAX)
    if decision.version_seen:  # empty: none is known
        _name("version_seen", decision.version_seen, VERSION_CHARACTERS_MAX)
    if max(len(decision.digest or ""), len(decision.conflict)) > NAME_CHARACTERS_MAX:
        raise Misshapen("BAD_RECORD", f"digest, conflict: at most {NAME_CHARACTERS_MAX} characters")
    if len(decision.note) > NOTE_CHARACTERS_MAX:
        raise Misshapen("BAD_RECORD", f"note: at most {NOTE_CHARACTERS_MAX} characters")


def _resolution(resolution: Resolution) -> None:
    _name("by", resolution.by, ACTOR_CHARACTERS_MAX)
    _name("conflict", resolution.conflict)
    if not resolution.note or len(resolution.note) > NOTE_CHARACTERS_MAX:
        raise Misshapen("BAD_RECORD", f"note: must be 1 to {NOTE_CHARACTERS_MAX} characters")


def _change(change: ResourceChange) -> None:
    _name("by", change.by, ACTOR_CHARACTERS_MAX)
    _name("what", change.what)
    if change.version:  # empty: it is not known
        _name("version", change.version, VERSION_CHARACTERS_MAX)
    if max(len(change.source), len(change.at or "")) > NAME_CHARACTERS_MAX:
        raise Misshapen("BAD_RECORD", f"source, at: at most {NAME_CHARACTERS_MAX} characters")


def _name(field: str, text: str, most: int = NAME_CHARACTERS_MAX) -> None:
    if not text or len(text) > most or not text.isprintable():
        raise Misshapen("BAD_RECORD", f"{field}: must be 1 to {most} printable characters")


def canonical_json(value: Raw) -> bytes:
    """One spelling for equal JSON: sorted keys, no white space. Raises `Misshapen` where it nests too deeply."""
    try:
        return msgspec.json.encode(msgspec.json.decode(value), order="sorted")
    except (RecursionError, msgspec.MsgspecError) as error:
        raise Misshapen("BAD_RECORD", f"payload: {error}") from None


def digests(request: Request) -> tuple[str, str]:
    """SHA-256 of the whole command (without how it travelled) and of its payload, in canonical JSON."""
    if isinstance(request, LockRequest):
        return hashlib.sha256(msgspec.json.encode(replace(request, seen=None, hops=0))).hexdigest(), ""
    if not isinstance(request, WorkRequest):
        return hashlib.sha256(msgspec.json.encode(request)).hexdigest(), ""
    payload = canonical_json(request.payload) if request.payload is not NULL else b"null"
    plain = replace(request, payload=NULL, seen=None, hops=0)
    whole = hashlib.sha256(msgspec.json.encode(plain) + payload)
    return whole.hexdigest(), hashlib.sha256(payload).hexdigest()


def work_digest(request: WorkRequest, payload_digest: str) -> str:
    """SHA-256 of the work that is asked for: not of who asks, under which id, or for how long."""
    conditions = (request.expected_version, sorted(set(request.requires)), request.coalesce_key)
    work = (request.resource, request.action, payload_digest, *conditions)
    return hashlib.sha256(msgspec.json.encode(work)).hexdigest()
