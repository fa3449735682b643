"""From a URL to a journal. The one place that knows which adapters there are; it holds no other logic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .errors import BadUrl
from .port import Journal


def resolve_url(url: str | None, environ: Mapping[str, str]) -> str:
    """The journal to use: `url` if given, else `KEYLANE_URL`, else the embedded one in `./.keylane`."""
    return url or environ.get("KEYLANE_URL") or f"sqlite://{Path('.keylane/journal.db').absolute()}"


async def connect(url: str) -> Journal:
    """Open the journal that `url` names.

    - `memory://NAME`: in this process; everybody who connects to the name shares it while anybody holds it.
    - `sqlite:///absolute/path` or `sqlite://relative/path`: a file on a local disk, created if missing;
      `?session_timeout_ms=NUMBER` after it is how long a silent member of a group keeps its partitions.
    - `kafka://host:port[,host:port…]`: needs the extra `keylane[kafka]`.

    Raises `BadUrl` for any other URL, and `Unavailable` when the journal does not answer.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise BadUrl(f"{url!r} is no journal URL: use memory://NAME, sqlite:///path or kafka://host:port")
    # Each adapter is imported when it is asked for: a client of one should not load, or need, the others.
    if scheme == "memory":
        from .memory import open_memory

        return open_memory(rest)
    if scheme == "sqlite":
        from .sqlite_journal import open_sqlite

        return await open_sqlite(rest)
    if scheme == "kafka":
        return await _connect_kafka(url)
    raise BadUrl(f"{scheme}:// is no journal that keylane knows: use memory://, sqlite:// or kafka://")


async def _connect_kafka(url: str) -> Journal:
    try:
        from .kafka import open_kafka
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.split(".")[0] != "aiokafka":
            raise
        raise BadUrl("kafka:// needs an extra that is not installed: pip install 'keylane[kafka]'") from missing
    return await open_kafka(url)
