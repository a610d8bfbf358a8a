"""Uploads, runs, schedules and backfills on a Kubeflow Pipelines server, through the KFP SDK.

Nothing is made twice: what a call wants to make is looked for first, and once more where the
answer to making it got lost. No state is kept but the server's.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipeline.kubeflow.package import load_package
from pipeline.kubeflow.server import Server, named
from schemas.errors import RankerError

_SETTLE_SECONDS = 15.0
"""The controller looks at a schedule every 10 seconds; after this much, a disabled one is quiet."""
_ENDED = frozenset({"SUCCEEDED", "SKIPPED", "FAILED", "ERROR", "CANCELED"})

OnEvent = Callable[[str], None]
"""Told in a line what happened."""


@dataclasses.dataclass(frozen=True)
class Package:
    """A compiled pipeline.

    Attributes:
        path: the YAML file.
        pipeline: the pipeline's name.
        version: name of the pipeline version that has just this content.
        parameters: type of each run parameter, by name.
        lag_days: days from a run date that was left open to its schedule's time.
    """

    path: str
    pipeline: str
    version: str
    parameters: Mapping[str, str]
    lag_days: int


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


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What runs are given.

    Attributes:
        parameters: run parameters that differ from the package's defaults.
        service_account: of the runs' pods; the server's default if None.
    """

    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    service_account: str | None = None


def read_package(path: str) -> Package:
    """Reads what the client has to know of a compiled pipeline.

    Raises:
        RankerError: the file cannot be read, or is no package of this pipeline.
    """
    documents = load_package(path)
    try:
        spec = documents[0]
        declared = spec["root"]["inputDefinitions"]["parameters"]
        parameters = {name: item["parameterType"] for name, item in declared.items()}
        name = spec["pipelineInfo"]["name"]
        plan = spec["root"]["dag"]["tasks"]["Plan"]["inputs"]["parameters"]
        lag_days = int(plan["run_date_lag_days"]["runtimeValue"]["constant"])
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise RankerError(
            f"{path}: not a package of this pipeline ({type(error).__name__}: {error}); "
            "make one with kubeflow/compile"
        ) from error
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()[:12]
    return Package(path, name, f"{name}-{digest}", parameters, lag_days)


def check_cron(cron: str) -> None:
    """Refuses what the server would take for something else, or not at all.

    Raises:
        RankerError: not six fields.
    """
    if len(cron.split()) != 6 or not re.fullmatch(r"[\w*/,?\- ]+", cron):
        raise RankerError(
            f"cron {cron!r}: expected six fields, seconds first: '0 0 3 * * *' is 03:00 every day"
        )


class Deployment:
    """One pipeline on one server.

    Its runs and its schedule are in an experiment of the pipeline's name.

    Args:
        server: where.
        pipeline: the pipeline's name.
        on_event: told what happens.
    """

    def __init__(
        self, server: Server, pipeline: str, on_event: OnEvent = lambda line: None
    ) -> None:
        self._server = server
        self._client = server.client
        self._pipeline = pipeline
        self._tell = on_event
        self._experiment: str | None = None

    def upload(self, package: Package) -> Version:
        """Uploads a package, unless the server has just this content.

        Raises:
            RankerError: the server refused it, or cannot be reached.
        """
        pipeline_id = self._pipeline_id() or self._server.call(
            f"creating pipeline {self._pipeline}",
            lambda: (
                self._client.upload_pipeline(
                    package.path, pipeline_name=self._pipeline, namespace=self._server.namespace
                ).pipeline_id
            ),
            self._pipeline_id,
        )

        def find() -> str | None:
            for version in self._server.pages(
                "listing pipeline versions",
                lambda **page: self._client.list_pipeline_versions(
                    pipeline_id, filter=named(package.version), **page
                ),
                "pipeline_versions",
            ):
                if version.display_name == package.version:
                    return version.pipeline_version_id
            return None

        found = find()
        if found is not None:
            return Version(pipeline_id, found, package.version, uploaded=False)
        made = self._server.call(
            f"uploading {package.path} as version {package.version}",
            lambda: (
                self._client.upload_pipeline_version(
                    package.path, package.version, pipeline_id=pipeline_id
                ).pipeline_version_id
            ),
            find,
        )
        self._tell(f"uploaded version {package.version}")
        return Version(pipeline_id, made, package.version, uploaded=True)

    def runs(self, lag_days: int) -> list[DayRun]:
        """Lists the pipeline's runs, oldest first, scheduled ones included."""
        experiment = self._experiment_id()
        if experiment is None:
            return []
        found = self._server.pages(
            "listing runs",
            lambda **page: self._client.list_runs(
                experiment_id=experiment, sort_by="created_at", **page
            ),
            "runs",
        )
        return [_day_run(run, lag_days) for run in found]

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
        of_day = [run for run in self.runs(package.lag_days) if run.date == date]
        for run in of_day:
            if run.under_way:
                raise RankerError(
                    f"{date}: run {run.name} ({run.run_id}) is {run.state.lower()}; wait for it, "
                    "or terminate it first"
                )
        name = f"{self._pipeline}-{date}-{len(of_day) + 1}"
        experiment = self._made_experiment_id()

        def find() -> DayRun | None:
            for run in self._server.pages(
                "listing runs",
                lambda **page: self._client.list_runs(
                    experiment_id=experiment, filter=named(name), **page
                ),
                "runs",
            ):
                if run.display_name == name:
                    return _day_run(run, package.lag_days)
            return None

        run = self._server.call(
            f"starting {name}",
            lambda: _day_run(
                self._client.run_pipeline(
                    experiment_id=experiment,
                    job_name=name,
                    params=parameters,
                    pipeline_id=version.pipeline_id,
                    version_id=version.version_id,
                    service_account=settings.service_account,
                ),
                package.lag_days,
            ),
            find,
        )
        self._tell(f"{date}: started {run.name} ({run.run_id})")
        return run

    def wait(
        self,
        runs: Sequence[DayRun],
        lag_days: int,
        *,
        poll_seconds: float,
        timeout_seconds: float,
    ) -> list[DayRun]:
        """Waits until at least one of the runs has ended.

        Args:
            runs: under way.
            lag_days: the package's.
            poll_seconds: between two looks.
            timeout_seconds: how long to wait at most. Nothing is terminated then.

        Returns:
            Those runs as they are now, in the order given.

        Raises:
            RankerError: none has ended in time, or the server cannot be reached.
        """
        waited = 0.0
        while True:
            now = [self._run(run.run_id, lag_days) for run in runs]
            for before, run in zip(runs, now, strict=True):
                if run.state != before.state:
                    self._tell(_ending(run))
            if any(not run.under_way for run in now):
                return now
            if waited >= timeout_seconds:
                late = ", ".join(f"{run.name} ({run.run_id}) of {run.date}" for run in now)
                raise RankerError(
                    f"no end of {late} after {waited / 3600:.1f} hours; look at the pods, "
                    "terminate what hangs, and call this again"
                )
            runs = now
            self._server.sleep(poll_seconds)
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
        last = _standing(self.runs(package.lag_days), dates)
        pending = []
        for date in dates:
            run = last.get(date)
            if run is None or not (run.under_way or run.succeeded):
                pending.append(date)
            else:
                self._tell(_ending(run))
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
                package.lag_days,
                poll_seconds=poll_seconds,
                timeout_seconds=timeout_seconds,
            ):
                last[run.date] = run
                if not (run.under_way or run.succeeded or keep_going) and pending:
                    self._tell(f"stopped before {pending[0]}, as {run.date} failed")
                    pending = []

    def schedule(
        self, package: Package, name: str, cron: str, settings: RunSettings
    ) -> tuple[str, bool]:
        """Makes the daily recurring run, or replaces it where something changed.

        A replacement is made disabled; then the old one is disabled, and once it is certain not
        to have made a run since, the new one is enabled and the old one deleted. A new schedule
        takes the last time since its creation that it has missed (`no_catchup`), so a time that
        falls in between is run once. If the old one did make a run in between, the new one is
        made anew, after it. Interrupted anywhere, the same call goes on.

        Args:
            package: what to run.
            name: name of the recurring run.
            cron: six fields, seconds first.
            settings: what each run is given; no `run_date`.

        Returns:
            The recurring run's id, and whether anything changed.

        Raises:
            RankerError: a run of the schedule is under way, or the settings are no good.
        """
        check_cron(cron)
        parameters = check_parameters(package, settings.parameters)
        if "run_date" in parameters:
            raise RankerError("run_date: a schedule with a fixed day would train it every day")
        version = self.upload(package)
        fingerprint = _fingerprint(version.name, cron, parameters, settings.service_account)
        description = f"Daily run of {self._pipeline}. Settings {fingerprint}"
        experiment = self._made_experiment_id()

        def find() -> Any | None:
            for item in self._schedules(name):
                if item.description == description:
                    return item
            return None

        def create(enabled: bool) -> Any:
            return self._server.call(
                f"creating schedule {name}",
                lambda: self._client.create_recurring_run(
                    experiment_id=experiment,
                    job_name=name,
                    description=description,
                    cron_expression=cron,
                    max_concurrency=1,
                    no_catchup=True,
                    params=parameters,
                    pipeline_id=version.pipeline_id,
                    version_id=version.version_id,
                    enabled=enabled,
                    service_account=settings.service_account,
                ),
                find,
            )

        new = find()
        old = [item for item in self._schedules(name) if item.description != description]
        if new is None and not old:
            made = create(enabled=True)
            self._tell(f"schedule {name}: created, {cron}")
            return made.recurring_run_id, True
        if new is not None and not old:
            if _enabled(new):
                return new.recurring_run_id, False
            self._enable(new, True)
            self._tell(f"schedule {name}: enabled")
            return new.recurring_run_id, True
        old_ids = {item.recurring_run_id for item in old}
        if new is None or not _enabled(new):
            # A run of the old schedule does not count for the new one's concurrency, and
            # deleting a schedule takes the workflow of its run with it.
            own = {new.recurring_run_id} if new is not None else set()
            self._refuse_under_way(name, old_ids | own, package.lag_days)
            new = new or create(enabled=False)
            for item in old:
                self._enable(item, False)
            self._server.sleep(_SETTLE_SECONDS)
            if any(
                run.schedule_id in old_ids and run.created_at >= new.created_at
                for run in self.runs(package.lag_days)
            ):
                self._delete(new)
                new = create(enabled=False)
            self._enable(new, True)
        for item in old:
            self._enable(item, False)
        busy = {run.schedule_id for run in self.runs(package.lag_days) if run.under_way}
        for item in old:
            if item.recurring_run_id in busy:
                self._tell(
                    f"schedule {name}: the old one has made a run that is under way; it is "
                    "disabled, and deleted by the next call after that"
                )
            else:
                self._delete(item)
        self._tell(f"schedule {name}: replaced, {cron}")
        return new.recurring_run_id, True

    def set_schedule_enabled(self, name: str, enabled: bool) -> None:
        """Pauses or resumes the schedule. Runs under way go on.

        A resumed schedule at once runs the last day that it has missed.

        Raises:
            RankerError: there is none of that name, or more than one to resume.
        """
        found = self._existing(name)
        if enabled and len(found) > 1:
            raise RankerError(
                f"{name}: {len(found)} schedules of that name; a replacement was interrupted, "
                "call `schedule` again"
            )
        for item in found:
            self._enable(item, enabled)
        self._tell(f"schedule {name}: {'resumed' if enabled else 'paused'}")

    def unschedule(self, name: str, lag_days: int) -> None:
        """Deletes the schedule.

        Raises:
            RankerError: there is none of that name, or a run of it is under way.
        """
        found = self._existing(name)
        for item in found:
            self._enable(item, False)
        self._refuse_under_way(name, {item.recurring_run_id for item in found}, lag_days)
        for item in found:
            self._delete(item)
        self._tell(f"schedule {name}: deleted")

    def _existing(self, name: str) -> list[Any]:
        found = self._schedules(name)
        if not found:
            raise RankerError(f"{name}: pipeline {self._pipeline} has no such schedule")
        return found

    def _refuse_under_way(self, name: str, schedule_ids: set[str], lag_days: int) -> None:
        for run in self.runs(lag_days):
            if run.schedule_id in schedule_ids and run.under_way:
                raise RankerError(
                    f"schedule {name}: its run {run.name} ({run.run_id}) of {run.date} is "
                    f"{run.state.lower()}, and would be lost; call this again when it has ended"
                )

    def _schedules(self, name: str) -> list[Any]:
        """The recurring runs of that name, newest first."""
        experiment = self._experiment_id()
        if experiment is None:
            return []
        found = self._server.pages(
            "listing schedules",
            lambda **page: self._client.list_recurring_runs(
                experiment_id=experiment, filter=named(name), **page
            ),
            "recurring_runs",
        )
        mine = [item for item in found if item.display_name == name]
        return sorted(mine, key=lambda item: item.created_at, reverse=True)

    def _enable(self, schedule: Any, enabled: bool) -> None:
        change = (
            self._client.enable_recurring_run if enabled else self._client.disable_recurring_run
        )
        what = f"{'enabling' if enabled else 'disabling'} schedule {schedule.display_name}"
        self._server.call(what, lambda: change(schedule.recurring_run_id))

    def _delete(self, schedule: Any) -> None:
        def gone() -> Any | None:
            left = self._schedules(schedule.display_name)
            ids = {item.recurring_run_id for item in left}
            return None if schedule.recurring_run_id in ids else schedule

        self._server.call(
            f"deleting schedule {schedule.display_name}",
            lambda: self._client.delete_recurring_run(schedule.recurring_run_id),
            gone,
        )

    def _run(self, run_id: str, lag_days: int) -> DayRun:
        run = self._server.call(f"looking at run {run_id}", lambda: self._client.get_run(run_id))
        return _day_run(run, lag_days)

    def _pipeline_id(self) -> str | None:
        for pipeline in self._server.pages(
            "listing pipelines",
            lambda **page: self._client.list_pipelines(
                filter=named(self._pipeline), namespace=self._server.namespace, **page
            ),
            "pipelines",
        ):
            if pipeline.display_name == self._pipeline:
                return pipeline.pipeline_id
        return None

    def _experiment_id(self) -> str | None:
        if self._experiment is None:
            for experiment in self._server.pages(
                "listing experiments",
                lambda **page: self._client.list_experiments(
                    filter=named(self._pipeline), namespace=self._server.namespace, **page
                ),
                "experiments",
            ):
                if experiment.display_name == self._pipeline:
                    self._experiment = experiment.experiment_id
        return self._experiment

    def _made_experiment_id(self) -> str:
        found = self._experiment_id()
        if found is None:
            found = self._experiment = self._server.call(
                f"creating experiment {self._pipeline}",
                lambda: (
                    self._client.create_experiment(
                        self._pipeline, namespace=self._server.namespace
                    ).experiment_id
                ),
                self._experiment_id,
            )
        return found


def check_parameters(package: Package, given: Mapping[str, Any]) -> dict[str, Any]:
    """Holds run parameters against the package.

    Args:
        package: what declares them.
        given: values by name; a string stands for a value of another type as JSON.

    Returns:
        The values, of the declared types.

    Raises:
        RankerError: a parameter is unknown, or no value of its type.
    """
    checked = {}
    for name, value in given.items():
        if name not in package.parameters:
            raise RankerError(
                f"{name}: {package.path} has no such run parameter; it has "
                f"{', '.join(sorted(package.parameters))}"
            )
        if package.parameters[name] != "STRING" and isinstance(value, str):
            try:
                value = json.loads(value)
            except json.JSONDecodeError as error:
                raise RankerError(
                    f"{name}: expected {package.parameters[name]}, got {value!r}"
                ) from error
        checked[name] = value
    return checked


def days(first: datetime.date, last: datetime.date) -> list[datetime.date]:
    """Returns the days of a range, both ends included.

    Raises:
        RankerError: the range is empty.
    """
    if last < first:
        raise RankerError(f"{last} is before {first}")
    return [first + datetime.timedelta(days=day) for day in range((last - first).days + 1)]


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


def _enabled(schedule: Any) -> bool:
    return (schedule.status or schedule.mode or "").upper() in ("ENABLED", "ENABLE")


def _fingerprint(*content: Any) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
