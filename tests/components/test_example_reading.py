"""Events are read as TFX reads them, file by file."""

import ast
import datetime
import pathlib

import apache_beam as beam
import numpy as np
import pytest
import tensorflow_data_validation as tfdv
from apache_beam.testing.util import assert_that, equal_to
from executions import artifact
from google.protobuf import json_format
from planted_model import write_examples
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.components.statistics_gen import executor as tfx_statistics_gen
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import io_utils
from tfx_bsl.tfxio import tf_example_record

from components import artifacts
from components.example_reading import ReadFiles, read_records
from components.run_plan import RunPlan
from components.statistics_gen import executor as statistics_gen
from schemas.loading import load_spec

DEMO = pathlib.Path(__file__).parents[2] / "schemas" / "demo.yaml"
EVENTS = 2500
SCHEMA = schema_pb2.Schema(
    feature=[
        schema_pb2.Feature(name="age", type=schema_pb2.FLOAT),
        schema_pb2.Feature(name="hour", type=schema_pb2.INT),
        schema_pb2.Feature(name="user", type=schema_pb2.BYTES),
    ]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("examples")
    generator = np.random.default_rng(0)
    for split in ("train", "eval"):
        write_examples(
            root / f"Split-{split}",
            {
                "user": [f"u{i % 50}" for i in range(EVENTS)],
                "hour": np.arange(EVENTS),
                "age": generator.normal(40, 10, EVENTS).tolist(),
            },
            {"age": generator.random(EVENTS) < 0.1},
            files=3,
        )
    return root


def rows(source, tmp_path):
    """All events that a source reads, by hour; a value that is absent is left out."""
    output = str(tmp_path / str(len(list(tmp_path.iterdir()))))
    with beam.Pipeline(argv=["--direct_running_mode=in_memory"]) as pipeline:
        _ = (
            pipeline
            | source
            | beam.Map(lambda batch: repr(batch.to_pylist()))
            | beam.io.WriteToText(output, shard_name_template="")
        )
    with open(output, encoding="utf-8") as file:
        batches = [ast.literal_eval(line) for line in file]
    assert max(len(batch) for batch in batches) <= 1000
    events = [
        {name: value for name, value in row.items() if value is not None}
        for batch in batches
        for row in batch
    ]
    return sorted(events, key=lambda row: row["hour"])


def test_events_are_those_that_tfx_reads(folder, tmp_path):
    pattern = str(folder / "Split-train" / "*")
    events = rows(ReadFiles(pattern, statistics_gen.read_events), tmp_path)
    theirs = tf_example_record.TFExampleRecord(pattern, telemetry_descriptors=["Test"])
    assert len(events) == EVENTS
    assert events == rows(theirs.BeamSource(), tmp_path)


def in_batches(file):
    return read_records(file, 600)


def test_batches_have_the_size_that_is_asked_for(folder):
    with beam.Pipeline(argv=["--direct_running_mode=in_memory"]) as pipeline:
        sizes = (
            pipeline
            | ReadFiles(str(folder / "Split-eval" / "*"), in_batches)
            | beam.Map(len)
            | beam.combiners.Count.PerElement()
        )
        # Three files of 834, 833 and 833 events.
        assert_that(sizes, equal_to([(600, 3), (234, 1), (233, 2)]))


def test_pattern_without_a_file_is_named(folder):
    with (
        pytest.raises(FileNotFoundError, match="Split-none"),
        beam.Pipeline(argv=["--direct_running_mode=in_memory"]) as pipeline,
    ):
        pipeline | ReadFiles(str(folder / "Split-none" / "*"), in_batches)


def plan_artifact(folder, *overrides):
    spec = load_spec(str(DEMO), overrides)
    RunPlan(spec, datetime.date(2026, 1, 4), window=()).save(str(folder))
    return artifact(artifacts.RunPlan, folder)


def statistics_of(executor, folder, tmp_path, name, properties=None, overrides=()):
    """Statistics by split, and the artifact."""
    io_utils.write_pbtxt_file(str(tmp_path / "schema" / "schema.pbtxt"), SCHEMA)
    (examples,) = artifact(standard_artifacts.Examples, folder)
    examples.split_names = artifact_utils.encode_split_names(["train", "eval"])
    examples.span = 7
    for split in ("train", "eval"):
        examples.set_int_custom_property(f"{split}_events", EVENTS)
    inputs = {
        "plan": plan_artifact(tmp_path / "plan", *overrides),
        "examples": [examples],
        "schema": artifact(standard_artifacts.Schema, tmp_path / "schema"),
    }
    (statistics,) = artifact(standard_artifacts.ExampleStatistics, tmp_path / name)
    executor.Executor().Do(inputs, {"statistics": [statistics]}, properties or {})
    found = {
        split: json_format.MessageToDict(
            tfdv.load_stats_binary(f"{statistics.uri}/Split-{split}/FeatureStats.pb")
        )
        for split in ("train", "eval")
    }
    return found, statistics


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"use_sketch_based_topk_uniques": True}])
def test_statistics_are_those_of_tfx(folder, tmp_path, options):
    given = {"stats_options_json": tfdv.StatsOptions(**options).to_json()} if options else {}
    (found, ours), (expected, theirs) = (
        statistics_of(executor, folder, tmp_path, name, given)
        for name, executor in (("ours", statistics_gen), ("theirs", tfx_statistics_gen))
    )
    assert (ours.split_names, ours.span) == (theirs.split_names, theirs.span)
    same(found, expected)
    assert not ours.get_string_custom_property("notes")


@pytest.mark.slow
def test_statistics_of_a_large_split_are_those_of_a_sample(folder, tmp_path):
    overrides = ["validation.max_statistics_events=1000"]
    (found, statistics), (again, _) = (
        statistics_of(statistics_gen, folder, tmp_path, name, overrides=overrides)
        for name in ("once", "twice")
    )
    assert statistics.get_string_custom_property("notes").splitlines() == [
        f"statistics of the split {split} are those of a sample, 1,000 of 2,500 events "
        "(validation.max_statistics_events)"
        for split in ("train", "eval")
    ]
    same(again, found)
    for split in ("train", "eval"):
        (dataset,) = found[split]["datasets"]
        assert int(dataset["numExamples"]) == pytest.approx(1000, abs=3)
        numbers = {item["path"]["step"][0]: item.get("numStats") for item in dataset["features"]}
        # Standard error of the mean: 10 / sqrt(900).
        assert numbers["age"]["mean"] == pytest.approx(40.0, abs=1.5)
        # The first third of each file, and the files have every third hour each.
        assert numbers["hour"]["max"] == pytest.approx(1000, abs=12)


def test_files_give_a_sample_what_their_sizes_say(tmp_path):
    sizes = {"a": 3000, "b": 1000, "c": 40}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))
    given = statistics_gen.shares(str(tmp_path / "*"), 500)
    assert {path.rpartition("/")[2] for path in given} == set(sizes)
    for name, size in sizes.items():
        assert 0 <= given[str(tmp_path / name)] - 500 * size / 4040 < 1


def same(one, other):
    """Holds what was said of two data sets against each other; sums are in another order."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same(a, b)
    else:
        assert one == (pytest.approx(other, rel=1e-9) if isinstance(one, float) else other)
