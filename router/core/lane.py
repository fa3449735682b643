"""The lane: the live state of one partition, changed by `Lane.put` and by nothing else.

Here live the records, the indexes and timers derived from them (kept by `placing`), and the outputs of the turn. No
rule of the router is decided here, and loading a lane is putting its records: the same code, live and at load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from msgspec.structs import replace

from keylane.router.core.ordered import Entry
from keylane.router.core.placing import FORGET, PUT
from keylane.router.core.policy import Policy
from keylane.router.core.projections import conflict, dead_letter
from keylane.router.core.records import Forward, Gone, Halted, Now, Output
from keylane.router.core.seats import Seats
from keylane.router.core.standing import Likeness, outcome_ms, resting_ms
from keylane.router.core.timers import Reminders, Timers, Waits
from keylane.schemas import topics
from keylane.schemas.base import Schema
from keylane.schemas.conflicts import ConflictArtifact
from keylane.schemas.events import AnyEvent
from keylane.schemas.items import Notice, SessionOpened, WorkItem
from keylane.schemas.state import (
    KEYS,
    LANE_KEY,
    LOCK_ACTION,
    CountedGrant,
    KeptCancellation,
    LaneRecord,
    Member,
    Recurrence,
    RefusedRequest,
    Resource,
    Run,
    StateRecord,
    UnservedAction,
    WaitLink,
    WorkerSession,
    first_member,
)

TOKEN_MAX = 2**52
"""A lane halts beyond: tokens must stay below 2^53, which JSON readers hold exactly (design section 4)."""


class Lane:
    """One partition's records with all that is derived from them.

    `place` maps an owning key to its partition, and `owner_of` a requested key to its owning key.
    """

    def __init__(
        self,
        partition: int,
        policy: Policy,
        place: Callable[[str], int],
        owner_of: Callable[[str], str] = str,
    ) -> None:
        self.partition = partition
        self.policy = policy
        self.place = place
        self.owner_of = owner_of
        # What the policy says of steps and limits, by the action that completes.
        self.steps = policy.steps()
        self.lifted_by = policy.lifted_by()
        self.own = LaneRecord(positions={})
        self.runs: dict[str, Run] = {}
        # Without those that their runs speak for: ask `member`.
        self.members: dict[str, Member] = {}
        self.refused: dict[str, RefusedRequest] = {}
        self.kept: dict[str, KeptCancellation] = {}
        self.unserved: dict[str, UnservedAction] = {}
        self.sessions: dict[str, WorkerSession] = {}
        self.resources: dict[str, Resource] = {}
        self.links: dict[str, WaitLink] = {}
        self.counted: dict[str, CountedGrant] = {}
        self.recurrences: dict[str, Recurrence] = {}
        self._index()
        # What the next dispatch looks at: owning keys with a new head, sessions that may have a free slot.
        self.stirred: dict[str, None] = {}
        self.freed: dict[str, None] = {}
        # Owning keys with another holder or another explicit waiter than when their links were put.
        self.relinked: dict[str, None] = {}
        self.changed: dict[bytes, StateRecord | None] = {}
        # The place of the record that is being applied; empty for a timer. Events say it.
        self.input = ""
        self.outputs: list[Output] = []
        self.forwards: list[Forward] = []

    def _index(self) -> None:
        """What is derived from the records, while there are none."""
        # What the runs carry; and by owning key: who waits, in acceptance order; who holds; and, where
        # nobody holds, the first ready run, which also stands in `heads` under its action.
        self.carried_bytes = 0
        self.queue: dict[str, list[Entry]] = {}
        self.held: dict[str, str] = {}
        self.parked: dict[str, list[Entry]] = {}
        self.head_of: dict[str, tuple[str, Entry]] = {}
        self.heads: dict[str, list[Entry]] = {}
        self.waiting_owners: dict[str, dict[str, int]] = {}
        self.equal: dict[Likeness, list[Entry]] = {}
        self.held_by: dict[str, list[Entry]] = {}
        # Of locks: by agent's session what it holds or waits for; and by owning key who waits for it with a session
        # that may hold others.
        self.locks_of: dict[str, list[Entry]] = {}
        self.explicit_of: dict[str, list[Entry]] = {}
        self.members_of: dict[str, list[Entry]] = {}
        self.deadlines_of: dict[str, list[Entry]] = {}
        self.links_of: dict[str, list[Entry]] = {}
        self.counted_of: dict[tuple[str, str], list[Entry]] = {}
        self.keyed: dict[tuple[str, str], list[Entry]] = {}
        self.seats = Seats()
        self.refused_order: list[Entry] = []
        self.recurred: list[Entry] = []
        # How many wait, and by when they were accepted: what is watched from outside, no rule.
        self.waiting = Waits(self._is_waiting)
        # Timers that decide fire only after both inputs have been read up; the others only forget.
        self.deciding = Timers()
        self.outcomes = Reminders(b"run/", self._outcome_ms)
        self.idle = Timers()
        self.resting = Reminders(b"resource/", self._resting_ms)

    # -- the one way to change ----------------------------------------------------------------------------

    def put(self, record: StateRecord | Gone) -> None:
        """Replace the record under its key, or forget it, with everything that is derived from it."""
        if isinstance(record, LaneRecord):
            self.own = record
            self.changed[LANE_KEY] = record
        elif isinstance(record, Gone):
            kind, _, id = record.key.decode().partition("/")
            FORGET[kind](self, record.key, id, None)
            self.changed[record.key] = None
        else:
            prefix, name = KEYS[type(record)]
            id = name(record)
            key = prefix + id.encode()
            PUT[type(record)](self, key, id, record)
            self.changed[key] = record

    # -- what a turn writes -------------------------------------------------------------------------------

    def emit(self, kind: type[AnyEvent], now: Now, traceparent: str | None = None, /, **fields: Any) -> int:
        """Say one decision: the event, and whatever is projected from it. Returns its sequence number."""
        event = kind(seq=self.next_seq, clock_ms=now.clock_ms, time=now.time, input=self.input, **fields)
        return self.publish(event, fields.get("owner") or fields.get("resource") or "", traceparent)

    @property
    def next_seq(self) -> int:
        """The sequence number of the next event."""
        return self.own.seq + 1

    def publish(self, event: AnyEvent, key: str, traceparent: str | None) -> int:
        """`emit` for an event that its rule has made itself: one that most requests have, for that is quicker."""
        seq = event.seq
        assert seq == self.own.seq + 1
        self.own = replace(self.own, seq=seq)  # derives nothing, and every turn that writes writes it
        id = f"{self.partition}-{seq}"
        self.outputs.append(Output(topics.EVENTS, key, event, id, traceparent))
        artifact = conflict(event, id)
        if artifact is not None:
            if isinstance(artifact, ConflictArtifact):
                artifact = self._counted_again(artifact)
            self.outputs.append(Output(topics.CONFLICTS, key, artifact, id, traceparent))
        letter = dead_letter(event, self.partition)
        if letter is not None:
            self.outputs.append(Output(topics.DEADLETTERS, key, letter, id, traceparent))
        return seq

    def _counted_again(self, artifact: ConflictArtifact) -> ConflictArtifact:
        """With how often its kind has come about here, and where to read what to do about it."""
        fingerprint = artifact.fingerprint
        before = self.recurrences.get(fingerprint)
        count = 1 if before is None else before.count + 1
        self.put(Recurrence(fingerprint=fingerprint, order=artifact.event_seq, count=count))
        while len(self.recurrences) > self.policy.bounds.recurrences:
            self.put(Gone(b"recurrence/" + self.recurred[0][1].encode()))
        return replace(artifact, recurrence=count, runbook=self.policy.runbooks.get(artifact.kind))

    def tell(
        self,
        session: WorkerSession,
        kind: type[SessionOpened | WorkItem | Notice],
        trace: str | None = None,
        /,
        **fields: Any,
    ) -> int:
        """Write the session's next numbered item record. Returns its number."""
        return self.send(session, kind(session=session.id, number=session.sent + 1, **fields), session.id, trace)

    def send(
        self, session: WorkerSession, record: SessionOpened | WorkItem | Notice, key: str, trace: str | None
    ) -> int:
        """`tell` for a record that its rule has made itself, as `publish` is for an event."""
        number = record.number
        assert number == session.sent + 1
        self.put(replace(session, sent=number))
        self.outputs.append(Output(topics.items(session.pool), key, record, f"{session.id}-{number}", trace))
        return number

    def say(self, pool: str, record: Schema, id: str) -> None:
        """Write an item record outside the numbering: to a session that the lane does not have."""
        self.outputs.append(Output(topics.items(pool), id, record, f"{id}-closed", None))

    def mint(self) -> int:
        """The next fencing token. Raises `Halted` when tokens run out."""
        token = self.own.token + 1
        if token > TOKEN_MAX:
            raise Halted(
                f"lane {self.partition}: the token counter is beyond 2^52; was a clock or floor set far ahead?"
            )
        self.own = replace(self.own, token=token)
        return token

    def _is_waiting(self, id: str) -> bool:
        run = self.runs.get(id)
        return run is not None and run.state == "Waiting"

    def _outcome_ms(self, id: str) -> int | None:
        return outcome_ms(self.runs.get(id))

    def _resting_ms(self, key: str) -> int | None:
        return resting_ms(self.resources.get(key), self.steps)

    # -- what the rules ask -------------------------------------------------------------------------------

    def live_members(self, run: Run) -> Iterator[Member]:
        """The requesters that have not left, in the order in which they came."""
        first = first_member(run)
        if first is not None and run.id not in self.members:
            yield first
        for _, id in self.members_of.get(run.id, ()):
            member = self.members[id]
            if member.left is None:
                yield member

    def member(self, id: str) -> Member | None:
        """What is remembered of an accepted request."""
        member = self.members.get(id)
        if member is not None:
            return member
        run = self.runs.get(id)
        return None if run is None else first_member(run)

    def member_count(self, run: Run) -> int:
        """How many requests were merged into the run, also such as left."""
        return len(self.members_of.get(run.id, ())) + (run.id not in self.members)

    def deadline_ms(self, run: Run) -> int | None:
        """The earliest deadline of the run's requesters that have not left."""
        first = None if run.id in self.members else run.deadline_ms
        others = self.deadlines_of.get(run.id)
        if others and (first is None or others[0][0] < first):
            return others[0][0]
        return first

    def has_answered(self, id: str) -> bool:
        """Whether a work request under this id has its first answer, which nothing else may be taken for."""
        return id in self.runs or id in self.members or id in self.refused

    def current_sessions(self, pool: str, action: str) -> list[WorkerSession]:
        """Of each group that handles the action, the one that gets new grants: highest generation, then latest."""
        return [self.sessions[id] for id in self.seats.current.get((pool, action), ())]

    def free_slots(self, session: WorkerSession) -> int:
        """How many more items the session takes: none before its first heartbeat.

        A holder counts from when it sent what the item names. Its join may have lain unread for longer than the
        session lasts, and everything granted on it would be given up unread.
        """
        return 0 if session.heartbeat == 0 else session.slots - len(self.held_by.get(session.id, ()))

    def is_served(self, action: str) -> bool:
        """Whether some live session of the action's pool handles it. Locks need none."""
        return action == LOCK_ACTION or (self.policy.of(action).pool, action) in self.seats.current
