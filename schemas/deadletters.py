"""Topic `deadletters`: what could not be decoded or done, named by its place; the original stays where it is."""

from __future__ import annotations

from keylane.schemas.base import Schema
from keylane.schemas.refusals import Code


class DeadLetter(Schema, frozen=True, kw_only=True):
    """`excerpt` is the first characters of the value, capped, with secrets blanked. Untrusted."""

    topic: str
    partition: int
    offset: int
    code: Code
    reason: str
    time: str
    key: str = ""
    excerpt: str = ""
    event_seq: int
