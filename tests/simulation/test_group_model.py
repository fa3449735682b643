"""The model of a group is honest: it shows no member what no real group would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulation.clocks import MachineClock
from simulation.group_model import Coordinator, ModelMembership
from simulation.process import Process
from simulation.tasks import sleep_us
from simulation.world import World

from keylane.journal.port import Assignment


def test_a_group_does_not_go_back_where_an_earlier_question_is_answered_from_a_later_state() -> None:
    """As SQLite's snapshots and Kafka's one coordinator: else a settled member lets go and waits for ever."""
    world = World(0)
    process = world.process("router0", MachineClock(0, 0, 0))
    membership = ModelMembership(_after, Coordinator(world), process, 2)
    told: list[Assignment | None] = []

    async def listen() -> None:
        told.extend([await membership.changed(0.1) for _ in range(2)])

    process.spawn(membership._look, lambda: (1_000, (2, {0: 2, 1: 2})))
    process.spawn(membership._look, lambda: (2_000, (2, {0: 1, 1: 2})))
    world.run_until(1_500)
    process.spawn(listen)
    world.run_until(1_000_000)
    assert told == [Assignment(2, frozenset({0})), None]


async def _after(process: Process, apply: Callable[[], Any]) -> Any:
    delay_us, answer = apply()
    await sleep_us(delay_us)
    return answer
