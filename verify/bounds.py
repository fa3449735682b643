"""Promises 12 and 13: bounds as far as records show them, and coming to rest."""

from __future__ import annotations

from keylane.schemas import topics
from keylane.schemas.events import Coalesced, Ended, Queued

from .findings import Findings
from .history import Configured, Entry
from .lane import Handlers, Lane

WAITERS_PER_RESOURCE = 1_000
MEMBERS_PER_RUN = 256
"""What a lane holds at most where nothing else is configured (design section 4, bounds)."""
INPUTS = (topics.REQUESTS, topics.RESULTS)


class Bounds:
    """Follows how long queues and runs get in one lane."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.fold = lane.fold
        self.waiters = (0, "", -1)
        self.members = (0, "", -1)
        """The longest queue, the most requests of a run: how many, of what, and the event that shows it."""
        self.handlers: Handlers = {Queued: self.on_queued, Coalesced: self.on_joined, Ended: self.on_joined}

    def on_queued(self, event: Queued, at: int) -> None:
        if not event.repeat:
            waiters = len(self.fold.waiting.get(event.owner, ())) + 1
            if waiters > self.waiters[0]:
                self.waiters = (waiters, event.owner, at)

    def on_joined(self, event: Coalesced | Ended, at: int) -> None:
        run = self.fold.runs.get(event.run)
        if run is None or event.repeat or (isinstance(event, Ended) and not event.coalesced):
            return
        if run.requests + 1 > self.members[0]:
            self.members = (run.requests + 1, event.run, at)

    # -- when all has been read ---------------------------------------------------------------------------------

    def close(self, configured: Configured) -> None:
        """Judge promise 12. A run that was held waits again whatever the bound, so one waiter more is right."""
        for what, (count, of, at), bound, usual in (
            ("runs wait for", self.waiters, configured.waiters_per_resource, WAITERS_PER_RESOURCE),
            ("requests are merged in", self.members, configured.members_per_run, MEMBERS_PER_RUN),
        ):
            slack = 1 if usual == WAITERS_PER_RESOURCE else 0
            if count <= (usual if bound is None else bound) + slack:
                continue
            if bound is None:
                why = f"{count} {what} one, more than {usual}, and what is configured is not on record"
                self.lane.findings.undecided(12, why)
            else:
                self.lane.violation(12, f"{count} {what} {of}, and {bound} may", self.lane.event(at))

    def rest(self, drained: bool) -> None:
        """Judge promise 13 where everything should have come to rest; else say what is open."""
        lane, fold = self.lane, self.fold
        for run in fold.runs.values():
            if run.state == "Done":
                continue
            state = {"Held": "held", "Parked": "waiting for a person"}.get(run.state, "waiting")
            lane.findings.open(f"runs {state}", 0 if drained else 1)
            lane.findings.open("requests without their end", 0 if drained else len(run.members))
            if drained:
                message = f"{run.id} is still {state}, and so {', '.join(run.members)} has no end"
                lane.violation(13, message, lane.event(run.accepted_at), lane.event(run.changed_at))
        newest = lane.cut(drained=True)
        if newest is None:
            lane.findings.undecided(13, "state of a lane is not in what was read: nobody knows what it has applied")
            return
        positions = newest[1].positions
        for topic, records in ((topics.REQUESTS, lane.asked), (topics.RESULTS, lane.reported)):
            left = [record.offset for record in records if record.offset >= positions.get(topic, 0)]
            lane.findings.open(f"{topic} not applied", 0 if drained else len(left))
            if drained and left and topic == topics.REQUESTS:
                message = f"{len(left)} records of {topic} were never applied, from this one on"
                lane.violation(13, message, lane.place(topic, left[0]))


def judge_sizes(findings: Findings, entry: Entry) -> None:
    """Promise 12: topics take records of a bounded size."""
    size = len(entry.value or b"")
    bound = topics.REQUEST_BYTES_MAX if entry.topic in INPUTS else topics.OUTPUT_BYTES_MAX
    if size > bound + 4_096:
        place = f"{entry.topic}/{entry.partition}/{entry.offset}"
        findings.violation(12, entry.partition, f"a record of {size} bytes, and {bound} may", place)
