"""What is known of each requested key, told again from the events alone: versions, steps, changes, limits, intervals.

Written from design section 4, with none of the core's code; `true_rules` holds decisions against it.
"""

from __future__ import annotations

from keylane.router.core.policy import Policy
from keylane.schemas.events import Changed, Ended


class ResourceSeen:
    """One requested key."""

    def __init__(self) -> None:
        self.version: str | None = None
        self.superseded: set[str] = set()
        self.last_action = ""
        """The last completed action, harmless ones aside; empty where a change made outside came after it."""
        self.moved = (0, "")
        """The newest completion that is not harmless: its event, and its run."""
        self.outside = 0
        """The event of the newest change made outside."""
        self.started: dict[str, int] = {}
        """By action: when a run of it was first granted last."""
        self.changes: set[str] = set()
        self.sequences: dict[str, int] = {}

    def learns(self, replaced: tuple[str | None, ...], reported: tuple[str | None, ...]) -> None:
        """`replaced` are over, but for those that are `reported` as current."""
        now = [each for each in reported if each]
        self.superseded |= {each for each in replaced if each}
        self.superseded -= set(now)
        self.version = now[-1] if now else None

    def effect_of(self, change: str, version: str, source: str, sequence: int | None) -> str:
        """What a change made outside is to mean."""
        if change in self.changes:
            return "repeated"
        if sequence is not None and sequence <= self.sequences.get(source, sequence - 1):
            return "older"
        return "known" if version and version == self.version else "applied"


class TrueResources:
    """The requested keys of all lanes, and what limits count."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._seen: dict[str, ResourceSeen] = {}
        self._standing: dict[tuple[str, str], dict[str, str]] = {}

    def of(self, resource: str) -> ResourceSeen:
        """What is known of it."""
        return self._seen.setdefault(resource, ResourceSeen())

    def counted(self, owner: str, action: str) -> dict[str, str]:
        """The runs that a limit counts, with their requested keys."""
        return self._standing.setdefault((owner, action), {})

    def completed(self, event: Ended, decided_on: str | None) -> None:
        """An action was done."""
        seen, reported = self.of(event.resource), (event.version, event.observed_version)
        self._lift(event.owner, event.resource, event.action)
        if not self._policy.of(event.action).harmless:
            seen.learns((seen.version, decided_on), reported)
            seen.last_action, seen.moved = event.action, (event.seq, event.run)
        elif any(reported):
            seen.learns((), reported)

    def changed(self, event: Changed, sequence: int | None) -> None:
        """Somebody changed it outside."""
        seen = self.of(event.resource)
        if event.effect == "repeated":
            return
        seen.changes.add(event.change)
        if sequence is not None:
            seen.sequences[event.source] = max(sequence, seen.sequences.get(event.source, sequence))
        if event.effect == "applied":
            seen.learns((seen.version,), (event.version,))
            seen.last_action, seen.outside = "", event.seq
        if event.effect in ("applied", "known"):
            self._lift(event.owner, event.resource, event.what)

    def out_of_order(self, resource: str, action: str, requires: tuple[str, ...]) -> bool:
        """Whether a step that must come first has not."""
        last = self.of(resource).last_action
        return any(names and last not in names for names in (self._policy.of(action).requires, requires))

    def over_limit(self, owner: str, action: str, run: str) -> bool:
        """Whether as many others stand as may."""
        limit = self._policy.of(action).limit
        return limit is not None and len(self.counted(owner, action).keys() - {run}) >= limit.count

    def _lift(self, owner: str, resource: str, what: str) -> None:
        for (of, action), counted in self._standing.items():
            limit = self._policy.of(action).limit
            if of == owner and limit is not None and what in limit.until:
                for run in [run for run, its in counted.items() if its == resource]:
                    del counted[run]
