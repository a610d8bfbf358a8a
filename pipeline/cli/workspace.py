"""Commands that look at a workspace, and at what it serves."""

from __future__ import annotations

import datetime
import json
import os
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import BeamOption, LogsOption, WorkspaceOption, make_console, messages
from pipeline.workspace import Workspace
from schemas.errors import ExitCode, RankerError
from schemas.loading import load_spec

if TYPE_CHECKING:
    from schemas.spec import RankingSpec

SpecOfRunOption = Annotated[
    str | None,
    typer.Option("--spec", "-s", help="The ranking spec. [default: that of the newest run]"),
]


def status(
    workspace: WorkspaceOption = "work",
    as_json: Annotated[bool, typer.Option("--json", help="All that is known, as JSON.")] = False,
) -> None:
    """Shows runs, verdicts, versions, and where the served model comes from."""
    with messages():
        space = _existing(workspace)
        from components.held_days import list_held
        from components.serving_store import served_version
        from pipeline import lineage
        from pipeline.cli import tables

        served = served_version(space.serving)
        store = lineage.open_store(space.metadata_path)
        runs = lineage.list_runs(store) if store is not None else []
        if as_json:
            typer.echo(json.dumps(tables.as_json(runs), indent=2))
            return
        if not runs:
            typer.echo(f"{workspace}: {tables.no_runs(served, space.metadata_path)}")
            return
        console = make_console()
        console.print(tables.day_table(runs, tables.shown_tasks(runs)))
        facts = [*tables.served_lineage(served, runs), *tables.run_facts(runs[-1])]
        noted = "\n".join(facts)
        facts += [line for day in list_held(space.day_store) if (line := str(day)) not in noted]
        for line in facts:
            console.print(line, markup=False)
        if os.path.isdir(space.tensorboard):
            folder = shlex.quote(space.tensorboard)
            console.print(f"TensorBoard, a run a day: tensorboard --logdir {folder}", markup=False)


def report(
    workspace: WorkspaceOption = "work",
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="The file. [default: report.html in the workspace]"),
    ] = None,
) -> None:
    """Writes one HTML page on all runs: days, models, stability, data, cost."""
    with messages():
        space = _existing(workspace)
        from pipeline.html_report.write import write

        path = write(space, output)
    typer.echo(path)


def rollback(
    version: Annotated[int, typer.Argument(help="The version to serve again.")],
    workspace: WorkspaceOption = "work",
    keep_versions: Annotated[
        int | None, typer.Option(min=2, help="Keep only this many versions, the newest.")
    ] = None,
) -> None:
    """Serves an older version again, as a new version with its content."""
    with messages():
        space = _existing(workspace)
        from components import serving_store
        from pipeline import daily

        with daily.locked(space):
            new = serving_store.rollback(space.serving, version, keep_versions)
    typer.echo(f"version {new.version} serves what version {version} did")


def watch(
    logs: LogsOption,
    date: Annotated[
        datetime.datetime | None,
        typer.Argument(formats=["%Y-%m-%d"], metavar="[YYYY-MM-DD]"),
    ] = None,
    workspace: WorkspaceOption = "work",
    spec: SpecOfRunOption = None,
    roll_back: Annotated[
        bool,
        typer.Option("--rollback", help="Serve the version before it again if that one is better."),
    ] = False,
    beam_arg: BeamOption = None,
) -> None:
    """Judges the served version on a later day (the newest), against the version before it.

    Exit code 0: it may stay; 10: it is worse than the gate would have allowed.
    """
    with messages():
        space = _existing(workspace)
        from components import serving_store
        from pipeline import daily, notify
        from pipeline import watch as watching

        with daily.locked(space):
            versions = serving_store.list_versions(space.serving)
            served, _ = watching.choose_versions(versions)
            declared = _declared(space, spec)
            day = date.date() if date else watching.newest_day(logs, served.info.run_date)
            found = watching.watch(
                space,
                declared,
                os.path.abspath(logs) if "://" not in logs else logs,
                day,
                versions,
                beam_arg or daily.DEFAULT_BEAM_ARGS,
            )
            compared = f"version {found.served.version} against version {found.before.version}"
            typer.echo(f"{day}: {compared}: {'worse' if found.reasons else 'may stay'}")
            for line in (*found.reasons, *found.notes):
                typer.echo(f"  {line}")
            if not found.reasons:
                return
            data = {"reason": found.reasons[0], "served_version": found.served.version}
            if roll_back:
                new = serving_store.rollback(
                    space.serving, found.before.version, declared.serving.keep_versions
                )
                typer.echo(f"version {new.version} serves what version {found.before.version} did")
                data["served_version"] = new.version
        kind = "rolled-back" if roll_back else "worse"
        notify.send([notify.Notice(kind, str(day), data)], f"/steadyrank/{declared.name}")
    raise typer.Exit(ExitCode.BLOCKED)


def _declared(space: Workspace, spec: str | None) -> RankingSpec:
    """The spec that is given, or else that of the newest run."""
    if spec is not None:
        return load_spec(spec)
    from pipeline import lineage, retention

    store = lineage.open_store(space.metadata_path)
    if store is None:
        raise RankerError(f"{space.metadata_path}: no runs are known; give --spec")
    return retention.spec_of_newest_run(space, store)


def release(
    day: Annotated[
        datetime.datetime, typer.Argument(formats=["%Y-%m-%d"], help="The day, as status names it.")
    ],
    workspace: WorkspaceOption = "work",
    day_store: Annotated[
        str | None,
        typer.Option(help="Folder of the encoded days. [default: the workspace's]"),
    ] = None,
) -> None:
    """Lets the next run train on a day that is held because the served model fails on it."""
    with messages():
        from components import held_days

        store = day_store or _existing(workspace).day_store
        held_days.release(store, day.date())
    typer.echo(f"{day.date()} is released: the next run trains on it in full")


def clean(
    workspace: WorkspaceOption = "work",
    spec: SpecOfRunOption = None,
    dry_run: Annotated[bool, typer.Option(help="Only list what would be removed.")] = False,
) -> None:
    """Removes what the spec's `retention` does not keep; every run does this when it ends."""
    with messages():
        space = _existing(workspace)
        from pipeline import daily, lineage, retention

        with daily.locked(space):
            store = lineage.open_store(space.metadata_path)
            if store is None:
                raise RankerError(
                    f"{space.metadata_path}: no runs are known, so nothing counts as old"
                )
            declared = _declared(space, spec)
            surplus = retention.find_surplus(space, store, declared)
            if not dry_run:
                retention.remove(surplus, store)
        for item in surplus if dry_run else ():
            typer.echo(f"{item.path}: {item.what}, {_megabytes(item.size)}")
        total = _megabytes(sum(item.size for item in surplus))
        typer.echo(f"{len(surplus)} {'would be ' if dry_run else ''}removed, {total}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _existing(workspace: str) -> Workspace:
    if not os.path.isdir(workspace):
        raise RankerError(f"{workspace}: no workspace there; give the --workspace of the runs")
    return Workspace(workspace)
