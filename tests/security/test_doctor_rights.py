"""`keylane doctor` on a broker with its authorizer on: it finds what a role may not, and nothing to find in its own."""

import json
from pathlib import Path

import pytest
from e2e.processes import keylane
from security.conftest import PARTITIONS
from security.secured import Secured

pytestmark = pytest.mark.kafka


def faults(secured: Secured, cwd: Path, user: str, role: str) -> dict[str, str]:
    """What is wrong with this user's rights for that role."""
    (cwd / "keylane.toml").write_text(f"partitions = {PARTITIONS}\n")
    words = ["doctor", "--as", role, "--output", "json"]
    lines = keylane(*words, url=secured.url(user), cwd=cwd, check=False).splitlines()
    found = [json.loads(line) for line in lines]
    assert "ok" in found[-1], found
    checks = {each["check"]: each for each in found[:-1]}
    assert any(name.startswith("rights") for name in checks)
    return {name: each["said"] for name, each in checks.items() if each["level"] == "fault"}


@pytest.mark.parametrize("role", ["router", "worker", "agent", "operator"])
def test_a_role_in_its_own_rights_lacks_none(rightful: Secured, tmp_path: Path, role: str) -> None:
    assert faults(rightful, tmp_path, role, role) == {}


def test_an_agent_is_no_router(rightful: Secured, tmp_path: Path) -> None:
    found = faults(rightful, tmp_path, "agent", "router")
    assert {"rights: transactional ids", "rights: group keylane.routers"} <= found.keys(), found
