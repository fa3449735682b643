"""The configuration that holds, key by key, with where each value comes from. Reads nothing that `config` does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from keylane.router.actions import values_of
from keylane.router.config import SCALARS, gather, load_config
from keylane.router.core.policy import ActionPolicy
from keylane.schemas.durations import duration

DEFAULT = "default"


class Setting(NamedTuple):
    """One key with its value as the file could have it. `origin`: a file, a variable, a flag, or `default`."""

    key: str
    value: Any
    origin: str


def effective(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Iterator[Setting]:
    """Every key; of actions those that say something of their own. Raises `BadConfig`."""
    config = load_config(file, environ, flags)
    found, origins = gather(file, environ, flags)
    policy = config.policy
    values = {
        "url": config.url,
        "partitions": config.partitions,
        "metrics": config.metrics,
        "metrics_exposed": config.metrics_exposed,
        "replication_factor": config.replication_factor,
        "min_insync_replicas": config.min_insync_replicas,
        "session_lapse": duration(policy.session_lapse_ms),
        "unserved_after": duration(policy.unserved_after_ms),
        "retention": duration(policy.retention_ms),
        "resource_lock_timeout": duration(policy.locks.ttl_ms),
    }
    for name in SCALARS:
        yield Setting(name, values[name], origins.get(name, DEFAULT))
    yield Setting("pools", list(policy.pools), origins.get("pools", DEFAULT))
    yield from _action("defaults", policy.defaults, found.get("defaults", {}), str(file), all_keys=True)
    for name, table in found.get("actions", {}).items():
        yield from _action(f"actions.{name}", policy.of(name), table, str(file), all_keys=False)
    for place, rule in enumerate(config.scopes):
        yield Setting(f"scopes[{place}]", {"match": rule.match, "owner": rule.owner}, str(file))
    for kind, link in policy.runbooks.items():
        yield Setting(f"runbooks.{kind}", link, str(file))
    for name, bound in msgspec.structs.asdict(policy.bounds).items():
        yield Setting(f"bounds.{name}", bound, str(file) if name in found.get("bounds", {}) else DEFAULT)


def _action(
    prefix: str, policy: ActionPolicy, table: Mapping[str, Any], file: str, *, all_keys: bool
) -> Iterator[Setting]:
    for name, value in values_of(policy).items():
        if all_keys or name in table:
            yield Setting(f"{prefix}.{name}", value, file if name in table else DEFAULT)
