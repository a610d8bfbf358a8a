"""The model and its training, as a ranking spec declares them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field
from pydantic.json_schema import JsonSchemaValue

from schemas.values import AUTO, FOLLOWS, MAX_DAYS, AutoCount, AutoNumber, Name, SpecPart, Units


class Architecture(SpecPart):
    """Sizes of the shared-bottom network.

    Attributes:
        shared: units of the shared bottom's layers, input side first.
        tower: units of each task's own layers, before its output unit.
        curves: learned piecewise-linear curves of each number, which join its z-score (after
            arXiv 2203.05556); 0 for none.
        wide: whether each binary task also has a linear model of the numbers and their curves,
            whose logit is added to that of its tower (after Wide & Deep, arXiv 1606.07792).
        interactions: width of the vectors that each categorical feature's embedding is brought to;
            the sum of the products of all pairs of them joins the input and each task's output (a
            factorization machine's second order, arXiv 1708.05027); 0 for none.
        cross_layers: number of DCN-v2 cross layers on the input, followed by layer normalisation.
        dropout: share of the shared bottom's units that training drops.
        activation_limit: largest activation of a hidden unit (activation clipping), in training
            and serving alike; null sets no limit.
    """

    shared: tuple[Units, ...] = Field(min_length=1, max_length=100)
    tower: tuple[Units, ...] = Field(default=(), max_length=100)
    curves: int = Field(default=0, ge=0, le=100)
    wide: bool = False
    interactions: int = Field(default=0, ge=0, le=1024)
    cross_layers: int = Field(default=0, ge=0, le=100)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    activation_limit: float | None = Field(default=None, gt=0.0)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: Any, handler: pydantic.GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Adds `preset`, which a file may give in place of sizes."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        schema["properties"]["preset"] = {
            "enum": list(PRESETS),
            "description": "named sizes; fields given beside it win",
        }
        schema["anyOf"] = [{"required": schema.pop("required")}, {"required": ["preset"]}]
        return schema


PRESETS: Mapping[str, Architecture] = {
    "tiny": Architecture(shared=(64,), tower=(16,)),
    "laptop": Architecture(shared=(256, 128), tower=(32,), curves=4, wide=True),
    "small": Architecture(shared=(512, 512)),
    "large": Architecture(shared=(4096,) * 4),
    "large_dcn": Architecture(shared=(4096,) * 4, cross_layers=1),
}
"""`small`, `large` and `large_dcn` are the sizes of arXiv 2302.09178, Section 5."""
RULE_THRESHOLDS: Mapping[str, Mapping[str, float]] = {
    "clippy": {},
    "global_clippy": {},
    "gc": {"clip_norm": 0.1},
    "global_gc": {"clip_norm": 1.0},
    "agc": {"clip_factor": 0.01, "epsilon": 1e-3},
    "unit_agc": {"clip_factor": 0.01, "epsilon": 1e-3},
    "lamb": {"mu": 0.01},
    "update_rms": {"threshold": 1.0},
    "adagc": {
        "relative_threshold": 1.05,
        "absolute_threshold": 1.0,
        "decay": 0.98,
        "warmup_steps": 100,
    },
    "zclip": {"threshold": 2.5, "decay": 0.97, "warmup_steps": 25, "epsilon": 1e-6},
}
"""What `optimizer.thresholds` may hold for each clipping rule, with the defaults; Clippy's two
are fields of the optimizer. The rules are those of `trainer_module.optimizers`."""
_CLIPPY = ("clippy", "global_clippy")
_SCALED = ("clip_norm", "clip_factor", "mu", "threshold", "absolute_threshold")
"""Those that a recovery's `thresholds` tightens: no decay, no epsilon, no factor of a mean."""
OptimizerName = Literal[
    "clippy_adagrad",
    "global_clippy_adagrad",
    "gc_adagrad",
    "global_gc_adagrad",
    "agc_adagrad",
    "unit_agc_adagrad",
    "lamb_adagrad",
    "update_rms_adagrad",
    "adagc_adagrad",
    "zclip_adagrad",
    "adagrad",
    "clippy_adam",
    "global_clippy_adam",
    "gc_adam",
    "global_gc_adam",
    "agc_adam",
    "unit_agc_adam",
    "lamb_adam",
    "update_rms_adam",
    "adagc_adam",
    "zclip_adam",
    "adam",
]


class OptimizerSettings(SpecPart):
    """Adagrad or Adam, with a clipping rule on the non-embedding variables.

    Attributes:
        name: `RULE_adagrad` or `RULE_adam`: a clipping rule of the table below, applied to the
            variables that are not embeddings, and a base optimizer. `adagrad` and `adam` alone
            clip nothing.
        relative_threshold: Clippy's lambda_rel: how far a coordinate may move in a step, as a
            share of its weight.
        absolute_threshold: Clippy's lambda_abs: how far it may move on top of that.
        unit_threshold: what Clippy's absolute thresholds of one unit's weights may add up to:
            the absolute threshold of a layer is at most this divided by its number of inputs,
            which matters from 300 inputs on by default. null sets no limit, as in the paper.
        thresholds: thresholds of another rule that differ from its defaults, by name.
        initial_accumulator: value at which Adagrad's accumulators start; `auto` is
            8 / batch_size^2.
        epsilon: added inside the root of the preconditioner; Adam adds it to the root (Keras's
            Adam uses 1e-7).
        delayed_accumulator: whether to precondition with the accumulator of the step before, as
            TFRS does by default; the paper adds this step's gradient first. Not with Adam.
    """

    name: OptimizerName = "clippy_adagrad"
    relative_threshold: float = Field(default=0.5, ge=0.0)
    absolute_threshold: float = Field(default=1e-2, ge=0.0)
    unit_threshold: float | None = Field(default=3.0, ge=0.0)
    thresholds: dict[Name, Annotated[float, Field(ge=0.0)]] = Field(default={})
    initial_accumulator: AutoNumber = Field(default=AUTO, validate_default=True)
    epsilon: float = Field(default=1e-12, gt=0.0)
    delayed_accumulator: bool = False

    @pydantic.model_validator(mode="after")
    def _settings_are_the_optimizers(self) -> OptimizerSettings:
        allowed = RULE_THRESHOLDS.get(self.rule, {})
        for name in self.thresholds:
            if name not in allowed:
                own = f"takes {', '.join(allowed)}" if allowed else "takes none"
                hint = ""
                if self.rule in _CLIPPY and name.endswith("_threshold"):
                    hint = f"; write '{name}' beside 'name'"
                raise ValueError(f"{self.name} has no threshold '{name}': it {own}{hint}")
        if self.base == "adam" and self.delayed_accumulator:
            raise ValueError(
                f"'delayed_accumulator' is for Adagrad, not for {self.name}; remove it"
            )
        return self

    @property
    def base(self) -> str:
        """The base optimizer, `adagrad` or `adam`."""
        return self.name.rpartition("_")[2]

    @property
    def rule(self) -> str:
        """The clipping rule, a key of `RULE_THRESHOLDS`; empty if nothing is clipped."""
        return self.name.rpartition("_")[0]

    @property
    def rule_thresholds(self) -> dict[str, float | None]:
        """All thresholds of the rule, by name."""
        if self.rule in _CLIPPY:
            return {
                "relative_threshold": self.relative_threshold,
                "absolute_threshold": self.absolute_threshold,
                "unit_threshold": self.unit_threshold,
            }
        return {**RULE_THRESHOLDS.get(self.rule, {}), **self.thresholds}

    def tightened(self, factor: float) -> OptimizerSettings:
        """The same with the rule's thresholds multiplied by a factor."""
        own = {**RULE_THRESHOLDS.get(self.rule, {}), **self.thresholds}
        scaled = {n: v * factor for n, v in own.items() if factor != 1.0 and n in _SCALED}
        unit = self.unit_threshold
        return self.model_copy(
            update={
                "relative_threshold": self.relative_threshold * factor,
                "absolute_threshold": self.absolute_threshold * factor,
                "unit_threshold": None if unit is None else unit * factor,
                "thresholds": {**self.thresholds, **scaled},
            }
        )


_STEPS_A_DAY = 256
_SMALLEST_BATCH, _LARGEST_BATCH = 32, 4096
_ACCUMULATOR = 8.0
_EMBEDDING_FACTOR = 5.0


class Accumulators(SpecPart):
    """What a warm start does with Adagrad's sums of squared gradients, which only grow.

    Attributes:
        decay: factor of each sum when a warm start begins; 1 keeps the sums as they are. No sum
            falls below `optimizer.initial_accumulator`.
        cap: largest sum that a warm start begins with; null sets no limit.
    """

    decay: float = Field(default=1.0, gt=0.0, le=1.0)
    cap: float | None = Field(default=None, gt=0.0)


class Recovery(SpecPart):
    """How a training is tried again after it diverged; each factor is of the spec's own value.

    Attributes:
        learning_rate: factor of the learning rates.
        thresholds: factor of the optimizer's clipping thresholds.
        skip_batches: whether to leave out the batches from the start of the divergence until it
            was noticed.
    """

    learning_rate: float = Field(default=1.0, gt=0.0, le=1.0)
    thresholds: float = Field(default=1.0, gt=0.0, le=1.0)
    skip_batches: bool = False


class Training(SpecPart):
    """How the model is trained.

    Attributes:
        warm_start: whether to start from the served model where its weights fit; false forces a
            cold start.
        window_days: how many days before the run date training may use.
        min_window_days: how many of them must have events; at most `window_days`.
        exposures: how often an event is trained on while it is in the window. A warm start takes
            the days that the served model has not seen in full, and of each older day a replay
            sample of (exposures - 1) / (window_days - 1); a cold start takes the whole window.
        epochs: passes over what the run trains on; `auto` is 2 for a cold start and 1 for a warm
            one.
        batch_size: examples per step, over all replicas; `auto` is the power of two below a usual
            day's events / 256, within 32 and 4096.
        learning_rate: peak learning rate.
        warmup_steps: steps over which the learning rate rises linearly from 0; also at a warm
            start, because the data has moved on.
        embedding_learning_rate: learning rate of the embeddings; if null, five times
            `learning_rate`.
        optimizer: the optimizer and its thresholds.
        averaging: the model is the average of the weights over the run's steps, in which those
            after step s count as s to this power; 0 takes the last step's alone.
        accumulators: what a warm start does with the optimizer's accumulators.
        steps_per_execution: steps that run in the graph per call from Python; after each call the
            divergence monitor looks at the statistics of all of them.
        checkpoint_steps: steps between checkpoints; a killed run resumes from the last one, and a
            diverged one goes back to it.
        evaluation_steps: steps between evaluations on a sample of the run date, for the report on
            the training; 0 for none.
        recovery: a ladder of attempts after a divergence: the first rung is used after the
            training has diverged, the second if it diverges again, and so on. A training that
            diverges past the last rung is not exported.
        shuffle_events: events that are shuffled together, on top of the order of the shards; a few
            times as many are in memory.
        mixed_precision: type of the arithmetic; the weights stay float32.
        distribution: `mirrored` trains on all GPUs of the machine, `multi_worker` on the machines
            that the environment variable `TF_CONFIG` names.
        max_weight: largest weight that a layer or a row of an embedding may have after a training;
            a model beyond it is not exported.
        seed: seed of initialisation, shuffling and replay.
    """

    warm_start: bool = True
    window_days: int = Field(default=7, ge=1, le=MAX_DAYS)
    min_window_days: int = Field(default=1, ge=1, le=MAX_DAYS)
    exposures: float = Field(default=1.0, ge=1.0)
    epochs: AutoCount = Field(default=AUTO, validate_default=True)
    batch_size: AutoCount = Field(default=AUTO, validate_default=True)
    learning_rate: float = Field(default=0.1, gt=0.0)
    warmup_steps: int = Field(default=20, ge=0)
    embedding_learning_rate: float | None = Field(default=None, gt=0.0)
    optimizer: OptimizerSettings = OptimizerSettings()
    averaging: float = Field(default=3.0, ge=0.0)
    accumulators: Accumulators = Accumulators()
    steps_per_execution: int = Field(default=64, ge=1)
    checkpoint_steps: int = Field(default=1000, ge=1)
    evaluation_steps: int = Field(default=1000, ge=0)
    recovery: tuple[Recovery, ...] = (
        Recovery(learning_rate=0.5),
        Recovery(learning_rate=0.25, thresholds=0.5, skip_batches=True),
    )
    shuffle_events: int = Field(default=200_000, ge=1)
    mixed_precision: Literal["none", "float16", "bfloat16"] = "none"
    distribution: Literal["none", "mirrored", "multi_worker"] = "none"
    max_weight: float = Field(default=1000.0, gt=0.0)
    seed: int = Field(default=0, ge=0, lt=2**32)

    @pydantic.model_validator(mode="after")
    def _window_is_possible(self) -> Training:
        if self.min_window_days > self.window_days:
            raise ValueError("'min_window_days' is larger than 'window_days'")
        return self

    @pydantic.model_validator(mode="after")
    def _accumulators_are_adagrads(self) -> Training:
        if self.optimizer.base == "adam" and self.accumulators != Accumulators():
            raise ValueError(
                f"'accumulators' are for Adagrad; {self.optimizer.name} forgets by "
                "itself: remove them"
            )
        return self

    def fitted(self, day_events: float, warm: bool) -> Training:
        """The settings with a number for each `auto` (measured in `docs/results/defaults.md`).

        A day must be many steps long, so the batch is the power of two below `day_events` /
        256, within 32 and 4096. The gradient that an event gives a row of an embedding table
        falls with the batch that the loss is the mean of; accumulators that start at
        8 / batch_size^2 are as large beside it whatever the batch, and the row learns alike.

        Args:
            day_events: events of a usual day.
            warm: whether weights are carried over.
        """
        epochs, batch, optimizer = self.epochs, self.batch_size, self.optimizer
        if epochs == FOLLOWS:
            epochs = 1 if warm else 2
        if batch == FOLLOWS:
            power = max(1, int(day_events) // _STEPS_A_DAY).bit_length() - 1
            batch = min(max(1 << power, _SMALLEST_BATCH), _LARGEST_BATCH)
        if optimizer.initial_accumulator == FOLLOWS:
            start = _ACCUMULATOR / batch**2
            optimizer = optimizer.model_copy(update={"initial_accumulator": start})
        return self.model_copy(
            update={"epochs": epochs, "batch_size": batch, "optimizer": optimizer}
        )

    @property
    def embedding_rate(self) -> float:
        """The learning rate of the embeddings."""
        if self.embedding_learning_rate is None:
            return _EMBEDDING_FACTOR * self.learning_rate
        return self.embedding_learning_rate

    def attempt(self, failures: int) -> Training:
        """The settings of the attempt after so many that diverged."""
        if not failures:
            return self
        rung = self.recovery[failures - 1]
        rate = self.embedding_learning_rate
        return self.model_copy(
            update={
                "learning_rate": self.learning_rate * rung.learning_rate,
                "embedding_learning_rate": None if rate is None else rate * rung.learning_rate,
                "optimizer": self.optimizer.tightened(rung.thresholds),
            }
        )

    @property
    def replay_share(self) -> float:
        """Share of an already seen day that a warm start replays."""
        if self.window_days == 1:
            return 0.0
        return min(1.0, (self.exposures - 1.0) / (self.window_days - 1))
