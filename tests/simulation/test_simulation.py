"""The simulation in short: clean seeds that reach the tables' cells, the same history each time, found scenarios."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from simulation.coverage import cells
from simulation.draw import draw
from simulation.run import run
from simulation.scenario import from_json, to_json

TESTS = Path(__file__).resolve().parents[1]
FOUND = sorted((TESTS / "simulation" / "found").glob("*.json"))
SEEDS = 200
SEEDS_A_CELL = 3
"""At least so many of them reach each cell that can be reached."""

OUT_OF_REACH = {
    "Due/Unknown": "a timer goes with its run",
    "session:Due/Unknown": "and with its session",
    "WaitChecked/Unknown": "an outcome is remembered for longer than what the graph says of an edge is on its way",
}


def in_reach() -> set[str]:
    return {name for name, cell in cells().items() if cell != "impossible"} - set(OUT_OF_REACH)


@pytest.mark.requirement("M.2")
@pytest.mark.requirement("M.3")
def test_promises_hold_over_seeds_that_reach_every_cell() -> None:
    reached: Counter[str] = Counter()
    broken = []
    compared = 0
    for seed in range(SEEDS):
        result = run(draw(seed))
        reached.update(result.cells)
        compared += result.reloads_compared
        broken += [f"make sim SEED={seed} SEEDS=1: {each.kind}: {each.message}" for each in result.violations]
    assert broken == []
    assert {name for name, count in reached.items() if count >= SEEDS_A_CELL} >= in_reach()
    assert not {name for name in reached if cells()[name] == "impossible"}
    assert compared > SEEDS, "lanes were loaded beside the living ones, and were the same"


def test_a_seed_has_one_history_under_any_hash_seed() -> None:
    program = (
        "from simulation.draw import draw\nfrom simulation.run import run\n"
        "print(*[run(draw(seed), digest=True).digest for seed in range(12)])"
    )
    digests = set()
    for hash_seed in ("0", "4242"):
        environ = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(TESTS)}
        done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
        digests.add(done.stdout)
    assert len(digests) == 1
    assert digests.pop().split() == [run(draw(seed), digest=True).digest for seed in range(12)]


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_what_the_simulation_found_stays_right(path: Path) -> None:
    assert run(from_json(path.read_bytes())).violations == []


def test_a_scenario_is_what_its_file_says() -> None:
    for seed in range(50):
        assert from_json(to_json(draw(seed))) == draw(seed)
