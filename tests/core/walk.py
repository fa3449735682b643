"""Random histories of one lane: agents and workers on a universe so small that everything meets everything."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

from core.bench import Bench, policy, work

from keylane.router.core.policy import ActionPolicy, Bounds, Limit, Policy
from keylane.schemas.codec import encode

SERVED: tuple[tuple[str, ...], ...] = ((), ("stop",), ("stop", "drain", "terminate", "look", "ask"), ("ask",))
VERSIONS = ("v1", "v2", "v3")
WAITS_MS = (1, 1, 500, 500, 1_000, 1_000, 4_000, 10_000, 31_000, 4_000_000)
MIXED = policy(
    attempts=2,
    lease_ms=5_000,
    actions={
        "stop": ActionPolicy(on_conflict="supersede", stop_holder=True, lease_ms=3_000, max_hold_ms=4_000),
        "drain": ActionPolicy(
            on_conflict="reject",
            on_conflict_with={"restart": "queue", "terminate": "queue"},
            coalesce_ms=20_000,
            limit=Limit(count=1, until=("restart",)),
        ),
        "ask": ActionPolicy(
            on_conflict="review", on_conflict_with={"look": "queue"}, then="review", review_ms=60_000, attempts=1
        ),
        "terminate": ActionPolicy(requires=("drain", "stop"), version_required=True),
        "look": ActionPolicy(
            harmless=True, quiet_ms=600, max_delay_ms=2_000, max_count=3, min_interval_ms=4_000, lease_ms=5_000
        ),
    },
)
TIGHT = policy(
    attempts=2,
    lease_ms=5_000,
    bounds=Bounds(
        waiters_per_resource=3, members_per_run=2, runs=8, refusals=3, kept_cancellations=2, unserved_actions=1,
        resources=2, sessions=2, crowded_runs=5, recurrences=3,
    ),
)  # fmt: skip


def _requests(dice: random.Random, bench: Bench, id: str, resource: str) -> list[Callable[[], Any]]:
    action = dice.choice(["restart", "stop", "drain", "terminate", "look", "ask", "ask"])
    return [
        lambda: bench.feed(work(id, action, str(dice.randrange(2)), resource=resource)),
        lambda: bench.feed(work(id, "restart", "0", resource=resource, actor="ann")),
        lambda: bench.feed(work(id, "restart", "1", resource=resource, deadline_ms=dice.choice([None, 5_000]))),
        lambda: bench.feed(work(id, action, "1", resource=resource, reject_if_busy=True)),
        lambda: bench.feed(work(id, action, "2", resource=resource, idempotency_key=dice.choice("kl"))),
        lambda: bench.feed(work(id, action, "3", resource=resource, expected_version=dice.choice(VERSIONS))),
        lambda: bench.feed(work(id, action, "4", resource=resource, requires=("drain", "stop"), expected_version="v1")),
        lambda: bench.feed(work(id, action, str(dice.randrange(4)), resource=resource, coalesce_key="m")),
        lambda: bench.feed(work(id, "look", str(dice.randrange(2)), resource=resource)),
        lambda: bench.cancel(dice.choice([id, *sorted(bench.lane.runs)]), resource=resource),
    ]


def _reports(dice: random.Random, bench: Bench) -> list[Callable[[], Any]]:
    held = sorted(bench.lane.held.values())
    done = sorted(run.id for run in bench.lane.runs.values() if run.status == "completed")
    id = dice.choice(held) if held and dice.random() < 0.8 else dice.choice([f"r{dice.randrange(30)}", *done])
    token = dice.choice([None, None, None, 1])
    session = f"w{dice.randrange(3)}"
    ends: list[Callable[[], Any]] = [
        lambda: bench.complete(id, token),
        lambda: bench.complete(id, token, version=dice.choice(VERSIONS), observed_version=dice.choice([None, "v2"])),
        lambda: bench.fail(id, token, final=dice.random() < 0.3),
    ]
    return [
        *ends,
        *ends,
        lambda: bench.progress(id, token, blocked=dice.choice([None, "CI"])),
        lambda: bench.fail(id, token, code="STALE_VERSION", observed_version=dice.choice([None, *VERSIONS])),
        lambda: bench.join(session, "restart", *dice.choice(SERVED), slots=2, generation=dice.randrange(3)),
        lambda: bench.beat(session, slots=dice.randrange(3)),
        lambda: bench.beat(session, slots=2, read=0),
        lambda: bench.leave(session),
    ]


def _later(dice: random.Random, bench: Bench, id: str, resource: str) -> list[Callable[[], Any]]:
    if bench.lane.runs and dice.random() < 0.7:
        id = dice.choice(sorted(bench.lane.runs))
        resource = bench.lane.runs[id].resource
    parked, its = id, resource
    if bench.lane.parked:
        parked = dice.choice(sorted(id for entries in bench.lane.parked.values() for _, id in entries))
        resource = bench.lane.runs[parked].resource
    review = None if (run := bench.lane.runs.get(parked)) is None else run.review
    conflict = f"{bench.lane.partition}-{dice.randrange(bench.lane.own.seq + 2) if review is None else review.order}"
    return [
        lambda: bench.resolve(conflict),
        lambda: bench.decide(id, "reject", resource=its, note="no"),
        lambda: bench.decide(parked, version_seen=dice.choice(("", *VERSIONS)), resource=resource),
        lambda: bench.decide(parked, version_seen=dice.choice(("", *VERSIONS)), resource=resource),
        lambda: bench.change(dice.choice(("", *VERSIONS)), resource, what=dice.choice(["edit", "restart"])),
        lambda: bench.change(dice.choice(VERSIONS), resource, id="c", source="web", sequence=dice.randrange(9)),
    ]


WRONG = "the secret of nobody"


def _locks(dice: random.Random, bench: Bench, id: str, resource: str) -> list[Callable[[], Any]]:
    lane = bench.lane
    session = f"s{dice.randrange(3)}"
    locks = sorted(run.id for run in lane.runs.values() if run.lock is not None)
    held = [run for run in locks if lane.runs[run].state == "Held"]
    its = dice.choice(held if held and dice.random() < 0.7 else locks or [id])
    wrong = {"secret": WRONG} if dice.random() < 0.15 else {"token": 1} if dice.random() < 0.15 else {}
    asks: dict[str, Any] = {"hold": dice.choice(["", "", "h"]), "ttl_ms": dice.choice([None, 2_000, 20_000])}
    link = dice.choice(sorted(lane.links) or locks or [id])
    secret = {"secret": WRONG} if dice.random() < 0.2 else {}
    return [
        lambda: bench.lock(id, session, resource, explicit=True, **asks),
        lambda: bench.lock(id, session, resource, explicit=True, wait_ms=dice.choice([1, 3_000, 40_000]), **asks),
        lambda: bench.lock(id, session, resource, wait_ms=dice.choice([0, 5_000]), **asks, **secret),
        lambda: bench.lock(id, None, resource, wait_ms=dice.choice([0, 5_000, 90_000]), actor=dice.choice(["", "ann"])),
        lambda: bench.renew(its, dice.choice([None, None, "CI"]), **wrong),
        lambda: bench.renew(its, **wrong),
        lambda: bench.release(its, **wrong),
        lambda: bench.end_session(session, **secret),
        lambda: bench.checked(link, dice.choice([None, None, None, "s9"]), *dice.choice([(), (), (session, resource)])),
        lambda: bench.give_up(its, **secret),
        lambda: bench.feed(bench.asked[its]) if its in bench.asked else bench.wait(0),
    ]


def random_step(dice: random.Random, bench: Bench, waits_ms: tuple[int, ...] = WAITS_MS) -> None:
    """One thing that an agent, a worker or time might do."""
    id = f"r{bench.offset}" if dice.random() < 0.6 else f"r{dice.randrange(30)}"
    resource = f"deploy://{dice.randrange(2)}"
    family = dice.choice([_requests, _requests, _requests, _reports, _reports, _reports, _later, _locks, _locks, None])
    if family is _requests:
        dice.choice(_requests(dice, bench, id, resource))()
    elif family is _reports:
        dice.choice(_reports(dice, bench))()
    elif family is _locks:
        dice.choice(_locks(dice, bench, id, resource))()
    elif family is _later:
        dice.choice(_later(dice, bench, id, resource))()
    elif dice.random() < 0.15:
        bench.reload()
    else:
        bench.wait(dice.choice(waits_ms))


def settle(bench: Bench) -> None:
    """A worker for every action comes and completes all that is there."""
    actions = tuple(sorted({run.action for run in bench.lane.runs.values()} | {"restart"}))
    for number in range(1_000):
        session = f"last{number}"
        for old in list(bench.lane.sessions):
            bench.leave(old)
        bench.join(session, *actions, slots=50, generation=99)
        for run in list(bench.lane.held.values()):
            if bench.run(run).lock is None:
                bench.complete(run)
            else:
                bench.release(run)
        for run in [run for run in bench.lane.runs.values() if run.state == "Parked"]:
            bench.decide(run.id, "reject", resource=run.resource)
        if not bench.lane.held and not bench.lane.queue and not bench.lane.parked:
            return
        bench.wait(70_000)
    raise AssertionError(f"it does not come to rest: {bench.states()}")


def fingerprint(seed: int, steps: int, chosen: Policy) -> str:
    """A digest of all that a random history publishes and keeps, in order."""
    dice = random.Random(seed)
    bench = Bench(chosen)
    for _ in range(steps):
        random_step(dice, bench)
    whole = hashlib.sha256()
    for output in bench.published:
        whole.update(repr((output.topic, output.key, output.id, encode(output.record))).encode())
    for key, value in bench.stored.items():
        whole.update(key + value)
    return whole.hexdigest()
