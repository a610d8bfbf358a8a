"""`steadyrank power`: what the gates of a spec can tell apart on days that were evaluated."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import SetOption, SpecOption, WorkspaceOption, messages
from pipeline.workspace import Workspace
from schemas.errors import RankerError
from schemas.loading import load_spec

if TYPE_CHECKING:
    from rich.table import Table

    from components.evaluator.power import Day, Power
    from pipeline.lineage import Run


def power(
    spec: SpecOption,
    dates: Annotated[
        list[datetime.datetime] | None,
        typer.Argument(
            formats=["%Y-%m-%d"], metavar="[YYYY-MM-DD]...", help="Days; all if none is given."
        ),
    ] = None,
    workspace: WorkspaceOption = "work",
    overrides: SetOption = None,
    events: Annotated[
        int | None, typer.Option(min=1, help="As if a day had so many events with a label.")
    ] = None,
) -> None:
    """Says how often each gate blocks a healthy model, and how small a fall it sees.

    From the standard errors of days that were evaluated; the bounds are those of the spec, so
    that others can be tried with --set.
    """
    with messages():
        declared = load_spec(spec, overrides or [])
        from rich.console import Console

        from components.evaluator.power import powers
        from pipeline import lineage

        store = lineage.open_store(Workspace(workspace).metadata_path)
        runs = lineage.list_runs(store) if store is not None else []
        days = _days(runs, {f"{date:%Y-%m-%d}" for date in dates or ()})
        found = list(powers(list(days.values()), declared, events))
        if not found:
            raise RankerError(
                f"{workspace}: no day was evaluated with standard errors of what {spec} bounds; "
                "run some days first"
            )
        console = Console()
        console.print(_table(found, f"{len(days)} days, {min(days)} to {max(days)}"))
        total = min(sum(item.false_blocks for item in found), 1.0)
        console.print(f"a healthy model is blocked on at most {total:.2%} of days", markup=False)


def _days(runs: Iterable[Run], dates: set[str]) -> dict[str, Day]:
    """The estimates of each day's newest evaluation."""
    from components.evaluator.estimates import Estimate

    found: dict[str, Day] = {}
    for run in runs:
        if not run.intervals or (dates and run.run_date not in dates):
            continue
        found[run.run_date] = {
            model: {
                output: {
                    name: Estimate(
                        value["value"], value["standard_error"], int(value["degrees_of_freedom"])
                    )
                    for name, value in metrics.items()
                }
                for output, metrics in outputs.items()
            }
            for model, outputs in run.intervals.items()
        }
    if missing := sorted(dates - found.keys()):
        raise RankerError(f"{', '.join(missing)}: not evaluated, or without standard errors")
    return found


def _table(found: Sequence[Power], title: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("task", no_wrap=True)
    for column in ("bound", "standard error", "healthy blocked", "smallest fall seen"):
        table.add_column(column, justify="left" if column == "bound" else "right")
    for item in found:
        table.add_row(
            item.output,
            str(item.bound),
            f"{item.error:.5f}",
            f"{item.false_blocks:.2%}",
            f"{item.smallest_seen:.4f}",
        )
    return table
