"""The worker that `test_signals` runs as a process of its own: `python worker_program.py`, with KEYLANE_URL set."""

import sys
import time

import anyio
import anyio.from_thread

from keylane.workers import Item, Worker

worker = Worker(name="program", drain_s=20)


@worker.handler("slow")
async def slow(item: Item[float]) -> str:
    await item.progress({"pid": "told"})
    await anyio.sleep(item.payload)
    return "finished"


@worker.handler("stuck")
def stuck(item: Item[float]) -> None:
    anyio.from_thread.run(item.progress, {"pid": "told"})
    time.sleep(item.payload)


if __name__ == "__main__":
    worker.run()
    sys.stdout.write("ended by itself\n")
