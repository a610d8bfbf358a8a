"""The ranking spec: features, tasks, gates, model and training, declared once.

Everything else follows from it: the TFDV schema (`schemas.tfdv_schema`), preprocessing,
the model's inputs and heads, the TFMA EvalConfig, and the limits that stop a run. Reading
a spec needs neither TensorFlow nor TFX.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import Field

from schemas import formula
from schemas.documents import DocumentError, describe, load_yaml
from schemas.errors import SpecError

MAX_NAME = 128
MAX_SPEC_NAME = 63
"""TFX takes no longer name of a pipeline: Argo's workflows and Kubernetes' labels do not."""
MAX_DAYS = 3660
_MAX_INT = 2**32 - 1
_MAX_FLOAT = 3.4e38
_NAME = re.compile(r"[a-z](_?[a-z0-9])*")
_SPEC_NAME = re.compile(r"[a-z][a-z0-9-]*")
_FIELD_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,255}")


def _a_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name: lower-case letters, digits and single underscores, a letter "
            "first. What the logs call it is its 'field'"
        )
    if len(name) > MAX_NAME:
        raise ValueError(f"a name has at most {MAX_NAME} characters, this one {len(name)}")
    return name


def _a_spec_name(name: str) -> str:
    if not _SPEC_NAME.fullmatch(name):
        raise ValueError(f"must be lower-case letters, digits and -, a letter first, got {name!r}")
    if len(name) > MAX_SPEC_NAME:
        raise ValueError(f"at most {MAX_SPEC_NAME} characters, got {len(name)}: {name!r}")
    return name


def _a_field_name(name: str) -> str:
    if not _FIELD_NAME.fullmatch(name):
        raise ValueError(f"must be 1 to 255 characters without control characters, got {name!r}")
    return name


Name = Annotated[str, pydantic.AfterValidator(_a_name)]
FieldName = Annotated[str, pydantic.AfterValidator(_a_field_name)]
Units = Annotated[int, Field(ge=1, le=65_536)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("the lower bound is larger than the upper one")
    return bounds


Bounds = Annotated[tuple[float, float], pydantic.AfterValidator(_ordered)]

AUTO: Any = "auto"
"""In place of a number: it follows the size of the data, see `Training.fitted`."""

FOLLOWS = -1
"""What a field that is `AUTO` holds until then: no number that a field could have."""


def _from_auto(value: Any) -> Any:
    if value == AUTO:
        return FOLLOWS
    if isinstance(value, int | float) and value < 0:
        raise ValueError(f"must be {AUTO}, or a number that is not negative, got {value}")
    return value


def _positive(value: int) -> int:
    if value == 0:
        raise ValueError(f"must be {AUTO}, or a number of at least 1, got 0")
    return value


_to_auto = pydantic.PlainSerializer(lambda value: AUTO if value == FOLLOWS else value)
AutoCount = Annotated[
    int, pydantic.BeforeValidator(_from_auto), pydantic.AfterValidator(_positive), _to_auto
]
AutoNumber = Annotated[float, pydantic.BeforeValidator(_from_auto), _to_auto]


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @pydantic.field_validator("*")
    @classmethod
    def _number_in_reach(cls, value: Any) -> Any:
        """Whole numbers fit into 32 bits, others into float32: what is below computes with."""
        if isinstance(value, int) and value > _MAX_INT:
            raise ValueError(f"must be at most {_MAX_INT}, got {value}")
        if isinstance(value, float) and abs(value) > _MAX_FLOAT:
            raise ValueError(f"must be within {_MAX_FLOAT:g} of 0, got {value:g}")
        return value


class CategoricalFeature(_Model):
    """An id or a category, hashed into `buckets` rows of an embedding table.

    Attributes:
        field: its name in the logs, where that is not the feature's.
        dtype: type of one value in the logs.
        buckets: rows of the embedding table; the hash is stable over days and machines.
        embedding: width of a row.
        multivalued: the field holds a list, pooled into one vector.
        pooling: how the rows of a multivalued feature are pooled; empty lists give zeros.
        table: name of another categorical feature whose embedding table is shared;
            `buckets` and `embedding` are then that feature's.
        max_length: most elements of a list.
        too_long: `truncate` keeps the first ones of a longer list, `malformed` refuses its
            event; requests to the served model are always truncated.
        required: an event without a value is malformed.
        max_drift: bound on the L-infinity distance between the run date's distribution
            and the training days' (TFDV drift comparator).
        max_skew: the same for training against serving data (TFDV skew comparator).
    """

    type: Literal["categorical"]
    field: FieldName | None = None
    dtype: Literal["string", "int"] = "string"
    buckets: int | None = Field(default=None, ge=2)
    embedding: int | None = Field(default=None, ge=1, le=4096)
    multivalued: bool = False
    pooling: Literal["mean", "sum", "sqrtn"] = "mean"
    table: Name | None = None
    max_length: int = Field(default=1000, ge=1)
    too_long: Literal["truncate", "malformed"] = "truncate"
    required: bool = False
    max_drift: float | None = Field(default=None, gt=0.0, le=1.0)
    max_skew: float | None = Field(default=None, gt=0.0, le=1.0)

    @pydantic.model_validator(mode="after")
    def _has_a_table(self) -> CategoricalFeature:
        own = (self.buckets is not None, self.embedding is not None)
        if self.table is None and not all(own):
            raise ValueError("needs both 'buckets' and 'embedding', or a 'table' to share")
        if self.table is not None and any(own):
            raise ValueError("takes 'buckets' and 'embedding' from its 'table'; drop them")
        return self


class DenseFeature(_Model):
    """A number, squashed by `scale` and then normalised by the model.

    Attributes:
        field: its name in the logs, where that is not the feature's.
        scale: `log1p` squashes heavy tails (values below zero count as zero); `none`
            leaves the value as it is.
        default: value for an event that has none.
        minimum: smallest valid value; the TFDV schema's domain.
        maximum: largest valid value.
        required: an event without a value is malformed.
        max_drift: bound on the Jensen-Shannon divergence between days.
        max_skew: bound on the Jensen-Shannon divergence between training and serving.
    """

    type: Literal["dense"]
    field: FieldName | None = None
    scale: Literal["none", "log1p"] = "none"
    default: float = 0.0
    minimum: float | None = None
    maximum: float | None = None
    required: bool = False
    max_drift: float | None = Field(default=None, gt=0.0, le=1.0)
    max_skew: float | None = Field(default=None, gt=0.0, le=1.0)

    @pydantic.model_validator(mode="after")
    def _domain_is_not_empty(self) -> DenseFeature:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError("'minimum' is larger than 'maximum'")
        return self


def _as_names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class HistoryFeature(_Model):
    """What the days before an event's day say of one of its ids: a count, and a rate a task.

    The pipeline computes it from its own days (`components.history`) and the model takes it as
    dense features; no event has a field of this name.

    Attributes:
        of: the id, a single-valued categorical feature; several are one id together.
        tasks: tasks whose rates, or means, are taken; all if not given.
        days: days before the event's day that count.
        prior_strength: events like everyone's that are added to an id's own; of a binary task
            as many more as its labels' standard deviation is below 1.
        max_ids: ids whose history is kept, the most frequent ones; the others have none.
        serving: `table` lets the exported model look ids up in a table that it carries;
            `request` takes the values from the request.
    """

    type: Literal["history"]
    of: Annotated[tuple[Name, ...], pydantic.BeforeValidator(_as_names)] = Field(min_length=1)
    tasks: tuple[Name, ...] | None = None
    days: int = Field(default=30, ge=1, le=MAX_DAYS)
    prior_strength: float = Field(default=4.0, gt=0.0)
    max_ids: int = Field(default=1_000_000, ge=1)
    serving: Literal["table", "request"] = "table"


def history_column(name: str, task: str | None = None) -> str:
    """Name of a history feature's input: of its count, or of its rate of a task.

    The double underscores are in no other name of a spec.
    """
    return f"{name}__count" if task is None else f"{name}__{task}__rate"


Feature = Annotated[CategoricalFeature | DenseFeature | HistoryFeature, Field(discriminator="type")]


class BinaryBounds(_Model):
    """What a binary task must reach for each value of a sliced feature.

    Attributes:
        min_auc: lower bound on the AUC; none if null.
        max_auc_drop: how far the AUC may fall below the served model's on the same events.
        calibration: bounds on mean prediction / mean label.
    """

    min_auc: float | None = Field(default=None, le=1.0)
    max_auc_drop: Share | None = 0.1
    calibration: Bounds | None = None

    @pydantic.field_validator("min_auc")
    @classmethod
    def _can_fail(cls, value: float | None) -> float | None:
        if value is not None and value < 0.5:
            raise ValueError(
                f"a model that answers always the same has an AUC of 0.5, more than {value:g}: "
                "set a bound above it, or null for none"
            )
        return value


class RegressionBounds(_Model):
    """What a regression task must reach for each value of a sliced feature, in the loss's space.

    Attributes:
        max_rmse: upper bound on the root mean squared error; none if null.
        max_rmse_rise: how far the RMSE may rise above the served model's on the same events.
        min_r2: lower bound on the share of the labels' variance that is explained; that of the
            best constant is 0.
        max_r2_drop: how far that share may fall below the served model's on the same events.
        calibration: bounds on mean prediction / mean label.
    """

    max_rmse: float | None = Field(default=None, gt=0.0)
    max_rmse_rise: float | None = Field(default=None, ge=0.0)
    min_r2: float | None = Field(default=None, gt=0.0, lt=1.0)
    max_r2_drop: float | None = Field(default=0.1, ge=0.0)
    calibration: Bounds | None = None


class BinaryGate(BinaryBounds):
    """What a binary task must reach over all events and, under `slices`, for a feature's values.

    Attributes:
        min_auc_lift: lower bound on the AUC less that of smoothed rates of the single-valued
            categorical features, counted on the training events.
    """

    min_auc: float | None = Field(le=1.0)
    calibration: Bounds | None = (0.5, 2.0)
    min_auc_lift: float | None = Field(default=None, ge=-0.5, le=0.5)
    slices: dict[Name, BinaryBounds] = {}

    def of_slice(self, feature: str) -> BinaryBounds:
        """Bounds for each value of a sliced feature."""
        return self.slices.get(feature, BinaryBounds())


class RegressionGate(RegressionBounds):
    """What a regression task must reach over all events and, under `slices`, for a feature's."""

    min_r2: float | None = Field(default=0.01, gt=0.0, lt=1.0)
    slices: dict[Name, RegressionBounds] = {}

    def of_slice(self, feature: str) -> RegressionBounds:
        """Bounds for each value of a sliced feature."""
        return self.slices.get(feature, RegressionBounds())

    @pydantic.model_validator(mode="after")
    def _is_bounded(self) -> RegressionGate:
        if self.max_rmse is None and self.min_r2 is None:
            raise ValueError("needs 'max_rmse' or 'min_r2'")
        return self


class BinaryTask(_Model):
    """A task with labels 0 and 1: log loss, AUC.

    Attributes:
        label: name of the label.
        field: the label's name in the logs, where that is another one.
        loss_weight: factor of this task's loss in the total.
        optional: events may lack the label; they are masked out of loss and metrics.
    """

    kind: Literal["binary"]
    label: Name
    field: FieldName | None = None
    loss_weight: float = Field(default=1.0, gt=0.0)
    optional: bool = False
    gate: BinaryGate


class RegressionTask(_Model):
    """A task with numeric labels: squared error, RMSE.

    Attributes:
        label: name of the label.
        field: the label's name in the logs, where that is another one.
        transform: space of the loss, the RMSE and its gate; serving inverts it.
        loss_weight: factor of this task's loss in the total.
        optional: events may lack the label; they are masked out of loss and metrics.
        minimum: smallest valid label; an event with a smaller one is malformed.
        maximum: largest valid label; an event with a larger one is malformed.
    """

    kind: Literal["regression"]
    label: Name
    field: FieldName | None = None
    transform: Literal["none", "log1p"] = "none"
    loss_weight: float = Field(default=1.0, gt=0.0)
    optional: bool = False
    minimum: float | None = None
    maximum: float | None = None
    gate: RegressionGate

    @pydantic.model_validator(mode="after")
    def _labels_have_room(self) -> RegressionTask:
        low, high = self.minimum, self.maximum
        if low is not None and high is not None and low >= high:
            raise ValueError("'minimum' is not smaller than 'maximum'")
        return self


Task = Annotated[BinaryTask | RegressionTask, Field(discriminator="kind")]


class Events(_Model):
    """The daily logs.

    Attributes:
        id: field of the logs with an id unique to the impression; of several events with
            one id, the last in file order counts.
        max_quarantined: share of malformed lines in a day above which the run fails.
        max_duplicates: share of a day's events with the id of a later one above which the run
            fails.
    """

    id: FieldName = "event_id"
    max_quarantined: Share = 0.01
    max_duplicates: Share = 0.1


class Validation(_Model):
    """Limits of data anomalies.

    Attributes:
        min_events: fewest events that the run date and the training days may have.
        max_eval_events: evaluate on a random sample of the run date of this size; on the
            whole day if it is not given or the day has fewer events.
        stop_at: smallest severity that stops the run before training.
        severity: severity by TFDV anomaly type (`AnomalyInfo.Type`), in place of TFDV's.
        max_auc_fall: how far a task's AUC by the served model may fall on a day that it has
            not seen, below that on the day of its gate, before the day is held; no day is
            judged if it is not given.
        min_positives: events of each label that a task needs on a day to be judged there.
    """

    min_events: int = Field(default=1, ge=1)
    max_eval_events: int | None = Field(default=None, ge=1)
    stop_at: Literal["WARNING", "ERROR", "NEVER"] = "ERROR"
    severity: dict[str, Literal["IGNORE", "WARNING", "ERROR"]] = {}
    max_auc_fall: Share | None = 0.1
    min_positives: int = Field(default=200, ge=1)


class Architecture(_Model):
    """Sizes of the shared-bottom network.

    Attributes:
        shared: units of the shared bottom's layers, input side first.
        tower: units of each task's own layers, before its output unit.
        cross_layers: DCN-v2 cross layers on the input, followed by layer normalisation.
        dropout: share of the shared bottom's units dropped in training.
        activation_limit: largest activation of a hidden unit (activation clipping); none if
            it is not given.
    """

    shared: tuple[Units, ...] = Field(min_length=1, max_length=100)
    tower: tuple[Units, ...] = Field(default=(), max_length=100)
    cross_layers: int = Field(default=0, ge=0, le=100)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    activation_limit: float | None = Field(default=None, gt=0.0)


PRESETS: Mapping[str, Architecture] = {
    "tiny": Architecture(shared=(64,), tower=(16,)),
    "laptop": Architecture(shared=(256, 128), tower=(32,)),
    "small": Architecture(shared=(512, 512)),
    "large": Architecture(shared=(4096,) * 4),
    "large_dcn": Architecture(shared=(4096,) * 4, cross_layers=1),
}
"""`small`, `large` and `large_dcn` are the sizes of arXiv 2302.09178, Section 5."""


RULE_THRESHOLDS: Mapping[str, Mapping[str, float]] = {
    "clippy": {},
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

_SCALED = ("clip_norm", "clip_factor", "mu", "threshold", "absolute_threshold")
"""Those that a recovery's `thresholds` tightens: no decay, no epsilon, no factor of a mean."""

OptimizerName = Literal[
    "clippy_adagrad",
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


class OptimizerSettings(_Model):
    """Adagrad or Adam, with a clipping rule on the non-embedding variables.

    Attributes:
        name: clipping rule and base optimizer; `adagrad` and `adam` clip nothing.
        relative_threshold: Clippy's lambda_rel; share of its weight that a coordinate may move.
        absolute_threshold: Clippy's lambda_abs; what it may move on top.
        thresholds: those of another rule that differ from its defaults, by name.
        initial_accumulator: value at which Adagrad's accumulators start; `auto` is
            8 / batch_size^2, see `Training.fitted`.
        epsilon: added inside the root of the preconditioner.
        delayed_accumulator: precondition with the accumulator of the step before, as
            TFRS does by default; the paper adds this step's gradient first.
    """

    name: OptimizerName = "clippy_adagrad"
    relative_threshold: float = Field(default=0.5, ge=0.0)
    absolute_threshold: float = Field(default=1e-2, ge=0.0)
    thresholds: dict[Name, Annotated[float, Field(ge=0.0)]] = {}
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
                if self.rule == "clippy" and name.endswith("_threshold"):
                    hint = f"; write '{name}' beside 'name'"
                raise ValueError(f"{self.name} has no threshold '{name}': it {own}{hint}")
        if self.base == "adam" and self.delayed_accumulator:
            raise ValueError(f"'delayed_accumulator' is Adagrad's, not {self.name}'s; drop it")
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
    def rule_thresholds(self) -> dict[str, float]:
        """All thresholds of the rule, by name."""
        if self.rule == "clippy":
            return {
                "relative_threshold": self.relative_threshold,
                "absolute_threshold": self.absolute_threshold,
            }
        return {**RULE_THRESHOLDS.get(self.rule, {}), **self.thresholds}

    def tightened(self, factor: float) -> OptimizerSettings:
        """The same with the rule's thresholds multiplied by a factor."""
        own = RULE_THRESHOLDS.get(self.rule, {})
        scaled = {
            name: self.rule_thresholds[name] * factor
            for name in own
            if factor != 1.0 and name in _SCALED
        }
        return self.model_copy(
            update={
                "relative_threshold": self.relative_threshold * factor,
                "absolute_threshold": self.absolute_threshold * factor,
                "thresholds": {**self.thresholds, **scaled},
            }
        )


_STEPS_A_DAY = 256
_SMALLEST_BATCH, _LARGEST_BATCH = 32, 4096
_ACCUMULATOR = 8.0
_EMBEDDING_FACTOR = 5.0


class Accumulators(_Model):
    """What a warm start does with Adagrad's sums of squared gradients, which only grow.

    Attributes:
        decay: factor of each sum when a warm start begins; 1 carries them as they are. None
            falls below `optimizer.initial_accumulator`.
        cap: largest sum that a warm start begins with.
    """

    decay: float = Field(default=1.0, gt=0.0, le=1.0)
    cap: float | None = Field(default=None, gt=0.0)


class Recovery(_Model):
    """How a training is tried again after it diverged; each factor is of the spec's own value.

    Attributes:
        learning_rate: factor of the learning rates.
        thresholds: factor of the optimizer's clipping thresholds.
        skip_batches: whether the batches from the divergence's start until it was noticed are
            left out.
    """

    learning_rate: float = Field(default=1.0, gt=0.0, le=1.0)
    thresholds: float = Field(default=1.0, gt=0.0, le=1.0)
    skip_batches: bool = False


class Training(_Model):
    """How the model is trained.

    Attributes:
        warm_start: start from the served model where its weights fit; false forces a cold
            start.
        window_days: days before the run date that training may use.
        min_window_days: fewest of them that must hold events.
        exposures: how often an event is seen over its stay in the window. A warm start
            takes the days the served model has not seen in full and of each older day a
            replay sample of (exposures - 1) / (window_days - 1); a cold start takes the
            whole window.
        epochs: passes over what the run trains on; `auto` is 2 at a cold start and 1 at a
            warm one.
        batch_size: examples a step, over all replicas; `auto` follows the events of a day, see
            `fitted`.
        learning_rate: peak learning rate.
        warmup_steps: steps over which the learning rate rises linearly from 0; with a
            warm start too, since the data has moved on.
        embedding_learning_rate: learning rate of the embeddings; five times `learning_rate`
            if it is not given.
        optimizer: the optimizer and its thresholds.
        accumulators: what a warm start does with the optimizer's accumulators.
        steps_per_execution: steps run in the graph for each call from Python; the divergence
            monitor looks at the statistics of all of them after it.
        checkpoint_steps: steps between checkpoints, from which a killed run resumes and to
            which a diverged one goes back.
        recovery: a ladder of attempts after a divergence: the first is used after the
            training has diverged, the second if it does again, and so on. A training that
            diverges past the last is not exported.
        shuffle_events: events that are shuffled together, on top of the order of the shards; a few
            times as many are in memory.
        mixed_precision: `mixed_float16` or `mixed_bfloat16` compute, float32 weights.
        distribution: `mirrored` for all GPUs of the machine, `multi_worker` for the machines
            that the environment variable `TF_CONFIG` names.
        max_weight: largest weight that a layer or a row of an embedding may have after a training;
            a model beyond it is not exported. Not for the heads of regressions, whose weights are
            in the units of the label.
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
    accumulators: Accumulators = Accumulators()
    steps_per_execution: int = Field(default=64, ge=1)
    checkpoint_steps: int = Field(default=1000, ge=1)
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
                f"'accumulators' are Adagrad's; {self.optimizer.name} forgets by itself: drop them"
            )
        return self

    def fitted(self, day_events: float, warm: bool) -> Training:
        """The settings with a number for each `auto`; `docs/training.md` has the measurements.

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


class Serving(_Model):
    """What is served.

    Attributes:
        score: formula over task names for the combined ranking score, in the units of
            the labels (probabilities for binary tasks); see `schemas.formula`.
        score_scale: bounds on the standard deviation of the score over that of the served
            model's on the same events.
        score_shift: bounds on the difference of the mean score to the served model's, in
            standard deviations of the latter.
        keep_versions: number of pushed versions kept, the served one included.
        check_events: events of the run date that the exported model must serve in a
            fresh process before the gate counts.
        max_age_days: days from the served version's day to a run's above which a
            notification says that what is served is old.
        check_seconds: time that the process has to load the model and serve them.
    """

    score: str
    score_scale: Bounds | None = (0.5, 2.0)
    score_shift: Bounds | None = (-1.0, 1.0)
    keep_versions: int = Field(default=10, ge=1)
    check_events: int = Field(default=512, ge=2)
    max_age_days: int | None = Field(default=3, ge=1)
    check_seconds: float = Field(default=900.0, gt=0.0)


class Retention(_Model):
    """What a workspace keeps on disk of runs that are over; see `pipeline.retention`.

    Attributes:
        runs: newest runs of which everything stays; so it does of the served model's.
        reports: newest runs of which all but examples and models stays, and their logs.
        days: encoded days that stay beyond those that the runs kept whole may train on.
    """

    runs: int = Field(default=3, ge=1)
    reports: int = Field(default=90, ge=1)
    days: int = Field(default=7, ge=0)


RESERVED_TASKS = {"score": "the combined score", "all_finite": "the gate on finite predictions"}
"""Outputs of the model that are no tasks, and what they are."""

RESERVED_FEATURES = {"self": "the exported model, whose requests name their features"}
"""Names that TensorFlow's signatures take themselves, and for what."""


class RankingSpec(_Model):
    """The whole declaration; field names are those of the YAML file.

    Attributes:
        name: name of the ranker; that of its pipeline.
        events: the daily logs.
        features: model inputs by name.
        tasks: what is predicted, by name of the output.
        slices: single-valued categorical features whose values are evaluated apart.
        min_slice_events: events with a task's label below which the task is not gated in a
            slice.
        min_class_events: positives, and negatives, of a binary task below which it is not
            gated; events with the label of a regression task.
        model: sizes of the network, or a preset and what differs from it.
        training: how the model is trained.
        validation: limits of data anomalies.
        serving: what is served.
        retention: what a workspace keeps on disk.
    """

    name: Annotated[str, pydantic.AfterValidator(_a_spec_name)]
    events: Events = Events()
    features: dict[Name, Feature] = Field(min_length=1)
    tasks: dict[Name, Task] = Field(min_length=1)
    slices: tuple[Name, ...] = ()
    min_slice_events: int = Field(default=500, ge=1)
    min_class_events: int = Field(default=50, ge=1)
    model: Architecture
    training: Training = Training()
    validation: Validation = Validation()
    serving: Serving
    retention: Retention = Retention()

    @pydantic.field_validator("model", mode="before")
    @classmethod
    def _expand_preset(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or "preset" not in value:
            return value
        rest = {key: val for key, val in value.items() if key != "preset"}
        if not isinstance(value["preset"], str) or value["preset"] not in PRESETS:
            raise ValueError(f"preset {value['preset']!r} is none of {', '.join(PRESETS)}")
        return {**PRESETS[value["preset"]].model_dump(), **rest}

    @pydantic.model_validator(mode="after")
    def _parts_fit(self) -> RankingSpec:
        faults = list(
            _misfits(self.events, self.features, self.tasks, self.slices, self.serving.score)
        )
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def fitted(self, day_events: float, warm: bool) -> RankingSpec:
        """The spec with a number for each `auto`; see `Training.fitted`."""
        return self.model_copy(update={"training": self.training.fitted(day_events, warm)})

    @functools.cached_property
    def categorical(self) -> dict[str, CategoricalFeature]:
        """Categorical features by name, in the order of the file."""
        return {n: f for n, f in self.features.items() if isinstance(f, CategoricalFeature)}

    @functools.cached_property
    def history(self) -> dict[str, HistoryFeature]:
        """History features by name, in the order of the file."""
        return {n: f for n, f in self.features.items() if isinstance(f, HistoryFeature)}

    @functools.cached_property
    def inputs(self) -> dict[str, CategoricalFeature | DenseFeature]:
        """What the model takes, by column of the encoded event, in the order of the file.

        A history feature is a dense input for its count and one for each rate
        (`history_column`), any other one an input of its own name.
        """
        result: dict[str, CategoricalFeature | DenseFeature] = {}
        for name, feature in self.features.items():
            if isinstance(feature, HistoryFeature):
                result.update(self.history_columns(name))
            else:
                result[name] = feature
        return result

    @functools.cached_property
    def dense(self) -> dict[str, DenseFeature]:
        """Dense inputs by name, in the order of the file."""
        return {n: f for n, f in self.inputs.items() if isinstance(f, DenseFeature)}

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, in the order of the tasks."""
        return tuple(task.label for task in self.tasks.values())

    @functools.cached_property
    def sliced_features(self) -> tuple[str, ...]:
        """Features by whose values events are evaluated apart, in the order of their names."""
        gated = {name for task in self.tasks.values() for name in task.gate.slices}
        return tuple(sorted({*self.slices, *gated}))

    @functools.cached_property
    def logged(self) -> dict[str, CategoricalFeature | DenseFeature]:
        """Features that events have a field for, by name, in the order of the file."""
        return {n: f for n, f in self.features.items() if not isinstance(f, HistoryFeature)}

    @property
    def history_days(self) -> int:
        """Days before an event's day that its history looks back on."""
        return max((feature.days for feature in self.history.values()), default=0)

    def history_columns(self, name: str) -> dict[str, DenseFeature]:
        """The inputs that history feature `name` stands for."""
        rate = DenseFeature(type="dense", required=True)
        count = rate.model_copy(update={"scale": "log1p", "minimum": 0.0})
        rates = {history_column(name, task): rate for task in self.history_tasks(name)}
        return {history_column(name): count, **rates}

    def history_tasks(self, name: str) -> dict[str, Task]:
        """Tasks whose rates history feature `name` takes."""
        chosen = self.history[name].tasks
        return self.tasks if chosen is None else {task: self.tasks[task] for task in chosen}

    def table_of(self, name: str) -> str:
        """Name of the feature that owns the embedding table of feature `name`."""
        return self.categorical[name].table or name

    def to_yaml(self) -> str:
        """The spec with presets and overrides applied; `parse_spec` reads it back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def events_fingerprint(self) -> str:
        """Identifies how an event is encoded; encoded days of another one are not reused."""
        return _fingerprint(
            {
                "id": self.events.id,
                "features": {
                    name: (
                        [
                            feature.field,
                            feature.dtype,
                            feature.multivalued and [feature.max_length, feature.too_long],
                            feature.required,
                        ]
                        if isinstance(feature, CategoricalFeature)
                        else [feature.field, "dense", feature.required]
                    )
                    for name, feature in sorted(self.logged.items())
                },
                "labels": sorted(
                    (
                        task.label,
                        task.field or task.label,
                        task.kind,
                        task.optional,
                        *((task.minimum, task.maximum) if task.kind == "regression" else ()),
                    )
                    for task in self.tasks.values()
                ),
            }
        )

    def totals_fingerprint(self, name: str) -> str:
        """Identifies what history feature `name` counts in encoded days."""
        tasks = self.history_tasks(name).items()
        return _fingerprint([self.history[name].of, sorted(map(_meaning, tasks))])

    def history_fingerprint(self) -> str:
        """Identifies how an event's history follows from the days before it."""
        return _fingerprint(
            [
                [name, feature.model_dump(exclude={"serving"}), self.totals_fingerprint(name)]
                for name, feature in sorted(self.history.items())
            ]
        )

    def model_fingerprint(self) -> str:
        """Identifies the meaning of every weight; a warm start needs the same one.

        Features and tasks count with their order: it is that of the concatenated input.
        """
        return _fingerprint(
            {
                "features": [
                    [
                        name,
                        feature.model_dump(
                            exclude={
                                "field",
                                "max_length",
                                "too_long",
                                "required",
                                "minimum",
                                "maximum",
                                "max_drift",
                                "max_skew",
                                "max_ids",
                                "serving",
                            }
                        ),
                    ]
                    for name, feature in self.features.items()
                ],
                "tasks": [_meaning(item) for item in self.tasks.items()],
                "regression": "in units of its label's deviation",
                "model": self.model.model_dump(exclude={"dropout", "activation_limit"}),
            }
        )

    def tasks_fingerprint(self) -> str:
        """Identifies what is predicted; two models are compared only where it is the same."""
        return _fingerprint([_meaning(item) for item in sorted(self.tasks.items())])


def _meaning(item: tuple[str, Task]) -> list[str | None]:
    name, task = item
    return [name, task.kind, getattr(task, "transform", None), task.label]


def _misfits(
    events: Events,
    features: Mapping[str, Feature],
    tasks: Mapping[str, Task],
    slices: Sequence[str],
    score: str,
) -> Iterator[str]:
    """What does not fit together, as `field: what`, though each part is well-formed."""
    for name, feature in features.items():
        if name in RESERVED_FEATURES:
            yield f"features.{name}: the name is taken by {RESERVED_FEATURES[name]}"
        if isinstance(feature, CategoricalFeature) and feature.table is not None:
            shared = features.get(feature.table)
            if not isinstance(shared, CategoricalFeature) or shared.table is not None:
                yield (
                    f"features.{name}.table: {feature.table!r} is no categorical feature "
                    "with a table of its own"
                )
        if isinstance(feature, HistoryFeature):
            yield from _history_misfits(f"features.{name}", feature, features, tasks)
    claims = [
        (f"features.{name}", name, feature.field or name)
        for name, feature in features.items()
        if not isinstance(feature, HistoryFeature)
    ]
    claims += [(f"tasks.{name}.label", t.label, t.field or t.label) for name, t in tasks.items()]
    names: dict[str, str] = {}
    fields = {events.id: "events.id"}
    for owner, name, field in claims:
        if field in fields:
            yield f"{owner}: the event field {field!r} is already {fields[field]}"
        elif name in names:
            yield f"{owner}: the name {name!r} is already {names[name]}"
        fields.setdefault(field, owner)
        names.setdefault(name, owner)
    for name, task in tasks.items():
        if name in RESERVED_TASKS:
            yield f"tasks.{name}: the name is taken by {RESERVED_TASKS[name]}"
        yield from _no_slices(task.gate.slices, features, f"tasks.{name}.gate.slices")
    yield from _no_slices(slices, features, "slices")
    try:
        formula.parse(score, names=tasks)
    except ValueError as error:
        yield f"serving.score: {error}"


def _no_slices(names: Iterable[str], features: Mapping[str, Feature], where: str) -> Iterator[str]:
    for name in names:
        feature = features.get(name)
        if not isinstance(feature, CategoricalFeature) or feature.multivalued:
            yield f"{where}: {name!r} is no single-valued categorical feature"


def _history_misfits(
    where: str, history: HistoryFeature, features: Mapping[str, Feature], tasks: Mapping[str, Task]
) -> Iterator[str]:
    yield from _no_slices(history.of, features, f"{where}.of")
    for repeated in sorted({name for name in history.of if history.of.count(name) > 1}):
        yield f"{where}.of: {repeated!r} is there twice"
    for task in history.tasks or ():
        if task not in tasks:
            yield f"{where}.tasks: {task!r} is no task; known: {', '.join(tasks)}"


def _fingerprint(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse_spec(text: str, source: str, overrides: Sequence[str] = ()) -> RankingSpec:
    """Reads a ranking spec.

    Args:
        text: the YAML document.
        source: what to call the document in error messages, usually its path.
        overrides: assignments such as `training.learning_rate=0.1`; the right side is YAML.

    Returns:
        The validated spec.

    Raises:
        SpecError: naming the document, the field and what is wrong with it.
    """
    content = _load_yaml(text, source)
    if not isinstance(content, dict):
        raise SpecError(f"{source}: expected a mapping with 'features', 'tasks', ...")
    for override in overrides:
        _apply_override(content, override)
    try:
        return RankingSpec.model_validate(content)
    except pydantic.ValidationError as error:
        faults = describe(error, RankingSpec)
        if any(item["loc"] for item in error.errors()):
            faults += _misfits_of_the_rest(content)
        raise SpecError("\n".join(f"{source}: {fault}" for fault in faults)) from error


def _misfits_of_the_rest(content: Mapping[str, Any]) -> list[str]:
    """As `_misfits`, of a document some of whose parts are not well-formed themselves."""
    wrong: set[str] = set()
    parts: dict[str, dict[str, Any]] = {}
    for section, kind in (("features", Feature), ("tasks", Task)):
        given = content.get(section)
        if not isinstance(given, dict):
            return []
        valid = {name: _valid(kind, value) for name, value in given.items()}
        parts[section] = {name: part for name, part in valid.items() if part is not None}
        wrong |= valid.keys() - parts[section].keys()
    events = _valid(Events, content.get("events", {})) or Events()
    slices = _valid(tuple[Name, ...], content.get("slices", ())) or ()
    serving = _valid(Serving, content.get("serving"))
    score = "1" if serving is None else serving.score
    faults = _misfits(events, parts["features"], parts["tasks"], slices, score)
    # What is said of a part that is wrong itself, or of an unknown score, is no news.
    told = [repr(name) for name in wrong] + (["serving.score:"] if serving is None else [])
    return [fault for fault in faults if not any(name in fault for name in told)]


def _valid(kind: Any, value: Any) -> Any:
    try:
        return pydantic.TypeAdapter(kind).validate_python(value)
    except pydantic.ValidationError:
        return None


def parse_overrides(text: str) -> list[str]:
    """Reads overrides given as one text, a JSON list of assignments.

    Raises:
        SpecError: it is no such list, or one of them is no assignment.
    """
    try:
        overrides = json.loads(text)
    except (ValueError, RecursionError):
        overrides = None
    if not isinstance(overrides, list) or not all(isinstance(item, str) for item in overrides):
        shown = text if len(text) < 80 else text[:77] + "..."
        raise SpecError(
            f"overrides: expected a JSON list of assignments such as "
            f'["training.epochs=2"], got {shown}'
        )
    for override in overrides:
        check_override(override)
    return overrides


def check_override(override: str) -> None:
    """Checks that a text is an assignment, whatever the spec that it is for.

    Raises:
        SpecError: it is none.
    """
    _apply_override({}, override)


def load_spec(path: str, overrides: Sequence[str] = ()) -> RankingSpec:
    """Reads the ranking spec at a local path; see `parse_spec`.

    Raises:
        SpecError: as `parse_spec`, or where the file cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from error
    return parse_spec(text, path, overrides)


def _apply_override(content: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise SpecError(f"override {override!r}: expected FIELD.FIELD=VALUE")
    node = content
    for depth, key in enumerate(keys[:-1]):
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise SpecError(f"override {override!r}: {'.'.join(keys[: depth + 1])} has no fields")
        node = child
    node[keys[-1]] = _load_yaml(value, f"override {override!r}")


def _load_yaml(text: str, source: str) -> Any:
    try:
        return load_yaml(text)
    except DocumentError as error:
        raise SpecError(f"{source}: {error}") from error
