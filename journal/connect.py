"""From a URL to a journal. The one place that knows which adapters there are; it holds no other logic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl

from .errors import BadUrl
from .port import Journal


def resolve_url(url: str | None, environ: Mapping[str, str]) -> str:
    """The journal to use: `url` if given, else `KEYLANE_URL`, else the embedded one in `./.keylane`.

    Raises `BadUrl` for one with a secret in it: what comes out of here is logged and shown.
    """
    url = url or environ.get("KEYLANE_URL") or f"sqlite://{Path('.keylane/journal.db').absolute()}"
    refuse_secrets(url)
    return url


def refuse_secrets(url: str) -> None:
    """Raises `BadUrl`, without repeating it, for a URL that has a user or a password where it may have none.

    An `@` is refused anywhere but in an option's value, since a password may itself have the signs that part a URL.
    """
    scheme, _, rest = url.partition("://")
    if scheme in ("memory", "sqlite"):
        return
    names = {name.lower() for name, _ in parse_qsl(rest.partition("?")[2], keep_blank_values=True)}
    secret = any(("password" in name or "secret" in name) and not name.endswith("_file") for name in names)
    if secret or "@" in url.partition("?")[0] or "@" in url.partition("=")[0]:
        raise BadUrl(
            "the URL has a user or a password in it, and URLs are logged and listed with processes: write "
            "?sasl=SCRAM-SHA-512&user=NAME&password_file=PATH, or set KEYLANE_KAFKA_PASSWORD instead of the file"
        )


async def connect(url: str, *, create: bool = True) -> Journal:
    """Open the journal that `url` names. Without `create`, one of which there is nothing yet is `NoJournal`.

    - `memory://NAME`: in this process; everybody who connects to the name shares it while anybody holds it.
    - `sqlite:///absolute/path` or `sqlite://relative/path`: a file on a local disk, created if missing;
      `?session_timeout_ms=NUMBER` after it is how long a silent member of a group keeps its partitions.
    - `kafka://host:port[,host:port…]`: needs the extra `keylane[kafka]`. Its options, TLS and SASL among them, are in
      `kafka.py`; passwords come from files or variables.

    Raises `BadUrl` for any other URL, `AccessDenied` when the journal does not let this process in, and `Unavailable`
    when it does not answer.
    """
    refuse_secrets(url)
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise BadUrl(f"{url!r} is no journal URL: use memory://NAME, sqlite:///path or kafka://host:port")
    # Each adapter is imported when it is asked for: a client of one should not load, or need, the others.
    if scheme == "memory":
        from .memory import open_memory

        return open_memory(rest)
    if scheme == "sqlite":
        from .sqlite_journal import open_sqlite

        return await open_sqlite(rest, create=create)
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
