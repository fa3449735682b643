"""`keylane config apply`: other scope rules for a journal that is in use."""

from __future__ import annotations

import msgspec

from keylane.cli_context import Context
from keylane.cli_services import ConfigFile, TopicFlags, sources
from keylane.progress import progress


async def apply(*, config: ConfigFile = None, partitions: int | None = None, context: Context) -> msgspec.Struct | None:
    """Let the scope rules of the configuration hold from now on. Refused while a key that they move is in use.

    Takes every lane from its router for that. Afterwards, restart routers with the same configuration. If it was cut
    off, run it again: until then routers and clients wait.

    Parameters
    ----------
    config:
        The routers' configuration. Else ./keylane.toml, where there is one.
    partitions:
        In how many lanes resources are put. Cannot be changed.
    """
    import anyio

    from keylane.embedded import load, rules_applied
    from keylane.errors import translated
    from keylane.journal.connect import connect

    service = load(*sources(context, TopicFlags(config=config, partitions=partitions)))
    with translated():
        journal = await connect(service.url, create=False)
        try:
            with progress(context, "looking at lanes", service.config.partitions) as looked:
                return await rules_applied(journal, service, looked)
        finally:
            with anyio.CancelScope(shield=True):
                await journal.close()
