"""Topic `metadata`: what orders and must be the same for everybody. Written by `keylane` commands of an operator."""

from __future__ import annotations

import msgspec

from keylane.schemas.base import Schema

METADATA_KEY = b"metadata"


class ScopeRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Maps requested keys that match to one owning key."""

    match: str
    owner: str


class Metadata(Schema, frozen=True, kw_only=True):
    """Pinned. A process that differs refuses to start."""

    partitions: int
    hash: str = "murmur2"
    scopes: tuple[ScopeRule, ...] = ()
    token_floor: int = 0
    changing: bool = False
