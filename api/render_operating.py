"""What the commands of operators say in lines: leases, lag, events, dead letters. As `render`, which knows the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from keylane.cli_answers import (
    Applied,
    Check,
    Diagnosed,
    Judged,
    Planned,
    ReplayDone,
    RulesApplied,
    SettingShown,
    TopicStep,
)
from keylane.cli_text import block, line
from keylane.deadletters import LetterShown, Replayed
from keylane.history import EventShown
from keylane.lanes import LaneLag, LeaseShown
from keylane.render_locks import lock_word
from keylane.schemas.deadletters import DeadLetter

Row = tuple[str, str]

SAID = (
    "resource", "action", "run", "request", "requests", "status", "code", "reason", "message", "holder", "session",
    "token", "attempt", "position", "report", "name", "pool", "topic", "offset", "to_partition", "blocked",
    "verdict", "by", "what", "version", "previous", "version_seen", "effect", "change", "conflict",
    "note", "ready_in_ms", "lease_ms", "claim_ms", "waited_ms", "held_ms", "held_since", "lease_expires_in_ms",
    "retry_after_ms", "cycle", "runs",
)  # fmt: skip
"""What of an event is said, in this order; JSON has all of it."""
GRAVE = {"Refused", "Lost", "Fenced", "DeadLettered", "AttemptFailed"}


def _lease_rows(lease: LeaseShown) -> Iterator[Row]:
    words = [
        line(lease.resource),
        f"held by {line(lease.holder)}",
        f"{line(lease.action)} {line(lease.run)}",
        f"token {lease.token}",
        f"attempt {lease.attempt}",
        f"since {line(lease.since)}",
        f"{lease.lease_left_ms / 1_000:.0f} s left",
    ]
    if lease.requests > 1:
        words.append(f"for {lease.requests} requests")
    if lease.claimed:
        words.append("not claimed yet")
    if lease.stopping:
        words.append("asked to stop")
    yield "; ".join(words), "" if lease.lease_left_ms else "yellow"
    if lease.blocked is not None:
        yield f"  blocked: {line(lease.blocked)}", "yellow"


def _lag_rows(lag: LaneLag) -> Iterator[Row]:
    words = [f"lane {lag.partition}: {lag.requests} requests and {lag.results} results not applied"]
    if lag.oldest_s is not None:
        words.append(f"the oldest {lag.oldest_s:.1f} s old")
    words.append("never committed" if lag.committed is None else f"last commit {lag.committed}")
    yield "; ".join(words), "yellow" if lag.requests or lag.results else ""


def _event_rows(shown: EventShown) -> Iterator[Row]:
    event: Any = shown.event
    place = f"{shown.partition}/{shown.offset}"
    if event is None:
        yield f"{place} cannot be read by this keylane: {line(shown.unreadable or '')}", "yellow"
        return
    kind = type(event).__name__
    words = [event.time, place, kind]
    if (as_lock := lock_word(event)) is not None:
        words.append(f"({as_lock})")
    for name in SAID:
        value = getattr(event, name, None)
        if value not in (None, "", ()) and not (value == 0 and name.endswith("_ms")):
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            words.append(f"{name}={line(text)}")
    if (error := getattr(event, "error", None)) is not None:
        words.append(f"error={error.code}: {line(error.message)}")
    words += [name for name in ("repeat", "coalesced", "unserved", "final") if getattr(event, name, False) is True]
    yield " ".join(words), "yellow" if kind in GRAVE else ""


def _letter_rows(letter: DeadLetter) -> Iterator[Row]:
    place = f"{line(letter.topic)}/{letter.partition}/{letter.offset}"
    yield f"{place} {letter.code} {line(letter.time)}: {line(letter.reason)}", "yellow"
    if letter.excerpt:
        yield f"  {line(letter.excerpt)}", "dim"


def _shown_rows(shown: LetterShown) -> Iterator[Row]:
    if shown.letter is not None:
        yield from _letter_rows(shown.letter)
    if not shown.is_there:
        yield "  the record itself is not there any more", ""
        return
    yield f"  key {line(shown.key)}, {shown.size_bytes} bytes", ""
    for name, value in shown.headers.items():
        yield f"  {line(name)}: {line(value)}", "dim"
    for text in block(shown.value).splitlines():
        yield f"  {text}", ""


def _replayed_rows(replayed: Replayed) -> Iterator[Row]:
    how = "would be published" if replayed.dry_run else "published"
    work = f"{line(replayed.action)} {line(replayed.resource)}"
    yield f"{replayed.where} {how} as {line(replayed.request_id)}: {work}", ""


def _done_rows(done: ReplayDone) -> Iterator[Row]:
    yield f"{done.replayed} replayed, {done.refused} refused", "" if not done.refused else "yellow"


def _setting_rows(setting: SettingShown) -> Iterator[Row]:
    value = msgspec.json.encode(setting.value).decode()
    yield f"{line(setting.key)} = {line(value)}{f'  # {line(setting.origin)}' if setting.origin else ''}", ""


def _judged_rows(judged: Judged) -> Iterator[Row]:
    for violation in judged.violations:
        yield f"promise {violation.promise} is broken: {line(violation.message, 2_000)}", "red"
        for place in violation.places:
            yield f"  {line(place)}", "red"
    for promise, count in judged.found.items():
        told = sum(violation.promise == promise for violation in judged.violations)
        if count > told:
            yield f"promise {promise} is broken {count - told} more times", "red"
    for promise, why in judged.undecided.items():
        yield f"promise {promise} is not decidable in part: {line(why, 2_000)}", "yellow"
    if judged.open:
        yield "open: " + ", ".join(f"{line(what)} {count}" for what, count in judged.open.items()), ""
    records = f"{sum(judged.records.values())} records of {len(judged.records)} topics"
    broken = sum(judged.found.values())
    verdict = "no violation" if not broken else f"{broken} violation{'s' if broken > 1 else ''}"
    yield f"{records}: {verdict}", "bold red" if broken else "bold green"


STEP_STYLES = {"create": "green", "pin": "green", "change": "yellow", "blocked": "red"}


def _step_rows(step: TopicStep) -> Iterator[Row]:
    said = f"{step.what:<8}{line(step.topic)}"
    if step.setting:
        said += f": {line(step.setting)} is {line(step.found)}, should be {line(step.wanted)}"
    elif step.wanted:
        said += f": {line(step.wanted)}"
    if step.why:
        said += f"; {line(step.why, 1000)}" if step.setting else f": {line(step.why, 1000)}"
    yield said, STEP_STYLES.get(step.what, "")


def _planned_rows(done: Planned) -> Iterator[Row]:
    if not done.pending and not done.blocked:
        yield "nothing to do", "green"
    elif done.blocked:
        yield f"{done.pending} to do, but {done.blocked} in the way: apply would change nothing", "red"
    else:
        yield f"{done.pending} to do: keylane topics apply", "yellow"


def _applied_rows(done: Applied) -> Iterator[Row]:
    yield f"{done.taken} done" if done.taken else "nothing to do", "green"


def _rules_rows(done: RulesApplied) -> Iterator[Row]:
    if not done.changed:
        yield f"nothing to do: these scope rules hold already ({done.rules})", "green"
        return
    yield f"scope rules that hold now: {done.rules}, before: {done.before}", "green"
    yield "restart routers with this configuration: those that run halt their lanes, and requests wait", "yellow"


LEVEL_STYLES = {"ok": "", "warn": "yellow", "fault": "red"}


def _check_rows(check: Check) -> Iterator[Row]:
    yield f"{check.level:<6}{line(check.check)}: {line(check.said, 1000)}", LEVEL_STYLES[check.level]
    if check.advice:
        yield f"      do: {line(check.advice, 1000)}", LEVEL_STYLES[check.level]


def _diagnosed_rows(done: Diagnosed) -> Iterator[Row]:
    style = "red" if done.faults else "yellow" if done.warnings else "green"
    yield f"{done.ok} ok, {done.warnings} warnings, {done.faults} faults", style


OPERATING_TEXTS: dict[type[msgspec.Struct], Callable[[Any], Iterator[Row]]] = {
    LeaseShown: _lease_rows,
    LaneLag: _lag_rows,
    EventShown: _event_rows,
    DeadLetter: _letter_rows,
    LetterShown: _shown_rows,
    Replayed: _replayed_rows,
    ReplayDone: _done_rows,
    SettingShown: _setting_rows,
    Judged: _judged_rows,
    TopicStep: _step_rows,
    Planned: _planned_rows,
    Applied: _applied_rows,
    RulesApplied: _rules_rows,
    Check: _check_rows,
    Diagnosed: _diagnosed_rows,
}
