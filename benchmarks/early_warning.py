"""Do a few forward passes warn of a jump as the Hessian does: `python -m benchmarks.early_warning`.

Before a step of Adagrad at a rate eta two figures say whether it is too long. `sharpness`: eta
times the largest eigenvalue of the preconditioned Hessian, over 2 (Lanczos; `steadyrank risk`).
`critical`: eta over the shortest rate at which this very step no longer lowers the loss of its own
batch, found by doubling, halving and bisection with forward passes alone (critical sharpness,
arXiv 2601.16979). Both are above 1 where the step is too long. They are held against what comes:
whether the loss of one of the next steps is over twice that of the start.

At the start of trainings of the models of `benchmarks.risk`, and after 60 steps at a rate that all
of them bear, when the rate goes up. Without treatment; the embeddings, whose rate stays, count as
constants for both figures.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import tensorflow as tf

from benchmarks.risk import MODELS, spec_of, training_events
from schemas.training import Training
from trainer_module.inputs import Batch
from trainer_module.optimizers import ClippedAdagrad
from trainer_module.risk.assess import with_training
from trainer_module.risk.batches import batch_count, event_batches, pick
from trainer_module.risk.over_run import accumulators_of
from trainer_module.risk.sharpness import (
    largest_eigenvalue,
    preconditioned_hessian,
    random_vector,
)
from trainer_module.risk.trainee import Trainee

RESULTS = Path(__file__).parent / "results" / "early_warning.json"
STARTS = (0, 1, 2, 4, 8, 16)
"""Steps before which the figures are taken."""
AHEAD = 4
"""Steps in which a jump is looked for."""
LATER, LATER_RATE = 60, 0.0005
RATES: Mapping[str, Sequence[float]] = {
    "Small": (0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.3),
    "Large": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
    "Large+DCN": (0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01),
}
RAISED: Mapping[str, Sequence[float]] = dict.fromkeys(RATES, (0.003, 0.03, 0.1, 0.3, 1.0, 3.0))
SEEDS: Mapping[str, range] = {"Small": range(6), "Large": range(3), "Large+DCN": range(3)}
_JUMP = 2.0
_BISECTIONS = 3
_FARTHEST = 2.0**16


def critical_multiple(loss_at: Callable[[float], float]) -> tuple[float, int]:
    """Finds how many times its length a step may have before it no longer lowers the loss.

    Args:
        loss_at: the loss after so many times the step; of 0, before it.

    Returns:
        The multiple, at most 2^16, and the number of losses it took.
    """
    before = loss_at(0.0)
    calls = 1

    def too_long(multiple: float) -> bool:
        nonlocal calls
        calls += 1
        return not loss_at(multiple) <= before

    low, high = 0.0, 1.0
    if too_long(high):
        while low == 0.0 and high > 1 / _FARTHEST:
            if too_long(high / 2):
                high /= 2
            else:
                low = high / 2
    else:
        while high < _FARTHEST:
            low, high = high, 2 * high
            if too_long(high):
                break
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high) if low else high / 2
        low, high = (low, middle) if too_long(middle) else (middle, high)
    return math.sqrt(low * high) if low else high, calls


def make_adagrad(training: Training) -> ClippedAdagrad:
    """Makes the spec's Adagrad, whose rate can be set between steps."""
    return ClippedAdagrad(
        training.learning_rate,
        excluded_learning_rate=training.embedding_rate,
        initial_accumulator_value=training.optimizer.initial_accumulator,
        epsilon=training.optimizer.epsilon,
        export_statistics=True,
    )


class Meter:
    """Takes both figures of a trainee before its next step."""

    def __init__(self, trainee: Trainee) -> None:
        optimizer = trainee.optimizer
        self._trainee = trainee
        self._variables = [
            v for v in trainee.model.trainable_variables if not optimizer.is_excluded(v)
        ]
        self._accumulators = accumulators_of(optimizer, self._variables)
        self._epsilon = trainee.spec.training.optimizer.epsilon
        self._batch: Batch = tf.nest.map_structure(
            lambda part: tf.Variable(part[0]), trainee.batches_of([0])
        )
        self._hessian = preconditioned_hessian(
            lambda: trainee.loss(self._batch), self._variables, self._accumulators, self._epsilon
        )

    def take(self, step: int, rate: float, seed: int) -> dict[str, float]:
        """Returns the figures before `step`, on its own batch, and their CPU seconds."""
        batch = self._trainee.batches_of([step])
        tf.nest.map_structure(lambda v, part: v.assign(part[0]), self._batch, batch)
        began = time.process_time()
        found = largest_eigenvalue(self._hessian, random_vector(self._variables, seed))
        middle = time.process_time()
        weights = [tf.identity(v.value) for v in self._variables]
        direction = self._direction()

        def loss_at(multiple: float) -> float:
            for variable, weight, part in zip(self._variables, weights, direction, strict=True):
                variable.assign(weight - rate * multiple * part)
            return float(self._trainee.evaluate(self._batch))

        multiple, calls = critical_multiple(loss_at)
        loss_at(0.0)
        return {
            "sharpness": rate * found.value / 2.0,
            "products": found.iterations,
            "sharpness_seconds": middle - began,
            "critical": 1.0 / multiple,
            "passes": calls,
            "critical_seconds": time.process_time() - middle,
        }

    @tf.function
    def _direction(self) -> list[tf.Tensor]:
        """Adagrad's step of this batch at a rate of 1."""
        values = [variable.value for variable in self._variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            loss = self._trainee.loss(self._batch)
        gradients = tape.gradient(loss, values, unconnected_gradients="zero")
        return [
            g * tf.math.rsqrt(tf.convert_to_tensor(a) + tf.square(g) + self._epsilon)
            for g, a in zip(gradients, self._accumulators, strict=True)
        ]


def measure(model: str, batches: Batch, rates: Sequence[float], later: bool) -> list[dict]:
    """Trains at each rate with each seed; returns the figures taken on the way, and what came."""
    points = []
    spec = spec_of(MODELS["quarter"][model])
    for rate in rates:
        first_rate = LATER_RATE if later else rate
        trainee = Trainee(with_training(spec, "adagrad", first_rate), batches, make=make_adagrad)
        meter = Meter(trainee)
        for seed in SEEDS[model]:
            trainee.optimizer.learning_rate = first_rate
            trainee.start(seed)
            trail = [float(trainee.evaluate(pick(batches, 0)))]
            done = 0
            if later:
                trail += trainee.train(LATER).tolist()
                done = LATER
                trainee.optimizer.learning_rate = rate
            taken: list[dict[str, Any]] = []
            for start in STARTS:
                step = start + (LATER if later else 0)
                trail += trainee.train(step - done).tolist() if step > done else []
                done = step
                if not np.isfinite(trail).all():
                    break
                taken.append({"step": step, **meter.take(step, rate, seed)})
            trail += trainee.train(AHEAD + 1).tolist()
            losses = np.array(trail[1:])
            for point in taken:
                # The loss before a step says what the step before it has done.
                coming = losses[point["step"] + 1 : point["step"] + 1 + AHEAD]
                before = losses[: point["step"] + 1]
                high = _JUMP * trail[0]
                points.append(
                    {
                        "model": model,
                        "rate": rate,
                        "seed": seed,
                        "later": later,
                        "jumped before": bool((before[LATER if later else 0 :] > high).any()),
                        "jumps": bool((~(coming <= high)).any()),
                        **{name: float(f"{value:.4g}") for name, value in point.items()},
                    }
                )
        print(f"{model} at {rate}{' later' if later else ''}: {len(points)} points", flush=True)
    return points


def summary(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns how well each figure tells the steps before a jump from others, and its cost."""
    jumps = np.array([point["jumps"] for point in points])
    found: dict[str, Any] = {"points": len(points), "before a jump": int(jumps.sum())}
    for name in ("sharpness", "critical"):
        values = np.array([point[name] for point in points])
        if 0 < jumps.sum() < len(jumps):
            ranks = scipy.stats.rankdata(values)
            excess = ranks[jumps].sum() - jumps.sum() * (jumps.sum() + 1) / 2
            found[f"{name}: AUC"] = float(excess / (jumps.sum() * (~jumps).sum()))
        found[f"{name}: above 1 before a jump"] = int((values[jumps] > 1).sum())
        found[f"{name}: above 1 before none"] = int((values[~jumps] > 1).sum())
        found[f"{name}: CPU seconds"] = float(
            np.median([point[f"{name}_seconds"] for point in points])
        )
    found["products, median"] = float(np.median([point["products"] for point in points]))
    found["passes, median"] = float(np.median([point["passes"] for point in points]))
    both = [[point["sharpness"], point["critical"]] for point in points]
    found["rank correlation"] = float(scipy.stats.spearmanr(both).statistic)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=RATES, default=list(RATES))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        files = training_events(folder)
        for model in options.models:
            count = LATER + max(STARTS) + AHEAD + 2
            batches = event_batches(files, spec_of(MODELS["quarter"][model]), count)
            assert batch_count(batches) == count
            points = measure(model, batches, RATES[model], later=False)
            points += measure(model, batches, RAISED[model], later=True)
            # Of a training that has jumped already nobody needs to be warned.
            fresh = [point for point in points if not point["jumped before"]]
            results[model] = {
                "start": summary([point for point in fresh if not point["later"]]),
                "later": summary([point for point in fresh if point["later"]]),
                "points": points,
            }
            options.results.write_text(json.dumps(results) + "\n")
            print(model, {k: v for k, v in results[model].items() if k != "points"}, flush=True)


if __name__ == "__main__":
    main()
