"""A stand-alone Flink cluster on loopback: JobManager, TaskManagers, Beam's job server."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from benchmarks.flink.jars import NotHereError
from benchmarks.processes import usage
from pipeline.flink.pool import write_starter
from pipeline.flink.settings import CLUSTER

HOST = "127.0.0.1"
_BASE_GB, _WORKER_GB = 4, 3
"""Of the run, the JobManager and the job server; of a TaskManager and its worker of Beam."""
_OPENS = (
    *("java.lang", "java.lang.reflect", "java.util", "java.util.concurrent"),
    *("java.util.concurrent.atomic", "java.util.concurrent.locks", "java.net", "java.io"),
    *("java.nio", "java.text", "java.time", "sun.nio.ch"),
)
_START_SECONDS = 240
_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_CLIENT = "org.apache.flink.client.cli.CliFrontend"
_JOB_SERVER = "org.apache.beam.runners.flink.FlinkJobServerDriver"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False


def check_memory(workers: int) -> None:
    """Raises `jars.NotHereError` where a cluster of so many workers would not fit."""
    with open("/proc/meminfo", encoding="ascii") as file:
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in file}
    free, needed = kilobytes["MemAvailable"] / 1e6, _BASE_GB + workers * _WORKER_GB
    if free < needed:
        raise NotHereError(
            f"{workers} workers take {needed:.0f} GB of memory, and {free:.0f} GB are free"
        )


class Cluster:
    """A cluster that lives as long as the `with` statement.

    Args:
        jars: folder of the jars; see `jars.fetch`.
        workers: number of TaskManagers, of one slot each.
        settings: of Flink, over those of `pipeline.flink.settings`.

    Attributes:
        folder: of its configuration and logs; removed in the end, unless something failed.
    """

    def __init__(
        self, jars: pathlib.Path, workers: int, settings: Mapping[str, str] | None = None
    ) -> None:
        self._jars = jars
        self._workers = workers
        self._settings = dict(settings or {})
        self._ports = {name: _free_port() for name in ("rpc", "blob", "rest", "job", "artifact")}
        self._processes: dict[str, subprocess.Popen] = {}
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="steadyrank-flink-"))
        self._starter = write_starter(str(self.folder))

    @property
    def beam_args(self) -> tuple[str, ...]:
        """The Beam options of a pipeline that runs here."""
        return (
            "--runner=PortableRunner",
            f"--job_endpoint={HOST}:{self._ports['job']}",
            f"--artifact_endpoint={HOST}:{self._ports['artifact']}",
            # Each TaskManager starts its workers itself. Those of several would have the same ids
            # in one pool, and one pool for each wants a host for each.
            "--environment_type=PROCESS",
            "--environment_config=" + json.dumps({"command": self._starter}),
            f"--parallelism={self._workers}",
        )

    def __enter__(self) -> Cluster:
        # What was started is stopped then, too.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
        try:
            self.write_configuration()
            self._start_java(
                "jobmanager", _JOB_MANAGER, *self._configured, "--executionMode", "cluster"
            )
            for number in range(self._workers):
                self.start_worker(number)
            self._start_java(
                "jobserver",
                _CLIENT,
                # Inside Flink's client it sends one small jar with a job, by itself its class path.
                "run",
                f"--jobmanager={HOST}:{self._ports['rest']}",
                f"--class={_JOB_SERVER}",
                *map(str, self._jars.glob("beam-runners-flink-*.jar")),
                "--flink-master=[auto]",
                f"--job-host={HOST}",
                f"--job-port={self._ports['job']}",
                f"--artifact-port={self._ports['artifact']}",
                "--expansion-port=-1",
                f"--artifacts-dir={self.folder / 'artifacts'}",
            )
            self._wait("Flink's workers", lambda: len(self.workers()) == self._workers)
            for name in ("job", "artifact"):
                self._wait(name, lambda port=self._ports[name]: _answers(port))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._stop()
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            print(f"the cluster's logs are in {self.folder}", file=sys.stderr)

    @property
    def _configured(self) -> tuple[str, str]:
        return ("--configDir", str(self.folder))

    def rest(self, path: str) -> Any:
        """Asks the JobManager, e.g. for `/jobs/overview`."""
        with urllib.request.urlopen(f"http://{HOST}:{self._ports['rest']}{path}", timeout=10) as it:
            return json.load(it)

    def workers(self) -> list[str]:
        """Ids of the TaskManagers that the JobManager knows."""
        try:
            return sorted(item["id"] for item in self.rest("/taskmanagers")["taskmanagers"])
        except (OSError, ValueError):
            return []

    def kill_worker(self, number: int) -> None:
        """Kills a TaskManager and its workers of Beam, as it happens to a pod."""
        process = self._processes.pop(_worker(number))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def start_worker(self, number: int) -> None:
        """Starts a TaskManager; its id is its number."""
        self._start_java(
            _worker(number),
            _TASK_MANAGER,
            *self._configured,
            f"-Dtaskmanager.resource-id={_worker(number)}",
        )

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time so far: of each process of Flink's, and of all the workers of Beam."""
        used = {name: usage(item.pid) for name, item in self._processes.items()}
        own = {name: item.own_seconds for name, item in used.items()}
        return {**own, "beam": sum(item.started_seconds for item in used.values())}

    def write_configuration(self) -> None:
        """Writes the configuration into the folder."""
        memory = {"framework.heap": "128m", "framework.off-heap": "128m", "task.heap": "640m"}
        memory |= {"task.off-heap": "800m", "managed": "256m", "jvm-metaspace": "256m"}
        content = {
            **CLUSTER,
            "jobmanager.rpc.address": HOST,
            "jobmanager.bind-host": HOST,
            "jobmanager.rpc.port": self._ports["rpc"],
            "blob.server.port": self._ports["blob"],
            "rest.address": HOST,
            "rest.bind-address": HOST,
            "rest.port": self._ports["rest"],
            "taskmanager.host": HOST,
            "taskmanager.bind-host": HOST,
            "taskmanager.numberOfTaskSlots": 1,
            "taskmanager.cpu.cores": 1.0,
            **{f"taskmanager.memory.{part}.size": size for part, size in memory.items()},
            "taskmanager.memory.jvm-overhead.min": "192m",
            "taskmanager.memory.jvm-overhead.max": "192m",
            "jobmanager.memory.process.size": "1g",
            # All of it shares this machine's cores, and answers late.
            "heartbeat.timeout": 90000,
            "io.tmp.dirs": str(self.folder / "tmp"),
            **self._settings,
        }
        (self.folder / "tmp").mkdir(exist_ok=True)
        (self.folder / "config.yaml").write_text(yaml.safe_dump(content))

    def _start_java(self, name: str, main: str, *arguments: str) -> None:
        opens = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENS]
        memory = (
            ["-Xmx768m", "-XX:MaxDirectMemorySize=1056m"] if main == _TASK_MANAGER else ["-Xmx768m"]
        )
        with open(self.folder / f"{name}.log", "ab") as log:
            self._processes[name] = subprocess.Popen(
                ["java", *opens, *memory, "-cp", f"{self._jars}/*", main, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group each, with the workers of Beam that it starts: ended whole, and not by
                # the terminal's Ctrl-C.
                start_new_session=True,
                env={
                    **os.environ,
                    "FLINK_CONF_DIR": str(self.folder),
                    "TF_CPP_MIN_LOG_LEVEL": "1",
                },
            )

    def _wait(self, what: str, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + _START_SECONDS
        while not ready():
            for name, process in self._processes.items():
                if process.poll() is not None:
                    log = (self.folder / f"{name}.log").read_text(errors="replace")
                    raise RuntimeError(f"{name} ended as it started:\n{log[-3000:]}")
            if time.monotonic() > end:
                raise RuntimeError(f"{what}: not there after {_START_SECONDS} s; {self.folder}")
            time.sleep(0.5)

    def _stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            # Whatever is left of it, or of what it started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _worker(number: int) -> str:
    return f"worker-{number}"
