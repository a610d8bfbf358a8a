"""Many trainings of one model side by side, on Keras's JAX back end.

Model, initial values and optimizers are the product's. Each replica has its own initial
weights, order of data, learning rate and thresholds; one program takes a step of all of them.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras import ops

from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask
from schemas.training import Training
from trainer_module import signatures
from trainer_module.model import build_model, initialise_from_data, label_deviations
from trainer_module.optimizers import ClippedAdagrad, ClippedAdam, Rule

Tree = Any

CHUNKS = 8
"""Parts that the evaluation events are predicted in."""
_SHIPPED = Training(batch_size=512).fitted(day_events=0, warm=True)
BASES = {
    "adagrad": ClippedAdagrad,
    "delayed": functools.partial(ClippedAdagrad, accumulator_update="delayed"),
    "adam": ClippedAdam,
    "product": functools.partial(
        ClippedAdagrad,
        initial_accumulator_value=_SHIPPED.optimizer.initial_accumulator,
        epsilon=_SHIPPED.optimizer.epsilon,
        excluded_learning_rate=_SHIPPED.embedding_rate / _SHIPPED.learning_rate,
    ),
}
"""Base optimizers, at a learning rate of 1. `delayed` is Adagrad whose step knows the accumulator
of the step before; `product` has the accumulators and the faster embeddings that a spec gives
batches of 512 by default."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is varied between the replicas.

    Attributes:
        rule: the clipping rule.
        rate: the learning rate; that of the embeddings is as many times it as the base says.
        seed: seed of the initial weights and of the order of the data.
    """

    rule: Rule
    rate: float
    seed: int


class Log:
    """Transformed events on the device.

    Attributes:
        columns: `features` by name, [events, values]; `labels`, float32 [events, tasks], binary
            tasks first; `weights` of the labels, alike.
        day: number of each event's day, on the host.
        tasks: names of the tasks in the order of the columns.
        binary: how many of them are binary.
        loss_weights: factors of the tasks' losses, float32 [tasks].
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], spec: RankingSpec) -> None:
        """Makes the log of `examples.kuairand.arrays`'s arrays."""
        binary = [n for n, task in spec.tasks.items() if isinstance(task, BinaryTask)]
        self.tasks = [*binary, *(n for n in spec.tasks if n not in binary)]
        self.binary = len(binary)
        self.day = arrays["day"]
        self.loss_weights = np.array([spec.tasks[n].loss_weight for n in self.tasks], np.float32)
        self.columns = {
            "features": {name: jnp.asarray(arrays[name]) for name in spec.inputs},
            "labels": self._columns(arrays, signatures.label_key),
            "weights": self._columns(arrays, signatures.weight_key),
        }

    def _columns(self, arrays: Mapping[str, np.ndarray], key: Any) -> Any:
        return jnp.concatenate([jnp.asarray(arrays[key(n)]) for n in self.tasks], axis=1)

    @staticmethod
    def batch(columns: Tree, rows: Any) -> Tree:
        """Picks events out of `columns`."""
        return jax.tree.map(lambda column: column[rows], columns)

    def order(self, days: int, steps: int, batch: int, window: int, seed: int) -> np.ndarray:
        """Draws batches day by day, oldest first, from a window that ends with the day.

        Args:
            days: number of days to train on, from the first.
            steps: steps a day.
            batch: examples a step.
            window: days in the window.
            seed: of the draw.

        Returns:
            Numbers of events, int32 [days * steps, batch].
        """
        rng = np.random.default_rng(seed)
        parts = []
        for day in range(days):
            rows = np.flatnonzero((self.day <= day) & (self.day > day - window))
            repeats = -(-steps * batch // len(rows))
            drawn = np.concatenate([rng.permutation(rows) for _ in range(repeats)])
            parts.append(drawn[: steps * batch].reshape(steps, batch))
        return np.concatenate(parts).astype(np.int32)


class Trainings:
    """Trains `replicas` copies of a model at a time.

    Attributes:
        spec: the ranking spec.
        log: the events.
        replicas: how many are trained together.
    """

    def __init__(
        self,
        spec: RankingSpec,
        log: Log,
        replicas: int,
        sample: np.ndarray,
        arrays: Mapping[str, np.ndarray],
        base: str = "adagrad",
    ) -> None:
        """Makes the model; `sample` are the events of a cold start's statistics."""
        self.spec, self.log, self.replicas, self._base = spec, log, replicas, BASES[base]
        self._arrays, self._sample = arrays, sample
        self._weights: dict[int, list[Any]] = {}
        self._model = self._new_model(0)
        self._frozen = [v.value for v in self._model.non_trainable_variables]
        by_task = label_deviations(self._model, spec)
        regressions = log.tasks[log.binary :]
        self._variances = np.array([float(by_task[n]) ** 2 for n in regressions], np.float32)
        self._gradients = jax.jit(jax.vmap(self._loss_and_gradients, in_axes=(0, 0, None)))
        self._outputs = jax.jit(jax.vmap(self._forward, in_axes=(0, None)))
        self._steps: dict[Any, concurrent.futures.Future[Any]] = {}

    def _new_model(self, seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        model = build_model(self.spec)
        part = {name: self._arrays[name][self._sample] for name in self._arrays}
        tasks = self.spec.tasks
        batch = (
            {name: part[name] for name in self.spec.inputs},
            {name: part[signatures.label_key(name)] for name in tasks},
            {name: part[signatures.weight_key(name)] for name in tasks},
        )
        initialise_from_data(model, [batch], self.spec)
        return model

    def initial(self, seed: int) -> list[Any]:
        """Returns a cold start's weights."""
        if seed not in self._weights:
            model = self._new_model(seed)
            self._weights[seed] = [v.value for v in model.trainable_variables]
        return self._weights[seed]

    def _forward(self, weights: Tree, features: Tree) -> Any:
        outputs, _ = self._model.stateless_call(weights, self._frozen, features)
        return ops.concatenate([outputs[name] for name in self.log.tasks], axis=1)

    def losses(self, outputs: Any, batch: Tree) -> Any:
        """Returns each task's loss over its labelled events by the number of all, float32 [tasks].

        Errors of a regression are in units of the label's deviation at the cold start.
        """
        y, w, binary = batch["labels"], batch["weights"], self.log.binary
        # Log loss on logits, as TensorFlow's sigmoid_cross_entropy_with_logits.
        logits = outputs[:, :binary]
        log_loss = ops.relu(logits) - logits * y[:, :binary] + ops.softplus(-ops.abs(logits))
        squares = ops.square(outputs[:, binary:] - y[:, binary:]) / self._variances
        errors = [log_loss, squares]
        return ops.mean(ops.concatenate(errors, axis=1) * w, axis=0)

    def _loss_and_gradients(self, weights: Tree, rows: Any, columns: Tree) -> Any:
        batch = self.log.batch(columns, rows)

        def loss(weights: Tree) -> Any:
            losses = self.losses(self._forward(weights, batch["features"]), batch)
            return ops.sum(losses * self.log.loss_weights)

        return jax.value_and_grad(loss)(weights)

    def base_loss(self, rows: np.ndarray) -> float:
        """Returns the loss of the best constant predictions of these events."""
        y, w = (np.asarray(self.log.columns[name])[rows] for name in ("labels", "weights"))
        mean = (y * w).sum(0) / w.sum(0)
        variance = (np.square(y - mean) * w).sum(0) / w.sum(0)
        p = np.clip(mean, 1e-6, 1 - 1e-6)
        entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p))
        binary = self.log.binary
        by_task = np.concatenate([entropy[:binary], variance[binary:] / self._variances])
        return float(by_task * w.mean(0) @ self.log.loss_weights)

    def prepare(self, settings: Sequence[Setting], pool: concurrent.futures.Executor) -> None:
        """Compiles the optimizer's step in the background, if that is not done yet."""
        key = _program(settings)
        if key not in self._steps:
            self._steps[key] = pool.submit(self._compiled_step, settings[0].rule, key[1])

    def _compiled_step(
        self, rule: Rule, names: tuple[str, ...]
    ) -> tuple[list[Any], list[int], Any]:
        """The optimizer's initial state, where in it the rates are, and the step of all."""
        optimizer = self._base(1.0, rule=rule)
        variables = self._model.trainable_variables
        optimizer.build(variables)
        state = [v.value for v in optimizer.variables]
        paths = [v.path for v in optimizer.variables]
        rates = [i for i, path in enumerate(paths) if path.endswith("learning_rate")]

        def step(weights: Tree, state: Tree, gradients: Tree, thresholds: Any) -> Any:
            optimizer.rule = dataclasses.replace(rule, **dict(zip(names, thresholds, strict=True)))
            optimizer._layers = [optimizer._layer(v) for v in variables]
            return optimizer.stateless_apply(state, gradients, weights)

        def many(values: Tree) -> Tree:
            return jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((self.replicas, *x.shape), x.dtype), values
            )

        weights = many([v.value for v in variables])
        thresholds = tuple(jax.ShapeDtypeStruct((self.replicas,), jnp.float32) for _ in names)
        traced = jax.jit(jax.vmap(step), donate_argnums=(0, 1))
        return state, rates, traced.lower(weights, many(state), weights, thresholds).compile()

    def train(
        self,
        settings: Sequence[Setting],
        orders: Mapping[int, np.ndarray],
        eval_rows: np.ndarray,
        warm_up: int = 0,
        watch: Callable[[int, Tree, Tree], None] | None = None,
    ) -> dict[str, Any]:
        """Trains one model for each setting; all have rules of one class, which is `prepare`d.

        Args:
            settings: `replicas` of them.
            orders: batches by seed, as `Log.order`.
            eval_rows: events to predict at the end, whose number `CHUNKS` divides.
            warm_up: steps over which the rate rises, from its share of the first.
            watch: called before each step with its number, the weights and their gradients.

        Returns:
            `loss`: float32 [steps, replicas]; `outputs`: float32 [replicas, events, tasks];
            `finite`: whether all weights are, bool [replicas]; `seconds`: of the training.
        """
        state, places, step = self._steps[_program(settings)].result()
        stack = functools.partial(jnp.stack, axis=0)
        weights = [
            stack(parts) for parts in zip(*(self.initial(s.seed) for s in settings), strict=True)
        ]
        states = [stack([value] * self.replicas) for value in state]
        rates = np.asarray([s.rate for s in settings], np.float32)
        thresholds = tuple(
            jnp.asarray([getattr(s.rule, name) for s in settings], jnp.float32)
            for name in _program(settings)[1]
        )
        order = np.stack([orders[s.seed] for s in settings], axis=1)
        losses = []
        started = time.perf_counter()
        for number, rows in enumerate(order):
            loss, gradients = self._gradients(weights, rows, self.log.columns)
            if watch is not None:
                watch(number, weights, gradients)
            if number <= warm_up:
                risen = rates * min(1.0, (number + 1) / max(warm_up, 1))
                for place in places:
                    states[place] = jnp.asarray(state[place] * risen)
            weights, states = step(weights, states, gradients, thresholds)
            losses.append(loss)
        curve = np.asarray(jnp.stack(losses))
        seconds = time.perf_counter() - started
        outputs = self.predict(weights, eval_rows)
        finite = np.ones(self.replicas, bool)
        for value in weights:
            finite &= np.asarray(jnp.isfinite(value).reshape(self.replicas, -1).all(axis=1))
        return {"loss": curve, "outputs": outputs, "finite": finite, "seconds": seconds}

    def predict(self, weights: Tree, rows: np.ndarray) -> np.ndarray:
        """Returns the outputs for events, whose number `CHUNKS` divides.

        Args:
            weights: of all replicas.
            rows: numbers of the events.

        Returns:
            float32 [replicas, events, tasks].
        """
        features = self.log.batch(self.log.columns["features"], rows)
        parts = [jax.tree.map(lambda x: jnp.split(x, CHUNKS)[n], features) for n in range(CHUNKS)]  # noqa: B023
        chunks = [self._outputs(weights, part) for part in parts]
        return np.concatenate([np.asarray(chunk) for chunk in chunks], axis=1)

    @property
    def layers(self) -> list[str]:
        """Paths of the weights, in their order."""
        return [v.path for v in self._model.trainable_variables]


def _program(settings: Sequence[Setting]) -> tuple[type[Rule], tuple[str, ...], tuple[str, ...]]:
    """Which program steps these: class of the rule, thresholds that are arguments, and the rest."""
    rule = settings[0].rule
    values = {f.name: getattr(rule, f.name) for f in dataclasses.fields(rule)}
    # What is zero everywhere is switched off, not small.
    names = tuple(
        name
        for name, value in values.items()
        if isinstance(value, float) and any(getattr(s.rule, name) for s in settings)
    )
    flags = tuple(f"{n}={v}" for n, v in values.items() if not isinstance(v, float))
    return type(rule), names, flags
