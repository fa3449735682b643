"""What of a record its places in the lane's indexes and timers depend on. Pure; who keeps them is `lane`."""

from __future__ import annotations

from keylane.schemas.requests import WorkRequest
from keylane.schemas.state import Member, Resource, Run, WorkerSession

Likeness = tuple[object, ...]


def likeness(of: Run | WorkRequest, digest: str) -> Likeness:
    """What equal requests have in common (design section 4, arrival rule 4). `digest`: of the payload,
    in whose place a key of the requester's own may stand.

    Most name no condition, and are told apart by three texts alone.
    """
    plain = (of.resource, of.action, digest)
    if of.coalesce_key is not None:
        return (of.resource, of.action, None, of.coalesce_key, of.expected_version, frozenset(of.requires))
    if of.expected_version is None and not of.requires:
        return plain
    return (*plain, of.expected_version, frozenset(of.requires))


def is_approved(run: Run) -> bool:
    """Whether a person has decided that it may go ahead."""
    return run.review is not None and run.review.decided_order is not None


def firm_order(run: Run) -> int | None:
    """The event after which nothing else may complete on its resource: its approval, or else its first grant."""
    if run.review is not None and run.review.decided_order is not None:
        return run.review.decided_order
    return run.granted_order


def decided_on(run: Run) -> str | None:
    """The version that it goes ahead on: that of its approval, or else that of its request."""
    return (run.review.version_seen if run.review is not None else None) or run.expected_version


def changed_order(resource: Resource) -> int:
    """The event of the newest change that was made outside; 0: none is known."""
    return 0 if resource.outside is None else resource.outside.order


def idempotency_key(of: Run | Member) -> tuple[str, str]:
    """The owning key and the requester's own."""
    assert of.idempotency is not None
    return (of.idempotency.owner, of.idempotency.key)


def carried_bytes(run: Run | None) -> int:
    """What agents wrote that the run carries: payload, checkpoint and result."""
    if run is None:
        return 0
    carried = len(memoryview(run.payload)) + len(memoryview(run.result))
    saved = run.checkpoint
    return carried if saved is None else carried + len(memoryview(saved.data)) + len(memoryview(saved.evidence))


def own_bytes(member: Member | None) -> int:
    """The payload that a request has beside its run's."""
    return 0 if member is None or not member.payload_digest else len(memoryview(member.payload))


def due_ms(run: Run, deadline_ms: int | None) -> int | None:
    """When a run that is not done decides by itself. `deadline_ms`: the earliest of its requesters', while not held."""
    if run.state == "Held":
        return run.lease_until_ms
    due = run.expires_ms
    for time in (run.ready_ms, deadline_ms):
        if time is not None and (due is None or time < due):
            due = time
    return due


def stands(run: Run) -> tuple[object, ...]:
    """What a run's place in the indexes depends on."""
    return (run.state, run.session, run.status, run.ready_ms)


def is_joinable(run: Run | None) -> bool:
    """Whether an equal request may find it: what failed or was called off is joined by nobody, and no lock is."""
    return run is not None and run.lock is None and (run.state != "Done" or run.status == "completed")


def outcome_ms(run: Run | None) -> int | None:
    """When an outcome is forgotten that no idempotency key names; None for any other run."""
    return run.forget_ms if run is not None and run.state == "Done" and not run.keyed else None


def resting_ms(resource: Resource | None, steps: frozenset[str]) -> int | None:
    """When a resource is forgotten; None where its newest completion is a step that others require."""
    return None if resource is None or resource.completed_action in steps else resource.forget_ms


def seat(session: WorkerSession) -> tuple[int, int, str]:
    """Where the session stands in its group; the last one is current."""
    return (session.generation, session.order, session.id)


def offer(session: WorkerSession) -> tuple[object, ...]:
    """What decides who gets grants and when it ends: where none of it changes, a session cannot have become free."""
    return (
        session.pool, session.actions, session.generation, session.order,
        session.slots, session.heartbeat, session.lapses_ms,
    )  # fmt: skip
