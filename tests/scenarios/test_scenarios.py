"""Each scenario file says what happens and what came of it. `REWRITE=1` writes what comes of it now."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from scenarios.script import rendered

HERE = Path(__file__).parent
row = pytest.mark.requirement

SCENARIOS = [
    pytest.param("same_work", marks=[row("M.2"), row("S4.4")]),
    pytest.param("one_worker_owns", marks=[row("M.1")]),
    pytest.param("two_changes_wait", marks=[row("S0.1"), row("S0.2"), row("S0.3")]),
    pytest.param("two_changes_reject", marks=[row("S0.2"), row("S2.1"), row("M.3")]),
    pytest.param("superseded", marks=[row("M.3")]),
    pytest.param("worker_killed", marks=[row("S1.4")]),
    pytest.param("late_result", marks=[row("M.3")]),
    pytest.param("lease_expires", marks=[row("S1.3")]),
    pytest.param("unread_item"),
    pytest.param("retry_only_forward", marks=[row("S0.4")]),
    pytest.param("cancel_waiting"),
    pytest.param("cancel_held"),
    pytest.param("cancel_overtakes"),
    pytest.param("deadline"),
    pytest.param("unserved_action"),
    pytest.param("wrong_partition", marks=[row("M.1")]),
    pytest.param("poison_bytes"),
    pytest.param("reused_id"),
    pytest.param("rolling_update"),
    pytest.param("rollback_against_hotfix", marks=[row("S0.4"), row("S4.4"), row("S1.9")]),
    pytest.param("worker_finds_another_version", marks=[row("S0.4")]),
    pytest.param("harmless"),
    pytest.param("pools", marks=[row("M.1"), row("S0.2")]),
    pytest.param("review", marks=[row("S0.2"), row("S1.5"), row("S1.9")]),
    pytest.param("approval_voided", marks=[row("S1.7")]),
    pytest.param("approved_too_late", marks=[row("S0.4")]),
    pytest.param("last_attempt_to_review", marks=[row("S1.1"), row("S1.4")]),
    pytest.param("merged_payloads", marks=[row("M.2")]),
    pytest.param("quiet", marks=[row("M.2")]),
    pytest.param("many_are_enough"),
    pytest.param("min_interval"),
    pytest.param("outside_change", marks=[row("S1.7"), row("S4.2")]),
    pytest.param("two_drains", marks=[row("S4.4")]),
    pytest.param("scope_rules", marks=[row("S1.2")]),
    pytest.param("terminate_after_drain", marks=[row("S4.2")]),
    pytest.param("observed_otherwise", marks=[row("S0.1"), row("S1.6")]),
    pytest.param("lock_log", marks=[row("S4.1")]),
    pytest.param("lock", marks=[row("S2.1"), row("S3.1"), row("S3.4"), row("S4.1")]),
    pytest.param("lock_waits", marks=[row("S0.3"), row("S2.2"), row("S3.2")]),
    pytest.param("lock_again", marks=[row("S3.1"), row("S3.2")]),
    pytest.param("lock_longest_hold", marks=[row("S3.2")]),
    pytest.param("lock_cancelled", marks=[row("S2.2")]),
    pytest.param("session_ended", marks=[row("S3.3")]),
    pytest.param("deadlock", marks=[row("S3.3")]),
    pytest.param("plain_record", marks=[row("M.4")]),
    pytest.param("idempotency_key", marks=[row("S1.5")]),
]


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str) -> None:
    file = HERE / f"{name}.txt"
    expected = file.read_text()
    found = rendered(expected)
    if os.environ.get("REWRITE") == "1":
        file.write_text(found)
    else:
        assert found == expected


def test_every_file_is_played() -> None:
    assert {file.stem for file in HERE.glob("*.txt")} == {str(each.values[0]) for each in SCENARIOS}


def test_what_is_wrongly_expected_is_seen() -> None:
    assert (
        rendered("request r1 deploy://api restart\n  Granted r1\n") != "request r1 deploy://api restart\n  Granted r1\n"
    )
