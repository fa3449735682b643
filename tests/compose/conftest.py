"""Prometheus and promtool, the real ones; and what keeps this folder's topics apart on the shared broker."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FETCH = Path(__file__).resolve().parents[2] / "tools" / "prometheus" / "fetch.py"


@pytest.fixture(scope="session")
def prometheus() -> Path:
    """The folder with both programs. Where they cannot be had the tests fail."""
    done = subprocess.run([sys.executable, FETCH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture
def kafka_prefix() -> str:
    return f"compose-{os.getpid()}."
