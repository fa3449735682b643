"""`make sim SEED=… SEEDS=… JOBS=…`: runs seeds, says what they broke and what they reached, and shrinks what failed."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from multiprocessing import Pool
from pathlib import Path
from typing import NamedTuple

from simulation.coverage import cells
from simulation.draw import draw
from simulation.findings import Violation
from simulation.run import run
from simulation.scenario import from_json, to_json
from simulation.shrink import shrunk

TOLD_MAX = 3
SHRUNK_MAX = 3
SEEDS_A_COLLECTION = 16


class Outcome(NamedTuple):
    """What is told of a seed."""

    seed: int
    violations: list[Violation]
    core_events: int
    cells: frozenset[str]


def one(seed: int) -> Outcome:
    """Run a seed. Collecting garbage now and then, not whenever Python would, makes a fifth more of them a second."""
    gc.disable()
    result = run(draw(seed))
    if seed % SEEDS_A_COLLECTION == 0:
        gc.collect()
    return Outcome(seed, result.violations, result.core_events, result.cells)


def outcomes(seeds: Iterable[int], jobs: int, stack: ExitStack) -> Iterator[Outcome]:
    """Each seed's outcome, in the order of the seeds."""
    if jobs == 1:
        return map(one, seeds)
    return stack.enter_context(Pool(jobs)).imap(one, seeds, chunksize=8)


def main(arguments: list[str]) -> int:
    """Returns 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="make sim")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--scenario", type=Path, help="a scenario from a file, instead of seeds")
    chosen = parser.parse_args(arguments)
    if chosen.scenario is not None:
        found = run(from_json(chosen.scenario.read_bytes())).violations
        say(str(chosen.scenario), found)
        return bool(found)
    began_s = time.perf_counter()
    broken: list[Outcome] = []
    reached: Counter[str] = Counter()
    core_events = 0
    with ExitStack() as stack:
        for outcome in outcomes(range(chosen.seed, chosen.seed + chosen.seeds), chosen.jobs, stack):
            core_events += outcome.core_events
            reached.update(outcome.cells)
            if outcome.violations:
                broken.append(outcome)
                say(f"make sim SEED={outcome.seed} SEEDS=1", outcome.violations)
    took_s = time.perf_counter() - began_s
    per_s, per_seed = core_events / took_s, core_events / chosen.seeds
    print(
        f"{chosen.seeds} seeds in {took_s:.1f} s, {chosen.seeds / took_s:.1f} a second; {len(broken)} broke a promise"
    )
    print(f"{core_events} core events, {per_s:.0f} a second, {per_seed:.0f} a seed")
    if chosen.seeds == 1:
        print(f"digest {run(draw(chosen.seed), digest=True).digest}")
    missed = [name for name, cell in cells().items() if cell != "impossible" and not reached[name]]
    print(f"{len(reached)} cells of the tables were reached; not reached: {', '.join(missed) or 'none'}")
    for outcome in broken[:SHRUNK_MAX]:
        kinds = frozenset(violation.kind for violation in outcome.violations[:1])
        short = shrunk(draw(outcome.seed), kinds)
        print(f"\nseed {outcome.seed}, shrunk; as tests/simulation/found/NAME.json it is a test:")
        print(to_json(short).decode())
    return bool(broken)


def say(how: str, violations: list[Violation]) -> None:
    """What was broken, and how to see it again."""
    for violation in violations[:TOLD_MAX]:
        print(f"{violation.kind}: {violation.message}")
    print(f"  … {len(violations)} in all; again by: {how}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
