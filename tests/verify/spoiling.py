"""How cases of broken promises are written: a function of a good history, and the number of the promise it breaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from verify.recording import changed, find
from verify.stories import story

from keylane.verify import Entry, Line

Spoiled = tuple[Sequence[Line], list[str]]
Case = Callable[[list[Entry]], Spoiled]
CASES: list[Any] = []


def breaks(promise: int, of: Callable[[], tuple[Entry, ...]] = story) -> Callable[[Case], Case]:
    def add(case: Case) -> Case:
        CASES.append(pytest.param(promise, of, case, id=f"{promise}-{case.__name__}"))
        return case

    return add


def place(entry: Entry) -> str:
    return f"{entry.topic}/{entry.partition}/{entry.offset}"


def edited(
    entries: list[Entry], kind: str, nth: int = 0, /, where: dict[str, Any] | None = None, **new: Any
) -> Spoiled:
    """One record of a type changed; the counterexample names it."""
    index = find(entries, kind, nth, **(where or {}))
    return changed(entries, index, **new), [place(entries[index])]
