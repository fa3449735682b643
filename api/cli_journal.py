"""What commands that read the journal itself begin with: open it, and know how many partitions it is pinned to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from keylane.cli_context import CommandContext

if TYPE_CHECKING:
    from keylane.journal.port import Journal


class OpenJournal(NamedTuple):
    """A journal that a router has set up."""

    journal: Journal
    partitions: int

    def chosen(self, key: str | None) -> list[int]:
        """The partition of a key; all of them without one."""
        from keylane.journal.partitioner import partition_of

        return list(range(self.partitions)) if key is None else [partition_of(key.encode(), self.partitions)]


@asynccontextmanager
async def opened(context: CommandContext) -> AsyncIterator[OpenJournal]:
    """Raises `Unavailable` where no router has set it up, `ConfigError` for a URL that names none."""
    import anyio

    from keylane.errors import translated
    from keylane.journal.connect import connect, resolve_url
    from keylane.views import read_metadata

    with translated():
        journal = await connect(resolve_url(context.url, context.environ))
        try:
            metadata = await read_metadata(journal)
            yield OpenJournal(journal, metadata.partitions)
        finally:
            with anyio.CancelScope(shield=True):
                await journal.close()
