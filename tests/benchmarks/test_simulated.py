"""The simulated worlds that measurements train on, in memory."""

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import daily, simulated
from benchmarks.learning import default_spec
from components.daily_example_gen.shards import encode_examples
from pipeline.simulate import Shape, simulate_days
from trainer_module.inputs import model_inputs
from trainer_module.preprocessing import preprocess, raw_feature_spec

EVENTS = 300


@pytest.fixture(scope="module")
def spec():
    return default_spec([])


def test_columns_are_what_training_reads_from_encoded_events(spec, monkeypatch):
    table = simulated.event_table(spec, EVENTS)
    (batch,) = table.combine_chunks().to_batches()
    parsed = tf.io.parse_example(list(encode_examples(batch)), raw_feature_spec(spec))
    expected = preprocess(parsed, spec)
    inputs = model_inputs(expected, spec)
    monkeypatch.setattr(simulated, "_AT_ONCE", 128)  # in three pieces
    found = simulated.transformed(table, spec)
    assert found.keys() == expected.keys()
    for name, column in found.items():
        np.testing.assert_array_equal(column, inputs.get(name, expected[name]), name)


def test_a_world_holds_all_days_in_the_smallest_types_that_lose_nothing(spec):
    columns, best = daily.simulated(spec, Shape(), 2, EVENTS, 5)
    for number, day in enumerate(simulate_days(daily.START, 2, EVENTS, 5)):
        rows = columns["day"] == number
        for name, column in simulated.transformed(day.columns, spec).items():
            np.testing.assert_array_equal(columns[name][rows], column, name)
        clicked, chance = day.columns["clicked"].to_numpy() == 1, day.best["clicked"]
        lead = chance[clicked][:, np.newaxis] - chance[~clicked]
        assert best[number]["click"] == pytest.approx(np.mean((np.sign(lead) + 1) / 2))
    kinds = {name: column.dtype for name, column in columns.items()}
    assert kinds["click__label"] == kinds["rating__weight"] == kinds["device"] == np.int8
    assert kinds["item_age_days"] == kinds["watch_time__label"] == np.float32
