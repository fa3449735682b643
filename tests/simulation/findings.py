"""What a run has broken so far."""

from __future__ import annotations

from typing import NamedTuple

from simulation.world import World


class Violation(NamedTuple):
    """A promise that was broken: `kind` names the check, so that a scenario can be shrunk without changing it."""

    kind: str
    message: str


class Findings:
    """Violations, in the order in which they were seen."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.violations: list[Violation] = []

    def broken(self, kind: str, message: str) -> None:
        self.violations.append(Violation(kind, f"at {self.world.now_us / 1e6:.3f} s: {message}"))


def true_resource(spelt: str) -> str:
    """The resource of the simulation that a key means: `odd_records` spells them in these ways alone."""
    return spelt.lower().replace("%72", "r").rstrip("/")


def true_owner(spelt: str) -> str:
    """The owning key of a resource of the simulation: that of a pod is its deployment (`draw_rules.POD_SCOPE`)."""
    kind, _, name = true_resource(spelt).partition("://")
    return f"deploy://{name.partition('/')[0]}" if kind == "pod" else f"{kind}://{name}"
