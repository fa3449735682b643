"""Where resources lie: partitions and scope rules as pinned. Everything of the face that needs a key's partition, or
asks whether a record is about a key, asks here; nothing is read or written here."""

from __future__ import annotations

from keylane.errors import Refused, error_body
from keylane.journal.errors import Unavailable
from keylane.journal.partitioner import partition_of
from keylane.schemas.keys import BadKey
from keylane.schemas.metadata import Metadata
from keylane.schemas.scopes import BadScope, Scopes


class Layout:
    """One state of the metadata. Raises `journal.Unavailable` where this keylane cannot follow its rules."""

    def __init__(self, metadata: Metadata) -> None:
        self.partitions = metadata.partitions
        try:
            self._scopes = Scopes(metadata.scopes)
        except BadScope as error:
            raise Unavailable(f"the journal's scope rules cannot be followed: {error}; upgrade keylane") from error

    def owner_of(self, key: str) -> str:
        """The owning key of a canonical key. Raises `Refused` (`BAD_KEY`) where a rule makes no key of it."""
        try:
            return self._scopes.owner_of(key)
        except BadKey as error:
            raise Refused(error_body("BAD_KEY", f"resource: {error}")) from error

    def partition_of(self, key: str) -> int:
        """The partition of a canonical key, which is its owning key's. Raises `Refused` (`BAD_KEY`)."""
        return partition_of(self.owner_of(key).encode(), self.partitions)

    def chosen(self, key: str | None) -> list[int]:
        """The partition of a key; all of them without one. Raises `Refused` (`BAD_KEY`)."""
        return list(range(self.partitions)) if key is None else [self.partition_of(key)]

    def concerns(self, record: object, key: str | None) -> bool:
        """Whether a record is about `key`: it names it, or what it names belongs to it. Any is, without a key."""
        if key is None:
            return True
        resource = getattr(record, "resource", None)
        if key in (resource, getattr(record, "owner", None)):
            return True
        try:
            return isinstance(resource, str) and self._scopes.owner_of(resource) == key
        except BadKey:  # what was refused may have named anything
            return False
