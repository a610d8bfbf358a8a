"""The optimizer that every clipped optimizer extends."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from trainer_module.optimizers import _backend
from trainer_module.optimizers._rules import (
    NoClipping,
    Rule,
    Step,
    Tensor,
    all_finite,
    in_rows,
    l2_norm,
)

EMBEDDINGS = (r"embedding[^/]*$",)
"""Patterns of the paths of embedding tables: those whose last part contains 'embedding'."""

SMALL = 1 << 18
"""Layers of up to so many weights are stepped by one program: starting one for each would cost
more than stepping them. Larger ones have their own, lest all their next weights be held at once."""

STATISTICS = ("gradient_norm", "update_norm", "sigma_min", "sigma_mean", "skipped")
SIGMA_MIN = STATISTICS.index("sigma_min")

Exclude = str | Sequence[str] | Callable[[Any], bool]


@dataclasses.dataclass(frozen=True)
class _Layer:
    """What is fixed when the step of a layer is traced.

    Attributes:
        rule: The rule that applies to it.
        excluded: Whether the optimizer's own rule does not.
        weight_decay: Share of a weight that decays at learning rate 1; None decays nothing.
        fan_in: As in `Step`.
    """

    rule: Rule
    excluded: bool
    weight_decay: float | None
    fan_in: float


class _State(NamedTuple):
    """What a step reads and writes of a layer.

    Attributes:
        w: Weights; those of the touched rows, if the gradient is sparse. So are the slots.
        slots: Slots of the base optimizer.
        rule: The rule's running statistics.
    """

    w: Tensor
    slots: list[Tensor]
    rule: dict[str, Tensor]


class _Scalars(NamedTuple):
    """What all layers share at a step: learning rates, number of the step, gradient's norm, factor.

    The factor is None unless the rule has one for all layers.
    """

    rate: Tensor
    excluded_rate: Tensor
    iteration: Tensor
    model_norm: Tensor | None
    factor: Tensor | None = None


class _Unclipped(NamedTuple):
    """A layer's step before it is taken; `slots_after` is a function of sigma."""

    step: Step
    slots_after: Callable[[Tensor], tuple[Tensor, ...]]
    sigma: Tensor
    rule_state: Mapping[str, Tensor]


class ClippedOptimizer(keras.optimizers.Optimizer):
    """Steps `w <- w - eta * sigma * r` with sigma from a rule (arXiv:2302.09178, eq. 5).

    A subclass says how slots take in a gradient (`accumulate`) and which direction they give
    (`direction`). What all have in common:

    - One factor per layer; a layer is one trainable variable.
    - A step that would leave a non-finite number in a slot of a layer (a non-finite gradient,
      or one whose square overflows) is skipped for that layer: weights, slots and the rule's
      statistics stay as they were, sigma is 0, and `skipped_steps` counts it.
    - Of a sparse gradient (TensorFlow's `IndexedSlices`) only its rows are read and written,
      repeated indices being summed first. Rule and weight decay see these rows alone.
    - 16-bit variables are stepped in float32; what is kept has the variable's dtype.

    Args:
        learning_rate: Float, `LearningRateSchedule` or callable without arguments.
        rule: The clipping `Rule`. None clips nothing.
        exclude: Which variables the rule does not apply to: a regular expression, or several,
            searched for in `variable.path`, or a callable from a variable to bool (register it with
            `keras.saving.register_keras_serializable` to make the optimizer serialisable).
            Defaults to embedding tables, as in the paper. `()` applies the rule to everything.
        excluded_learning_rate: Learning rate of the excluded variables, a float or
            `LearningRateSchedule`. None is `learning_rate`.
        export_clipping_factors: Keep each layer's latest sigma in `clipping_factors`.
        export_statistics: Keep each layer's latest norms and factors in `statistics`.
        jit_compile: Compile the step of dense layers into XLA programs (TensorFlow only;
            independent of the model's `jit_compile`). False runs operation by operation.
        **kwargs: Arguments of `keras.optimizers.Optimizer`.

    Attributes:
        clipping_factors: Scalar variables, one per trainable variable and in their order: the
            latest sigma (the smallest one, where a rule has several per layer). Empty unless
            `export_clipping_factors`.
        statistics: float32 variable [trainable variables, 5]: each layer's gradient norm, norm
            of what was subtracted from the weights, smallest and mean sigma, and 1 if it was
            skipped, at the latest step; in the order of `STATISTICS`. None unless
            `export_statistics`.
        skipped_steps_per_variable: int32 variable [trainable variables].
    """

    slot_names: tuple[str, ...] = ()

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rule: Rule | None = None,
        exclude: Exclude = EMBEDDINGS,
        excluded_learning_rate: Any = None,
        export_clipping_factors: bool = False,
        export_statistics: bool = False,
        jit_compile: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.rule = NoClipping() if rule is None else rule
        if isinstance(exclude, str):
            exclude = (exclude,)
        self.exclude = exclude if callable(exclude) else tuple(exclude)
        self.export_clipping_factors = export_clipping_factors
        self.export_statistics = export_statistics
        self.jit_compile = jit_compile
        self._fused_steps = _backend.Fused(self._steps)
        self._fused_factor = _backend.Fused(self._smallest_factor)
        self.clipping_factors: list[keras.Variable] = []
        self.statistics: keras.Variable | None = None
        self.skipped_steps_per_variable: keras.Variable | None = None
        if isinstance(excluded_learning_rate, (int, float)):
            excluded_learning_rate = self.add_variable(
                shape=(),
                initializer=keras.initializers.Constant(excluded_learning_rate),
                aggregation="only_first_replica",
                name="excluded_learning_rate",
            )
        self._excluded_learning_rate = excluded_learning_rate

    @property
    def excluded_learning_rate(self) -> Any:
        """Learning rate of the excluded variables; None if it is `learning_rate`."""
        rate = self._excluded_learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            return rate(self._iterations)
        return rate

    @excluded_learning_rate.setter
    def excluded_learning_rate(self, value: float) -> None:
        if not isinstance(self._excluded_learning_rate, keras.Variable):
            raise TypeError("excluded_learning_rate can be set only if it was made from a float.")
        self._excluded_learning_rate.assign(value)

    @property
    def skipped_steps(self) -> int:
        """How many layer steps were skipped as not finite, over all layers and steps."""
        if self.skipped_steps_per_variable is None:
            return 0
        return int(ops.convert_to_numpy(self.skipped_steps_per_variable).sum())

    def is_excluded(self, variable: Any) -> bool:
        """Whether the rule does not apply to this variable."""
        if callable(self.exclude):
            return bool(self.exclude(variable))
        path = re.sub(r":\d+$", "", getattr(variable, "path", variable.name))
        return any(re.search(pattern, path) for pattern in self.exclude)

    def slot_initializers(self) -> Sequence[Any]:
        """Returns an initializer for each of `slot_names`."""
        return ["zeros"] * len(self.slot_names)

    def accumulate(self, gradient: Tensor, slots: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Returns the slots after they took in `gradient`."""
        raise NotImplementedError

    def direction(
        self, gradient: Tensor, slots: Sequence[Tensor], iteration: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the update direction r and the preconditioner p; `iteration` counts from 1."""
        raise NotImplementedError

    def direction_and_slots(
        self, gradient: Tensor, slots: Sequence[Tensor], iteration: Tensor
    ) -> tuple[Tensor, Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
        """Returns r, p and, as a function of sigma, the slots after the step."""
        after = self.accumulate(gradient, slots)
        r, p = self.direction(gradient, after, iteration)
        return r, p, lambda sigma: after

    def build(self, variables: list[Any]) -> None:
        """Creates the slots, a counter per variable and the rule's running statistics."""
        if self.built:
            return
        super().build(variables)
        self._slots = [
            self.add_optimizer_variables(variables, name, initializer=initializer)
            for name, initializer in zip(self.slot_names, self.slot_initializers(), strict=True)
        ]
        self._layers = [self._layer(v) for v in variables]
        self.skipped_steps_per_variable = self._add_vector((len(variables),), "skipped", "int32")
        if self.export_clipping_factors:
            self.clipping_factors = self._add_scalars(variables, "clipping_factor", 1.0)
        if self.export_statistics:
            shape = (len(variables), len(STATISTICS))
            self.statistics = self._add_vector(shape, "statistics", "float32")
        self._rule_state = {
            name: self._add_scalars(variables, name, value)
            for name, value in self.rule.state.items()
        }

    def _layer(self, variable: Any) -> _Layer:
        excluded = self.is_excluded(variable)
        decay = self.weight_decay if self._use_weight_decay(variable) else None
        embedding = any(re.search(pattern, variable.path) for pattern in EMBEDDINGS)
        fan_in = 1.0 if embedding or len(variable.shape) < 2 else float(variable.shape[-2])
        return _Layer(NoClipping() if excluded else self.rule, excluded, decay, fan_in)

    def _add_vector(self, shape: tuple[int, ...], name: str, dtype: str) -> Any:
        return self.add_variable(
            shape=shape,
            initializer="zeros",
            dtype=dtype,
            aggregation="only_first_replica",
            name=name,
        )

    def _add_scalars(self, variables: list[Any], name: str, value: float) -> list[Any]:
        return [
            None
            if self._overwrite_variable_with_gradient(v)
            else self.add_variable(
                shape=(),
                initializer=keras.initializers.Constant(value),
                dtype="float32",
                name=f"{getattr(v, 'path', v.name)}_{name}".replace("/", "_").replace(":", "_"),
            )
            for v in variables
        ]

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Any) -> None:
        """Steps one layer; see the class for what happens to it."""
        self._update([gradient], [variable], learning_rate)

    def _backend_update_step(self, grads: list, variables: list, learning_rate: Any) -> None:
        if _backend.tf is None:
            self._update(grads, variables, learning_rate)
        else:
            super()._backend_update_step(grads, variables, learning_rate)

    def _distributed_tf_update_step(
        self, distribution: Any, grads_and_vars: list, learning_rate: Any
    ) -> None:
        gradients, variables = (list(part) for part in zip(*grads_and_vars, strict=True))
        distribution.extended.update(
            variables[0],
            lambda _, gradients, variables, rate: self._update(gradients, variables, rate),
            args=(gradients, variables, learning_rate),
            group=False,
        )

    def _update(self, gradients: list, variables: list, learning_rate: Any) -> None:
        """Steps layers: each sparse or large one by itself, the small dense ones together."""
        indices = [self._get_variable_index(v) for v in variables]
        split = [_backend.split(gradient) for gradient in gradients]
        model_norm = None
        if self.rule.model_wide:
            clipped = [not self._layers[index].excluded for index in indices]
            model_norm = self._model_norm([values for values, _ in split], clipped)
        groups: dict[Any, list[int]] = {}
        for position, (variable, (_, rows)) in enumerate(zip(variables, split, strict=True)):
            small = rows is None and math.prod(variable.shape) <= SMALL
            groups.setdefault("small" if small else position, []).append(position)

        excluded_rate = self.excluded_learning_rate
        scalars = _Scalars(
            _backend.read(learning_rate, None),
            _backend.read(learning_rate if excluded_rate is None else excluded_rate, None),
            self.iterations + 1,
            model_norm,
        )

        def inputs_of(group: list[int]) -> tuple[tuple[_Layer, ...], list[Tensor], list[_State]]:
            return (
                tuple(self._layers[indices[position]] for position in group),
                [split[position][0] for position in group],
                [self._read(variables[n], indices[n], split[n][1]) for n in group],
            )

        def compiled(group: list[int]) -> bool:
            return self.jit_compile and split[group[0]][1] is None

        if self.rule.one_factor:
            factors = [
                (self._fused_factor if compiled(group) else self._smallest_factor)(
                    *inputs_of(group), scalars
                )
                for group in groups.values()
            ]
            scalars = scalars._replace(factor=ops.min(ops.stack(factors)))
        order, finite, sums = [], [], []
        for group in groups.values():
            members = [indices[position] for position in group]
            step = self._fused_steps if compiled(group) else self._steps
            states, *of_group = step(*inputs_of(group), scalars)
            for position, index, state in zip(group, members, states, strict=True):
                self._write(variables[position], index, split[position][1], state)
            order += members
            finite.append(of_group[0])
            sums.append(of_group[1])
        skipped = ops.logical_not(ops.concatenate(finite))
        self._assign_rows(self.skipped_steps_per_variable, order, skipped, True)
        if sums[0] is not None:
            squares, sigmas = ops.split(ops.concatenate(sums), 2, axis=1)
            columns = [ops.sqrt(squares), sigmas, ops.cast(skipped, "float32")[:, None]]
            table = ops.concatenate(columns, axis=1)
            if self.export_statistics:
                self._assign_rows(self.statistics, order, table)
            if self.export_clipping_factors:
                for row, index in enumerate(order):
                    self.assign(self.clipping_factors[index], table[row, SIGMA_MIN])

    def _read(self, variable: Any, index: int, rows: Tensor | None) -> _State:
        return _State(
            _backend.read(variable, rows),
            [_backend.read(slot[index], rows) for slot in self._slots],
            {
                name: _backend.read(self._rule_state[name][index], None)
                for name in self._layers[index].rule.state
            },
        )

    def _write(self, variable: Any, index: int, rows: Tensor | None, state: _State) -> None:
        self.assign(variable, _backend.with_rows(state.w, rows))
        for slot, value in zip(self._slots, state.slots, strict=True):
            self.assign(slot[index], _backend.with_rows(value, rows))
        for name, value in state.rule.items():
            self.assign(self._rule_state[name][index], value)

    def _assign_rows(
        self, variable: Any, indices: list[int], rows: Tensor, add: bool = False
    ) -> None:
        rows = ops.cast(rows, variable.dtype)
        if indices != list(range(variable.shape[0])):
            before = _backend.read(variable, None)
            before = ops.zeros_like(before) if add else before
            rows = ops.scatter_update(before, [[index] for index in indices], rows)
        if add:
            self.assign_add(variable, rows)
        else:
            self.assign(variable, rows)

    def _steps(
        self,
        layers: tuple[_Layer, ...],
        gradients: list[Tensor],
        states: list[_State],
        scalars: _Scalars,
    ) -> tuple[list[_State], Tensor, Tensor | None]:
        """Steps of layers as a pure function.

        Returns:
            The states after them; bool [layers], whether the step was taken; and, if anything
            of it is exported, float32 [layers, 4]: sums of the squares of the gradient and of
            what was subtracted from the weights, smallest and mean sigma.
        """
        steps = [
            self._step(*layer, scalars) for layer in zip(layers, gradients, states, strict=True)
        ]
        after, finite, sums = zip(*steps, strict=True)
        wanted = self.export_statistics or self.export_clipping_factors
        return list(after), ops.stack(finite), ops.stack(sums) if wanted else None

    def _smallest_factor(
        self,
        layers: tuple[_Layer, ...],
        gradients: list[Tensor],
        states: list[_State],
        scalars: _Scalars,
    ) -> Tensor:
        """Smallest of the layers' factors, float32; layers that will be skipped do not count."""
        factors = [ops.ones((), "float32")]
        for layer, gradient, state in zip(layers, gradients, states, strict=True):
            sigma = self._unclipped(layer, gradient, state, scalars).sigma
            counted = ops.where(all_finite(gradient), sigma, ops.ones_like(sigma))
            factors.append(ops.cast(counted, "float32"))
        return ops.min(ops.stack(factors))

    def _unclipped(
        self, layer: _Layer, gradient: Tensor, state: _State, scalars: _Scalars
    ) -> _Unclipped:
        """A layer's step in the dtype that it is computed in, and what its rule says of it."""
        dtype = _compute_dtype(state.w)
        g, w = ops.cast(gradient, dtype), ops.cast(state.w, dtype)
        slots = [ops.cast(slot, dtype) for slot in state.slots]
        eta = ops.cast(scalars.excluded_rate if layer.excluded else scalars.rate, dtype)
        model_norm = scalars.model_norm
        if model_norm is not None:
            model_norm = ops.cast(model_norm, dtype)
        decayed = w if layer.weight_decay is None else w - w * layer.weight_decay * eta
        r, p, slots_after = self.direction_and_slots(g, slots, ops.cast(scalars.iteration, dtype))
        step = Step(decayed, g, r, p, eta, model_norm, layer.fan_in)
        return _Unclipped(step, slots_after, *layer.rule.factor_and_state(step, state.rule))

    def _step(
        self, layer: _Layer, gradient: Tensor, state: _State, scalars: _Scalars
    ) -> tuple[_State, Tensor, Tensor]:
        """The step of one layer, as `_steps`."""
        step, slots_after, sigma, rule_state = self._unclipped(layer, gradient, state, scalars)
        if layer.rule.one_factor:
            sigma = ops.cast(scalars.factor, sigma.dtype)
        new_slots = slots_after(sigma)
        finite = all_finite(sigma)
        for new, old in zip(new_slots, state.slots, strict=True):
            finite = finite & all_finite(new, old.dtype)
        sigma = ops.where(finite, sigma, ops.zeros_like(sigma))
        new_w = step.w - (step.eta * sigma) * step.r
        new_w = ops.where(finite, ops.cast(new_w, state.w.dtype), state.w)
        after = _State(
            new_w,
            [
                ops.where(finite, ops.cast(new, old.dtype), old)
                for new, old in zip(new_slots, state.slots, strict=True)
            ],
            {name: ops.where(finite, rule_state[name], old) for name, old in state.rule.items()},
        )
        moved = ops.cast(state.w, step.w.dtype) - ops.cast(new_w, step.w.dtype)
        factors = [sigma, sigma]
        if len(sigma.shape):
            least = ops.min(sigma, initial=float("inf"))
            factors = [least, ops.sum(sigma) / max(1, math.prod(sigma.shape))]
        sums = [_sum_of_squares(step.g), _sum_of_squares(moved), *factors]
        return after, finite, ops.stack([ops.cast(value, "float32") for value in sums])

    def _apply_weight_decay(self, variables: list[Any]) -> None:
        """Does nothing: decay is part of the step, so that a skipped layer stays as it was."""

    def _model_norm(self, grads: list, clipped: list[bool]) -> Tensor:
        """Norm over the layers that the rule applies to and whose gradient is finite."""
        gradients = [g for g, use in zip(grads, clipped, strict=True) if use]
        wide = any(keras.backend.standardize_dtype(g.dtype) == "float64" for g in gradients)
        dtype = "float64" if wide else "float32"
        norms = [l2_norm(ops.cast(g, dtype)) for g in gradients]
        stacked = ops.stack(norms) if norms else ops.zeros((1,), dtype)
        return l2_norm(ops.where(ops.isfinite(stacked), stacked, ops.zeros_like(stacked)))

    def get_config(self) -> dict[str, Any]:
        """Returns every argument, serialised."""
        rate = self._excluded_learning_rate
        if isinstance(rate, keras.Variable):
            rate = float(ops.convert_to_numpy(rate))
        elif rate is not None:
            rate = keras.saving.serialize_keras_object(rate)
        exclude = self.exclude
        return {
            **super().get_config(),
            "rule": keras.saving.serialize_keras_object(self.rule),
            "exclude": keras.saving.serialize_keras_object(exclude)
            if callable(exclude)
            else list(exclude),
            "excluded_learning_rate": rate,
            "export_clipping_factors": self.export_clipping_factors,
            "export_statistics": self.export_statistics,
            "jit_compile": self.jit_compile,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "ClippedOptimizer":
        """Makes the optimizer that `get_config` described."""
        config = dict(config)
        for name in ("rule", "exclude", "excluded_learning_rate"):
            if isinstance(config.get(name), dict):
                config[name] = keras.saving.deserialize_keras_object(
                    config[name], custom_objects=custom_objects
                )
        return super().from_config(config, custom_objects)


def _compute_dtype(variable: Any) -> str:
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def _sum_of_squares(x: Tensor) -> Tensor:
    """Sums row by row; the roots keep XLA from making one reduction, of one thread, of them."""
    while in_rows(x):
        x = ops.sqrt(ops.sum(ops.square(x), axis=-1))
    return ops.sum(ops.square(x))
