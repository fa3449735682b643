"""How one action is treated, as a table of the file and as the policy that it means; both ways.

A key that is not set is that of `[defaults]`. What the values do is `core/policy.py`.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from keylane.router.core.policy import ActionPolicy, Limit, OnConflict, Then
from keylane.schemas.durations import Duration, duration, milliseconds

POOL = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
"""Pools are part of topic names."""

LIMIT_MAX = 1_000
COUNT_MAX = 256
"""As many requests as a run takes, unless `bounds.members_per_run` says otherwise."""

Version = Literal["optional", "required"]


class LimitTable(Struct, kw_only=True, forbid_unknown_fields=True):
    """`limit = { count = 1, until = ["undrain"] }`"""

    count: int
    until: list[str]


class ActionTable(Struct, kw_only=True, forbid_unknown_fields=True):
    """`[defaults]` and `[actions.NAME]`."""

    pool: str | None = None
    lease: Duration | None = None
    attempts: int | None = None
    backoff: Duration | None = None
    backoff_max: Duration | None = None
    coalesce: Duration | None = None
    quiet: Duration | None = None
    max_delay: Duration | None = None
    max_count: int | None = None
    min_interval: Duration | None = None
    on_conflict: OnConflict | dict[str, OnConflict] | None = None
    stop_holder: bool | None = None
    version: Version | None = None
    harmless: bool | None = None
    requires: list[str] | None = None
    limit: LimitTable | None = None
    then: Then | None = None
    review: Duration | None = None
    queue: Duration | None = None
    max_hold: Duration | None = None


CHOICES: dict[str, Any] = {"on_conflict": OnConflict, "version": Version, "then": Then}
"""Keys whose values are one of a few words."""
AS_THEY_ARE = ("pool", "attempts", "max_count", "stop_holder", "harmless", "then")
TIMES = {
    "lease": 1, "backoff": 0, "backoff_max": 0, "coalesce": 0, "quiet": 0, "max_delay": 0, "min_interval": 0,
    "review": 1, "queue": 1, "max_hold": 1,
}  # fmt: skip
"""With the least milliseconds that each may be."""


def policy_of(where: str, table: ActionTable, base: ActionPolicy) -> ActionPolicy:
    """What the table makes of `base`. Raises `ValueError` that begins with the key."""
    if table.pool is not None:
        check_pool(f"{where}.pool", table.pool)
    if table.attempts is not None and table.attempts < 1:
        raise ValueError(f"{where}.attempts: must be at least 1")
    if table.max_count is not None and not 0 <= table.max_count <= COUNT_MAX:
        raise ValueError(f"{where}.max_count: must be from 0 to {COUNT_MAX}")
    changes = {name: getattr(table, name) for name in AS_THEY_ARE if getattr(table, name) is not None}
    for name, least in TIMES.items():
        if getattr(table, name) is not None:
            changes[f"{name}_ms"] = milliseconds(f"{where}.{name}", getattr(table, name), least)
    if table.version is not None:
        changes["version_required"] = table.version == "required"
    policy = replace(base, **changes, **_order(where, table), **_on_conflict(table, base))
    if policy.quiet_ms and not (policy.max_delay_ms >= policy.quiet_ms and policy.max_count >= 2):
        needed = "a max_delay that is no shorter, and a max_count of 2 or more"
        raise ValueError(f"{where}.quiet: needs {needed}: requests could hold it up for ever")
    return policy


def _on_conflict(table: ActionTable, base: ActionPolicy) -> dict[str, Any]:
    if table.on_conflict is None:
        return {}
    if not isinstance(table.on_conflict, dict):
        return {"on_conflict": table.on_conflict, "on_conflict_with": {}}
    by_action = dict(table.on_conflict)
    return {"on_conflict": by_action.pop("default", base.on_conflict), "on_conflict_with": by_action}


def _order(where: str, table: ActionTable) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if table.requires is not None:
        changes["requires"] = _others(where, "requires", table.requires)
    if table.limit is not None:
        if not 1 <= table.limit.count <= LIMIT_MAX:
            raise ValueError(f"{where}.limit.count: must be from 1 to {LIMIT_MAX}")
        until = _others(where, "limit.until", table.limit.until)
        changes["limit"] = Limit(count=table.limit.count, until=until)
    return changes


def _others(where: str, key: str, actions: list[str]) -> tuple[str, ...]:
    """Names of other actions. What one action waits for is never itself, and is not the same for all."""
    if where == "defaults":
        raise ValueError(f"{where}.{key}: belongs to one action, as in [actions.terminate]")
    if not actions or where.removeprefix("actions.") in actions:
        raise ValueError(f"{where}.{key}: must name other actions, at least one")
    return tuple(actions)


def check_pool(where: str, pool: str) -> None:
    """Raises `ValueError` for what cannot be part of a topic's name."""
    if not POOL.fullmatch(pool):
        raise ValueError(f"{where}: {pool!r}: lower-case letters, digits and hyphens, at most 64")


def values_of(policy: ActionPolicy) -> dict[str, Any]:
    """Each key with its value as a file could have it."""
    by_action = policy.on_conflict_with
    order: dict[str, Any] = {"requires": list(policy.requires)} if policy.requires else {}
    if policy.limit is not None:
        order["limit"] = {"count": policy.limit.count, "until": list(policy.limit.until)}
    return {
        **order,
        **{name: getattr(policy, name) for name in AS_THEY_ARE},
        **{name: duration(getattr(policy, f"{name}_ms")) for name in TIMES},
        "version": "required" if policy.version_required else "optional",
        "on_conflict": {"default": policy.on_conflict, **by_action} if by_action else policy.on_conflict,
    }
