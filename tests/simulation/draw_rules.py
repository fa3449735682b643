"""The rules of work that a seed uses: policies of actions, what requests name, changes made outside, and decisions.

Drawn apart from the rest and laid over it, so that seeds without rules are what they are without this.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from msgspec.structs import replace
from simulation.scenario import Act, Hand, Scenario

from keylane.router.core.policy import ActionPolicy, Limit, Policy
from keylane.schemas.metadata import ScopeRule

Dice = random.Random

RULES = ("versions", "order", "reviews", "merging", "keys", "scopes", "pools", "changes")
WITH_RULES = 0.6
"""How many of the seeds use some of them."""
VERSIONS = ("v1", "v2", "v3", "v4")
POD_SCOPE = ScopeRule(match="pod://{app}/{pod}", owner="deploy://{app}")
REQUESTS = ("submit", "submit_twice", "request_raw", "request_alias", "request_astray")
ABOUT = ("cancel", "decide", "renew", "release", "false_report")


def with_rules(dice: Dice, scenario: Scenario, *, always: bool = False) -> Scenario:
    """The scenario with the rules that the dice choose; all of them with `always`."""
    if not always and dice.random() > WITH_RULES:
        return scenario
    rules = frozenset(rule for rule in RULES if always or dice.random() < 0.5)
    policy = _policy(dice, scenario.policy, rules)
    actions = (*policy.actions, "restart")
    # What is to meet has to be about few things, and some of it has to take time.
    resources = [f"deploy://r{number}" for number in range(dice.choice([1, 2, 3]))]
    if "scopes" in rules:
        resources += [f"pod://r{dice.randrange(2)}/{pod}" for pod in "ab"]
    acts = [_renamed(dice, act, resources, actions, rules) for act in scenario.acts]
    acts = [_follows(act, {other.id: other for other in acts if other.does in REQUESTS}) for act in acts]
    acts += _bursts(dice, acts, scenario) if "merging" in rules else []
    acts += _decisions(dice, acts, scenario) if "reviews" in rules else []
    acts += _changes(dice, resources, acts, scenario) if "changes" in rules else []
    acts += _resolutions(Dice(f"resolutions/{scenario.seed}"), acts, scenario) if "reviews" in rules else []
    handling = replace(
        scenario.handling,
        versions=4 if "versions" in rules or "reviews" in rules else 1,
        mismatches=dice.choice([0.1, 0.3]) if "versions" in rules else 0.0,
    )
    return replace(
        scenario,
        policy=policy,
        scopes=(POD_SCOPE,) if "scopes" in rules else (),
        workers=_workers(scenario.workers, actions, policy),
        handling=handling,
        acts=tuple(sorted(acts, key=lambda act: (act.at_ms, act.id))),
    )


def _policy(dice: Dice, before: Policy, rules: frozenset[str]) -> Policy:
    usual, actions = before.defaults, dict(before.actions)
    if "order" in rules:
        limit = Limit(count=dice.choice([1, 1, 2]), until=("end", "repair"))
        against = dice.choice(["reject", "queue"])
        actions["drain"] = replace(actions["drain"], limit=limit, on_conflict=against)
        actions["end"] = replace(usual, requires=("drain",))
    if "versions" in rules:
        actions["ship"] = replace(usual, version_required=True, pool="others" if "pools" in rules else "default")
    if "reviews" in rules:
        actions["ask"] = replace(
            usual,
            on_conflict="review",
            on_conflict_with={"look": "queue", "stop": dice.choice(["reject", "review"])},
            then=dice.choice(["fail", "review", "review"]),
            attempts=dice.choice([1, 2]),
            review_ms=dice.choice([1_500, 6_000]),
        )
    if "merging" in rules or "versions" in rules:
        actions["look"] = _looks(dice, usual, rules)
    pools = before.pools
    if "pools" in rules:
        pools = (*pools, "others")
        actions["drain"] = replace(actions["drain"], pool="others")
    return replace(before, actions=actions, pools=pools)


def _looks(dice: Dice, usual: ActionPolicy, rules: frozenset[str]) -> ActionPolicy:
    harmless = replace(usual, harmless=True)
    if "merging" not in rules:
        return harmless
    quiet_ms = dice.choice([0, 300, 800])
    return replace(
        harmless,
        harmless=dice.random() < 0.5,
        quiet_ms=quiet_ms,
        max_delay_ms=quiet_ms * dice.choice([1, 2, 3]),
        max_count=dice.choice([0, 2, 4]) if quiet_ms else 0,
        min_interval_ms=dice.choice([0, 1_000, 2_500]),
    )


def _workers(before: Sequence[Hand], actions: Sequence[str], policy: Policy) -> tuple[Hand, ...]:
    """Those of before do all that is their pool's; of each other pool there is one more."""
    hands = []
    for hand in before:
        wanted = actions if len(hand.actions) > 1 else hand.actions
        hands.append(replace(hand, actions=tuple(sorted(name for name in wanted if policy.of(name).pool == "default"))))
    for pool in policy.pools[1:]:
        names = tuple(sorted(name for name in actions if policy.of(name).pool == pool))
        hands.append(Hand(names, 2, pool))
        hands.append(Hand((*names, "restart"), 2, pool))  # what it could do is not its pool's, and so not its own
    return tuple(hands)


def _renamed(dice: Dice, act: Act, resources: list[str], actions: tuple[str, ...], rules: frozenset[str]) -> Act:
    """A request for some of the work there is, on one of a few resources, with what the rules let it name."""
    resource = dice.choice(resources)
    if act.does not in (*REQUESTS, "reuse_id"):
        return replace(act, resource=resource)
    action = dice.choice(actions) if dice.random() < 0.7 else act.action
    named: dict[str, object] = {}
    if ("versions" in rules and action != "look" and dice.random() < 0.4) or (action == "ship" and dice.random() < 0.8):
        named["expected_version"] = dice.choice([*VERSIONS, "v9"])
    if "keys" in rules and dice.random() < 0.4:
        named["idempotency_key"] = dice.choice(["k1", "k2", "k3", f"k-{act.id}"])
    if "merging" in rules and dice.random() < (0.7 if action == "look" else 0.2):
        named["coalesce_key"] = dice.choice("mn")
    if "order" in rules and dice.random() < 0.08:
        named["requires"] = dice.choice([("restart",), ("drain", "restart")])
    if dice.random() < 0.1:
        named["deadline_s"] = dice.choice([0.3, 1.0, 4.0])
    return replace(act, resource=resource, action=action, **named)


def _follows(act: Act, requests: dict[str, Act]) -> Act:
    """What is about a request names its resource, mostly."""
    about = requests.get(act.id)
    if act.does not in ABOUT or about is None:
        return act
    return replace(act, resource=about.resource, payload=about.payload)


def _bursts(dice: Dice, acts: Sequence[Act], scenario: Scenario) -> list[Act]:
    """More of what can be merged, shortly after, with other payloads."""
    looks = [act for act in acts if act.action == "look" and act.coalesce_key and act.does in REQUESTS]
    return [
        replace(
            act,
            at_ms=act.at_ms + dice.randint(20, 900),
            agent=dice.randrange(scenario.agents),
            does="submit",
            id=f"{act.id}-{number}",
            payload=str(dice.randrange(5)),
            idempotency_key=None,
        )
        for act in looks[:6]
        for number in range(dice.choice([1, 3, 6]))
    ]


def _decisions(dice: Dice, acts: Sequence[Act], scenario: Scenario) -> list[Act]:
    """On what may wait for a person: right and wrong ones, once, twice, late, and of whom nobody knows."""
    found: list[Act] = []
    for act in acts:
        if act.action != "ask" or act.does not in REQUESTS:
            continue
        found += [
            Act(
                at_ms=act.at_ms + dice.choice([30, 200, 600, 1_500, 4_000]),
                agent=dice.randrange(scenario.agents),
                does="decide",
                id=act.id if dice.random() < 0.95 else "nobody",
                resource=act.resource,
                number=number,
                payload=act.payload,
                verdict="reject" if dice.random() < 0.2 else "approve",
                version=dice.choice(["", "", *VERSIONS, "v9"]),
                digest=dice.choice(["", "", "seen", "seen", "other"]),
            )
            for number in range(dice.choice([0, 1, 1, 2, 3]))
        ]
    return found


def _resolutions(dice: Dice, acts: Sequence[Act], scenario: Scenario) -> list[Act]:
    """A person closes a conflict; some do where they were to decide."""
    return [
        Act(
            at_ms=act.at_ms + dice.choice([100, 500, 2_000]),
            agent=dice.randrange(scenario.agents),
            does="resolve",
            id=act.id,
            resource=act.resource,
        )
        for act in acts
        if act.action == "ask" and act.does in REQUESTS and dice.random() < 0.3
    ]


def _changes(dice: Dice, resources: list[str], acts: Sequence[Act], scenario: Scenario) -> list[Act]:
    """Made outside: told in order and out of it, of several sources, and twice; some soon after a decision."""
    sequences = {"": 0, "web": 0, "ops": 0}
    found = []
    decided = [act for act in acts if act.does == "decide" and dice.random() < 0.3]
    for number in range(dice.randint(2, 14)):
        source = dice.choice(sorted(sequences))
        after = decided.pop() if decided else None
        sequences[source] += 1
        found.append(
            Act(
                at_ms=dice.randint(300, scenario.chaos_ms) if after is None else after.at_ms + dice.randint(5, 500),
                agent=dice.randrange(scenario.agents),
                does="change",
                id=f"c{dice.randrange(number + 1)}" if dice.random() < 0.15 else f"c{number}",
                resource=dice.choice(resources) if after is None else after.resource,
                version=dice.choice(["", *VERSIONS, "v9"]),
                what=dice.choice(["edit", "edit", "repair"]),
                source=source,
                sequence=max(1, sequences[source] + dice.choice([0, 0, 0, -2])) if source else None,
            )
        )
    return found
