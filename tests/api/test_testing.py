"""`keylane.testing.call`: handlers without any journal."""

from __future__ import annotations

import msgspec
import pytest

from keylane import Done, Fail, Item
from keylane.testing import call

pytestmark = pytest.mark.anyio


class Restart(msgspec.Struct):
    reason: str


async def test_a_typed_handler_gets_its_payload_and_checkpoint() -> None:
    async def restart(item: Item[Restart]) -> Done:
        await item.progress({"drained": True})
        item.check()
        assert item.checkpoint is not None
        return item.done([item.payload.reason, item.attempt, item.checkpoint.data], version="v2")

    done = await call(restart, {"reason": "oom"}, checkpoint={"step": 1}, attempt=2)
    assert done == Done(["oom", 2, {"step": 1}], "v2")


async def test_a_plain_function_returns_its_result() -> None:
    def restart(item: Item[dict[str, int]]) -> int:
        return item.payload["n"]

    assert (await call(restart, {"n": 3})).result == 3


async def test_what_a_handler_raises_comes_out() -> None:
    def restart(item: Item[object]) -> None:
        raise Fail("no such deployment")

    with pytest.raises(Fail, match="no such deployment"):
        await call(restart, None)
