"""`keylane topics` and `keylane doctor`: what a journal should be like, what it is like, and what to do about it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from keylane.cli_answers import Applied, Check, Diagnosed, Planned, TopicStep
from keylane.cli_context import CommandContext, Context
from keylane.cli_services import NO_TOPIC_FLAGS, TopicFlags, sources
from keylane.progress import progress
from keylane.roles import Role

if TYPE_CHECKING:
    from keylane.embedded import Service, Wanted
    from keylane.journal.port import Journal
    from keylane.journal.upkeep import Finding
    from keylane.schemas.metadata import Metadata

Flag = Parameter(negative="")
PENDING = ("create", "pin", "change")


async def plan(
    *,
    flags: TopicFlags = NO_TOPIC_FLAGS,
    reset_settings: Annotated[bool, Flag] = False,
    check: Annotated[bool, Flag] = False,
    context: Context,
) -> msgspec.Struct | None:
    """Show what topics a router of this configuration needs and what is there. Changes nothing.

    Parameters
    ----------
    reset_settings:
        Also what an operator may have changed on purpose is to be as it was made.
    check:
        End with 1 when changes are pending, and with 78 when something is in the way.
    """
    from keylane.embedded import load, topics_of_nothing, topics_planned
    from keylane.errors import translated
    from keylane.journal.errors import NoJournal

    service = load(*sources(context, flags))
    with translated():
        try:
            async with _open(service, create=False) as journal:
                steps = await topics_planned(journal, service, reset=reset_settings)
        except NoJournal:
            steps = topics_of_nothing(service)
    for step in steps:
        context.show(step)
    counts = {kind: sum(step.what == kind for step in steps) for kind in ("blocked", "kept", "extra")}
    return Planned(pending=sum(step.what in PENDING for step in steps), checked=check, **counts)


async def apply(
    *,
    flags: TopicFlags = NO_TOPIC_FLAGS,
    reset_settings: Annotated[bool, Flag] = False,
    context: Context,
) -> msgspec.Struct | None:
    """Do what plan shows: create topics, set settings that lanes rest on, pin the metadata. Removes nothing.

    Parameters
    ----------
    reset_settings:
        Also set what an operator may have changed on purpose. A shorter retention removes records.
    """
    from keylane.embedded import load, topics_applied, topics_planned
    from keylane.errors import translated

    service = load(*sources(context, flags))
    done = 0
    with translated():
        async with _open(service, create=True) as journal:
            steps = await topics_planned(journal, service, reset=reset_settings)
            pending = sum(step.what in PENDING for step in steps)
            with progress(context, "setting up topics", pending) as advance:

                def taken(step: TopicStep) -> None:
                    nonlocal done
                    done += 1
                    advance(1)
                    context.show(step)

                await topics_applied(journal, service, steps, taken)
    return Applied(taken=done)


async def doctor(
    *,
    flags: TopicFlags = NO_TOPIC_FLAGS,
    role: Annotated[Role, Parameter(name="--as")] = "router",
    context: Context,
) -> msgspec.Struct | None:
    """Look at everything that keylane rests on, and say what to do. Reads only; no router need be there.

    Parameters
    ----------
    role:
        Whose rights are needed here.
    """
    from keylane.embedded import load
    from keylane.errors import translated
    from keylane.journal.errors import AccessDenied, BadUrl, JournalError
    from keylane.journal.upkeep import Finding

    chart = _Chart(context)
    with translated():
        service = load(*sources(context, flags))
        began_s = time.monotonic()
        try:
            async with _open(service, create=False) as journal:
                took_ms = (time.monotonic() - began_s) * 1_000
                chart.add(Finding("journal", "ok", f"{service.url} answered in {took_ms:.0f} ms"))
                await _examine(journal, service, role, chart)
        except JournalError as error:
            chart.add(_unreachable(service, error), unreachable=not isinstance(error, AccessDenied | BadUrl))
    return chart.diagnosis()


class _Chart:
    """Shows each finding as it comes, and counts."""

    def __init__(self, context: CommandContext) -> None:
        self.context = context
        self._counts = {"ok": 0, "warn": 0, "fault": 0}
        self._absent = 0

    def add(self, finding: Finding, *, unreachable: bool = False) -> None:
        self._counts[finding.level] += 1
        self._absent += finding.level == "fault" and unreachable
        name, level, said, advice = finding
        self.context.show(Check(check=name, level=level, said=said, advice=advice))

    def diagnosis(self) -> Diagnosed:
        faults = self._counts["fault"]
        unreachable = faults > 0 and faults == self._absent
        return Diagnosed(ok=self._counts["ok"], warnings=self._counts["warn"], faults=faults, unreachable=unreachable)


async def _examine(journal: Journal, service: Service, role: Role, chart: _Chart) -> None:
    from keylane import doctor as looks
    from keylane.schemas.metadata import Metadata

    with progress(chart.context, "looking at the store", 100) as advance:
        found = [finding async for finding in looks.store(journal, advance)]
    for finding in found:
        chart.add(finding)
    pinned = await looks.pinned(journal)
    metadata = pinned if isinstance(pinned, Metadata) else None
    wanted = _wanted(service, metadata)
    config = service.config
    ours = Metadata(partitions=config.partitions, scopes=config.scopes) if looks.configures(role) else None
    chart.add(looks.metadata_finding(pinned, ours))
    async for finding in looks.settings(journal, wanted):
        chart.add(finding)
    if metadata is not None:
        with progress(chart.context, "looking at lanes", metadata.partitions) as advance:
            found = [finding async for finding in looks.lanes(journal, wanted, metadata, advance)]
        for finding in found:
            chart.add(finding, unreachable=finding.name == "routers")
    async for finding in looks.rights(journal, wanted, role):
        chart.add(finding)


def _wanted(service: Service, metadata: Metadata | None) -> Wanted:
    """What should be there, by what is pinned: that the configuration differs is said once, and not for each topic."""
    from keylane.embedded import wanted

    if metadata is not None:
        config = msgspec.structs.replace(service.config, partitions=metadata.partitions)
        service = service._replace(config=config)
    return wanted(service)


def _unreachable(service: Service, error: Exception) -> Finding:
    from keylane.journal.errors import NoJournal
    from keylane.journal.upkeep import Finding

    if isinstance(error, NoJournal):
        return Finding("journal", "fault", str(error), "start a router, or run keylane topics apply")
    return Finding("journal", "fault", f"{service.url}: {error}", "start it, or correct the URL")


@asynccontextmanager
async def _open(service: Service, *, create: bool) -> AsyncIterator[Journal]:
    import anyio

    from keylane.journal.connect import connect

    journal = await connect(service.url, create=create)
    try:
        yield journal
    finally:
        with anyio.CancelScope(shield=True):
            await journal.close()
