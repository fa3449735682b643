"""Fixtures that tests of several folders share."""

import os
import signal
from collections.abc import Iterator

import pytest
from faults.disks import can_mount
from hypothesis import settings
from kafka.running import Broker, free_ports, shared_broker
from requirements_rows import listing, shown_by

# Whether a change lands must not hang on chance; on a developer's machine new examples are welcome.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")


# A shell's background has SIGINT ignored, and nohup SIGHUP: so would every program that a test starts and signals.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


def pytest_report_header() -> list[str]:
    """What this machine does not let the tests do: it must not go unseen."""
    return [] if can_mount() else ["faults: nothing may be mounted here: disks get full by limits on file sizes alone"]


ALONE = (
    "tests/faults/",
    "tests/chaos/",
    "tests/contract/",
    "tests/eight/",
    "tests/requirements/",
    "tests/cli/test_cli_demo.py",
    "tests/cli/test_cli_service.py",
    "tests/guards/test_paused_holder.py",
    "tests/workers/test_program.py",
    "tests/workers/test_worker_and_router.py",
)
"""What has short timeouts and real processes, and whose faults must bite: beside others it would test the machine."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test` runs one by one."""
    for item in items:
        if item.nodeid.startswith(ALONE):
            item.add_marker(pytest.mark.alone)


COLLECTED: pytest.StashKey[list[pytest.Item]] = pytest.StashKey()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keep what was picked, for the listing at the end."""
    session.config.stash[COLLECTED] = session.items


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """`pytest -m requirement` says which test shows which row, and on which backends."""
    if config.option.markexpr == "requirement":
        terminalreporter.section("requirements")
        for line in listing(shown_by(config.stash.get(COLLECTED, []))):
            terminalreporter.write_line(line)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Broker]:
    """A real Kafka broker, one for all of pytest's workers, ended with the last of them."""
    base = tmp_path_factory.getbasetemp()
    with shared_broker(base if worker_id == "master" else base.parent) as broker:
        yield broker


@pytest.fixture
def unused_port() -> int:
    """A port on loopback that nobody listens on now."""
    return free_ports(1)[0]
