"""keylane.workers: what does the work. `Worker`, the `Item` that its handlers get, and how they end it.

Names are loaded when they are first used: who holds a lock counts its lease as a worker does (`lease`, `clock`), and
need not load one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keylane.schemas.errors import LeaseLost
    from keylane.workers.item import Checkpoint, Done, Fail, Item, Retry
    from keylane.workers.runner import Worker

__all__ = ["Checkpoint", "Done", "Fail", "Item", "LeaseLost", "Retry", "Worker"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = {"Worker": "keylane.workers.runner", "LeaseLost": "keylane.schemas.errors"}.get(name, "keylane.workers.item")
    return getattr(import_module(home), name)
