"""What a worker counts of its items, how it stands, and that it says whether it is ready."""

import urllib.error
import urllib.request

import anyio
import anyio.to_thread
import pytest
from prometheus_client.parser import text_string_to_metric_families

import keylane
from keylane.telemetry.address import BadAddress
from keylane.testing import local

pytestmark = pytest.mark.anyio

DEADLINE_S = 20


def ask(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


async def until_ready(url: str) -> None:
    with anyio.fail_after(DEADLINE_S):
        while (await anyio.to_thread.run_sync(ask, f"{url}/readyz"))[0] != 200:
            pass


async def test_items_by_outcome_and_how_the_worker_stands(unused_port: int) -> None:
    url = f"http://127.0.0.1:{unused_port}"
    async with local(
        'partitions = 4\nsession_lapse = "2s"\n[defaults]\nattempts = 2\nbackoff = "10ms"\nlease = "2s"'
    ) as journal:
        worker = keylane.Worker(journal, slots=5, metrics=f"127.0.0.1:{unused_port}")

        @worker.handler("do")
        async def do(item: keylane.Item) -> str:
            match item.payload, item.attempt:
                case "fail", _:
                    raise keylane.Fail("no")
                case "retry", 1:
                    raise keylane.Retry(0.01)
                case "lose", 1:
                    await anyio.sleep_forever()
            return "done"

        async with anyio.create_task_group() as tasks, keylane.Client(journal) as client:
            tasks.start_soon(worker.serve)
            await until_ready(url)
            for payload in ("done", "fail", "retry", "lose"):
                ticket = await client.submit(f"deploy://{payload}", "do", payload)
                await ticket.outcome(DEADLINE_S)
            status, text = await anyio.to_thread.run_sync(ask, f"{url}/metrics")
            assert status == 200
            assert (await anyio.to_thread.run_sync(ask, f"{url}/healthz"))[0] == 200
            tasks.cancel_scope.cancel()
    samples = {
        (sample.name, sample.labels.get("outcome")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("keylane_worker") and "le" not in sample.labels
    }
    found = {outcome: samples["keylane_worker_items_total", outcome] for outcome in ("completed", "failed", "retried")}
    assert found == {"completed": 3, "failed": 1, "retried": 1}
    assert samples["keylane_worker_items_total", "lost"] == 1
    assert samples["keylane_worker_handling_seconds_count", None] == 6
    assert samples["keylane_worker_slots", None] == 5
    assert samples["keylane_worker_slots_used", None] == 0
    assert samples["keylane_worker_partitions", None] == samples["keylane_worker_sessions", None] == 4
    assert 0 <= samples["keylane_worker_heartbeat_age_seconds", None] < DEADLINE_S


async def test_it_is_not_ready_before_its_sessions_are_open(unused_port: int, tmp_path: object) -> None:
    worker = keylane.Worker("memory://no-router-yet", metrics=f"127.0.0.1:{unused_port}")
    worker.handler("do")(lambda item: None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.serve)
        with anyio.fail_after(DEADLINE_S):
            while (said := await anyio.to_thread.run_sync(ask, f"http://127.0.0.1:{unused_port}/readyz"))[0] == 0:
                pass
        assert said[0] == 503 and "waiting for a router" in said[1]
        tasks.cancel_scope.cancel()


async def test_beyond_loopback_only_with_leave() -> None:
    worker = keylane.Worker("memory://x", metrics="0.0.0.0:0")
    worker.handler("do")(lambda item: None)
    with pytest.raises(BadAddress, match="metrics_exposed"):
        await worker.serve()
