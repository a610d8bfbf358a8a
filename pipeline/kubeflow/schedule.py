"""The daily recurring run of a pipeline on a Kubeflow Pipelines server.

The server does not keep names of recurring runs apart and cannot change one. It takes the last
time that a schedule has missed since its last run, or since its start time, or since it was made
(kubeflow/pipelines, backend/src/crd/controller/scheduledworkflow), and looks every half minute.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from typing import Any

from pipeline.kubeflow.client import Deployment
from pipeline.kubeflow.cron import check_cron
from pipeline.kubeflow.package import Package, RunSettings, check_parameters
from schemas.errors import RankerError

_SETTLE_SECONDS = 15.0
"""A run that was being made when its schedule was disabled is there after this long."""


class Schedule:
    """The recurring run of one name, in the experiment of its pipeline.

    Args:
        deployment: of the pipeline.
        name: of the recurring run.
    """

    def __init__(self, deployment: Deployment, name: str) -> None:
        self._deployment = deployment
        self._server = deployment.server
        self._client = deployment.server.client
        self._name = name

    def apply(self, package: Package, cron: str, settings: RunSettings) -> tuple[str, bool]:
        """Makes the recurring run, or replaces it where something changed; enables it.

        A replacement is made disabled, to start after the last day that was run; the old one is
        disabled; if it has made a run meanwhile after all, the new one is made again, to start
        after that; the new one is enabled, and the old one deleted. So a time that comes in
        between, or that the old one has not got to yet, is run once, by one of the two.
        Interrupted anywhere, the same call goes on.

        Args:
            package: what to run.
            cron: six fields, seconds first; once a day.
            settings: what each run is given; no `run_date`.

        Returns:
            The recurring run's id, and whether anything changed.

        Raises:
            RankerError: a run of the schedule is under way, or the settings do not fit.
        """
        check_cron(cron)
        parameters = check_parameters(package, settings.parameters)
        if "run_date" in parameters:
            raise RankerError("run_date: a schedule with a fixed day would train it every day")
        if package.run_date:
            raise RankerError(
                f"{package.path}: its run_date is {package.run_date}, which a schedule would train "
                "every day; leave parameters.run_date of the values empty and compile it anew"
            )
        version = self._deployment.upload(package)
        experiment = self._deployment.make_experiment()
        content = [version.name, package.pipeline_root, cron, parameters, settings.service_account]
        fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        description = f"Daily run of {package.pipeline}. Settings {fingerprint[:16]}"

        def find() -> Any | None:
            found = [item for item in self._found() if item.description == description]
            return found[0] if found else None

        def create(enabled: bool, start_time: datetime.datetime | None = None) -> Any:
            return self._server.call(
                f"creating schedule {self._name}",
                lambda: self._client.create_recurring_run(
                    experiment_id=experiment,
                    job_name=self._name,
                    description=description,
                    start_time=f"{start_time:%Y-%m-%dT%H:%M:%SZ}" if start_time else None,
                    cron_expression=cron,
                    max_concurrency=1,
                    no_catchup=True,
                    params=parameters,
                    pipeline_id=version.pipeline_id,
                    version_id=version.version_id,
                    enabled=enabled,
                    pipeline_root=package.pipeline_root,
                    service_account=settings.service_account,
                ),
                find,
            )

        new = find()
        old = [item for item in self._found() if item.description != description]
        if new is None and not old:
            made = create(enabled=True)
            self._tell(f"created, {cron}")
            return made.recurring_run_id, True
        if new is not None and not old:
            changed = not _enabled(new)
            if changed:
                self._enable(new, True)
            return new.recurring_run_id, changed
        if new is None or not _enabled(new):
            self._refuse_under_way()
            start_time = self._ran_until(old)
            if new is not None:
                self._delete(new)
            new = create(False, start_time)
            for item in old:
                self._enable(item, False)
            self._server.sleep(_SETTLE_SECONDS)
            later = self._ran_until(old)
            if later != start_time:
                self._delete(new)
                new = create(False, later)
            self._enable(new, True)
        self._retire(old)
        self._tell(f"replaced, {cron}")
        return new.recurring_run_id, True

    def set_enabled(self, enabled: bool) -> None:
        """Pauses or resumes the schedule. Runs under way go on.

        A resumed schedule at once runs the last day that it has missed.

        Raises:
            RankerError: there is none of that name, or more than one to resume.
        """
        found = self._existing()
        if enabled and len(found) > 1:
            raise RankerError(
                f"{self._name}: {len(found)} schedules of that name; a replacement was "
                "interrupted, make the schedule again"
            )
        for item in found:
            self._enable(item, enabled)

    def delete(self) -> None:
        """Deletes the schedule.

        Raises:
            RankerError: there is none of that name, or a run of it is under way.
        """
        found = self._existing()
        for item in found:
            self._enable(item, False)
        self._refuse_under_way()
        for item in found:
            self._delete(item)
        self._tell("deleted")

    def _found(self) -> list[Any]:
        """The recurring runs of the name, newest first."""
        experiment = self._deployment.find_experiment()
        if experiment is None:
            return []
        found = self._server.find(
            self._name,
            "recurring_runs",
            self._client.list_recurring_runs,
            experiment_id=experiment,
        )
        return sorted(found, key=lambda item: item.created_at, reverse=True)

    def _existing(self) -> list[Any]:
        found = self._found()
        if not found:
            raise RankerError(
                f"{self._name}: pipeline {self._deployment.pipeline} has no such schedule"
            )
        return found

    def _refuse_under_way(self) -> None:
        """Another schedule would not wait for a run, and deleting its own would end it."""
        ids = {item.recurring_run_id for item in self._found()}
        for run in self._deployment.runs():
            if run.schedule_id in ids and run.under_way:
                raise RankerError(
                    f"schedule {self._name}: its run {run.name} ({run.run_id}) of {run.date} is "
                    f"{run.state.lower()}, and would be lost; call this again when it has ended"
                )

    def _ran_until(self, old: list[Any]) -> datetime.datetime:
        """The end of the last day on which a schedule of the name was due and ran.

        If none has run yet, when the newest of the old ones was made.
        """
        ids = {item.recurring_run_id for item in self._found()}
        dates = [run.date for run in self._deployment.runs() if run.schedule_id in ids]
        if not dates:
            return max(item.created_at for item in old)
        day = max(dates) + datetime.timedelta(days=self._deployment.lag_days + 1)
        midnight = datetime.datetime.combine(day, datetime.time(), datetime.timezone.utc)
        return midnight - datetime.timedelta(seconds=1)

    def _retire(self, old: list[Any]) -> None:
        for item in old:
            self._enable(item, False)
        runs = self._deployment.runs()
        busy = {run.schedule_id for run in runs if run.under_way}
        for item in old:
            if item.recurring_run_id in busy:
                self._tell(
                    "the old one has made a run that is under way; it is disabled, and the next "
                    "call after that deletes it"
                )
            else:
                self._delete(item)

    def _enable(self, schedule: Any, enabled: bool) -> None:
        if _enabled(schedule) == enabled:
            return
        change = (
            self._client.enable_recurring_run if enabled else self._client.disable_recurring_run
        )
        what = f"{'enabling' if enabled else 'disabling'} schedule {self._name}"
        self._server.call(what, lambda: change(schedule.recurring_run_id))
        self._tell("enabled" if enabled else "disabled")

    def _delete(self, schedule: Any) -> None:
        def gone() -> Any | None:
            left = {item.recurring_run_id for item in self._found()}
            return None if schedule.recurring_run_id in left else schedule

        self._server.call(
            f"deleting schedule {self._name}",
            lambda: self._client.delete_recurring_run(schedule.recurring_run_id),
            gone,
        )

    def _tell(self, line: str) -> None:
        self._deployment.tell(f"schedule {self._name}: {line}")


def _enabled(schedule: Any) -> bool:
    return (schedule.status or schedule.mode or "").upper() in ("ENABLED", "ENABLE")
