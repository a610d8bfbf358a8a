import dataclasses
import datetime
import errno
import json
import os
import pathlib
import shutil

import pytest
from executions import artifact
from planned import FEATURE_ADDED, SPEC, SPEC_NOW, spec_with, version
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.types import standard_artifacts
from tfx.utils import io_utils

from components import artifacts, model_files, serving_store
from components.plan.executor import Executor
from components.plan.planning import make_plan
from components.run_plan import load_plan
from schemas.errors import RankerError, ServingStoreError, SpecError
from schemas.tfdv_schema import tfdv_schema

MACRO = "{{$.pipeline_job_schedule_time_utc}}"


def run_executor(
    folder, serving, run_date="2026-01-07", schedule_time="", overrides=(), spec_path=None
):
    if spec_path is None:
        spec_path = folder / "spec.yaml"
        folder.mkdir(exist_ok=True)
        spec_path.write_text(SPEC)
    outputs = {
        "plan": artifact(artifacts.RunPlan, folder / "plan"),
        "schema": artifact(standard_artifacts.Schema, folder / "schema"),
        "base_model": artifact(standard_artifacts.Model, folder / "base"),
        "baseline_model": artifact(standard_artifacts.Model, folder / "baseline"),
    }
    properties = {
        "spec_path": str(spec_path),
        "overrides": json.dumps(list(overrides)),
        "run_date": run_date,
        "schedule_time": schedule_time,
        "run_date_lag_days": 2,
        "serving_dir": str(serving),
    }
    Executor().Do({}, outputs, properties)
    return {name: item[0] for name, item in outputs.items()}


def files_under(folder):
    return sorted(
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder)
        for name in names
    )


def push_version(folder, serving, run_day=5, spec=SPEC_NOW):
    model = folder / "model"
    for name in ("saved_model.pb", "variables/v", "assets.extra/training_state/state.npz"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(name)
    files = model_files.digests(str(model), model_files.list_files(str(model)))
    info = dataclasses.replace(version(1, run_day, spec).info, files=files)
    served = serving_store.served_version(str(serving))
    before = served.version if served else None
    return serving_store.push(str(model), str(serving), info, 5, served_before=before)


def test_first_run_writes_plan_schema_and_notes_on_what_is_absent(tmp_path):
    done = run_executor(tmp_path / "run", tmp_path / "serving", overrides=["training.seed=7"])
    plan = load_plan(done["plan"].uri)
    assert plan == make_plan(spec_with("training.seed=7"), datetime.date(2026, 1, 7), [])
    assert done["plan"].get_string_custom_property("run_date") == "2026-01-07"
    assert done["plan"].get_string_custom_property("start") == plan.start_reason
    assert done["plan"].get_string_custom_property("baseline") == plan.baseline_reason
    schema = io_utils.parse_pbtxt_file(
        os.path.join(done["schema"].uri, "schema.pbtxt"), schema_pb2.Schema()
    )
    assert schema == tfdv_schema(plan.spec)
    for name, reason in (
        ("base_model", plan.start_reason),
        ("baseline_model", plan.baseline_reason),
    ):
        assert files_under(done[name].uri) == ["ABSENT"]
        with open(os.path.join(done[name].uri, "ABSENT")) as file:
            assert file.read() == reason


def test_later_run_gets_the_training_state_to_start_from_and_the_model_to_compare_with(tmp_path):
    serving = tmp_path / "serving"
    push_version(tmp_path, serving)
    done = run_executor(tmp_path / "run", serving)
    assert files_under(done["base_model"].uri) == [
        "Format-Serving/assets.extra/training_state/state.npz"
    ]
    assert files_under(done["baseline_model"].uri) == [
        "Format-Serving/saved_model.pb",
        "Format-Serving/variables/v",
    ]
    for name in ("base_model", "baseline_model"):
        assert done[name].get_string_custom_property("copy_of").endswith("/1")
    assert done["plan"].get_string_custom_property("base_model") == "model/1"
    assert load_plan(done["plan"].uri).served_version == 1


@pytest.mark.parametrize("links", [True, False])
def test_served_model_is_linked_and_copied_only_where_that_cannot_be(tmp_path, monkeypatch, links):
    serving = tmp_path / "serving"
    push_version(tmp_path, serving)
    if not links:

        def no_links(source, target):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        monkeypatch.setattr(os, "link", no_links)
    done = run_executor(tmp_path / "run", serving)
    name = "variables/v"
    taken = pathlib.Path(done["baseline_model"].uri) / "Format-Serving" / name
    assert taken.samefile(serving / "1" / name) == links
    assert taken.read_text() == name
    # What a run took outlives the version.
    shutil.rmtree(serving)
    assert taken.read_text() == name


def test_changed_model_is_compared_with_but_not_started_from_the_served_one(tmp_path):
    serving = tmp_path / "serving"
    push_version(tmp_path, serving)
    done = run_executor(tmp_path / "run", serving, overrides=[FEATURE_ADDED])
    assert files_under(done["base_model"].uri) == ["ABSENT"]
    assert "Format-Serving/saved_model.pb" in files_under(done["baseline_model"].uri)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"run_date": "tomorrow"}, RankerError, r"'tomorrow': expected a day as YYYY-MM-DD"),
        ({"run_date": "2026-01-01"}, RankerError, r"is before that of the served version 1"),
        ({"overrides": ["training.speed=9"]}, SpecError, r"training\.speed: no such field"),
        ({"spec_path": "nowhere.yaml"}, SpecError, r"nowhere\.yaml: cannot be read"),
    ],
)
def test_run_that_cannot_be_planned_fails_with_a_readable_error(tmp_path, changes, error, message):
    serving = tmp_path / "serving"
    push_version(tmp_path, serving)
    with pytest.raises(error, match=message):
        run_executor(tmp_path / "run", serving, **changes)


def test_served_version_that_cannot_be_told_stops_the_run(tmp_path):
    serving = tmp_path / "serving"
    pushed = push_version(tmp_path, serving)
    os.remove(os.path.join(pushed.path, serving_store.VERSION_FILE))
    with pytest.raises(ServingStoreError, match="cannot tell what this version is"):
        run_executor(tmp_path / "run", serving)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def replace_by_a_pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [flip_a_bit, cut, pathlib.Path.unlink, replace_by_a_pipe])
@pytest.mark.parametrize(
    "file", ["saved_model.pb", "variables/v", "assets.extra/training_state/state.npz"]
)
def test_damaged_served_version_is_named_with_the_file_and_the_rollback_that_helps(
    tmp_path, file, damage
):
    serving = tmp_path / "serving"
    push_version(tmp_path, serving, run_day=4)
    broken = pathlib.Path(push_version(tmp_path, serving, run_day=5).path, file)
    damage(broken)
    with pytest.raises(ServingStoreError) as caught:
        run_executor(tmp_path / "run", serving)
    message = str(caught.value)
    assert message.startswith("the SERVED model is broken, version 2: ")
    faults = ("is missing", "has other content", "cannot be read (it is not a file)")
    assert any(f"{broken}: {fault}" in message for fault in faults)
    assert "`steadyrank rollback 1` serves version 1, which is whole" in message
    serving_store.rollback(str(serving), 1)
    done = run_executor(tmp_path / "again", serving)
    assert load_plan(done["plan"].uri).base_version == 3


def test_of_damaged_versions_none_is_advised(tmp_path):
    serving = tmp_path / "serving"
    for run_day in (4, 5):
        flip_a_bit(
            pathlib.Path(push_version(tmp_path, serving, run_day=run_day).path, "variables/v")
        )
    with pytest.raises(ServingStoreError, match="No other version is whole"):
        run_executor(tmp_path / "run", serving)


def test_version_of_before_there_were_digests_is_taken_if_its_files_are_there(tmp_path):
    serving = tmp_path / "serving"
    path = pathlib.Path(push_version(tmp_path, serving).path)
    info = json.loads((path / serving_store.VERSION_FILE).read_text())
    for field in ("files", "digest", "made_from"):
        del info[field]
    (path / serving_store.VERSION_FILE).write_text(json.dumps(info))
    done = run_executor(tmp_path / "run", serving)
    assert load_plan(done["plan"].uri).base_version == 1
    (path / "assets.extra/training_state/state.npz").unlink()
    with pytest.raises(ServingStoreError, match=r"SERVED model .*training_state: is missing"):
        run_executor(tmp_path / "again", serving)


@pytest.mark.parametrize(
    ("given_date", "schedule_time", "told"),
    [
        ("2026-01-07", "", False),
        ("", "2026-01-09T06:00:00Z", False),
        pytest.param("", "", True, id="an empty time, as Kubeflow Pipelines 2.16 gives it"),
        pytest.param("", MACRO, True, id="the macro as it was"),
    ],
)
def test_day_taken_from_the_clock_is_said_aloud(tmp_path, caplog, given_date, schedule_time, told):
    run_executor(
        tmp_path / "run", tmp_path / "serving", run_date=given_date, schedule_time=schedule_time
    )
    assert ("the day was taken from the clock" in caplog.text) is told


def test_run_without_a_date_is_planned_for_the_schedules(tmp_path):
    done = run_executor(
        tmp_path / "run", tmp_path / "serving", run_date="", schedule_time="2026-01-09T06:00:00Z"
    )
    assert load_plan(done["plan"].uri).run_date == datetime.date(2026, 1, 7)
    assert done["plan"].get_string_custom_property("run_date") == "2026-01-07"
