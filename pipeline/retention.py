"""What of a workspace is kept on disk, and the removal of the rest.

Nothing in `serving/` and no row of ML Metadata is touched: what is served, what a rollback may
name and the lineage of both stay. What is removed from `artifacts/` is marked as deleted in
ML Metadata.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import shutil
from collections.abc import Iterator, Sequence

from absl import logging
from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as mlmd

from components import serving_store
from pipeline import lineage
from pipeline.workspace import Workspace
from schemas.errors import RankerError
from schemas.spec import RankingSpec

_DATA = {"Examples", "Model"}
"""Types of artifacts that hold events or weights; all others are small."""


@dataclasses.dataclass(frozen=True)
class Surplus:
    """A file or folder that is kept no longer.

    Attributes:
        path: where it lies.
        what: what it is, for people.
        size: bytes that its removal frees; files that lie elsewhere too count nothing.
    """

    path: str
    what: str
    size: int


def find_surplus(workspace: Workspace, store: MetadataStore, spec: RankingSpec) -> list[Surplus]:
    """Finds what `spec.retention` does not keep; to be called while no run is under way.

    Args:
        workspace: where to look.
        store: its ML Metadata.
        spec: the ranking spec of its runs.

    Returns:
        What may be removed, in no order that matters.
    """
    runs = lineage.list_runs(store)
    served = serving_store.served_version(workspace.serving)
    keep = _Kept.of(runs, served, spec)
    found = [
        *_artifacts(workspace.artifacts, runs, keep, _reports(store)),
        *_run_logs(workspace.run_logs, spec.retention.reports),
        *_checkpoints(workspace.checkpoints, served),
        *_days(workspace.day_store, keep.first_day),
    ]
    return [Surplus(path, what, _freed(path)) for path, what in found]


def remove(surplus: Sequence[Surplus], store: MetadataStore) -> None:
    """Removes what `find_surplus` found; what cannot be removed now is found again later."""
    gone = {lineage.place(item.path) for item in surplus}
    artifacts = [
        artifact for artifact in store.get_artifacts() if lineage.place(artifact.uri) in gone
    ]
    for artifact in artifacts:
        artifact.state = mlmd.Artifact.State.DELETED
    if artifacts:
        store.put_artifacts(artifacts)
    for item in surplus:
        try:
            if os.path.isdir(item.path):
                shutil.rmtree(item.path)
            else:
                os.remove(item.path)
        except OSError as error:
            logging.warning("%s: cannot be removed: %s", item.path, error)


def tidy(workspace: Workspace, spec: RankingSpec) -> None:
    """Removes what is kept no longer after a run, whose outcome it can never change."""
    try:
        store = lineage.open_store(workspace.metadata_path)
        if store is not None:
            remove(find_surplus(workspace, store, spec), store)
    except Exception as error:
        logging.warning("%s: old runs are not removed: %s", workspace.root, error)


def spec_of_newest_run(workspace: Workspace, store: MetadataStore) -> RankingSpec:
    """Returns the ranking spec that the newest run with a plan was given.

    Raises:
        RankerError: no plan can be read.
    """
    from components.run_plan import load_plan

    for artifact in sorted(store.get_artifacts_by_type("RunPlan"), key=lambda a: -a.id):
        try:
            return load_plan(os.path.join(workspace.artifacts, lineage.place(artifact.uri))).spec
        except (OSError, RankerError):
            continue
    raise RankerError(f"{workspace.root}: no run there has left its plan; give --spec")


@dataclasses.dataclass(frozen=True)
class _Kept:
    """What is kept.

    Attributes:
        whole: runs of which everything stays.
        reports: runs of which all but the data stays.
        first_day: oldest day whose encoded events stay.
    """

    whole: frozenset[str]
    reports: frozenset[str]
    first_day: str

    @classmethod
    def of(
        cls,
        runs: Sequence[lineage.Run],
        served: serving_store.ServedVersion | None,
        spec: RankingSpec,
    ) -> _Kept:
        newest = runs[-spec.retention.runs :]
        whole = {run.run_id for run in newest} | {r.run_id for r in runs if r.outcome == "running"}
        if served is not None:
            whole |= {run.run_id for run in runs if run.model_uri == served.info.model_uri}
        reports = {run.run_id for run in runs[-spec.retention.reports :]}
        dates = [date for run in newest if (date := _date(run.run_date)) is not None]
        first_day = ""
        if dates:
            span = spec.training.window_days + spec.history_days + spec.retention.days
            first_day = str(min(dates) - datetime.timedelta(days=span))
        return cls(frozenset(whole), frozenset(reports), first_day)


def _artifacts(
    root: str, runs: Sequence[lineage.Run], keep: _Kept, reports: set[str]
) -> Iterator[tuple[str, str]]:
    """Folders as TFX makes them: `<component>/<output>/<execution>`."""
    run_of = {str(execution): run for run in runs for execution in run.executions}
    for component in _folders(root):
        outputs = [path for path in _folders(component) if os.path.basename(path) != ".system"]
        # What TFX's launcher passes to the executor and back.
        outputs.append(os.path.join(component, ".system", "executor_execution"))
        for path in (execution for output in outputs for execution in _folders(output)):
            run = run_of.get(os.path.basename(path))
            # Of an execution that this ML Metadata does not know, nothing is known.
            if run is None or run.run_id in keep.whole:
                continue
            what = f"{os.path.relpath(os.path.dirname(path), root)} of the run of {run.run_date}"
            if run.run_id not in keep.reports or lineage.place(path) not in reports:
                yield path, what


def _reports(store: MetadataStore) -> set[str]:
    """Where small artifacts lie; what a killed step left is not among them."""
    types = {kind.id for kind in store.get_artifact_types() if kind.name not in _DATA}
    return {
        lineage.place(artifact.uri)
        for artifact in store.get_artifacts()
        if artifact.type_id in types
    }


def _run_logs(root: str, count: int) -> Iterator[tuple[str, str]]:
    try:
        logs = [entry for entry in os.scandir(root) if entry.name.endswith(".log")]
    except OSError:
        return
    logs = [entry for entry in logs if entry.is_file(follow_symlinks=False)]
    for entry in sorted(logs, key=lambda entry: entry.stat().st_mtime)[:-count]:
        yield entry.path, "run log"


def _checkpoints(
    root: str, served: serving_store.ServedVersion | None
) -> Iterator[tuple[str, str]]:
    """Those of days that cannot be run again, since a later day's model is served."""
    for path in _folders(root) if served is not None else ():
        date = _date(os.path.basename(path)[:10])
        if served is not None and date is not None and date < served.info.run_date:
            yield path, f"checkpoints of {date}, which is before the served version's day"


def _days(root: str, first_day: str) -> Iterator[tuple[str, str]]:
    for encoding in _folders(root):
        for path in _folders(encoding):
            date = os.path.basename(path)
            if _date(date) is not None and date < first_day:
                yield path, f"encoded events of {date}"


def _folders(path: str) -> list[str]:
    """Folders right in a folder, links left out: what they lead to is not the workspace's."""
    try:
        return [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _date(text: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        return None


def _freed(path: str) -> int:
    files = [path]
    if os.path.isdir(path):
        files = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
    size = 0
    for file in files:
        try:
            status = os.lstat(file)
        except OSError:
            continue
        # Shards are hard links to the encoded days.
        size += status.st_blocks * 512 if status.st_nlink == 1 else 0
    return size
