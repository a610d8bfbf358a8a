"""The parts of the Flink harness that need no JVM; and with one, and on request, all of it."""

import base64
import collections
import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf
import yaml
from apache_beam.coders import VarIntCoder
from tfx.types import artifact_utils, standard_artifacts

from benchmarks import scale
from benchmarks.flink import compare, jars
from benchmarks.flink.cluster import Cluster
from benchmarks.flink.spread import records_in
from pipeline.flink.check import advice


def test_every_jar_is_pinned_once():
    pins = jars.pinned(jars.PINS.read_text())
    lines = jars.PINS.read_text().splitlines()
    assert len(pins) == len(lines) > 100
    assert all(len(digest) == 64 and int(digest, 16) for digest in pins.values())


def test_versions_of_the_pom_are_those_of_the_pins():
    pom = jars.POM.read_text()
    names = set(jars.pinned(jars.PINS.read_text()))
    for name, prefix in (("flink", "flink-runtime-"), ("beam", "beam-runners-flink-1.19-")):
        version = pom.partition(f"<{name}>")[2].partition("<")[0]
        assert f"{prefix}{version}.jar" in names


def test_files_that_are_not_as_pinned_are_named(tmp_path):
    (tmp_path / "good.jar").write_bytes(b"good")
    (tmp_path / "changed.jar").write_bytes(b"changed")
    (tmp_path / "foreign.jar").write_bytes(b"foreign")
    good = hashlib.sha256(b"good").hexdigest()
    pins = {"good.jar": good, "changed.jar": good, "absent.jar": good}
    assert jars.wrong(tmp_path, pins) == ["absent.jar", "changed.jar", "foreign.jar"]
    (tmp_path / "foreign.jar").unlink()
    assert jars.wrong(tmp_path, {"good.jar": good, "changed.jar": good}) == ["changed.jar"]


@pytest.mark.parametrize("missing", ["java", "mvn"])
def test_what_is_missing_is_named(missing, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        jars.shutil, "which", lambda name: None if name == missing else f"/bin/{name}"
    )
    with pytest.raises(jars.NotHereError, match=missing):
        jars.fetch()


def test_jars_that_maven_does_not_get_leave_nothing(tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, script in (("java", "exit 0"), ("mvn", "echo no network; exit 1")):
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(jars.NotHereError, match="no network"):
        jars.fetch()
    assert not jars.cache_folder().exists()


def test_cluster_is_set_as_users_are_told(tmp_path):
    cluster = Cluster(tmp_path, workers=2, settings={"taskmanager.numberOfTaskSlots": "3"})
    try:
        cluster.write_configuration()
        settings = yaml.safe_load((cluster.folder / "config.yaml").read_text())
        assert advice({key: str(value) for key, value in settings.items()}) == []
        assert settings["taskmanager.numberOfTaskSlots"] == "3"
        # Whatever else a machine has for addresses, nothing listens there.
        hosts = {value for key, value in settings.items() if key.endswith(("address", "host"))}
        assert hosts == {"127.0.0.1"}
    finally:
        shutil.rmtree(cluster.folder)


def test_measurement_replaces_its_own_cells_and_keeps_the_others():
    def cell(day, contender, seconds):
        return {"day": day, "component": "Evaluator", "contender": contender, "seconds": seconds}

    before = [cell(1000, "direct", 1.0), cell(1000, "flink-1", 2.0)]
    measured = [cell(1000, "flink-1", 3.0), cell(5000, "flink-1", 4.0)]
    assert scale.merged(before, measured) == [before[0], *measured]


def metric(name, value):
    """A counter as Beam's runner writes it into an accumulator of Flink's."""
    return {
        "urn": "beam:metric:user:sum_int64:v1",
        "type": "beam:metrics:sum_int64:v1",
        "payload": base64.b64encode(VarIntCoder().encode(value)).decode(),
        "labels": {"PTRANSFORM": "Read", "NAMESPACE": "steadyrank", "NAME": name},
    }


def test_records_are_read_out_of_flinks_accumulators():
    attempted = [metric("records", 4000), metric("other", 7), metric("records", 12)]
    attempted.append({"urn": "beam:metric:element_count:v1", "payload": "AQ==", "labels": {}})
    value = json.dumps({"metrics": {"attempted": attempted}})
    other = {"name": "other", "value": "4"}
    assert records_in([other, {"name": "__metricscontainers", "value": value}]) == 4012
    assert records_in([{"name": "__metricscontainers", "value": '{"metrics": {}}'}]) == 0
    assert records_in([]) == 0


def examples(folder, rows, split="train"):
    path = folder / f"Split-{split}"
    path.mkdir(parents=True, exist_ok=True)
    options = tf.io.TFRecordOptions(compression_type="GZIP")
    with tf.io.TFRecordWriter(str(path / f"data-{len(list(path.iterdir()))}.gz"), options) as file:
        for row in rows:
            file.write(row)


def example(**features):
    """An Example with its features in the order that is given, as bytes."""
    parts = [
        tf.train.Example(
            features=tf.train.Features(
                feature={name: tf.train.Feature(float_list=tf.train.FloatList(value=[value]))}
            )
        ).SerializeToString()
        for name, value in features.items()
    ]
    return b"".join(parts)


def artifact(folder):
    made = standard_artifacts.Examples()
    made.uri = str(folder)
    made.split_names = artifact_utils.encode_split_names(["train", "eval"])
    return {"examples": [made]}


def test_examples_are_the_same_in_another_order(tmp_path):
    for split in ("train", "eval"):
        examples(tmp_path / "a", [example(x=1, y=2), example(x=3, y=4)], split)
        examples(tmp_path / "b", [example(y=4, x=3)], split)
        examples(tmp_path / "b", [example(y=2, x=1)], split)
    one, other = artifact(tmp_path / "a"), artifact(tmp_path / "b")
    assert compare.differences("DailyExampleGen", one, other) == []


@pytest.mark.parametrize("rows", [[(1, 2)], [(1, 2), (3, 4), (3, 4)], [(1, 2), (3, 5)]])
def test_examples_that_are_lost_doubled_or_changed_differ(tmp_path, rows):
    for split in ("train", "eval"):
        examples(tmp_path / "a", [example(x=1, y=2), example(x=3, y=4)], split)
        examples(tmp_path / "b", [example(x=x, y=y) for x, y in rows], split)
    one, other = artifact(tmp_path / "a"), artifact(tmp_path / "b")
    assert len(compare.differences("DailyExampleGen", one, other)) == 2


def test_records_are_counted(tmp_path):
    examples(tmp_path, [example(x=1), example(x=1), example(x=2)])
    counted = compare.records(artifact(tmp_path)["examples"][0], "train")
    assert sorted(counted.values()) == [1, 2]
    assert isinstance(counted, collections.Counter)


@pytest.mark.parametrize(
    ("one", "other", "paths"),
    [
        ({"a": [1.0, "x"]}, {"a": [1.0 + 1e-9, "x"]}, []),
        ({"a": [1.0, "x"]}, {"a": [1.1, "y"]}, ["/a/0", "/a/1"]),
        ({"a": 1.0}, {"a": 1.0, "b": 2}, ["/b"]),
        ({"a": [1.0]}, {"a": [1.0, 1.0]}, ["/a"]),
        ({"a": float("nan")}, {"a": float("nan")}, []),
        ({"a": float("nan")}, {"a": 1.0}, ["/a"]),
        ({"a": True}, {"a": False}, ["/a"]),
    ],
)
def test_values_that_differ_are_named(one, other, paths):
    assert [line.partition(":")[0] for line in compare.unequal(one, other, 1e-6)] == paths


@pytest.mark.slow
@pytest.mark.skipif("FLINK_CHECK" not in os.environ, reason="make flink-check asks for it")
def test_a_day_on_flink_with_a_killed_worker_is_as_on_one_machine():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.flink", "--days=1", "--rows=3000", "--kill"],
        capture_output=True,
        text=True,
    )
    if done.stdout.startswith("skipped"):
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killing a TaskManager" in done.stdout
    assert done.stdout.count("same") == 3
