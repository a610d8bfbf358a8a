"""The tasks of a ranking spec: what each kind declares, and what its gate may demand."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from schemas.values import Bounds, FieldName, Name, Share, SpecPart

Confidence = Annotated[float, Field(ge=0.5, lt=1.0)]
Undecided = Literal["block", "pass"]


WITHIN_GROUPS = ("gauc", "ndcg", "pairwise_accuracy")
"""Metrics within groups of events, which `Evaluation.group_by` makes."""


class Evaluation(SpecPart):
    """How a day's model is judged, whatever the task.

    Attributes:
        group_by: a single-valued categorical feature, such as the user. Events with one value
            are a group: `gauc`, `ndcg` and `pairwise_accuracy` are within groups, and standard
            errors take a group, not an event, to be independent of the others.
        ndcg_at: how many of a group's first events the `ndcg` looks at.
        confidence: probability with which a bound must be known to hold; 0.5 is the point
            estimate's word.
        undecided: what becomes of a model of which the day cannot tell at that confidence
            whether it is within a bound.
    """

    group_by: Name | None = None
    ndcg_at: int = Field(default=10, ge=1)
    confidence: Confidence = 0.5
    undecided: Undecided = "block"


class Judgement(SpecPart):
    """How sure a gate must be; what is null is as in `evaluation`.

    Attributes:
        confidence: probability with which a bound must be known to hold.
        undecided: what becomes of a model of which the day cannot tell.
    """

    confidence: Confidence | None = None
    undecided: Undecided | None = None


class BinaryBounds(Judgement):
    """What a binary task must reach for each value of a sliced feature.

    Attributes:
        min_auc: lower bound on the AUC, at least 0.5; null sets none.
        max_auc_drop: how far the AUC may fall below the served model's on the same events.
        min_pr_auc: lower bound on the area under precision over recall.
        max_pr_auc_drop: how far that may fall below the served model's on the same events.
        max_log_loss: upper bound on the log loss.
        max_log_loss_rise: how far it may rise above the served model's on the same events.
        max_normalised_entropy: upper bound on the log loss over that of the labels' mean.
        max_normalised_entropy_rise: how far that may rise above the served model's on the same
            events.
        min_gauc: lower bound on the mean of the AUC within groups.
        max_gauc_drop: how far that may fall below the served model's on the same events.
        min_ndcg: lower bound on the mean over groups of the NDCG.
        max_ndcg_drop: how far that may fall below the served model's on the same events.
        calibration: bounds on mean prediction / mean label.
    """

    min_auc: float | None = Field(default=None, le=1.0)
    max_auc_drop: Share | None = 0.1
    min_pr_auc: Share | None = None
    max_pr_auc_drop: Share | None = None
    max_log_loss: float | None = Field(default=None, gt=0.0)
    max_log_loss_rise: float | None = Field(default=None, ge=0.0)
    max_normalised_entropy: float | None = Field(default=None, gt=0.0)
    max_normalised_entropy_rise: float | None = Field(default=None, ge=0.0)
    min_gauc: Share | None = None
    max_gauc_drop: Share | None = None
    min_ndcg: Share | None = None
    max_ndcg_drop: Share | None = None
    calibration: Bounds | None = None

    @pydantic.field_validator("min_auc")
    @classmethod
    def _can_fail(cls, value: float | None) -> float | None:
        if value is not None and value < 0.5:
            raise ValueError(
                f"a model that always gives the same answer has an AUC of 0.5, more than "
                f"{value:g}: set a bound above it, or null for none"
            )
        return value


class RegressionBounds(Judgement):
    """What a regression task must reach for each value of a sliced feature, in the loss's space.

    Attributes:
        max_rmse: upper bound on the root mean squared error; null sets none.
        max_rmse_rise: how far the RMSE may rise above the served model's on the same events.
        max_mae: upper bound on the mean absolute error.
        max_mae_rise: how far that may rise above the served model's on the same events.
        min_r2: lower bound on the share of the labels' variance that the model explains; the
            best constant explains 0.
        max_r2_drop: how far that share may fall below the served model's on the same events.
        min_pairwise_accuracy: lower bound on the share of a group's pairs that are in order.
        max_pairwise_accuracy_drop: how far that may fall below the served model's on the same
            events.
        min_ndcg: lower bound on the mean over groups of the NDCG.
        max_ndcg_drop: how far that may fall below the served model's on the same events.
        calibration: bounds on mean prediction / mean label.
    """

    max_rmse: float | None = Field(default=None, gt=0.0)
    max_rmse_rise: float | None = Field(default=None, ge=0.0)
    max_mae: float | None = Field(default=None, gt=0.0)
    max_mae_rise: float | None = Field(default=None, ge=0.0)
    min_r2: float | None = Field(default=None, gt=0.0, lt=1.0)
    max_r2_drop: float | None = Field(default=0.1, ge=0.0)
    min_pairwise_accuracy: Share | None = None
    max_pairwise_accuracy_drop: Share | None = None
    min_ndcg: Share | None = None
    max_ndcg_drop: Share | None = None
    calibration: Bounds | None = None


class ScoreBounds(Judgement):
    """What the combined score must reach, where its formula on the labels is the gain.

    Attributes:
        min_pairwise_accuracy: lower bound on the share of a group's pairs that are in order.
        max_pairwise_accuracy_drop: how far that may fall below the served model's on the same
            events.
        min_ndcg: lower bound on the mean over groups of the NDCG.
        max_ndcg_drop: how far that may fall below the served model's on the same events.
    """

    min_pairwise_accuracy: Share | None = None
    max_pairwise_accuracy_drop: Share | None = None
    min_ndcg: Share | None = None
    max_ndcg_drop: Share | None = None


_BY_DEFAULT: Any = {"confidence": 0.99, "undecided": "pass"}
"""A bound that nobody set on a slice, which may have few events, blocks what is known to be bad."""


class BinaryGate(BinaryBounds):
    """What a binary task must reach: over all events, and under `slices` for one value.

    Attributes:
        min_auc_lift: lower bound on the AUC minus that of smoothed rates of the single-valued
            categorical features (without any, of the numbers), counted on the events of the window.
        slices: bounds for each value of a feature, such as `{device: {min_auc: 0.55}}`.
    """

    min_auc: float | None = Field(le=1.0)
    calibration: Bounds | None = (0.5, 2.0)
    max_normalised_entropy: float | None = Field(default=1.25, gt=0.0)
    min_auc_lift: float | None = Field(default=None, ge=-0.5, le=0.5)
    slices: dict[Name, BinaryBounds] = Field(default={})

    def of_slice(self, feature: str) -> BinaryBounds:
        """Bounds for each value of a sliced feature."""
        return self.slices.get(feature) or BinaryBounds(**_BY_DEFAULT)


class RegressionGate(RegressionBounds):
    """What a regression task must reach: over all events, and under `slices` for one value.

    Attributes:
        min_r2_lift: lower bound on the R2 minus that of smoothed means of the best single-valued
            categorical feature (without any, number), counted on the events of the window.
        slices: bounds for each value of a feature, such as `{device: {max_r2_drop: 0.2}}`.
    """

    min_r2: float | None = Field(default=0.01, gt=0.0, lt=1.0)
    min_r2_lift: float | None = Field(default=None, ge=-1.0, le=1.0)
    slices: dict[Name, RegressionBounds] = Field(default={})

    def of_slice(self, feature: str) -> RegressionBounds:
        """Bounds for each value of a sliced feature."""
        return self.slices.get(feature) or RegressionBounds(**_BY_DEFAULT)

    @pydantic.model_validator(mode="after")
    def _is_bounded(self) -> RegressionGate:
        if self.max_rmse is None and self.min_r2 is None:
            raise ValueError("needs 'max_rmse' or 'min_r2'")
        return self


class BinaryTask(SpecPart):
    """A task with labels 0 and 1: log loss, AUC.

    Attributes:
        kind: the kind of task.
        label: name of the label.
        field: the label's name in the logs, if that differs.
        loss_weight: factor of this task's loss in the total loss.
        wide_categories: whether a linear model of the embeddings, of tables of at most 512 rows,
            is added to the task's logit, beside that of the numbers (`model.wide`).
        optional: whether events may lack the label; loss and metrics leave such events out.
        gate: what the task must reach on the run date.
    """

    kind: Literal["binary"]
    label: Name
    field: FieldName | None = None
    loss_weight: float = Field(default=1.0, gt=0.0)
    wide_categories: bool = False
    optional: bool = False
    gate: BinaryGate


class RegressionTask(SpecPart):
    """A task with numeric labels: squared error, RMSE.

    Attributes:
        kind: the kind of task.
        label: name of the label.
        field: the label's name in the logs, if that differs.
        transform: the space of the loss, of the RMSE and of the gate; serving inverts it.
        loss_weight: factor of this task's loss in the total loss.
        optional: whether events may lack the label; loss and metrics leave such events out.
        minimum: smallest valid label; an event with a smaller one is malformed.
        maximum: largest valid label; an event with a larger one is malformed.
        gate: what the task must reach on the run date.
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
RESERVED_TASKS = {"score": "the combined score", "all_finite": "the gate on finite predictions"}
"""Outputs of the model that are not tasks, and what they are."""
