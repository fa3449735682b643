#!/usr/bin/env python3
"""Writes compose/grafana/dashboards/keylane.json from the panels below, which are what is read and changed.

Standard library only. A test holds the written file against this.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).resolve().parents[1] / "compose" / "grafana" / "dashboards" / "keylane.json"
WIDTH = 24
HEIGHT = 8


class Panel(NamedTuple):
    """A graph: its queries by legend, and the unit that Grafana knows."""

    title: str
    queries: dict[str, str]
    unit: str = "short"


def rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate(keylane_{metric}_total[$__rate_interval]))"


def quantile(share: float, metric: str) -> str:
    return f"histogram_quantile({share}, sum by (le) (rate(keylane_{metric}_bucket[$__rate_interval])))"


ROWS: dict[str, list[Panel]] = {
    "The three signals of a race": [
        Panel("Lock acquisition failures", {"{{action}}": rate("lock_acquisition_failures", "action")}, "reqps"),
        Panel("Lease expirations", {"{{action}} {{reason}}": rate("lease_expirations", "action, reason")}, "reqps"),
        Panel("Inconsistent observed state", {"{{action}}": rate("inconsistent_states", "action")}, "reqps"),
    ],
    "Requests": [
        Panel("Accepted", {"{{action}}": rate("requests_accepted", "action")}, "reqps"),
        Panel("How they ended", {"{{outcome}}": rate("requests", "outcome")}, "reqps"),
        Panel(
            "Merged with others",
            {
                "share": "sum(rate(keylane_requests_coalesced_total[$__rate_interval])) / "
                "sum(rate(keylane_requests_accepted_total[$__rate_interval]))"
            },
            "percentunit",
        ),
        Panel("Refusals", {"{{code}}": rate("refusals", "code")}, "reqps"),
        Panel("Conflicts", {"{{kind}}": rate("conflicts", "kind")}, "reqps"),
        Panel(
            "Dead letters, fenced reports, repeats",
            {
                "dead letters {{code}}": rate("dead_letters", "code"),
                "fenced {{report}}": rate("fenced_reports", "report"),
                "repeats": "sum(rate(keylane_requests_repeated_total[$__rate_interval]))",
            },
            "reqps",
        ),
    ],
    "Waiting and working": [
        Panel(
            "Runs",
            {
                "waiting": "sum(keylane_queue_depth)",
                "held": "sum(keylane_held_runs)",
                "unserved actions": "sum(keylane_unserved_actions)",
            },
        ),
        Panel("Oldest wait", {"lane {{partition}}": "max by (partition) (keylane_oldest_wait_seconds)"}, "s"),
        Panel(
            "Wait and handling",
            {
                "wait p50": quantile(0.5, "wait_seconds"),
                "wait p99": quantile(0.99, "wait_seconds"),
                "handling p50": quantile(0.5, "handling_seconds"),
                "handling p99": quantile(0.99, "handling_seconds"),
            },
            "s",
        ),
        Panel(
            "Grants and failed attempts",
            {"grants {{action}}": rate("grants", "action"), "failed {{action}}": rate("attempts_failed", "action")},
            "reqps",
        ),
        Panel("Items at workers", {"{{action}} {{outcome}}": rate("worker_items", "action, outcome")}, "reqps"),
        Panel(
            "Handlers",
            {"p50": quantile(0.5, "worker_handling_seconds"), "p99": quantile(0.99, "worker_handling_seconds")},
            "s",
        ),
    ],
    "Lanes": [
        Panel("Lag", {"{{topic}} {{partition}}": "max by (topic, partition) (keylane_lag_seconds)"}, "s"),
        Panel("Unapplied records", {"{{topic}}": "sum by (topic) (keylane_lag_records)"}),
        Panel(
            "Owned",
            {
                "{{instance}}": "keylane_partitions_owned",
                "pinned": "max(keylane_partitions)",
                "halted": "sum(keylane_partitions_halted)",
            },
        ),
        Panel(
            "Turns",
            {
                "turn p99": quantile(0.99, "turn_duration_seconds"),
                "commit p50": quantile(0.5, "commit_duration_seconds"),
                "commit p99": quantile(0.99, "commit_duration_seconds"),
            },
            "s",
        ),
        Panel(
            "Loads and reloads",
            {
                "loads": "sum(rate(keylane_lane_loads_total[$__rate_interval]))",
                "{{reason}}": rate("lane_reloads", "reason"),
            },
            "reqps",
        ),
        Panel("Open worker sessions", {"lane {{partition}}": "sum by (partition) (keylane_worker_sessions_open)"}),
    ],
    "Processes": [
        Panel(
            "Worker slots", {"{{instance}} used": "keylane_worker_slots_used", "{{instance}}": "keylane_worker_slots"}
        ),
        Panel(
            "Workers' partitions and sessions",
            {
                "{{instance}} partitions": "keylane_worker_partitions",
                "{{instance}} sessions": "keylane_worker_sessions",
            },
        ),
        Panel("Age of the last heartbeat", {"{{instance}}": "keylane_worker_heartbeat_age_seconds"}, "s"),
        Panel("CPU", {"{{instance}}": 'rate(process_cpu_seconds_total{job=~"keylane-.*"}[$__rate_interval])'}),
        Panel("Memory", {"{{instance}}": 'process_resident_memory_bytes{job=~"keylane-.*"}'}, "bytes"),
        Panel("Versions", {"{{instance}} {{version}}": "keylane_build_info"}),
    ],
}


def dashboard() -> str:
    """The file's text."""
    panels: list[dict[str, object]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
                "collapsed": False,
                "panels": [],
            }
        )
        y += 1
        for number, panel in enumerate(row):
            x = number % 3 * (WIDTH // 3)
            panels.append(_graph(panel, len(panels) + 1, {"x": x, "y": y, "w": WIDTH // 3, "h": HEIGHT}))
            if number % 3 == 2 or panel is row[-1]:
                y += HEIGHT
    whole = {
        "uid": "keylane",
        "title": "keylane",
        "tags": ["keylane"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "panels": panels,
    }
    return json.dumps(whole, indent=1) + "\n"


def _graph(panel: Panel, id: int, place: dict[str, int]) -> dict[str, object]:
    source = {"type": "prometheus", "uid": "prometheus"}
    return {
        "id": id,
        "type": "timeseries",
        "title": panel.title,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"tooltip": {"mode": "multi", "sort": "desc"}, "legend": {"displayMode": "list"}},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": source, "expr": query, "legendFormat": legend}
            for number, (legend, query) in enumerate(panel.queries.items())
        ],
    }


if __name__ == "__main__":
    FILE.write_text(dashboard())
