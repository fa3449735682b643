"""What is Kafka's alone of upkeep: looking before creating, altering, rights, brokers and their limits."""

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource
from kafka.conftest import PARTITIONS, Site

from keylane.journal._kafka_admin import Admin, Described, TopicFound
from keylane.journal._kafka_checks import SPOKEN, broker, copies, lacking, protocol
from keylane.journal._kafka_names import Names
from keylane.journal._kafka_requests import NOT_TOLD, DescribeTopics, MetadataRequest_v8, Operation, operations
from keylane.journal._kafka_topics import compare, topic_settings
from keylane.journal.errors import TopicMismatch, Unavailable
from keylane.journal.port import Record, TopicSpec
from keylane.journal.upkeep import Need

anyio_and_kafka = [pytest.mark.anyio, pytest.mark.kafka]


class TestOnABroker:
    pytestmark = anyio_and_kafka

    async def test_where_all_topics_are_there_none_is_created(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A router that was given no right to create must be able to start."""
        journal = await site.journal()

        async def refused(*_: object) -> bool:
            raise AssertionError("asked to create")

        monkeypatch.setattr(journal._admin, "create", refused)
        await journal.create_topics([TopicSpec(site.results, PARTITIONS), TopicSpec(site.state, PARTITIONS, True)])

    async def test_a_change_leaves_what_an_operator_has_set(self, site: Site) -> None:
        """AlterConfigs, which aiokafka has, resets every other setting of the topic."""
        journal = await site.journal()
        client = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{site.broker.port}")
        await client.start()
        changed = {"compression.type": "zstd", "segment.ms": "123456", "max.message.bytes": "1049088"}
        await client.alter_configs([ConfigResource("topic", site.full(site.results), changed)])
        await client.close()
        spec = TopicSpec(site.results, PARTITIONS)
        found = {each.setting: each for each in (await journal.compare([spec]))[0].differences}
        assert found["compression.type"] == ("compression.type", "zstd", "uncompressed", "refused", True)
        with pytest.raises(TopicMismatch, match=r"compression\.type zstd, not uncompressed"):
            await journal.create_topics([spec])
        await journal.alter(spec, found)
        assert not (await journal.compare([spec]))[0].differences
        settings = (await journal._admin.settings([site.full(site.results)]))[site.full(site.results)]
        assert settings["segment.ms"] == "123456"
        await journal.create_topics([spec])

    async def test_more_replicas_than_brokers_is_a_configuration_that_cannot_be(self, site: Site) -> None:
        journal = await site.journal()
        with pytest.raises(TopicMismatch, match=r"(?i)replication factor"):
            await journal.create_topics([TopicSpec("copies", 1, replicas=2)])
        await journal.create_topics([TopicSpec("copies", 1, replicas=1, min_in_sync=1)])
        (state,) = await journal.compare([TopicSpec("copies", 1, replicas=2, min_in_sync=2)])
        assert [(each.setting, each.weight, each.changeable) for each in state.differences] == [
            ("min.insync.replicas", "harmful", True),
            ("replication factor", "risky", False),
        ]

    async def test_asking_who_may_claim_disturbs_no_open_transaction(self, site: Site) -> None:
        journal = await site.journal()
        session = await site.claim(journal)
        await session.commit([Record(site.events, 0, b"k", b"before")])
        (told,) = await journal.rights([Need("lane", "0", "write"), Need("group", "routers", "read")])
        assert told.level == "ok" and "1 transactional ids" in told.said
        await session.commit([Record(site.events, 0, b"k", b"after")])
        assert [record.value for record in await site.committed(journal, site.events)] == [b"before", b"after"]

    async def test_a_topic_that_may_not_be_described_is_not_taken_for_a_missing_one(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else a client without rights hears that no router was ever here, and a router tries to create it."""
        journal = await site.journal()

        async def hidden(topics: list[str]) -> Described:
            return Described("c", (1,), 1, {}, {}, frozenset(topics), None)

        monkeypatch.setattr(journal._admin, "describe", hidden)
        with pytest.raises(Unavailable, match=r"no right to that on topic .*\.metadata"):
            await journal.partitions("metadata")
        with pytest.raises(Unavailable, match=r"no right to that on topic .*\.state"):
            await journal.create_topics([STATE])
        needs = [Need("topic", "state", "read"), Need("topic", "events", "write")]
        assert [(each.name, each.level) for each in await journal.rights(needs)] == [
            (f"rights: topic {site.full('events')}", "fault"),
            (f"rights: topic {site.full('state')}", "fault"),
        ]


def test_asking_about_a_topic_never_makes_it() -> None:
    """aiokafka's own request does, where the broker has auto.create.topics.enable."""
    request = DescribeTopics(["a"]).build(MetadataRequest_v8)
    assert request.allow_auto_topic_creation is False and request.include_topic_authorized_operations is True


def test_a_set_of_operations_is_read_bit_by_bit() -> None:
    every = sum(1 << bit for bit in range(3, 14))
    assert operations(every) == frozenset(Operation)
    assert operations((1 << 3) | (1 << 8)) == {Operation.READ, Operation.DESCRIBE}
    assert operations(0) == frozenset()
    assert operations(NOT_TOLD) is None


def test_what_is_lacking_is_named_with_what_to_grant() -> None:
    (finding,) = lacking("topic k.events", ["read", "write", "settings"], frozenset({Operation.READ}))
    assert (finding.level, finding.said) == ("fault", "may not write, see its settings")
    assert finding.advice == "grant Write and DescribeConfigs on topic k.events to this principal"
    assert not lacking("topic k.events", ["read"], frozenset({Operation.READ}))
    assert [each.level for each in lacking("topic k.events", ["read"], None)] == ["warn"]


def test_a_broker_that_speaks_less_is_a_fault_that_names_what() -> None:
    versions = {number: (0, 99) for number in SPOKEN}
    assert protocol(versions).level == "ok"
    without = {number: bounds for number, bounds in versions.items() if number != 26}
    assert "EndTxn" in protocol(without).said and protocol(without).level == "fault"
    assert "InitProducerId" in protocol(versions | {22: (3, 5)}).said, "aiokafka speaks the first version alone"


GOOD = {
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "transaction.max.timeout.ms": "900000",
    "group.min.session.timeout.ms": "6000",
    "group.max.session.timeout.ms": "1800000",
    "auto.create.topics.enable": "false",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
}


@pytest.mark.parametrize(
    ("change", "level"),
    [
        ({"transaction.abort.timed.out.transaction.cleanup.interval.ms": "10000"}, "warn"),
        ({"transaction.max.timeout.ms": "1000"}, "fault"),
        ({"group.min.session.timeout.ms": "20000"}, "fault"),
        ({"group.max.session.timeout.ms": "9000"}, "fault"),
        ({"auto.create.topics.enable": "true"}, "warn"),
        ({"transaction.state.log.replication.factor": "4"}, "fault"),
        ({"transaction.state.log.min.isr": "4"}, "fault"),
    ],
)
def test_a_broker_setting_that_does_not_fit_is_told_with_what_to_set(change: dict[str, str], level: str) -> None:
    (fine,) = broker("broker 1", GOOD, 3, 10_000, transactions_unused=True)
    assert fine.level == "ok"
    (finding,) = broker("broker 1", GOOD | change, 3, 10_000, transactions_unused=True)
    assert finding.level == level and next(iter(change)) in finding.said and finding.advice


def test_settings_that_a_broker_keeps_to_itself_are_not_guessed() -> None:
    assert [each.level for each in broker("broker 1", dict.fromkeys(GOOD), 3, 10_000, transactions_unused=True)] == [
        "ok"
    ]


STATE = TopicSpec("state", 2, compacted=True)
FOUND = TopicFound(2, leaderless=False, replicas=3, in_sync=3, internal=False, allowed=None)
SETTINGS = topic_settings(STATE) | {"min.insync.replicas": "2", "unclean.leader.election.enable": "false"}


@pytest.mark.parametrize(
    ("setting", "value", "weight"),
    [
        ("cleanup.policy", "delete", "refused"),
        ("compression.type", "producer", "refused"),
        ("max.message.bytes", "1000", "harmful"),
        ("max.message.bytes", "99999999", "chosen"),
        ("segment.bytes", "1073741824", "harmful"),
        ("segment.bytes", "1048576", "chosen"),
        ("min.cleanable.dirty.ratio", "0.5", "harmful"),
        ("min.cleanable.dirty.ratio", "0.10", None),
        ("retention.ms", "1000", "chosen"),
        ("min.insync.replicas", "1", "risky"),
        ("unclean.leader.election.enable", "true", "risky"),
    ],
)
def test_each_setting_has_its_weight(setting: str, value: str, weight: str | None) -> None:
    differences = compare(STATE, FOUND, SETTINGS | {setting: value}, brokers=3).differences
    assert [(each.setting, each.weight) for each in differences] == ([(setting, weight)] if weight else [])


def test_one_copy_is_a_risk_only_where_there_could_be_more() -> None:
    alone = FOUND._replace(replicas=1, in_sync=1)
    settings = SETTINGS | {"min.insync.replicas": "1"}
    assert not compare(STATE, alone, settings, brokers=1).differences
    (difference,) = compare(STATE, alone, settings, brokers=3).differences
    assert difference == ("replication factor", "1", "3", "risky", False)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, [("replicas", "ok")]),
        ({"in_sync": 2}, [("replicas", "warn")]),
        ({"in_sync": 1}, [("replicas", "fault")]),
        ({"in_sync": 0, "leaderless": True}, [("leaders", "fault"), ("replicas", "fault")]),
    ],
)
async def test_leaders_and_replicas_that_are_missing_are_told(
    change: dict[str, int], found: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests' broker is alone, so what it would say of lost brokers is laid before the check."""

    async def settings(_: Admin, topics: list[str]) -> dict[str, dict[str, str]]:
        return dict.fromkeys(topics, SETTINGS)

    monkeypatch.setattr(Admin, "settings", settings)
    topics = {"k.state": FOUND._replace(**change), "other.state": FOUND._replace(leaderless=True)}
    described = Described("c", (1, 2, 3), 1, topics, {}, frozenset(), None)
    findings = await copies(object.__new__(Admin), Names("k."), described)
    assert [(each.name, each.level) for each in findings] == found
    assert all("other" not in each.said for each in findings)
