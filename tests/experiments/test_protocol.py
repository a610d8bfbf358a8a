"""What a protocol of the experiments changes about a training, against NumPy in float64."""

import os
import subprocess
import sys

import numpy as np
import pytest

from experiments.bench import SHIFT_DAY, SHIFTED
from schemas.loading import load_spec
from schemas.training import Training

TRAIN = """
import sys
import numpy as np
from experiments.bench import Bench, Protocol, spec_of
from experiments.replicas import Setting
from schemas.loading import load_spec
from schemas.training import Architecture
from trainer_module.optimizers import NoClipping
data, output, base, warm_up, window, shift, shift_days = sys.argv[1:]
features = load_spec("examples/kuairand/spec.yaml").features
protocol = Protocol(
    models={"tiny": Architecture(shared=(4,))},
    rates={},
    batch=8,
    steps_a_day=2,
    without=[name for name in features if name not in ("tab", "duration_seconds")],
    base=base,
    warm_up=int(warm_up),
    window=int(window),
    shift=float(shift),
    shift_days=int(shift_days),
)
bench = Bench(protocol, data, output + ".jsonl", 2)
own = bench.trainings["tiny"]
settings = [Setting(NoClipping(), rate, 1) for rate in (0.5, 0.25)]
own.prepare(settings, bench.compiling)
order = bench.order(3, 1)
seen = {}
def watch(number, weights, gradients):
    for name, values in (("w", weights), ("g", gradients)):
        for path, value in zip(own.layers, values):
            seen[f"{name} {number} {path}"] = np.asarray(value)
own.train(settings, {1: order}, np.arange(8), protocol.warm_up, watch)
labels = np.asarray(own.log.columns["labels"])
np.savez(output, order=order, labels=labels, tasks=own.log.tasks, **seen)
"""
"""In a process of its own: the experiments run on Keras's JAX back end, the tests do not."""
DAYS, EVENTS = 14, 16


@pytest.fixture
def data(tmp_path):
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
    path = tmp_path / "data.npz"
    np.savez(path, **columns)
    return path


def train(data, base="adagrad", warm_up=0, window=3, shift=0.0, shift_days=1):
    """Two trainings of six steps, at 0.5 and 0.25."""
    output = data.with_name("found.npz")
    arguments = (data, output, base, warm_up, window, shift, shift_days)
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", TRAIN, *map(str, arguments)]
    subprocess.run(command, check=True, env=environment)
    return dict(np.load(output).items())


@pytest.mark.slow
@pytest.mark.parametrize("base", ["adagrad", "product"])
def test_a_base_steps_as_it_says(data, base):
    warm_up = 4
    found = train(data, base, warm_up)
    start, epsilon, of_embeddings = 0.1, 1e-7, 1.0
    if base == "product":
        start, epsilon, of_embeddings = 8 / 512**2, 1e-12, 5.0
        assert Training().fitted(512 * 256, warm=True).batch_size == 512
    paths = [key.removeprefix("w 0 ") for key in found if key.startswith("w 0 ")]
    assert any("embedding" in path for path in paths)
    for path in paths:
        rates = np.array([0.5, 0.25]) * (of_embeddings if "embedding" in path else 1.0)
        rates = rates.reshape(-1, *[1] * (found[f"w 0 {path}"].ndim - 1))
        total = start
        for number in range(5):
            w, g = (found[f"{name} {number} {path}"].astype("float64") for name in "wg")
            total = total + np.square(g)
            risen = min(1.0, (number + 1) / warm_up)
            expected = w - rates * risen * g / np.sqrt(total + epsilon)
            after = found[f"w {number + 1} {path}"]
            np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-6, err_msg=path)


@pytest.mark.slow
def test_labels_shift_in_steps_and_batches_keep_to_the_window(data):
    given = np.load(data)
    found = train(data, window=1, shift=3.0, shift_days=2)
    tasks = list(found["tasks"])
    days = given["day"]
    for place, task in enumerate(tasks):
        risen = np.where(days < SHIFT_DAY, 0.0, np.where(days == SHIFT_DAY, 1.5, 3.0))
        expected = given[f"{task}__label"][:, 0] + (risen if task == SHIFTED else 0.0)
        np.testing.assert_allclose(found["labels"][:, place], expected)
    assert [set(days[rows.ravel()]) for rows in found["order"].reshape(3, -1)] == [{0}, {1}, {2}]
