"""Deliveries from elsewhere to work requests. Bytes in, a request or a reason out; the CLI publishes."""

from __future__ import annotations

import hashlib

import msgspec

from keylane.github import NoResource, resource_of, value_at
from keylane.schemas.keys import BadKey, canonical_key
from keylane.schemas.requests import WorkRequest

PAYLOAD_BYTES_MAX = 64 * 1024
"""GitHub sends up to 25 MB. Larger bodies stay out of the request: its worker reads the resource itself."""


class Unmapped(msgspec.Struct, frozen=True):
    """A delivery that became no request. `event` is empty where the line was no delivery at all."""

    event: str
    reason: str


class _Delivery(msgspec.Struct):
    event: str
    payload: msgspec.Raw


_delivery = msgspec.json.Decoder(_Delivery)
_body = msgspec.json.Decoder(dict[str, object])


def requests_from_github(line: bytes, *, salt: str = "") -> WorkRequest | Unmapped:
    """The request that one line `{"event": name, "payload": body}` asks for. Never raises for what is in it.

    The action is `event.action` or `event`; the payload is the body as GitHub sent it. The request's id is
    made of the line's bytes, so that a file taken in twice asks once; `salt` makes other ids, for copies.
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
    action = body.get("action")
    actor = value_at(body, "sender.login")
    return WorkRequest(
        id="gh-" + hashlib.sha256(salt.encode() + b"\n" + line).hexdigest()[:32],
        resource=resource,
        action=f"{delivery.event}.{action}" if isinstance(action, str) and action else delivery.event,
        payload=_payload(delivery.payload),
        actor=actor if isinstance(actor, str) else "",
    )


def _payload(body: msgspec.Raw) -> msgspec.Raw:
    size = len(memoryview(body))
    if size <= PAYLOAD_BYTES_MAX:
        return body.copy()
    return msgspec.Raw(msgspec.json.encode({"left_out": "the body of the delivery", "bytes": size}))
