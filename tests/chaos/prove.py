"""`make prove`: the real thing under faults, at random from a seed, for as long as is wanted.

    python -m chaos --mode MODE [--backend sqlite|kafka] [--cycles N] [--minutes M] [--seed N] [--evidence FILE]

Progress goes to standard error, one JSON object to standard output. Ends with 3 where a promise was broken, and with 4
where the run is void: a fault that never showed its effect has proven nothing. What was shown is added to the evidence
file, part by part, so that a run can be cut off and another goes on.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
from chaos import evidence, held, modes, storm
from chaos.evidence import Part
from chaos.modes import Finished, Run
from kafka.running import Broker, own_broker

SHOWN, BROKEN, VOID = 0, 3, 4

EVIDENCE = Path(__file__).resolve().parents[2] / "build" / "evidence.json"
MODES: dict[str, tuple[Callable[[Run, Finished], Awaitable[None]], tuple[str, ...]]] = {
    "storm": (storm.storm, ("sqlite", "kafka")),
    "kill-sqlite": (modes.kill_sqlite, ("sqlite",)),
    "kafka-kills": (modes.kafka_kills, ("kafka",)),
    "held-endtxn": (held.held_endtxn, ("kafka",)),
    "zombies": (modes.zombies, ("sqlite", "kafka")),
}
"""Each with the backends that it is for."""


def say(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")


@contextmanager
def broker_for(backend: str, given: str | None) -> Iterator[Broker | None]:
    """None for SQLite; the one that was given, or one of this run's own."""
    if backend == "sqlite":
        yield None
    elif given is not None:
        yield Broker(*json.loads(given))
    else:
        with tempfile.TemporaryDirectory(prefix="chaos-broker-") as folder, own_broker(Path(folder)) as broker:
            yield broker


def perform(mode: str, run: Run, file: Path) -> list[dict[str, Any]]:
    """Run a mode; returns its parts, each of which has been written down as it ended."""
    parts: list[dict[str, Any]] = []

    def finished(part: Part) -> None:
        evidence.add(file, part)
        parts.append(part.report())
        say(f"{mode} on {run.backend}, seed {part.seed}: {json.dumps(parts[-1])}")

    async def main() -> None:
        await MODES[mode][0](run._replace(deadline_s=anyio.current_time() + run.deadline_s), finished)

    anyio.run(main)
    return parts


def verdict(parts: list[dict[str, Any]]) -> tuple[int, str]:
    """What the process ends with, and says. No part at all is void too."""
    if any(part["violations"] for part in parts):
        return BROKEN, "a promise was broken"
    without = evidence.without_effect(parts)
    if without or not parts:
        return VOID, f"void: without any effect: {', '.join(without) or 'everything'}"
    return SHOWN, "shown"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mode", choices=list(MODES), default="storm")
    parser.add_argument("--backend", choices=["sqlite", "kafka"])
    parser.add_argument("--cycles", type=int, default=10**9, help="faults to do; else for as long as --minutes says")
    parser.add_argument("--minutes", type=float, default=5.0, help="no new part begins after this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--evidence", type=Path, default=EVIDENCE)
    parser.add_argument("--broker", help="a running one to use, as JSON of tests/kafka/running.py")
    options = parser.parse_args()
    backends = MODES[options.mode][1]
    backend = options.backend or backends[0]
    if backend not in backends:
        parser.error(f"{options.mode} is for {' and '.join(backends)}")
    with broker_for(backend, options.broker) as broker:
        own = broker is not None and options.broker is None
        run = Run(backend, options.seed, options.cycles, broker, say, options.minutes * 60, own)
        parts = perform(options.mode, run, options.evidence)
    code, said = verdict(parts)
    summary = {"mode": options.mode, "backend": backend, "seed": options.seed, "verdict": said, "parts": parts}
    sys.stdout.write(json.dumps(summary | {"versions": evidence.versions()}) + "\n")
    say(said)
    return code
