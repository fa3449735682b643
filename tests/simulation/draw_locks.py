"""The locks that a seed uses: sessions of agents that take, keep and lose them, in orders in which deadlocks arise.

Drawn apart from the rest and laid over it, as `draw_rules`: on the keys of the seed's work, and on some of its own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import count

from msgspec.structs import replace
from simulation.scenario import LockPlan, Scenario

from keylane.router.core.policy import LockPolicy

Dice = random.Random

WITH_LOCKS = 0.4
"""How many of the seeds use locks."""
SLOW = 0.5
"""In how many of these a way is slow so often that what comes back may have been overtaken."""
CLAIM_MS = (1_500, 3_000)
LONG_MS = 20_000
"""A wait that nothing but its turn, or a deadlock, ends in the time of a run."""


def with_locks(dice: Dice, scenario: Scenario, *, always: bool = False) -> Scenario:
    """The scenario with locks, if the dice say so, or `always`."""
    if not always and dice.random() > WITH_LOCKS:
        return scenario
    locks = LockPolicy(
        ttl_ms=dice.choice([2_000, 3_000]),
        claim_ms=dice.choice(CLAIM_MS),
        max_hold_ms=dice.choice([5_000, 60_000]),
        wait_ms_max=60_000,
    )
    bounds = scenario.policy.bounds
    if dice.random() < 0.15:
        bounds = replace(bounds, locks_per_session=2)
    if dice.random() < SLOW:
        scenario = replace(scenario, net=replace(scenario.net, slow=0.2))
    drawing = _Drawing(dice, scenario)
    plans = [
        *drawing.alone(),
        *drawing.clients(),
        *drawing.rings(),
        *drawing.shared(),
        *drawing.crowd(),
        *drawing.pairs(),
    ]
    return replace(
        scenario,
        policy=replace(scenario.policy, locks=locks, bounds=bounds),
        locks=tuple(sorted(plans, key=lambda plan: (plan.at_ms, plan.id))),
    )


class _Drawing:
    """The plans of one scenario."""

    def __init__(self, dice: Dice, scenario: Scenario) -> None:
        self._dice = dice
        self._scenario = scenario
        self._ids = count()
        worked_on = sorted({act.resource for act in scenario.acts})[:3]
        self._resources = [*worked_on, *(f"lock://k{number}" for number in range(dice.choice([1, 2, 4])))]

    def _plan(self, session: str, resources: Sequence[str], **fields: object) -> LockPlan:
        dice, chaos_ms = self._dice, self._scenario.chaos_ms
        usual: dict[str, object] = {
            "at_ms": dice.randint(300, chaos_ms),
            "agent": dice.randrange(self._scenario.agents),
            "hold_ms": dice.choice([50, 300, 1_000, 4_000]),
            "ttl_ms": dice.choice([None, None, 1_000, 2_500]),
        }
        return LockPlan(id=f"l{next(self._ids)}", session=session, resources=tuple(resources), **(usual | fields))  # type: ignore[arg-type]

    def alone(self) -> list[LockPlan]:
        """One lock each, in all ways."""
        dice = self._dice
        return [
            self._plan(
                f"s{number}",
                [dice.choice(self._resources)],
                hold=dice.choice(["", "a"]),
                explicit=dice.random() < 0.2,
                wait_ms=dice.choice([0, 0, 300, 2_000, 8_000, LONG_MS]),
                tries=dice.choice([1, 1, 3]),
                claims=dice.random() < 0.85,
                again=dice.choice(["", "", "", "same", "anew", "other"]),
                renews=dice.choice(["", "well", "well", "well", "late", "blocked", "token", "secret", "resource"]),
                ends=dice.choice(
                    ["release", "release", "twice", "token", "secret", "cancel", "cancel_bare", "end", "end_secret",
                     "forget", "obey"]
                ),
                gives_up_ms=dice.choice([None, None, None, None, 0, 30, 800]),
                astray=dice.random() < 0.05,
            )
            for number in range(dice.randint(4, 24))
        ]  # fmt: skip

    def clients(self) -> list[LockPlan]:
        """By the real client: several keys at once, one within another, and by credentials alone."""
        dice, plans = self._dice, []
        for number in range(dice.randint(2, 8)):
            keys = self._resources if dice.random() < 0.5 else [f"own://u{number}-{each}" for each in range(3)]
            plans.append(
                self._plan(
                    f"u{number}",
                    dice.sample(keys, min(len(keys), dice.choice([1, 1, 2, 3]))),
                    by=dice.choice(["lock", "lock", "nested", "nested", "credential"]),
                    wait_ms=dice.choice([0, 500, 3_000, LONG_MS]),
                    between_ms=dice.choice([0, 200]),
                    hold=dice.choice(["", "a"]),
                    renews=dice.choice(["well", "well", "well", "blocked"]),
                    ends=dice.choice(["release", "release", "twice", "end"]),
                    hold_ms=dice.choice([50, 2_000, 7_000]),
                )
            )
        return plans

    def rings(self) -> list[LockPlan]:
        """Sessions that each hold one and then want that of the next: what only a refusal undoes."""
        dice, plans = self._dice, []
        for ring in range(dice.choice([1, 2, 3])):
            size = dice.choice([2, 3])
            at_ms, between_ms = dice.randint(300, self._scenario.chaos_ms), dice.choice([100, 500, 3_000])
            is_broken, asking = dice.random() < 0.4, 0.5 if dice.random() < 0.3 else 0.0
            keys = [f"ring://g{ring}-{number}" for number in range(size)]
            waits_ms = dice.choice([LONG_MS, LONG_MS, 4_000])
            for number in range(size):
                asks_again = dice.random() < asking
                by = "nested" if not asks_again and dice.random() < 0.3 else ""
                plans.append(
                    self._plan(
                        f"g{ring}-{number}",
                        (keys[number], keys[(number + 1) % size]),
                        at_ms=at_ms + (0 if is_broken else dice.choice([0, 0, 50, 1_500])),
                        explicit=dice.random() < 0.97,
                        wait_ms=0 if asks_again else waits_ms,
                        tries=30 if asks_again else 1,
                        between_ms=between_ms,
                        by=by,
                        hold_ms=dice.choice([300, 2_000]),
                        ttl_ms=None,
                        ends=dice.choice(["release", "release", "end"]),
                    )
                )
            plans += self._broken(ring, keys[1], at_ms, between_ms) if is_broken else []
            plans += self._once_more(ring, keys, at_ms)
        return plans

    def _once_more(self, ring: int, keys: Sequence[str], at_ms: int) -> list[LockPlan]:
        """The same sessions a while later, the other way round: whom one waited for waits for it."""
        dice = self._dice
        return [
            self._plan(
                f"g{ring}-{number}",
                (key, keys[number - 1]),
                at_ms=at_ms + dice.randint(1_500, 5_000),
                hold="later",
                explicit=True,
                wait_ms=LONG_MS,
                between_ms=300,
                hold_ms=300,
                ttl_ms=None,
            )
            for number, key in enumerate(keys)
            if dice.random() < 0.5
        ]

    def _broken(self, ring: int, key: str, at_ms: int, between_ms: int) -> list[LockPlan]:
        """The session that holds a key of the ring ends when that is closed, and somebody else is next for the key."""
        dice = self._dice
        ends_ms = at_ms + between_ms + dice.randint(0, 40)
        return [
            self._plan(
                f"g{ring}-next", [key], at_ms=at_ms + between_ms // 2, explicit=True, wait_ms=LONG_MS, ttl_ms=None
            ),
            self._plan(f"g{ring}-1", (), at_ms=ends_ms, hold_ms=0, ends="end"),
        ]

    def shared(self) -> list[LockPlan]:
        """Several plans of one session: locks had again, of another hold, or of another secret; and its end."""
        dice, plans = self._dice, []
        for number in range(dice.randint(0, 3)):
            key, at_ms = dice.choice(self._resources), dice.randint(300, self._scenario.chaos_ms)
            plans += [
                self._plan(
                    f"t{number}",
                    [key] if dice.random() < 0.7 else [key, dice.choice(self._resources)],
                    at_ms=at_ms + dice.randint(0, 1_500),
                    secret="other" if dice.random() < 0.15 else "",
                    hold=dice.choice(["", "", "b"]),
                    explicit=dice.random() < 0.6,
                    wait_ms=dice.choice([0, 1_000, LONG_MS]),
                    hold_ms=dice.choice([300, 1_500, 4_000]),
                    claims=dice.random() < 0.8,
                    ends=dice.choice(["release", "cancel", "end", "end", "forget"]),
                )
                for _ in range(dice.randint(2, 4))
            ]
        return plans

    def crowd(self) -> list[LockPlan]:
        """Many at once for one key: the holder changes under those that wait, also before their edges come back."""
        dice = self._dice
        at_ms, hurry = dice.randint(300, self._scenario.chaos_ms), dice.random() < 0.8
        return [
            self._plan(
                f"c{number}",
                ["crowd://c"],
                at_ms=at_ms + dice.randint(0, 30 if hurry else 300),
                explicit=dice.random() < 0.9,
                wait_ms=0 if dice.random() < 0.3 else LONG_MS,
                tries=4,
                hold_ms=dice.choice([0, 10]) if hurry else dice.choice([100, 800, 2_000]),
            )
            for number in range(dice.randint(3, 9))
        ]

    def pairs(self) -> list[LockPlan]:
        """One asks for a key as another gives it back: it has it before the graph has said that it waits."""
        dice, plans = self._dice, []
        for number in range(dice.choice([0, 6])):
            at_ms = dice.randint(300, self._scenario.chaos_ms)
            for session, after_ms in (("first", 0), ("then", 200 + dice.randint(-20, 60))):
                plans.append(
                    self._plan(
                        f"p{number}-{session}",
                        [f"pair://p{number}"],
                        at_ms=at_ms + after_ms,
                        explicit=True,
                        wait_ms=dice.choice([0, LONG_MS]),
                        hold_ms=200,
                        ttl_ms=None,
                    )
                )
        return plans
