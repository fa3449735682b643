"""What a router counts: each event once, when it is committed; and how its lanes stand."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from msgspec import Raw
from prometheus_client import CollectorRegistry
from turning import ITEMS, Clock, beat, begin, join, journal_of, put, work, written

from keylane.journal.errors import LaneLost
from keylane.journal.port import Place, Record
from keylane.router import meter as metering
from keylane.router.core.policy import ActionPolicy, Policy
from keylane.router.meter import TALLIES, UNCOUNTED, Behind, LaneMeter
from keylane.router.metrics import RouterMetrics
from keylane.router.turn import INPUTS
from keylane.schemas import topics
from keylane.schemas.base import ErrorDetail
from keylane.schemas.conflicts import ConflictArtifact
from keylane.schemas.events import AnyEvent
from keylane.schemas.requests import Cancellation
from keylane.schemas.results import Completed, Failed

pytestmark = pytest.mark.anyio

POLICY = Policy(
    defaults=ActionPolicy(lease_ms=5_000, backoff_ms=0, attempts=2),
    actions={"restart": ActionPolicy(lease_ms=5_000, backoff_ms=0, attempts=2)},
)


class Counted:
    """One lane with a meter of its own, and what is read off the registry."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.registry = CollectorRegistry()
        self.policy = policy
        self.meter = LaneMeter(RouterMetrics(self.registry, policy, 1), 0, INPUTS)

    def __getitem__(self, name: str) -> float | None:
        name, _, labels = name.partition("{")
        pairs = dict(each.split("=") for each in labels.rstrip("}").split(",") if each)
        return self.registry.get_sample_value(f"keylane_{name}", pairs)

    def series(self) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        return {
            (sample.name, tuple(sorted(sample.labels.items())))
            for family in self.registry.collect()
            for sample in family.samples
        }


def granted(journal: Any) -> Any:
    return [each for each in written(journal, ITEMS) if hasattr(each, "token")][-1]


def completed(item: Any, **fields: Any) -> Completed:
    return Completed(
        session="w", pool="default", run=item.run, resource=item.resource, token=item.token, result=Raw(b"1"), **fields
    )


def test_every_event_is_counted_or_said_not_to_be() -> None:
    assert set(TALLIES) - {ConflictArtifact} | UNCOUNTED == set(get_args(AnyEvent))
    assert not set(TALLIES) & UNCOUNTED


async def test_requests_from_acceptance_to_outcome() -> None:
    counted, journal, clock = Counted(), await journal_of(), Clock()
    await put(journal, join(), work("r1"), work("r1b"), work("r2", "2"), work("r1"))
    lane = await begin(journal, counted.policy, clock, meter=counted.meter)
    await lane.turn()
    assert counted["requests_accepted_total{action=restart}"] == 3
    assert counted["requests_coalesced_total{action=restart}"] == 1
    assert counted["requests_repeated_total"] == 1
    assert counted["grants_total{action=restart}"] == 1
    assert (counted["queue_depth{partition=0}"], counted["held_runs{partition=0}"]) == (1, 1)
    assert counted["worker_sessions_open{partition=0}"] == 1
    assert counted["wait_seconds_count{action=restart}"] == 1

    clock.s += 2
    await put(journal, completed(granted(journal)))
    await lane.turn()
    assert counted["requests_total{outcome=completed}"] == 2, "both who were merged"
    assert (counted["wait_seconds_count{action=restart}"], counted["wait_seconds_sum{action=restart}"]) == (2, 2.0)
    assert counted["handling_seconds_sum{action=restart}"] == 2.0
    assert counted["grants_total{action=restart}"] == 2
    assert counted["turn_duration_seconds_count"] == counted["commit_duration_seconds_count"] == 2


async def test_the_three_race_signals_and_what_else_goes_wrong() -> None:
    counted, journal, clock = Counted(), await journal_of(), Clock()
    await put(journal, join(), work("r1"), work("r2", "2", reject_if_busy=True))
    lane = await begin(journal, counted.policy, clock, meter=counted.meter)
    await lane.turn()
    assert counted["lock_acquisition_failures_total{action=restart}"] == 1
    assert counted["refusals_total{code=LOCK_HELD}"] == counted["conflicts_total{kind=lock_held}"] == 1
    assert counted["requests_total{outcome=refused}"] == 1

    first = granted(journal)
    clock.s += 5.1
    await put(journal, beat(2))
    await lane.turn(3)
    assert counted["lease_expirations_total{action=restart,reason=lease_expired}"] == 1
    await put(journal, completed(first))
    await lane.turn()
    assert counted["fenced_reports_total{report=Completed}"] == counted["conflicts_total{kind=fenced_report}"] == 1

    await put(journal, completed(granted(journal), version="2", observed_version="3"))
    await lane.turn()
    assert counted["inconsistent_states_total{action=restart}"] == 1

    await put(journal, work("r3", "3", action="restart"))
    await lane.turn()
    item = granted(journal)
    await put(
        journal,
        Failed(
            session="w",
            pool="default",
            run=item.run,
            resource=item.resource,
            token=item.token,
            error=ErrorDetail(code="INTERNAL", message="no"),
        ),
        Cancellation(id="c", request="nobody", resource="deploy://api"),
    )
    await journal.append([Record(topics.REQUESTS, 0, b"k", b"no json")])
    await lane.turn()
    assert counted["attempts_failed_total{action=restart}"] == 1
    assert counted["dead_letters_total{code=BAD_RECORD}"] == 1


async def test_what_was_not_committed_is_not_counted_and_counts_once_when_it_is() -> None:
    counted, journal = Counted(), await journal_of()
    await put(journal, join(), work("r1"))
    lane = await begin(journal, counted.policy, meter=counted.meter)
    journal.log.break_next_commit(written=False)
    with pytest.raises(LaneLost):
        await lane.turn()
    assert counted["requests_accepted_total{action=restart}"] == 0
    again = await begin(journal, counted.policy, meter=counted.meter)
    await again.turn()
    assert counted["requests_accepted_total{action=restart}"] == counted["grants_total{action=restart}"] == 1


@pytest.mark.requirement("S4.3")
async def test_fifty_thousand_keys_and_hostile_actions_make_no_series() -> None:
    counted, journal = Counted(), await journal_of()
    lane = await begin(journal, counted.policy, meter=counted.meter)
    await put(journal, join(), work("first"))
    await lane.turn()
    before = counted.series()
    for start in range(0, 50_000, 1_000):
        numbers = range(start, start + 1_000)
        await put(
            journal,
            *(
                work(
                    f"r{number}",
                    resource=f"deploy://key-{number}",
                    action="restart" if number % 2 else f'x"}}\n{number}',
                    actor=f"agent-{number}",
                )
                for number in numbers
            ),
        )
        await lane.turn(2)
    accepted = counted["requests_accepted_total{action=restart}"], counted["requests_accepted_total{action=other}"]
    refused = sum(
        sample.value
        for each in counted.registry.collect()
        if each.name == "keylane_refusals"
        for sample in each.samples
        if sample.name.endswith("_total")
    )
    assert sum(accepted) + refused == 50_001 and accepted[0] == 25_001
    assert counted.series() == before


async def test_a_lane_that_was_let_go_leaves_no_series_of_its_own() -> None:
    counted, journal = Counted(), await journal_of()
    before = {series for series in counted.series() if dict(series[1]).get("partition") == "0"}
    lane = await begin(journal, counted.policy, meter=counted.meter)
    counted.meter.loaded(lane.lane, {}, 0)
    assert before and counted["partitions_owned"] == counted["lane_loads_total"] == 1
    counted.meter.halted()
    assert counted["partitions_halted"] == 1
    counted.meter.close()
    counted.meter.turned(lane.lane, {}, 0)
    assert not {series for series in counted.series() if dict(series[1]).get("partition") == "0"}
    assert counted["partitions_owned"] == counted["partitions_halted"] == 0


def test_lag_grows_where_a_lane_does_not_move_and_ends_when_it_has_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(metering.time, "monotonic", clock)
    counted = Counted()
    lag, age = "lag_records{topic=requests,partition=0}", "lag_seconds{topic=requests,partition=0}"
    ends = {Place(topic, 0): 0 for topic in INPUTS}
    counted.meter._positions = {"requests": 10, "results": 0}
    counted.meter.ends_seen(ends | {Place("requests", 0): 10})
    assert (counted[lag], counted[age]) == (0, 0)
    counted.meter.ends_seen(ends | {Place("requests", 0): 14})
    clock.s += 30
    counted.meter.ends_seen(ends | {Place("requests", 0): 20})
    assert (counted[lag], counted[age]) == (10, 30)
    clock.s += 5
    assert counted[age] == 35, "also where nothing happens at all"
    counted.meter._positions["requests"] = 16
    counted.meter._measure()
    assert (counted[lag], counted[age]) == (4, 5), "what came at first has been applied"
    counted.meter._positions["requests"] = 20
    counted.meter._measure()
    assert (counted[lag], counted[age]) == (0, 0)


def test_what_is_noted_of_a_lag_is_bounded() -> None:
    behind = Behind()
    for end in range(1, 5_000):
        behind.saw(end, float(end))
    behind.applied(0)
    assert len(behind._ends) == metering.SAMPLES_MAX and behind.since_s == 1.0
