import dataclasses
import json

import keras
import numpy as np
import pytest

from trainer_module.checkpoints import Checkpoints, Progress


@pytest.fixture
def model():
    model = keras.Sequential([keras.layers.Dense(2)])
    model.build((None, 3))
    return model


@pytest.fixture
def optimizer(model):
    optimizer = keras.optimizers.Adagrad()
    optimizer.build(model.trainable_variables)
    return optimizer


def test_a_checkpoint_of_another_format_does_not_count_and_makes_room(tmp_path, model, optimizer):
    older = tmp_path / "000000000005"
    older.mkdir()
    (older / "progress.json").write_text(json.dumps(dataclasses.asdict(Progress(step=5))))
    checkpoints = Checkpoints(str(tmp_path), writes=True)
    assert checkpoints.newest() is None

    now = Progress(step=5, monitor={"of": "today"})
    checkpoints.save(now, model, optimizer)
    assert checkpoints.newest() == now
    (kernel, bias) = model.get_weights()
    model.set_weights([np.zeros_like(kernel), bias])
    checkpoints.restore(now, model, optimizer)
    assert np.array_equal(model.get_weights()[0], kernel)
    assert not (older / "progress.json").exists()


@pytest.mark.parametrize("content", ["", "{}", '{"step": 9'])
def test_a_checkpoint_whose_progress_is_damaged_does_not_count(tmp_path, model, optimizer, content):
    checkpoints = Checkpoints(str(tmp_path), writes=True)
    for step in (0, 5, 9):
        checkpoints.save(Progress(step=step), model, optimizer)
    (tmp_path / "000000000009" / "progress-2.json").write_text(content)
    assert checkpoints.newest() == Progress(step=5)
    checkpoints.save(Progress(step=9), model, optimizer)
    assert checkpoints.newest() == Progress(step=9)
