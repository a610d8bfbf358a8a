"""What people see of runs: tables for the terminal, JSON for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from pipeline.lineage import Run, origins

if TYPE_CHECKING:
    from components.serving_store import ServedVersion

_VERDICTS = {
    "pushed": "[green]pushed[/]",
    "blocked": "[yellow]BLOCKED[/]",
    "failed": "[red]FAILED[/]",
    "running": "running",
}


def shown_tasks(runs: Sequence[Run]) -> list[str]:
    """The tasks that runs have a figure of, in the order of the newest run's spec."""
    found: dict[str, None] = {}
    for run in reversed(runs):
        outputs = run.metrics.get("candidate", {})
        found.update(dict.fromkeys(t for t in outputs if run.task_metric(t) is not None))
    return list(found)


def day_table(runs: Sequence[Run], tasks: Sequence[str]) -> Table:
    """Makes the table of days.

    Args:
        runs: one for each row.
        tasks: a column for each.

    Returns:
        Day, each task's AUC or RMSE, verdict and reason, version served. Below an AUC is its
        lift, where it is known.
    """
    lifts = any(run.task_lift(task) is not None for run in runs for task in tasks)
    table = Table(
        title="Days",
        title_justify="left",
        caption="below an AUC: its lift over smoothed rates" if lifts else None,
        caption_justify="left",
        header_style="bold",
        expand=False,
    )
    table.add_column("day", no_wrap=True)
    for task in tasks:
        table.add_column(task, justify="right")
    table.add_column("verdict", no_wrap=True)
    table.add_column("serves", justify="right")
    table.add_column("why", overflow="fold", ratio=1)
    for run in runs:
        figures = [_figure(run.task_metric(task), run.task_lift(task)) for task in tasks]
        table.add_row(
            run.run_date or "?",
            *figures,
            _VERDICTS[run.outcome],
            "-" if run.served_after is None else f"v{run.served_after}",
            escape(why(run)),
        )
    return table


def _figure(value: float | None, lift: float | None) -> str:
    if value is None:
        return "-"
    # A diverged regression may be off by any power of ten.
    text = f"{value:.3f}" if abs(value) < 1000 else f"{value:.1e}"
    return text if lift is None else f"{text}\n[dim]{lift:+.3f}[/]"


def why(run: Run) -> str:
    """Says in one line why a run ended as it did, or how it started."""
    if not run.reasons:
        return f"{run.start}; {run.training}" if run.training else run.start
    first = run.reasons[0].splitlines()[0]
    rest = len(run.reasons) - 1
    return f"{first} (and {rest} more)" if rest else first


def run_facts(run: Run) -> list[str]:
    """Tells what became of a run's events, how it trained, and what its components remarked."""
    lines = [f"run of {run.run_date or '?'}: {run.outcome}, {run.seconds:.0f} s"]
    if run.events:
        counts = dict(run.events)
        total = counts.pop("read")
        parts = " + ".join(f"{count:,} {name}" for name, count in counts.items())
        lines.append(f"  {total:,} events = {parts}")
    if run.stability:
        lines.append(f"  training: {'; '.join(filter(None, (run.stability, run.training)))}")
    lines += [f"  {line}" for line in (*run.reasons, *run.notes)]
    return lines


def as_json(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns the runs as plain data, oldest first."""
    return [{**dataclasses.asdict(run), "started": run.started.isoformat()} for run in runs]


def no_runs(served: ServedVersion | None, metadata_path: str) -> str:
    """Says why no runs are known: there was none, or the history is lost."""
    if served is None:
        return "no runs yet"
    return (
        f"version {served.version} is served, but {metadata_path} knows of no run: it was lost "
        "or replaced. Restore it from a backup; serving does not depend on it"
    )


def served_lineage(served: ServedVersion | None, runs: Sequence[Run]) -> list[str]:
    """Tells where the served model comes from, back to its cold start.

    Args:
        served: the served version; None before the first push.
        runs: all runs, oldest first.

    Returns:
        Lines: the served version, whether its files are those that were evaluated, then each
        run that its weights went through.
    """
    if served is None:
        return ["nothing is being served yet"]
    return [
        f"serving version {served.version} ({served.path})",
        *_content(served),
        *(
            f"  from the run of {run.run_date} ({run.run_id}): {run.start}"
            for run in origins(served.info.model_uri, runs)
        ),
    ]


def _content(served: ServedVersion) -> list[str]:
    from components import serving_store

    if not served.info.digest:
        return ["  pushed before files had digests: whether they are whole is not known"]
    faults = serving_store.damage(served)
    if faults:
        return [f"  DAMAGED: {fault}" for fault in faults]
    return [f"  as it was evaluated: SHA-256 {served.info.digest}"]
