"""The average of weights over the steps of a training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer_module.averaging import WeightAverage

STRATEGY = tf.distribute.get_strategy()


def walk(average, variable, path):
    """Steps the variable along the path, [steps, values]."""

    @tf.function
    def steps(path):
        for weights in path:
            variable.value.assign(weights)
            average.after_step()

    steps(tf.constant(path, tf.float32))


def averaged(path, exponent, chunks=1):
    variable = keras.Variable(np.zeros(path.shape[1], "float32"))
    average = WeightAverage([variable], exponent, STRATEGY)
    for part in np.array_split(path, chunks):
        walk(average, variable, part)
    average.assign()
    return np.asarray(variable)


def density(steps, exponent):
    """What each step counts if every one is taken, float64 [steps]."""
    edges = (np.arange(steps + 1) / steps) ** (exponent + 1.0)
    return np.diff(edges)


@pytest.mark.parametrize("exponent", [0.5, 3.0])
@pytest.mark.parametrize("steps", [1, 9, 64, 300])
def test_average_of_a_smooth_path_is_that_of_all_its_steps(steps, exponent):
    path = np.stack([np.arange(1, steps + 1) / steps, np.full(steps, 7.0)], axis=1)
    expected = density(steps, exponent) @ path
    # One in eight steps is taken, and stands for those since the last that was.
    found = averaged(path, exponent)
    np.testing.assert_allclose(found, expected, atol=8 * exponent / steps)
    assert found[1] == pytest.approx(7.0)


def test_noise_averages_out_and_the_start_is_forgotten():
    rng = np.random.default_rng(0)
    path = rng.normal(size=(2000, 50))
    path[:400] += 100.0
    last, mean = path[-1], averaged(path, 3.0)
    # A fifth of the way in weighs 0.2^4, and noise of 200 samples is a tenth.
    assert np.abs(mean - 100.0 * 0.2**4).mean() < 0.2 * np.abs(last).mean()


@pytest.mark.parametrize("steps", [1, 5, 8])
def test_the_last_step_alone_counts_before_a_second_sample(steps):
    path = np.random.default_rng(1).normal(size=(steps, 3))
    np.testing.assert_allclose(averaged(path, 3.0), path[-1], rtol=1e-6)


def test_average_does_not_depend_on_the_calls_that_the_steps_came_in():
    path = np.random.default_rng(2).normal(size=(640, 4))
    np.testing.assert_array_equal(averaged(path, 3.0), averaged(path, 3.0, chunks=10))


def test_without_a_step_the_weights_stay():
    variable = keras.Variable(np.ones(3, "float32"))
    average = WeightAverage([variable], 3.0, STRATEGY)
    average.assign()
    np.testing.assert_array_equal(np.asarray(variable), np.ones(3))


def test_a_new_start_forgets_what_was_averaged():
    variable = keras.Variable(np.zeros(2, "float32"))
    average = WeightAverage([variable], 3.0, STRATEGY)
    walk(average, variable, np.full((50, 2), 5.0))
    average.start()
    walk(average, variable, np.full((50, 2), -1.0))
    average.assign()
    np.testing.assert_allclose(np.asarray(variable), -1.0, rtol=1e-6)


@pytest.fixture
def gaps(monkeypatch):
    """Gives the steps between the samples of a training of so many steps."""
    taken = tf.Variable(np.zeros(1000, "int64"))
    count = tf.Variable(0)
    take = WeightAverage._take

    def noted(self):
        count.assign_add(1)
        taken.scatter_nd_update([[count]], [self._step])
        take(self)

    def of(steps, weights):
        monkeypatch.setattr(WeightAverage, "_take", noted)
        averaged(np.zeros((steps, weights)), 3.0)
        return np.diff(taken.numpy()[: int(count) + 1])

    return of


def test_samples_grow_rarer_so_that_a_long_training_takes_few(gaps):
    # One in eight up to 512 steps; then each is a 64th later than the one before.
    assert 64 < len(gaps(20_000, 1)) < 64 + 64 * np.log(20_000 / 512) + 10


def test_large_tables_are_taken_more_rarely_in_a_long_training(gaps, monkeypatch):
    monkeypatch.setattr("trainer_module.averaging._WEIGHTS", 2)
    # Seven weights are four times two, so that it comes to one in 32 steps, not one in eight.
    found = gaps(2000, 7)
    steps = np.cumsum(found)
    assert (found[steps <= 128] == 8).all()
    assert (found <= np.maximum(8, steps / 16)).all()
    assert (found[steps > 600][:-1] == 32).all()


def test_a_short_training_of_large_tables_is_averaged_as_one_of_small_ones(monkeypatch):
    path = np.random.default_rng(4).normal(size=(96, 7))
    expected = averaged(path, 3.0)
    monkeypatch.setattr("trainer_module.averaging._WEIGHTS", 1)
    np.testing.assert_array_equal(averaged(path, 3.0), expected)
