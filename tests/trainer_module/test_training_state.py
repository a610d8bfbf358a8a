import keras
import numpy as np
import pytest
from events import tiny_spec

from schemas.training import Accumulators, OptimizerSettings, Training
from trainer_module.model import build_model
from trainer_module.training import make_optimizer
from trainer_module.training_state import age_accumulators, effective_rates, inner_optimizer

START = 0.1


@pytest.fixture(params=["none", "float16"])
def optimizer(request):
    """Adagrad that has summed up something, with the scale of float16's losses or without."""
    training = Training(
        optimizer=OptimizerSettings(initial_accumulator=START), mixed_precision=request.param
    )
    made = make_optimizer(training)
    variables = [keras.Variable(np.zeros(shape), name=f"w{len(shape)}") for shape in ((3,), (2, 3))]
    made.build(variables)
    rng = np.random.default_rng(0)
    for accumulator in inner_optimizer(made).accumulators:
        accumulator.assign(START + rng.exponential(2.0, accumulator.shape))
    return made


def sums(optimizer):
    return [np.asarray(a, np.float64) for a in inner_optimizer(optimizer).accumulators]


@pytest.mark.parametrize(
    ("decay", "cap"), [(1.0, None), (0.5, None), (1e-9, None), (1.0, 0.3), (0.9, 0.3), (0.9, 1e9)]
)
def test_sums_decay_towards_their_start_and_begin_below_the_cap(optimizer, decay, cap):
    before = sums(optimizer)
    age_accumulators(optimizer, Accumulators(decay=decay, cap=cap))
    for old, new in zip(before, sums(optimizer), strict=True):
        expected = np.minimum(np.maximum(old * decay, START), np.inf if cap is None else cap)
        np.testing.assert_allclose(new, expected, rtol=1e-6)


def test_sums_are_carried_bit_by_bit_where_nothing_is_said(optimizer):
    before = sums(optimizer)
    age_accumulators(optimizer, Training().accumulators.model_copy(update={"decay": 1.0}))
    assert all(np.array_equal(a, b) for a, b in zip(before, sums(optimizer), strict=True))


def test_effective_rate_is_the_step_that_a_gradient_of_one_makes():
    spec = tiny_spec(
        "training={warmup_steps: 0, learning_rate: 0.3, optimizer: "
        "{name: adagrad, delayed_accumulator: true, initial_accumulator: 0.1}}"
    )
    model, made = build_model(spec), make_optimizer(spec.training)
    made.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    for accumulator in inner_optimizer(made).accumulators:
        accumulator.assign(START + rng.exponential(2.0, accumulator.shape))
    rates = effective_rates(model, made, spec.training)
    before = [np.asarray(variable, np.float64) for variable in model.trainable_variables]
    made.apply([keras.ops.ones(variable.shape) for variable in model.trainable_variables])
    for variable, old in zip(model.trainable_variables, before, strict=True):
        step = np.median(old - np.asarray(variable, np.float64))
        assert rates[variable.path] == pytest.approx(step, rel=1e-4), variable.path
