"""What a protocol of the experiments changes about a training, against NumPy in float64."""

import os
import subprocess

import numpy as np
import pytest

from experiments.bench import SHIFT_DAY, SHIFTED
from schemas.loading import load_spec
from schemas.training import Training

TRAIN = """
import sys
import numpy as np
from experiments.bench import Bench, Protocol
from experiments.replicas import Setting
from schemas.loading import load_spec
from schemas.training import Architecture
from trainer_module.optimizers import NoClipping
data, output = sys.argv[1:]
features = load_spec("examples/kuairand/spec.yaml").features
settings = [Setting(NoClipping(), rate, 1) for rate in (0.5, 0.25)]
for name, changes in {
    "adagrad": {"warm_up": 4},
    "product": {"warm_up": 4, "base": "product"},
    "shift": {"window": 1, "shift": 3.0, "shift_days": 2},
}.items():
    protocol = Protocol(
        models={"tiny": Architecture(shared=(4,))},
        rates={},
        batch=8,
        steps_a_day=2,
        without=[name for name in features if name not in ("tab", "duration_seconds")],
        **changes,
    )
    bench = Bench(protocol, data, output + ".jsonl", 2)
    own = bench.trainings["tiny"]
    own.prepare(settings, bench.compiling)
    order = bench.order(3, 1)
    seen = {"order": order, "labels": own.log.columns["labels"], "tasks": own.log.tasks}
    def watch(number, weights, gradients):
        for kind, values in (("w", weights), ("g", gradients)):
            for path, value in zip(own.layers, values):
                seen[f"{kind} {number} {path}"] = np.asarray(value)
    own.train(settings, {1: order}, np.arange(8), protocol.warm_up, watch)
    np.savez(output + name + ".npz", **seen)
"""
"""In a process of its own: the experiments run on Keras's JAX back end, the tests do not."""
DAYS, EVENTS, WARM_UP = 14, 16, 4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A log of two inputs and the example's tasks, with all labels zero or one."""
    rng, n = np.random.default_rng(0), DAYS * EVENTS
    columns = {
        "day": np.repeat(np.arange(DAYS, dtype="int32"), EVENTS),
        "tab": rng.integers(0, 4, (n, 1), dtype="int32"),
        "duration_seconds": rng.normal(2, 1, (n, 1)).astype("float32"),
    }
    for task in load_spec("examples/kuairand/spec.yaml").tasks:
        columns[f"{task}__label"] = rng.integers(0, 2, (n, 1)).astype("float32")
        columns[f"{task}__weight"] = np.ones((n, 1), "float32")
    path = tmp_path_factory.mktemp("log") / "data.npz"
    np.savez(path, **columns)
    return path


@pytest.fixture(scope="module")
def found(data, warm_python_path):
    """By protocol, what two trainings of six steps did, at 0.5 and 0.25."""
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    command = [warm_python_path, "-c", TRAIN, str(data), f"{data.parent}/"]
    subprocess.run(command, check=True, env=environment)
    return {
        name: dict(np.load(data.with_name(f"{name}.npz")).items())
        for name in ("adagrad", "product", "shift")
    }


@pytest.mark.slow
@pytest.mark.parametrize("base", ["adagrad", "product"])
def test_a_base_steps_as_it_says(found, base):
    seen = found[base]
    start, epsilon, of_embeddings = 0.1, 1e-7, 1.0
    if base == "product":
        start, epsilon, of_embeddings = 8 / 512**2, 1e-12, 5.0
        assert Training().fitted(512 * 256, warm=True).batch_size == 512
    paths = [key.removeprefix("w 0 ") for key in seen if key.startswith("w 0 ")]
    assert any("embedding" in path for path in paths)
    for path in paths:
        rates = np.array([0.5, 0.25]) * (of_embeddings if "embedding" in path else 1.0)
        rates = rates.reshape(-1, *[1] * (seen[f"w 0 {path}"].ndim - 1))
        total = start
        for number in range(5):
            w, g = (seen[f"{kind} {number} {path}"].astype("float64") for kind in "wg")
            total = total + np.square(g)
            risen = min(1.0, (number + 1) / WARM_UP)
            expected = w - rates * risen * g / np.sqrt(total + epsilon)
            after = seen[f"w {number + 1} {path}"]
            np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-6, err_msg=path)


@pytest.mark.slow
def test_labels_shift_in_steps_and_batches_keep_to_the_window(data, found):
    given, seen = np.load(data), found["shift"]
    days = given["day"]
    for place, task in enumerate(seen["tasks"]):
        risen = np.where(days < SHIFT_DAY, 0.0, np.where(days == SHIFT_DAY, 1.5, 3.0))
        expected = given[f"{task}__label"][:, 0] + (risen if task == SHIFTED else 0.0)
        np.testing.assert_allclose(seen["labels"][:, place], expected)
    assert [set(days[rows.ravel()]) for rows in seen["order"].reshape(3, -1)] == [{0}, {1}, {2}]
