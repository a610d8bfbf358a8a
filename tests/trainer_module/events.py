"""Events for the tests of the trainer module: encoded, preprocessed, and as batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from schemas.loading import parse_spec
from schemas.spec import RankingSpec
from trainer_module.preprocessing import preprocess, raw_feature_spec

SPEC = """
name: tiny
features:
  user: {type: categorical, buckets: 50, embedding: 4, required: true}
  hour: {type: categorical, dtype: int, buckets: 10, embedding: 2}
  recent: {type: categorical, multivalued: true, table: user}
  age: {type: dense, scale: log1p, default: 1.0}
  price: {type: dense}
tasks:
  click: {kind: binary, label: clicked, gate: {min_auc: 0.6}}
  watch: {kind: regression, label: seconds, transform: log1p, gate: {max_rmse: 2}}
  stars: {kind: regression, label: rating, optional: true, gate: {max_rmse: 2}}
model: {shared: [16, 8]}
training:
  batch_size: 32
  epochs: 1
  learning_rate: 0.1
  warmup_steps: 0
  steps_per_execution: 4
  checkpoint_steps: 8
  optimizer: {initial_accumulator: 0.1}
serving: {score: "click * 2 + log1p(watch)"}
"""


def tiny_spec(*overrides: str) -> RankingSpec:
    return parse_spec(SPEC, "tiny", overrides)


def small_spec(*overrides: str) -> RankingSpec:
    """For trainings of which only the process matters: tracing is most of what one costs.

    A feature and a task of either kind are left, in half a training's time.
    """
    kept = (
        "features={user: {type: categorical, buckets: 50, embedding: 4, required: true},"
        " price: {type: dense}}",
        "tasks={click: {kind: binary, label: clicked, gate: {min_auc: 0.6}},"
        " stars: {kind: regression, label: rating, optional: true, gate: {max_rmse: 2}}}",
        "model={shared: [8]}",
        "serving.score=click",
    )
    return tiny_spec(*kept, *overrides)


def make_events(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    events = []
    for _ in range(count):
        user = int(rng.integers(20))
        liking = np.sin(user)
        event = {
            "user": [f"u{user}"],
            "hour": [int(rng.integers(24))],
            "recent": [f"u{n}" for n in rng.integers(20, size=rng.integers(0, 4))],
            "age": [float(rng.exponential(10))],
            "price": [float(rng.normal(100, 30))],
            "clicked": [float(rng.random() < 1 / (1 + np.exp(-3 * liking)))],
            "seconds": [float(np.exp(2 + liking + 0.1 * rng.normal()))],
        }
        if rng.random() < 0.3:
            event["rating"] = [float(3 + liking)]
        events.append(event)
    return events


def encode(event: dict[str, Any]) -> bytes:
    example = tf.train.Example()
    for name, values in event.items():
        feature = example.features.feature[name]
        for value in values:
            if isinstance(value, str):
                feature.bytes_list.value.append(value.encode())
            elif isinstance(value, int):
                feature.int64_list.value.append(value)
            else:
                feature.float_list.value.append(value)
    return example.SerializeToString()


def transformed(events: Sequence[dict[str, Any]], spec: RankingSpec) -> dict[str, Any]:
    parsed = tf.io.parse_example([encode(e) for e in events], raw_feature_spec(spec))
    return preprocess(parsed, spec)


def write_events(events: Sequence[dict[str, Any]], folder: Path) -> list[str]:
    """Writes encoded events in three gzipped files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for part in range(3):
        files.append(str(folder / f"part-{part}.gz"))
        options = tf.io.TFRecordOptions(compression_type="GZIP")
        with tf.io.TFRecordWriter(files[-1], options) as writer:
            for event in events[part::3]:
                writer.write(encode(event))
    return files


def write_transform_graph(
    spec: RankingSpec, folder: Path, records: Sequence[bytes] | None = None
) -> tft.TFTransformOutput:
    """Writes the TFT graph by tensorflow-transform's own analysis of a few events."""
    import apache_beam as beam
    import tensorflow_transform.beam as tft_beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from tfx_bsl.public import tfxio

    from schemas.tfdv_schema import tfdv_schema

    records = records or [encode(event) for event in make_events(8)]
    with tf.io.TFRecordWriter(str(folder) + ".tfrecord") as writer:
        for record in records:
            writer.write(record)
    reader = tfxio.TFExampleRecord(str(folder) + ".tfrecord", schema=tfdv_schema(spec))
    options = PipelineOptions(["--direct_running_mode=in_memory"])
    with (
        beam.Pipeline(options=options) as pipeline,
        tft_beam.Context(temp_dir=str(folder) + ".tmp"),
    ):
        raw = (pipeline | reader.BeamSource(), reader.TensorAdapterConfig())
        graph = raw | tft_beam.AnalyzeDataset(lambda inputs: preprocess(inputs, spec))
        graph | tft_beam.WriteTransformFn(str(folder))
    return tft.TFTransformOutput(str(folder))
