"""Good histories of locks, produced by the core, for tests to spoil; and deadlocks, in one lane and over several."""

from __future__ import annotations

from functools import cache

from core.bench import policy
from msgspec.structs import replace
from verify.recording import Recorder
from verify.waiting_lanes import Waiting

from keylane.journal.partitioner import partition_of
from keylane.router.core.policy import LockPolicy, Policy
from keylane.verify import Entry

API, WEB, DB = "deploy://api", "deploy://web", "db://main"
MAX_HOLD_MS = 100_000
POLICY: Policy = replace(policy(lease_ms=5_000), locks=LockPolicy(max_hold_ms=MAX_HOLD_MS, ttl_ms=20_000))
TTL_MS = 10_000
LANES = 5
"""So many that each of the three resources has a lane of its own."""


@cache
def lock_story() -> tuple[Entry, ...]:
    """Everything that becomes of a lock, in one lane; at the end nothing is open."""
    bench = Recorder(POLICY)
    bench.join("w1", slots=2)
    _held_and_renewed(bench)
    _waited_for(bench)
    _lost(bench)
    _cancelled(bench)
    for lane in (_two, _three):
        lane(bench, bench, bench)
    return tuple(bench.entries)


def _held_and_renewed(bench: Recorder) -> None:
    bench.lock("l1", "s1", ttl_ms=TTL_MS)  # at once
    bench.lock("l2", "s1", ttl_ms=TTL_MS)  # has it again
    bench.wait(4_000)
    bench.renew("l1")
    bench.request("r1")  # waits for its turn
    bench.lock("l3", "s3", wait_ms=60_000, ttl_ms=TTL_MS)  # and this one after it
    bench.lock("l4", "s4")  # refused: LOCK_HELD
    bench.wait(2_000)
    bench.renew("l1", "CI")
    bench.renew("l1", secret="the secret of nobody")  # fenced
    bench.beat("w1", slots=2)


def _waited_for(bench: Recorder) -> None:
    bench.release("l1")  # r1 is granted
    bench.release("l1")  # comes again
    bench.complete("r1")  # l3 is granted, as a claim
    bench.wait(1_000)
    bench.renew("l3")
    bench.lock("l5", "s5", wait_ms=2_000)
    bench.wait(2_500)  # l5 has waited for long enough
    bench.lock("l6", "s6", wait_ms=60_000)
    bench.leave("w1")
    bench.release("l3")  # l6 is granted, and nobody is there
    bench.wait(31_000)


def _lost(bench: Recorder) -> None:
    bench.lock("l7", "s7", ttl_ms=TTL_MS)
    bench.wait(1_000)
    bench.renew("l7")
    bench.wait(11_000)  # its lease ends
    bench.release("l7")  # late: fenced
    bench.lock("l8", "s8", hold="a")
    bench.lock("l9", "s8", hold="b", wait_ms=60_000)
    bench.lock("l10", "s10", WEB)
    bench.end_session("s8")  # l8 is lost, l9 withdrawn


def _cancelled(bench: Recorder) -> None:
    bench.lock("l11", "s11", wait_ms=60_000, ttl_ms=TTL_MS)
    bench.lock("l12", "s12", wait_ms=60_000)
    bench.cancel("l12")  # while it waits
    bench.give_up("l11")  # while it is held, with its secret
    bench.lock("l13", "s13")
    bench.cancel("l13")  # without: asked to stop
    bench.release("l13")
    bench.release("l10")


def _two(api: Recorder, web: Recorder, _: Recorder) -> None:
    api.lock("two-a", "sa", API, explicit=True)
    web.lock("two-b", "sb", WEB, explicit=True)
    web.lock("two-aw", "sa", WEB, explicit=True, wait_ms=60_000)
    web.checked("two-aw")
    api.lock("two-c", "sc", API, explicit=True)  # would not wait
    api.checked("two-c")  # refused: LOCK_HELD
    api.lock("two-ba", "sb", API, explicit=True, wait_ms=60_000)
    api.checked("two-ba")  # refused: DEADLOCK
    web.release("two-b")
    web.renew("two-aw")
    web.release("two-aw")
    api.release("two-a")


def _three(api: Recorder, web: Recorder, db: Recorder) -> None:
    api.lock("three-a", "sa", API, explicit=True)
    web.lock("three-b", "sb", WEB, explicit=True)
    db.lock("three-c", "sc", DB, explicit=True)
    web.lock("three-aw", "sa", WEB, explicit=True, wait_ms=60_000)
    db.lock("three-bd", "sb", DB, explicit=True, wait_ms=60_000)
    for bench, request in ((web, "three-aw"), (db, "three-bd")):
        bench.checked(request)
    db.reload()
    api.lock("three-ca", "sc", API, explicit=True)  # would not wait: refused all the same, DEADLOCK
    api.checked("three-ca")
    db.release("three-c")
    db.renew("three-bd")
    db.release("three-bd")
    web.release("three-b")
    web.renew("three-aw")
    web.release("three-aw")
    api.release("three-a")


@cache
def deadlock_of_two() -> tuple[Entry, ...]:
    """In one lane, and nothing else: short enough for every record of `waits` to be there."""
    bench = Recorder(POLICY)
    _two(bench, bench, bench)
    return tuple(bench.entries)


@cache
def deadlocks_over_lanes() -> tuple[Entry, ...]:
    """The same, each resource in a lane of its own."""
    waiting = Waiting()
    lanes = [Recorder(POLICY, partition_of(key.encode(), LANES), LANES, waiting) for key in (API, WEB, DB)]
    assert len({lane.partition for lane in lanes}) == len(lanes)
    _two(*lanes)
    _three(*lanes)
    return tuple([*(entry for lane in lanes for entry in lane.entries), *waiting.entries])
