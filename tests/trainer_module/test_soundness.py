"""Faults planted in a model that was really trained, and what is said of them."""

import numpy as np
import pytest
from events import make_events, tiny_spec, write_events
from trainings import trained

from trainer_module import soundness
from trainer_module.model import task_of_layer
from trainer_module.training_state import inner_optimizer

pytestmark = pytest.mark.slow

SETTINGS = ("training.epochs=2", "model.wide=true", "model.tower=[4]")
SPEC = tiny_spec(*SETTINGS)


@pytest.fixture(scope="module")
def model(train_files, tmp_path_factory):
    return trained(SPEC, train_files, tmp_path_factory.mktemp("sound"))


@pytest.fixture(scope="module")
def frozen(train_files, tmp_path_factory):
    """Layers trained at a rate below what float32 can add to a weight; and its folder."""
    folder = tmp_path_factory.mktemp("frozen")
    spec = tiny_spec("training.learning_rate=1e-30", "training.embedding_learning_rate=0.1")
    return trained(spec, train_files, folder), folder, spec


@pytest.fixture
def plant(model):
    """Sets one place of a variable of the model or the optimizer; undone afterwards."""
    before = []

    def set_value(path, place, value):
        variables = (*model.model.variables, *inner_optimizer(model.optimizer).variables)
        (variable,) = [item for item in variables if item.path == path]
        values = np.array(variable)
        before.append((variable, values.copy()))
        values[place] = value
        variable.assign(values)

    yield set_value
    for variable, values in before:
        variable.assign(values)


def found(model, start=None, spec=SPEC, cold=True):
    return soundness.faults(model.model, model.optimizer, start or {}, spec, cold)


def test_healthy_training_has_no_fault(model):
    assert model.faults == ()
    assert found(model) == ()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("shared-0/kernel", (3, 5)),
        ("head-watch/bias", 0),
        # Twenty of fifty users occur in the events: most rows are of none.
        ("embedding-user/embedding/embeddings", 49),
        ("z-scores/variance", 1),
        ("clipped_adagrad/tower-click-0_kernel_accumulator", (1, 1)),
        ("clipped_adagrad/embedding-hour_embedding_embeddings_accumulator", 0),
    ],
)
def test_what_is_not_finite_is_found_wherever_it_is(model, plant, path, place, value):
    plant(path, place, value)
    (fault,) = found(model)
    assert fault.startswith(f"{path} is NaN or infinite in ")


def test_statistics_of_the_last_step_may_be_anything(model, plant):
    plant("clipped_adagrad/statistics", (0, 0), np.nan)
    assert found(model) == ()


def test_row_that_has_blown_up_is_found_and_named(model, plant):
    plant("embedding-user/embedding/embeddings", (7, 2), -2e3)
    assert found(model) == (
        "embedding-user/embedding/embeddings has grown to 2e+03 in row 7, and beyond 1000 in 1 "
        "of 50 rows (training.max_weight)",
    )
    assert found(model, spec=tiny_spec("training.max_weight=2001")) == ()


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        ("shared-1/kernel", True),
        ("head-click/kernel", True),
        ("head-watch/bias", True),
        # That of raw values.
        ("z-scores/mean", False),
    ],
)
def test_bound_is_on_weights_that_have_no_unit(model, plant, path, refused):
    plant(path, 0, 1e6)
    assert bool(found(model)) == refused


def start_with(model, *unmoved):
    """Fingerprints of a start that differs from the end in all but what is given."""
    now = soundness.fingerprints(model.model, model.optimizer)
    return {path: digest if path in unmoved else "" for path, digest in now.items()}


def slots(layer):
    name = f"clipped_adagrad/{layer.replace('/', '_')}"
    return [f"{name}_{part}_accumulator" for part in ("kernel", "bias", "embeddings")]


def weights(layer):
    return [f"{layer}/{part}" for part in ("kernel", "bias", "embeddings")]


@pytest.mark.parametrize(
    ("unmoved", "faults"),
    [
        pytest.param([], [], id="all move"),
        pytest.param(["shared-0/bias"], [], id="a bias alone"),
        pytest.param(
            weights("shared-0"),
            ["shared-0/kernel is where it was before the training: the optimizer holds it"],
            id="held",
        ),
        pytest.param(
            [*weights("shared-1"), *slots("shared-1")],
            ["shared-1/kernel is where it was before the training: no gradient reaches it"],
            id="dead",
        ),
        pytest.param(
            [*weights("tower-click-0"), *slots("tower-click-0")],
            ["tower-click-0/kernel is where it was before the training: no gradient reaches it"],
            id="dead tower of a task with labels",
        ),
        pytest.param(
            [
                name
                for layer in ("tower-stars-0", "head-stars")
                for name in (*weights(layer), *slots(layer))
            ],
            [],
            id="task without a label",
        ),
        pytest.param(
            [*weights("embedding-hour/embedding"), *slots("embedding-hour/embedding")],
            [
                "embedding-hour/embedding/embeddings is where it was before the training: "
                "no gradient reaches it"
            ],
            id="embedding of single values, which cannot be unseen",
        ),
        pytest.param(
            [*weights("wide-click"), *slots("wide-click")],
            [],
            id="linear model of constant numbers",
        ),
        pytest.param(
            weights("embedding-hour/embedding"),
            [
                "embedding-hour/embedding/embeddings is where it was before the training: "
                "the optimizer holds it"
            ],
            id="embedding held",
        ),
    ],
)
def test_layer_that_has_not_moved_is_found_unless_nothing_could_move_it(model, unmoved, faults):
    assert list(found(model, start_with(model, *unmoved))) == faults


def test_training_that_moves_nothing_is_told_so(model):
    weights = model.model.trainable_variables
    faults = found(model, start_with(model, *(weight.path for weight in weights)))
    assert list(faults) == [
        f"{weight.path} is where it was before the training: the optimizer holds it"
        for weight in weights
        if len(weight.shape) > 1
    ]


def test_training_that_moves_embeddings_alone_is_told_so(frozen):
    done, _, _ = frozen
    assert done.stability.verdict != "diverged"
    assert any("shared-0/kernel is where it was" in fault for fault in done.faults)


def test_start_is_remembered_by_a_training_that_is_resumed(frozen, train_files):
    first, folder, spec = frozen
    # From its last checkpoint: what has not moved since the start has not moved since then.
    again = trained(spec, train_files, folder)
    assert first.faults
    assert again.faults == first.faults


def test_what_the_window_has_nothing_of_does_not_block(tmp_path):
    """A label, a feature and all lists are absent; the lists have a table of their own."""
    table = "features.recent={type: categorical, multivalued: true, buckets: 50, embedding: 4}"
    spec = tiny_spec("training.epochs=2", "model.wide=true", table)
    absent = ("rating", "hour", "recent")
    events = [{k: v for k, v in event.items() if k not in absent} for event in make_events(300)]
    files = write_events(events, tmp_path / "files")
    assert trained(spec, files, tmp_path).faults == ()


@pytest.mark.parametrize(
    ("score", "cold", "refused"),
    [("click", True, False), ("click + stars", True, True), ("click + stars", False, False)],
)
def test_score_may_not_read_a_task_that_was_never_trained(model, score, cold, refused):
    spec = tiny_spec(*SETTINGS, f"serving.score={score}")
    layers = ("tower-stars-0", "head-stars")
    start = start_with(model, *(name for x in layers for name in (*weights(x), *slots(x))))
    faults = found(model, start, spec, cold)
    assert [fault.partition(" in the days")[0] for fault in faults] == (
        ["stars has no label"] if refused else []
    )


def test_layers_of_the_model_know_their_task(model):
    layers = {variable.path.split("/")[0] for variable in model.model.trainable_variables}
    tasks = {layer: task_of_layer(layer) for layer in layers}
    assert {task for task in tasks.values() if task} == set(SPEC.tasks)
    assert {layer for layer, task in tasks.items() if task is None} == {
        "embedding-user",
        "embedding-hour",
        "shared-0",
        "shared-1",
    }
