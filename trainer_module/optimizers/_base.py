"""The optimizer that every clipped optimizer extends."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
from keras import ops

from trainer_module.optimizers import _backend
from trainer_module.optimizers._rules import NoClipping, Rule, Step, Tensor, all_finite, l2_norm

EMBEDDINGS = (r"embedding[^/]*$",)
"""Patterns of the paths of embedding tables: those whose last part contains 'embedding'."""

Exclude = Sequence[str] | Callable[[Any], bool]


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
        exclude: Which variables the rule does not apply to: regular expressions searched for in
            `variable.path`, or a callable from a variable to bool (register it with
            `keras.saving.register_keras_serializable` to make the optimizer serialisable).
            Defaults to embedding tables, as in the paper. `()` applies the rule to everything.
        excluded_learning_rate: Learning rate of the excluded variables, a float or
            `LearningRateSchedule`. None is `learning_rate`.
        export_clipping_factors: Keep each layer's latest sigma in `clipping_factors`.
        jit_compile: Compile the step of each dense layer into one XLA program (TensorFlow only;
            independent of the model's `jit_compile`). False runs operation by operation.
        **kwargs: Arguments of `keras.optimizers.Optimizer`.

    Attributes:
        clipping_factors: Scalar variables, one per trainable variable and in their order: the
            latest sigma (the smallest one, where a rule has several per layer). Empty unless
            `export_clipping_factors`.
        skipped_steps_per_variable: int32 scalar variables, one per trainable variable.
    """

    slot_names: tuple[str, ...] = ()

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rule: Rule | None = None,
        exclude: Exclude = EMBEDDINGS,
        excluded_learning_rate: Any = None,
        export_clipping_factors: bool = False,
        jit_compile: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.rule = NoClipping() if rule is None else rule
        self.exclude = exclude if callable(exclude) else tuple(exclude)
        self.export_clipping_factors = export_clipping_factors
        self.jit_compile = jit_compile
        self._fused_step = _backend.Fused(self._step)
        self.clipping_factors: list[keras.Variable] = []
        self.skipped_steps_per_variable: list[keras.Variable] = []
        if isinstance(excluded_learning_rate, float):
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
        counts = (c for c in self.skipped_steps_per_variable if c is not None)
        return sum(int(ops.convert_to_numpy(count)) for count in counts)

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
        self._excluded = [self.is_excluded(v) for v in variables]
        self.skipped_steps_per_variable = self._add_scalars(variables, "skipped_steps", 0, "int32")
        if self.export_clipping_factors:
            self.clipping_factors = self._add_scalars(variables, "clipping_factor", 1.0)
        self._rule_state = {
            name: self._add_scalars(variables, name, value)
            for name, value in self.rule.state.items()
        }

    def _add_scalars(
        self, variables: list[Any], name: str, value: float, dtype: str = "float32"
    ) -> list[Any]:
        return [
            None
            if self._overwrite_variable_with_gradient(v)
            else self.add_variable(
                shape=(),
                initializer=keras.initializers.Constant(value),
                dtype=dtype,
                name=f"{getattr(v, 'path', v.name)}_{name}".replace("/", "_").replace(":", "_"),
            )
            for v in variables
        ]

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Any) -> None:
        """Steps one layer; see the class for what happens to it."""
        model_norm = None
        if isinstance(learning_rate, tuple):
            learning_rate, model_norm = learning_rate
        index = self._get_variable_index(variable)
        excluded = self._excluded[index]
        rule = NoClipping() if excluded else self.rule
        if excluded and self.excluded_learning_rate is not None:
            learning_rate = self.excluded_learning_rate
        state = {name: self._rule_state[name][index] for name in rule.state}
        slots = [slot[index] for slot in self._slots]

        dtype = _compute_dtype(variable)
        gradient, rows = _backend.split(gradient)
        decay = self.weight_decay if self._use_weight_decay(variable) else None
        step = self._step
        if rows is None and self.jit_compile:
            step = partial(self._fused_step, (rule, tuple(variable.shape), dtype))
        new_w, new_slots, sigma, new_state, finite = step(
            rule,
            ops.cast(gradient, dtype),
            _backend.read(variable, rows, dtype),
            [_backend.read(slot, rows, dtype) for slot in slots],
            {name: _backend.read(value, None, "float32") for name, value in state.items()},
            ops.cast(learning_rate, dtype),
            ops.cast(self.iterations + 1, dtype),
            None if model_norm is None else ops.cast(model_norm, dtype),
            decay,
            [slot.dtype for slot in slots],
        )
        self.assign(variable, _backend.with_rows(ops.cast(new_w, variable.dtype), rows))
        for slot, value in zip(slots, new_slots, strict=True):
            self.assign(slot, _backend.with_rows(ops.cast(value, slot.dtype), rows))
        for name, value in new_state.items():
            self.assign(state[name], value)
        skipped = self.skipped_steps_per_variable[index]
        self.assign_add(skipped, ops.cast(ops.logical_not(finite), skipped.dtype))
        if self.export_clipping_factors:
            self.assign(self.clipping_factors[index], ops.min(sigma, initial=float("inf")))

    def _step(
        self,
        rule: Rule,
        g: Tensor,
        w: Tensor,
        slots: Sequence[Tensor],
        state: Mapping[str, Tensor],
        eta: Tensor,
        iteration: Tensor,
        model_norm: Tensor | None,
        decay: float | None,
        stored: Sequence[str],
    ) -> tuple[Tensor, list[Tensor], Tensor, Mapping[str, Tensor], Tensor]:
        """The step as a pure function; returns weights, slots, sigma, rule state, finite.

        `stored` are the dtypes in which the slots are kept.
        """
        decayed = w if decay is None else w - w * decay * eta
        r, p, slots_after = self.direction_and_slots(g, slots, iteration)
        sigma, new_state = rule.factor_and_state(Step(decayed, g, r, p, eta, model_norm), state)
        new_slots = slots_after(sigma)
        finite = all_finite(sigma)
        for slot, dtype in zip(new_slots, stored, strict=True):
            finite = finite & all_finite(slot, dtype)
        sigma = ops.where(finite, sigma, ops.zeros_like(sigma))
        return (
            ops.where(finite, decayed - (eta * sigma) * r, w),
            [ops.where(finite, new, old) for new, old in zip(new_slots, slots, strict=True)],
            sigma,
            {name: ops.where(finite, new_state[name], old) for name, old in state.items()},
            finite,
        )

    def _apply_weight_decay(self, variables: list[Any]) -> None:
        """Does nothing: decay is part of the step, so that a skipped layer stays as it was."""

    def _backend_update_step(self, grads: list, variables: list, learning_rate: Any) -> None:
        if self.rule.model_wide and _backend.tf is None:
            learning_rate = (learning_rate, self._model_norm(grads, self._clipped(variables)))
        super()._backend_update_step(grads, variables, learning_rate)

    def _distributed_tf_update_step(
        self, distribution: Any, grads_and_vars: list, learning_rate: Any
    ) -> None:
        if self.rule.model_wide:
            grads = [g for g, _ in grads_and_vars]
            variables = [v for _, v in grads_and_vars]
            clipped = self._clipped(variables)
            (norm, *_) = distribution.extended.update(
                variables[0],
                lambda _, grads: self._model_norm(grads, clipped),
                args=(grads,),
                group=False,
            )
            learning_rate = (learning_rate, norm)
        super()._distributed_tf_update_step(distribution, grads_and_vars, learning_rate)

    def _clipped(self, variables: list) -> list[bool]:
        return [not self._excluded[self._get_variable_index(v)] for v in variables]

    def _model_norm(self, grads: list, clipped: list[bool]) -> Tensor:
        """Norm over the layers that the rule applies to and whose gradient is finite."""
        gradients = [_backend.split(g)[0] for g, use in zip(grads, clipped, strict=True) if use]
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
