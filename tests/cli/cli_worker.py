"""The worker that the tests of the commands run, by `keylane worker run cli_worker:worker`."""

from typing import Any

import keylane

worker = keylane.Worker(name="cli-worker")


@worker.handler("echo")
async def echo(item: keylane.Item[Any]) -> Any:
    return item.payload


@worker.handler("fail")
async def fail(item: keylane.Item[Any]) -> None:
    raise keylane.Fail("it \x1b[31mcannot be")
