"""What the doctor makes of what it saw: of metadata, topics, lanes, routers and the clock; and what each role needs."""

from typing import get_args

import pytest

from keylane import doctor as looks
from keylane.embedded import Service, wanted
from keylane.journal import Place, Record
from keylane.journal.errors import Unavailable
from keylane.journal.memory import MemoryJournal, MemoryLog
from keylane.journal.upkeep import Difference, Finding, Need, TopicState
from keylane.lanes import LaneHealth, LaneLag, health
from keylane.roles import Role, needs
from keylane.router.config import load_config
from keylane.router.setup import prepare
from keylane.schemas import topics
from keylane.schemas.codec import Undecodable, encode
from keylane.schemas.metadata import Metadata
from keylane.schemas.state import LANE_KEY, LaneRecord

pytestmark = pytest.mark.anyio

NOW_MS = 1_800_000_000_000
PINNED = Metadata(partitions=4)
CONFIG = load_config(None, {}, {"partitions": 1})


def lane(
    requests: int = 0, oldest_ms: int | None = None, committed_ms: int | None = None, token: int = 0, lost: str = ""
) -> LaneHealth:
    lag = LaneLag(partition=3, requests=requests, results=0, oldest_s=None, committed=None, claim=1)
    ages = {} if oldest_ms is None else {topics.REQUESTS: oldest_ms}
    return LaneHealth(lag, token, committed_ms, ages, lost or None)


@pytest.mark.parametrize(
    ("found", "partitions", "level", "says"),
    [
        (None, 4, "warn", "no router has set up"),
        (PINNED, 4, "ok", "4 partitions"),
        (PINNED, None, "ok", "4 partitions"),
        (PINNED, 8, "fault", "this configuration has 8"),
        (Metadata(partitions=4, changing=True), 4, "fault", "being changed"),
        (Metadata(partitions=4, hash="crc32"), 4, "fault", "crc32"),
        (Metadata(partitions=4, token_floor=9), 4, "ok", "4 partitions"),
        (Undecodable("of later", None, None), 4, "fault", "of later"),
        (Unavailable("no right"), 4, "fault", "no right"),
    ],
)
def test_what_is_pinned_is_held_against_the_configuration(
    found: Metadata | None, partitions: int | None, level: str, says: str
) -> None:
    finding = looks.metadata_finding(found, None if partitions is None else Metadata(partitions=partitions))
    assert finding.level == level and says in finding.said and bool(finding.advice) == (level != "ok")


def test_topics_are_told_by_what_their_differences_weigh() -> None:
    differences = (
        Difference("a", "1", "2", "refused"),
        Difference("b", "1", "2", "harmful"),
        Difference("c", "1", "2", "risky"),
        Difference("d", "1", "2", "chosen"),
        Difference("e", "1", "2", "refused", changeable=False),
    )
    states = [TopicState("events", 1, None, differences), TopicState("state", None), TopicState("waits", 1)]
    found = looks.topic_findings(states, ["events", "waits", "items.gone"])
    assert [finding.level for finding in found] == ["warn", "fault", "fault", "warn", "ok", "fault", "ok", "ok"]
    assert "state" in found[0].said and "items.gone" in found[-2].said and "1 are as they should be" in found[-1].said
    assert "apply sets it" in found[1].advice and "--reset-settings" in found[3].advice
    assert "cannot" in found[5].advice


@pytest.mark.parametrize(
    ("seen", "routers", "levels"),
    [
        (lane(), 1, []),
        (lane(requests=9, oldest_ms=500), 1, []),
        (lane(requests=9, oldest_ms=60_000, committed_ms=NOW_MS), 1, ["warn"]),
        (lane(requests=9, oldest_ms=60_000, committed_ms=NOW_MS - 60_000), 1, ["fault"]),
        (lane(requests=9, oldest_ms=60_000), 1, ["fault"]),
        (lane(requests=9, oldest_ms=60_000), 0, []),
        (lane(requests=9, oldest_ms=600_000), 0, ["warn"]),
        (lane(requests=9, oldest_ms=900_000), 0, ["fault"]),
        (lane(lost="it is gone"), 1, ["fault"]),
    ],
)
def test_a_lane_that_is_not_well_is_told_with_what_to_do(seen: LaneHealth, routers: int, levels: list[str]) -> None:
    found = looks.lane_findings(seen, routers, {topics.REQUESTS: 1_000_000}, NOW_MS)
    assert [finding.level for finding in found] == levels
    assert all(finding.advice and finding.name == "lane 3" for finding in found)


@pytest.mark.parametrize(
    ("routers", "waiting", "level"), [(2, 0, "ok"), (0, 0, "warn"), (0, 5, "fault"), (None, 0, "warn")]
)
def test_no_router_is_a_fault_once_something_waits(routers: int | None, waiting: int, level: str) -> None:
    assert looks.router_finding(routers, waiting).level == level


@pytest.mark.parametrize(
    ("lanes", "floor", "level", "says"),
    [
        ([], 0, "ok", "nothing was written yet"),
        ([lane(token=NOW_MS * 1_000, committed_ms=NOW_MS)], 0, "ok", "ahead of this"),
        ([lane(token=(NOW_MS + 3_600_000) * 1_000)], 0, "warn", "tokens are 3,600 s ahead"),
        ([lane(), lane(committed_ms=NOW_MS + 60_000)], 0, "warn", "last commit is 60 s ahead"),
        ([lane(token=(NOW_MS + 3_600_000) * 1_000)], (NOW_MS + 3_600_000) * 1_000, "warn", "tokens"),
        ([lane()], (NOW_MS + 3_600_000) * 1_000, "ok", "floor"),
    ],
)
def test_a_clock_that_was_set_back_is_seen_by_tokens_and_commits(
    lanes: list[LaneHealth], floor: int, level: str, says: str
) -> None:
    finding = looks.clock_finding(lanes, floor, NOW_MS)
    assert finding.level == level and says in finding.said


async def test_input_that_can_never_be_read_is_seen_before_a_router_halts_on_it() -> None:
    journal = MemoryJournal(MemoryLog())
    await prepare(journal, CONFIG)
    await journal.append([Record(topics.REQUESTS, 0, b"k", b"{}") for _ in range(5)])

    async def stands_at(requests: int) -> LaneHealth:
        record = LaneRecord(positions={topics.REQUESTS: requests, topics.RESULTS: 0}, token=7)
        await journal.append([Record(topics.STATE, 0, LANE_KEY, encode(record))])
        return await health(journal, 0)

    fine = await stands_at(2)
    assert (fine.lost, fine.token, fine.lag.requests) == (None, 7, 3)
    assert "was set back" in ((await stands_at(6)).lost or "")
    journal.log.forget(Place(topics.REQUESTS, 0), 4)
    gone = await stands_at(2)
    assert "removed before it was read" in (gone.lost or "") and gone.lag.requests == 1


async def test_a_look_that_fails_is_said_and_the_others_go_on() -> None:
    class Broken(MemoryJournal):
        async def topic_names(self) -> list[str]:
            raise Unavailable("no")

    journal = Broken(MemoryLog())
    await prepare(journal, CONFIG)
    expected = wanted(Service("memory://x", CONFIG))
    (settings,) = [finding async for finding in looks.settings(journal, expected)]
    (rights,) = [finding async for finding in looks.rights(journal, expected, "router")]
    assert settings.level == rights.level == "warn" and "could not be looked at: no" in settings.said
    lanes: list[Finding] = [finding async for finding in looks.lanes(journal, expected, PINNED, lambda _: None)]
    assert lanes[0].level == "warn", "a lane that has no partition"


@pytest.mark.parametrize("role", get_args(Role))
def test_only_routers_write_what_is_decided(role: Role) -> None:
    wants = needs(role, partitions=2, pools=["default"], group="routers", missing=["state"])
    decided = {topics.EVENTS, topics.STATE, topics.CONFLICTS, topics.WAITS, topics.DEADLETTERS, topics.items("default")}
    written = {need.name for need in wants if need.right == "write" and need.kind == "topic"}
    assert decided <= written if role == "router" else not decided & written
    lanes = [need for need in wants if need.kind == "lane"]
    claims = [Need("lane", "0", "write"), Need("lane", "1", "write")]
    assert lanes == (claims if role in ("router", "operator") else []), "an operator changes scope rules by it"
    assert (topics.METADATA in written) == (role == "operator")
    assert (Need("topic", topics.WAITS, "read") in wants) == (role in ("router", "operator"))
    assert Need("topic", topics.METADATA, "read") in wants
    assert (Need("topic", "state", "create") in wants) == (role in ("router", "operator"))
