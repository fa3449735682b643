"""Promises 1, 2 and 5: one live grant a key, tokens that grow, grants in the order of acceptance.

Readiness (promise 5) is judged only where the record proves it. A run is excused that is in backoff and whose timer
is not known to have fired, or whose action may be unserved; so a wrong order can be missed here, and no right one
is called wrong.
"""

from __future__ import annotations

from keylane.schemas.events import Granted, Parked, Queued
from keylane.schemas.state import LOCK_ACTION, LaneRecord, Run

from .history import Effect
from .lane import Handlers, Lane
from .placing import partition_of
from .seen import RunSeen


class Grants:
    """Looks at each grant of a lane. `partitions` places owning keys; None where it is not known."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.fold = lane.fold
        self.last: dict[str, tuple[int, int]] = {}
        """By owning key: its highest token, and the grant that had it."""
        self.granted: dict[int, tuple[int, Granted]] = {}
        self.owners: dict[str, int] = {}
        """Owning keys of this lane with the event that named each first."""
        self.handlers: Handlers = {Granted: self.on_granted, Queued: self.on_queued, Parked: self.on_queued}

    def on_queued(self, event: Queued | Parked, at: int) -> None:
        self.owners.setdefault(event.owner, at)

    def on_granted(self, event: Granted, at: int) -> None:
        self.owners.setdefault(event.owner, at)
        self._one_live(event, at)
        self._token(event, at)
        run = self.fold.runs.get(event.run)
        if run is not None and run.state == "Waiting":
            self._order(event, at, run)
        self.granted[event.token] = (at, event)

    def _one_live(self, event: Granted, at: int) -> None:
        holder = self.fold.live.get(event.owner)
        if holder is not None:
            self.lane.violation(
                1,
                f"{event.owner} was granted to {event.run} under token {event.token} while {holder.id} "
                f"held it under token {holder.token}: two live grants",
                self.lane.event(holder.granted_at),
                self.lane.event(at),
            )

    def _token(self, event: Granted, at: int) -> None:
        before = self.last.get(event.owner, (-1, -1))
        highest = max(before, (self.fold.last_token, self.fold.last_token_at))
        if event.token <= highest[0] and highest[1] >= 0:
            whose = "the same key" if highest == before else "the same lane"
            self.lane.violation(
                2,
                f"{event.owner} was granted under token {event.token} after {whose} had token {highest[0]}: "
                "a target that has seen that one refuses this holder",
                self.lane.event(highest[1]),
                self.lane.event(at),
            )
        self.last[event.owner] = max(before, (event.token, at))

    def _order(self, event: Granted, at: int, run: RunSeen) -> None:
        # In another life of the lane the configuration may be another: what was known of pools is void then.
        same_life = event.token == self.fold.last_token + 1
        for action in list(self.fold.ready.get(event.owner, ())):
            # A lock needs no worker; work needs one, whatever else it competes with.
            served = action in (event.action, LOCK_ACTION) or (same_life and self.fold.serves(action))
            first = self.fold.first_ready(event.owner, action) if served else None
            if first is not None and first.order < run.order:
                self.lane.violation(
                    5,
                    f"{run.id} was granted {event.owner} before {first.id}, which had been accepted earlier, "
                    "waited in no backoff and was served",
                    self.lane.event(first.accepted_at),
                    self.lane.event(run.accepted_at),
                    self.lane.event(at),
                )

    # -- when all has been read --------------------------------------------------------------------------------

    def close(self) -> None:
        """Hold the tokens that state names against those that were granted."""
        lane = self.lane
        before: tuple[int, LaneRecord] | None = None
        for offset, own in lane.owns:
            if before is not None and (own.token < before[1].token or own.claim < before[1].claim):
                lane.violation(
                    2,
                    f"the lane's token counter went from {before[1].token} (claim {before[1].claim}) back to "
                    f"{own.token} (claim {own.claim})",
                    lane.place("state", before[0]),
                    lane.place("state", offset),
                )
            before = (offset, own)
        if before is not None:
            self._counted(*before)
        held: dict[str, tuple[int, Run]] = {}
        for offset, record in lane.state.values():
            if isinstance(record, Run) and record.state == "Held":
                if record.owner in held:
                    other = held[record.owner]
                    lane.violation(
                        1,
                        f"state has two holders of {record.owner}: {other[1].id} and {record.id}",
                        lane.place("state", other[0]),
                        lane.place("state", offset),
                    )
                held[record.owner] = (offset, record)

    def _counted(self, offset: int, own: LaneRecord) -> None:
        for token, (at, event) in self.granted.items():
            if event.seq <= own.seq and token > own.token:
                self.lane.violation(
                    2,
                    f"the lane's record counts tokens up to {own.token}, and {event.run} was granted "
                    f"under {token} before: the next grants would repeat it",
                    self.lane.event(at),
                    self.lane.place("state", offset),
                )


def judge_places(grants: list[Grants], partitions: int | None) -> None:
    """Promise 1 over lanes: an owning key is of one lane, or two lanes grant it side by side."""
    first: dict[str, tuple[Lane, int]] = {}
    for each in grants:
        lane = each.lane
        for owner, at in each.owners.items():
            other = first.setdefault(owner, (lane, at))
            if other[0] is not lane:
                lane.violation(
                    1,
                    f"{owner} was accepted in partition {other[0].partition} and in partition {lane.partition}",
                    other[0].event(other[1]),
                    lane.event(at),
                )
            elif partitions is not None and (home := partition_of(owner, partitions)) != lane.partition:
                lane.violation(
                    1,
                    f"{owner} was accepted in partition {lane.partition}, and of {partitions} it belongs to {home}",
                    lane.event(at),
                )


def judge_effects(grants: list[Grants], effects: list[Effect]) -> None:
    """Promise 2 at the targets: what they accepted came under tokens that were granted, and in growing order."""
    highest: dict[str, Effect] = {}
    for effect in effects:
        # Lanes count apart, so two may have granted under one token: the one that granted this resource is meant.
        among = [each for each in grants if effect.token in each.granted]
        same = [each for each in among if each.granted[effect.token][1].resource == effect.resource]
        owner = next(iter([*same, *among]), None)
        partition = -1 if owner is None else owner.lane.partition
        found = grants[0].lane.findings
        before = highest.get(effect.resource)
        if before is not None and effect.token < before.token:
            found.violation(
                2,
                partition,
                f"{effect.resource} took an effect of {effect.run} under token {effect.token} after one of "
                f"{before.run} under {before.token}",
                *(() if owner is None else (owner.lane.event(owner.granted[effect.token][0]),)),
            )
        else:
            highest[effect.resource] = effect
        if owner is not None and owner.granted[effect.token][1].run != effect.run:
            at, grant = owner.granted[effect.token]
            message = f"{effect.resource} took an effect of {effect.run} under token {effect.token} of {grant.run}"
            found.violation(2, partition, message, owner.lane.event(at))
        elif owner is None and not any(each.fold.partial for each in grants):
            message = f"{effect.resource} took an effect of {effect.run} under token {effect.token}, never granted"
            found.violation(2, partition, message)
