"""A feature or a task more is one edit of the spec, and nothing else."""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import yaml

sys.path.insert(0, str(Path(__file__).parent / "trainer_module"))

from events import SPEC, encode, make_events, write_transform_graph

from components.evaluator.eval_config import eval_config
from schemas.loading import parse_spec
from schemas.tfdv_schema import tfdv_schema
from trainer_module.export import export_model
from trainer_module.inputs import model_inputs
from trainer_module.model import build_model
from trainer_module.preprocessing import preprocess, raw_feature_spec


def test_new_feature_and_task_reach_schema_model_metrics_and_signatures(tmp_path):
    content = yaml.safe_load(SPEC)
    content["features"]["country"] = {"type": "categorical", "buckets": 30, "embedding": 3}
    content["tasks"]["share"] = {"kind": "binary", "label": "shared", "gate": {"min_auc": 0.6}}
    spec = parse_spec(yaml.safe_dump(content, sort_keys=False), "edited")

    assert {"country", "shared"} <= {feature.name for feature in tfdv_schema(spec).feature}
    config = eval_config(spec, compare=False)
    assert "share" in {name for item in config.metrics_specs for name in item.output_names}

    events = [{**event, "country": ["NL"], "shared": [1.0]} for event in make_events(6)]
    records = [encode(event) for event in events]
    values = preprocess(tf.io.parse_example(records, raw_feature_spec(spec)), spec)
    np.testing.assert_array_equal(values["share__label"], np.ones((6, 1)))
    model = build_model(spec)
    assert model(model_inputs(values, spec))["share"].shape == (6, 1)

    transform = write_transform_graph(spec, tmp_path / "tft", records)
    export_model(model, transform, spec, str(tmp_path / "model"))
    served = tf.saved_model.load(str(tmp_path / "model")).signatures["raw_features"]
    assert "country" in served.structured_input_signature[1]
    assert "share" in served.structured_outputs
