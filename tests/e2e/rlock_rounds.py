"""Eight parallel `rlock` on one key, round after round, against a router of its own: `python -m e2e.rlock_rounds URL N`
in `tests`. Each round has one winner, and seven that end with 75 and the envelope, which names who holds it."""

import json
import sys
import tempfile
import time
from pathlib import Path

from e2e.processes import running
from e2e.shell import Shell

KEY = "github://acme/app/issues/42"
PARALLEL = 8


def race(shell: Shell, number: int) -> None:
    """One round. Raises AssertionError."""
    children = [
        shell.start("rlock", KEY, "--actor", f"agent-{number}-{each}", "--output", "json") for each in range(PARALLEL)
    ]
    ended = [(*child.communicate(timeout=120), child.returncode) for child in children]
    assert sorted(code for *_, code in ended) == [0] + [75] * (PARALLEL - 1), ended
    (winner,) = [json.loads(out) for out, _, code in ended if not code]
    (holder,) = [f"agent-{number}-{each}" for each, (*_, code) in enumerate(ended) if not code]
    for out, err, code in ended:
        if code:
            error = json.loads(err)["error"]
            assert out == "" and error["code"] == "LOCK_HELD" and error["holder"] == holder, err
            assert error["held_since"] and error["lease_expires_at"] and error["retry_after_ms"] > 0, err
            assert error["position"] is not None and error["suggestion"], err
    assert len(shell.secrets()) == 1, "who was refused leaves nothing on disk"
    assert shell.done("runlock", KEY)["token"] == winner["token"]
    assert shell.kept() == []


def main(url: str, rounds: int) -> None:
    """Prints how far it is, and how long it took."""
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="keylane-rounds-") as folder:
        cwd = Path(folder)
        (cwd / "keylane.toml").write_text("partitions = 2\n")
        with running("router", "--output", "json", says='"url"', url=url, cwd=cwd):
            shell = Shell(url, cwd)
            for number in range(rounds):
                race(shell, number)
                if (number + 1) % 100 == 0:
                    print(f"{number + 1} rounds, {time.monotonic() - began_s:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
