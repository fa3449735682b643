"""What every record has in common: how it is tagged, and the JSON that agents hand over untouched.

Only the base of the records and its helper types live here; the records themselves are one file a topic.
"""

from __future__ import annotations

import msgspec

NULL = msgspec.Raw(b"null")


# Without the collector's header: a record cannot be part of a cycle, and a lane remembers a million of them.
class Schema(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag=True, gc=False):
    """A record: JSON object with its name under `type`. Unknown fields are ignored, so that writers may be newer."""


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why something did not succeed. `message` is agent-written where a handler failed: untrusted, capped."""

    code: str
    message: str
