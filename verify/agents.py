"""Promises 8, 12 and 14, of agents' sessions: where one ends, all that it held or awaited does, and nothing else."""

from __future__ import annotations

from typing import NamedTuple

from keylane.schemas import topics
from keylane.schemas.events import AgentSessionEnded

from .commands import Said
from .history import Configured
from .lane import Handlers, Lane, input_of
from .locks import COMMANDS_GONE
from .seen import RunSeen

LOCKS_PER_SESSION = 256
"""What a session has at most in a lane where nothing else is configured."""


class Over(NamedTuple):
    """A session was said to be over."""

    event: AgentSessionEnded
    at: int


class Agents:
    """Follows the agents' sessions of one lane."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.fold = lane.fold
        self.over: list[Over] = []
        self.handlers: Handlers = {AgentSessionEnded: self.on_session_ended}

    def on_session_ended(self, event: AgentSessionEnded, at: int) -> None:
        self.over.append(Over(event, at))

    # -- when all has been read -----------------------------------------------------------------------------------

    def close(self, drained: bool, configured: Configured) -> None:
        """Hold the ends of sessions against what asked for them, and against the locks that these had."""
        cut = self.lane.cut(drained)
        known = [(run, said) for run in self.fold.locks if (said := self.lane.request_of(run)) is not None]
        named: dict[str, list[tuple[RunSeen, Said]]] = {}
        for run, said in known:
            named.setdefault(run.id, []).append((run, said))
        commands = [self._command(each) for each in self.over]
        for each, command in zip(self.over, commands, strict=True):
            if command is not None:
                settled = cut is None or each.event.seq <= cut[1].seq
                for id in each.event.runs:
                    self._run(each, command, named.get(id, []), settled)
        self._sweep(known, commands, configured)

    def _command(self, each: Over) -> Said | None:
        """What ended the session; None where that is wrong or gone."""
        place = input_of(each.event)
        said = self.lane.said.get(place[1]) if place is not None and place[0] == topics.REQUESTS else None
        if said is None and place is not None and place[1] < self.lane.begin_of(topics.REQUESTS):
            self.lane.findings.undecided(14, COMMANDS_GONE)
            return None
        whole = None if said is None else (said.kind, said.id, said.session)
        if whole == ("SessionEnded", each.event.ended, each.event.session):
            return said
        message = f"session {each.event.session} is said to be over, and no SessionEnded of it is named"
        self.lane.violation(14, message, self.lane.event(each.at))
        return None

    def _run(self, each: Over, command: Said, named: list[tuple[RunSeen, Said]], settled: bool) -> None:
        """One run that is said to be the session's."""
        event, at = each.event, self.lane.event(each.at)
        # An id may have been used again after it was forgotten.
        run, said = next(((run, said) for run, said in reversed(named) if run.accepted_at < each.at), (None, None))
        if run is None or said is None:
            return
        if (said.session, said.secret) != (command.session, command.secret):
            whose = f"of session {said.session}" if said.session != command.session else "under another secret"
            message = f"session {event.session} was ended, and with it {run.id}, which is a lock {whose}"
            self.lane.violation(14, message, self.lane.event(run.accepted_at), at)
        ended_by = None if run.lock is None else run.lock.ended_by
        gone = self.fold.lost_at >= each.at and run.ended_at is None
        if settled and not gone and (run.ended_at is None or ended_by != event.input or run.ended_at < each.at):
            message = f"session {event.session} was ended, and {run.id} is said to be, and did not end with it"
            ended = () if run.ended_at is None else (self.lane.event(run.ended_at),)
            self.lane.violation(8, message, at, *ended)

    def _sweep(self, known: list[tuple[RunSeen, Said]], commands: list[Said | None], configured: Configured) -> None:
        """What each session had when it was ended, and the most that any had."""
        # Of what an event brings about it counts what was before: ends before sessions' ends, acceptances last.
        line: list[tuple[int, int, int]] = []
        for index, (run, _) in enumerate(known):
            if run.ended_at is None and run.accepted_at <= self.fold.lost_at:
                continue  # its end may be among what is missing
            line.append((run.accepted_at, 2, index))
            if run.ended_at is not None:
                line.append((run.ended_at, 0, index))
        line += [(each.at, 1, index) for index, each in enumerate(self.over) if commands[index] is not None]
        had: dict[tuple[str, str], dict[int, RunSeen]] = {}
        counts: dict[str, int] = {}
        most = (0, "", -1)
        for at, kind, index in sorted(line):
            if kind == 1:
                command = commands[index]
                assert command is not None
                self._left_alone(self.over[index], had.get((command.session, command.secret), {}))
                continue
            run, said = known[index]
            key = (said.session, said.secret)
            if kind == 0:
                if had.get(key, {}).pop(index, None) is not None:
                    counts[said.session] -= 1
            else:
                had.setdefault(key, {})[index] = run
                counts[said.session] = count = counts.get(said.session, 0) + 1
                most = max(most, (count, said.session, at))
        self._bound(most, configured.locks_per_session)

    def _left_alone(self, each: Over, had: dict[int, RunSeen]) -> None:
        named = frozenset(each.event.runs)
        for run in had.values():
            if run.id not in named:
                message = f"session {each.event.session} was ended, and its lock {run.id} is not said to be"
                self.lane.violation(8, message, self.lane.event(run.accepted_at), self.lane.event(each.at))

    def _bound(self, most: tuple[int, str, int], bound: int | None) -> None:
        count, session, at = most
        if count <= (LOCKS_PER_SESSION if bound is None else bound):
            return
        if bound is None:
            why = f"a session has {count} locks in a partition, and what is configured is not on record"
            self.lane.findings.undecided(12, why)
        else:
            message = f"session {session} has {count} locks in this partition, and {bound} may be"
            self.lane.violation(12, message, self.lane.event(at))
