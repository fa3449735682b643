"""A stand-in for a fleet of workers that do nothing: completes every item at once, for as long as it is told to.

`python -m bench.standin URL PARTITIONS`, a process of its own. `hold` on its standard input: it goes on reading and
beating, and completes no more. At the end of its input it stops. It is no `keylane worker`, whose handlers have costs
of their own; what is measured with it is the router.
"""

from __future__ import annotations

import sys

import anyio
import anyio.to_thread
from msgspec import Struct
from msgspec.json import Decoder

from bench import load
from bench.writing import Write, writer
from keylane.journal import connect
from keylane.journal.port import Journal, Place, Record, Stored
from keylane.schemas import topics
from keylane.schemas.codec import encode
from keylane.schemas.results import Completed

BEAT_S = 2.0
POLL_RECORDS = 4_000
WORK_ITEM = ("ce_type", b"keylane.WorkItem")


class Item(Struct):
    """As much of an item as its completion names."""

    number: int
    run: str
    resource: str
    token: int


class StandIn:
    """One session in each partition."""

    def __init__(self, journal: Journal, write: Write, partitions: int) -> None:
        self._journal = journal
        self._write = write
        self._read = [0] * partitions
        self._decode = Decoder(Item).decode
        self.completing = True

    async def beat(self) -> None:
        number = 1
        while True:
            number += 1
            await self._write(load.beats(number, self._read))
            await anyio.sleep(BEAT_S)

    async def serve(self) -> None:
        places = {Place(topics.items(load.POOL), number): None for number in range(len(self._read))}
        reader = await self._journal.reader(places)
        while True:
            found = await reader.poll(POLL_RECORDS, 1.0)
            completions = [self._completion(stored) for stored in found if WORK_ITEM in stored.headers]
            if completions and self.completing:
                await self._write(completions)

    def _completion(self, stored: Stored) -> Record:
        item = self._decode(stored.value or b"")
        partition = stored.partition
        self._read[partition] = item.number
        done = Completed(
            session=load.session(partition), pool=load.POOL, resource=item.resource, run=item.run, token=item.token
        )
        return Record(topics.RESULTS, partition, stored.key, encode(done))


async def serve(url: str, partitions: int) -> None:
    journal = await connect(url)
    try:
        async with writer(url) as write, anyio.create_task_group() as tasks:
            stand_in = StandIn(journal, write, partitions)
            tasks.start_soon(stand_in.beat)
            tasks.start_soon(stand_in.serve)
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
                stand_in.completing = line.strip() != "hold"
            tasks.cancel_scope.cancel()
    finally:
        await journal.close()


if __name__ == "__main__":
    anyio.run(serve, sys.argv[1], int(sys.argv[2]))
