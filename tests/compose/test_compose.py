"""The composition, held against its specification, its image's steps, rules and dashboard. There is no engine."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from keylane.router.config import load_config

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "compose"
RULES = COMPOSE / "prometheus" / "rules" / "keylane.yml"
DASHBOARD = COMPOSE / "grafana" / "dashboards" / "keylane.json"


def run(*command: object, cwd: Path = ROOT) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def services() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(COMPOSE / "compose.yaml")["services"]
    return found


def test_it_is_a_composition() -> None:
    run(
        Path(sys.executable).parent / "check-jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        "compose/compose.yaml",
    )


def test_images_are_pinned_ports_are_on_loopback_and_everything_long_lived_says_whether_it_is_well() -> None:
    for name, service in services().items():
        tag = service["image"].partition(":")[2]
        assert re.fullmatch(r"v?\d+\.\d+\.\d+|local", tag), f"{name}: {service['image']}"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "healthcheck" in service or "profiles" in service, name


def test_every_file_that_is_mounted_is_there() -> None:
    for name, service in services().items():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("./"):
                assert (COMPOSE / source).exists(), f"{name}: {source}"
    assert os.access(COMPOSE / "restart.sh", os.X_OK)


def test_its_routers_take_its_configuration_and_its_workers_its_command() -> None:
    config = load_config(COMPOSE / "keylane.toml", {}, {})
    for name, service in services().items():
        environ = service.get("environment", {})
        if name.startswith(("router", "worker")):
            assert environ["KEYLANE_METRICS"] == "0.0.0.0:9464" and environ["KEYLANE_METRICS_EXPOSED"] == "true"
    assert config.policy.of("restart").against("deploy") == "reject"
    command = services()["worker-1"]["command"]
    assert {command[at + 1] for at, word in enumerate(command) if word == "--action"} <= set(config.policy.actions)


def test_what_the_image_copies_is_all_that_it_takes(tmp_path: Path) -> None:
    """The Dockerfile's own steps, without an engine: the files that it copies, installed into an empty environment."""
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    allowed = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert set(sources) == allowed
    context = tmp_path / "context"
    context.mkdir()
    for source in sources:
        run("cp", "-r", ROOT / source, context / source)
    target = tmp_path / "site"
    install(context, target)
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "import keylane.cli, sys; print(keylane.__file__); sys.argv[1:] = ['--version']; keylane.cli.main()",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert said[0].startswith(str(target)) and re.fullmatch(r"\d+\.\d+\.\d+", said[1])


def install(source: Path, target: Path) -> None:
    """As the image does; what keylane needs is in this environment already."""
    if shutil.which("uv"):
        run("uv", "pip", "install", "--quiet", "--python", sys.executable, "--no-deps", "--target", target, source)
    else:
        run(sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", target, source)


# -- rules and dashboard ----------------------------------------------------------------------------------------


def test_prometheus_takes_its_configuration(prometheus: Path) -> None:
    run(prometheus / "promtool", "check", "config", COMPOSE / "prometheus" / "prometheus.yml")


@pytest.mark.requirement("S4.3")
def test_every_alert_fires_when_it_should_and_keeps_still_when_not(prometheus: Path) -> None:
    cases = (ROOT / "tests" / "compose" / "keylane_rules.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    assert set(re.findall(r'alertname="(\w+)"', cases)) == set(alerts) and len(alerts) > 10
    run(prometheus / "promtool", "test", "rules", "tests/compose/keylane_rules.yml")


def test_the_dashboard_is_as_it_was_drawn() -> None:
    drawn = subprocess.run(
        [sys.executable, "-c", "import draw_dashboard; print(draw_dashboard.dashboard(), end='')"],
        cwd=ROOT / "tools",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert drawn == DASHBOARD.read_text(), "run python tools/draw_dashboard.py"
    places = [tuple(panel["gridPos"].values()) for panel in json.loads(drawn)["panels"]]
    assert len(set(places)) == len(places)
