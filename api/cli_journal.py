"""What commands that read the journal itself begin with: open it, and know where resources lie in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from keylane.cli_context import CommandContext

if TYPE_CHECKING:
    from keylane.journal.port import Journal
    from keylane.layout import Layout


class OpenJournal(NamedTuple):
    """A journal that a router has set up."""

    journal: Journal
    layout: Layout

    @property
    def partitions(self) -> int:
        return self.layout.partitions


@asynccontextmanager
async def opened(context: CommandContext) -> AsyncIterator[OpenJournal]:
    """Raises `Unavailable` where no router has set it up, `ConfigError` for a URL that names none."""
    import anyio

    from keylane.errors import translated
    from keylane.journal.connect import connect, resolve_url
    from keylane.layout import Layout
    from keylane.views import read_metadata

    with translated():
        journal = await connect(resolve_url(context.url, context.environ))
        try:
            yield OpenJournal(journal, Layout(await read_metadata(journal)))
        finally:
            with anyio.CancelScope(shield=True):
                await journal.close()
