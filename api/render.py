"""The one renderer: answers and errors to text for people, or to JSON that is exactly the struct.

Everything printed goes through here. Text that agents wrote is made harmless first (`cli_text`), and rich
markup is never parsed: words are styled by code, not by content.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

import msgspec

from keylane.cli_answers import CancelAnswered, Claim, DemoDone, Ingested, Said, Scene, Serving, Stopped
from keylane.cli_context import Output
from keylane.cli_text import block, line, terminal_json
from keylane.outcome import Outcome, Ownership, Status
from keylane.render_who import ownership_rows, wait_text
from keylane.schemas.conflicts import ConflictArtifact, ConflictResolved

Row = tuple[str, str]
"""A line of text and how it is styled: a style that rich knows, or none."""

OUTCOME_STYLES = {"completed": "green", "failed": "red", "refused": "red"}


class Renderer:
    """Prints answers on `out`, and errors and what is said on the side on `err`."""

    def __init__(self, output: Output, out: TextIO, err: TextIO) -> None:
        self.output = output
        self.out = out
        self.err = err

    def show(self, answer: msgspec.Struct) -> None:
        """Print an answer, and let it out at once: it may be one of a stream."""
        if self.output == "json":
            self._write(self.out, terminal_json(msgspec.json.encode(answer).decode()) + "\n")
        else:
            self._write(self.out, _styled(text_of(answer), self.out))

    def fail(self, body: Mapping[str, object]) -> None:
        """Print an error: the envelope as JSON, or what it says."""
        if self.output == "json":
            self._write(self.err, terminal_json(msgspec.json.encode({"error": body}).decode()) + "\n")
        else:
            self._write(self.err, _styled(_error_rows(body), self.err))

    def warn(self, message: str) -> None:
        """Say something that must be known, whatever standard error is."""
        if self.output == "json":
            self._write(self.err, terminal_json(json.dumps({"warning": message})) + "\n")
        else:
            self._write(self.err, _styled([(f"warning: {line(message)}", "yellow")], self.err))

    def note(self, message: str) -> None:
        """Say something to whoever watches a terminal; nothing anywhere else."""
        if self.err.isatty():
            self._write(self.err, _styled([(line(message), "dim")], self.err))

    def _write(self, stream: TextIO, text: str) -> None:
        stream.write(text)
        stream.flush()


def _styled(rows: Iterator[Row] | list[Row], stream: TextIO) -> str:
    if not stream.isatty():
        return "".join(text + "\n" for text, _ in rows)
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, soft_wrap=True)
    # Captured, not printed: rich answers a broken pipe by ending the process with a code of its own.
    with console.capture() as captured:
        for text, style in rows:
            console.print(Text(text, style), highlight=False)
    return captured.get()


def text_of(answer: msgspec.Struct) -> Iterator[Row]:
    """What an answer says in lines. Raises `KeyError` for a type that has no text: a fault, found by its test."""
    kind = type(answer)
    if kind not in TEXTS:  # with what they need, only where they are shown
        from keylane.render_people import PEOPLE_TEXTS

        if kind in PEOPLE_TEXTS:
            return PEOPLE_TEXTS[kind](answer)
        from keylane.render_locks import LOCK_TEXTS

        if kind in LOCK_TEXTS:
            return LOCK_TEXTS[kind](answer)
        from keylane.render_operating import OPERATING_TEXTS

        return OPERATING_TEXTS[kind](answer)
    return TEXTS[kind](answer)


CANCEL_WORDS = {
    "withdrawn": "withdrawn",
    "stop_asked": "is held: its holder was asked to stop, and may finish all the same",
}


def _status_rows(status: Status) -> Iterator[Row]:
    if status.outcome is not None:
        yield from _outcome_rows(status.outcome)
        return
    words = [line(status.request_id), status.state]
    if status.coalesced:
        words.append(f"merged into {line(status.run)}")
    if status.position is not None:
        words.append(f"{status.position} before it" if status.position else "next")
    if status.holder:
        words.append(f"{'with' if status.state == 'held' else 'held by'} {line(status.holder)}")
    if status.token is not None:
        words.append(f"token {status.token}, attempt {status.attempt}")
    yield words[0] + " " + "; ".join(words[1:]), ""
    yield from _review_rows(status)
    if status.blocked is not None:
        yield f"  blocked: {line(status.blocked)}", "yellow"
    if status.wait is not None:
        yield f"  {wait_text(status.wait)}", ""
    elif status.unserved:
        yield "  no worker handles this action now", "yellow"


def _review_rows(status: Status) -> Iterator[Row]:
    if status.ready_in_ms is not None:
        yield f"  not ready for {status.ready_in_ms / 1000:.1f} s", ""
    if status.review == "approved":
        yield f"  approved by {line(status.decided_by or 'a person')}", "green"
    elif status.review is not None:
        void = " again: the resource was changed after an approval" if status.review == "approval_voided" else ""
        yield f"  needs a decision{void}", "yellow"
        if status.conflict_id is not None:
            yield f"  see keylane conflict show {line(status.conflict_id)}", "yellow"


def _outcome_rows(outcome: Outcome) -> Iterator[Row]:
    words = [f"{line(outcome.request_id)} {outcome.status}"]
    if outcome.coalesced:
        words.append(f"by run {line(outcome.run)}")
    if outcome.version is not None:
        words.append(f"version {line(outcome.version)}")
    if outcome.repeated:
        words.append("answered before")
    if outcome.superseded_since is not None:
        words.append(f"superseded since by {line(outcome.superseded_since)}")
    yield "; ".join(words), OUTCOME_STYLES.get(outcome.status, "yellow")
    if outcome.error is not None:
        for text, style in _error_rows(msgspec.to_builtins(outcome.error)):
            yield f"  {text}", style
    if outcome.conflict_id is not None and (outcome.error is None or outcome.error.conflict_id is None):
        yield f"  conflict id: {line(outcome.conflict_id)}", "yellow"
    if outcome.result is not None:
        for part in block(json.dumps(outcome.result, ensure_ascii=False, indent=2)).split("\n"):
            yield f"  {part}", ""


def _conflict_rows(artifact: ConflictArtifact) -> Iterator[Row]:
    title = f"{artifact.kind} on {line(artifact.resource)} ({line(artifact.action)})"
    yield f"{line(artifact.id)} {line(artifact.detected)} {title}", "bold yellow"
    for party in artifact.parties:
        words = [line(party.request)]
        words += [f"by {line(party.actor)}"] if party.actor else []
        words += [line(party.action)] if party.action else []
        words += [f"token {party.token}"] if party.token is not None else []
        words += [f"session {line(party.session)}"] if party.session else []
        yield f"  party: {', '.join(words)}", ""
    if artifact.expected_version is not None or artifact.known_version is not None:
        expected, known = line(artifact.expected_version or "none"), line(artifact.known_version or "none")
        yield f"  expected version {expected}, known {known}", ""
    if artifact.note:
        yield f"  note: {line(artifact.note)}", ""
    after = f" after {artifact.retry_after_ms} ms" if artifact.retry_after_ms is not None else ""
    yield f"  next: {artifact.next_step.replace('_', ' ')}{after}", "cyan"
    if artifact.runbook is not None:
        yield f"  runbook: {line(artifact.runbook)}", ""


def _ingested_rows(done: Ingested) -> Iterator[Row]:
    yield f"{line(done.source)}: {done.lines} lines, {done.published} published", "bold"
    yield f"  {done.requests} work requests, {done.changes} changes made outside", ""
    yield f"  {done.unmapped} name no resource, {done.malformed} malformed", ""
    if done.outcomes is not None:
        yield f"  outcomes: {_counts(done.outcomes)}; {done.coalesced} coalesced", ""
    if done.effects is not None:
        yield f"  changes: {_counts(done.effects)}", ""


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counted.items())) or "none"


def _error_rows(body: Mapping[str, object]) -> list[Row]:
    """`CODE: message`, then every other field that applies on a line of its own."""
    rows = [(f"{line(str(body['code']))}: {line(str(body['message']), 1000)}", "red")]
    for name, value in body.items():
        if name in ("code", "message") or value in (None, "", (), []):
            continue
        told = " → ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        rows.append((f"  {name.replace('_', ' ')}: {line(told, 1000)}", ""))
    return rows


def _resolved_rows(resolved: ConflictResolved) -> Iterator[Row]:
    yield f"{line(resolved.conflict)} resolved by {line(resolved.by)}: {line(resolved.note)}", "green"


def _cancel_rows(answered: CancelAnswered) -> Iterator[Row]:
    yield f"{line(answered.request_id)} {CANCEL_WORDS[answered.answer]}", ""


def _serving_rows(serving: Serving) -> Iterator[Row]:
    yield f"serving {line(serving.url)} (pid {serving.pid})", "green"
    if serving.metrics is not None:
        yield f"metrics at {line(serving.metrics)}", ""


def _stopped_rows(stopped: Stopped) -> Iterator[Row]:
    yield f"stopped by {stopped.signal}", ""


def _scene_rows(scene: Scene) -> Iterator[Row]:
    yield "", ""
    yield f"{scene.number}. {scene.title}", "bold"


def _said_rows(said: Said) -> Iterator[Row]:
    yield f"   {line(said.text, 1000)}", ""


def _claim_rows(claim: Claim) -> Iterator[Row]:
    yield f"   {'✓' if claim.holds else '✗'} {line(claim.text, 1000)}", "green" if claim.holds else "red"


def _demo_rows(done: DemoDone) -> Iterator[Row]:
    yield "", ""
    yield f"{done.claims} claims, each found in the recorded events; {done.seconds:.0f} s", "bold green"


TEXTS: Mapping[type[msgspec.Struct], Callable[[Any], Iterator[Row]]] = {
    Status: _status_rows,
    Outcome: _outcome_rows,
    Ownership: ownership_rows,
    ConflictArtifact: _conflict_rows,
    ConflictResolved: _resolved_rows,
    CancelAnswered: _cancel_rows,
    Serving: _serving_rows,
    Stopped: _stopped_rows,
    Ingested: _ingested_rows,
    Scene: _scene_rows,
    Said: _said_rows,
    Claim: _claim_rows,
    DemoDone: _demo_rows,
}
