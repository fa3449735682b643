"""Which cells of the core's tables a run reaches, and how many events its lanes apply."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from keylane.router.core.sessions import SESSION_TABLE
from keylane.router.core.step import STATES, TABLE

SESSION_STATES = ("Unknown", "Live")


class Coverage:
    """Watches the tables. `met` holds `event/state`, of worker sessions `session:event/state`."""

    def __init__(self) -> None:
        self.met: set[str] = set()
        self.core_events = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While this lasts, each cell that is called is noted."""
        before = []
        for table, event, name, states in _rows():
            before.append((table, event, table[event]))
            row = zip(states, table[event], strict=True)
            table[event] = tuple(self._noted(f"{name}/{state}", cell) for state, cell in row)
        try:
            yield
        finally:
            for table, event, cells_before in before:
                table[event] = cells_before

    def _noted(self, name: str, cell: Callable[..., None]) -> Callable[..., None]:
        add = self.met.add

        def noted(*arguments: Any) -> None:
            add(name)
            self.core_events += 1
            cell(*arguments)

        return noted


def cells() -> dict[str, str]:
    """Every cell by the name that `met` gives it, with the name of what it does."""
    return {
        f"{name}/{state}": cell.__name__
        for table, event, name, states in _rows()
        for state, cell in zip(states, table[event], strict=True)
    }


def _rows() -> list[tuple[dict[Any, Any], Any, str, tuple[str, ...]]]:
    """Each row of both tables: its table, its key there, its name, and the states that are its columns."""
    runs: dict[Any, Any] = TABLE
    sessions: dict[Any, Any] = SESSION_TABLE
    return [
        *((runs, kind, kind.__name__, STATES) for kind in runs),
        *((sessions, event, f"session:{event}", SESSION_STATES) for event in sessions),
    ]
