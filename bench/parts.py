"""What a request costs a router in CPU, by part: samples of its stack (`sampler.py`), each put down to one part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.keylane_side import Stretch


class Sample(NamedTuple):
    at_s: float
    stack: Sequence[str]
    """`module:function`, outermost first."""


def read(file: Path) -> list[Sample]:
    found = []
    for line in file.read_text().splitlines():
        at_s, stack = line.split(" ", 1)
        found.append(Sample(float(at_s), stack.split(";")))
    return found


def _within(*prefixes: str) -> Callable[[str], bool]:
    return lambda frame: frame.startswith(prefixes)


PARTS: dict[str, Callable[[str], bool]] = {
    "journal": _within("keylane.journal.", "aiokafka."),
    "decode": _within("keylane.router.turn:decode", "keylane.schemas.codec:decode"),
    "forget": _within(
        "keylane.router.turn:_fire", "keylane.router.turn:_apply_due", "keylane.router.core.step:step_due"
    ),
    "step": _within("keylane.router.core."),
    "encode": _within("keylane.router.turn:_outputs", "keylane.router.turn:_encoded", "keylane.schemas."),
    "meter": _within("keylane.router.meter:", "keylane.router.decisions:", "prometheus_client."),
    "turn": _within("keylane.router."),
}
"""In the order in which they are asked: the first that some frame of the stack is of has the sample."""
LOOP = "loop"
"""What is left: the event loop, its selector, imports."""


def part_of(stack: Sequence[str]) -> str:
    for part, is_of in PARTS.items():
        if any(map(is_of, stack)):
            return part
    return LOOP


def cost_us(samples: Sequence[Sample], stretch: Stretch) -> dict[str, float]:
    """Microseconds of CPU a request, by part: shares of the samples, of what the kernel charged to the process."""
    until_s = stretch.since_s + stretch.seconds
    found = Counter(part_of(each.stack) for each in samples if stretch.since_s <= each.at_s <= until_s)
    return {part: number / found.total() * stretch.cpu_us for part, number in found.most_common()}
