"""A TCP proxy before the broker that knows Kafka's request kinds, so that a test can hold one of them back.

Every frame is length, API key, version, … (Kafka protocol guide); answers come in the order of requests.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from kafka.running import Broker, locked_file

PRODUCE = 0
FETCH = 1
LIST_OFFSETS = 2
OFFSET_COMMIT = 8
JOIN_GROUP = 11
HEARTBEAT = 12
INIT_PRODUCER_ID = 22
ADD_PARTITIONS_TO_TXN = 24
ADD_OFFSETS_TO_TXN = 25
END_TXN = 26
TXN_OFFSET_COMMIT = 28


class Held:
    """One request that waits here, in flight. `answered` is set when the broker has, after `release`.

    `swallow`: it is not held but goes on at once, and its client is cut off instead of being told the answer.
    """

    def __init__(self, *, cut: bool, swallow: bool) -> None:
        self._cut = cut
        self.swallow = swallow
        self.arrived = asyncio.Event()
        self.answered = asyncio.Event()
        self.answer = b""
        """The broker's, whole: length, correlation id, and what the kind of request has."""
        self._released = asyncio.Event()
        if swallow:
            self.release()

    def release(self) -> None:
        """Let it go on to the broker, whatever became of the client that sent it."""
        self._released.set()

    async def wait(self, client: asyncio.StreamWriter) -> None:
        self.arrived.set()
        if self._cut:
            client.close()
        await self._released.wait()


def end_txn_error(held: Held) -> int:
    """What the broker said to an `EndTxn` (version 0): 0 is that the transaction has ended as asked."""
    return int.from_bytes(held.answer[12:14], "big", signed=True)  # after length, correlation id, throttle time


class Proxy:
    def __init__(self) -> None:
        self.seen: list[int] = []
        self._holds: list[tuple[int, bytes, bytes, Held]] = []
        self._connections: set[asyncio.Task[None]] = set()

    def hold(
        self, api_key: int, *, cut: bool = False, swallow: bool = False, names: bytes = b"", after: bytes = b""
    ) -> Held:
        """Hold the next request of this kind that has `names` in it and comes after any request that has `after` in it;
        `cut` ends its client's connection meanwhile."""
        self._holds.append((api_key, names, after, held := Held(cut=cut, swallow=swallow)))
        return held

    def forget(self, held: Held) -> None:
        """Hold it no more, if it has not come yet; else let it go."""
        self._holds = [hold for hold in self._holds if hold[3] is not held]
        held.release()

    async def serve(self, broker: Broker) -> asyncio.Server:
        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # A task of our own: asyncio reports the cancellation of one that it made as an error.
            self._connections.add(asyncio.create_task(self._forward(reader, writer, broker.behind_proxy_port)))

        return await asyncio.start_server(connected, "127.0.0.1", broker.proxy_port)

    async def cut(self) -> None:
        """End every connection."""
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        pending: list[Held | None] = []
        back = asyncio.create_task(self._answers(up_reader, writer, pending))
        try:
            while frame := await read_frame(reader):
                key = int.from_bytes(frame[4:6], "big")
                self.seen.append(key)
                held = self._held(key, frame)
                if held is not None:
                    await held.wait(writer)
                pending.append(held)
                up_writer.write(frame)
            await back  # the client is gone, but what it sent may still be answered
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            writer.close()
            up_writer.close()

    def _held(self, key: int, frame: bytes) -> Held | None:
        for index, (wanted, names, after, held) in enumerate(self._holds):
            if wanted == key and names in frame and not after:
                del self._holds[index]
                return held
            if after and after in frame:
                self._holds[index] = (wanted, names, b"", held)
        return None

    @staticmethod
    async def _answers(
        up_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pending: list[Held | None]
    ) -> None:
        while pending or not writer.is_closing():
            frame = await read_frame(up_reader)
            if not frame:
                break
            held = pending.pop(0)
            if held is not None:
                held.answer = frame
                held.answered.set()
                if held.swallow:
                    writer.close()
            if not writer.is_closing():
                writer.write(frame)
        writer.close()


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """The next frame with its length, or nothing when the connection ended."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        head = await reader.readexactly(4)
        return head + await reader.readexactly(int.from_bytes(head, "big"))
    return b""


@asynccontextmanager
async def proxied(broker: Broker) -> AsyncIterator[Proxy]:
    """A proxy at the broker's proxy port, which one test at a time may have."""
    with locked_file(f"{broker.folder}/proxy.lock"):
        proxy = Proxy()
        server = await proxy.serve(broker)
        try:
            yield proxy
        finally:
            server.close()
            await proxy.cut()
            await server.wait_closed()
