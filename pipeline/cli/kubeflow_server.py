"""Commands that submit, schedule and backfill on a Kubeflow Pipelines server."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import inspect
import os
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.kubeflow_package import PACKAGE
from pipeline.cli.options import (
    DateArgument,
    ParameterOption,
    dates_between,
    messages,
    parse_parameters,
)
from pipeline.kubeflow.cron import check_cron
from pipeline.kubeflow.package import Package, RunSettings, check_parameters, read_package
from schemas.errors import ExitCode, RankerError

if TYPE_CHECKING:
    from pipeline.kubeflow.client import Deployment

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=(
        "Uploads, runs, schedules and backfills on a Kubeflow Pipelines server.\n\n"
        "A bearer token is taken from the environment, KFP_TOKEN, or from a pod's volume."
    ),
)

TOKEN_VARIABLE = "KFP_TOKEN"

_HOST = re.compile(r"(https?://)?([\w.-]+|\[[\da-fA-F:]+\])(:\d+)?(/\S*)?")


def _host(value: str | None) -> str | None:
    if value is not None and not _HOST.fullmatch(value):
        raise typer.BadParameter(
            f"{value!r} is not a URL; expected one such as http://localhost:8888"
        )
    return value


def _cron(value: str) -> str:
    try:
        check_cron(value)
    except RankerError as error:
        raise typer.BadParameter(str(error)) from error
    return value


AccountOption = Annotated[
    str | None, typer.Option(envvar="KFP_SERVICE_ACCOUNT", help="Service account of the pods.")
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Name of the recurring run. [default: PIPELINE-daily]")
]
PollOption = Annotated[float, typer.Option(min=1, help="Seconds between two checks of a run.")]
TimeoutOption = Annotated[
    float, typer.Option(min=0, help="Most hours to wait for the end of a run.")
]


@dataclasses.dataclass(frozen=True)
class Target:
    """What every command is about: a package, and a server."""

    package: Package
    host: str | None
    namespace: str | None
    ca_cert: str | None

    @property
    def daily(self) -> str:
        """Name of the schedule, where none is given."""
        return f"{self.package.pipeline}-daily"

    def settings(self, assignments: list[str] | None, service_account: str | None) -> RunSettings:
        """Holds them against the package before anything slow is imported."""
        parameters = check_parameters(self.package, parse_parameters(assignments))
        return RunSettings(parameters, service_account)

    def connect(self) -> Deployment:
        """Makes the SDK's client, whose import takes seconds."""
        from pipeline.kubeflow.client import Deployment
        from pipeline.kubeflow.server import Connection, connect

        token = os.environ.get(TOKEN_VARIABLE)
        connection = Connection(self.host, self.namespace, token, self.ca_cert)
        server = connect(connection, time.sleep)
        return Deployment(server, self.package.pipeline, self.package.lag_days, _tell)


def _target(
    package: Annotated[str, typer.Option(help="The compiled package (.yaml).")] = PACKAGE,
    host: Annotated[
        str | None,
        typer.Option(
            envvar="KF_PIPELINES_ENDPOINT",
            callback=_host,
            help="URL of the API server, or of Kubeflow.",
        ),
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace",
            "-n",
            envvar="KFP_NAMESPACE",
            help="The user's namespace, if there are several users.",
        ),
    ] = None,
    ca_cert: Annotated[
        str | None, typer.Option(envvar="KFP_CA_CERT", help="File of certificates to trust.")
    ] = None,
) -> Target:
    return Target(read_package(package), host, namespace, ca_cert)


def _command(work: Callable[..., None]) -> Callable[..., None]:
    """Registers a command; its first argument becomes the options of `_target`."""
    shared = inspect.signature(_target, eval_str=True).parameters
    own = inspect.signature(work, eval_str=True)

    @functools.wraps(work)
    def command(**options: Any) -> None:
        with messages():
            work(_target(**{name: options.pop(name) for name in shared}), **options)

    parameters = [*list(own.parameters.values())[1:], *shared.values()]
    command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return app.command()(command)


@_command
def upload(target: Target) -> None:
    """Uploads the package as a version, unless the server has just this one."""
    version = target.connect().upload(target.package)
    typer.echo(f"{version.name} ({version.version_id})")


@_command
def submit(
    target: Target,
    date: DateArgument,
    parameter: ParameterOption = None,
    service_account: AccountOption = None,
    wait: Annotated[bool, typer.Option(help="Wait for the end of the run.")] = True,
    poll_seconds: PollOption = 30.0,
    timeout_hours: TimeoutOption = 24.0,
) -> None:
    """Runs one day; refused while a run of that day is under way."""
    settings = target.settings(parameter, service_account)
    deployment = target.connect()
    run = deployment.start(target.package, date.date(), settings)
    if wait:
        (run,) = deployment.wait(
            [run], poll_seconds=poll_seconds, timeout_seconds=timeout_hours * 3600
        )
        if not run.succeeded:
            raise typer.Exit(ExitCode.FAILED)


@_command
def backfill(
    target: Target,
    first: DateArgument,
    last: DateArgument,
    parameter: ParameterOption = None,
    service_account: AccountOption = None,
    parallel: Annotated[
        int, typer.Option(min=1, help="Days at once. With 1, each follows from the last.")
    ] = 1,
    keep_going: Annotated[bool, typer.Option(help="Go on after a day that failed.")] = False,
    poll_seconds: PollOption = 30.0,
    timeout_hours: TimeoutOption = 24.0,
) -> None:
    """Runs the days of a range that have not succeeded; goes on where it stopped."""
    dates = dates_between(first, last)
    settings = target.settings(parameter, service_account)
    from pipeline.kubeflow.client import failed

    runs = target.connect().backfill(
        target.package,
        dates,
        settings,
        parallel=parallel,
        keep_going=keep_going,
        poll_seconds=poll_seconds,
        timeout_seconds=timeout_hours * 3600,
    )
    if lines := failed(dates, runs):
        typer.echo("\n".join([f"{len(lines)} of {len(dates)} days not done:", *lines]))
        raise typer.Exit(ExitCode.FAILED)


@_command
def schedule(
    target: Target,
    cron: Annotated[
        str,
        typer.Option(callback=_cron, help="Six fields, seconds first, in the server's time zone."),
    ] = "0 0 3 * * *",
    name: NameOption = None,
    parameter: ParameterOption = None,
    service_account: AccountOption = None,
) -> None:
    """Makes the daily recurring run, or replaces it where something changed; enables it."""
    settings = target.settings(parameter, service_account)
    from pipeline.kubeflow.schedule import Schedule

    name = name or target.daily
    schedule_id, changed = Schedule(target.connect(), name).apply(target.package, cron, settings)
    typer.echo(f"{name} ({schedule_id}){'' if changed else ': unchanged'}")


@_command
def pause(target: Target, name: NameOption = None) -> None:
    """Pauses the schedule; a run that is under way goes on."""
    from pipeline.kubeflow.schedule import Schedule

    Schedule(target.connect(), name or target.daily).set_enabled(False)


@_command
def resume(target: Target, name: NameOption = None) -> None:
    """Resumes the schedule, which at once runs the last day that it has missed."""
    from pipeline.kubeflow.schedule import Schedule

    Schedule(target.connect(), name or target.daily).set_enabled(True)


@_command
def unschedule(target: Target, name: NameOption = None) -> None:
    """Deletes the schedule."""
    from pipeline.kubeflow.schedule import Schedule

    Schedule(target.connect(), name or target.daily).delete()


def _tell(line: str) -> None:
    typer.echo(f"{datetime.datetime.now():%H:%M:%S} {line}", err=True)


if __name__ == "__main__":
    app()
