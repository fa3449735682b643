"""Random sessions that want the same few things, each in a lane of its own: what is told of deadlocks is always so."""

from __future__ import annotations

import random
from collections import Counter

from core.bench import policy
from msgspec.structs import replace
from verify.lock_stories import API, DB, LANES, WEB
from verify.recording import Recorder, judged, told, value_of
from verify.waiting_lanes import Waiting

from keylane.journal.partitioner import partition_of
from keylane.router.core.policy import LockPolicy
from keylane.schemas import topics
from keylane.verify import Entry

SEEDS = 80
STEPS = 250
SESSIONS = ("sa", "sb", "sc", "sd")
POLICY = replace(policy(lease_ms=5_000), locks=LockPolicy(ttl_ms=40_000))


class Town:
    """Three lanes and the graph of waits that they share."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.waiting = Waiting()
        self.lanes = {
            key: Recorder(POLICY, partition_of(key.encode(), LANES), LANES, self.waiting) for key in (API, WEB, DB)
        }
        self.count = 0

    @property
    def entries(self) -> list[Entry]:
        return [*(entry for bench in self.lanes.values() for entry in bench.entries), *self.waiting.entries]

    def step(self) -> None:
        dice = self.dice
        key = dice.choice(list(self.lanes))
        bench = self.lanes[key]
        self.count += 1
        links, held = sorted(bench.lane.links), sorted(bench.lane.held.values())
        match dice.randrange(10):
            case 0 | 1 | 2:
                wait_ms = dice.choice([0, 20_000, 60_000])
                hold = dice.choice(["", "", "h"])
                bench.lock(f"l{self.count}", dice.choice(SESSIONS), key, explicit=True, hold=hold, wait_ms=wait_ms)
            case 3 | 4 | 5 if links:
                bench.checked(dice.choice(links))
            case 6 if held:
                bench.renew(held[0])
            case 7 if held and dice.random() < 0.5:
                bench.release(held[0])
            case 8 if dice.random() < 0.3:
                ms = dice.choice([1_000, 12_000])
                for each in self.lanes.values():
                    each.wait(ms)
            case 9 if dice.random() < 0.3:
                session = dice.choice(SESSIONS)
                for each in self.lanes.values():
                    each.end_session(session)
            case 9:
                bench.reload()

    def settle(self) -> None:
        for bench in self.lanes.values():
            for session in SESSIONS:
                bench.end_session(session)
            bench.wait(60_000)


def test_whatever_sessions_do_to_one_another_each_deadlock_that_is_told_is_one() -> None:
    lengths: Counter[int] = Counter()
    for seed in range(SEEDS):
        town = Town(seed)
        for _ in range(STEPS):
            town.step()
        report = judged(town.entries, drained=False)
        assert not report.violations and not report.undecided, (seed, told(report), report.undecided)
        town.settle()
        report = judged(town.entries)
        assert not report.violations and not report.undecided and not report.open, (seed, told(report), report)
        events = [value_of(each) for each in town.entries if each.topic == topics.EVENTS]
        lengths.update(len(each.get("cycle", ())) // 2 for each in events)
    assert lengths[2] > SEEDS and lengths[3] > 5, lengths
