"""How each record takes its place in a lane, with everything that is derived from it: called by `Lane.put` alone.

The same code puts a record live and at a load, in whatever order records come then. No rule is decided here.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from keylane.router.core.ordered import Entry, add, remove
from keylane.router.core.standing import (
    carried_bytes,
    due_ms,
    idempotency_key,
    is_joinable,
    likeness,
    offer,
    outcome_ms,
    own_bytes,
    resting_ms,
    seat,
    stands,
)
from keylane.schemas.state import (
    KEYS,
    CountedGrant,
    KeptCancellation,
    LockTerms,
    Member,
    Recurrence,
    RefusedRequest,
    Resource,
    Run,
    UnservedAction,
    WaitLink,
    WorkerSession,
)

if TYPE_CHECKING:
    from keylane.router.core.lane import Lane


def put_run(lane: Lane, key: bytes, id: str, new: Run | None) -> None:
    """A run moves between its owner's queue, its holder and its outcome."""
    old = lane.runs.get(id)
    if new is not None:
        lane.runs[id] = new
    elif old is not None:
        del lane.runs[id]
    _carry(lane, old, new)
    run = old if new is None else new
    # A run keeps its owner and its likeness: how it stands is what moves it in the indexes.
    if run is not None and (old is None or new is None or stands(old) != stands(new)):
        if old is not None:
            _unplace(lane, old)
        if new is not None:
            _place(lane, new)
        if is_joinable(old) != is_joinable(new):
            (add if is_joinable(new) else remove)(lane.equal, likeness(run, run.digest), (run.order, id))
        if run.idempotency is not None and (old is None or new is None):
            (add if old is None else remove)(lane.keyed, idempotency_key(run), (run.order, id))
        _rehead(lane, run.owner)
    _retime(lane, key, old, new)


def _carry(lane: Lane, old: Run | None, new: Run | None) -> None:
    """Keep `carried_bytes`. Most changes of a run leave what it carries as it is."""
    if old is not None and new is not None:
        if old.payload is new.payload and old.result is new.result and old.checkpoint is new.checkpoint:
            return
    lane.carried_bytes += carried_bytes(new) - carried_bytes(old)


def _place(lane: Lane, run: Run) -> None:
    entry = (run.order, run.id)
    if run.state == "Waiting":
        add(lane.queue, run.owner, entry)
        lane.waiting.enter(run.accepted_ms, run.id)
        owners = lane.waiting_owners.setdefault(run.action, {})
        owners[run.owner] = owners.get(run.owner, 0) + 1
    elif run.state == "Parked":
        add(lane.parked, run.owner, entry)
    elif run.state == "Held":
        assert run.owner not in lane.held, "one live grant per owning key"
        lane.held[run.owner] = run.id
        if run.lock is None:
            add(lane.held_by, run.session, entry)
        _note_holder(lane, run.owner)
    if run.lock is not None:
        _place_lock(lane, run, run.lock, add)


def _unplace(lane: Lane, run: Run) -> None:
    entry = (run.order, run.id)
    if run.state == "Waiting":
        remove(lane.queue, run.owner, entry)
        lane.waiting.leave()
        owners = lane.waiting_owners[run.action]
        owners[run.owner] -= 1
        if not owners[run.owner]:
            del owners[run.owner]
            if not owners:
                del lane.waiting_owners[run.action]
    elif run.state == "Parked":
        remove(lane.parked, run.owner, entry)
    elif run.state == "Held":
        del lane.held[run.owner]
        if run.lock is None:
            remove(lane.held_by, run.session, entry)
            lane.freed[run.session] = None
        _note_holder(lane, run.owner)
    if run.lock is not None:
        _place_lock(lane, run, run.lock, remove)


def _place_lock(lane: Lane, run: Run, lock: LockTerms, change: Callable[[dict[str, Any], str, Entry], None]) -> None:
    """A lock that is not over stands under its session as well; one that waits may be in a cycle."""
    if run.state == "Done":
        return
    entry = (run.order, run.id)
    change(lane.locks_of, lock.session, entry)
    if run.state == "Waiting" and lock.explicit:
        change(lane.explicit_of, run.owner, entry)
        lane.relinked[run.owner] = None


def _note_holder(lane: Lane, owner: str) -> None:
    """Whoever waits for the holder waits for another one now."""
    if owner in lane.explicit_of or owner in lane.links_of:
        lane.relinked[owner] = None


def _rehead(lane: Lane, owner: str) -> None:
    """Find the owning key's first ready run again: none while it is held."""
    head: tuple[str, Entry] | None = None
    if owner not in lane.held:
        for entry in lane.queue.get(owner, ()):
            run = lane.runs[entry[1]]
            if run.ready_ms is None and not _aside(lane, run.action):
                head = (run.action, entry)
                break
    old = lane.head_of.get(owner)
    if head == old:
        return
    if old is not None:
        remove(lane.heads, *old)
        del lane.head_of[owner]
    if head is not None:
        add(lane.heads, *head)
        lane.head_of[owner] = head
        lane.stirred[owner] = None


def _aside(lane: Lane, action: str) -> bool:
    unserved = lane.unserved.get(action)
    return unserved is not None and unserved.aside


def _retime(lane: Lane, key: bytes, old: Run | None, new: Run | None) -> None:
    if new is not None and new.state != "Done":  # what is done stays done
        lane.deciding.set(key, due_ms(new, lane.deadline_ms(new)))
        return
    lane.deciding.set(key, None)
    run = old if new is None else new
    if run is not None:
        lane.outcomes.move(run.id, outcome_ms(old), outcome_ms(new))
        if run.keyed or (old is not None and old.keyed):
            lane.idle.set(key, new.forget_ms if new is not None and new.keyed else None)


def put_member(lane: Lane, key: bytes, id: str, new: Member | None) -> None:
    """A request of a run, beyond the one that the run speaks for."""
    old = lane.members.pop(id, None)
    lane.carried_bytes += own_bytes(new) - own_bytes(old)
    for member, change in ((old, remove), (new, add)):
        if member is not None:
            change(lane.members_of, member.run, (member.order, id))
            if member.idempotency is not None and id != member.run:
                change(lane.keyed, idempotency_key(member), (member.order, id))
            if member.deadline_ms is not None and member.left is None:
                change(lane.deadlines_of, member.run, (member.deadline_ms, id))
    if new is not None:
        lane.members[id] = new
    one = new or old
    run = None if one is None else lane.runs.get(one.run)  # at a load it may come after its requests
    if run is not None:
        _retime(lane, b"run/" + run.id.encode(), run, run)


def put_refused(lane: Lane, key: bytes, id: str, new: RefusedRequest | None) -> None:
    """Refusals have an order of their own: the oldest goes first."""
    old = lane.refused.pop(id, None)
    if old is not None:
        place = bisect_left(lane.refused_order, (old.order, id))
        del lane.refused_order[place]
    if new is not None:
        lane.refused[id] = new
        insort(lane.refused_order, (new.order, id))


def put_kept(lane: Lane, key: bytes, id: str, new: KeptCancellation | None) -> None:
    """A cancellation that overtook its request."""
    lane.kept.pop(id, None)
    if new is not None:
        lane.kept[id] = new
    lane.idle.set(key, None if new is None else new.forget_ms)


def put_unserved(lane: Lane, key: bytes, action: str, new: UnservedAction | None) -> None:
    """Whether runs of the action stand aside."""
    lane.unserved.pop(action, None)
    if new is not None:
        lane.unserved[action] = new
    steps_aside = None if new is None or new.aside else new.since_ms + lane.policy.unserved_after_ms
    lane.deciding.set(key, steps_aside)
    lane.idle.set(key, None if new is None else new.since_ms + lane.policy.retention_ms)
    for owner in sorted(lane.waiting_owners.get(action, ())):
        _rehead(lane, owner)


def put_session(lane: Lane, key: bytes, id: str, new: WorkerSession | None) -> None:
    """A worker session, which may have room now, or be current now."""
    old = lane.sessions.pop(id, None)
    if new is not None:
        lane.sessions[id] = new
        if old is not None and offer(old) == offer(new):
            return  # as where one more item was sent to it
    if old is None or new is None or seat(old) != seat(new):
        lane.seats.change(old, new)
    lane.deciding.set(key, None if new is None else new.lapses_ms)
    for session in (old, new):
        current = None if session is None else lane.seats.current_of(session)
        if current is not None:
            lane.freed[current] = None


def put_resource(lane: Lane, key: bytes, name: str, new: Resource | None) -> None:
    """What is known of a requested key."""
    old = lane.resources.pop(name, None)
    if new is not None:
        lane.resources[name] = new
    if lane.steps:
        lane.idle.set(key, new.forget_ms if new is not None and new.completed_action in lane.steps else None)
    lane.resting.move(name, resting_ms(old, lane.steps), resting_ms(new, lane.steps))


def put_link(lane: Lane, key: bytes, request: str, new: WaitLink | None) -> None:
    """An edge of the graph of waits, under its owning key."""
    old = lane.links.pop(request, None)
    for link, change in ((old, remove), (new, add)):
        if link is not None:
            change(lane.links_of, link.owner, (link.order, request))
    if new is not None:
        lane.links[request] = new
    lane.idle.set(key, None if new is None else new.until_ms)


def put_counted(lane: Lane, key: bytes, id: str, new: CountedGrant | None) -> None:
    """A granted run that a limit counts, under its owning key and its action."""
    old = lane.counted.pop(id, None)
    for grant, change in ((old, remove), (new, add)):
        if grant is not None:
            change(lane.counted_of, (grant.owner, grant.action), (grant.order, id))
    if new is not None:
        lane.counted[id] = new
    lane.idle.set(key, None if new is None else new.forget_ms)


def put_recurrence(lane: Lane, key: bytes, fingerprint: str, new: Recurrence | None) -> None:
    """Counts have an order of their own: the one that was counted longest ago goes first."""
    old = lane.recurrences.pop(fingerprint, None)
    if old is not None:
        del lane.recurred[bisect_left(lane.recurred, (old.order, fingerprint))]
    if new is not None:
        lane.recurrences[fingerprint] = new
        insort(lane.recurred, (new.order, fingerprint))


PUT: dict[type, Callable[[Lane, bytes, str, Any], None]] = {
    Run: put_run,
    Member: put_member,
    RefusedRequest: put_refused,
    KeptCancellation: put_kept,
    UnservedAction: put_unserved,
    WorkerSession: put_session,
    Resource: put_resource,
    WaitLink: put_link,
    CountedGrant: put_counted,
    Recurrence: put_recurrence,
}
FORGET = {KEYS[kind][0].decode().rstrip("/"): change for kind, change in PUT.items()}
"""The same by what the record's key begins with, which is all that is known of one that is to be forgotten."""
