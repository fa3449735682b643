"""The story of the demo, told with real processes: a router, three workers, and agents in this process.

Six scenes, each of which ends with claims that are checked against what the lanes put on record. A claim
that does not hold ends the demo with exit code 1. How processes are run is in `demo_stage`; the scenes in which agents
race each other, and no process fails, are in `demo_races`.
"""

from __future__ import annotations

import json
import signal
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from secrets import token_hex

import anyio

from keylane.cli_answers import DemoDone
from keylane.cli_context import CommandContext
from keylane.client import Client
from keylane.demo_races import double_restart, rollback_against_hotfix, two_drains
from keylane.demo_stage import (
    OUTCOME_S,
    Recording,
    Stage,
    environ_of,
    first,
    log_tails,
    process,
    router_ready,
    start_workers,
    two,
)
from keylane.errors import LockHeld
from keylane.journal.connect import connect, resolve_url
from keylane.schemas.events import Ended, Fenced, Granted, Lost, Progressed, Refused
from keylane.schemas.topics import EVENTS

WORKERS = ["worker-1", "worker-2", "worker-3"]
KAFKA_OPTIONS = "prefix=keylane-demo.&session_timeout_ms=6000"

# Times short enough to watch. Real ones are minutes (leases) and ten seconds (sessions).
CONFIG = """\
session_lapse = "3s"
[defaults]
lease = "5s"
coalesce = "5s"
[actions."demo.hotfix"]
version = "required"
[actions."demo.revert"]
version = "required"
[actions."demo.drain"]
limit = { count = 1, until = ["demo.undrain"] }
[[scopes]]
match = "k8s://{cluster}/pods/{namespace}/{app}/{pod}"
owner = "k8s://{cluster}/deployments/{namespace}/{app}"
"""


async def tell(context: CommandContext) -> DemoDone:
    """Play all scenes. Raises `ClaimBroken` when the record does not show what is claimed."""
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="keylane-demo-") as folder:
        directory = Path(folder)
        try:
            claims = await _play(context, directory)
        except Exception:
            for text in log_tails(directory):
                context.warn(text)
            raise
    return DemoDone(claims=claims, seconds=time.monotonic() - began_s)


async def _play(context: CommandContext, directory: Path) -> int:
    named = context.url or context.environ.get("KEYLANE_URL")
    url = _stage_url(resolve_url(named or f"sqlite://{directory}/journal.db", context.environ))
    environ = environ_of(context.environ, url)
    (directory / "keylane.toml").write_text(CONFIG)
    async with AsyncExitStack() as stack:
        command = ["keylane.cli", "--output", "json", *_service(url)]
        router = await stack.enter_async_context(process(directory, "router", environ, *command, listened_to=True))
        await router_ready(router)
        journal = await connect(url)
        stack.push_async_callback(journal.close)
        group = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(group.cancel_scope.cancel)
        stage = Stage(directory, Recording(), context.show)
        await group.start(stage.record.follow, journal)
        stage.say(f"A router and three workers run as processes of their own, on {url}.")
        partitions = await journal.partitions(EVENTS)
        assert partitions is not None, "the router has just set the journal up"
        await start_workers(stage, stack, WORKERS, environ, partitions)
        alice, bob, carol = [
            await stack.enter_async_context(Client(url, actor=actor)) for actor in ("alice", "bob", "carol")
        ]
        telling = token_hex(3)
        await double_restart(stage, f"deploy://api-{telling}", alice, bob)
        await different_work(stage, f"deploy://web-{telling}", alice, bob, carol)
        await killed(stage, f"db://orders-{telling}", alice)
        await stopped(stage, f"vault://keys-{telling}", alice)
        await rollback_against_hotfix(stage, f"deploy://shop-{telling}", alice, bob)
        await two_drains(stage, f"k8s://prod-{telling}/pods/shop/cart", alice, bob)
        return stage.claims


def _stage_url(url: str) -> str:
    """On a Kafka, topics and groups of its own: neither the demo's short times nor its workers may come near
    real work. And the shortest group session that brokers allow, since a killed member is missed after it.
    """
    if not url.startswith("kafka://") or "prefix=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}{KAFKA_OPTIONS}"


def _service(url: str) -> list[str]:
    return ["up"] if url.startswith("sqlite://") else ["router"]


async def different_work(stage: Stage, resource: str, alice: Client, bob: Client, carol: Client) -> None:
    """Two changes to one resource: the second waits; whoever does not want to wait is refused."""
    stage.scene("Two different changes to one resource")
    stage.say(f"alice deploys v2 to {resource}. While that is under way, bob asks to roll back to v1.")
    deploy = await alice.submit(resource, "demo.deploy", {"version": "v2"})
    await stage.record.until("the deploy's grant", lambda: first(stage.record.of(Granted, resource)))
    rollback = await bob.submit(resource, "demo.rollback", {"version": "v1"})
    status = await rollback.accepted()
    stage.claim(f"bob's rollback waits; {status.holder} holds the resource", status.state == "waiting")
    stage.say("carol would rather be refused than wait (reject_if_busy).")
    try:
        ticket = await carol.submit(resource, "demo.rollback", {"version": "v0"}, reject_if_busy=True)
        await ticket.accepted()
        refused = None
    except LockHeld as error:
        refused = error
        stage.say(json.dumps(error.to_envelope()))
    stage.claim(
        f"she was told LOCK_HELD, and to try again in {refused.retry_after_ms if refused else None} ms",
        refused is not None and refused.retry_after_ms is not None,
    )
    outcomes = [await deploy.outcome(OUTCOME_S), await rollback.outcome(OUTCOME_S)]
    stage.claim("alice's and bob's completed", all(outcome.status == "completed" for outcome in outcomes))
    ends = await stage.record.until("both ends", lambda: two(stage.record.of(Ended, resource)))
    before, after = stage.record.of(Granted, resource)
    stage.claim(
        f"the rollback was granted only after the deploy's end, under a higher token ({before.token} < {after.token})",
        after.seq > ends[0].seq and after.token > before.token,
    )
    refusals = stage.record.of(Refused, resource)
    stage.claim("carol's was never granted", len(refusals) == 1 and len(stage.record.of(Granted, resource)) == 2)


async def killed(stage: Stage, resource: str, alice: Client) -> None:
    """A worker dies in the middle: another takes over from its checkpoint."""
    stage.scene("A worker is killed in the middle of its work")
    stage.say(f"alice asks to migrate {resource}: six steps, each saved as a checkpoint.")
    ticket = await alice.submit(resource, "demo.migrate")
    await stage.record.until("two checkpoints", lambda: two(_checkpoints(stage, resource)))
    (before,) = stage.record.of(Granted, resource)
    stage.signal(before.holder, signal.SIGKILL)
    stage.say(f"kill -9 {before.holder}, process {stage.workers[before.holder].pid}, after its second checkpoint.")
    outcome = await ticket.outcome(OUTCOME_S)
    await stage.record.until("the end of the migration", lambda: first(stage.record.of(Ended, resource)))
    grants = stage.record.of(Granted, resource)
    after = grants[-1]
    lost = stage.record.of(Lost, resource)
    stage.claim(
        f"its lease ended ({', '.join(event.reason for event in lost)}), and {after.holder} took over",
        len(lost) == 1 and len(grants) == 2 and after.holder != before.holder,
    )
    stage.claim(f"under a higher token ({before.token} < {after.token})", after.token > before.token)
    went_on = outcome.result["began_after"] if outcome.status == "completed" else 0
    stage.claim(f"it went on after step {went_on}, where the last checkpoint was, and completed", went_on >= 2)


async def stopped(stage: Stage, resource: str, alice: Client) -> None:
    """A stopped worker wakes up and reports late: its report changes nothing and is shown."""
    stage.scene("A stopped worker wakes up and reports late")
    stage.say(f"alice asks to rotate {resource}. The worker is stopped in the middle (SIGSTOP), as a paused VM is.")
    ticket = await alice.submit(resource, "demo.rotate")
    await stage.record.until("the rotation's first checkpoint", lambda: first(_checkpoints(stage, resource)))
    (before,) = stage.record.of(Granted, resource)
    stage.signal(before.holder, signal.SIGSTOP)
    outcome = await ticket.outcome(OUTCOME_S)
    after = stage.record.of(Granted, resource)[-1]
    stage.claim(
        f"{after.holder} took over from {before.holder} ({before.token} < {after.token}) and completed",
        outcome.status == "completed" and after.token > before.token and after.holder != before.holder,
    )
    stage.say(f"Now {before.holder} wakes up (SIGCONT). Its own keylane would cancel the handler and drop its result;")
    stage.say("this handler is careless on purpose and reports its result around it, straight to the journal.")
    stage.signal(before.holder, signal.SIGCONT)
    fenced = await stage.record.until("the fenced report", lambda: first(stage.record.of(Fenced, resource)))
    stage.claim(f"the late report under token {fenced.token} was fenced", fenced.token == before.token)
    artifact = await stage.record.until(
        "its conflict artifact", lambda: first(stage.record.artifacts("fenced_report", resource))
    )
    stage.show(artifact)
    stage.claim("a conflict artifact says so", artifact.kind == "fenced_report")
    status = await alice.status(resource, ticket.request_id)
    stage.claim(
        f"the outcome is still that of {after.holder}",
        len(stage.record.of(Ended, resource)) == 1
        and status.outcome is not None
        and status.outcome.result == outcome.result == {"rotated_by": after.holder},
    )


def _checkpoints(stage: Stage, resource: str) -> list[Progressed]:
    return [event for event in stage.record.of(Progressed, resource) if event.checkpoint]
