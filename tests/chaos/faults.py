"""The faults. Each is done to a fleet under load and returns whether it has bitten: one without effect shows nothing.

They are pieces: which, when and how many is decided by the modes, from a seed.
"""

import signal
from collections.abc import Callable, Set

import anyio
from chaos.children import CARELESS, Child
from chaos.fleet import Fleet
from kafka.proxy import END_TXN, Held, end_txn_error

BITE_S = 20.0
WOKEN_S = 3.0
"""How long a process that was stopped has, once it goes on, to do what it should not: it takes milliseconds."""


async def kill_router(fleet: Fleet, victim: Child) -> bool:
    """Bitten: it owned lanes, and another has claimed every one of them since."""
    lanes, history = fleet.lanes(victim), fleet.history
    before = dict(history.claims)
    victim.kill()
    fleet.replace(victim)
    return bool(lanes) and await history.until(
        lambda: all(history.claims[lane] > before[lane] for lane in lanes), BITE_S
    )


async def kill_worker(fleet: Fleet, victim: Child) -> bool:
    """Bitten: leases that it held were lost."""
    history = fleet.history
    before = history.lost_by.get(victim.name, 0)
    victim.kill()
    fleet.replace(victim)
    # What it was granted in its last moments may not be known here yet: whether it held nothing shows when it lapsed.
    lapsed_s = 5 * fleet.shape.session_lapse_ms / 1_000
    return await history.until(
        lambda: history.lost_by.get(victim.name, 0) > before, BITE_S if history.held_by(victim.name) else lapsed_s
    )


async def kill_publisher(fleet: Fleet, victim: Child) -> bool:
    """Bitten: it was publishing, and the next one goes on."""
    before = len(fleet.acknowledged())
    victim.kill()
    between = len(fleet.acknowledged())
    fleet.replace(victim)
    with anyio.move_on_after(BITE_S):
        while len(fleet.acknowledged()) == between:  # noqa: ASYNC110
            await anyio.sleep(0.02)
        return before > 0
    return False


KILLS = {"router": kill_router, "worker": kill_worker, "publisher": kill_publisher}


async def zombie_router(fleet: Fleet, victim: Child, pause_s: float) -> str | None:
    """Stopped until others have its lanes and every timeout is over. What it met when it went on: `fenced` where the
    journal refused its commit, `let_go` where its own clock told it first. `held_up_all`: see `_sleeps`. None: it had
    nothing to lose.

    On Kafka it is stopped in the middle of a commit, which arrives when others have the lane: by itself a router that
    wakes up looks at its group first, so the broker would hardly ever have anything to refuse.
    """
    lanes, history = fleet.lanes(victim), fleet.history
    before, fenced = dict(history.claims), fleet.fencings(victim)
    late = await _commit_under_way(fleet, lanes)
    try:
        taken = await _sleeps(
            fleet, victim, pause_s, lambda: all(history.claims[lane] > before[lane] for lane in lanes)
        )
    finally:
        if fleet.proxy is not None and late is not None:
            fleet.proxy.forget(late)
    if taken is None:
        return "held_up_all"
    if not lanes or not taken:
        return None
    if late is not None and late.arrived.is_set() and await _comes(late.answered.is_set):
        return "fenced" if end_txn_error(late) else None
    return "fenced" if await _comes(lambda: fleet.fencings(victim) > fenced) else "let_go"


async def _commit_under_way(fleet: Fleet, lanes: Set[int]) -> Held | None:
    if fleet.proxy is None or not lanes:
        return None
    held = fleet.proxy.hold(END_TXN, names=fleet.transactional_id(min(lanes)))
    with anyio.move_on_after(BITE_S):
        await held.arrived.wait()
    return held


async def zombie_worker(fleet: Fleet, victim: Child, pause_s: float) -> str | None:
    """Stopped in the middle of its work until others have done that. What it met when it went on: `refused` where the
    sink that checks tokens refused a write of its, `fenced` where the lane refused its report. `held_up_all`: see
    `_sleeps`. None: none of these."""
    history, name = fleet.history, victim.name
    await history.until(lambda: any(item.action == CARELESS for item in history.held_by(name)), BITE_S)
    refused, fenced = fleet.checking.count("refused", name), history.fenced_by.get(name, 0)
    if await _sleeps(fleet, victim, pause_s, lambda: not history.held_by(name)) is None:
        return "held_up_all"
    if await _comes(lambda: fleet.checking.count("refused", name) > refused):
        return "refused"
    return "fenced" if history.fenced_by.get(name, 0) > fenced else None


async def _sleeps(fleet: Fleet, victim: Child, pause_s: float, is_over: Callable[[], bool]) -> bool | None:
    """Stop a process for so long, and on until others have taken over; whether they have. None where nobody decided
    anything meanwhile: on SQLite a process that is stopped in the middle of a commit has the write lock."""
    victim.signal(signal.SIGSTOP)
    try:
        await anyio.sleep(pause_s / 2)
        events = fleet.history.events
        await anyio.sleep(pause_s / 2)
        if fleet.history.events == events:
            return None
        return await fleet.history.until(is_over, BITE_S)
    finally:
        victim.signal(signal.SIGCONT)


async def _comes(is_so: Callable[[], bool]) -> bool:
    with anyio.move_on_after(WOKEN_S):
        while not is_so():  # noqa: ASYNC110
            await anyio.sleep(0.05)
        return True
    return False
