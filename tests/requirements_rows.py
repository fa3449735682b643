"""The rows that `@pytest.mark.requirement(row)` may name: what the project's sources ask for, by number.

`pytest -m requirement` lists which test shows which; with `--collect-only` it runs none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

ROWS = frozenset(
    [
        *(f"M.{n}" for n in range(1, 5)),
        *(f"S0.{n}" for n in range(1, 5)),
        *(f"S1.{n}" for n in range(1, 10)),
        *(f"S2.{n}" for n in range(1, 4)),
        *(f"S3.{n}" for n in range(1, 5)),
        *(f"S4.{n}" for n in range(1, 5)),
    ]
)

ON_BOTH_BACKENDS = ROWS
"""The rows that a test shows on SQLite and on Kafka, the same test on both."""

NO_STORY = frozenset({"S1.8", "S2.3", "S4.3"})
"""Of these, the ones without a scenario: a scenario says what a lane does, and these are of what people are shown, of
files and of metrics."""

BACKENDS = ("sqlite", "kafka")


def shown_by(items: Iterable[pytest.Item]) -> dict[str, dict[str, set[str]]]:
    """By row: the tests that name it, each with the backends on which it was collected.

    A test runs on a backend if a fixture of its own or of its suite was given that one's name.
    """
    shown: dict[str, dict[str, set[str]]] = {}
    for item in items:
        callspec = getattr(item, "callspec", None)
        values = [] if callspec is None else callspec.params.values()
        backends = {name for name in BACKENDS if name in values}
        test = item.nodeid.partition("[")[0] if backends else item.nodeid
        for marker in item.iter_markers("requirement"):
            shown.setdefault(marker.args[0], {}).setdefault(test, set()).update(backends)
    return shown


def listing(shown: Mapping[str, Mapping[str, set[str]]]) -> list[str]:
    """A line a row and test: the row, the backends (`-`: none in particular), the test."""
    return [
        f"{row:<5} {','.join(name for name in BACKENDS if name in backends) or '-':<13} {test}"
        for row, tests in sorted(shown.items())
        for test, backends in sorted(tests.items())
    ]
