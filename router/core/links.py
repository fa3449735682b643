"""What a lane tells of its waits to the graph that all routers share: kept in step with who holds and who waits.

Not a rule of any command: after each step `dispatch` has it for the owning keys whose holder or waiters are others now.
"""

from __future__ import annotations

from keylane.router.core.lane import Lane
from keylane.router.core.records import Gone
from keylane.schemas.state import Run, WaitLink


def relink(lane: Lane) -> None:
    """A link for each explicit session that waits for a lock of another one, and for no other wait."""
    while lane.relinked:
        owner = next(iter(lane.relinked))
        del lane.relinked[owner]
        _relink(lane, owner)


def _relink(lane: Lane, owner: str) -> None:
    holder = _holding_session(lane, owner)
    waiters = [lane.runs[id] for _, id in lane.explicit_of.get(owner, ())]
    waiting = {run.lock.session for run in waiters if run.lock is not None}
    for _, request in list(lane.links_of.get(owner, ())):
        link = lane.links[request]
        run = lane.runs.get(request)
        is_waiting = run is not None and run.state == "Waiting"
        # Who was refused counts as waiting until it may ask again, unless it waits again, or who held it is gone.
        lasts = link.until_ms is not None and link.holder == holder and link.waiter not in waiting
        if not is_waiting and not lasts:
            lane.put(Gone(b"link/" + request.encode()))
    for run in waiters:
        _link(lane, run, holder)


def _link(lane: Lane, run: Run, holder: str | None) -> None:
    assert run.lock is not None
    old = lane.links.get(run.id)
    if holder is None or holder == run.lock.session:
        if old is not None:
            lane.put(Gone(b"link/" + run.id.encode()))
    elif old is None or old.holder != holder:
        if old is None and len(lane.links) >= lane.policy.bounds.wait_links:
            return
        lane.put(
            WaitLink(
                request=run.id,
                waiter=run.lock.session,
                holder=holder,
                owner=run.owner,
                resource=run.resource,
                order=run.order,
            )
        )


def _holding_session(lane: Lane, owner: str) -> str | None:
    """The agent's session that holds the key by a lock; None where a worker does, or nobody."""
    held = lane.held.get(owner)
    lock = None if held is None else lane.runs[held].lock
    return None if lock is None else lock.session
