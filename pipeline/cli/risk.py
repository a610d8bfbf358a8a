"""`steadyrank risk`: how near a day's training is to divergence, before it is run."""

from __future__ import annotations

import dataclasses
import datetime
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from pipeline.cli.options import (
    DateArgument,
    LogsOption,
    SetOption,
    SpecOption,
    WorkspaceOption,
    messages,
)
from schemas.loading import load_spec
from schemas.training import OptimizerName

if TYPE_CHECKING:
    from pipeline.workspace import Workspace
    from schemas.spec import RankingSpec
    from trainer_module.risk.report import RiskReport

OPTIMIZERS: tuple[str, ...] = get_args(OptimizerName)
"""The spec's names of optimizers."""
SEARCHED = ("clippy_adagrad", "adagrad")
"""Those whose stable rate is searched where none is named; each takes minutes."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What to measure.

    Attributes:
        steps: of each training.
        seeds: trainings a figure comes from.
        budget: trainings of each optimizer's search, at most.
        optimizers: whose stable rate is searched, by the spec's names.
        jumps: whether jumps of the loss are counted there in place of divergence.
    """

    steps: int
    seeds: int
    budget: int
    optimizers: tuple[str, ...]
    jumps: bool


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What a run of the day would train on.

    Attributes:
        files: gzipped TFRecords of encoded events.
        warm_start_from: folder of the training state it would start from; None if cold.
        start: why it starts cold or warm.
        day_events: events of a usual day.
    """

    files: tuple[str, ...]
    warm_start_from: str | None
    start: str
    day_events: int


def risk(
    date: DateArgument,
    logs: LogsOption,
    spec: SpecOption,
    workspace: WorkspaceOption = "work",
    overrides: SetOption = None,
    steps: Annotated[int, typer.Option(min=4, help="Steps of each training.")] = 200,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings behind each figure.")] = 3,
    budget: Annotated[
        int, typer.Option(min=1, help="Most trainings of each optimizer's search.")
    ] = 36,
    optimizer: Annotated[
        list[str] | None,
        typer.Option(help=f"Search the stable rate of {', '.join(OPTIMIZERS)}. Repeatable."),
    ] = None,
    jumps: Annotated[
        bool, typer.Option("--jumps", help="Search for jumps of the loss, not divergence.")
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(help="Folder for risk.json and risk.png. [default: in the workspace]"),
    ] = None,
) -> None:
    """Measures how close a day's training is to divergence; keeps no model.

    Compares the sharpness of the loss, as Adagrad sees it, with 2 / eta over a training of the
    day, and finds the largest learning rate at which no short training diverges, for each
    optimizer.
    """
    names = tuple(optimizer or SEARCHED)
    unknown = [name for name in names if name not in OPTIMIZERS]
    if unknown:
        raise typer.BadParameter(
            f"{unknown[0]!r} does not exist; choose from {', '.join(OPTIMIZERS)}"
        )
    if budget < seeds:
        raise typer.BadParameter(
            f"a budget of {budget} is less than the {seeds} trainings of one rate"
        )
    measurement = Measurement(steps, seeds, budget, names, jumps)
    with messages():
        declared = load_spec(spec, overrides or [])
        _run(declared, date.date(), logs, workspace, measurement, output)


def _run(
    spec: RankingSpec,
    date: datetime.date,
    logs: str,
    workspace: str,
    measurement: Measurement,
    output: str | None,
) -> None:
    from rich.console import Console

    from pipeline.live import Display
    from pipeline.workspace import Workspace

    directory = output or os.path.join(workspace, "risk", str(date))
    console = Console() if sys.stdout.isatty() else Console(width=120)
    with console.status("") as spinner:
        display = Display(console, spinner)
        display.show("ingesting", f"{date}: ingesting")
        data = training_data(spec, date, logs, Workspace(workspace))

        def on_progress(text: str) -> None:
            part, _, _ = text.partition(":")
            display.show(part, f"{date}: {text}")

        report = assess(spec, date, data, measurement, on_progress)

    from trainer_module.risk.report import save, sharpness_table, stable_rate_table

    save(report, directory)
    console.print(f"{report.run_date}: {report.start}", markup=False)
    if report.sharpness:
        console.print(sharpness_table(report))
    console.print(stable_rate_table(report))
    console.print(f"written to {directory}", markup=False)


def training_data(
    spec: RankingSpec, date: datetime.date, logs: str, workspace: Workspace
) -> TrainingData:
    """Finds what `steadyrank run` would train on; days are ingested and judged as it does.

    Args:
        spec: the ranking spec.
        date: the run date.
        logs: folder with a folder of logs for each day.
        workspace: its served versions decide on cold or warm.

    Returns:
        The training events and the start.

    Raises:
        BadDataError: the days cannot be trusted.
        RankerError: no run of this date is possible.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from components import serving_store
    from components.daily_example_gen.history_join import days_of_run
    from components.daily_example_gen.judging import choose_training
    from components.daily_example_gen.splits import usual_day
    from components.plan.planning import make_plan
    from pipeline.daily import DEFAULT_BEAM_ARGS

    versions = serving_store.list_versions(workspace.serving)
    plan = make_plan(spec, date, versions)
    days = days_of_run(
        plan,
        logs,
        workspace.day_store,
        lambda: beam.Pipeline(options=PipelineOptions(list(DEFAULT_BEAM_ARGS))),
    )
    served = {version.version: version.path for version in versions}
    judge = served.get(plan.baseline_version or 0, "")
    training, _, _ = choose_training(plan, days, logs, workspace.day_store, judge)
    state = None
    if plan.base_version is not None:
        state = os.path.join(served[plan.base_version], serving_store.TRAINING_STATE)
    files = tuple(days[day.date].shard(number) for day in training for number in day.shards)
    return TrainingData(files, state, plan.start_reason, usual_day(training, days))


def assess(
    spec: RankingSpec,
    date: datetime.date,
    data: TrainingData,
    measurement: Measurement,
    on_progress: Callable[[str], None],
) -> RiskReport:
    """Measures; see `trainer_module.risk`.

    Raises:
        TrainingError: there is nothing to train on, or the state to start from does not fit.
    """
    from trainer_module.risk.assess import find_stable_rate, measure_sharpness
    from trainer_module.risk.batches import event_batches
    from trainer_module.risk.report import RiskReport

    steps, seeds = measurement.steps, measurement.seeds
    spec = spec.fitted(data.day_events, data.warm_start_from is not None)
    batches = event_batches(data.files, spec, steps + 1)
    return RiskReport(
        spec=spec.name,
        run_date=str(date),
        start=data.start,
        optimizer=spec.training.optimizer.name,
        learning_rate=spec.training.learning_rate,
        batch_size=spec.training.batch_size,
        steps=steps,
        seeds=seeds,
        jumps=measurement.jumps,
        # Before its first step Adam has no preconditioner to measure with.
        sharpness=()
        if spec.training.optimizer.base == "adam"
        else measure_sharpness(
            spec,
            batches,
            steps=steps,
            seeds=seeds,
            warm_start_from=data.warm_start_from,
            on_progress=on_progress,
        ),
        stable_rates={
            name: find_stable_rate(
                spec,
                name,
                batches,
                steps=steps,
                seeds=seeds,
                budget=measurement.budget,
                jumps=measurement.jumps,
                warm_start_from=data.warm_start_from,
                on_progress=on_progress,
            )
            for name in measurement.optimizers
        },
    )
