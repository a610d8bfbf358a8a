"""The shared-bottom multitask ranker."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from schemas.errors import BadDataError
from schemas.features import small_tables
from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask
from trainer_module.layers import (
    ClippedNormalization,
    Cross,
    Curves,
    Interactions,
    LabelUnits,
    PooledEmbedding,
)
from trainer_module.moments import quantile_edges, robust_moments

if TYPE_CHECKING:
    from trainer_module.inputs import Batch

# A hyphen is what no feature's name has, and inputs are named as features are.
_NORMALIZATION = "z-scores"
_CURVES = "number-curves"
HEAD = "head-"
WIDE = "wide-"
PAIRS = "pairs-"
EMBEDDING = "embedding-"
_TOWER = "tower-"
UNITS = "units-"


def build_model(spec: RankingSpec) -> keras.Model:
    """Builds the model of arXiv 2302.09178, Section 5.1: embeddings, shared bottom, heads.

    `model.wide` adds a linear model of the numbers to each binary task's logit, a task's
    `wide_categories` one of small tables' embeddings to its own, and `model.interactions` one of
    the embeddings' products to each task's output.

    Args:
        spec: the ranking spec.

    Returns:
        A functional model. Inputs by feature: ids, int64 [batch, values]; numbers, float32
        [batch, 1]. Outputs by task, float32 [batch, 1]: the logit of a binary task, the
        value of a regression task in the space of its loss.
    """
    inputs: dict[str, Any] = {}
    embedded: dict[str, Any] = {}
    tables: dict[str, PooledEmbedding] = {}
    for name, feature in spec.categorical.items():
        owner = spec.table_of(name)
        if owner not in tables:
            declared = spec.categorical[owner]
            assert declared.buckets is not None
            assert declared.embedding is not None
            tables[owner] = PooledEmbedding(
                declared.buckets, declared.embedding, name=f"{EMBEDDING}{owner}"
            )
        inputs[name] = keras.Input((None,), dtype="int64", name=name)
        embedded[name] = tables[owner](inputs[name], pooling=feature.pooling)
    parts = list(embedded.values())
    pairs = None
    if spec.model.interactions and len(parts) > 1:
        # float32 whatever the policy: a small difference of large sums.
        pairs = Interactions(spec.model.interactions, dtype="float32", name="pair-products")(parts)
        parts = [*parts, pairs]
    numbers = None
    if spec.dense:
        dense = [keras.Input((1,), dtype="float32", name=name) for name in spec.dense]
        inputs.update(zip(spec.dense, dense, strict=True))
        raw = _concatenated(dense, "dense-features")
        # float32 whatever the policy: raw values may overflow float16.
        kinds = [ClippedNormalization(dtype="float32", name=_NORMALIZATION)(raw)]
        if spec.model.curves:
            kinds.append(Curves(spec.model.curves, dtype="float32", name=_CURVES)(raw))
        numbers = _concatenated(kinds, "all-numbers")
        parts.append(numbers)
    x = keras.layers.Concatenate(name="all-features")(parts) if len(parts) > 1 else parts[0]

    if spec.model.cross_layers:
        x0 = x
        for layer in range(spec.model.cross_layers):
            x = Cross(name=f"cross-{layer}")(x0, x)
        x = keras.layers.LayerNormalization(name="cross-normalization")(x)
    activation = functools.partial(keras.activations.relu, max_value=spec.model.activation_limit)
    for layer, units in enumerate(spec.model.shared):
        x = keras.layers.Dense(
            units, activation, kernel_initializer="he_normal", name=f"shared-{layer}"
        )(x)
        if spec.model.dropout:
            x = keras.layers.Dropout(
                spec.model.dropout, seed=spec.training.seed + layer, name=f"dropout-{layer}"
            )(x)
    outputs = {}
    for name, task in spec.tasks.items():
        tower = x
        for layer, units in enumerate(spec.model.tower):
            tower = keras.layers.Dense(
                units, activation, kernel_initializer="he_normal", name=f"{_TOWER}{name}-{layer}"
            )(tower)
        # float32 whatever the policy: a loss in float16 loses what the gates measure.
        terms = [keras.layers.Dense(1, dtype="float32", name=f"{HEAD}{name}")(tower)]
        if pairs is not None:
            terms.append(_linear(f"{PAIRS}{name}")(pairs))
        if isinstance(task, BinaryTask):
            # A log odds is near a sum of its parts' own, which a tower has to learn from labels
            # that a rare task has few of.
            if spec.model.wide and numbers is not None:
                terms.append(_linear(f"{WIDE}{name}")(numbers))
            if task.wide_categories:
                # A layer of their own: Clippy shortens a layer's step by one factor.
                some = [embedded[feature] for feature in small_tables(spec.features)]
                categories = _concatenated(some, f"categories-{name}")
                terms.append(_linear(f"{WIDE}{name}-categories")(categories))
        output = terms[0]
        if len(terms) > 1:
            output = keras.layers.Add(dtype="float32", name=f"sum-{name}")(terms)
        if not isinstance(task, BinaryTask):
            output = LabelUnits(dtype="float32", name=f"{UNITS}{name}")(output)
        outputs[name] = output
    return keras.Model(inputs, outputs, name=spec.name.replace("-", "_"))


def _linear(name: str) -> keras.layers.Layer:
    """A term of an output. It starts as zero: the base rate is the head's bias."""
    return keras.layers.Dense(
        1, use_bias=False, kernel_initializer="zeros", dtype="float32", name=name
    )


def _concatenated(parts: Sequence[Any], name: str) -> Any:
    """Returns the parts side by side, in float32."""
    return (
        parts[0] if len(parts) == 1 else keras.layers.Concatenate(dtype="float32", name=name)(parts)
    )


def task_of_layer(layer: str) -> str | None:
    """Returns the task whose own a layer of `build_model` is; None for what tasks share."""
    for kind in (HEAD, PAIRS, WIDE, UNITS, _TOWER):
        if layer.startswith(kind):
            return layer.removeprefix(kind).partition("-")[0]
    return None


def initialise_from_data(model: keras.Model, batches: Iterable[Batch], spec: RankingSpec) -> None:
    """Sets what a cold start takes from data: normalisation, bins, base rates, the labels' units.

    A warm start does not come here: mean and variance then stay those that the weights were
    trained with. Were they estimated anew each day, a holiday's bump would rescale the
    inputs of every trained layer at once, which is the very shift that makes training
    diverge; a slow drift is for the weights to follow, and a cold start for when they cannot.

    Args:
        model: of `build_model`; changed in place.
        batches: a sample of the training data.
        spec: the ranking spec.

    Raises:
        BadDataError: a feature's variance is beyond float32: too many of its values are huge.
    """
    dense: list[np.ndarray] = []
    labelled = dict.fromkeys(spec.tasks, 0.0)
    label_sum = dict.fromkeys(spec.tasks, 0.0)
    square_sum = dict.fromkeys(spec.tasks, 0.0)
    for features, labels, weights in batches:
        if spec.dense:
            columns = [np.asarray(features[name], np.float32) for name in spec.dense]
            dense.append(np.concatenate(columns, axis=1))
        for name in spec.tasks:
            weight = np.asarray(weights[name], np.float64)
            labelled[name] += weight.sum()
            label = np.asarray(labels[name], np.float64)
            label_sum[name] += (weight * label).sum()
            square_sum[name] += (weight * np.square(label)).sum()
    if dense:
        numbers = np.concatenate(dense)
        moments = np.array([robust_moments(column) for column in numbers.T])
        for name, (mean, variance) in zip(spec.dense, moments, strict=True):
            if variance > np.finfo(np.float32).max:
                raise BadDataError(
                    f"features.{name}: too many of its values are huge (mean {mean:.3g}, standard "
                    f"deviation {variance**0.5:.3g}): they cannot be normalised. Mend the logs, "
                    f"or set features.{name}.scale to log1p"
                )
        normalization = model.get_layer(_NORMALIZATION)
        normalization.mean.assign(moments[:, 0].astype(np.float32))
        normalization.variance.assign(moments[:, 1].astype(np.float32))
        if spec.model.curves:
            curves = model.get_layer(_CURVES)
            curves.set_edges([quantile_edges(c, curves.bins) for c in numbers.T])
    for name, task in spec.tasks.items():
        if not labelled[name]:
            continue
        mean = label_sum[name] / labelled[name]
        if isinstance(task, BinaryTask):
            model.get_layer(f"{HEAD}{name}").bias.assign([_logit(mean)])
            continue
        units = model.get_layer(f"{UNITS}{name}")
        units.mean.assign(mean)
        variance = square_sum[name] / labelled[name] - mean**2
        # One that never varies, up to rounding, has no scale.
        if variance > 1e-10 * mean**2:
            units.deviation.assign(variance**0.5)


def label_deviations(model: keras.Model, spec: RankingSpec) -> dict[str, Any]:
    """Returns, for each regression task, the deviation that its errors are measured in."""
    return {
        name: model.get_layer(f"{UNITS}{name}").deviation
        for name, task in spec.tasks.items()
        if not isinstance(task, BinaryTask)
    }


def _logit(rate: float) -> Any:
    rate = np.clip(rate, 1e-4, 1.0 - 1e-4)
    return np.log(rate / (1.0 - rate))
