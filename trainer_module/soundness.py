"""Whether a trained model is sound: finite, of sane size, and trained in all its layers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from schemas import formula
from schemas.spec import RankingSpec
from trainer_module.model import EMBEDDING, HEAD, PAIRS, WIDE, task_of_layer
from trainer_module.training_state import slots


def fingerprints(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> dict[str, str]:
    """Returns a digest of each trainable variable and each slot, by path.

    Taken at the start of a training, it tells at the end what has not moved.
    """
    return {
        variable.path: _fingerprint(variable)
        for variable in (*model.trainable_variables, *slots(optimizer))
    }


def faults(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    start: Mapping[str, str],
    spec: RankingSpec,
    cold: bool,
) -> tuple[str, ...]:
    """Says why a model must not be exported, whatever it answers to the events at hand.

    * A weight or a slot is NaN or infinite: a kernel may turn a NaN into zero on this machine
      and not on the one that serves, and a row of an embedding may be of an id to come.
    * A row of an embedding, or a layer, has a weight beyond `training.max_weight`.
    * The score reads a task that a cold start has seen no label of.
    * A kernel or an embedding is where it was at the start. A task without any label has an
      excuse, which its head's bias tells, and so have an embedding of lists that no gradient
      reached, since all lists were empty, and a linear model of numbers that are all constant. A
      single value that is absent has a row of its own.

    Args:
        model: of `build_model`, trained.
        optimizer: its optimizer.
        start: `fingerprints` at the start of the training; empty if they are not known.
        spec: the ranking spec.
        cold: whether the training started from fresh weights.

    Returns:
        A line for each fault, with the layer's name.
    """
    found = []
    for variable in (*model.variables, *slots(optimizer)):
        values = np.asarray(variable)
        bad = int(np.count_nonzero(~np.isfinite(values.astype(np.float32))))
        if bad:
            found.append(f"{variable.path} is NaN or infinite in {bad} of {values.size} places")
    for variable in model.trainable_variables:
        found += _blown_up(variable, spec.training.max_weight)
    if start:
        found += _frozen(model, optimizer, start, spec, cold)
    return tuple(found)


def _blown_up(variable: Any, limit: float) -> list[str]:
    values = np.atleast_1d(np.abs(np.asarray(variable).astype(np.float32)))
    rows = values.reshape(len(values), -1).max(axis=1)
    beyond = np.flatnonzero(np.isfinite(rows) & (rows > limit))
    if not beyond.size:
        return []
    first = beyond[0]
    return [
        f"{variable.path} has grown to {rows[first]:.3g} in row {first}, and beyond {limit:g} in "
        f"{beyond.size} of {len(rows)} rows (training.max_weight)"
    ]


def _frozen(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    start: Mapping[str, str],
    spec: RankingSpec,
    cold: bool,
) -> list[str]:
    now = fingerprints(model, optimizer)
    moved = {path for path, digest in now.items() if digest != start.get(path)}
    reached = {
        variable.path
        for variable in model.trainable_variables
        if any(slot.path in moved for slot in slots(optimizer, variable))
    }
    of_lists = set(spec.categorical) - {
        spec.table_of(name) for name, feature in spec.categorical.items() if not feature.multivalued
    }
    may_be_empty = (PAIRS, WIDE, *(f"{EMBEDDING}{name}/" for name in of_lists))
    unlabelled = {task for task in spec.tasks if f"{HEAD}{task}/bias" not in reached}
    read = formula.names_in(formula.parse(spec.serving.score, names=spec.tasks))
    found = [
        f"{task} has no label in the days that were trained on, and serving.score reads it: it is "
        "answered by random weights. Leave it out of the score until there are labels"
        for task in spec.tasks
        if cold and task in unlabelled & read
    ]
    for variable in model.trainable_variables:
        path, layer = variable.path, _layer(variable)
        # A bias may rightly stay at zero; a kernel, which starts at random, has no reason to.
        if path in moved or len(variable.shape) < 2:
            continue
        if path in reached:
            found.append(f"{path} is where it was before the training: the optimizer holds it")
            continue
        if task_of_layer(layer) not in unlabelled and not layer.startswith(may_be_empty):
            found.append(f"{path} is where it was before the training: no gradient reaches it")
    return found


def _layer(variable: Any) -> str:
    return variable.path.rpartition("/")[0]


def _fingerprint(variable: Any) -> str:
    values = np.ascontiguousarray(np.asarray(variable))
    return hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest()
