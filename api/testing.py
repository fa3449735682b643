"""For the tests of those who use keylane: a whole service in this process, and handlers without any.

Nothing here is used by keylane itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from keylane.embedded import Service, load, router_running
from keylane.outcome import Json
from keylane.schemas import items
from keylane.workers.handler import call as call_handler
from keylane.workers.handler import handler_of
from keylane.workers.item import Done, Item, Saved, raw

CONFIG = """
partitions = 4
session_lapse = "2s"
unserved_after = "1s"
[defaults]
lease = "10s"
coalesce = "200ms"
backoff = "50ms"
"""


@asynccontextmanager
async def local(config: str = "") -> AsyncIterator[str]:
    """A router on a memory journal, in the background; yields the URL for `Client` and `Worker`.

    `config` is the text of a `keylane.toml`; else one with short times holds. The environment does not count.
    Raises `ConfigError`.
    """
    url = f"memory://{uuid4().hex}"
    async with router_running(_service(config or CONFIG, url)):
        yield url


def _service(config: str, url: str) -> Service:
    """Through a file, so that the one reader of configurations judges it."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "keylane.toml")
        file.write_text(config, encoding="utf-8")
        return load(file, {}, {"url": url})


class _Alone:
    """Holds an item for a handler that is called without any journal: nothing is lost, nothing is saved."""

    async def progress(self, saved: Saved) -> None:
        return None

    def check(self) -> None:
        return None


async def call(handler: Callable[..., Any], payload: Json, *, checkpoint: Json = None, attempt: int = 1) -> Done:
    """Call a handler with an item of that payload, as a worker would; without journal, router or lease.

    A plain function is called in a thread. The payload is decoded to what the handler's annotation says. What
    the handler raises comes out as it is: `Fail`, `Retry`, any other.
    """
    prepared = handler_of("test", handler)
    record = items.WorkItem(
        session="test",
        number=1,
        heartbeat=0,
        run="run-1",
        resource="test://resource",
        owner="test://resource",
        action="test",
        payload=raw(payload),
        requests=("run-1",),
        token=1,
        attempt=attempt,
        lease_ms=300_000,
        checkpoint=None if checkpoint is None else items.Checkpoint(data=raw(checkpoint)),
    )
    item: Item[Any] = Item(record, prepared.decode(record.payload), [], _Alone())
    return await call_handler(prepared, item)
