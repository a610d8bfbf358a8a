"""What ML Metadata knows about runs and models."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import pathlib
import sqlite3
from collections.abc import Mapping, Sequence
from typing import TypeVar

from ml_metadata import ListOptions, MetadataStore, OrderByField
from ml_metadata.proto import metadata_store_pb2 as mlmd

from components import properties
from components.properties import ERROR, Property, values_of
from schemas.errors import RankerError

LOCK_SECONDS = 60.0
"""How long a store that another process has locked is waited for."""

_RUN = "pipeline_run"
_T = TypeVar("_T")
_STATES = mlmd.Execution.State
_NEWEST = 100
"""Contexts among which the newest run is: those of its components come after it, if new."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of the pipeline.

    Attributes:
        run_id: TFX's pipeline run id.
        run_date: the day it evaluated on; empty if it failed before that was known.
        started: when its first component started, UTC.
        seconds: from there to the last change of a component.
        components: state of each component that started, in order of their start, by id:
            `RUNNING`, `COMPLETE`, `FAILED`, ...
        outcome: `pushed`, `blocked`, `failed` or `running`.
        reasons: why it was blocked or failed.
        start: why the start was warm or cold.
        baseline: why there was a comparison with the served model or none.
        stability: how stable the training was; empty if it did not come to its end.
        training: in how many steps it trained, and whether they are enough; likewise.
        metrics: over all events, by model (`candidate`, `baseline`), task and metric.
        version: the pushed version.
        served_before: the version that was served when it started.
        model_uri: its Model artifact.
        base_model_uri: the Model artifact whose weights it started from; empty if cold.
        executions: ids of its executions, which name the folders of what they wrote.
        events: what became of the events of its days; see `properties.events_of`. Empty if it
            failed before that was known.
        notes: what its components remarked, each with the component's name in front.
        component_seconds: how long each component took, by id; of one that runs, until now.
        artifacts: URI of what it wrote, by type of artifact; of two of a type the later one's.
        held: days that were left out of training, with the reasons.
        intervals: as `metrics`, and of the `change` between the models: `value`, `low`, `high`,
            `standard_error` and `degrees_of_freedom`.
    """

    run_id: str
    run_date: str
    started: datetime.datetime
    seconds: float
    components: Mapping[str, str]
    outcome: str
    reasons: tuple[str, ...]
    start: str
    baseline: str
    stability: str
    training: str
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]]
    version: int | None
    served_before: int | None
    model_uri: str
    base_model_uri: str
    executions: tuple[int, ...] = ()
    events: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    component_seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    artifacts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    held: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    intervals: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]] = dataclasses.field(
        default_factory=dict
    )

    @property
    def served_after(self) -> int | None:
        """The version that was served when it ended."""
        return self.version or self.served_before

    def task_metric(self, task: str) -> float | None:
        """The AUC, or else the RMSE, that the candidate reached on a task."""
        metrics = self.metrics.get("candidate", {}).get(task, {})
        return metrics.get("auc", metrics.get("rmse"))

    def task_lift(self, task: str) -> float | None:
        """The candidate's AUC less that of smoothed rates; None for a regression."""
        return self.metrics.get("candidate", {}).get(task, {}).get("auc_lift")


def open_store(metadata_path: str, wait: float = LOCK_SECONDS) -> MetadataStore | None:
    """Opens the sqlite store for reading, or returns None before the first run.

    Args:
        metadata_path: the sqlite file.
        wait: seconds to wait for another process that has locked it.

    Raises:
        RankerError: the file stays locked, or is not a store that can be read.
    """
    if not os.path.exists(metadata_path):
        return None
    try:
        if not _has_tables(metadata_path, wait):
            return None
        config = mlmd.ConnectionConfig()
        config.sqlite.filename_uri = metadata_path
        config.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READWRITE
        return MetadataStore(config)
    except Exception as error:
        # MLMD's message has the whole statement after it.
        reason = str(error).removeprefix("Error when executing query: ").partition(" query:")[0]
        if "locked" in reason or "Concurrent writes" in reason:
            raise RankerError(
                f"{metadata_path}: locked by another process for more than {wait:.0f} s; try "
                "again when that has ended (a backup, or a tool that looks into the file)"
            ) from error
        raise RankerError(
            f"{metadata_path}: cannot be read as ML Metadata ({reason}); restore it from a "
            "backup. The served versions do not depend on it"
        ) from error


def _has_tables(metadata_path: str, wait: float) -> bool:
    """Whether anything is in the file yet; says of a lock what it is, which MLMD does not."""
    with contextlib.closing(
        sqlite3.connect(
            f"{pathlib.Path(metadata_path).absolute().as_uri()}?mode=rw", wait, uri=True
        )
    ) as database:
        return bool(database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall())


def list_runs(store: MetadataStore) -> list[Run]:
    """Returns all runs, oldest first."""
    contexts = store.get_contexts_by_type(_RUN)
    types = _Types(store)
    runs = (_run(store, context, types) for context in sorted(contexts, key=lambda c: c.id))
    return [run for run in runs if run is not None]


def newest_run(store: MetadataStore) -> Run | None:
    """Returns the run that began last; what it costs does not grow with the number of runs."""
    # Newer releases of ML Metadata cannot filter by type.
    for limit in (1, _NEWEST, None):
        newest = ListOptions(limit=limit, order_by=OrderByField.ID, is_asc=False)
        for context in store.get_contexts(list_options=newest):
            if context.type == _RUN:
                return _run(store, context, _Types(store))
    return None


def latest_run(store: MetadataStore, run_date: str) -> Run | None:
    """Returns the newest run of a day."""
    types = _Types(store)
    for context in sorted(store.get_contexts_by_type(_RUN), key=lambda c: c.id, reverse=True):
        run = _run(store, context, types)
        if run is not None and run.run_date == run_date:
            return run
    return None


def origins(model_uri: str, runs: Sequence[Run]) -> list[Run]:
    """Returns the runs that a model's weights went through, from its own back to the cold start."""
    by_uri = {run.model_uri: run for run in runs if run.model_uri}
    found: list[Run] = []
    while (run := by_uri.get(model_uri)) is not None and run not in found:
        found.append(run)
        model_uri = run.base_model_uri
    return found


def set_error(store: MetadataStore, error: str) -> None:
    """Notes on the newest failed execution what it failed with, if nothing is noted yet.

    A run may fail before its first execution; an older run's error is not to be replaced.
    """
    failed = [
        e
        for e in store.get_executions()
        if e.last_known_state == _STATES.FAILED and ERROR not in e.custom_properties
    ]
    if failed:
        execution = max(failed, key=lambda e: e.id)
        execution.custom_properties[ERROR].string_value = error
        store.put_executions([execution])


def abandon_running(store: MetadataStore, reason: str = "killed while running") -> None:
    """Marks what a killed run left running as failed.

    To be called when no run is under way: ML Metadata itself cannot tell. Called before each
    run, it finds only the newest unfinished. A run may have been killed between two
    components, so that none of them is running.
    """
    run = newest_run(store)
    if run is None or run.outcome != "running":
        return
    context = store.get_context_by_type_and_name(_RUN, run.run_id)
    last = max(store.get_executions_by_context(context.id), key=lambda e: e.id)
    if last.last_known_state == _STATES.RUNNING:
        last.last_known_state = _STATES.FAILED
    last.custom_properties[ERROR].string_value = reason
    store.put_executions([last])


def place(path: str) -> str:
    """Returns `<component>/<output>/<execution>`: it stays when a workspace is moved."""
    return "/".join(path.rstrip("/").split("/")[-3:])


class _Types:
    """Names of the store's types by id."""

    def __init__(self, store: MetadataStore):
        self.executions = {t.id: t.name.rpartition(".")[2] for t in store.get_execution_types()}
        self.artifacts = {t.id: t.name for t in store.get_artifact_types()}


def _run(store: MetadataStore, context: mlmd.Context, types: _Types) -> Run | None:
    executions = sorted(store.get_executions_by_context(context.id), key=lambda e: e.id)
    if not executions:
        return None
    components = {types.executions[e.type_id]: _STATES.Name(e.last_known_state) for e in executions}
    outputs = _outputs(store, context, types)

    def said(what: Property[_T]) -> _T:
        return what.of(outputs.get(what.kind, {}))

    pushed = said(properties.PUSHED)
    version = said(properties.PUSHED_VERSION) if pushed else None
    errors = [str(values[ERROR]) for e in executions if ERROR in (values := values_of(e))]
    outcome = _outcome(components, pushed, errors)
    reasons: Sequence[str] = errors
    if outcome == "blocked":
        reasons = said(properties.REFUSED_REASONS)
    elif outcome == "failed" and not errors:
        reasons = [f"{name} failed" for name, state in components.items() if state == "FAILED"]
    started = executions[0].create_time_since_epoch
    return Run(
        run_id=context.name,
        run_date=said(properties.RUN_DATE) or _requested_date(executions),
        started=datetime.datetime.fromtimestamp(started / 1e3, datetime.timezone.utc),
        seconds=(max(e.last_update_time_since_epoch for e in executions) - started) / 1e3,
        components=components,
        executions=tuple(execution.id for execution in executions),
        events=properties.events_of(said),
        notes=tuple(
            f"{speaker}: {line}"
            for remarks, speaker in properties.REMARKS.items()
            for line in said(remarks)
        ),
        component_seconds={types.executions[e.type_id]: _seconds(e) for e in executions},
        artifacts={kind: str(values["uri"]) for kind, values in outputs.items()},
        held=said(properties.HELD),
        outcome=outcome,
        reasons=tuple(reasons),
        start=said(properties.START),
        baseline=said(properties.COMPARISON),
        stability=said(properties.STABILITY),
        training=said(properties.TRAINING),
        intervals=said(properties.INTERVALS),
        metrics=said(properties.METRICS),
        version=version,
        served_before=said(properties.SERVED_VERSION) or None,
        model_uri=str(outputs.get("Model", {}).get("uri", "")),
        base_model_uri=said(properties.BASE_MODEL),
    )


def _seconds(execution: mlmd.Execution) -> float:
    start = execution.create_time_since_epoch
    end = execution.last_update_time_since_epoch
    if execution.last_known_state == _STATES.RUNNING:
        now = datetime.datetime.now(datetime.timezone.utc)
        return max(now.timestamp() - start / 1e3, 0.0)
    return (end - start) / 1e3


def _outcome(components: Mapping[str, str], pushed: int | None, errors: Sequence[str]) -> str:
    if pushed:
        return "pushed"
    if errors or "FAILED" in components.values():
        return "failed"
    return "running" if pushed is None else "blocked"


def _outputs(
    store: MetadataStore, context: mlmd.Context, types: _Types
) -> dict[str, dict[str, object]]:
    """Custom properties and URI of the run's artifacts, by type; those of one type together."""
    result: dict[str, dict[str, object]] = {}
    for artifact in sorted(store.get_artifacts_by_context(context.id), key=lambda a: a.id):
        values = values_of(artifact)
        if properties.COPY_OF.name in values:
            # Plan's copies of the served model are Models too, but none that the run made.
            continue
        of_type = result.setdefault(types.artifacts[artifact.type_id], {})
        # Two were Examples once: those of the logs, and transformed ones.
        of_type.update(values, uri=artifact.uri)
    return result


def _requested_date(executions: Sequence[mlmd.Execution]) -> str:
    for execution in executions:
        if asked := properties.RUN_DATE.of(values_of(execution)):
            return asked
    return ""
