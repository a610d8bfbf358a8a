"""A day's processes are killed in each component; the same command then ends as if they were not.

One component is tried by `make test`, all of them by `make kill-check`: each costs a day or two.
"""

import contextlib
import datetime
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import time

import pytest
from ml_metadata.proto.metadata_store_pb2 import Execution
from short_days import write_spec

from components import model_files
from pipeline import lineage
from pipeline.simulate import write_logs
from pipeline.workspace import Workspace

pytestmark = pytest.mark.slow

EARLIER, DAY = "2026-01-03", "2026-01-04"

COMPONENTS = (
    "Plan",
    "DailyExampleGen",
    "StatisticsGen",
    "ExampleValidator",
    "Transform",
    "Trainer",
    "ServingCheck",
    "Evaluator",
    "Pusher",
)
asked_for = pytest.mark.skipif("KILL_CHECK" not in os.environ, reason="make kill-check asks for it")
MOMENTS = [
    pytest.param(
        component,
        share,
        id=f"{component} {share:.0%}",
        marks=() if (component, share) == ("Trainer", 0.5) else asked_for,
    )
    for component in COMPONENTS
    for share in (0.0, 0.5)
] + [pytest.param("Pusher", None, id="after the push", marks=asked_for)]


class Days:
    """A workspace in which one day was pushed; the next one is run again and again."""

    def __init__(self, root: pathlib.Path, python: str) -> None:
        self._python = python
        logs, spec = root / "logs", root / "spec.yaml"
        write_logs(str(logs), datetime.date(2026, 1, 1), 4, 3000, seed=0)
        write_spec(spec)
        self.workspace = Workspace(str(root / "work"))
        self._where = ["--logs", logs, "--spec", spec, "--workspace", self.workspace.root]
        self._saved = root / "saved"
        self.run(EARLIER)
        shutil.copytree(self.workspace.root, self._saved, symlinks=True)
        self.run(DAY)
        run = lineage.latest_run(lineage.open_store(self.workspace.metadata_path), DAY)
        self.seconds = run.component_seconds
        self.unharmed = self.served()

    def restore(self) -> None:
        """Makes everything as it was after the earlier day."""
        shutil.rmtree(self.workspace.root)
        shutil.copytree(self._saved, self.workspace.root, symlinks=True)

    def start(self, day: str) -> subprocess.Popen:
        """Starts a day, all of its processes in one group."""
        command = [self._python, "-m", "pipeline.cli", "run", day, *map(str, self._where)]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=os.setpgrp,
            text=True,
        )

    def run(self, day: str) -> None:
        process = self.start(day)
        said, _ = process.communicate(timeout=1800)
        assert process.returncode == 0, said

    def newest_execution(self) -> tuple[int, str, int]:
        """Number, component and state of the execution that began last."""
        path = pathlib.Path(self.workspace.metadata_path).as_uri()
        with contextlib.closing(sqlite3.connect(f"{path}?mode=ro", 60, uri=True)) as database:
            ((number, name, state),) = database.execute(
                "SELECT Execution.id, Type.name, Execution.last_known_state FROM Execution"
                " JOIN Type ON Type.id = Execution.type_id ORDER BY Execution.id DESC LIMIT 1"
            )
        return number, name.rpartition(".")[2], state

    def kill(self, process: subprocess.Popen, component: str, share: float | None) -> None:
        """Kills all of a day's processes in a component, after a share of its time or its end."""
        state = Execution.COMPLETE if share is None else Execution.RUNNING
        earlier, *_ = self.newest_execution()
        while True:
            number, *now = self.newest_execution()
            if number > earlier and now == [component, state]:
                break
            assert process.poll() is None, f"{component} was not seen: {process.stdout.read()}"
            time.sleep(0.002)
        time.sleep((share or 0.0) * self.seconds[component])
        os.killpg(process.pid, signal.SIGKILL)
        # A warm Python is dead once it has closed the pipe, not when what stands for it here is.
        process.communicate()
        assert process.returncode == -signal.SIGKILL

    def served(self) -> dict[str, dict[str, str]]:
        """Each served version's days, and the digests of its weights."""
        serving = pathlib.Path(self.workspace.serving)
        versions = [path for path in serving.iterdir() if path.name.isdigit()]
        return {path.name: self._content(path) for path in versions}

    @staticmethod
    def _content(version: pathlib.Path) -> dict[str, str]:
        told = json.loads((version / "assets.extra" / "version.json").read_text())
        found = {name: str(told[name]) for name in ("run_date", "trained_through")}
        weights = [name for name in model_files.list_files(str(version)) if "variables/" in name]
        return {**found, **model_files.digests(str(version), weights)}


@pytest.fixture(scope="module")
def days(tmp_path_factory, warm_python_path):
    return Days(tmp_path_factory.mktemp("days"), warm_python_path)


@pytest.mark.parametrize(("component", "share"), MOMENTS)
def test_a_killed_day_run_again_ends_as_an_unharmed_one(days, component, share):
    days.restore()
    before = days.served()
    days.kill(days.start(DAY), component, share)
    after = days.served()
    # The served version is whole: the old one, or the new one where it was pushed already.
    assert after in (before, days.unharmed)
    if component != "Pusher":
        assert after == before

    days.run(DAY)
    assert days.served() == days.unharmed
    run = lineage.latest_run(lineage.open_store(days.workspace.metadata_path), DAY)
    assert run.outcome == "pushed"
