"""How one action is treated, as a table of the file and as the policy that it means; both ways.

A key that is not set is that of `[defaults]`. What the values do is `core/policy.py`.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from keylane.router.core.policy import ActionPolicy, OnConflict
from keylane.router.durations import Duration, duration, milliseconds

POOL = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
"""Pools are part of topic names."""

Version = Literal["optional", "required"]


class ActionTable(Struct, kw_only=True, forbid_unknown_fields=True):
    """`[defaults]` and `[actions.NAME]`."""

    pool: str | None = None
    lease: Duration | None = None
    attempts: int | None = None
    backoff: Duration | None = None
    backoff_max: Duration | None = None
    coalesce: Duration | None = None
    on_conflict: OnConflict | dict[str, OnConflict] | None = None
    stop_holder: bool | None = None
    version: Version | None = None
    harmless: bool | None = None
    queue: Duration | None = None
    max_hold: Duration | None = None


CHOICES: dict[str, Any] = {"on_conflict": OnConflict, "version": Version}
"""Keys whose values are one of a few words."""
AS_THEY_ARE = ("pool", "attempts", "stop_holder", "harmless")
TIMES = {"lease": 1, "backoff": 0, "backoff_max": 0, "coalesce": 0, "queue": 1, "max_hold": 1}
"""With the least milliseconds that each may be."""


def policy_of(where: str, table: ActionTable, base: ActionPolicy) -> ActionPolicy:
    """What the table makes of `base`. Raises `ValueError` that begins with the key."""
    changes: dict[str, Any] = {}
    if table.pool is not None:
        check_pool(f"{where}.pool", table.pool)
    for name in AS_THEY_ARE:
        if getattr(table, name) is not None:
            changes[name] = getattr(table, name)
    for name, least in TIMES.items():
        if getattr(table, name) is not None:
            changes[f"{name}_ms"] = milliseconds(f"{where}.{name}", getattr(table, name), least)
    if table.version is not None:
        changes["version_required"] = table.version == "required"
    if changes.get("attempts", 1) < 1:
        raise ValueError(f"{where}.attempts: must be at least 1")
    if isinstance(table.on_conflict, dict):
        by_action = dict(table.on_conflict)
        changes["on_conflict"] = by_action.pop("default", base.on_conflict)
        changes["on_conflict_with"] = by_action
    elif table.on_conflict is not None:
        changes["on_conflict"] = table.on_conflict
        changes["on_conflict_with"] = {}
    return replace(base, **changes)


def check_pool(where: str, pool: str) -> None:
    """Raises `ValueError` for what cannot be part of a topic's name."""
    if not POOL.fullmatch(pool):
        raise ValueError(f"{where}: {pool!r}: lower-case letters, digits and hyphens, at most 64")


def values_of(policy: ActionPolicy) -> dict[str, Any]:
    """Each key with its value as a file could have it."""
    by_action = policy.on_conflict_with
    return {
        **{name: getattr(policy, name) for name in AS_THEY_ARE},
        **{name: duration(getattr(policy, f"{name}_ms")) for name in TIMES},
        "version": "required" if policy.version_required else "optional",
        "on_conflict": {"default": policy.on_conflict, **by_action} if by_action else policy.on_conflict,
    }
