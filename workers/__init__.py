"""keylane.workers: what does the work. `Worker`, the `Item` that its handlers get, and how they end it."""

from keylane.workers.item import Checkpoint, Done, Fail, Item, LeaseLost, Retry
from keylane.workers.runner import Worker

__all__ = ["Checkpoint", "Done", "Fail", "Item", "LeaseLost", "Retry", "Worker"]
