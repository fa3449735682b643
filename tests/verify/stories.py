"""One good history in which everything happens once, produced by the core, for tests to spoil."""

from __future__ import annotations

from functools import cache

from core.bench import policy
from verify.recording import Recorder

from keylane.router.core.policy import ActionPolicy
from keylane.verify import Entry

ACTIONS = ("drain", "restart", "stop")
POLICY = policy(
    attempts=3,
    lease_ms=5_000,
    coalesce_ms=1_000,
    actions={"stop": ActionPolicy(on_conflict="supersede"), "drain": ActionPolicy(on_conflict="reject")},
)
WEB = "deploy://web"


@cache
def story() -> tuple[Entry, ...]:
    """Three workers and thirteen requests on two resources; at the end nothing is open."""
    bench = Recorder(POLICY)
    bench.join("w1", *ACTIONS, slots=2)
    bench.request("r1", payload="1")
    bench.request("r2", payload="2")
    bench.request("r3", payload="2", actor="ann")  # merged into r2
    bench.request("r4", "drain")  # refused: LOCK_HELD
    bench.wait(3_000)
    bench.progress("r1")
    bench.beat("w1", slots=2)
    bench.wait(4_000)
    bench.complete("r1", version="v1", observed_version="v2")  # inconsistent; r2 is granted
    stale = bench.run("r2").token
    bench.beat("w1", slots=2)
    bench.wait(5_000)  # its lease expires: r2 backs off
    bench.beat("w1", slots=2)
    bench.complete("r2", stale)  # late: fenced
    bench.request("r1", payload="1")  # repeated
    bench.request("r1", payload='"other"')  # reused
    bench.wait(1_000)  # r2 and r3 are granted again
    bench.progress("r2", blocked="CI")
    bench.fail("r2", retry_after_ms=1_500)
    bench.request("r5", payload="5")  # goes before r2, which backs off
    bench.request("r6", "stop", payload="6")  # waits, and replaces r2: r3 too
    bench.complete("r5")
    bench.request("r7", payload="7")
    bench.request("r8", payload="7")
    bench.cancel("r8")  # leaves r7
    bench.request("r9", payload="9")
    bench.cancel("r9")  # ends r9
    bench.beat("w1", slots=2)
    bench.complete("r6")
    bench.request("r10", resource=WEB, payload="10", deadline_ms=60_000)
    bench.progress("r7")
    bench.progress("r10")
    bench.wait(3_000)
    bench.progress("r7")
    bench.progress("r10")
    bench.wait(4_000)
    bench.progress("r7")
    bench.progress("r10")
    bench.wait(4_000)  # w1 is silent for too long: both are lost
    bench.join("w2", *ACTIONS, slots=5)
    bench.wait(2_000)
    bench.complete("r7")
    bench.complete("r10")
    bench.request("r11", resource=WEB, payload="11", deadline_ms=1_000)
    bench.complete("r11")
    bench.leave("w2")
    bench.request("r12", resource=WEB, payload="12")  # nobody serves it
    bench.request("r13", resource=WEB, payload="12", deadline_ms=1_000)
    bench.wait(1_500)  # r13 leaves
    bench.join("w3", *ACTIONS, slots=5)
    bench.complete("r12")
    return tuple(bench.entries)
