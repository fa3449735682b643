"""`keylane hold` under kill -9 of the router and of itself, while another waits for the same: on SQLite and on Kafka.

Both commands write down their token all the time. The next holder's is higher, and once it has written nothing is
written under the one before. What is done to the broker is in `test_hold_and_broker`.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from e2e.processes import running
from e2e.shell import Shell, until

pytestmark = [pytest.mark.timeout(120), pytest.mark.requirement("S2.2")]

KEY = "deploy://api-prod"
WITHIN_S = 60
WRITES = 'while ! test -e "$1"; do echo "$KEYLANE_TOKEN" >>effects; sleep 0.02; done'


class Service:
    """A router that can be killed, the one that holds, and the one that waits."""

    def __init__(self, url: str, folder: Path, stack: ExitStack) -> None:
        (folder / "keylane.toml").write_text("partitions = 2\n")
        self.shell = Shell(url, folder)
        self._folder = folder
        self._stack = stack
        self._router: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        """A router that has lanes."""
        context = running("router", "--output", "json", says='"url"', url=self.shell.url, cwd=self._folder)
        self._router = self._stack.enter_context(context)

    def kill(self) -> None:
        """SIGKILL to the router."""
        self._router.send_signal(signal.SIGKILL)
        self._router.wait(WITHIN_S)

    @contextmanager
    def holding(self, name: str, *flags: str) -> Iterator[subprocess.Popen[str]]:
        """`keylane hold`, whose command writes until the file of that name is there."""
        words = ("hold", KEY, "--actor", name, *flags, "--kill-after", "0.5", "--", "sh", "-c", WRITES, "sh", name)
        process = self.shell.start("keylane", *words)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.communicate()

    def let(self, name: str) -> None:
        """Its command comes to its end."""
        (self._folder / name).touch()

    def effects(self) -> list[int]:
        """Under which tokens was written, in order."""
        file = self._folder / "effects"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.shell.log(KEY)]

    def assert_the_next_one_has_it(self, waiting: subprocess.Popen[str], first: int) -> None:
        """It comes to hold it, under a higher token, and after that nothing is written under the first."""
        until(lambda: self.effects()[-1] != first, "the next one writes")
        second = self.effects()[-1]
        assert second > first
        self.let("second")
        assert waiting.wait(WITHIN_S) == 0
        written = self.effects()
        assert written == sorted(written) and set(written) == {first, second}
        until(lambda: self.shell.locks() == [], "it was given back")


@pytest.fixture
def service(journal_url: str, tmp_path: Path) -> Iterator[Service]:
    with ExitStack() as stack:
        yield Service(journal_url, tmp_path, stack)


@contextmanager
def both(service: Service, ttl: str) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str], int]]:
    """One that holds and writes, one that waits for it, and the token of the first."""
    with service.holding("first", "--ttl", ttl) as first:
        until(lambda: service.effects(), "it writes")
        with service.holding("second", "--wait", "90s", "--ttl", "30s") as second:
            until(lambda: service.kinds().count("Queued") == 2, "another waits")
            yield first, second, service.effects()[0]


def test_a_router_that_is_killed_and_followed_by_another_changes_nothing(service: Service) -> None:
    with both(service, "12s") as (first, second, token):
        service.kill()
        service.start()
        before = service.kinds().count("Renewed")
        until(lambda: service.kinds().count("Renewed") > before, "the new router renews it")
        assert (first.poll(), second.poll()) == (None, None) and set(service.effects()) == {token}
        service.let("first")
        assert first.wait(WITHIN_S) == 0
        service.assert_the_next_one_has_it(second, token)


def test_where_no_router_follows_the_command_is_stopped_with_the_lease(service: Service) -> None:
    with both(service, "3s") as (first, second, token):
        service.kill()
        assert first.wait(WITHIN_S) == 4
        written = service.effects()
        assert set(written) == {token}
        assert first.stderr is not None and "not renewed in time" in first.stderr.read()
        service.start()
        service.assert_the_next_one_has_it(second, token)
        assert service.effects()[: len(written) + 1].count(token) == len(written), "nothing after it had ended"


def test_where_hold_itself_is_killed_its_command_does_not_go_on_and_its_lock_ends_with_the_lease(
    service: Service,
) -> None:
    with both(service, "3s") as (first, second, token):
        first.kill()
        assert first.wait(WITHIN_S) == -signal.SIGKILL
        service.assert_the_next_one_has_it(second, token)
    lost = [event for event in service.shell.log(KEY) if event["type"] == "Lost"]
    assert [(event["reason"], event["token"], event["holder"]) for event in lost] == [("lease_expired", token, "first")]
