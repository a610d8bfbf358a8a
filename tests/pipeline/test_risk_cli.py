import datetime
import json
import re
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from short_days import write_spec
from typer.testing import CliRunner

from components.daily_example_gen import judging
from components.daily_example_gen.history_join import days_of_run
from components.held_days import HeldDay
from components.plan.planning import make_plan
from components.serving_store import TRAINING_STATE, ModelInfo, push
from pipeline.cli.risk import risk, training_data
from pipeline.simulate import write_logs
from pipeline.workspace import Workspace
from schemas.loading import load_spec


@pytest.fixture
def spec_file(tmp_path):
    path = tmp_path / "spec.yaml"
    write_spec(path)
    # A training is traced for most of its time, and each task is traced.
    content = yaml.safe_load(path.read_text())
    content["tasks"] = {"click": content["tasks"]["click"]}
    content["serving"]["score"] = "click"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def invoke(*arguments):
    app = typer.Typer()
    app.command()(risk)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result, re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def test_days_without_logs_are_bad_data(tmp_path, spec_file):
    arguments = [
        "2026-01-04",
        "--logs",
        tmp_path,
        "--spec",
        spec_file,
        "--workspace",
        tmp_path / "w",
    ]
    result, output = invoke(*arguments)
    assert result.exit_code == 11
    assert "2026-01-04" in output + (result.stderr if result.stderr_bytes else "")
    assert not (tmp_path / "w" / "risk").exists()


def test_days_that_the_run_would_hold_are_left_out(tmp_path, spec_file, monkeypatch):
    logs = str(tmp_path / "logs")
    write_logs(logs, datetime.date(2026, 1, 1), 4, 300, seed=0)
    held = datetime.date(2026, 1, 2)

    def judge_days(plan, days, day_store, model_dir):
        assert (plan.run_date, days.keys() >= {held}) == (datetime.date(2026, 1, 4), True)
        return judging.Judgement(held={held: HeldDay(held, "files", 1, ("click: AUC 0.5",))})

    monkeypatch.setattr(judging, "judge_days", judge_days)
    work = Workspace(str(tmp_path / "work"))
    spec = load_spec(spec_file, ["validation.min_events=1"])
    data = training_data(spec, datetime.date(2026, 1, 4), logs, work)
    assert {Path(file).parts[-3] for file in data.files} == {"2026-01-01", "2026-01-03"}


@pytest.mark.slow
def test_trainings_start_where_the_run_would(tmp_path, spec_file):
    from trainer_module.risk.batches import event_batches
    from trainer_module.risk.trainee import Trainee
    from trainer_module.training_state import save_state

    logs = str(tmp_path / "logs")
    write_logs(logs, datetime.date(2026, 1, 1), 4, 1500, seed=0)
    spec = load_spec(spec_file)
    date, workspace = datetime.date(2026, 1, 4), Workspace(str(tmp_path / "work"))
    cold = training_data(spec, date, logs, workspace)
    assert cold.warm_start_from is None
    assert {Path(file).parts[-3] for file in cold.files} == {
        "2026-01-01",
        "2026-01-02",
        "2026-01-03",
    }

    spec = spec.fitted(cold.day_events, warm=False)
    trained = Trainee(spec, event_batches(cold.files, spec, 4))
    trained.start(0)
    trained.train(4)
    days = days_of_run(make_plan(spec, date, ()), logs, workspace.day_store, None)
    model = tmp_path / "model"
    save_state(trained.model, trained.optimizer, str(model / TRAINING_STATE))
    (model / "saved_model.pb").touch()
    info = ModelInfo(
        run_date=datetime.date(2026, 1, 3),
        trained_through=datetime.date(2026, 1, 2),
        model_fingerprint=spec.model_fingerprint(),
        tasks_fingerprint=spec.tasks_fingerprint(),
        model_uri=str(model),
        seen={str(day): judging.content_of(stored) for day, stored in days.items()},
    )
    push(str(model), workspace.serving, info, keep_versions=2, served_before=None)
    warm = training_data(spec, date, logs, workspace)
    assert "version 1" in warm.start
    seen = [file for file in warm.files if "2026-01-03" not in Path(file).parts]
    assert 0 < len(seen) < len(cold.files) / 2
    trainee = Trainee(spec, event_batches(warm.files, spec, 4), warm.warm_start_from)
    trainee.start(7)
    for one, other in zip(trainee.model.weights, trained.model.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.slow
def test_a_day_is_measured_from_its_logs(tmp_path, spec_file):
    write_logs(str(tmp_path / "logs"), datetime.date(2026, 1, 1), 4, 1500, seed=0)
    result, output = invoke(
        *("2026-01-04", "--logs", tmp_path / "logs", "--spec", spec_file),
        *("--workspace", tmp_path / "work"),
        *("--steps", 16, "--seeds", 1, "--budget", 3, "--optimizer", "adagrad"),
    )
    assert result.exit_code == 0, output
    assert "cold start" in output
    for part in ("ingesting", "sharpness, seed 0: step ", "adagrad at 0.1: training 1 of 1"):
        assert f"2026-01-04: {part}" in output
    folder = tmp_path / "work" / "risk" / "2026-01-04"
    report = json.loads((folder / "risk.json").read_text())
    assert [p["step"] for p in report["sharpness"] if p["seed"] == 0] == [0, 1, 2, 4, 8, 16]
    assert all(p["converged"] and p["sharpness"] > 0 for p in report["sharpness"])
    assert list(report["stable_rates"]) == ["adagrad"]
    found = report["stable_rates"]["adagrad"]
    assert found["highest_stable"] >= 0.1
    assert found["lowest_unstable"] > found["highest_stable"]
    assert (folder / "risk.png").stat().st_size > 10_000
