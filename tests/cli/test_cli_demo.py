"""The demo: every claim that it prints is on record, on both backends; one that is not ends it with 1."""

import json
import os
import subprocess
import sys
from pathlib import Path

import anyio
import msgspec
import pytest
from kafka.running import Broker

from keylane import demo, demo_stage
from keylane.cli_context import ClaimBroken
from keylane.demo_stage import Recording, Stage


def told(url: str, folder: Path) -> list[dict[str, object]]:
    environ = {name: value for name, value in os.environ.items() if name != "KEYLANE_URL"}
    done = subprocess.run(
        [sys.executable, "-m", "keylane.cli", "demo", "--output", "json", *(["--url", url] if url else [])],
        cwd=folder,
        env=environ,
        capture_output=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert done.stderr == b""
    return [json.loads(text) for text in done.stdout.splitlines()]


def check_story(lines: list[dict[str, object]]) -> None:
    claims = [line for line in lines if "holds" in line]
    assert [line["title"] for line in lines if "title" in line] == [
        "A double restart: two agents ask for the same work",
        "Two different changes to one resource",
        "A worker is killed in the middle of its work",
        "A stopped worker wakes up and reports late",
        "A rollback races a hotfix",
        "Two drains would leave no capacity",
    ]
    assert all(claim["holds"] for claim in claims)
    kinds = [line["kind"] for line in lines if line.get("type") == "ConflictArtifact"]
    assert kinds == ["fenced_report", "stale_version", "limit_reached"]
    assert lines[-1]["claims"] == len(claims) == 23


@pytest.mark.requirement("S4.4")
def test_the_demo_holds_on_the_embedded_journal_and_leaves_nothing_behind(tmp_path: Path) -> None:
    check_story(told("", tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.kafka
@pytest.mark.requirement("S4.4")
def test_the_demo_holds_on_kafka(tmp_path: Path, kafka_broker: Broker) -> None:
    check_story(told(kafka_broker.url, tmp_path))


def test_a_claim_that_does_not_hold_is_shown_and_ends_the_demo(tmp_path: Path) -> None:
    shown: list[msgspec.Struct] = []
    stage = Stage(tmp_path, Recording(), shown.append)
    stage.claim("so it is", True)
    with pytest.raises(ClaimBroken, match="so it is not"):
        stage.claim("so it is not", False)
    assert [msgspec.to_builtins(claim)["holds"] for claim in shown] == [True, False]
    assert stage.claims == 1


@pytest.mark.anyio
async def test_what_is_not_on_record_in_time_ends_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_stage, "SEEN_S", 0.05)
    with anyio.fail_after(10), pytest.raises(ClaimBroken, match="not on record within 0 s: a grant"):
        await Recording().until("a grant", lambda: None)


def test_on_a_kafka_it_keeps_to_topics_of_its_own_whatever_else_the_url_says() -> None:
    assert demo._stage_url("kafka://h:1") == f"kafka://h:1?{demo.KAFKA_OPTIONS}"
    assert demo._stage_url("kafka://h:1?tls=true") == f"kafka://h:1?tls=true&{demo.KAFKA_OPTIONS}"
    assert demo._stage_url("kafka://h:1?prefix=mine.&tls=true") == "kafka://h:1?prefix=mine.&tls=true"
