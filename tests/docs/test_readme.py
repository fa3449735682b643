"""The README's example does what the README says, run as it is written there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from e2e.processes import running

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
SHELL = [text for language, text in BLOCKS if language == "sh"]


def commands(block: str) -> list[list[str]]:
    """The block's commands, each split as a shell would, without the comments."""
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    return [line[1:] for line in lines if line and line[0] == "keylane"]


def test_the_example_of_ten_lines(tmp_path: Path) -> None:
    worker, agent, lock = PYTHON
    (tmp_path / "restarts.py").write_text(worker)
    (tmp_path / "agent.py").write_text(agent)
    (tmp_path / "lock.py").write_text(lock)
    up, work, submit = commands(SHELL[0])
    url = f"sqlite:///{tmp_path}/.keylane/journal.db"
    with (
        running(*up, url=url, cwd=tmp_path, says="journal.db"),
        running(*work, url=url, cwd=tmp_path, says=""),
    ):
        environ = {name: value for name, value in os.environ.items() if not name.startswith("KEYLANE_")}
        for command in ([sys.executable, "-m", "keylane.cli", *submit], [sys.executable, "agent.py"]):
            done = subprocess.run(
                command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, done.stderr
            assert "deploy://api-prod" in done.stdout
        said = subprocess.run(
            [sys.executable, "lock.py"],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        assert said.startswith("held under {'github://acme/app/issues/42': ")


def test_every_command_of_the_table_is_there() -> None:
    named = set(re.findall(r"^\| `keylane ([a-z]+)", README, re.MULTILINE))
    shown = subprocess.run(
        [sys.executable, "-m", "keylane.cli", "--help"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    there = set(re.findall(r"^│ ([a-z]+) ", shown, re.MULTILINE))
    assert named == there


def test_the_configuration_is_accepted(tmp_path: Path) -> None:
    from keylane.router.config import load_config

    (text,) = [text for language, text in BLOCKS if language == "toml"]
    file = tmp_path / "keylane.toml"
    file.write_text(text)
    config = load_config(file, {}, {})
    assert config.policy.of("deploy").pool == "deployers"
    assert config.policy.of("deploy").against("rollback") == "supersede"


def test_the_record_that_any_producer_can_write_is_a_request() -> None:
    from keylane.schemas.codec import decode_request
    from keylane.schemas.requests import WorkRequest

    (text,) = [text for language, text in BLOCKS if language == "json"]
    assert isinstance(decode_request(text.encode()), WorkRequest)
