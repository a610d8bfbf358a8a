"""Commands that submit, schedule and backfill on a Kubeflow Pipelines server."""

from __future__ import annotations

import datetime
import os
import re
import time
from typing import TYPE_CHECKING, Annotated

import typer

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
PACKAGE = "work/kubeflow/pipeline.yaml"

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


HostOption = Annotated[
    str | None,
    typer.Option(
        envvar="KF_PIPELINES_ENDPOINT",
        callback=_host,
        help="URL of the API server, or of Kubeflow.",
    ),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        envvar="KFP_NAMESPACE",
        help="The user's namespace, if there are several users.",
    ),
]
CaOption = Annotated[
    str | None, typer.Option(envvar="KFP_CA_CERT", help="File of certificates to trust.")
]
PackageOption = Annotated[str, typer.Option("--package", help="The compiled package (.yaml).")]
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


@app.command()
def upload(
    package: PackageOption = PACKAGE,
    host: HostOption = None,
    namespace: NamespaceOption = None,
    ca_cert: CaOption = None,
) -> None:
    """Uploads the package as a version, unless the server has just this one."""
    with messages():
        read = read_package(package)
        version = _deployment(read.pipeline, host, namespace, ca_cert).upload(read)
        typer.echo(f"{version.name} ({version.version_id})")


@app.command()
def submit(
    date: DateArgument,
    package: PackageOption = PACKAGE,
    parameter: ParameterOption = None,
    service_account: AccountOption = None,
    wait: Annotated[bool, typer.Option(help="Wait for the end of the run.")] = True,
    poll_seconds: PollOption = 30.0,
    timeout_hours: TimeoutOption = 24.0,
    host: HostOption = None,
    namespace: NamespaceOption = None,
    ca_cert: CaOption = None,
) -> None:
    """Runs one day; refused while a run of that day is under way."""
    with messages():
        read = read_package(package)
        settings = _settings(read, parameter, service_account)
        from pipeline.kubeflow.client import failed

        deployment = _deployment(read.pipeline, host, namespace, ca_cert)
        run = deployment.start(read, date.date(), settings)
        if wait:
            (run,) = deployment.wait(
                [run],
                read.lag_days,
                poll_seconds=poll_seconds,
                timeout_seconds=timeout_hours * 3600,
            )
            if failed([run.date], {run.date: run}):
                raise typer.Exit(ExitCode.FAILED)


@app.command()
def backfill(
    first: DateArgument,
    last: DateArgument,
    package: PackageOption = PACKAGE,
    parameter: ParameterOption = None,
    service_account: AccountOption = None,
    parallel: Annotated[
        int, typer.Option(min=1, help="Days at once. With 1, each warm-starts from the last.")
    ] = 1,
    keep_going: Annotated[bool, typer.Option(help="Go on after a day that failed.")] = False,
    poll_seconds: PollOption = 30.0,
    timeout_hours: TimeoutOption = 24.0,
    host: HostOption = None,
    namespace: NamespaceOption = None,
    ca_cert: CaOption = None,
) -> None:
    """Runs the days of a range that have not succeeded; goes on where it stopped."""
    dates = dates_between(first, last)
    with messages():
        read = read_package(package)
        settings = _settings(read, parameter, service_account)
        from pipeline.kubeflow.client import failed

        runs = _deployment(read.pipeline, host, namespace, ca_cert).backfill(
            read,
            dates,
            settings,
            parallel=parallel,
            keep_going=keep_going,
            poll_seconds=poll_seconds,
            timeout_seconds=timeout_hours * 3600,
        )
        lines = failed(dates, runs)
        if lines:
            typer.echo("\n".join([f"{len(lines)} of {len(dates)} days not done:", *lines]))
            raise typer.Exit(ExitCode.FAILED)


@app.command()
def schedule(
    package: PackageOption = PACKAGE,
    cron: Annotated[
        str,
        typer.Option(callback=_cron, help="Six fields, seconds first, in the server's time zone."),
    ] = "0 0 3 * * *",
    name: NameOption = None,
    parameter: ParameterOption = None,
    service_account: AccountOption = None,
    host: HostOption = None,
    namespace: NamespaceOption = None,
    ca_cert: CaOption = None,
) -> None:
    """Makes the daily recurring run, or replaces it where something changed; enables it."""
    with messages():
        read = read_package(package)
        settings = _settings(read, parameter, service_account)
        from pipeline.kubeflow.schedule import Schedule

        deployment = _deployment(read.pipeline, host, namespace, ca_cert)
        name = name or _daily(read.pipeline)
        schedule_id, changed = Schedule(deployment, name).apply(read, cron, settings)
        typer.echo(f"{name} ({schedule_id}){'' if changed else ': unchanged'}")


@app.command()
def pause(
    package: PackageOption = PACKAGE,
    name: NameOption = None,
    host: HostOption = None,
    namespace: NamespaceOption = None,
    ca_cert: CaOption = None,
) -> None:
    """Pauses the schedule; a run that is under way goes on."""
    _set_enabled(False, package, name, host, namespace, ca_cert)


@app.command()
def resume(
    package: PackageOption = PACKAGE,
    name: NameOption = None,
    host: HostOption = None,
    namespace: NamespaceOption = None,
    ca_cert: CaOption = None,
) -> None:
    """Resumes the schedule, which at once runs the last day that it has missed."""
    _set_enabled(True, package, name, host, namespace, ca_cert)


@app.command()
def unschedule(
    package: PackageOption = PACKAGE,
    name: NameOption = None,
    host: HostOption = None,
    namespace: NamespaceOption = None,
    ca_cert: CaOption = None,
) -> None:
    """Deletes the schedule."""
    with messages():
        read = read_package(package)
        from pipeline.kubeflow.schedule import Schedule

        deployment = _deployment(read.pipeline, host, namespace, ca_cert)
        Schedule(deployment, name or _daily(read.pipeline)).delete(read.lag_days)


def _set_enabled(
    enabled: bool,
    package: str,
    name: str | None,
    host: str | None,
    namespace: str | None,
    ca_cert: str | None,
) -> None:
    with messages():
        pipeline = read_package(package).pipeline
        from pipeline.kubeflow.schedule import Schedule

        deployment = _deployment(pipeline, host, namespace, ca_cert)
        Schedule(deployment, name or _daily(pipeline)).set_enabled(enabled)


def _daily(pipeline: str) -> str:
    return f"{pipeline}-daily"


def _deployment(
    pipeline: str, host: str | None, namespace: str | None, ca_cert: str | None
) -> Deployment:
    from pipeline.kubeflow.client import Deployment
    from pipeline.kubeflow.server import Connection, connect

    connection = Connection(host, namespace, os.environ.get(TOKEN_VARIABLE), ca_cert)
    return Deployment(connect(connection, time.sleep), pipeline, _tell)


def _tell(line: str) -> None:
    typer.echo(f"{datetime.datetime.now():%H:%M:%S} {line}", err=True)


def _settings(
    package: Package, assignments: list[str] | None, service_account: str | None
) -> RunSettings:
    """Holds them against the package before anything slow is imported."""
    parameters = check_parameters(package, parse_parameters(assignments))
    return RunSettings(parameters, service_account)


if __name__ == "__main__":
    app()
