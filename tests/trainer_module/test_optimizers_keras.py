"""The optimizers inside Keras: training loops, wrappers, strategies, saving, JAX."""

import functools
import inspect
import json
import os
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer_module.optimizers import (
    AdaGC,
    AdaptiveGradientClipping,
    ClippedAdagrad,
    ClippedAdam,
    Clippy,
    ClippyAdagrad,
    GlobalNormClipping,
    Lamb,
    ZClip,
)

ROOT = Path(__file__).parents[2]
MAKERS = {
    "clippy adagrad": lambda **kw: ClippyAdagrad(
        0.3,
        variable_relative_threshold=0.5,
        absolute_threshold=1e-2,
        export_clipping_factors=True,
        **kw,
    ),
    "adagrad agc": lambda **kw: ClippedAdagrad(0.1, AdaptiveGradientClipping(unit_wise=True), **kw),
    "adagrad global": lambda **kw: ClippedAdagrad(0.1, GlobalNormClipping(0.5), exclude=(), **kw),
    "adam zclip": lambda **kw: ClippedAdam(0.05, ZClip(warmup_steps=2), **kw),
    "adam adagc": lambda **kw: ClippedAdam(
        0.05, AdaGC(warmup_steps=2), excluded_learning_rate=0.1, **kw
    ),
}


def ranker():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(20, 4),
            keras.layers.Flatten(),
            keras.layers.Dense(8, "relu"),
            keras.layers.Dense(1, dtype="float32"),
        ]
    )


def data():
    x = np.random.default_rng(0).integers(0, 20, (64, 3))
    return x, x.sum(1, keepdims=True) / 10.0


def trained(optimizer, epochs=2, **compile_args):
    model = ranker()
    model.compile(optimizer, "mse", **{"jit_compile": False, **compile_args})
    model.fit(*data(), epochs=epochs, batch_size=16, shuffle=False, verbose=0)
    return model


def assert_same(left, right, **tolerance):
    for one, other in zip(left, right, strict=True):
        np.testing.assert_allclose(one, other, **{"rtol": 1e-4, "atol": 1e-5, **tolerance})


def values(variables):
    return [keras.ops.convert_to_numpy(v) for v in variables]


@pytest.fixture(scope="module")
def fitted():
    """Returns a model that was trained with an optimizer, made once, and its weights then."""

    @functools.cache
    def fit(name):
        model = trained(MAKERS[name]())
        return model, model.get_weights()

    return fit


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_fit_is_the_same_with_and_without_xla_and_eagerly(name, fitted):
    _, weights = fitted(name)
    for args in ({"jit_compile": True}, {"run_eagerly": True}):
        assert_same(weights, trained(MAKERS[name](), **args).get_weights())
    assert np.mean((ranker().get_weights()[1] - weights[1]) ** 2) > 0


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_and_skips_overflowing_steps(policy):
    keras.config.set_dtype_policy(policy)
    try:
        inner = ClippyAdagrad(0.3, variable_relative_threshold=0.5, absolute_threshold=1e-2)
        optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**10)
        model = trained(optimizer, epochs=4)
        before = model.get_weights()
        optimizer.apply(
            [tf.fill(v.shape, np.float32(np.nan)) for v in model.trainable_variables],
        )
    finally:
        keras.config.set_dtype_policy("float32")
    assert_same(before, model.get_weights(), rtol=0, atol=0)
    assert float(optimizer.dynamic_scale) < 2.0**10
    assert all(np.all(np.isfinite(w)) for w in before)
    assert int(inner.iterations) == 16


def test_weight_decay_ema_and_clipnorm_are_those_of_the_base_class():
    arguments = {
        "weight_decay": 0.05,
        "use_ema": True,
        "ema_momentum": 0.5,
        "ema_overwrite_frequency": 3,
        "clipnorm": 0.5,
    }
    ends = []
    for make in (ClippedAdagrad, keras.optimizers.Adagrad):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8), keras.layers.Dense(1)])
        model.compile(make(0.1, **arguments), "mse", jit_compile=False)
        model.fit(*data(), batch_size=16, shuffle=False, verbose=0)
        ends.append(model.get_weights())
    assert_same(*ends)


def test_gradient_accumulation_takes_one_step_on_the_mean():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(4, 3, 2)).astype("float32")
    accumulated, plain = (keras.Variable(np.ones((3, 2)), dtype="float32") for _ in range(2))
    optimizer = ClippedAdagrad(0.1, Clippy(), gradient_accumulation_steps=4)
    optimizer.build([accumulated])
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient)], [accumulated])
    reference = ClippedAdagrad(0.1, Clippy())
    reference.apply([tf.constant(gradients.mean(0))], [plain])
    assert_same([accumulated.numpy()], [plain.numpy()])


def test_learning_rate_schedules_are_followed():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.0, 0.1])
    kernel = keras.Variable(np.ones(2), dtype="float32")
    table = keras.Variable(np.ones(2), dtype="float32", name="embeddings")
    optimizer = ClippedAdagrad(schedule, excluded_learning_rate=schedule)
    moves = []
    for _ in range(3):
        before = values([kernel, table])
        optimizer.apply([tf.ones(2), tf.ones(2)], [kernel, table])
        moves.append(
            [bool(np.any(b != a)) for b, a in zip(before, values([kernel, table]), strict=True)]
        )
    assert moves == [[False, False], [False, False], [True, True]]
    assert_config_survives(optimizer)


@keras.saving.register_keras_serializable("tests")
def is_bias(variable):
    return len(variable.shape) == 1


def assert_config_survives(optimizer):
    config = keras.saving.serialize_keras_object(optimizer)
    copy = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
    assert type(copy) is type(optimizer)
    assert keras.saving.serialize_keras_object(copy) == config
    return copy


@pytest.mark.parametrize("make", [ClippedAdagrad, ClippedAdam, ClippyAdagrad])
def test_config_tells_every_argument(make):
    changed = {
        "learning_rate": 0.25,
        "rule": Lamb(0.5),
        "initial_accumulator_value": 0.5,
        "epsilon": 0.25,
        "accumulator_update": "delayed",
        "beta_1": 0.5,
        "beta_2": 0.25,
        "variable_relative_threshold": 0.5,
        "accumulator_relative_threshold": 0.25,
        "absolute_threshold": 0.125,
        "export_clipping_factors": True,
        "export_statistics": True,
        "use_standard_accumulator_update": True,
        "name": "other",
        "exclude": is_bias,
        "excluded_learning_rate": 0.75,
        "jit_compile": False,
        "weight_decay": 0.5,
        "gradient_accumulation_steps": 2,
    }
    own = {
        name
        for cls in make.__mro__
        if cls.__module__.startswith("trainer_module")
        for name in inspect.signature(cls.__init__).parameters
    } - {"self", "kwargs"}
    if make is ClippyAdagrad:
        own -= {"rule", "accumulator_update"}
    arguments = {name: value for name, value in changed.items() if name in own}
    assert own - set(arguments) <= {"clip_accumulator_update"}
    optimizer = make(**arguments, weight_decay=0.5, gradient_accumulation_steps=2)
    copy = assert_config_survives(optimizer)
    assert copy.rule == optimizer.rule
    assert copy.exclude is is_bias
    config = copy.get_config()
    for name, value in arguments.items():
        if name not in ("rule", "exclude"):
            assert config[name] == value


def test_clip_accumulator_update_is_in_the_config():
    assert assert_config_survives(
        ClippyAdagrad(clip_accumulator_update=True)
    ).accumulator_update == ("delayed_clipped")


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_keras_file_restores_weights_and_slots_and_training_goes_on_alike(name, fitted, tmp_path):
    model, _ = fitted(name)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same(values(model.optimizer.variables), values(loaded.optimizer.variables), rtol=0)
    for one in (model, loaded):
        one.fit(*data(), batch_size=16, shuffle=False, verbose=0)
    assert_same(model.get_weights(), loaded.get_weights(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["clippy adagrad", "adam adagc"])
def test_checkpoint_restores_slots(name, fitted, tmp_path):
    model, _ = fitted(name)
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(str(tmp_path / "c"))
    fresh = ranker()
    fresh.compile(MAKERS[name](jit_compile=False), "mse")
    fresh.optimizer.build(fresh.trainable_variables)
    checkpoint = tf.train.Checkpoint(model=fresh, optimizer=fresh.optimizer)
    checkpoint.restore(path).assert_existing_objects_matched()
    assert_same(values(model.optimizer.variables), values(fresh.optimizer.variables), rtol=0)


def test_saved_model_holds_slots(fitted, tmp_path):
    model, _ = fitted("clippy adagrad")
    tf.saved_model.save(model, str(tmp_path))
    stored = {
        name: tf.train.load_variable(str(tmp_path / "variables/variables"), name)
        for name, _ in tf.train.list_variables(str(tmp_path / "variables/variables"))
        if "optimizer" in name.lower() and "VARIABLE_VALUE" in name
    }
    for slot in values(model.optimizer._slots[0]):
        assert any(np.array_equal(slot, value) for value in stored.values())


DISTRIBUTED = """
import sys
import numpy as np, tensorflow as tf
device = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path.insert(0, "tests/trainer_module")
from test_optimizers_keras import MAKERS, assert_same, trained
mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for name in ("clippy adagrad", "adam zclip"):
    ends = []
    for strategy in (mirrored, tf.distribute.get_strategy()):
        with strategy.scope():
            optimizer = MAKERS[name](jit_compile=name == "clippy adagrad")
            model = trained(optimizer, epochs=1)
        ends.append(model.get_weights())
        assert optimizer.skipped_steps == 0
    assert_same(*ends)
print("same")
"""

JAX = """
import sys
import jax, numpy as np, pytest
sys.path.insert(0, "tests/trainer_module")
from test_optimizers_keras import MAKERS, walk
for name, make in MAKERS.items():
    np.savez(f"{sys.argv[1]}/{name}", *walk(make(), jax.jit))
# The formulas are checked in float64 too.
jax.config.update("jax_enable_x64", True)
rules = "tests/trainer_module/test_optimizers_rules.py"
pytest.main(["-q", "--noconftest", "-pno:cacheprovider", rules])
"""
# Two layers too large to be stepped together with the others, between some that are not.
SHAPES = (((4, 3), "kernel"), ((3,), "bias"), ((513, 512), "kernel_1"), ((512,), "bias_1"))
SHAPES += (((512, 514), "kernel_2"), ((514,), "bias_2"), ((5, 2), "embeddings"))


def walk(optimizer, jit=None):
    """Weights, slots and skipped steps after 6 steps, the fourth of which is not finite."""
    rng = np.random.default_rng(0)
    made = [
        keras.Variable(rng.normal(size=shape), dtype="float32", name=name) for shape, name in SHAPES
    ]
    optimizer.build(made)
    weights, state = [v.value for v in made], [v.value for v in optimizer.variables]
    apply = jit(optimizer.stateless_apply) if jit else None
    for step in range(6):
        gradients = [rng.normal(size=v.shape).astype("float32") * 5**step for v in made]
        if step == 3:
            gradients[0][0, 0] = np.nan
        gradients = [keras.ops.convert_to_tensor(g) for g in gradients]
        if apply:
            weights, state = apply(state, gradients, weights)
        else:
            optimizer.apply(gradients, made)
    if apply:
        for v, value in zip(made + optimizer.variables, weights + state, strict=True):
            v.assign(value)
    slots = [v for slot in optimizer._slots for v in slot]
    return values([optimizer.skipped_steps_per_variable, *made, *slots])


def run_python(code, *arguments, python, **environment):
    done = subprocess.run(
        [python, "-c", code, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONWARNINGS": "ignore",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_mirrored_strategy_trains_as_one_device_does(warm_python_path):
    assert "same" in run_python(DISTRIBUTED, python=warm_python_path)


@pytest.fixture(scope="module")
def on_jax(tmp_path_factory, warm_python_path):
    """Folder of the walks that JAX took, and what the tests of rules printed there."""
    folder = tmp_path_factory.mktemp("jax")
    environment = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    # It compiles hundreds of programs and runs each a few times.
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    return folder, run_python(JAX, str(folder), python=warm_python_path, **environment)


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_jax_takes_the_steps_that_tensorflow_takes(name, on_jax):
    skipped, *expected = walk(MAKERS[name](jit_compile=False))
    np.testing.assert_array_equal(skipped, [1, *[0] * (len(SHAPES) - 1)])
    with np.load(on_jax[0] / f"{name}.npz") as stored:
        for ours, theirs in zip([skipped, *expected], stored.values(), strict=True):
            # Moments are sums of large numbers of either sign.
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6 * np.abs(ours).max())


@pytest.mark.slow
def test_rules_keep_to_their_formulas_on_jax(on_jax):
    assert " passed" in on_jax[1]
    assert "failed" not in on_jax[1]
