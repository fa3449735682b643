"""Judges a finished run by its records, with the checkers that know no core code (`keylane.verify`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from simulation.findings import Violation

from keylane.verify import Acknowledged, Configured, Effect, Entry, Line, Span, verify

if TYPE_CHECKING:
    from simulation.run import Play


def lines(play: Play) -> Iterator[Line]:
    """The history of a run as its checkers read it."""
    bounds = play.scenario.policy.bounds
    yield Configured(
        retention_ms=play.scenario.policy.retention_ms,
        waiters_per_resource=bounds.waiters_per_resource,
        members_per_run=bounds.members_per_run,
        locks_per_session=bounds.locks_per_session,
        max_hold_ms=play.scenario.policy.locks.max_hold_ms,
    )
    for place, partition in play.log.partitions.items():
        yield Span(topic=place.topic, partition=place.partition, end=partition.end)
        for stored in play.log.committed(place):
            yield Entry(stored.topic, stored.partition, stored.offset, stored.key, stored.value, stored.timestamp_ms)
    yield from (Acknowledged(id=id) for id in play.truth.requests.acknowledged)
    yield from (Effect(resource=resource, run=run, token=token) for resource, run, token in play.truth.grants.effects)


def judged(play: Play) -> list[Violation]:
    """What the records show of broken promises."""
    report = verify(lines(play), drained=not play.truth.lanes.halted)
    return [
        Violation(f"promise {found.promise}", f"partition {found.partition}: {found.message} {', '.join(found.places)}")
        for found in report.violations
    ]
