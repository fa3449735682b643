"""What a router of a configuration needs of a journal and what is there: the difference as steps, and taking them.

`setup.py` knows what there should be. Nothing here removes a topic, a partition or a record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from keylane.journal.port import Journal, TopicSpec
from keylane.journal.upkeep import Difference, TopicState
from keylane.router.config import BadConfig, Config
from keylane.router.setup import check_pinned, pin, read_metadata, wanted_topics
from keylane.schemas import topics
from keylane.schemas.metadata import Metadata

What = Literal["create", "pin", "change", "kept", "blocked", "extra"]
"""`create`, `pin` (the metadata) and `change` are what there is to do. `kept`: an operator may have meant it, or only
other tools can change it. `blocked`: stands in the way of all of it. `extra`: this configuration does not need it."""


class Step(NamedTuple):
    """One difference between what is there and what should be."""

    what: What
    topic: str
    setting: str = ""
    found: str = ""
    wanted: str = ""
    why: str = ""


WHY_NOT = {
    "partitions": "keys would move to other lanes. Configure as many as there are, or use another journal or prefix",
    "compacted": "records lie in another way. Use another journal",
    "replication factor": "replicas are moved with the cluster's own tools (kafka-reassign-partitions)",
}
WHY = {
    "refused": "no router starts so",
    "harmful": "routers need it",
    "risky": "else what was acknowledged can be lost with one broker",
    "chosen": "as it is made; a shorter retention removes records",
}
OF_OTHER_POOL = "no pool of this configuration; nothing new is written there"
NOT_OURS = "not one of keylane's"


async def plan(journal: Journal, config: Config, *, reset: bool) -> list[Step]:
    """What there is to do. With `reset`, also what an operator may have changed on purpose is to be as specified.

    Changes nothing. Raises `BadConfig` where the metadata cannot be read.
    """
    specs = wanted_topics(config)
    states = await journal.compare(specs)
    is_there = {state.name for state in states if state.partitions is not None}
    pinned = await read_metadata(journal) if topics.METADATA in is_there else None
    return steps(config, states, await journal.topic_names(), pinned, reset=reset)


def steps(
    config: Config, states: Sequence[TopicState], names: Sequence[str], pinned: Metadata | None, *, reset: bool
) -> list[Step]:
    """The plan as a function of what was found; `states` of the wanted topics, `names` of all that are there."""
    found = list(_metadata(config, pinned))
    specs = {spec.name: spec for spec in wanted_topics(config)}
    for state in states:
        if state.partitions is None:
            found.append(Step("create", state.name, wanted=_described(specs[state.name])))
        found += [_step(state.name, difference, reset) for difference in state.differences]
    for name in sorted(set(names) - specs.keys()):
        found.append(Step("extra", name, why=OF_OTHER_POOL if name.startswith(topics.items("")) else NOT_OURS))
    order = ("blocked", "create", "pin", "change", "kept", "extra")
    return sorted(found, key=lambda step: order.index(step.what))


async def apply(journal: Journal, config: Config, planned: Sequence[Step], taken: Callable[[Step], None]) -> None:
    """Take the steps of a plan; each is told when it is done. Several may do so at once, and any number of times.

    Raises `BadConfig`, before anything is changed, where something is in the way.
    """
    if blocked := [step for step in planned if step.what == "blocked"]:
        more = f", and {len(blocked) - 1} more: see keylane topics plan" if len(blocked) > 1 else ""
        raise BadConfig(f"nothing was changed. In the way is {_told(blocked[0])}{more}")
    specs = {spec.name: spec for spec in wanted_topics(config)}
    for step in planned:
        match step.what:
            case "create":
                await journal.create_topics([specs[step.topic]])
            case "change":
                await journal.alter(specs[step.topic], [step.setting])
            case "pin":
                if await read_metadata(journal) is None:  # another may have been quicker
                    await pin(journal, config)
            case _:
                continue
        taken(step)


def _metadata(config: Config, pinned: Metadata | None) -> Iterator[Step]:
    if pinned is None:
        yield Step("pin", topics.METADATA, wanted=f"{config.partitions} partitions, {Metadata(partitions=1).hash}")
        return
    try:
        check_pinned(pinned, config)
    except BadConfig as error:
        yield Step("blocked", topics.METADATA, why=str(error))


def _step(topic: str, difference: Difference, reset: bool) -> Step:
    setting, found, wanted, weight, changeable = difference
    if not changeable:
        what: What = "blocked" if weight == "refused" else "kept"
        return Step(what, topic, setting, found, wanted, WHY_NOT.get(setting, ""))
    if weight in ("refused", "harmful") or reset:
        return Step("change", topic, setting, found, wanted, WHY[weight])
    why = "left as it is, for it may be meant; --reset-settings changes it" if weight == "chosen" else WHY[weight]
    return Step("kept", topic, setting, found, wanted, why)


def _told(step: Step) -> str:
    setting = f" {step.setting} is {step.found}, should be {step.wanted};" if step.setting else ""
    return f"{step.topic}:{setting} {step.why}"


def _described(spec: TopicSpec) -> str:
    kept = "newest of each key" if spec.compacted else "for ever"
    if spec.retention_ms is not None:
        kept = f"for {spec.retention_ms // 86_400_000} days"
    copies = f", {spec.replicas} replicas" if spec.replicas is not None else ""
    return f"{spec.partitions} partitions, kept {kept}, records up to {spec.max_record_bytes // 1024} KiB{copies}"
