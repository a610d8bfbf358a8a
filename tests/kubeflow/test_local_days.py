"""Whole days in the harness that stands for Kubeflow, held against the Beam runner."""

import datetime
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from short_days import DIVERGING, write_spec
from typer.testing import CliRunner

from pipeline import lineage
from pipeline.cli import kubeflow_package
from pipeline.kubeflow.local.runner import run_package
from pipeline.kubeflow.package import load_package
from pipeline.simulate import write_logs
from pipeline.workspace import Workspace
from schemas.errors import ExitCode

pytestmark = pytest.mark.slow

FIRST, SECOND, THIRD = "2026-01-03", "2026-01-04", "2026-01-05"
UNREACHABLE = "tasks.click.gate.min_auc=0.99"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("days")


@pytest.fixture(scope="module")
def run_day(root, warm_python_path):
    """Compiles the pipeline, simulates logs; returns what runs a day in the harness."""
    logs, spec, data = (root / name for name in ("logs", "spec.yaml", "data"))
    write_logs(str(logs), datetime.date(2026, 1, 1), 5, 2000, seed=0)
    write_spec(spec)
    compiled = root / "pipeline.yaml"
    assert CliRunner().invoke(kubeflow_package.app, ["compile", "-o", str(compiled)]).exit_code == 0
    documents = load_package(str(compiled))
    parameters = {
        "spec": str(spec),
        "logs_root": str(logs),
        **{name: str(data / name) for name in ("day_store", "serving_dir", "checkpoint_root")},
    }

    def run_day(*overrides, schedule_time=None, **more):
        given = {**parameters, "overrides": json.dumps(overrides), **more}
        options = {"schedule_time": schedule_time, "sleep": lambda seconds: None}
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "executable", warm_python_path)
            return run_package(documents, root, given, **options)

    return run_day


@pytest.fixture(scope="module")
def days(root, run_day, warm_python_path):
    """A day from nothing, and a day that starts from it, which the gate blocks.

    The second one under BeamDagRunner as well, from a copy of what the first one left.
    """
    workspace = root / "workspace"
    # The day of the schedule's time, less the lag.
    first = run_day(schedule_time=f"{SECOND}T06:00:00Z")
    assert first.exit_code == 0, first.folder
    shutil.copytree(root / "data" / "serving_dir", workspace / "serving")
    command = [warm_python_path, "-m", "pipeline.cli", "run", SECOND, "--set", UNREACHABLE]
    places = {"logs": root / "logs", "spec": root / "spec.yaml", "workspace": workspace}
    where = [text for name, path in places.items() for text in (f"--{name}", str(path))]
    with subprocess.Popen([*command, *where]) as beam:
        second = run_day(UNREACHABLE, run_date=SECOND)
    assert beam.returncode == ExitCode.BLOCKED
    assert second.exit_code == 0, second.folder
    store = lineage.open_store(Workspace(str(workspace)).metadata_path)
    return first, second, lineage.latest_run(store, SECOND)


def served(root):
    return sorted(path.name for path in (root / "data" / "serving_dir").glob("[0-9]*"))


def test_day_from_nothing_is_pushed_for_the_schedules_day(root, days):
    first, _, _ = days
    assert [step.state for step in first.steps.values()] == ["succeeded"] * len(first.steps)
    assert first.find("pushed_version") == ["1"]
    info = root / "data" / "serving_dir" / "1" / "assets.extra" / "version.json"
    assert json.loads(info.read_text())["run_date"] == FIRST


def test_second_day_starts_from_the_first_and_is_blocked(root, days):
    _, second, _ = days
    (start,) = second.find("start")
    assert start == "warm start from version 1, trained through 2026-01-02"
    assert second.find("pushed") == [0.0]
    assert any("click" in reasons for reasons in second.find("reasons"))
    assert served(root) == ["1"]


def test_results_are_those_of_the_beam_runner(days):
    _, second, beam = days
    assert beam.outcome == "blocked"
    assert second.find("start") == [beam.start]
    (metrics,) = second.find("metrics")
    assert flat(json.loads(metrics)) == pytest.approx(flat(beam.metrics), rel=1e-5)


def test_weights_are_those_of_the_beam_runner(root, days):
    _, second, _ = days
    (there,) = root.glob("workspace/artifacts/Trainer/model/*/Format-Serving/variables")
    model = second.steps["Trainer"].outputs["model"]["uri"].removeprefix("minio://")
    here = root / "store" / "minio" / model / "Format-Serving" / "variables"
    expected, actual = weights(there), weights(here)
    assert set(actual) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_page_of_the_verdict_is_one_object_that_holds_what_was_measured(root, days):
    first, second, _ = days
    assert "</b> passed" in page_of(root, first)
    page = page_of(root, second)
    assert "</b> blocked" in page
    assert "Version 1 keeps serving." in page
    (metrics,) = second.find("metrics")
    for task, values in json.loads(metrics)["candidate"].items():
        if "auc" in values:
            assert f"<h3>{task}" in page
            assert f'<span class="big">{values["auc"]:.4f}</span> AUC' in page
    # Under BeamDagRunner an artifact is a folder.
    (there,) = root.glob("workspace/artifacts/Evaluator/page/*/page.html")
    assert "</b> blocked" in there.read_text("utf-8")


@pytest.mark.usefixtures("days")
def test_diverging_day_is_blocked_and_says_why(root, run_day):
    third = run_day(*DIVERGING, "training.recovery=[]", run_date=THIRD)
    assert third.exit_code == 0, third.folder
    assert third.find("start") == ["warm start from version 1, trained through 2026-01-02"]
    (summary,) = third.find("summary")
    assert summary.startswith("diverged after ")
    assert third.find("pushed") == [0.0]
    assert all("training diverged" in reasons for reasons in third.find("reasons"))
    page = page_of(root, third)
    assert "The model was not evaluated." in page
    # What the Trainer drew of the training.
    assert "data:image/png;base64," in page
    assert served(root) == ["1"]


def page_of(root, day):
    uri = day.steps["Evaluator"].outputs["page"]["uri"]
    page = (root / "store" / "minio" / uri.removeprefix("minio://")).read_text("utf-8")
    assert page.startswith("<!doctype html>")
    return page


def flat(metrics):
    return {
        (model, task, name): value
        for model, tasks in metrics.items()
        for task, values in tasks.items()
        for name, value in values.items()
    }


def weights(folder):
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(folder / "variables"))
    kinds = reader.get_variable_to_dtype_map()
    return {name: reader.get_tensor(name) for name, kind in kinds.items() if kind.is_floating}
