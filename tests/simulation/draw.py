"""From a seed to a scenario: sizes, policies and a mix of faults, all drawn. No run reads this again."""

from __future__ import annotations

import random
from collections.abc import Callable

from msgspec.structs import replace
from simulation.draw_locks import with_locks
from simulation.draw_rules import with_rules
from simulation.scenario import Act, Does, Fault, Hand, Handling, Scenario, What
from simulation.wire import Net

from keylane.router.core.policy import ActionPolicy, Bounds, Policy

Dice = random.Random

ACTIONS = ("restart", "stop", "drain")
WORK: tuple[Does, ...] = ("submit",) * 14 + ("submit_twice", "submit_twice", "reuse_id", "cancel", "cancel", "cancel")
RAW: tuple[Does, ...] = (
    "request_raw", "request_alias", "request_alias", "request_astray", "garbage", "decide", "resolve", "lock", "change",
    "end_session", "renew", "release", "false_report", "false_report",
)  # fmt: skip
OF_ANOTHER: tuple[Does, ...] = ("cancel", "reuse_id", "decide", "false_report", "renew", "release")
"""What is about another act's request."""
APART = 16
"""So many are made of each resource, where nobody is to wait for what another has lost."""
QUEUE_MS = 15_000
"""How long a run waits at most: a run of the simulation ends when the last has."""


def draw(seed: int, mix: str | None = None) -> Scenario:
    """The scenario of a seed; of a certain mix of faults, where one is named."""
    dice = Dice(f"scenario/{seed}")
    chaos_ms = dice.randint(4_000, 9_000)
    scenario = Scenario(
        seed=seed,
        character="kafka" if dice.random() < 0.6 else "sqlite",
        policy=_policy(dice),
        partitions=dice.choice([1, 2, 2, 3]),
        routers=dice.choice([1, 2, 2, 3]),
        workers=_workers(dice),
        agents=dice.choice([1, 2, 3]),
        handling=Handling(
            fails=dice.choice([0, 0.1, 0.3]),
            fails_for_good=dice.choice([0, 0.05]),
            retries=dice.choice([0, 0.1]),
            dawdles=dice.choice([0, 0, 0.15, 0.4]),
            blocked=dice.choice([0, 0.1, 0.4]),
            inconsistent=dice.choice([0, 0, 0.1]),
            steps_max=dice.randint(1, 4),
            step_ms_max=dice.choice([50, 400, 1_200]),
        ),
        skew_ppm=dice.choice([0, 1_000, 20_000]),
        chaos_ms=chaos_ms,
    )
    scenario = replace(scenario, acts=_acts(dice, scenario))
    drawn = dice.choice(MIXES)
    scenario = (drawn if mix is None else globals()[f"_{mix}"])(dice, scenario)
    if mix in ("late", "outlived"):
        return scenario  # for faults that few seeds have: without more that is in their way
    scenario = with_rules(Dice(f"rules/{seed}"), scenario, always=mix == "rules")
    if mix is None or mix in LOCK_MIXES:
        scenario = with_locks(Dice(f"locks/{seed}"), scenario, always=mix is not None)
    return scenario


def _policy(dice: Dice) -> Policy:
    lease_ms = dice.choice([2_000, 3_000])
    usual = ActionPolicy(
        lease_ms=lease_ms, attempts=dice.choice([2, 3]), backoff_ms=dice.choice([100, 500, 1_500]),
        backoff_max_ms=2_000, coalesce_ms=dice.choice([200, 1_000, 3_000]), queue_ms=QUEUE_MS,
        max_hold_ms=dice.choice([4_000, 60_000]),
    )  # fmt: skip
    tight = dice.random() < 0.15
    return Policy(
        defaults=usual,
        actions={
            "stop": replace(usual, on_conflict="supersede", stop_holder=dice.random() < 0.6),
            "drain": replace(usual, on_conflict="reject", on_conflict_with={"restart": "queue"}),
        },
        bounds=Bounds(
            waiters_per_resource=3, members_per_run=2, runs=25, refusals=8, kept_cancellations=2, resources=2,
            unserved_actions=1, crowded_runs=10, run_bytes=2_000,
        ) if tight else Bounds(run_bytes=4_000),
        session_lapse_ms=dice.choice([3_000, 4_000, 5_000]),
        unserved_after_ms=dice.choice([1_000, 4_000]),
        retention_ms=dice.choice([6_000, 60_000, 600_000]),
    )  # fmt: skip


def _workers(dice: Dice) -> tuple[Hand, ...]:
    everything = Hand(ACTIONS, dice.randint(1, 6))
    others = range(dice.randint(0, 2))
    return everything, *(everything if dice.random() < 0.6 else Hand(("restart",), dice.randint(1, 3)) for _ in others)


def _acts(dice: Dice, scenario: Scenario) -> tuple[Act, ...]:
    count = dice.randint(40, 150)
    resources = [f"deploy://r{number}" for number in range(dice.choice([1, 2, 4, 8]))]
    odd = dice.choice([0.0, 0.1, 0.3])
    acts = []
    for number in range(count):
        does = dice.choice(RAW) if dice.random() < odd else dice.choice(WORK)
        named = f"q{dice.randrange(number + 1)}" if does in OF_ANOTHER else f"q{number}"
        acts.append(
            Act(
                at_ms=200 + int(dice.random() * (scenario.chaos_ms - 500)),
                agent=dice.randrange(scenario.agents),
                does=does,
                id=named,
                resource=dice.choice(resources),
                action=dice.choice(ACTIONS) if dice.random() < 0.4 else "restart",
                payload=_payload(dice),
                reject_if_busy=dice.random() < 0.1,
                deadline_s=dice.choice([0.5, 2.0]) if dice.random() < 0.1 else None,
            )
        )
    # A command names its request's resource, mostly; and comes while there is something to command.
    of = {act.id: act for act in acts if act.does.startswith("submit")}
    for place, act in enumerate(acts):
        if act.does in OF_ANOTHER and act.id in of:
            about = of[act.id]
            at_ms = about.at_ms + dice.randint(-100, 800) if dice.random() < 0.7 else act.at_ms
            resource = act.resource if act.does == "reuse_id" else about.resource
            acts[place] = replace(act, resource=resource, at_ms=max(200, at_ms))
    return tuple(sorted(acts, key=lambda act: (act.at_ms, act.id)))


def _payload(dice: Dice) -> str:
    if dice.random() < 0.05:
        return '"' + "x" * dice.choice([1_000, 3_000, 5_000]) + '"'
    return str(dice.randrange(3))


# -- mixes of faults ----------------------------------------------------------------------------------------


def _whom(dice: Dice, scenario: Scenario, kinds: str) -> str:
    counts = {"router": scenario.routers, "worker": len(scenario.workers), "agent": scenario.agents}
    kind = dice.choice(kinds.split())
    return f"{kind}{dice.randrange(counts[kind])}"


def _faults(
    dice: Dice, scenario: Scenario, whats: tuple[What, ...], kinds: str, most: int, longest_ms: int
) -> tuple[Fault, ...]:
    found = [
        Fault(
            at_ms=dice.randrange(500, scenario.chaos_ms),
            what=dice.choice(whats),
            whom=_whom(dice, scenario, kinds),
            for_ms=dice.choice([50, 500, longest_ms // 2, longest_ms]),
        )
        for _ in range(dice.randint(1, most))
    ]
    return tuple(sorted(found, key=lambda fault: (fault.at_ms, fault.whom)))


def _calm(dice: Dice, scenario: Scenario) -> Scenario:
    return replace(scenario, net=Net(slow=dice.choice([0, 0.02])))


def _rules(dice: Dice, scenario: Scenario) -> Scenario:
    """Hardly a fault, and every rule (`draw_rules`)."""
    return _calm(dice, scenario)


def _unheard(dice: Dice, scenario: Scenario) -> Scenario:
    """Holders that hear nothing for a while, and work on by their own clocks alone."""
    faults = _faults(dice, scenario, ("cut",), "worker", 12, 0)
    return replace(
        scenario,
        faults=tuple(replace(fault, for_ms=dice.randint(2_000, 6_000)) for fault in faults),
        handling=replace(scenario.handling, dawdles=0.4),
    )


def _locks(dice: Dice, scenario: Scenario) -> Scenario:
    """Hardly a fault, little work, and locks (`draw_locks`)."""
    return _calm(dice, replace(scenario, acts=scenario.acts[:: dice.choice([2, 4])]))


def _takeovers(dice: Dice, scenario: Scenario) -> Scenario:
    """Locks, on lanes that go from router to router, of agents that die."""
    faults = _faults(dice, scenario, ("stop", "crash"), "router router router agent", 6, 400)
    return replace(_locks(dice, scenario), faults=faults)


def _deaf(dice: Dice, scenario: Scenario) -> Scenario:
    """Locks of agents that hear nothing for a while, and have their own clocks alone."""
    faults = _faults(dice, scenario, ("cut", "cut", "pause", "suspend"), "agent", 8, 0)
    faults = tuple(replace(fault, for_ms=dice.randint(2_000, 6_000)) for fault in faults)
    return replace(_locks(dice, scenario), faults=faults)


def _overtaken(dice: Dice, scenario: Scenario) -> Scenario:
    """Locks, in lanes that stand still for about as long as one is held."""
    return _behind(dice, _locks(dice, scenario))


def _belated(dice: Dice, scenario: Scenario) -> Scenario:
    """Locks, and what was given up arrives after all: also what a lane said under an earlier claim."""
    return _late(dice, _locks(dice, scenario))


def _crashes(dice: Dice, scenario: Scenario) -> Scenario:
    return replace(scenario, faults=_faults(dice, scenario, ("crash", "crash", "stop"), "router worker", 5, 6_000))


def _pauses(dice: Dice, scenario: Scenario) -> Scenario:
    faults = _faults(dice, scenario, ("pause", "pause", "suspend", "jump"), "router worker worker agent", 5, 8_000)
    return replace(scenario, faults=faults, net=Net(slow=0.02))


def _stalls(dice: Dice, scenario: Scenario) -> Scenario:
    """Reports that come late: of holders that have long lost what they report on."""
    faults = _faults(dice, scenario, ("stall",), "worker worker worker router", 12, 6_000)
    # Until about when the lease has ended, and the next attempt is due: that is when they could do harm.
    usual = replace(scenario.policy.defaults, backoff_ms=1_500, attempts=3)
    actions = {name: replace(each, backoff_ms=1_500, attempts=3) for name, each in scenario.policy.actions.items()}
    faults = tuple(replace(fault, for_ms=usual.lease_ms + dice.randint(0, 2_000)) for fault in faults)
    return replace(
        scenario,
        faults=faults,
        policy=replace(scenario.policy, defaults=usual, actions=actions),
        handling=replace(scenario.handling, steps_max=4, step_ms_max=400),
    )


def _lossy(dice: Dice, scenario: Scenario) -> Scenario:
    net = Net(
        lost=dice.choice([0.01, 0.04]), unanswered=dice.choice([0.02, 0.06, 0.12]), late=dice.choice([0, 0.02]),
        torn=dice.choice([0, 0.03]), slow=0.02, way_us=dice.choice([500, 5_000]),
    )  # fmt: skip
    return replace(scenario, net=net)


def _outlived(dice: Dice, scenario: Scenario) -> Scenario:
    """The same, and while the run still waits: its session lives, nobody else wants the resource, the pause is long."""
    usual = replace(scenario.policy.defaults, backoff_ms=4_000, backoff_max_ms=4_000, attempts=3)
    faults = _faults(dice, scenario, ("stall",), "worker", 24, 0)
    return replace(
        scenario,
        faults=tuple(replace(fault, for_ms=usual.lease_ms + dice.randint(0, 3_000)) for fault in faults),
        policy=replace(scenario.policy, defaults=usual, actions={}, session_lapse_ms=10_000),
        acts=tuple(replace(act, resource=f"{act.resource}-{int(act.id[1:]) % APART}") for act in scenario.acts),
        workers=scenario.workers[:1] * 3,
        handling=replace(scenario.handling, steps_max=dice.choice([1, 4]), step_ms_max=400),
    )


def _late(dice: Dice, scenario: Scenario) -> Scenario:
    """What was given up arrives after all."""
    return replace(scenario, character="kafka", net=Net(late=0.1))


def _cuts(dice: Dice, scenario: Scenario) -> Scenario:
    return replace(scenario, faults=_faults(dice, scenario, ("cut", "cut", "down"), "router worker agent", 4, 6_000))


def _hidden(dice: Dice, scenario: Scenario) -> Scenario:
    faults = _faults(dice, scenario, ("hide", "hide", "pause"), "router worker", 4, 8_000)
    return replace(scenario, character="kafka", faults=faults)


def _everything(dice: Dice, scenario: Scenario) -> Scenario:
    whats: tuple[What, ...] = ("pause", "crash", "stop", "cut", "down", "jump", "hide", "suspend", "stall", "truncate")
    lossy = _lossy(dice, scenario)
    return replace(lossy, faults=_faults(dice, scenario, whats, "router router worker agent", 7, 7_000))


def _behind(dice: Dice, scenario: Scenario) -> Scenario:
    """Routers that stand still, not long enough to lose their lanes, and wake with what they had read before."""
    faults = _faults(dice, scenario, ("pause",), "router", 8, 0)
    return replace(scenario, faults=tuple(replace(fault, for_ms=dice.randint(1_500, 3_800)) for fault in faults))


def _handovers(dice: Dice, scenario: Scenario) -> Scenario:
    """Lanes that go from router to router."""
    return replace(scenario, faults=_faults(dice, scenario, ("stop", "stop", "crash"), "router", 8, 400))


def _zombies(dice: Dice, scenario: Scenario) -> Scenario:
    """Routers that are stopped, in a commit too, and wake when their lanes are others'."""
    scenario = replace(scenario, routers=max(2, scenario.routers), chaos_ms=9_000)
    faults = _faults(dice, scenario, ("stall", "stall", "pause"), "router", 6, 0)
    return replace(scenario, faults=tuple(replace(fault, for_ms=dice.randint(4_000, 6_000)) for fault in faults))


LOCK_MIXES = ("locks", "takeovers", "belated", "overtaken", "deaf")
MIXES: tuple[Callable[[Dice, Scenario], Scenario], ...] = (
    _calm, _crashes, _pauses, _stalls, _lossy, _lossy, _cuts, _hidden, _behind, _handovers, _zombies, _everything,
    _everything,
)  # fmt: skip
