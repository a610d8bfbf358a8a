"""Uploads, runs and backfills on a Kubeflow Pipelines server, through the KFP SDK.

Nothing is made twice: what a call wants to make is looked for first, and once more where the
answer to making it got lost. No state is kept but the server's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipeline.kubeflow.package import Package, RunSettings, check_parameters
from pipeline.kubeflow.server import Server
from schemas.errors import RankerError

_ENDED = frozenset({"SUCCEEDED", "SKIPPED", "FAILED", "ERROR", "CANCELED"})

OnEvent = Callable[[str], None]
"""Told in a line what happened."""


@dataclasses.dataclass(frozen=True)
class Version:
    """A pipeline version on the server; `uploaded` if it was not there before."""

    pipeline_id: str
    version_id: str
    name: str
    uploaded: bool


@dataclasses.dataclass(frozen=True)
class DayRun:
    """A run on the server.

    Attributes:
        run_id: the server's.
        name: what is shown of it.
        date: the day that it evaluates on.
        state: `PENDING`, `RUNNING`, `SUCCEEDED`, `FAILED`, ...; a day that the gate blocked has
            succeeded, too.
        created_at: when it was made, by the server's clock.
        schedule_id: the recurring run that made it, or None.
        error: why it failed, as far as the server says.
    """

    run_id: str
    name: str
    date: datetime.date
    state: str
    created_at: datetime.datetime
    schedule_id: str | None
    error: str

    @property
    def under_way(self) -> bool:
        """Whether it has not ended."""
        return self.state not in _ENDED

    @property
    def succeeded(self) -> bool:
        """Whether every step did."""
        return self.state == "SUCCEEDED"


class Deployment:
    """One pipeline on one server.

    Its runs and its schedule are in an experiment of the pipeline's name.

    Args:
        server: where.
        pipeline: the pipeline's name.
        lag_days: days from the run date of a run that has none to its schedule's time.
        on_event: told what happens.
    """

    def __init__(
        self, server: Server, pipeline: str, lag_days: int, on_event: OnEvent = lambda line: None
    ) -> None:
        self.server = server
        self._client = server.client
        self.pipeline = pipeline
        self.lag_days = lag_days
        self.tell = on_event
        self._experiment: str | None = None

    def upload(self, package: Package) -> Version:
        """Uploads a package, unless the server has just this content.

        Raises:
            RankerError: the server refused it, or cannot be reached.
        """
        pipeline_id = self._pipeline_id() or self.server.call(
            f"creating pipeline {self.pipeline}",
            lambda: (
                self._client.upload_pipeline(
                    package.path, pipeline_name=self.pipeline, namespace=self.server.namespace
                ).pipeline_id
            ),
            self._pipeline_id,
        )

        def find() -> str | None:
            versions = self.server.find(
                package.version,
                "pipeline_versions",
                self._client.list_pipeline_versions,
                pipeline_id=pipeline_id,
            )
            return versions[0].pipeline_version_id if versions else None

        found = find()
        if found is not None:
            return Version(pipeline_id, found, package.version, uploaded=False)
        made = self.server.call(
            f"uploading {package.path} as version {package.version}",
            lambda: (
                self._client.upload_pipeline_version(
                    package.path, package.version, pipeline_id=pipeline_id
                ).pipeline_version_id
            ),
            find,
        )
        self.tell(f"uploaded version {package.version}")
        return Version(pipeline_id, made, package.version, uploaded=True)

    def runs(self) -> list[DayRun]:
        """Lists the pipeline's runs, oldest first, scheduled ones included.

        A run of no day is left out: Plan refuses whatever run date somebody gave it.
        """
        experiment = self.find_experiment()
        if experiment is None:
            return []
        found = self.server.pages(
            "runs", self._client.list_runs, experiment_id=experiment, sort_by="created_at"
        )
        runs = []
        for run in found:
            with contextlib.suppress(ValueError):
                runs.append(_day_run(run, self.lag_days))
        return runs

    def start(self, package: Package, date: datetime.date, settings: RunSettings) -> DayRun:
        """Uploads the package if need be and runs one day.

        Args:
            package: what to run.
            date: the day to evaluate on.
            settings: what the run is given.

        Returns:
            The run, under way.

        Raises:
            RankerError: a run of the day is under way, a parameter is unknown, or the server
                refused.
        """
        parameters = {**check_parameters(package, settings.parameters), "run_date": str(date)}
        version = self.upload(package)
        of_day = [run for run in self.runs() if run.date == date]
        for run in of_day:
            if run.under_way:
                raise RankerError(
                    f"{date}: run {run.name} ({run.run_id}) is {run.state.lower()}; wait for it, "
                    "or terminate it first"
                )
        names = (f"{self.pipeline}-{date}-{attempt}" for attempt in itertools.count(1))
        taken = {run.name for run in of_day}
        name = next(name for name in names if name not in taken)
        experiment = self.make_experiment()

        def find() -> DayRun | None:
            runs = self.server.find(name, "runs", self._client.list_runs, experiment_id=experiment)
            return _day_run(runs[0], self.lag_days) if runs else None

        run = self.server.call(
            f"starting {name}",
            lambda: _day_run(
                self._client.run_pipeline(
                    experiment_id=experiment,
                    job_name=name,
                    params=parameters,
                    pipeline_id=version.pipeline_id,
                    version_id=version.version_id,
                    pipeline_root=package.pipeline_root,
                    service_account=settings.service_account,
                ),
                self.lag_days,
            ),
            find,
        )
        self.tell(f"{date}: started {run.name} ({run.run_id})")
        return run

    def wait(
        self,
        runs: Sequence[DayRun],
        *,
        poll_seconds: float,
        timeout_seconds: float,
    ) -> list[DayRun]:
        """Waits until at least one of the runs has ended.

        Args:
            runs: under way.
            poll_seconds: between two looks.
            timeout_seconds: how long to wait at most. Nothing is terminated then.

        Returns:
            Those runs as they are now, in the order given.

        Raises:
            RankerError: none has ended in time, or the server cannot be reached.
        """
        waited = 0.0
        while True:
            now = [self._run(run.run_id) for run in runs]
            for before, run in zip(runs, now, strict=True):
                if run.state != before.state:
                    self.tell(_ending(run))
            if any(not run.under_way for run in now):
                return now
            if waited >= timeout_seconds:
                late = ", ".join(f"{run.name} ({run.run_id}) of {run.date}" for run in now)
                raise RankerError(
                    f"no end of {late} after {waited / 3600:.1f} hours; look at the pods, "
                    "terminate what hangs, and call this again"
                )
            runs = now
            self.server.sleep(poll_seconds)
            waited += poll_seconds

    def backfill(
        self,
        package: Package,
        dates: Sequence[datetime.date],
        settings: RunSettings,
        *,
        parallel: int = 1,
        keep_going: bool = False,
        poll_seconds: float = 30.0,
        timeout_seconds: float = 86_400.0,
    ) -> dict[datetime.date, DayRun]:
        """Runs the days that have not succeeded, in order.

        What has succeeded is asked of the server, so a call that was interrupted goes on where
        it stopped: it waits for the days it finds under way. After a day that failed no other
        one is started.

        Args:
            package: what to run.
            dates: the days, in order.
            settings: what each run is given.
            parallel: how many days at once. With more than one, a day does not warm-start from
                the day before it.
            keep_going: start further days after one that failed.
            poll_seconds: between two looks at the runs.
            timeout_seconds: how long to wait at most for any of the days under way.

        Returns:
            The last run of each day that has one.

        Raises:
            RankerError: as `start` and `wait`.
        """
        check_parameters(package, settings.parameters)
        last = _standing(self.runs(), dates)
        pending = []
        for date in dates:
            run = last.get(date)
            if run is None or not (run.under_way or run.succeeded):
                pending.append(date)
            else:
                self.tell(_ending(run))
        while True:
            active = [run for run in last.values() if run.under_way]
            while pending and len(active) < parallel:
                run = self.start(package, pending.pop(0), settings)
                last[run.date] = run
                active.append(run)
            if not active:
                return last
            for run in self.wait(
                active,
                poll_seconds=poll_seconds,
                timeout_seconds=timeout_seconds,
            ):
                last[run.date] = run
                if not (run.under_way or run.succeeded or keep_going) and pending:
                    self.tell(f"stopped before {pending[0]}, as {run.date} failed")
                    pending = []

    def _run(self, run_id: str) -> DayRun:
        run = self.server.call(f"looking at run {run_id}", lambda: self._client.get_run(run_id))
        return _day_run(run, self.lag_days)

    def _pipeline_id(self) -> str | None:
        found = self.server.find(
            self.pipeline,
            "pipelines",
            self._client.list_pipelines,
            namespace=self.server.namespace,
        )
        return found[0].pipeline_id if found else None

    def find_experiment(self) -> str | None:
        """Returns the experiment's id, or None if there is none yet."""
        if self._experiment is None:
            for experiment in self.server.find(
                self.pipeline,
                "experiments",
                self._client.list_experiments,
                namespace=self.server.namespace,
            ):
                self._experiment = experiment.experiment_id
        return self._experiment

    def make_experiment(self) -> str:
        """Returns the experiment's id, of a new one if need be."""
        found = self.find_experiment()
        if found is None:
            found = self._experiment = self.server.call(
                f"creating experiment {self.pipeline}",
                lambda: (
                    self._client.create_experiment(
                        self.pipeline, namespace=self.server.namespace
                    ).experiment_id
                ),
                self.find_experiment,
            )
        return found


def failed(dates: Iterable[datetime.date], runs: Mapping[datetime.date, DayRun]) -> list[str]:
    """Returns a line for each of the days that has not succeeded."""
    lines = []
    for date in dates:
        run = runs.get(date)
        if run is None:
            lines.append(f"{date}: not started")
        elif not run.succeeded:
            lines.append(_ending(run))
    return lines


def _standing(
    runs: Iterable[DayRun], dates: Iterable[datetime.date]
) -> dict[datetime.date, DayRun]:
    """For each day its run under way, or else one that succeeded, or else the last."""
    wanted = set(dates)
    standing: dict[datetime.date, DayRun] = {}
    for run in runs:
        known = standing.get(run.date)
        if run.date in wanted and (
            known is None or run.under_way or not (known.under_way or known.succeeded)
        ):
            standing[run.date] = run
    return standing


def _ending(run: DayRun) -> str:
    reason = f": {run.error}" if run.error else ""
    return f"{run.date}: {run.state.lower()}, {run.name} ({run.run_id}){reason}"


def _day_run(run: Any, lag_days: int) -> DayRun:
    parameters = (run.runtime_config.parameters if run.runtime_config else None) or {}
    created_at = run.created_at
    if parameters.get("run_date"):
        date = datetime.date.fromisoformat(parameters["run_date"])
    else:
        # As the Plan step does; see components/plan/run_date.py.
        made_for = run.scheduled_at or created_at
        date = made_for.astimezone(datetime.timezone.utc).date()
        date -= datetime.timedelta(days=lag_days)
    return DayRun(
        run_id=run.run_id,
        name=run.display_name,
        date=date,
        state=(run.state or "PENDING").upper(),
        created_at=created_at,
        schedule_id=run.recurring_run_id or None,
        error=(run.error.message or "") if run.error else "",
    )
