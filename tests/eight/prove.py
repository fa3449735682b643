"""`make prove-locks`: eight `rlock` processes at once on one key, as many rounds as are wanted, with a real router.

    python -m eight [--backend sqlite|kafka] [--rounds 1000]

Says how it goes on standard error, every hundred rounds, and at the end what was shown. Ends with 1 at the first round
that differs, and shows that; and with 4 where the eight never met, since that shows nothing.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
from e2e.processes import ended, running
from eight.rounds import AGENTS, PARTITIONS, SESSION_TIMEOUT_MS, Round, Rounds
from kafka.running import Broker, own_broker

from keylane.journal import connect

SHOWN, DIFFERS, VOID = 0, 1, 4
TELL = 100


def say(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()


@contextmanager
def journal_url(backend: str, given: str | None, folder: Path) -> Iterator[str]:
    """A journal that nobody has used; of Kafka on the broker that was given, or on one of its own."""
    options = f"session_timeout_ms={SESSION_TIMEOUT_MS}"
    if backend == "sqlite":
        yield f"sqlite:///{folder}/journal.db?{options}"
    elif given is not None:
        yield f"{Broker(*json.loads(given)).url}?prefix={folder.name}.&{options}"
    else:
        with own_broker(folder) as broker:
            yield f"{broker.url}?{options}"


async def play(url: str, folder: Path, count: int) -> int:
    """The rounds, one after the other; returns what to end with."""
    met = gated = 0
    began_s = time.monotonic()
    with running(
        "router", "--output", "json", "--partitions", str(PARTITIONS), url=url, cwd=folder, says='"pid"'
    ) as router:
        journal = await connect(url)
        try:
            rounds = Rounds(url, folder, router, journal)
            for number in range(1, count + 1):
                played = await rounds.play(number)
                if played.differs:
                    show(played)
                    return DIFFERS
                met, gated = met + played.together, gated + played.gated
                if number % TELL == 0 or number == count:
                    pace_s = (time.monotonic() - began_s) / number
                    say(f"{number}/{count} rounds, {pace_s:.2f} s each: one winner and {len(AGENTS) - 1} times 75")
            left = rounds.left_on_disk()
        finally:
            await journal.close()
    judged = ended("verify", url=url, cwd=folder)
    if left or judged.returncode:
        say(f"left on disk: {left[:5]}; keylane verify: {judged.returncode} {(judged.stdout + judged.stderr).decode()}")
        return DIFFERS
    say(f"all eight lived at once in {met}, and all eight requests lay before the router at once in {gated}")
    if not met or not gated:
        say("void: they never met")
        return VOID
    say(f"shown: {count} rounds, each with one winner and {len(AGENTS) - 1} refusals with the whole envelope")
    return SHOWN


def show(played: Round) -> None:
    say(f"round {played.number} differs: {played.differs}")
    for each in played.ended:
        say(f"  {each.agent} ended with {each.code}: {each.out.strip()} {each.err.strip()}")


def prove(backend: str, count: int, broker: str | None = None) -> int:
    """So many rounds on a new journal; returns what to end with. `broker`: see `--broker`."""
    with tempfile.TemporaryDirectory(prefix="eight-") as name:
        with journal_url(backend, broker, Path(name)) as url:
            return anyio.run(play, url, Path(name), count)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", choices=["sqlite", "kafka"], default="sqlite")
    parser.add_argument("--rounds", type=int, default=1_000)
    parser.add_argument("--broker", help="a running one to use, as JSON of tests/kafka/running.py")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # or its router and broker would go on
    return prove(options.backend, options.rounds, options.broker)
