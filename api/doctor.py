"""What the doctor looks at: the store, topics, pinned metadata, lanes, the clock, rights. Reads only.

Each look yields findings and never raises for what it finds: a journal that fails in one place is looked at in the
others. What a store says of itself is its adapter's (`journal/upkeep.py`); here is what keylane says of it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence

from keylane.embedded import Wanted
from keylane.journal.errors import JournalError
from keylane.journal.port import Journal, Place
from keylane.journal.upkeep import Difference, Finding, Level, TopicState
from keylane.lanes import LaneHealth, health
from keylane.roles import Role, needs
from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, decode_metadata
from keylane.schemas.metadata import METADATA_KEY, Metadata
from keylane.schemas.times import rfc3339
from keylane.views import read_all

Advance = Callable[[int], None]
Findings = AsyncIterator[Finding]

BEHIND_MS = 10_000
"""A lane applies what comes in milliseconds. After this long, clients give a router up as well."""
CLOCK_MS = 5_000
"""Clocks of machines that are kept right differ by less."""
RETENTION_WARN, RETENTION_FAULT = 0.5, 0.8
"""How much of its time in the log what is unread has used up."""
LEVELS: dict[str, Level] = {"refused": "fault", "harmful": "fault", "risky": "warn", "chosen": "ok"}

NOT_SET_UP = "run keylane topics apply, or start a router that may create topics"


async def pinned(journal: Journal) -> Metadata | Undecodable | JournalError | None:
    """The metadata as it is written, also while it is being changed; or why it cannot be read."""
    try:
        if await journal.partitions(topics.METADATA) is None:
            return None
        stored = await read_all(journal, Place(topics.METADATA, 0))
    except JournalError as error:
        return error
    values = [record.value for record in stored if record.key == METADATA_KEY]
    return decode_metadata(values[-1]) if values else None


def metadata_finding(found: Metadata | Undecodable | JournalError | None, ours: Metadata | None) -> Finding:
    """What is pinned, against what this configuration would pin (None: a role that has none)."""
    match found:
        case None:
            return Finding("metadata", "warn", "nothing is pinned: no router has set up this journal", NOT_SET_UP)
        case JournalError():
            return Finding("metadata", "fault", f"it cannot be read: {found}", "every role needs to read it")
        case Undecodable(reason=reason):
            return Finding("metadata", "fault", f"it cannot be read: {reason}", "use the keylane that wrote it")
    said = f"pinned to {found.partitions} partitions, {found.hash}, scope rules: {len(found.scopes)}"
    if found.changing:
        advice = "if no keylane config apply is under way, one was cut off: run it again; until then lanes wait"
        return Finding("metadata", "fault", f"{said}; being changed", advice)
    if ours is not None and (found.partitions, found.hash, found.scopes) != (ours.partitions, ours.hash, ours.scopes):
        advice = f"set partitions = {found.partitions}, or use another journal: routers refuse to start so"
        if found.scopes != ours.scopes:
            advice = "set the same, or have keylane config apply change scope rules: routers refuse to start so"
        other = ", other ones" if found.scopes != ours.scopes and len(found.scopes) == len(ours.scopes) else ""
        said += f"; this configuration has {ours.partitions}, {ours.hash}, {len(ours.scopes)}{other}"
        return Finding("metadata", "fault", said, advice)
    return Finding("metadata", "ok", said)


def topic_findings(states: Sequence[TopicState], names: Sequence[str]) -> list[Finding]:
    """Topics that are missing, that differ, or that nothing needs; one line for all that are as they should be."""
    found: list[Finding] = []
    missing = [state.name for state in states if state.partitions is None]
    if missing:
        found.append(Finding("topics", "warn", f"not there: {', '.join(missing)}", NOT_SET_UP))
    for state in states:
        found += [_difference(state.name, difference) for difference in state.differences]
    if extra := sorted(set(names) - {state.name for state in states}):
        advice = "see keylane topics plan; delete them once nothing reads them"
        found.append(Finding("topics", "ok", f"not needed by this configuration: {', '.join(extra)}", advice))
    if fine := sum(state.partitions is not None and not state.differences for state in states):
        found.append(Finding("topics", "ok", f"{fine} are as they should be"))
    return found


def _difference(topic: str, difference: Difference) -> Finding:
    setting, is_now, should, weight, changeable = difference
    said = f"{setting} is {is_now}, not {should}"
    if weight == "chosen":
        return Finding(f"topic {topic}", "ok", f"{said}: taken for an operator's choice")
    advice = "keylane topics apply sets it"
    if not changeable:
        advice = "see keylane topics plan: it cannot be changed with keylane"
    elif weight == "risky":
        advice = "keylane topics apply --reset-settings sets it"
    return Finding(f"topic {topic}", LEVELS[weight], said, advice)


def lane_findings(
    lane: LaneHealth, routers: int | None, retention_ms: dict[str, int | None], now_ms: int
) -> list[Finding]:
    """What is not well with one lane. `routers` is how many there are, None where that is not known."""
    name, lag = f"lane {lane.lag.partition}", lane.lag
    found: list[Finding] = []
    if lane.lost is not None:
        advice = "its router halts it. Find out what removed or set back the store before anything else"
        found.append(Finding(name, "fault", lane.lost, advice))
    for topic, age_ms in lane.oldest_ms.items():
        kept_ms = retention_ms.get(topic)
        if kept_ms is not None and age_ms > kept_ms * RETENTION_WARN:
            level: Level = "fault" if age_ms > kept_ms * RETENTION_FAULT else "warn"
            left_s = max(0, kept_ms - age_ms) / 1_000
            said = f"what is unread in {topic} is removed in {left_s:,.0f} s, for retention"
            found.append(Finding(name, level, said, f"start routers now, or lengthen the retention of {topic}"))
    oldest_ms = max(lane.oldest_ms.values(), default=0)
    if routers and oldest_ms > BEHIND_MS:
        waits = f"{lag.requests} requests and {lag.results} results wait, the oldest for {oldest_ms / 1_000:,.0f} s"
        if now_ms - (lane.committed_ms or 0) > BEHIND_MS:
            said = f"{waits}; last commit {lag.committed or 'never'}: it is halted or stuck"
            advice = "see /readyz and the log of the router that owns it; another takes it over when that one ends"
            found.append(Finding(name, "fault", said, advice))
        else:
            advice = "if it does not catch up: fewer lanes for each router, or a faster store"
            found.append(Finding(name, "warn", f"{waits}: it is behind", advice))
    return found


def router_finding(routers: int | None, waiting: int) -> Finding:
    """Whether anybody is there to own lanes."""
    if routers is None:
        return Finding("routers", "warn", "their group may not be described", "grant Describe on it to see how many")
    if routers:
        return Finding("routers", "ok", f"{routers} in their group")
    advice = "start one: keylane router (or keylane up)"
    if waiting:
        return Finding("routers", "fault", f"none is there, and {waiting} records wait", advice)
    return Finding("routers", "warn", "none is there; what is submitted waits and is not lost", advice)


def clock_finding(lanes: Sequence[LaneHealth], token_floor: int, now_ms: int) -> Finding:
    """Whether this machine's clock is behind what was written by others, or by itself before it was set back.

    Neither store tells its time to somebody who only reads, so nothing else is compared.
    """
    tokens_ms = max((lane.token for lane in lanes), default=0) // 1_000  # a lane's tokens begin at wall time, in us
    written_ms = max((lane.committed_ms or 0 for lane in lanes), default=0)
    ahead_ms, since = max((tokens_ms - now_ms, "tokens are"), (written_ms - now_ms, "the last commit is"))
    if ahead_ms > CLOCK_MS:
        said = f"{since} {ahead_ms / 1_000:,.0f} s ahead of this machine's clock, {rfc3339(now_ms / 1_000)}"
        advice = (
            "set the clocks of all machines right (NTP). Tokens go on rising from what the journal holds; only one "
            "that is set up anew would begin too low"
        )
        return Finding("clock", "warn", said, advice)
    if token_floor // 1_000 - now_ms > CLOCK_MS:
        said = "the pinned token floor is ahead of this machine's clock: tokens begin there"
        return Finding("clock", "ok", said)
    if not lanes:
        return Finding("clock", "ok", f"{rfc3339(now_ms / 1_000)}; nothing was written yet to hold against it")
    return Finding("clock", "ok", f"no token and no commit is ahead of this machine's {rfc3339(now_ms / 1_000)}")


async def store(journal: Journal, advance: Advance) -> Findings:
    """What the store says of itself."""
    try:
        for finding in await journal.checks(advance):
            yield finding
    except JournalError as error:
        yield _not_checked("store", error)


async def settings(journal: Journal, wanted: Wanted) -> Findings:
    """The topics and their settings."""
    try:
        names = await journal.topic_names()
        for finding in topic_findings(await journal.compare(wanted.specs), names):
            yield finding
    except JournalError as error:
        yield _not_checked("topics", error)


async def lanes(journal: Journal, wanted: Wanted, found: Metadata, advance: Advance) -> Findings:
    """Routers, every lane, and the clock that tokens began by."""
    try:
        retention_ms = {state.name: state.retention_ms for state in await journal.compare(wanted.specs)}
        routers = await journal.members(wanted.group)
        seen: list[LaneHealth] = []
        for partition in range(found.partitions):
            seen.append(await health(journal, partition))
            advance(1)
    except JournalError as error:
        yield _not_checked("lanes", error)
        return
    now_ms = time.time_ns() // 1_000_000
    yield router_finding(routers, sum(lane.lag.requests + lane.lag.results for lane in seen))
    told = [finding for lane in seen for finding in lane_findings(lane, routers, retention_ms, now_ms)]
    for finding in told:
        yield finding
    if not told:
        last_ms = max((lane.committed_ms or 0 for lane in seen), default=0)
        last = f"last commit {rfc3339(last_ms / 1_000)}" if last_ms else "nothing was committed yet"
        yield Finding("lanes", "ok", f"{len(seen)} hold nothing back; {last}")
    yield clock_finding(seen, found.token_floor, now_ms)


async def rights(journal: Journal, wanted: Wanted, role: Role) -> Findings:
    """What whoever runs this may do, against what the role needs."""
    try:
        names = set(await journal.topic_names())
        missing = [spec.name for spec in wanted.specs if spec.name not in names]
        wants = needs(role, partitions=wanted.partitions, pools=wanted.pools, group=wanted.group, missing=missing)
        for finding in await journal.rights(wants):
            yield finding._replace(said=f"as {role}: {finding.said}")
    except JournalError as error:
        yield _not_checked("rights", error)


def configures(role: Role) -> bool:
    """Whether the routers' configuration is where this role runs. Agents and workers go by what is pinned."""
    return role in ("router", "operator")


def _not_checked(name: str, error: JournalError) -> Finding:
    advice = "if that is for want of rights, look with those of an operator; else see the journal's own log"
    return Finding(name, "warn", f"could not be looked at: {error}", advice)
