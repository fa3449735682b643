"""The short part of `make prove`: every mode for a few cycles, as a user would run it; and what makes a run void."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from chaos import evidence
from chaos.evidence import Part
from chaos.prove import BROKEN, VOID, verdict
from chaos.sinks import Sink

TESTS = Path(__file__).resolve().parents[1]
CYCLES = {
    ("kill-sqlite", "sqlite"): 12,
    ("zombies", "sqlite"): 2,
    ("storm", "sqlite"): 5,
    ("kafka-kills", "kafka"): 2,
    ("held-endtxn", "kafka"): 4,
    ("zombies", "kafka"): 2,
}


@pytest.mark.timeout(170)
@pytest.mark.parametrize(
    ("mode", "backend"),
    [pytest.param(*each, marks=[pytest.mark.kafka] if each[1] == "kafka" else []) for each in CYCLES],
)
def test_a_few_cycles_break_no_promise_and_each_kind_of_fault_bites(
    mode: str, backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    command = [sys.executable, "-m", "chaos", "--mode", mode, "--backend", backend]
    command += ["--cycles", str(CYCLES[mode, backend]), "--evidence", str(tmp_path / "evidence.json")]
    if backend == "kafka":
        command += ["--broker", json.dumps(request.getfixturevalue("kafka_broker"))]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(TESTS)}, capture_output=True, text=True, timeout=160, check=False
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    summary = json.loads(done.stdout)
    assert summary["verdict"] == "shown" and summary["versions"]["keylane"]
    (part,) = summary["parts"]
    assert part["violations"] == [] and all(part["bitten"].values())
    totals = json.loads((tmp_path / "evidence.json").read_text())["totals"][f"{mode} {backend}"]
    assert totals["bitten"] == part["bitten"]


def test_a_fault_that_never_bit_makes_a_run_void_and_a_violation_breaks_it() -> None:
    bites, misses, broken = (Part("storm", "sqlite", 1) for _ in range(3))
    for part, bit in ((bites, True), (misses, False), (broken, True)):
        part.did("kill router", bit)
    broken.violations.append("two live grants")
    assert verdict([bites.report()]) == (0, "shown")
    assert verdict([misses.report(), bites.report()]) == (0, "shown"), "it has bitten once in the run"
    assert verdict([misses.report()]) == (VOID, "void: without any effect: kill router")
    assert verdict([]) == (VOID, "void: without any effect: everything")
    assert verdict([bites.report(), broken.report()])[0] == BROKEN


def test_evidence_adds_up_over_runs(tmp_path: Path) -> None:
    file = tmp_path / "build" / "evidence.json"
    for seed, bit in ((1, True), (2, True), (3, False)):
        part = Part("zombies", "kafka", seed)
        part.did("zombie router", bit)
        part.seen["events"] = 10
        totals = evidence.add(file, part)
    broken = Part("zombies", "kafka", 4)
    broken.did("zombie router", True)
    broken.violations.append("two live grants")
    totals = evidence.add(file, broken)["zombies kafka"]
    assert (totals["parts"], totals["violations"]) == (3, 1)
    assert (totals["done"], totals["bitten"], totals["seen"]["events"]) == (
        {"zombie router": 3},
        {"zombie router": 2},
        30,
    )


def test_a_sink_that_checks_refuses_what_the_other_takes_late(tmp_path: Path) -> None:
    checking, unchecking = Sink(tmp_path / "checking", checks=True), Sink(tmp_path / "unchecking", checks=False)
    for sink, taken in ((checking, False), (unchecking, True)):
        assert sink.act("deploy://api", 7, "first", "r-1") and sink.act("deploy://api", 9, "second", "r-2")
        assert sink.act("deploy://api", 7, "first", "r-1") is taken
        assert sink.act("deploy://api", 9, "second", "r-2"), "the live holder may act again"
    assert (checking.count("refused"), checking.count("late"), unchecking.count("late")) == (1, 0, 1)
    assert unchecking.count("late", "second") == 0
