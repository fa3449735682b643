"""`keylane worker exec` on both backends: a shell script does the work, renews its lease, and is stopped without it."""

import json
import os
import signal
from pathlib import Path

import anyio
import pytest
from e2e.processes import keylane, running

pytestmark = pytest.mark.anyio

CONFIG = """
partitions = 2
session_lapse = "2s"
[defaults]
lease = "2s"
backoff = "50ms"
"""
SCRIPT = """
set -eu
test -n "$KEYLANE_TOKEN"
if test "$KEYLANE_ACTION" = slow; then
    for step in 1 2 3 4 5 6; do
        sleep 0.5
        echo "{\\"progress\\": {\\"step\\": $step}}"
    done
fi
if test "$KEYLANE_ACTION" = silent && test "$KEYLANE_ATTEMPT" = 1; then
    echo $$ > silent.pid
    exec sleep 600
fi
if test "$KEYLANE_ACTION" = killed && test "$KEYLANE_ATTEMPT" = 1; then
    echo '{"progress": {"step": 1}}'
    sleep 0.3
    echo $PPID > worker.pid
    sleep 600
fi
saved=null
test -z "${KEYLANE_CHECKPOINT_FILE-}" || saved=$(cat "$KEYLANE_CHECKPOINT_FILE")
printf '{"result": {"payload": %s, "attempt": %s, "saved": %s}}\\n' "$(cat)" "$KEYLANE_ATTEMPT" "$saved"
"""


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def worker(actions: list[str]) -> list[str]:
    flags = [flag for action in actions for flag in ("--action", action)]
    return ["worker", "exec", *flags, "--kill-after", "1", "--", "sh", "work.sh"]


async def test_a_script_does_the_work_under_leases(journal_url: str, tmp_path: Path) -> None:
    (tmp_path / "keylane.toml").write_text(CONFIG)
    (tmp_path / "work.sh").write_text(SCRIPT)
    options = {"url": journal_url, "cwd": tmp_path}

    def submit(action: str) -> dict[str, object]:
        out = keylane(
            "submit", f"deploy://{action}", action, "--data", '{"n": 1}', "--wait", "--output", "json", **options
        )
        outcome = json.loads(out.splitlines()[-1])
        assert outcome["status"] == "completed", outcome
        result = outcome["result"]
        assert result["payload"] == {"n": 1}
        return dict(result)

    with (
        running("router", "--output", "json", says='"url"', **options),
        running(*worker(["quick", "slow", "silent"]), says="", **options),
    ):
        assert submit("quick")["attempt"] == 1
        assert submit("slow")["attempt"] == 1, "progress renewed a lease that is shorter than the work"
        assert submit("silent")["attempt"] == 2, "what says nothing loses its lease"
        silent = int((tmp_path / "silent.pid").read_text())
        assert not is_running(silent), "and was stopped"


async def test_after_kill_9_of_the_worker_the_next_attempt_gets_the_checkpoint(
    journal_url: str, tmp_path: Path
) -> None:
    (tmp_path / "keylane.toml").write_text(CONFIG)
    (tmp_path / "work.sh").write_text(SCRIPT)
    options = {"url": journal_url, "cwd": tmp_path}
    with (
        running("router", "--output", "json", says='"url"', **options),
        running(*worker(["killed"]), says="", **options),
    ):
        keylane("submit", "deploy://killed", "killed", "--id", "k", "--data", '{"n": 1}', **options)
        with anyio.fail_after(30):
            while not ((tmp_path / "worker.pid").exists() and (tmp_path / "worker.pid").read_text().strip()):  # noqa: ASYNC110
                await anyio.sleep(0.02)
        os.kill(int((tmp_path / "worker.pid").read_text()), signal.SIGKILL)
        with running(*worker(["killed"]), says="", **options):
            out = keylane(
                "submit", "deploy://killed", "killed", "--id", "k", "--data", '{"n": 1}', "--wait", "--output", "json",
                **options,
            )  # fmt: skip
    outcome = json.loads(out.splitlines()[-1])
    assert outcome["result"]["attempt"] == 2
    assert outcome["result"]["saved"]["data"] == {"step": 1}
