"""The short part of `make prove-locks`; and that a round which is otherwise is seen."""

import json

import pytest
from eight.prove import prove
from eight.rounds import AGENTS, HELD, KEY, Ended, difference

ROUNDS = 10


@pytest.mark.requirement("S2.1")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", ["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def test_of_eight_processes_at_once_one_has_it_and_seven_are_told(
    backend: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = json.dumps(request.getfixturevalue("kafka_broker")) if backend == "kafka" else None
    code = prove(backend, ROUNDS, broker)
    said = capsys.readouterr().err
    assert code == 0, said
    assert f"shown: {ROUNDS} rounds, each with one winner and 7 refusals" in said


def ended(agent: str, winner: str, **otherwise: object) -> Ended:
    """As it should be, but for what is named: of the envelope, or else `code`, `out`, `token`."""
    code = otherwise.pop("exit", 0 if agent == winner else HELD)
    if code == 0:
        return Ended(agent, 0, json.dumps({"resource": KEY, "token": 7} | otherwise) + "\n", "")
    error = {
        "code": "LOCK_HELD", "message": "m", "retry_after_ms": 5_000, "holder": winner, "held_since": "t",
        "lease_expires_at": "t", "position": 1, "suggestion": "s",
    }  # fmt: skip
    return Ended(agent, HELD, "", json.dumps({"error": error | otherwise}) + "\n")


@pytest.mark.parametrize(
    ("otherwise", "says"),
    [
        ({}, ""),
        ({"agent-2": {"exit": 0}}, "exit codes {0: 2, 75: 6}"),
        ({"agent-1": {"exit": 75}}, "exit codes {75: 8}"),
        ({"agent-1": {"token": 6}}, "token 6 after 6"),
        ({"agent-1": {"resource": "deploy://other"}}, "agent-1 has it and said"),
        ({"agent-3": {"holder": "agent-4"}}, "said otherwise"),
        ({"agent-3": {"code": "DEADLOCK"}}, "said otherwise"),
        ({"agent-3": {"retry_after_ms": None}}, "did not say ['retry_after_ms']"),
        ({"agent-3": {"suggestion": ""}}, "did not say ['suggestion']"),
        ({"agent-3": {"held_since": None}}, "did not say ['held_since']"),
    ],
)
def test_a_round_that_is_otherwise_is_seen(otherwise: dict[str, dict[str, object]], says: str) -> None:
    played = [ended(agent, AGENTS[0], **otherwise.get(agent, {})) for agent in AGENTS]
    differs, token = difference(played, 6)
    assert says in differs and bool(differs) == bool(says)
    assert token == (0 if says else 7)
