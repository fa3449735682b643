"""The composition root: the one place of the face that knows routers. For the commands that need one, and tests.

Routers are imported when one is asked for, so that a client does not load them. No behaviour of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import anyio
from anyio.abc import TaskStatus
from msgspec.structs import asdict

from keylane.cli_answers import RulesApplied, TopicStep
from keylane.errors import ConfigError, LiveWork, translated
from keylane.journal.connect import connect, resolve_url
from keylane.journal.port import Journal, TopicSpec
from keylane.telemetry.address import BadAddress

if TYPE_CHECKING:
    from keylane.router.config import Config


class Wanted(NamedTuple):
    """What routers of a configuration share: lanes, pools, topics, and the group in which they share lanes."""

    partitions: int
    pools: tuple[str, ...]
    specs: Sequence[TopicSpec]
    group: str


class Service(NamedTuple):
    """A router as configured, and the journal that it is for."""

    url: str
    config: Config


def load(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Service:
    """Flags over `KEYLANE_…` over the file; the embedded journal where none names one. Raises `ConfigError`."""
    from keylane.router.config import BadConfig, load_config

    try:
        config = load_config(file, environ, flags)
    except BadConfig as error:
        raise ConfigError(str(error)) from error
    with translated():
        return Service(resolve_url(config.url, environ), config)


def explain(
    file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]
) -> list[tuple[str, object, str]]:
    """Each key of the configuration with its value and where that comes from. Raises `ConfigError`."""
    from keylane.router.config import BadConfig
    from keylane.router.effective import effective

    try:
        found = list(effective(file, environ, flags))
    except BadConfig as error:
        raise ConfigError(str(error)) from error
    with translated():
        return [(key, resolve_url(value, environ) if key == "url" else value, it) for key, value, it in found]


async def topics_planned(journal: Journal, service: Service, *, reset: bool) -> list[TopicStep]:
    """What there is to do to topics and metadata. Raises `ConfigError`, `journal.JournalError`."""
    from keylane.router.config import BadConfig
    from keylane.router.plan import plan

    try:
        return [TopicStep(**step._asdict()) for step in await plan(journal, service.config, reset=reset)]
    except BadConfig as error:
        raise ConfigError(str(error)) from error


async def topics_applied(
    journal: Journal, service: Service, planned: Sequence[TopicStep], taken: Callable[[TopicStep], None]
) -> None:
    """Do what was planned; each step is told when it is done. Raises `ConfigError`, `journal.JournalError`."""
    from keylane.router.config import BadConfig
    from keylane.router.plan import Step, apply

    steps = [Step(**asdict(step)) for step in planned]
    try:
        await apply(journal, service.config, steps, lambda step: taken(TopicStep(**step._asdict())))
    except BadConfig as error:
        raise ConfigError(str(error)) from error


async def rules_applied(journal: Journal, service: Service, looked: Callable[[int], None]) -> RulesApplied:
    """Let the scope rules of the configuration hold; `looked` is told how many more lanes were looked at.

    Raises `LiveWork`, `ConfigError`, `journal.JournalError`.
    """
    from keylane.router import rescope
    from keylane.router.config import BadConfig

    try:
        done = await rescope.rescope(journal, service.config, looked)
    except BadConfig as error:
        raise ConfigError(str(error)) from error
    except rescope.LiveWork as error:
        raise LiveWork(str(error)) from error
    return RulesApplied(before=done.before, rules=done.after, changed=done.changed)


def topics_of_nothing(service: Service) -> list[TopicStep]:
    """The plan for a journal of which there is nothing yet."""
    from keylane.journal.upkeep import TopicState
    from keylane.router.plan import steps
    from keylane.router.setup import wanted_topics

    states = [TopicState(spec.name, None) for spec in wanted_topics(service.config)]
    return [TopicStep(**step._asdict()) for step in steps(service.config, states, [], None, reset=False)]


def wanted(service: Service) -> Wanted:
    """What a router of this configuration works with."""
    from keylane.router.service import GROUP
    from keylane.router.setup import wanted_topics

    policy = service.config.policy
    return Wanted(service.config.partitions, policy.pools, wanted_topics(service.config), GROUP)


async def run_router(service: Service, *, ready: Callable[[str | None], None]) -> None:
    """Route until cancelled, which lets the lanes go first. `ready` is called when the first are served, with the
    URL of the metrics listener if there is one.

    Raises `ConfigError` where the journal is set up in another way, `Unavailable` where it does not answer.
    """
    from keylane.router.config import BadConfig
    from keylane.router.service import serve

    with translated():
        journal = await connect(service.url)
        try:
            await serve(journal, service.config, journal_scheme=service.url.partition("://")[0], ready=ready)
        except (BadConfig, BadAddress) as error:
            raise ConfigError(str(error)) from error
        except ExceptionGroup as group:
            raise _cause(group) from group
        finally:
            with anyio.CancelScope(shield=True):
                await journal.close()


def _cause(error: Exception) -> Exception:
    """What a single task of nested task groups raised: callers know errors, not how many tasks a router has."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


@asynccontextmanager
async def router_running(service: Service) -> AsyncIterator[None]:
    """A router in the background, ready on entry and stopped on exit. An error of the body is its own."""
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:

        async def run(*, task_status: TaskStatus[None]) -> None:
            await run_router(service, ready=lambda _: task_status.started())

        try:
            await tasks.start(run)
            yield
        except Exception as error:
            failure = error  # raised outside, since the task group would wrap it in a group
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
