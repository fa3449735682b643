"""The commands that route: `up` and `router`; and `demo`, which starts them and workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from keylane.cli_answers import Serving, SettingShown, Stopped
from keylane.cli_context import CommandContext, Context, UsageError
from keylane.cli_logs import AS_SET, LogFlags, log_to_stderr

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from keylane.embedded import Service

CONFIG_FILE = "keylane.toml"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
COLLECTOR_THRESHOLDS = (50_000, 50, 1_000)

ConfigFile = Annotated[Path | None, Parameter(name="--config")]


@Parameter(name="*")
@dataclass(frozen=True)
class RouterFlags:
    """What `up` and `router` take.

    Parameters
    ----------
    config:
        The configuration. Else ./keylane.toml, where there is one.
    partitions:
        In how many lanes resources are put. Fixed when the journal is first set up.
    metrics:
        Serve /metrics, /healthz and /readyz at HOST:PORT. Port 0: any free one.
    metrics_exposed:
        HOST may be one that other machines reach. They need no password.
    """

    config: ConfigFile = None
    partitions: int | None = None
    metrics: str | None = None
    metrics_exposed: Annotated[bool | None, Parameter(negative="")] = None


NO_FLAGS = RouterFlags()


@Parameter(name="*")
@dataclass(frozen=True)
class TopicFlags:
    """What commands about topics take of a router's configuration.

    Parameters
    ----------
    config:
        The routers' configuration. Else ./keylane.toml, where there is one.
    partitions:
        In how many lanes resources are put.
    replication_factor:
        How many brokers keep each record. Else as the brokers are configured.
    min_insync_replicas:
        How many of them must have it before it is acknowledged. Else as the brokers are configured.
    """

    config: ConfigFile = None
    partitions: int | None = None
    replication_factor: int | None = None
    min_insync_replicas: int | None = None


NO_TOPIC_FLAGS = TopicFlags()


async def up(*, flags: RouterFlags = NO_FLAGS, logs: LogFlags = AS_SET, context: Context) -> msgspec.Struct:
    """Serve everything from this process, on the embedded journal in ./.keylane. Stops on SIGTERM or Ctrl-C."""
    log_to_stderr(context, logs)
    service = _service(context, flags)
    if not service.url.startswith("sqlite://"):
        raise UsageError(f"up serves an embedded journal (sqlite://…), not {service.url}: there, run keylane router")
    return await _serve(context, service)


async def router(*, flags: RouterFlags = NO_FLAGS, logs: LogFlags = AS_SET, context: Context) -> msgspec.Struct:
    """Run a router on any journal. Several share the lanes; one takes over what another leaves."""
    log_to_stderr(context, logs)
    return await _serve(context, _service(context, flags))


def _service(context: CommandContext, flags: RouterFlags) -> Service:
    from keylane.embedded import load

    return load(*sources(context, flags))


def sources(
    context: CommandContext, flags: RouterFlags | TopicFlags
) -> tuple[Path | None, Mapping[str, str], Mapping[str, object]]:
    """Where a router's configuration comes from: file, environment, flags."""
    found = context.directory / CONFIG_FILE
    file = flags.config or (found if found.exists() else None)
    given = {name: value for name, value in asdict(flags).items() if name != "config"}
    return file, context.environ, given | {"url": context.url}


async def _serve(context: CommandContext, service: Service) -> msgspec.Struct:
    import gc

    import anyio

    from keylane.embedded import run_router

    # A lane is very many small objects that live long and make no cycles: at Python's own thresholds the collector
    # walks them over and over (a tenth to a third of the requests a second, `make bench`).
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    stopped_by: list[str] = []
    async with anyio.create_task_group() as group:

        async def stop_on_signal(*, task_status: TaskStatus[None]) -> None:
            # Left after the first signal, which drains: a second one has its usual effect.
            with anyio.open_signal_receiver(*STOP_SIGNALS) as signals:
                task_status.started()
                async for number in signals:
                    stopped_by.append(number.name)
                    context.note(f"{number.name}: letting the lanes go")
                    group.cancel_scope.cancel()
                    return

        await group.start(stop_on_signal)
        await run_router(service, ready=lambda listener: context.show(_serving(service, listener)))
    return Stopped(url=service.url, signal=stopped_by[0])


def _serving(service: Service, listener: str | None) -> Serving:
    metrics = None if listener is None else f"{listener}/metrics"
    return Serving(url=service.url, pid=os.getpid(), metrics=metrics)


def config_show(
    *,
    flags: RouterFlags = NO_FLAGS,
    origin: Annotated[bool, Parameter(negative="")] = False,
    context: Context,
) -> None:
    """Show the configuration that a router started here would run with.

    Parameters
    ----------
    origin:
        And where each value comes from: a file, a variable, a flag, or default.
    """
    from keylane.embedded import explain

    for key, value, where in explain(*sources(context, flags)):
        context.show(SettingShown(key=key, value=value, origin=where if origin else None))


async def demo(*, context: Context) -> msgspec.Struct:
    """Show what keylane does, with real processes on a journal of its own. Checks every claim it makes.

    Needs no server. With KEYLANE_URL or --url it does the same on that journal, which can be a Kafka.
    """
    from keylane.demo import tell

    return await tell(context)
