"""Makes tfrs_clippy_adagrad.json, the steps of TensorFlow Recommenders' ClippyAdagrad.

uv venv /tmp/tfrs --python 3.10
uv pip install --python /tmp/tfrs/bin/python tensorflow-cpu==2.16.2 tf_keras==2.16.0 \
    tensorflow-recommenders==0.7.7
/tmp/tfrs/bin/python tests/trainer_module/data/make_tfrs_clippy_adagrad.py
"""

import json
import os
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

THRESHOLDS = (
    {},
    {"variable_relative_threshold": 0.5, "absolute_threshold": 1e-2},
    {
        "variable_relative_threshold": 0.5,
        "absolute_threshold": 1e-3,
        "accumulator_relative_threshold": 0.02,
    },
    {"variable_relative_threshold": 0.5, "absolute_threshold": 0.0},
)
INDICES = [[2, 0, 2], [1, 1, 1], [3, 0, 0], [0, 2, 3]]


def steps(weights, gradients, sparse, config):
    optimizer = tfrs.experimental.optimizers.ClippyAdagrad(export_clipping_factors=True, **config)
    variable = tf.Variable(weights)
    optimizer.build([variable])
    for values, indices in zip(gradients, INDICES, strict=True):
        gradient = tf.constant(values)
        if sparse:
            gradient = tf.IndexedSlices(gradient[:3], tf.constant(indices), tf.constant([4, 3]))
        optimizer.apply_gradients([(gradient, variable)])
        yield {
            "w": variable.numpy().tolist(),
            "accumulator": optimizer._accumulators[0].numpy().tolist(),
            "sigma": float(optimizer.clipping_factors[0]),
        }


def main():
    rng = np.random.default_rng(7)
    weights = np.round(rng.normal(size=(4, 3)), 3).astype("float32")
    weights[1, 1] = 0.0
    gradients = [
        np.round(rng.normal(size=(4, 3)) * scale, 3).astype("float32")
        for scale in (0.1, 3.0, 0.5, 20.0)
    ]
    for gradient in gradients:
        gradient[0, 0] = 0.0
    cases = []
    for clip, standard in ((False, False), (True, False), (False, True)):
        for thresholds in THRESHOLDS:
            for sparse in (False, True):
                config = {
                    "learning_rate": 0.3,
                    "clip_accumulator_update": clip,
                    "use_standard_accumulator_update": standard,
                    **thresholds,
                }
                run = list(steps(weights, gradients, sparse, config))
                cases.append({"config": config, "sparse": sparse, "steps": run})
    content = {
        "package": f"tensorflow-recommenders {tfrs.__version__.lstrip('v')}",
        "w": weights.tolist(),
        "gradients": [gradient.tolist() for gradient in gradients],
        "indices": INDICES,
        "cases": cases,
    }
    path = Path(__file__).with_name("tfrs_clippy_adagrad.json")
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
