"""Rounds of eight: as many `rlock` processes at once want one key, one has it, and seven end with 75 and the envelope.

The programs are the plain ones, and nothing makes them wait for each other. That they met is found out: all are alive
when the last has been started; and in every other round the router is stopped meanwhile (SIGSTOP), and goes on when
all eight requests lie before it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any, NamedTuple

import anyio

from keylane.journal import Journal, Place
from keylane.journal.partitioner import partition_of
from keylane.schemas import topics

PARTITIONS = 4
KEY = "deploy://api-prod"
LANE = Place(topics.REQUESTS, partition_of(KEY.encode(), PARTITIONS))
AGENTS = tuple(f"agent-{number}" for number in range(1, 9))
HELD = 75
BIN = Path(sys.executable).parent
GATE_S = 4.0
"""How long the first of the eight is kept waiting for the others at most: each gives up when nobody answers in 10 s."""
ASKED_S = 20.0
SESSION_TIMEOUT_MS = 30_000
"""Of the routers' group, for the time in which the router is stopped."""
LOOK_S = 0.01
ENVELOPE = ("code", "message", "suggestion", "retry_after_ms", "holder", "held_since", "lease_expires_at", "position")


class Ended(NamedTuple):
    """How one process ended, and what it said."""

    agent: str
    code: int
    out: str
    err: str


class Round(NamedTuple):
    """What became of one. `differs`: how it is not as it should be; empty where it is."""

    number: int
    ended: list[Ended]
    together: bool
    """All eight lived when the last had been started."""
    gated: bool
    """All eight requests lay before the router when it looked at the first."""
    differs: str


def difference(ended: list[Ended], token_before: int) -> tuple[str, int]:
    """How a round differs from one winner and seven refusals that name it; and the winner's token."""
    winners = [each for each in ended if each.code == 0]
    codes = Counter(each.code for each in ended)
    if codes != {0: 1, HELD: len(AGENTS) - 1}:
        return f"exit codes {dict(codes)}", 0
    (winner,) = winners
    had = _object(winner.out)
    if had.get("resource") != KEY or not isinstance(had.get("token"), int) or winner.err:
        return f"{winner.agent} has it and said {winner.out!r} {winner.err!r}", 0
    if had["token"] <= token_before:
        return f"token {had['token']} after {token_before}", 0
    for each in ended:
        if each is not winner and (why := _no_refusal(each, winner.agent)):
            return f"{each.agent} ended with {HELD} and {why}: {each.out!r} {each.err!r}", 0
    return "", had["token"]


def _no_refusal(each: Ended, winner: str) -> str:
    """Why what it said is not the envelope of a refusal; empty where it is."""
    error = _object(each.err).get("error", {})
    if each.out or each.err.count("\n") != 1:
        return "said more than the envelope"
    if missing := [name for name in ENVELOPE if error.get(name) in (None, "")]:
        return f"did not say {missing}"
    if error["code"] != "LOCK_HELD" or error["holder"] != winner or error["retry_after_ms"] <= 0:
        return "said otherwise than that the winner holds it"
    return ""


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class Rounds:
    """Eight agents, each with a folder of its own for its secrets, and the router that they ask."""

    def __init__(self, url: str, folder: Path, router: Popen[bytes], journal: Journal) -> None:
        self._folder = folder
        self._router = router
        self._journal = journal
        self._token = 0
        self._environments = {
            agent: os.environ | {"KEYLANE_URL": url, "KEYLANE_STATE_DIR": str(folder / agent), "KEYLANE_ACTOR": agent}
            for agent in AGENTS
        }

    async def play(self, number: int) -> Round:
        """One round, after which nobody has the lock."""
        behind_gate = bool(number % 2)
        before = await self._requests()
        if behind_gate:
            self._router.send_signal(signal.SIGSTOP)
        gated = False
        try:
            processes = {agent: self._started(agent) for agent in AGENTS}
            together = all(process.poll() is None for process in processes.values())
            if behind_gate:
                gated = await self._all_asked(before)
        finally:
            self._router.send_signal(signal.SIGCONT)
        ended = [await self._ended(agent, process) for agent, process in processes.items()]
        differs, token = difference(ended, self._token)
        if not differs:
            self._token = token
            differs = await self._given_back(next(each.agent for each in ended if each.code == 0))
        return Round(number, ended, together, gated, differs)

    def left_on_disk(self) -> list[str]:
        """What is still kept of locks that are over."""
        return [str(path) for agent in AGENTS for path in (self._folder / agent).rglob("*.json")]

    def _started(self, agent: str, program: str = "rlock") -> Popen[bytes]:
        with self._said(agent, "out").open("wb") as out, self._said(agent, "err").open("wb") as err:
            return Popen(
                [BIN / program, KEY, "--output", "json"],
                env=self._environments[agent],
                stdin=DEVNULL,
                stdout=out,
                stderr=err,
            )

    async def _ended(self, agent: str, process: Popen[bytes]) -> Ended:
        code = await anyio.to_thread.run_sync(process.wait)
        return Ended(agent, code, self._said(agent, "out").read_text(), self._said(agent, "err").read_text())

    def _said(self, agent: str, stream: str) -> Path:
        return self._folder / f"{agent}.{stream}"

    async def _given_back(self, agent: str) -> str:
        done = await self._ended(agent, self._started(agent, "runlock"))
        return "" if done.code == 0 else f"runlock of {agent} ended with {done.code}: {done.err}"

    async def _all_asked(self, before: int) -> bool:
        """Whether all eight requests come to lie there in time."""
        return await self._asked(before + 1, ASKED_S) and await self._asked(before + len(AGENTS), GATE_S)

    async def _asked(self, requests: int, within_s: float) -> bool:
        with anyio.move_on_after(within_s):
            while await self._requests() < requests:  # noqa: ASYNC110
                await anyio.sleep(LOOK_S)  # between questions to the journal, which does not tell of it
            return True
        return False

    async def _requests(self) -> int:
        return (await self._journal.end_positions([LANE]))[LANE]
