"""The metrics: each answers here for its name, its bounds' direction and how it is computed.

A bound of the spec names its metric: `min_auc` and `max_auc_drop` where a higher value is the
better one, `max_rmse` and `max_rmse_rise` where a lower one is, and a pair `calibration` where
neither is. docs/gates.md has the definitions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from components.evaluator.estimates import BLOCKS
from components.evaluator.sums import FINITE, SCORE, Floats, Sums, deviation, ratio

BINARY, REGRESSION = "binary", "regression"


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of an output of a model.

    Attributes:
        name: in the spec, the results and the verdict.
        kinds: kinds of the outputs that have it.
        better: 1 if a higher value is better, -1 if a lower one is, 0 if neither.
        estimate: from the output's sums, see `components.evaluator.estimates`.
        tfma: TFMA's class of it, if there is one.
        weight: column of the sums with the weight that each block has in it.
    """

    name: str
    kinds: frozenset[str]
    better: int
    estimate: Callable[[Sums], Floats]
    tfma: str | None = None
    weight: str = "weight"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A metric of an output of a model and of another one on the same events.

    Attributes:
        name: in the spec, the results and the verdict.
        kinds: kinds of the outputs that have it.
        better: as that of a `Metric`.
        estimate: from the sums of the model and of the other one.
        served: whether the other one is the served model, else smoothed rates.
    """

    name: str
    kinds: frozenset[str]
    better: int
    estimate: Callable[[Sums, Sums], Floats]
    served: bool


def _metric(
    name: str, kinds: str, better: int, estimate: Callable[[Sums], Floats], tfma: str | None = None
) -> Metric:
    return Metric(name, frozenset(kinds.split()), better, estimate, tfma)


def _mean(column: str) -> Callable[[Sums], Floats]:
    return lambda sums: ratio(sums.total(column), sums.total("weight"))


def _within_groups(name: str, kinds: str) -> Metric:
    """A mean over groups, of a column of `components.evaluator.groups`."""
    weight = f"{name}_weight"
    return Metric(
        name,
        frozenset(kinds.split()),
        1,
        lambda sums: ratio(sums.total(name), sums.total(weight)),
        weight=weight,
    )


def _auc(sums: Sums) -> Floats:
    assert sums.ranking is not None
    return sums.ranking.auc()


def _pr_auc(sums: Sums) -> Floats:
    assert sums.ranking is not None
    return sums.ranking.pr_auc()


def _normalised_entropy(sums: Sums) -> Floats:
    rate = np.clip(_mean("label")(sums), 0.0, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -(rate * np.log(rate) + (1.0 - rate) * np.log1p(-rate))
    return ratio(_mean("log_loss")(sums), np.nan_to_num(entropy))


def _r2(sums: Sums) -> Floats:
    return 1.0 - ratio(_mean("squared_error")(sums), deviation(sums, "label") ** 2)


METRICS = (
    _metric(
        "weighted_example_count",
        f"{BINARY} {REGRESSION} {FINITE}",
        0,
        # A count, without an error.
        lambda sums: np.full(1 + BLOCKS, sums.total("weight")[0]),
        "WeightedExampleCount",
    ),
    _metric("mean_label", f"{BINARY} {REGRESSION}", 0, _mean("label"), "MeanLabel"),
    _metric(
        "mean_prediction",
        f"{BINARY} {REGRESSION} {FINITE}",
        0,
        _mean("prediction"),
        "MeanPrediction",
    ),
    _metric(
        "calibration",
        f"{BINARY} {REGRESSION}",
        0,
        lambda sums: ratio(sums.total("prediction"), sums.total("label")),
        "Calibration",
    ),
    _metric("auc", BINARY, 1, _auc, "AUC"),
    _metric("pr_auc", BINARY, 1, _pr_auc, "AUCPrecisionRecall"),
    _metric("log_loss", BINARY, -1, _mean("log_loss"), "BinaryCrossEntropy"),
    _metric("normalised_entropy", BINARY, -1, _normalised_entropy),
    _metric(
        "rmse",
        REGRESSION,
        -1,
        lambda sums: np.sqrt(_mean("squared_error")(sums)),
        "RootMeanSquaredError",
    ),
    _metric("mae", REGRESSION, -1, _mean("absolute_error"), "MeanAbsoluteError"),
    _metric("r2", REGRESSION, 1, _r2),
    _within_groups("gauc", BINARY),
    _within_groups("pairwise_accuracy", f"{REGRESSION} {SCORE}"),
    _within_groups("ndcg", f"{BINARY} {REGRESSION} {SCORE}"),
    # The RMSE of the best constant.
    _metric("label_standard_deviation", REGRESSION, 0, lambda sums: deviation(sums, "label")),
)

COMPARISONS = (
    # The rates are taken to be no worse than a constant, whose AUC is 0.5 and whose R2 is 0.
    Comparison(
        "auc_lift",
        frozenset([BINARY]),
        1,
        lambda model, rates: _auc(model) - np.fmax(_auc(rates), 0.5),
        served=False,
    ),
    Comparison(
        "r2_lift",
        frozenset([REGRESSION]),
        1,
        lambda model, rates: _r2(model) - np.fmax(_r2(rates), 0.0),
        served=False,
    ),
    Comparison(
        "score_scale",
        frozenset([SCORE]),
        0,
        lambda model, served: ratio(
            deviation(model, "prediction"), deviation(served, "prediction")
        ),
        served=True,
    ),
    Comparison(
        "score_correlation",
        frozenset([SCORE]),
        1,
        lambda model, served: ratio(
            _mean("product")(model) - _mean("prediction")(model) * _mean("prediction")(served),
            deviation(model, "prediction") * deviation(served, "prediction"),
        ),
        served=True,
    ),
    # In standard deviations of the served model's scores.
    Comparison(
        "score_shift",
        frozenset([SCORE]),
        0,
        lambda model, served: ratio(
            _mean("prediction")(model) - _mean("prediction")(served),
            deviation(served, "prediction"),
        ),
        served=True,
    ),
)


SHOWN = {BINARY: ("auc", "auc_lift"), REGRESSION: ("rmse", "r2", "r2_lift")}
"""Metrics that are shown of each kind of task, whatever its bounds; the first stands for it."""
