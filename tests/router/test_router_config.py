"""The configuration: every key, what is refused, and flags over environment over file."""

from __future__ import annotations

from pathlib import Path

import pytest

from keylane.router.config import BadConfig, Config, load_config
from keylane.router.core.policy import ActionPolicy, Bounds, LockPolicy, Policy

EVERY_KEY = """
url = "sqlite:///x.db"
partitions = 3
session_lapse = "20s"
unserved_after = 45
retention = "2h"
resource_lock_timeout = 600
pools = ["deployers"]

[defaults]
pool = "main"
lease = "5m"
attempts = 4
backoff = "1.5s"
backoff_max = "2m"
coalesce = "200ms"
on_conflict = "supersede"
stop_holder = true
queue = "1d"
max_hold = "12h"

[actions.rollback]
on_conflict = { default = "reject", hotfix = "queue" }
lease = 0.5

[bounds]
waiters_per_resource = 1
members_per_run = 2
run_bytes = 3
runs = 4
crowded_runs = 5
refusals = 6
kept_cancellations = 7
unserved_actions = 8
resources = 9
sessions = 10
"""


def load(text: str, tmp_path: Path, environ: dict[str, str] | None = None, **flags: object) -> Config:
    file = tmp_path / "keylane.toml"
    file.write_text(text)
    return load_config(file, environ or {}, flags)


def test_every_key(tmp_path: Path) -> None:
    defaults = ActionPolicy(
        pool="main", lease_ms=300_000, attempts=4, backoff_ms=1_500, backoff_max_ms=120_000, coalesce_ms=200,
        on_conflict="supersede", stop_holder=True, queue_ms=86_400_000, max_hold_ms=43_200_000,
    )  # fmt: skip
    rollback = ActionPolicy(
        pool="main", lease_ms=500, attempts=4, backoff_ms=1_500, backoff_max_ms=120_000, coalesce_ms=200,
        on_conflict="reject", on_conflict_with={"hotfix": "queue"}, stop_holder=True, queue_ms=86_400_000,
        max_hold_ms=43_200_000,
    )  # fmt: skip
    bounds = Bounds(
        waiters_per_resource=1, members_per_run=2, run_bytes=3, runs=4, crowded_runs=5, refusals=6,
        kept_cancellations=7, unserved_actions=8, resources=9, sessions=10,
    )  # fmt: skip
    policy = Policy(
        defaults=defaults, locks=LockPolicy(ttl_ms=600_000, max_hold_ms=43_200_000), actions={"rollback": rollback},
        pools=("default", "deployers", "main"), bounds=bounds,
        session_lapse_ms=20_000, unserved_after_ms=45_000, retention_ms=7_200_000,
    )  # fmt: skip
    assert load(EVERY_KEY, tmp_path) == Config(url="sqlite:///x.db", partitions=3, policy=policy)


def test_without_a_file_the_defaults_hold() -> None:
    assert load_config(None, {}, {}) == Config(url=None, partitions=8, policy=Policy())


def test_no_lock_is_held_for_longer_than_the_longest_hold(tmp_path: Path) -> None:
    found = load('defaults.max_hold = "10m"', tmp_path).policy.locks
    assert (found.ttl_ms, found.max_hold_ms) == (600_000, 600_000)


def test_locks_are_no_action_that_is_configured(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"actions\.lock: .*resource_lock_timeout"):
        load("[actions.lock]\nlease = 5", tmp_path)


def test_a_short_retention_is_also_that_of_crowded_lanes(tmp_path: Path) -> None:
    assert load('retention = "10s"', tmp_path).policy.crowded_retention_ms == 10_000


@pytest.mark.parametrize("name", ["url", "partitions", "session_lapse", "unserved_after", "retention"])
def test_flags_over_environment_over_file(name: str, tmp_path: Path) -> None:
    def value(config: Config) -> object:
        if name in ("url", "partitions"):
            return getattr(config, name)
        return getattr(config.policy, f"{name}_ms")

    text = {"url": 'url = "1s"', "partitions": "partitions = 1"}.get(name, f'{name} = "1s"')
    variable = f"KEYLANE_{name.upper()}"
    plain = name == "partitions"
    from_file = value(load(text, tmp_path))
    from_environment = value(load(text, tmp_path, {variable: "2" if plain else "2s"}))
    from_flag = value(load(text, tmp_path, {variable: "2" if plain else "2s"}, **{name: 3 if plain else "3s"}))
    expected = {"url": ["1s", "2s", "3s"], "partitions": [1, 2, 3]}.get(name, [1_000, 2_000, 3_000])
    assert [from_file, from_environment, from_flag] == expected
    assert value(load(text, tmp_path, **{name: None})) == from_file, "a flag that was not given says nothing"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("leese = 1", "leese"),
        ("[defaults]\nleese = 1", "leese"),
        ("[actions.a]\nleese = 1", "leese"),
        ("[bounds]\nrunz = 1", "runz"),
        ("[bounds]\nruns = 0", "runs"),
        ('[defaults]\nlease = "5 minutes"', "defaults.lease"),
        ('[actions.a]\nlease = "-5s"', "actions.a.lease"),
        ("[actions.a]\nlease = -5", "actions.a.lease"),
        ("[actions.a]\nlease = 0", "actions.a.lease"),
        ('[actions.a]\nmax_hold = "0s"', "actions.a.max_hold"),
        ('[actions.a]\nqueue = "0s"', "actions.a.queue"),
        ('session_lapse = "0s"', "session_lapse"),
        ('retention = "soon"', "retention"),
        ("retention = true", "retention"),
        ("retention = inf", "retention"),
        ("partitions = 0", "partitions"),
        ("partitions = 1025", "partitions"),
        ('partitions = "8"', "partitions"),
        ("[defaults]\nattempts = 0", "defaults.attempts"),
        ('[defaults]\non_conflict = "fight"', "on_conflict"),
        ('[actions.a]\non_conflict = { b = "fight" }', "on_conflict"),
        ('pools = ["Upper"]', "Upper"),
        ('[actions.a]\npool = "no/slash"', "no/slash"),
        ("url = ", "keylane.toml"),
    ],
)
def test_what_cannot_be_used_is_refused_and_named(text: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfig) as caught:
        load(text, tmp_path)
    assert named in str(caught.value) and "keylane.toml" in str(caught.value)


def test_a_bad_variable_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="partitions"):
        load_config(None, {"KEYLANE_PARTITIONS": "many"}, {})
    with pytest.raises(BadConfig, match=r"missing\.toml"):
        load_config(tmp_path / "missing.toml", {}, {})
