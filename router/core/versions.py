"""Arrival rule 3, asked again at dispatch: the version that a request was decided on must not be superseded.

Only what is known to be superseded is refused. A version never seen travels with the item, and the worker's own
check decides (`Item.expect`).
"""

from __future__ import annotations

from keylane.router.core.describe import asker, last_to_change
from keylane.router.core.lane import Lane
from keylane.router.core.records import Arrived, Grounds, Now
from keylane.schemas.requests import WorkRequest


def outdated(lane: Lane, arrived: Arrived, request: WorkRequest, now: Now) -> Grounds | None:
    """Why a request is refused for the version that it names, or does not name."""
    if request.expected_version is None:
        if lane.policy.of(request.action).version_required:
            return Grounds("VERSION_REQUIRED", f"{request.action} needs the version that it was decided on")
        return None
    grounds = stale(lane, request.resource, request.expected_version)
    return grounds and grounds._replace(parties=(asker(arrived, request, now), *grounds.parties))


def stale(lane: Lane, key: str, expected: str | None) -> Grounds | None:
    """Why what was decided on `expected` no longer holds. The other side is whoever changed it last."""
    resource = lane.resources.get(key)
    if resource is None or expected not in resource.superseded:
        return None
    return Grounds(
        "STALE_VERSION",
        f"{expected} is superseded" + ("" if resource.version is None else f": it is {resource.version} now"),
        expected_version=expected,
        known_version=resource.version,
        parties=last_to_change(lane, resource),
    )
