"""What is said to people who review, in lines: conflicts whole and by kind, changes, decisions. As `render`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from keylane.cli_text import block, line
from keylane.conflicts import ConflictGroup, ConflictShown
from keylane.render import text_of
from keylane.render_who import approval_text
from keylane.reviews import Review
from keylane.schemas.events import Changed, Decided

Row = tuple[str, str]

EFFECTS = {
    "applied": "applied: a holder is told, and approvals given before are void",
    "known": "that version was known already",
    "older": "its source has told of a later one: on record, and nothing else",
    "repeated": "told before: on record, and nothing else",
}


def _conflict_rows(shown: ConflictShown) -> Iterator[Row]:
    artifact = shown.artifact
    yield from text_of(artifact)
    yield f"  stands since {line(shown.since)}", ""
    for party in artifact.parties:
        if party.version is not None or party.digest:
            version = f"version {line(party.version)}" if party.version is not None else "no version"
            payload = f", payload {line(party.digest, 12)}" if party.digest else ""
            yield f"  {line(party.request)} was decided on: {version}{payload}", ""
    if artifact.recurrence is not None and artifact.recurrence > 1:
        yield f"  number {artifact.recurrence} of its kind ({line(artifact.fingerprint)})", ""
    if shown.resolved is not None:
        yield from text_of(shown.resolved)
        return
    if shown.review is not None:
        yield from _review_rows(shown.review)
    if shown.command is not None:
        other = " (or reject)" if shown.review is not None else ""
        yield f"  open: {line(shown.command, 1_000)}{other}", "cyan"


def _review_rows(asked: Review) -> Iterator[Row]:
    by = f" by {line(asked.actor)}" if asked.actor else ""
    merged = f", for {len(asked.requests)} requests" if len(asked.requests) > 1 else ""
    work = f"{line(asked.action)} {line(asked.resource)}"
    yield f"  {work}, request {line(asked.request_id)}{by}{merged}", "bold"
    yield f"    needs a decision since {line(asked.since)} ({asked.reason.replace('_', ' ')})", ""
    for text in block(json.dumps(asked.payload, ensure_ascii=False)).split("\n"):
        yield f"    payload {asked.digest[:12]}: {text}", ""
    read = f"; its requester had read {line(asked.expected_version)}" if asked.expected_version is not None else ""
    yield f"  on approve: {approval_text(asked.on_approve)}{read}", "cyan"


def _group_rows(group: ConflictGroup) -> Iterator[Row]:
    actions = ", ".join(line(action) for action in group.actions if action)
    title = f"{group.count} {group.kind} on {line(group.resources)} ({actions})"
    yield f"{title}: {group.open} open", "bold yellow" if group.open else "green"
    yield f"  from {line(group.first)} to {line(group.last)}; the last is {line(group.newest)}", ""
    if group.runbook is not None:
        yield f"  runbook: {line(group.runbook)}", ""


def _changed_rows(told: Changed) -> Iterator[Row]:
    version = line(told.version) if told.version is not None else "an unknown version"
    before = f", before {line(told.previous)}" if told.previous is not None else ""
    yield f"{line(told.resource)} at {version}{before}: {line(told.what)} by {line(told.by)}", ""
    yield f"  {EFFECTS[told.effect]}", ""


def _decided_rows(told: Decided) -> Iterator[Row]:
    approved = told.verdict == "approve"
    version = f" on version {line(told.version_seen)}" if told.version_seen else ""
    word = "approved" if approved else "rejected"
    yield f"{line(told.request)} {word} by {line(told.by)}{version}", "green" if approved else "yellow"
    yield f"  {line(told.conflict)} is settled; " + ("it waits for its turn" if approved else "it has ended"), ""


PEOPLE_TEXTS: dict[type[msgspec.Struct], Callable[[Any], Iterator[Row]]] = {
    ConflictShown: _conflict_rows,
    ConflictGroup: _group_rows,
    Review: _review_rows,
    Changed: _changed_rows,
    Decided: _decided_rows,
}
