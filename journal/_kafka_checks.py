"""How a Kafka cluster is doing for keylane, and what the principal of this connection may do. Reads only.

The questions are `_kafka_admin.py`'s. Here is what the answers mean: limits, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from . import _kafka_vendor as vendor
from ._kafka_admin import Admin, Described
from ._kafka_lane import TRANSACTION_TIMEOUT_MS
from ._kafka_names import Names
from ._kafka_requests import Operation
from .errors import JournalError
from .upkeep import Finding, Level, Need

SPOKEN = {
    0: ("Produce", 3, 8), 1: ("Fetch", 4, 11), 3: ("Metadata", 8, 8), 10: ("FindCoordinator", 1, 1),
    11: ("JoinGroup", 0, 5), 22: ("InitProducerId", 0, 0), 24: ("AddPartitionsToTxn", 0, 0), 26: ("EndTxn", 0, 0),
    32: ("DescribeConfigs", 0, 2), 44: ("IncrementalAlterConfigs", 0, 0),
}  # fmt: skip
"""By its number, a request that the adapter rests on, and the versions of it that it speaks."""

CLEANUP_MS_WANTED = 1_000
OPERATIONS = {
    "read": Operation.READ,
    "write": Operation.WRITE,
    "create": Operation.CREATE,
    "settings": Operation.DESCRIBE_CONFIGS,
    "alter": Operation.ALTER_CONFIGS,
}
TRANSACTIONS, OFFSETS = "__transaction_state", "__consumer_offsets"


async def checks(admin: Admin, names: Names, session_timeout_ms: int) -> list[Finding]:
    """Brokers, what they speak, how they are set, and whether every partition of ours is led and copied."""
    with vendor.asking("describing the cluster"):
        described = await admin.describe(None)
        unused = TRANSACTIONS in (await admin.describe([TRANSACTIONS])).missing
        versions = await admin.api_versions()
    count, brokers = len(described.brokers), ", ".join(map(str, described.brokers))
    found = [Finding("brokers", "ok", f"{count} live ({brokers}) of cluster {described.cluster}"), protocol(versions)]
    for node in described.brokers:
        try:
            with vendor.asking(f"reading the settings of broker {node}"):
                settings = await admin.broker_settings(node)
        except JournalError as error:
            advice = "look at them with a principal that has DescribeConfigs on the cluster"
            found.append(Finding(f"broker {node}", "warn", f"its settings were not checked: {error}", advice))
        else:
            found += broker(f"broker {node}", settings, count, session_timeout_ms, transactions_unused=unused)
    found += await copies(admin, names, described)
    return found


def protocol(versions: Mapping[int, tuple[int, int]]) -> Finding:
    """Whether a broker takes what the adapter says. aiokafka speaks transactions in their first version alone."""
    missing = [
        name
        for number, (name, least, most) in SPOKEN.items()
        if number not in versions or versions[number][0] > most or versions[number][1] < least
    ]
    if missing:
        advice = "use Apache Kafka from 2.3 on, or what speaks its protocol, transactions among it"
        return Finding("protocol", "fault", f"the broker does not take {', '.join(missing)} as keylane says it", advice)
    return Finding("protocol", "ok", "the broker takes every request that keylane makes, transactions among them")


class Limit(NamedTuple):
    """A broker setting that is not well. Either what was read is wrong by itself, or beside another number."""

    setting: str
    level: Level
    said: str
    advice: str


def broker(
    name: str, settings: Mapping[str, str | None], brokers: int, session_timeout_ms: int, *, transactions_unused: bool
) -> list[Finding]:
    """One broker's settings, of which it may keep some to itself."""
    numbers = {key: int(value) for key, value in settings.items() if value is not None and value.isdecimal()}
    limits = [*_times(numbers, session_timeout_ms), *_switches(settings)]
    if transactions_unused:
        limits += _first_use(numbers, brokers)
    if not limits:
        return [Finding(name, "ok", "its settings for transactions, groups and topics fit")]
    return [Finding(name, level, f"{setting} = {settings[setting]}: {said}", do) for setting, level, said, do in limits]


def _times(numbers: Mapping[str, int], session_timeout_ms: int) -> Iterator[Limit]:
    setting = "transaction.abort.timed.out.transaction.cleanup.interval.ms"
    if numbers.get(setting, 0) > CLEANUP_MS_WANTED:
        stall_s = (numbers[setting] + TRANSACTION_TIMEOUT_MS) / 1_000
        said = f"a router that is killed in a transaction stalls the readers of its lanes for up to {stall_s:.0f} s"
        yield Limit(setting, "warn", said, f"set it to {CLEANUP_MS_WANTED} on every broker")
    setting = "transaction.max.timeout.ms"
    if numbers.get(setting, TRANSACTION_TIMEOUT_MS) < TRANSACTION_TIMEOUT_MS:
        said = f"lanes ask for {TRANSACTION_TIMEOUT_MS} and would be refused"
        yield Limit(setting, "fault", said, f"set it to at least {TRANSACTION_TIMEOUT_MS}")
    for setting, is_over in (("group.min.session.timeout.ms", True), ("group.max.session.timeout.ms", False)):
        bound = numbers.get(setting, session_timeout_ms)
        if bound != session_timeout_ms and (bound > session_timeout_ms) == is_over:
            said = f"this journal's session_timeout_ms is {session_timeout_ms}, so nobody can join a group"
            yield Limit(setting, "fault", said, "set it, or session_timeout_ms in the journal's URL, so that they fit")


def _switches(settings: Mapping[str, str | None]) -> Iterator[Limit]:
    setting = "auto.create.topics.enable"
    if settings.get(setting) == "true":
        said = "a client that comes before the first router, or mistypes a name, makes a topic with other settings"
        yield Limit(setting, "warn", said, "set it to false; keylane topics apply makes what is needed")


def _first_use(numbers: Mapping[str, int], brokers: int) -> Iterator[Limit]:
    """The topic of transactions is made when a first one begins, and only if there are brokers enough."""
    for setting in ("transaction.state.log.replication.factor", "transaction.state.log.min.isr"):
        if numbers.get(setting, 0) > brokers:
            said = f"{brokers} brokers live, so the first transaction would wait for ever"
            yield Limit(setting, "fault", said, "start more brokers, or set it to as many as there are")


async def copies(admin: Admin, names: Names, described: Described) -> list[Finding]:
    """Leaders and in-sync replicas of every topic under the prefix."""
    ours = {name: topic for name, topic in described.topics.items() if name.startswith(names.prefix)}
    ours = {name: topic for name, topic in ours.items() if not topic.internal}
    found = []
    if short := [name for name, topic in ours.items() if topic.leaderless]:
        advice = "start the brokers that had them; until then what lies there can be neither read nor written"
        found.append(Finding("leaders", "fault", f"partitions without a leader: {', '.join(short)}", advice))
    behind = [name for name, topic in ours.items() if topic.in_sync < topic.replicas]
    if behind:
        with vendor.asking("describing topics"):
            settings = await admin.settings(behind)
        stopped = [name for name in behind if ours[name].in_sync < int(settings[name]["min.insync.replicas"])]
        advice = "start the brokers that are down, or find out why they lag"
        if stopped:
            said = f"fewer replicas in sync than min.insync.replicas, so writes are refused: {', '.join(stopped)}"
            found.append(Finding("replicas", "fault", said, advice))
        elif behind:
            said = f"replicas that are not in sync: {', '.join(behind)}"
            found.append(Finding("replicas", "warn", said, advice))
    if ours and not found:
        fewest = min(topic.replicas for topic in ours.values())
        said = f"every partition of {len(ours)} topics has a leader and all its replicas ({fewest} or more) in sync"
        found.append(Finding("replicas", "ok", said))
    return found


async def members(admin: Admin, group: str) -> int | None:
    """How many a group has. A cluster where no group ever was is not made to lay out its topic by the question."""
    with vendor.asking(f"describing group {group}"):
        if OFFSETS in (await admin.describe([OFFSETS])).missing:
            return 0
        return (await admin.group(group)).members


async def rights(admin: Admin, names: Names, needs: Sequence[Need]) -> list[Finding]:
    """What is missing, a line for each resource; else one that says that nothing is."""
    topics = sorted({names.full(need.name) for need in needs if need.kind == "topic"})
    with vendor.asking("asking for rights on topics"):
        described = await admin.describe([*topics, TRANSACTIONS, OFFSETS])
    missing: list[Finding] = []
    for topic in topics:
        wanted = [need.right for need in needs if need.kind == "topic" and names.full(need.name) == topic]
        missing += lacking(f"topic {topic}", wanted, _allowed(described, topic))
    groups = sorted({names.full(need.name) for need in needs if need.kind == "group"})
    for group in groups:
        if OFFSETS not in described.missing:
            with vendor.asking(f"asking for rights on group {group}"):
                found = await admin.group(group)
            missing += lacking(f"group {group}", ["read"], frozenset() if found.members is None else found.allowed)
    lanes = [names.full(f"lane.{need.name}") for need in needs if need.kind == "lane"]  # as `claim_lane` has it
    unasked = ""
    if lanes and TRANSACTIONS in described.missing:
        unasked = "; transactional ids were not asked about, since no transaction was ever made here"
    elif lanes:
        with vendor.asking("asking for rights on transactional ids", timeout_s=30.0):
            told = await admin.may_claim(lanes)
        if refused := [name for name in lanes if not told[name]]:
            said = f"may not write: {', '.join(refused)}"
            advice = f"grant Write and Describe on transactional ids that begin with {names.full('lane.')}"
            missing.append(Finding("rights: transactional ids", "fault", said, advice))
    if missing:
        return missing
    return [Finding("rights", "ok", f"all that it needs: {len(topics)} topics, {_counts(needs)}{unasked}")]


def _counts(needs: Sequence[Need]) -> str:
    groups, lanes = (sum(need.kind == kind for need in needs) for kind in ("group", "lane"))
    return f"{groups} groups, {lanes} transactional ids"


def _allowed(described: Described, topic: str) -> frozenset[Operation] | None:
    """What may be done with a topic. The right to create any topic is one on the cluster, too."""
    if topic in described.hidden:
        allowed: frozenset[Operation] | None = frozenset()
    elif topic in described.topics:
        allowed = described.topics[topic].allowed
    else:
        allowed = described.missing.get(topic)
    return allowed if allowed is None else allowed | ((described.allowed or frozenset()) & {Operation.CREATE})


def lacking(resource: str, wanted: Sequence[str], allowed: frozenset[Operation] | None) -> list[Finding]:
    """A fault that names what to grant; none where nothing is lacking."""
    if allowed is None:
        advice = "ask the cluster's own tools (kafka-acls --list)"
        return [Finding(f"rights: {resource}", "warn", "the broker does not tell what is allowed", advice)]
    short = [right for right in wanted if OPERATIONS[right] not in allowed]
    if not short:
        return []
    grant = " and ".join(OPERATIONS[right].name.title().replace("_C", "C") for right in short)
    said = f"may not {', '.join(SPELLED[right] for right in short)}"
    return [Finding(f"rights: {resource}", "fault", said, f"grant {grant} on {resource} to this principal")]


SPELLED = {
    "read": "read", "write": "write", "create": "create it", "settings": "see its settings", "alter": "change settings",
}  # fmt: skip
