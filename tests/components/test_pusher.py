import dataclasses
import datetime
import gzip
import hashlib
import json
import os

import pytest
from tfx.types import standard_artifacts

from components import artifacts, model_files, properties, serving_store
from components.pusher.executor import Executor, newest_day
from components.run_plan import RunPlan
from components.serving_lock import LOCK_FILE
from schemas.errors import ServingStoreError
from schemas.loading import parse_spec

SPEC = parse_spec(
    """
name: test
features:
  age: {type: dense}
tasks:
  click: {kind: binary, label: clicked, gate: {min_auc: 0.5}}
model: {preset: tiny}
serving: {score: click, keep_versions: 2}
""",
    "spec",
)
RUN_DATE = datetime.date(2026, 1, 4)


def artifact(cls, path):
    instance = cls()
    instance.uri = str(path)
    return [instance]


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def execute(
    folder,
    *,
    gate=1,
    infra=1,
    shards=("2026-01-01", "2026-01-03", "2026-01-02"),
    base_trained_through=None,
    seed=0,
    weights="weights",
    checked=None,
    own_uri="",
    checkpoints="",
):
    served = serving_store.served_version(str(folder / "serving"))
    RunPlan(
        spec=SPEC.model_copy(update={"training": SPEC.training.model_copy(update={"seed": seed})}),
        run_date=RUN_DATE,
        window=(),
        base_version=None,
        base_trained_through=base_trained_through,
        start_reason="",
        baseline_version=None,
        baseline_reason="",
        served_version=served.version if served else None,
    ).save(str(folder / "plan"))
    model = folder / "model" / "Format-Serving"
    write(model / "saved_model.pb", weights)
    for day in shards:
        write(folder / "examples" / "Split-train" / f"{day}-00000-of-00002.gz", f"events of {day}")
    write(folder / "examples" / "Split-eval" / f"{RUN_DATE}-00000-of-00002.gz", "of the run date")
    inputs = {
        "plan": artifact(artifacts.RunPlan, folder / "plan"),
        "examples": artifact(standard_artifacts.Examples, folder / "examples"),
        "model": artifact(standard_artifacts.Model, folder / "model"),
        "model_blessing": artifact(standard_artifacts.ModelBlessing, folder / "gate"),
        "infra_blessing": artifact(standard_artifacts.InfraBlessing, folder / "infra"),
    }
    inputs["examples"][0].split_names = '["train", "eval"]'
    inputs["model_blessing"][0].set_int_custom_property("blessed", gate)
    inputs["infra_blessing"][0].set_int_custom_property("blessed", infra)
    properties.OWN_URI.set(inputs["model"][0], own_uri)
    properties.SEEN.set(inputs["examples"][0], {"2026-01-03": "c"})
    properties.CHECKPOINTS.set(inputs["model"][0], str(checkpoints))
    files = model_files.digests(str(model), model_files.list_files(str(model)))
    properties.MODEL_DIGEST.set(
        inputs["infra_blessing"][0], checked or model_files.digest_of(files)
    )
    # TFX's check reads the InfraValidator's file or property, whichever its version uses.
    inputs["infra_blessing"][0].set_string_custom_property(
        "blessing_status", "INFRA_BLESSED" if infra else "INFRA_NOT_BLESSED"
    )
    outputs = {"pushed_model": artifact(standard_artifacts.PushedModel, folder / "pushed")}
    Executor().Do(inputs, outputs, {"serving_dir": str(folder / "serving")})
    return outputs["pushed_model"][0]


def test_blessed_model_becomes_the_served_version_and_says_what_it_is(tmp_path):
    pushed = execute(tmp_path)
    served = serving_store.served_version(str(tmp_path / "serving"))
    assert served.version == 1
    assert dataclasses.replace(served.info, made_from="") == serving_store.ModelInfo(
        run_date=RUN_DATE,
        trained_through=datetime.date(2026, 1, 3),
        model_fingerprint=SPEC.model_fingerprint(),
        tasks_fingerprint=SPEC.tasks_fingerprint(),
        model_uri=str(tmp_path / "model"),
        files={"saved_model.pb": hashlib.sha256(b"weights").hexdigest()},
        ranker=SPEC.name,
        seen={"2026-01-03": "c"},
    )
    assert serving_store.damage(served) == []
    assert (tmp_path / "serving" / "1" / "saved_model.pb").read_text() == "weights"
    assert pushed.get_int_custom_property("pushed") == 1
    assert pushed.get_string_custom_property("pushed_version") == "1"
    assert pushed.get_string_custom_property("pushed_destination") == served.path
    assert os.listdir(pushed.uri) == ["PUSHED"]


@pytest.mark.parametrize(
    ("base", "shards", "newest"), [(2, [1], 2), (2, [1, 3], 3), (None, [1], 1)]
)
def test_days_that_the_weights_have_seen_stay_seen_when_their_logs_are_gone(
    tmp_path, base, shards, newest
):
    execute(
        tmp_path,
        shards=[f"2026-01-0{day}" for day in shards],
        base_trained_through=base and datetime.date(2026, 1, base),
    )
    info = serving_store.served_version(str(tmp_path / "serving")).info
    assert info.trained_through == datetime.date(2026, 1, newest)


@pytest.mark.parametrize(("gate", "infra"), [(0, 1), (1, 0), (0, 0)])
def test_model_that_either_has_not_blessed_leaves_the_serving_folder_alone(tmp_path, gate, infra):
    execute(tmp_path)
    serving = tmp_path / "serving"
    before = {path: path.stat().st_mtime_ns for path in serving.rglob("*")}
    pushed = execute(tmp_path, gate=gate, infra=infra)
    assert {path: path.stat().st_mtime_ns for path in serving.rglob("*")} == before
    assert pushed.get_int_custom_property("pushed") == 0
    assert "NOT_PUSHED" in os.listdir(pushed.uri)


def test_first_model_that_is_not_blessed_makes_no_serving_folder(tmp_path):
    execute(tmp_path, gate=0)
    assert not (tmp_path / "serving").exists()


def test_as_many_versions_are_kept_as_the_spec_says(tmp_path):
    versions = [
        execute(tmp_path, seed=seed).get_string_custom_property("pushed_version")
        for seed in range(4)
    ]
    assert versions == ["1", "2", "3", "4"]
    assert sorted(os.listdir(tmp_path / "serving")) == [LOCK_FILE, "3", "4"]


def test_day_that_is_run_again_on_the_same_makes_no_second_version(tmp_path):
    first = execute(tmp_path)
    again = execute(tmp_path, weights="trained anew")
    assert [pushed.get_string_custom_property("pushed_version") for pushed in (first, again)] == [
        "1",
        "1",
    ]
    served = serving_store.served_version(str(tmp_path / "serving"))
    assert (served.version, serving_store.damage(served)) == (1, [])


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"shards": ["2026-01-01", "2026-01-03"]}],
    ids=["another spec", "another window"],
)
def test_day_that_is_run_again_on_anything_else_makes_another_version(tmp_path, changes):
    execute(tmp_path, shards=["2026-01-03"])
    pushed = execute(tmp_path, **{"shards": ["2026-01-03"], **changes})
    assert pushed.get_string_custom_property("pushed_version") == "2"


def test_day_whose_events_were_mended_makes_another_version(tmp_path):
    execute(tmp_path)
    shard = tmp_path / "examples" / "Split-eval" / f"{RUN_DATE}-00001-of-00002.gz"
    for number, label in enumerate((0, 1), start=2):
        with gzip.GzipFile(shard, "wb", mtime=0) as file:
            file.write(b"label %d" % label * 100)
        pushed = execute(tmp_path)
        assert pushed.get_string_custom_property("pushed_version") == str(number)


def test_model_that_is_not_the_one_that_was_judged_is_not_pushed(tmp_path):
    with pytest.raises(ServingStoreError, match="not the one that ServingCheck saw"):
        execute(tmp_path, checked="0" * 64)
    assert not (tmp_path / "serving").exists()


def test_version_of_a_copied_model_names_the_uri_that_the_copy_is_of(tmp_path):
    execute(tmp_path, own_uri="gs://bucket/model/7")
    served = serving_store.served_version(str(tmp_path / "serving"))
    assert served.info.model_uri == "gs://bucket/model/7"


def test_version_file_is_json_for_other_programs(tmp_path):
    execute(tmp_path)
    text = (tmp_path / "serving" / "1" / serving_store.VERSION_FILE).read_text()
    assert json.loads(text)["trained_through"] == "2026-01-03"


@pytest.mark.parametrize(
    ("names", "newest"),
    [
        (["2026-01-02-00000-of-00016.gz"], "2026-01-02"),
        (["2025-12-31-00015-of-00016.gz", "2026-01-01-00000-of-00001.gz"], "2026-01-01"),
        (["2026-01-02-00000-of-00016.gz", "notes-2027-01-01.txt"], "2026-01-02"),
    ],
)
def test_newest_day_is_told_by_the_shards(tmp_path, names, newest):
    for name in names:
        (tmp_path / name).touch()
    assert newest_day(str(tmp_path)) == datetime.date.fromisoformat(newest)


def test_split_whose_shards_tell_no_day_is_an_error(tmp_path):
    (tmp_path / "data-00000-of-00001.gz").touch()
    with pytest.raises(ServingStoreError, match="no shard tells the day it is of"):
        newest_day(str(tmp_path))


@pytest.mark.parametrize("gate", [0, 1])
def test_checkpoints_go_when_the_day_has_its_verdict(tmp_path, gate):
    write(tmp_path / "checkpoints" / "2026-01-04-0123" / "step-1" / "progress.json")
    write(tmp_path / "checkpoints" / "2026-01-05-0123" / "step-1" / "progress.json")
    execute(tmp_path, gate=gate, checkpoints=tmp_path / "checkpoints" / "2026-01-04-0123")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2026-01-05-0123"]


def test_push_is_told_though_the_checkpoints_cannot_be_removed(tmp_path):
    write(tmp_path / "a file")
    pushed = execute(tmp_path, checkpoints=tmp_path / "a file")
    assert pushed.get_int_custom_property("pushed") == 1
    assert (tmp_path / "a file").exists()


def test_checkpoints_stay_when_the_push_fails(tmp_path):
    folder = tmp_path / "checkpoints" / "2026-01-04-0123"
    write(folder / "step-1" / "progress.json")
    with pytest.raises(ServingStoreError, match="not the one that ServingCheck saw"):
        execute(tmp_path, checked="other", checkpoints=folder)
    assert folder.is_dir()
