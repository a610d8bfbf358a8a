"""What the figures record of a training, against NumPy in float64."""

import os
import subprocess

import numpy as np
import pytest

from experiments import figures

WATCH = """
import sys
import numpy as np
from experiments.figures import Watch
given = np.load(sys.argv[1])
watch = Watch(["embedding-user_id/table", "shared-0/kernel"], 0.5)
rest = np.zeros((1, 3), "float32")
for number, (w, g) in enumerate(zip(given["w"], given["g"])):
    watch(number, [rest, w[None]], [rest, g[None]])
np.savez(sys.argv[2], layers=watch.layers, **watch.columns())
"""
"""In a process of its own: the experiments run on Keras's JAX back end, the tests do not."""


@pytest.mark.slow
def test_a_watch_records_the_factors_of_both_orders_of_the_accumulator(tmp_path, warm_python_path):
    rng = np.random.default_rng(0)
    steps, rate = 4, 0.5
    w = rng.normal(0, 0.02, (steps, 16, 8))
    g = rng.normal(0, 1, (steps, 16, 8)) * 10.0 ** np.arange(steps)[:, None, None]
    given, found = (str(tmp_path / name) for name in ("given.npz", "found.npz"))
    np.savez(given, w=w.astype("float32"), g=g.astype("float32"))
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    subprocess.run([warm_python_path, "-c", WATCH, given, found], check=True, env=environment)
    seen = dict(np.load(found).items())

    before = figures.ACCUMULATOR + np.cumsum(np.square(g), axis=0) - np.square(g)
    after = before + np.square(g)
    norm = np.linalg.norm(g.reshape(steps, -1), axis=1)
    weight = np.linalg.norm(w.reshape(steps, -1), axis=1)

    def clippy(total):
        r = np.abs(g) / np.sqrt(total + figures.EPSILON)
        ratio = (0.5 * np.abs(w) + 1e-2) / (rate * r)
        return np.minimum(ratio.reshape(steps, -1).min(axis=1), 1.0)

    expected = {
        "gradient norm": norm,
        "weight norm": weight,
        "GC 0.1": np.minimum(0.1 / norm, 1.0),
        "AGC 0.01": np.minimum(0.01 * weight / norm, 1.0),
        "Clippy": clippy(after),
        figures.DELAYED: clippy(before),
    }
    assert list(seen.pop("layers")) == ["shared-0/kernel"]
    assert seen.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(seen[name][:, 0], values, rtol=1e-4, err_msg=name)
    # A gradient ten times the ones before it is what the delayed order alone sees in full.
    assert (expected[figures.DELAYED][1:] < expected["Clippy"][1:] / 3).all()


def test_pictures_show_every_layer_and_rule_that_was_seen():
    layers = [*figures.SHOWN_LAYERS, "shared-0/bias"]
    rng = np.random.default_rng(1)
    names = ("gradient norm", "weight norm", *figures.WOULD_HAVE, figures.DELAYED)
    seen = {name: rng.uniform(0.01, 1, (32, len(layers))) for name in names}
    seen |= {"loss": list(rng.uniform(3, 5, 32)), "layers": layers}
    figure = figures.draw_layers(seen, "title")
    for ax, number in zip(figure.axes, range(3), strict=True):
        drawn = {line.get_label(): line.get_ydata() for line in ax.lines}
        assert drawn.keys() == {*figures.WOULD_HAVE, figures.DELAYED}
        np.testing.assert_array_equal(drawn["Clippy"], seen["Clippy"][:, number])
    smallest = figures.draw_factors(seen, "title").axes[2].lines
    for line in smallest:
        np.testing.assert_array_equal(line.get_ydata(), seen[line.get_label()].min(axis=1))
