"""The optimizer that every clipped optimizer extends."""

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import keras
from keras import ops

from trainer_module.optimizers import _backend
from trainer_module.optimizers._reductions import Tensor
from trainer_module.optimizers._rules import NoClipping, Rule
from trainer_module.optimizers._step import (
    Layer,
    Scalars,
    SlotsAfter,
    State,
    norm_of_all,
    smallest_factor,
    take_steps,
)

EMBEDDINGS = (r"embedding[^/]*$",)
"""Patterns of the paths of embedding tables: those whose last part contains 'embedding'."""

SMALL = 1 << 18
"""Layers of up to so many weights are stepped by one program: starting one for each would cost
more than stepping them. Larger ones have their own, lest all their next weights be held at once."""

STATISTICS = ("gradient_norm", "update_norm", "sigma_min", "sigma_mean", "skipped")
SIGMA_MIN = STATISTICS.index("sigma_min")

Exclude = str | Sequence[str] | Callable[[Any], bool]


class _Part(NamedTuple):
    """What of a variable is stepped.

    Attributes:
        place: The variable's among the trainable ones.
        variable: The variable.
        gradient: Dense, or of the rows alone.
        rows: Which rows; None for all.
    """

    place: int
    variable: Any
    gradient: Tensor
    rows: Tensor | None


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
        figures = export_statistics or export_clipping_factors
        self._take_steps = _backend.Fused(partial(take_steps, self.direction_and_slots, figures))
        self._smallest_factor = _backend.Fused(partial(smallest_factor, self.direction_and_slots))
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
    ) -> tuple[Tensor, Tensor, SlotsAfter]:
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

    def _layer(self, variable: Any) -> Layer:
        excluded = self.is_excluded(variable)
        decay = self.weight_decay if self._use_weight_decay(variable) else None
        embedding = any(re.search(pattern, variable.path) for pattern in EMBEDDINGS)
        fan_in = 1.0 if embedding or len(variable.shape) < 2 else float(variable.shape[-2])
        return Layer(NoClipping() if excluded else self.rule, excluded, decay, fan_in)

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
        parts = [
            _Part(self._get_variable_index(variable), variable, *_backend.split(gradient))
            for variable, gradient in zip(variables, gradients, strict=True)
        ]
        groups: dict[Any, list[_Part]] = {}
        for part in parts:
            small = part.rows is None and math.prod(part.variable.shape) <= SMALL
            groups.setdefault("small" if small else part.place, []).append(part)
        scalars = self._scalars(parts, learning_rate)
        if self.rule.one_factor:
            factors = [self._call(self._smallest_factor, g, scalars) for g in groups.values()]
            scalars = scalars._replace(factor=ops.min(ops.stack(factors)))
        order: list[int] = []
        finite, figures = [], []
        for group in groups.values():
            states, taken, of_group = self._call(self._take_steps, group, scalars)
            for part, state in zip(group, states, strict=True):
                self._write(part, state)
                order.append(part.place)
            finite.append(taken)
            figures.append(of_group)
        skipped = ops.logical_not(ops.concatenate(finite))
        self._assign_rows(self.skipped_steps_per_variable, order, skipped, True)
        if figures[0] is not None:
            self._export(order, ops.concatenate(figures), skipped)

    def _scalars(self, parts: list[_Part], learning_rate: Any) -> Scalars:
        excluded_rate = self.excluded_learning_rate
        norm = None
        if self.rule.model_wide:
            clipped = [part for part in parts if not self._layers[part.place].excluded]
            norm = norm_of_all([part.gradient for part in clipped])
        return Scalars(
            _backend.read(learning_rate, None),
            _backend.read(learning_rate if excluded_rate is None else excluded_rate, None),
            self.iterations + 1,
            norm,
        )

    def _call(self, function: _backend.Fused, group: list[_Part], scalars: Scalars) -> Any:
        return function(
            tuple(self._layers[part.place] for part in group),
            [part.gradient for part in group],
            [self._read(part) for part in group],
            scalars,
            fuse=self.jit_compile and group[0].rows is None,
        )

    def _read(self, part: _Part) -> State:
        place, rows = part.place, part.rows
        return State(
            _backend.read(part.variable, rows),
            [_backend.read(slot[place], rows) for slot in self._slots],
            {
                name: _backend.read(self._rule_state[name][place], None)
                for name in self._layers[place].rule.state
            },
        )

    def _write(self, part: _Part, state: State) -> None:
        self.assign(part.variable, _backend.with_rows(state.w, part.rows))
        for slot, value in zip(self._slots, state.slots, strict=True):
            self.assign(slot[part.place], _backend.with_rows(value, part.rows))
        for name, value in state.rule.items():
            self.assign(self._rule_state[name][part.place], value)

    def _export(self, order: list[int], figures: Tensor, skipped: Tensor) -> None:
        squares, sigmas = ops.split(figures, 2, axis=1)
        columns = [ops.sqrt(squares), sigmas, ops.cast(skipped, "float32")[:, None]]
        table = ops.concatenate(columns, axis=1)
        if self.export_statistics:
            self._assign_rows(self.statistics, order, table)
        if self.export_clipping_factors:
            for row, index in enumerate(order):
                self.assign(self.clipping_factors[index], table[row, SIGMA_MIN])

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

    def _apply_weight_decay(self, variables: list[Any]) -> None:
        """Does nothing: decay is part of the step, so that a skipped layer stays as it was."""

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
