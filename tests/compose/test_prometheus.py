"""The real Prometheus on the composition's own configuration, scraping real processes on a real Kafka: every series
that the rules and the dashboard use is there, and `promtool` has nothing against what is served."""

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from e2e.processes import keylane, running, stop
from kafka.running import Broker, free_ports
from ruamel.yaml import YAML

pytestmark = pytest.mark.kafka

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "compose"
DASHBOARD = COMPOSE / "grafana" / "dashboards" / "keylane.json"
DEADLINE_S = 60
PARTITIONS = 2


def expressions() -> list[str]:
    """Every query of the rules and the dashboard."""
    rules = YAML(typ="safe").load(COMPOSE / "prometheus" / "rules" / "keylane.yml")
    found = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    dashboard = msgspec.json.decode(DASHBOARD.read_bytes())
    found += [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return [expression.replace("$__rate_interval", "1m") for expression in found]


def used() -> set[str]:
    """The series that they name."""
    return {name for each in expressions() for name in re.findall(r"\b(?:keylane|process)_\w+|\bup\b", each)}


def until(is_so: Callable[[], Any]) -> Any:
    deadline_s = time.monotonic() + DEADLINE_S
    while not (found := is_so()):
        assert time.monotonic() < deadline_s, f"not within {DEADLINE_S} s"
        time.sleep(0.2)  # between questions to another process, of which nothing tells us
    return found


def ask(port: int, path: str, **query: str) -> Any:
    """What Prometheus answers; None while it is not up yet."""
    url = f"http://127.0.0.1:{port}{path}?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        assert error.code == 503, f"{query}: {error.read().decode()}"
        return None
    except OSError:
        return None


def value(port: int, query: str) -> float | None:
    """Of a query with one series."""
    found = (ask(port, "/api/v1/query", query=query) or {}).get("result")
    return float(found[0]["value"][1]) if found else None


@contextmanager
def scraping(prometheus: Path, folder: Path, port: int, targets: dict[str, int]) -> Iterator[None]:
    """Prometheus on the composition's files, with nothing but targets and pace replaced."""
    config = YAML(typ="safe").load(COMPOSE / "prometheus" / "prometheus.yml")
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{targets[job['job_name']]}"]}]
    config["rule_files"] = [str(COMPOSE / "prometheus" / file) for file in config["rule_files"]]
    config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
    file = folder / "prometheus.json"
    file.write_text(json.dumps(config))  # JSON is YAML
    options = [f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [prometheus / "prometheus", *options, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
        )
    try:
        yield
    finally:
        stop(process)


@pytest.mark.requirement("M.4")
@pytest.mark.requirement("S4.3")
def test_every_series_of_the_rules_and_the_dashboard_is_scraped(
    prometheus: Path, kafka_broker: Broker, kafka_prefix: str, tmp_path: Path
) -> None:
    router_port, worker_port, port = free_ports(3)
    options = {"url": f"{kafka_broker.url}?prefix={kafka_prefix}", "cwd": tmp_path}
    listen = ["--metrics", f"127.0.0.1:{router_port}", "--partitions", str(PARTITIONS)]
    work = ["--action", "restart", "--metrics", f"127.0.0.1:{worker_port}", "--", "true"]
    (tmp_path / "keylane.toml").write_text("[actions.restart]\n")
    with (
        running("router", "--output", "json", *listen, says='"metrics"', **options),
        running("worker", "exec", *work, says="", **options),
        scraping(prometheus, tmp_path, port, {"keylane-router": router_port, "keylane-worker": worker_port}),
    ):
        for number in range(3):
            keylane("submit", f"deploy://api-{number}", "restart", "--wait", **options)
        assert len(used()) > 25
        until(lambda: used() <= set(ask(port, "/api/v1/label/__name__/values") or ()))
        until(lambda: value(port, 'keylane_requests_total{outcome="completed",job="keylane-router"}') == 3)
        until(lambda: value(port, "sum(keylane_worker_items_total)") == 3)
        assert value(port, "max(keylane_partitions) - sum(keylane_partitions_owned)") == 0
        for expression in expressions():
            assert ask(port, "/api/v1/query", query=expression)["resultType"] == "vector", expression
        rules = [rule for group in ask(port, "/api/v1/rules")["groups"] for rule in group["rules"]]
        assert all(rule["health"] == "ok" for rule in rules) and len(rules) > 10
        assert not [rule["name"] for rule in rules if rule["state"] == "firing"]
        for each in (router_port, worker_port):
            served = urllib.request.urlopen(f"http://127.0.0.1:{each}/metrics", timeout=5).read()
            checked = subprocess.run(
                [prometheus / "promtool", "check", "metrics"], input=served, capture_output=True, check=False
            )
            assert checked.returncode == 0, checked.stdout + checked.stderr
