"""The simulated tasks behave as anyio's: the same program says the same under both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio as real
import pytest
from simulation import tasks
from simulation.clocks import MachineClock
from simulation.world import World

Program = Callable[[Any, list[str]], Awaitable[None]]


async def deadline(anyio: Any, said: list[str]) -> None:
    with anyio.move_on_after(0.02) as scope:
        await anyio.sleep(10)
    said.append(f"caught {scope.cancelled_caught}")
    with anyio.move_on_after(10) as scope:
        await anyio.sleep(0.01)
    said.append(f"caught {scope.cancelled_caught}")


async def inner_and_outer(anyio: Any, said: list[str]) -> None:
    with anyio.CancelScope() as outer:
        with anyio.CancelScope() as inner:
            outer.cancel()
            inner.cancel()
            await anyio.sleep(0)
            said.append("never")
        said.append("never")
        await anyio.sleep(0)
    said.append(f"{inner.cancelled_caught} {outer.cancelled_caught}")


async def shield(anyio: Any, said: list[str]) -> None:
    with anyio.CancelScope() as outer:
        outer.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.01)
            said.append("in the shield")
        await anyio.sleep(0)
        said.append("never")
    said.append("after")


async def cancelled_again(anyio: Any, said: list[str]) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        for number in range(3):
            try:
                await anyio.sleep(0)
            except BaseException:
                said.append(f"again {number}")
        await anyio.sleep(0)
        said.append("never")


async def group_of_children(anyio: Any, said: list[str]) -> None:
    done = anyio.Event()

    async def child(name: str) -> None:
        try:
            await done.wait()
            said.append(f"{name} done")
        finally:
            said.append(f"{name} over")

    async with anyio.create_task_group() as group:
        group.start_soon(child, "a")
        group.start_soon(child, "b")
        await anyio.sleep(0.01)
        done.set()
    said.append("joined")
    done = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(child, "c")
        await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    said.append("cancelled")


async def failing_child(anyio: Any, said: list[str]) -> None:
    async def fails() -> None:
        raise ValueError("broken")

    async def waits() -> None:
        try:
            await anyio.sleep(10)
        finally:
            said.append("let go")

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(waits)
            group.start_soon(fails)
            await anyio.sleep(10)
    except BaseExceptionGroup as errors:
        said.append(repr(errors.exceptions))


async def cancelled_group(anyio: Any, said: list[str]) -> None:
    async def waits() -> None:
        try:
            await anyio.sleep(10)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            said.append("cleaned up")

    with anyio.move_on_after(0.02) as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(waits)
        said.append("never")
    said.append(f"caught {scope.cancelled_caught}")


PROGRAMS = [
    deadline, inner_and_outer, shield, cancelled_again, group_of_children, failing_child, cancelled_group
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_program_says_the_same_as_under_anyio(program: Program) -> None:
    expected: list[str] = []
    real.run(program, real, expected)
    said: list[str] = []
    world = World(0)
    world.process("p", MachineClock()).spawn(program, tasks.anyio, said)  # type: ignore[arg-type]
    world.run_until(60_000_000)
    assert world.uncaught == []
    assert said == expected


def test_a_crash_ends_tasks_where_they_stand_and_a_pause_holds_them() -> None:
    said: list[str] = []

    async def ticks() -> None:
        try:
            while True:
                await tasks.sleep(1)
                said.append("tick")
        finally:
            said.append("cleaning up")
            await tasks.sleep(1)
            said.append("never")

    world = World(0)
    process = world.process("p", MachineClock())
    process.spawn(ticks)
    world.run_until(1_500_000)
    process.pause()
    world.run_until(10_000_000)
    assert said == ["tick"]
    process.resume()
    world.run_until(10_500_000)
    assert said == ["tick", "tick"]
    process.crash()
    world.run_until(20_000_000)
    assert said == ["tick", "tick", "cleaning up"]


def test_clocks_run_apart_and_rest_while_a_machine_sleeps() -> None:
    clock = MachineClock(rate_ppm=10_000)
    clock.suspended(1_000_000, 3_000_000)
    assert clock.boot_us(4_000_000) == 4_040_000
    assert clock.monotonic_us(4_000_000) == 2_020_000
    assert clock.monotonic_us(500_000) == 505_000
