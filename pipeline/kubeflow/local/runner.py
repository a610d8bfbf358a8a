"""Runs a package step by step, in parallel where its graph allows."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import graphlib
import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.kubeflow.lint import dependencies, lint
from pipeline.kubeflow.local import driver, launcher
from pipeline.kubeflow.local.backends import NEWEST, backend_of
from schemas.errors import RankerError

Json = dict[str, Any]

STATE_FILE = "state.json"

BUILT_IN_ROOT = "minio://mlpipeline/v2/artifacts"
"""Root of runs that were given none, where the ConfigMap `kfp-launcher` names none either."""

SUCCEEDED, FAILED, OMITTED = "succeeded", "failed", "omitted"


@dataclasses.dataclass(frozen=True)
class StepResult:
    """How a step ended.

    Attributes:
        name: name of the task.
        state: `succeeded`, `failed`, or `omitted` since another one failed.
        seconds: wall time of all attempts.
        attempts: how often it was run.
        exit_code: that of the last attempt's pod: 0 or 1.
        log: file of what the last attempt printed.
        error: what the last attempt failed with; empty if it did not.
        outputs: recorded artifacts by output: `uri`, `metadata`.
    """

    name: str
    state: str
    seconds: float = 0.0
    attempts: int = 0
    exit_code: int | None = None
    log: str = ""
    error: str = ""
    outputs: dict[str, Json] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        run_id: its id.
        folder: its folder, with `state.json` (all of this) and a log a step.
        steps: results by task, in the order they ended.
    """

    run_id: str
    folder: Path
    steps: dict[str, StepResult]

    @property
    def exit_code(self) -> int:
        """0 if no step failed; else 1, which is what each failed pod ends with."""
        return int(any(step.state == FAILED for step in self.steps.values()))

    def find(self, key: str) -> list[Any]:
        """Returns the values of metadata `key` of all artifacts that have it."""
        return [
            artifact["metadata"][key]
            for step in self.steps.values()
            for artifact in step.outputs.values()
            if key in artifact.get("metadata", {})
        ]


def run_package(
    documents: Sequence[Json],
    root: Path,
    parameters: Mapping[str, Any],
    *,
    pipeline_root: str = BUILT_IN_ROOT,
    backend: str = NEWEST,
    jobs: int = 2,
    schedule_time: str | None = None,
    container: Sequence[str] = (),
    on_step: Callable[[StepResult], None] = lambda step: None,
    sleep: Callable[[float], None] = time.sleep,
) -> RunResult:
    """Runs a package as Kubeflow would.

    A step starts when those it depends on have succeeded. When one has failed for good, no
    other is started, and those under way are waited for. A claim's volume is a folder under
    `root`: defaults of run parameters under its mount path are paths in that folder. Secrets
    and nodes, which the platform spec may ask for too, are not provided.

    Args:
        documents: the package.
        root: folder of the object stores (`store`), the volumes (`volumes`) and the runs
            (`runs`); all stay, so that a later run finds what this one left.
        parameters: run parameters that differ from their defaults.
        pipeline_root: what the run was given as its root. The package's own reaches nobody.
        backend: release of Kubeflow Pipelines whose driver and launcher to follow.
        jobs: how many steps may run at once.
        schedule_time: see `driver.PackageRun`.
        container: the beginning of a command that starts a container, such as `docker run
            --network none`; each step runs in its image then, and in a process if it is empty.
        on_step: told about each step that has ended.
        sleep: waits between attempts, seconds.

    Raises:
        RankerError: the package could not run on Kubeflow, or a parameter or the release is
            unknown.
    """
    problems = lint(documents)
    if problems:
        raise RankerError("The package would not run:\n" + "\n".join(f"  {p}" for p in problems))
    spec = documents[0]
    values = driver.run_parameters(spec, parameters)
    volumes = _volumes(documents, root.absolute() / "volumes")
    run = driver.PackageRun(
        run_id=str(uuid.uuid4()),
        pipeline_name=spec["pipelineInfo"]["name"],
        pipeline_root=pipeline_root,
        parameters={
            name: value if container or name in parameters else _on_volume(value, volumes)
            for name, value in values.items()
        },
        backend=backend_of(backend),
        schedule_time=schedule_time,
    )
    folder = root.absolute() / "runs" / run.run_id
    folder.mkdir(parents=True)
    engine = None
    if container:
        for path in volumes.values():
            # Its owner is a user of the container, as with Kubernetes' fsGroup.
            Path(path).mkdir(parents=True, exist_ok=True)
            Path(path).chmod(0o777)
        engine = launcher.Engine(container, volumes)
    work = _Work(run, spec, folder, root.absolute() / "store", engine, sleep)
    results: dict[str, StepResult] = {}
    tasks = spec["root"]["dag"]["tasks"]
    graph = graphlib.TopologicalSorter({name: dependencies(task) for name, task in tasks.items()})
    graph.prepare()
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        pending: set[concurrent.futures.Future[StepResult]] = set()
        while True:
            if all(result.state == SUCCEEDED for result in results.values()):
                outputs = {name: result.outputs for name, result in results.items()}
                pending |= {pool.submit(work.step, name, outputs) for name in graph.get_ready()}
            if not pending:
                break
            ended, pending = concurrent.futures.wait(
                pending, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in ended:
                result = future.result()
                results[result.name] = result
                graph.done(result.name)
                on_step(result)
    for name in tasks:
        if name not in results:
            results[name] = StepResult(name, OMITTED)
            on_step(results[name])
    content = {
        "run_id": run.run_id,
        "parameters": dict(run.parameters),
        "steps": {name: dataclasses.asdict(result) for name, result in results.items()},
    }
    (folder / STATE_FILE).write_text(json.dumps(content, indent=2), "utf-8")
    return RunResult(run.run_id, folder, results)


def _volumes(documents: Sequence[Json], folder: Path) -> dict[str, str]:
    """Local folders of the claims' volumes, by mount path."""
    platform = documents[1]["platforms"]["kubernetes"] if len(documents) == 2 else {}
    executors = platform.get("deploymentSpec", {}).get("executors", {})
    return {
        mount["mountPath"].rstrip("/"): str(folder / mount["constant"])
        for config in executors.values()
        for mount in config.get("pvcMount", ())
    }


def _on_volume(value: Any, volumes: Mapping[str, str]) -> Any:
    for mount_path, folder in volumes.items():
        if isinstance(value, str) and value.startswith(f"{mount_path}/"):
            return folder + value.removeprefix(mount_path)
    return value


class _Work:
    """Runs single steps of one run; called from several threads."""

    def __init__(
        self,
        run: driver.PackageRun,
        spec: Json,
        folder: Path,
        store: Path,
        engine: launcher.Engine | None,
        sleep: Callable[[float], None],
    ):
        self._run = run
        self._spec = spec
        self._folder = folder
        self._store = store
        self._engine = engine
        self._sleep = sleep
        self._ids = itertools.count(1)

    def step(self, name: str, outputs: Mapping[str, Mapping[str, Json]]) -> StepResult:
        task = self._spec["root"]["dag"]["tasks"][name]
        component = self._spec["components"][task["componentRef"]["name"]]
        executor = self._spec["deploymentSpec"]["executors"][component["executorLabel"]]
        executor_input = {
            "inputs": driver.resolve_inputs(self._run, name, task, component, outputs),
            "outputs": driver.provision_outputs(self._run, name, component, str(uuid.uuid4())),
        }
        began = time.monotonic()
        waits = _waits(task.get("retryPolicy", {}))
        for attempt in itertools.count():
            log = self._folder / f"{name}-{attempt + 1}.log"
            recorded, error = None, ""
            try:
                recorded = self._attempt(
                    executor_input, component, executor["container"], attempt, log
                )
            except RankerError as failed:
                error = str(failed)
                with log.open("a", encoding="utf-8") as file:
                    file.write(f"launcher: {error}\n")
            wait = next(waits, None)
            if recorded is not None or wait is None:
                break
            self._sleep(wait)
        return StepResult(
            name,
            FAILED if recorded is None else SUCCEEDED,
            time.monotonic() - began,
            attempt + 1,
            int(recorded is None),
            str(log),
            error,
            recorded or {},
        )

    def _attempt(
        self, executor_input: Json, component: Json, container: Json, attempt: int, log: Path
    ) -> dict[str, Json]:
        """Runs a step once; returns its recorded artifacts."""
        outputs = launcher.launch(
            executor_input,
            component,
            container,
            self._store,
            log.with_suffix(""),
            log,
            self._run.backend,
            attempt,
            self._engine,
        )
        return {
            key: driver.record(key, artifact, next(self._ids), self._run)
            for key, artifact in outputs.items()
        }


def _waits(policy: Json) -> Iterator[float]:
    """Seconds before each retry, as Argo's exponential backoff has them.

    The largest duration does not cap a wait: it is when Argo gives up, counted from the start of
    the first attempt. One that is missing compiles to 0.
    """
    began = time.monotonic()
    wait = float(policy.get("backoffDuration", "0s").removesuffix("s"))
    longest = float(policy.get("backoffMaxDuration", "0s").removesuffix("s"))
    waited = 0.0
    for _ in range(policy.get("maxRetryCount", 0)):
        # The waits count although the caller may pass over them.
        if max(time.monotonic() - began, waited) + wait > longest:
            return
        yield wait
        waited += wait
        wait *= policy.get("backoffFactor", 2.0)
