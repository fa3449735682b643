"""A worker process to be killed: `python frail_worker.py NAME`, with KEYLANE_URL set.

The first attempt saves what it has done and then hangs; one that finds a checkpoint says what it was given.
"""

import sys

import anyio

from keylane import Item, Worker

NAME = sys.argv[1]
worker = Worker(name=NAME, pool="frail", drain_s=1)


@worker.handler("rotate")
async def rotate(item: Item[None]) -> dict[str, object]:
    if item.checkpoint is None:
        await item.progress({"rotated": ["db-1"]}, evidence={"log": "db-1: ok"}, open_questions=["is db-2 in use?"])
        await anyio.sleep_forever()
    assert item.checkpoint is not None
    saved = item.checkpoint
    return {
        "by": NAME,
        "attempt": item.attempt,
        "found": [saved.data, saved.evidence, list(saved.open_questions)],
        "previous": item.previous_end,
    }


if __name__ == "__main__":
    worker.run()
