"""A router's configuration: `keylane.toml`, under the environment, under flags; read once, into plain values.

Only reading and checking live here. What the values mean is `core/policy.py`. Unknown keys are errors, since a
mistyped one would otherwise be a policy that silently does not hold.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from keylane.router.actions import CHOICES, ActionTable, LimitTable, check_pool, policy_of
from keylane.router.core.policy import ActionPolicy, Bounds, LockPolicy, Policy
from keylane.router.core.shape import TTL_MS_MIN
from keylane.schemas.conflicts import ConflictKind
from keylane.schemas.durations import Duration, milliseconds
from keylane.schemas.metadata import ScopeRule
from keylane.schemas.scopes import Scopes
from keylane.schemas.state import LOCK_ACTION

FILE_NAME = "keylane.toml"
PARTITIONS_MAX = 1_024
LINK_CHARACTERS_MAX = 512


class BadConfig(Exception):
    """The configuration cannot be used. The message names the file or variable, the key and what it may be."""


class Settings(Struct, kw_only=True, forbid_unknown_fields=True):
    """The file as a whole; the scalars can come from the environment and from flags as well."""

    url: str | None = None
    partitions: int = 8
    session_lapse: Duration = "10s"
    unserved_after: Duration = "30s"
    retention: Duration = "1h"
    resource_lock_timeout: Duration = 1_800
    pools: list[str] = []
    defaults: ActionTable = msgspec.field(default_factory=ActionTable)
    actions: dict[str, ActionTable] = {}
    bounds: Bounds = Bounds()
    scopes: list[ScopeRule] = []
    runbooks: dict[str, str] = {}
    metrics: str | None = None
    metrics_exposed: bool = False
    replication_factor: int | None = None
    min_insync_replicas: int | None = None


class Config(Struct, frozen=True, kw_only=True):
    """What a router runs with."""

    url: str | None
    """None where neither file, environment nor flag names one."""
    partitions: int
    policy: Policy
    scopes: tuple[ScopeRule, ...] = ()
    """Checked: `Scopes` takes them."""
    metrics: str | None = None
    """HOST:PORT of `/metrics`, `/healthz` and `/readyz`; None: not served."""
    metrics_exposed: bool = False
    """They may be served beyond loopback."""
    replication_factor: int | None = None
    """Of topics that are made; None: as the brokers are configured. SQLite has one copy."""
    min_insync_replicas: int | None = None
    """How many replicas must have a record before it is acknowledged; None: as the brokers are configured."""


SCALARS = (
    "url", "partitions", "session_lapse", "unserved_after", "retention", "metrics", "metrics_exposed",
    "replication_factor", "min_insync_replicas", "resource_lock_timeout",
)  # fmt: skip
"""What `KEYLANE_<NAME>` and flags may set."""
NUMBERS = ("partitions", "replication_factor", "min_insync_replicas")


def load_config(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Config:
    """Flags over `KEYLANE_…` over the file. `file` None: none is read. Raises `BadConfig`."""
    found, origins = gather(file, environ, flags)
    settings = read_settings(found, origins)
    try:
        return _config(settings)
    except ValueError as error:  # it begins with the key
        raise BadConfig(f"{_place(str(error), origins)}: {error}") from None


def read_settings(found: Mapping[str, Any], origins: Mapping[str, str]) -> Settings:
    """What was gathered, with its types. Raises `BadConfig`, naming the key that is wrong."""
    tables = found.get("actions", {})
    whole = _converted({name: value for name, value in found.items() if name != "actions"}, Settings, "", origins)
    if not isinstance(tables, dict):
        raise BadConfig(f"{origins['actions']}: actions: a table of tables, as in [actions.restart]")
    actions = {name: _converted(table, ActionTable, f"actions.{name}", origins) for name, table in tables.items()}
    return replace(whole, actions=actions)


def _place(said: str, origins: Mapping[str, str]) -> str:
    """Where the key is set that `said` begins with."""
    key = KEY.match(said)
    return origins.get(key[0], "configuration") if key else "configuration"


T = TypeVar("T", bound=Struct)


def _converted(value: object, kind: type[T], prefix: str, origins: Mapping[str, str]) -> T:
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        said, path = str(error), prefix
        if place := PLACE.search(said):
            said = PLACE.sub("", said)
            path = f"{prefix}.{place[1]}".strip(".").replace("[...]", ".*")
        if unknown := UNKNOWN_KEY.search(said):
            known: type = TABLES.get(path.split("[")[0].split(".")[-1], kind)
            near = difflib.get_close_matches(unknown[1], [each.name for each in msgspec.structs.fields(known)], n=1)
            said = f"there is no such key{f': is it {near[0]}?' if near else ''}"
            path = f"{path}.{unknown[1]}".strip(".")
        elif "enum" in said:
            choices = next(CHOICES[name] for name in path.split(".") if name in CHOICES)
            said += f": it can be {', '.join(get_args(choices))}"
        raise BadConfig(f"{_place(path, origins)}: {path}: {said}") from None


TABLES: dict[str, type] = {"defaults": ActionTable, "bounds": Bounds, "limit": LimitTable, "scopes": ScopeRule}
KEY = re.compile(r"\w+")
PLACE = re.compile(r" - at `\$\.?([^`]*)`")
UNKNOWN_KEY = re.compile(r"Object contains unknown field `(.*)`")


def gather(
    file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]
) -> tuple[dict[str, Any], dict[str, str]]:
    """What is set, as it is written there; and for each top-level key where the value that holds was found.

    Raises `BadConfig` for a file that cannot be read.
    """
    found: dict[str, Any] = _read(file) if file is not None else {}
    origins = dict.fromkeys(found, str(file))
    for name in SCALARS:
        variable = f"KEYLANE_{name.upper()}"
        if variable in environ:
            found[name], origins[name] = _scalar(name, environ[variable]), variable
        if flags.get(name) is not None:
            found[name], origins[name] = flags[name], f"--{name.replace('_', '-')}"
    return found, origins


def _read(file: Path) -> dict[str, Any]:
    try:
        found = msgspec.toml.decode(file.read_bytes())
    except OSError as error:
        raise BadConfig(f"{file}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise BadConfig(f"{file}: {error}") from None
    assert isinstance(found, dict)
    return found


def _scalar(name: str, text: str) -> int | bool | str:
    """A variable's text as the type that the key has; text where it cannot be that, which is then told."""
    if name in NUMBERS and text.isascii() and text.isdigit():
        return int(text)
    if name == "metrics_exposed" and text in ("true", "false"):
        return text == "true"
    return text


def _config(settings: Settings) -> Config:
    if not 1 <= settings.partitions <= PARTITIONS_MAX:
        raise ValueError(f"partitions: must be from 1 to {PARTITIONS_MAX}")
    replicas, in_sync = settings.replication_factor, settings.min_insync_replicas
    if replicas is not None and replicas < 1:
        raise ValueError("replication_factor: must be at least 1")
    if in_sync is not None and not 1 <= in_sync <= (replicas or in_sync):
        raise ValueError("min_insync_replicas: must be from 1 to replication_factor, else nothing can be written")
    defaults = policy_of("defaults", settings.defaults, ActionPolicy())
    actions = {name: policy_of(f"actions.{name}", table, defaults) for name, table in settings.actions.items()}
    pools = sorted({"default", defaults.pool, *settings.pools, *(action.pool for action in actions.values())})
    if LOCK_ACTION in actions:
        raise ValueError(f"actions.{LOCK_ACTION}: is what locks are called: see resource_lock_timeout and max_hold")
    for pool in settings.pools:
        check_pool("pools", pool)
    for name, bound in msgspec.structs.asdict(settings.bounds).items():
        if bound < 1:
            raise ValueError(f"bounds.{name}: must be at least 1")
    Scopes(settings.scopes)
    _check_runbooks(settings.runbooks)
    retention_ms = milliseconds("retention", settings.retention)
    lock_ttl_ms = milliseconds("resource_lock_timeout", settings.resource_lock_timeout, least=TTL_MS_MIN)
    policy = Policy(
        defaults=defaults,
        locks=LockPolicy(ttl_ms=min(lock_ttl_ms, defaults.max_hold_ms), max_hold_ms=defaults.max_hold_ms),
        actions=actions,
        pools=tuple(pools),
        bounds=settings.bounds,
        runbooks=settings.runbooks,
        session_lapse_ms=milliseconds("session_lapse", settings.session_lapse, least=1),
        unserved_after_ms=milliseconds("unserved_after", settings.unserved_after),
        retention_ms=retention_ms,
        crowded_retention_ms=min(retention_ms, Policy().crowded_retention_ms),
    )
    return Config(
        url=settings.url,
        partitions=settings.partitions,
        policy=policy,
        scopes=tuple(settings.scopes),
        metrics=settings.metrics,
        metrics_exposed=settings.metrics_exposed,
        replication_factor=replicas,
        min_insync_replicas=in_sync,
    )


def _check_runbooks(runbooks: Mapping[str, str]) -> None:
    kinds = get_args(ConflictKind)
    for kind, link in runbooks.items():
        if kind not in kinds:
            raise ValueError(f"runbooks.{kind}: no conflict is of this kind: there are {', '.join(kinds)}")
        if not link.isprintable() or not 0 < len(link) <= LINK_CHARACTERS_MAX:
            raise ValueError(f"runbooks.{kind}: must be a link of 1 to {LINK_CHARACTERS_MAX} characters")
