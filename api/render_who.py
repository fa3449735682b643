"""What `who` says in lines: the holder, what waits and why, what an approval would do, who touched it last."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from keylane.cli_text import line
from keylane.outcome import Ended, Holding, OnApprove, Ownership, Pending, Touch, Wait

Row = tuple[str, str]

DELAYS = {"quiet": "nobody has asked for a while", "min_interval": "the last one began", "backoff": "its last attempt"}
ON_LOSS = {"retry": "tried again", "fail": "failed", "review": "a person decides", "end": "ended as was asked"}
COMMAND_CHARACTERS_MAX = 700
RUNS_SHOWN_MAX = 5


def ownership_rows(owned: Ownership) -> Iterator[Row]:
    """Every state of a resource, its holder's first."""
    states = ", ".join(state.replace("_", " ") for state in owned.states)
    yield line(owned.resource) + (f": {states}" if states else ""), "bold"
    if owned.held is not None:
        yield from _holding_rows(owned.held)
    else:
        yield "  held by nobody", ""
    for pending in owned.waiting:
        yield from _pending_rows(pending)
    for touch in owned.touched:
        yield f"  touched: {_touch_text(touch)}", "dim"
    if owned.last is not None:
        yield from _last_rows(owned.last)
    if owned.as_of:
        version = f"; version {line(owned.version)}" if owned.version is not None else ""
        yield f"  as of {line(owned.as_of)}{version}", "dim"


def _holding_rows(held: Holding) -> Iterator[Row]:
    state, left_s = held.state.replace("_", " "), held.lease_left_ms / 1_000
    yield f"  held by {line(held.holder)} (token {held.token}, {state}, {left_s:.0f} s left)", "cyan"
    by = f" for {line(held.actor)}" if held.actor else ""
    attempt = f", attempt {held.attempt}" if held.renewed_by == "progress" else ""
    yield f"    {line(held.action)} {line(held.run)}{by}{attempt}, since {line(held.since)}", ""
    if held.state == "stale_lease":
        yield f"    its time was over at {line(held.lease_ends)}, and no router has ended it", "yellow"
    elif held.blocked is not None:
        yield (
            f"    blocked: {line(held.blocked)}; lost at {line(held.lease_ends)}, then {_after(held)}",
            "yellow",
        )
    else:
        unless = "progress renews it" if held.renewed_by == "progress" else "its holder renews it"
        yield f"    lost at {line(held.lease_ends)}, unless {unless}; then {_after(held)}", ""
    yield from _handed_rows(held.handed_off, held.previous_end)


def _after(held: Holding) -> str:
    if held.renewed_by == "renewal" and held.state != "stopping":
        return "the next one has it"
    return ON_LOSS[held.on_loss]


def _handed_rows(handed_off: bool, previous_end: str | None) -> Iterator[Row]:
    if previous_end is not None:
        goes_on = "handed off: goes on from what was saved; " if handed_off else ""
        yield f"    {goes_on}the attempt before ended: {line(previous_end)}", ""


def _pending_rows(pending: Pending) -> Iterator[Row]:
    by = f" by {line(pending.actor)}" if pending.actor else ""
    work = f"{line(pending.action)} {line(pending.run)}{by}"
    if pending.state == "waiting_on_review":
        yield f"  waiting: {work}, {_asks(pending)}", "yellow"
    else:
        yield f"  waiting: {work}", ""
    yield f"    {pending.position + 1}. in line, {wait_text(pending.wait)}", ""
    if pending.approved_by is not None:
        yield f"    approved by {line(pending.approved_by)}", ""
    if pending.conflict is not None:
        yield f"    conflict {line(pending.conflict)}", ""
    if pending.on_approve is not None:
        yield f"    on approve: {approval_text(pending.on_approve)}", ""
    yield from _handed_rows(pending.handed_off, pending.previous_end)


def _asks(pending: Pending) -> str:
    """What a person is to do; as a command where its words cannot be taken for anything else in a shell."""
    words = (line(pending.resource, COMMAND_CHARACTERS_MAX), line(pending.run, COMMAND_CHARACTERS_MAX))
    if any(word.startswith("-") for word in words):
        return "needs a decision"
    return f"needs a decision: keylane decide {' '.join(map(shlex.quote, words))}"


def wait_text(wait: Wait) -> str:
    """Why something waits: for whom, since when, and when it ends by itself."""
    holder, behind = line(wait.holder or ""), line(wait.behind or "")
    until = line(wait.until or "")
    match wait.reason:
        case "held":
            said = f"for {holder}, who holds it with {behind}, until {until} unless renewed"
        case "queued":
            said = f"behind {behind}" + (f", while {holder} holds it" if holder else "")
        case "review":
            said = "for a person"
        case "no_worker":
            said = "no worker handles its action"
        case "no_slot":
            said = "for a free slot of a worker"
        case delay:
            said = f"until {until}, after {DELAYS[delay]}"
    policy = f" ({wait.policy})" if wait.policy is not None else ""
    expires = f"; over at {line(wait.expires)}" if wait.expires is not None else ""
    return f"{said}{policy}, since {line(wait.since)}{expires}"


def approval_text(then: OnApprove) -> str:
    """What an approval would do."""
    after, before = _named(then.after, ", "), _named(then.ended_by, " or ")
    said = {
        "granted": "granted when a worker has a free slot",
        "waits": f"granted after {after}",
        "superseded": f"superseded if {before} completes before it, unless that is harmless",
        "no_worker": "waits for a worker" + (f", after {after}" if after else ""),
        "refused": "refused: the version that it expects is superseded",
    }[then.then]
    if then.version is not None:
        said += f"; on version {line(then.version)}"
    return said + (f"; ends {_named(then.ends, ', ')}" if then.ends else "")


def _named(runs: Sequence[str], between: str) -> str:
    more = f" and {len(runs) - RUNS_SHOWN_MAX} more" if len(runs) > RUNS_SHOWN_MAX else ""
    return between.join(line(run) for run in runs[:RUNS_SHOWN_MAX]) + more


def _touch_text(touch: Touch) -> str:
    actor = f" for {line(touch.actor)}" if touch.actor else ""
    outside = ", outside keylane" if touch.kind == "change" else ""
    return (
        f"{line(touch.what)} {line(touch.id)} by {line(touch.by or 'nobody known')}{actor}{outside}, {line(touch.at)}"
    )


def _last_rows(last: Ended) -> Iterator[Row]:
    yield f"  last: {line(last.action)} {line(last.run)} {last.status} at {line(last.ended)}", "dim"
    if last.conflict is not None:
        yield f"    another state was found afterwards than was reported: conflict {line(last.conflict)}", "yellow"
