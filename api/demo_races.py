"""The scenes of the demo in which agents race each other: a double restart, a rollback against a hotfix, two drains.

Nothing fails in them: each agent is right by what it saw, and both together would be wrong.
"""

from __future__ import annotations

import json

from keylane.client import Client
from keylane.demo_stage import OUTCOME_S, Stage, first, two
from keylane.outcome import Outcome
from keylane.schemas.conflicts import ConflictArtifact
from keylane.schemas.events import Ended, Granted, Refused


async def double_restart(stage: Stage, resource: str, alice: Client, bob: Client) -> None:
    """Two agents ask for the same: one run, and both get its outcome."""
    stage.scene("A double restart: two agents ask for the same work")
    stage.say(f"alice and bob both see that the API runs out of memory. Both ask to restart {resource}.")
    one = await alice.submit(resource, "demo.restart", {"reason": "oom"})
    other = await bob.submit(resource, "demo.restart", {"reason": "oom"})
    outcomes = [await one.outcome(OUTCOME_S), await other.outcome(OUTCOME_S)]
    await stage.record.until("the end of the restart", lambda: first(stage.record.of(Ended, resource)))
    grants = stage.record.of(Granted, resource)
    stage.claim(f"it was restarted once: one grant, to {grants[0].holder}", len(grants) == 1)
    stage.claim("bob's request was merged into alice's run", outcomes[1].coalesced and not outcomes[0].coalesced)
    same = outcomes[0].run == outcomes[1].run and outcomes[0].result == outcomes[1].result
    completed = all(outcome.status == "completed" for outcome in outcomes)
    stage.claim(f"both got its outcome: {json.dumps(outcomes[1].result)}", same and completed)


async def rollback_against_hotfix(stage: Stage, resource: str, alice: Client, bob: Client) -> None:
    """Both decide on v7. What comes first makes v8, and the other's reading is stale."""
    stage.scene("A rollback races a hotfix")
    stage.say(f"alice and bob both see {resource} at v7, broken. alice brings a hotfix, v8; bob rolls back to v6.")
    stage.say("Both actions have to name the version that they were decided on.")
    hotfix = await alice.submit(resource, "demo.hotfix", {"version": "v8"}, expected_version="v7")
    await stage.record.until("the hotfix's grant", lambda: first(stage.record.of(Granted, resource)))
    rollback = await bob.submit(resource, "demo.revert", {"version": "v6"}, expected_version="v7")
    waits = (await rollback.accepted()).state == "waiting"
    done, refused = await hotfix.outcome(OUTCOME_S), await rollback.outcome(OUTCOME_S)
    stage.claim(f"the hotfix made {done.version}, while the rollback waited", done.version == "v8" and waits)
    stage.claim("at its turn the rollback was refused: STALE_VERSION", _code(refused) == "STALE_VERSION")
    artifact = await _artifact(stage, "stale_version", resource, refused)
    stage.show(artifact)
    stage.claim(
        f"a conflict artifact names both, and says what is safe: {artifact.next_step}",
        (artifact.expected_version, artifact.known_version) == ("v7", "v8")
        and [party.actor for party in artifact.parties] == ["bob", "alice"]
        and artifact.next_step == "read_and_resubmit",
    )
    stage.claim("no worker was given the rollback", len(stage.record.of(Granted, resource)) == 1)


async def two_drains(stage: Stage, pods: str, alice: Client, bob: Client) -> None:
    """One pod of two may be drained until it is undrained: also when the first drain has finished long ago."""
    one, other = f"{pods}/1", f"{pods}/2"
    stage.scene("Two drains would leave no capacity")
    stage.say(f"alice drains {one}; bob, who has not heard of it, wants to drain {other}.")
    stage.say("These are all the pods there are. A scope rule gives both to their deployment, where a limit counts.")
    drain = await alice.submit(one, "demo.drain")
    await stage.record.until("the first drain's grant", lambda: first(stage.record.of(Granted, one)))
    early = await (await bob.submit(other, "demo.drain")).outcome(OUTCOME_S)
    await drain.outcome(OUTCOME_S)
    late = await (await bob.submit(other, "demo.drain")).outcome(OUTCOME_S)
    ended = await stage.record.until("the first drain's end", lambda: first(stage.record.of(Ended, one)))
    shown = [await _artifact(stage, "limit_reached", other, outcome) for outcome in (early, late)]
    before, after = await stage.record.until("both refusals", lambda: two(stage.record.of(Refused, other)))
    stage.claim("while it drains, bob's is refused: LIMIT_REACHED", before.seq < ended.seq and _is_full(early))
    stage.claim("it is refused as well when the first has finished", after.seq > ended.seq and _is_full(late))
    stage.show(shown[1])
    stage.claim(
        "the conflict artifact names the drain that still stands",
        [party.request for party in shown[1].parties] == [late.request_id, drain.request_id],
    )
    await alice.run(one, "demo.undrain", timeout_s=OUTCOME_S)
    again = await bob.run(other, "demo.drain", timeout_s=OUTCOME_S)
    stage.claim("after the first is undrained, bob's goes ahead", again.status == "completed")


def _code(outcome: Outcome) -> str:
    return "" if outcome.error is None else outcome.error.code


def _is_full(outcome: Outcome) -> bool:
    return outcome.status == "refused" and _code(outcome) == "LIMIT_REACHED"


async def _artifact(stage: Stage, kind: str, resource: str, outcome: Outcome) -> ConflictArtifact:
    """The one that the requester was told of."""
    return await stage.record.until(
        f"the conflict artifact of {outcome.request_id}",
        lambda: first([each for each in stage.record.artifacts(kind, resource) if each.id == outcome.conflict_id]),
    )
