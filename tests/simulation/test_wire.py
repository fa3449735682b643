"""A reader hears what is decided when it is, whatever has stirred its partition before."""

from __future__ import annotations

from simulation.clocks import MachineClock
from simulation.journal_model import ModelReader
from simulation.log_model import COMMITTED, Log, Transaction
from simulation.wire import QUIET, Site
from simulation.world import World

from keylane.journal.port import Place, Record
from keylane.router.setup import topic_specs
from keylane.schemas import topics

PLACE = Place(topics.EVENTS, 0)
SECOND_US = 1_000_000


def test_a_reader_that_waits_hears_of_a_transaction_when_that_is_decided() -> None:
    world = World(0)
    log = Log(topic_specs(1, ("default",)), lambda: world.now_us)
    process = world.process("reader", MachineClock())
    reader = ModelReader(Site(world, QUIET, 0), log, process, {PLACE: 0})
    heard: list[int] = []

    async def read() -> None:
        assert [record.value for record in await reader.poll(10, 60.0)] == [b"said"]
        heard.append(world.now_us)

    process.spawn(read)
    transaction = Transaction("router")
    record = Record(*PLACE, b"key", b"said")
    world.at(1 * SECOND_US, log.add, [record], "router", transaction)
    world.at(2 * SECOND_US, log.decide, transaction, COMMITTED)
    world.run_until(3 * SECOND_US)
    assert not world.uncaught
    (at_us,) = heard
    assert at_us >= 2 * SECOND_US, "before that nobody may see it"
