"""Deliveries from elsewhere to commands. Bytes in, a request, a change or a reason out; the CLI publishes."""

from __future__ import annotations

import hashlib

import msgspec

from keylane.github import Body, NoResource, resource_of, value_at
from keylane.github_changes import person, version_of
from keylane.schemas.keys import BadKey, canonical_key
from keylane.schemas.requests import ResourceChange, WorkRequest

PAYLOAD_BYTES_MAX = 64 * 1024
"""GitHub sends up to 25 MB. Larger bodies stay out of the request: its worker reads the resource itself."""

SOURCE = "github"
"""Whose sequence the times of deliveries are: of one resource, an older one that comes late is not applied."""


class Unmapped(msgspec.Struct, frozen=True):
    """A delivery that became no command. `event` is empty where the line was no delivery at all."""

    event: str
    reason: str


class _Delivery(msgspec.Struct):
    event: str
    payload: msgspec.Raw


_delivery = msgspec.json.Decoder(_Delivery)
_body = msgspec.json.Decoder(dict[str, object])


def command_from_github(
    line: bytes, *, salt: str = "", as_requests: bool = False
) -> WorkRequest | ResourceChange | Unmapped:
    """What one line `{"event": name, "payload": body}` comes to. Never raises for what is in it.

    What a person did is a change made outside; what a program did asks for work, as everything does with `as_requests`.
    The action, or what was changed, is `event.action` or `event`. Ids are made of the line's bytes, so that a file that
    is taken in twice asks and tells once; `salt` makes other ids, for copies.
    """
    line = line.strip()
    try:
        delivery = _delivery.decode(line)
        body = _body.decode(delivery.payload)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        return Unmapped("", f"not a delivery: {error}")
    try:
        resource = canonical_key(resource_of(delivery.event, body))
    except (NoResource, BadKey) as error:
        return Unmapped(delivery.event, str(error))
    name = body.get("action")
    action = f"{delivery.event}.{name}" if isinstance(name, str) and name else delivery.event
    id = hashlib.sha256(salt.encode() + b"\n" + line).hexdigest()[:32]
    by = person(body)
    if by is not None and not as_requests:
        return _change(f"gh-change-{id}", resource, delivery.event, body, by, action)
    actor = value_at(body, "sender.login")
    return WorkRequest(
        id=f"gh-{id}",
        resource=resource,
        action=action,
        payload=_payload(delivery.payload),
        actor=actor if isinstance(actor, str) else "",
    )


def _change(id: str, resource: str, event: str, body: Body, by: str, what: str) -> ResourceChange:
    version = version_of(event, body)
    return ResourceChange(
        id=id,
        resource=resource,
        version=version.name,
        by=by,
        what=what,
        at=version.at,
        source=SOURCE,
        sequence=version.sequence,
    )


def _payload(body: msgspec.Raw) -> msgspec.Raw:
    size = len(memoryview(body))
    if size <= PAYLOAD_BYTES_MAX:
        return body.copy()
    return msgspec.Raw(msgspec.json.encode({"left_out": "the body of the delivery", "bytes": size}))
