"""The table is total, each cell does what it says, and what is called impossible is not reached."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, get_args

import pytest
from core.bench import API, UNSAID, Bench, events, image, names, policy
from core.walk import MIXED, random_step
from msgspec import Raw

from keylane.router.core import step as stepping
from keylane.router.core.records import Arrived, Due, WaitChecked
from keylane.router.core.sessions import SESSION_TABLE
from keylane.router.core.step import STATES, TABLE
from keylane.router.core.transitions import impossible
from keylane.schemas.base import ErrorDetail
from keylane.schemas.requests import (
    Decision,
    Request,
)
from keylane.schemas.results import Completed, Failed, Progress, Result
from keylane.schemas.state import RunState

SESSION_EVENTS = {"WorkerJoined", "WorkerHeartbeat", "WorkerLeft"}

REACHED = {
    "WorkRequest": {"Unknown", "Waiting", "Parked", "Held", "Done"},
    "Cancellation": {"Unknown", "Waiting", "Parked", "Held", "Done"},
    "Decision": {"Unknown", "Waiting", "Parked", "Held", "Done"},
    "Resolution": {"Unknown", "Parked"},
    "LockRequest": {"Unknown", "Waiting", "Held", "Done"},
    "ResourceChange": {"Waiting", "Parked", "Held"},
    "SessionEnded": {"Waiting", "Held"},
    "WaitChecked": {"Unknown", "Waiting", "Held", "Done"},
    "Progress": {"Unknown", "Held"},
    "Completed": {"Unknown", "Held", "Done"},
    "Failed": {"Unknown", "Held"},
    "Renewal": {"Unknown", "Held"},
    "Release": {"Unknown", "Held", "Done"},
    "Due": {"Waiting", "Parked", "Held", "Done"},
}
"""The cells that histories reach."""


def test_the_table_has_a_row_for_every_event_of_a_run_and_a_cell_for_every_state() -> None:
    records = {kind for kind in get_args(Request) + get_args(Result) if kind.__name__ not in SESSION_EVENTS}
    assert set(TABLE) == records | {Due, WaitChecked}
    assert all(len(row) == len(STATES) and all(map(callable, row)) for row in TABLE.values())


def test_the_table_of_sessions_is_total_too() -> None:
    assert set(SESSION_TABLE) == SESSION_EVENTS | {"Due"}
    assert all(len(row) == 2 and all(map(callable, row)) for row in SESSION_TABLE.values())


def test_the_states_are_those_of_a_run() -> None:
    assert STATES == ("Unknown", *get_args(RunState))


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (kind, state)
        for kind, row in TABLE.items()
        for state, cell in zip(STATES, row, strict=True)
        if cell is impossible
    ],
)
def test_an_impossible_cell_asserts(kind: type, state: str) -> None:
    bench = Bench()
    with pytest.raises(AssertionError, match="cannot meet"):
        TABLE[kind][STATES.index(state)](bench.lane, None, Arrived(record=Due("r")), bench.now)  # type: ignore[arg-type]


# -- every cell that is reached, by what it publishes -------------------------------------------------------------


def in_state(state: str) -> Bench:
    """A lane in which the run r1 is in this state."""
    bench = Bench(policy(backoff_ms=60_000, attempts=1 if state == "Parked" else 3, then="review"))
    bench.join("w")
    if state != "Unknown":
        bench.request("r1")
    if state in ("Waiting", "Parked"):
        bench.fail("r1")
    if state == "Done":
        bench.complete("r1")
    return bench


def decision(bench: Bench) -> Any:
    return bench.feed(
        Decision(id="d", resource=API, request="r1", verdict="approve", by="ann", version_seen="v1"),
    )


def change(bench: Bench) -> Any:
    return bench.change("v2")


def due(bench: Bench) -> Any:
    begin = len(bench.published)
    times = [bench.lane.deciding.due_ms.get(b"run/r1"), bench.lane.outcomes.due_ms("r1")]
    bench.clock_ms = next(time for time in times if time is not None)
    stepping.step_due(bench.lane, b"run/r1", bench.now)
    bench.commit()
    return bench.published[begin:]


CELLS: list[tuple[str, str, Callable[[Bench], Any], list[str], str | None]] = [
    ("WorkRequest", "Unknown", lambda b: b.request("r1"), ["Queued", "WorkItem", "Granted"], "Held"),
    ("WorkRequest", "Waiting", lambda b: b.request("r1"), ["Queued"], "Waiting"),
    ("WorkRequest", "Held", lambda b: b.request("r1"), ["Queued"], "Held"),
    ("WorkRequest", "Done", lambda b: b.request("r1"), ["Ended"], "Done"),
    ("Cancellation", "Unknown", lambda b: b.cancel("r1"), ["CancellationKept"], None),
    ("Cancellation", "Waiting", lambda b: b.cancel("r1"), ["Ended"], "Done"),
    ("Cancellation", "Held", lambda b: b.cancel("r1"), ["Notice", "StopAsked"], "Held"),
    ("Cancellation", "Done", lambda b: b.cancel("r1"), ["Refused"], "Done"),
    ("Decision", "Unknown", decision, ["Refused"], None),
    ("Decision", "Waiting", decision, ["Refused"], "Waiting"),
    ("WorkRequest", "Parked", lambda b: b.request("r1"), ["Queued"], "Parked"),
    ("Cancellation", "Parked", lambda b: b.cancel("r1"), ["Ended"], "Done"),
    ("Decision", "Parked", decision, ["Decided", "ConflictResolved", "WorkItem", "Granted"], "Held"),
    ("ResourceChange", "Parked", change, ["Changed"], "Parked"),
    ("Due", "Parked", due, ["Ended", "ConflictArtifact"], "Done"),
    ("Resolution", "Parked", lambda b: b.resolve(f"{b.lane.partition}-4"), ["Refused"], "Parked"),
    ("Resolution", "Unknown", lambda b: b.resolve(f"{b.lane.partition}-1"), ["Resolved", "ConflictResolved"], None),
    ("Decision", "Held", decision, ["Refused"], "Held"),
    ("Decision", "Done", decision, ["Refused"], "Done"),
    ("ResourceChange", "Waiting", change, ["Changed"], "Waiting"),
    ("ResourceChange", "Held", change, ["Changed", "Notice"], "Held"),
    ("Progress", "Unknown", lambda b: b.progress("r1", token=1), ["Fenced", "ConflictArtifact"], None),
    ("Progress", "Held", lambda b: b.progress("r1"), ["Progressed"], "Held"),
    ("Completed", "Unknown", lambda b: b.complete("r1", token=1), ["Fenced", "ConflictArtifact"], None),
    ("Completed", "Held", lambda b: b.complete("r1"), ["Ended"], "Done"),
    ("Failed", "Unknown", lambda b: b.fail("r1", token=1), ["Fenced", "ConflictArtifact"], None),
    ("Failed", "Held", lambda b: b.fail("r1"), ["AttemptFailed"], "Waiting"),
    ("Due", "Waiting", due, ["WorkItem", "Granted"], "Held"),
    ("Due", "Held", due, ["Lost", "ConflictArtifact", "Notice", "WorkItem", "Granted"], "Held"),
    ("Due", "Done", due, [], None),
]


@pytest.mark.parametrize(("kind", "state", "act", "expected", "after"), CELLS)
def test_each_cell(kind: str, state: str, act: Callable[[Bench], Any], expected: list[str], after: str | None) -> None:
    bench = in_state(state)
    before = image(bench.lane)
    outputs = act(bench)
    assert names(outputs) == expected
    run = bench.lane.runs.get("r1")
    assert (None if run is None else run.state) == after
    if expected and expected[0] in ("Refused", "Fenced"):
        ignored = UNSAID | {"sessions": None, "deciding": None}
        assert image(bench.lane) | ignored == before | ignored, "an answer, and nothing else"
    assert image(bench.restored()) == image(bench.lane)


# -- what histories reach ---------------------------------------------------------------------------------------


def test_a_walk_reaches_what_is_said_to_be_reached_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    met: set[tuple[str, str]] = set()

    def noted(kind: str, state: str, cell: Any) -> Any:
        def call(*arguments: Any) -> None:
            met.add((kind, state))
            cell(*arguments)

        return call

    for kind, row in TABLE.items():
        cells = tuple(noted(kind.__name__, state, cell) for state, cell in zip(STATES, row, strict=True))
        monkeypatch.setitem(TABLE, kind, cells)
    for seed in range(120):
        dice = random.Random(seed)
        bench = Bench(MIXED)
        for _ in range(100):
            random_step(dice, bench)
            assert image(bench.restored()) == image(bench.lane), f"seed {seed}"
    assert met == {(kind, state) for kind, states in REACHED.items() for state in states}


def test_what_is_not_reached_is_impossible() -> None:
    for kind, row in TABLE.items():
        for state, cell in zip(STATES, row, strict=True):
            assert (cell is impossible) == (state not in REACHED[kind.__name__]), (kind.__name__, state)


def test_reports_of_a_run_reach_it_only_under_its_live_token() -> None:
    """Each report, with each of a stale, a future and no token: the record stands as it was."""
    error = ErrorDetail(code="X", message="x")
    bench = in_state("Held")
    about = bench.about("r1") | {"token": 0}
    before = image(bench.lane)["runs"]
    for token in (0, -1, (bench.run("r1").token or 0) + 1):
        about["token"] = token
        for report in (Progress(**about), Completed(**about, result=Raw(b"1")), Failed(**about, error=error)):
            assert events(bench.report(report)) == ["Fenced"]
    assert image(bench.lane)["runs"] == before
