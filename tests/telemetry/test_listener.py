"""The listener: what it answers, where it may listen, and that a stuck event loop is seen from outside."""

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Sequence

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from prometheus_client import CollectorRegistry, Counter

from keylane.telemetry.address import BadAddress, parse_address
from keylane.telemetry.build import process_registry
from keylane.telemetry.listener import listening
from keylane.telemetry.pulse import Pulse


def ask(url: str, method: str = "GET") -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read()


def serving(registry: CollectorRegistry, alive: Sequence[bool], why: Sequence[str]):
    return listening(
        "127.0.0.1:0", exposed=False, registry=registry, is_alive=lambda: all(alive), why_unready=lambda: list(why)
    )


def test_metrics_health_and_readiness_are_answered_and_nothing_else_is() -> None:
    registry = process_registry("sqlite")
    Counter("asked_total", "Asked.", registry=registry).inc(3)
    alive, why = [True], ["lane 3 is loading"]
    with serving(registry, alive, why) as url:
        status, text = ask(f"{url}/metrics")
        assert status == 200
        assert b"asked_total 3.0" in text
        assert b'keylane_build_info{journal="sqlite"' in text
        assert b"process_cpu_seconds_total" in text
        assert ask(f"{url}/healthz") == (200, b'{"alive": true}\n')
        assert ask(f"{url}/readyz") == (503, b'{"ready": false, "why": ["lane 3 is loading"]}\n')
        why.clear()
        assert ask(f"{url}/readyz") == (200, b'{"ready": true, "why": []}\n')
        alive[0] = False
        assert ask(f"{url}/healthz")[0] == 503
        assert json.loads(ask(f"{url}/readyz")[1])["why"] == ["the event loop does not turn"]
        assert ask(f"{url}/")[0] == 404
        assert ask(f"{url}/metrics/../etc/passwd")[0] == 404
        assert ask(f"{url}/metrics", "POST")[0] == 405


def test_the_port_is_free_again_afterwards_and_a_taken_one_is_told() -> None:
    registry = CollectorRegistry()
    with serving(registry, [True], []) as url:
        address = url.removeprefix("http://")
        with (
            pytest.raises(BadAddress, match="choose another port"),
            listening(address, exposed=False, registry=registry, is_alive=bool, why_unready=list),
        ):
            pass
    with listening(address, exposed=False, registry=registry, is_alive=lambda: True, why_unready=list) as again:
        assert ask(f"{again}/healthz")[0] == 200


def test_a_client_that_says_nothing_keeps_nobody_waiting() -> None:
    with serving(CollectorRegistry(), [True], []) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))):
            assert ask(f"{url}/healthz")[0] == 200


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:9464", "[::1]:9464", "127.8.9.1:1"])
def test_loopback_needs_no_leave(address: str) -> None:
    assert parse_address(address, exposed=False)[1] == int(address.rpartition(":")[2])


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "[::]:9464", "192.0.2.7:9464"])
def test_an_address_that_others_reach_needs_an_explicit_setting(address: str) -> None:
    with pytest.raises(BadAddress, match="metrics_exposed"):
        parse_address(address, exposed=False)
    assert parse_address(address, exposed=True)[1] == 9464


@pytest.mark.parametrize(
    "address", ["", "9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "host:9464", "127.0.0.1:70000"]
)
def test_what_is_no_address_is_refused_with_one_that_is(address: str) -> None:
    with pytest.raises(BadAddress, match=r"127\.0\.0\.1:|0\.0\.0\.0"):
        parse_address(address, exposed=True)


@pytest.mark.anyio
async def test_a_stuck_event_loop_is_not_alive_and_one_that_turns_again_is() -> None:
    pulse = Pulse(silent_s_max=0.6)
    with serving_pulse(pulse) as url:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pulse.beat)
            await anyio.lowlevel.checkpoint()
            assert (await anyio.to_thread.run_sync(ask, f"{url}/healthz"))[0] == 200
            statuses: list[int] = []

            def ask_until_dead() -> None:
                deadline_s = time.monotonic() + 10
                while time.monotonic() < deadline_s and 503 not in statuses:
                    statuses.append(ask(f"{url}/healthz")[0])

            # Run in the loop itself: nothing else of it turns meanwhile.
            ask_until_dead()
            assert statuses[-1] == 503
            with anyio.fail_after(10):
                while (await anyio.to_thread.run_sync(ask, f"{url}/healthz"))[0] != 200:
                    pass
            tasks.cancel_scope.cancel()


def serving_pulse(pulse: Pulse):
    return listening(
        "127.0.0.1:0", exposed=False, registry=CollectorRegistry(), is_alive=pulse.is_alive, why_unready=list
    )
