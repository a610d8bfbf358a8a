"""What months of warm starts do to Adagrad, by policy: `python -m benchmarks.accumulators`.

Adagrad's accumulators only grow, so its steps only shrink. One model a policy is trained on a
drifting simulated world, a day after another, as daily warm starts train it: the optimizer's
accumulators are carried from day to day, or decayed, or capped (`training.accumulators`). Each
day is evaluated before it is trained on. Now and then a fresh model is trained on the window
alone, and evaluated on the same day: what a warm start must beat.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.learning import default_spec
from benchmarks.simulated import transformed
from pipeline.simulate import simulate_days
from schemas.spec import RankingSpec
from schemas.training import Accumulators
from trainer_module import signatures
from trainer_module.model import build_model, initialise_from_data
from trainer_module.training import make_optimizer
from trainer_module.training_loop import TrainingLoop
from trainer_module.training_state import age_accumulators

POLICIES = {
    "carry": Accumulators(),
    "decay 0.99": Accumulators(decay=0.99),
    "decay 0.95": Accumulators(decay=0.95),
    "decay 0.9": Accumulators(decay=0.9),
    "decay 0.7": Accumulators(decay=0.7),
    "forget": Accumulators(decay=1e-9),
}
COLD_EVERY = 15
"""Days from one cold start to the next."""

Arrays = Mapping[str, np.ndarray]


class Contender:
    """A model with its optimizer, trained day after day."""

    def __init__(self, spec: RankingSpec, first: Arrays):
        """Makes the model and sets what a cold start takes from the data."""
        tf.keras.utils.set_random_seed(spec.training.seed)
        self.spec = spec
        self.model = build_model(spec)
        self.optimizer = make_optimizer(spec.training)
        self.optimizer.build(self.model.trainable_variables)
        self.loop = TrainingLoop(self.model, self.optimizer, spec, tf.distribute.get_strategy())
        initialise_from_data(self.model, [_batch(first, spec)], spec)

    def train(self, day: Arrays, seed: int) -> None:
        """Takes one pass over a day's events, with the warm-up of a run."""
        self.optimizer.iterations.assign(0)
        size = self.spec.training.batch_size
        order = np.random.default_rng(seed).permutation(len(day["hour"]))
        shuffled = {name: values[order] for name, values in day.items()}
        data = tf.data.Dataset.from_tensor_slices(_batch(shuffled, self.spec)).batch(size)
        self.loop.run(iter(data), math.ceil(len(order) / size), 0)

    def loss(self, day: Arrays) -> float:
        """Mean over the binary tasks of the log loss on a day's events."""
        features, labels, _ = _batch(day, self.spec)
        logits = self.model(features, training=False)
        return float(
            np.mean(
                [
                    np.mean(tf.nn.sigmoid_cross_entropy_with_logits(labels[task], logits[task]))
                    for task in self.loop.binary_tasks
                ]
            )
        )

    def effective_rate(self) -> float:
        """Learning rate over the root of the accumulator, the median of the shared layers."""
        values = [
            np.asarray(slot).ravel()
            for slot in self.optimizer.accumulators
            if "embedding" not in slot.path
        ]
        accumulator = float(np.median(np.concatenate(values)))
        return self.spec.training.learning_rate / math.sqrt(accumulator)


def _joined(days: list[Arrays]) -> Arrays:
    return {name: np.concatenate([day[name] for day in days]) for name in days[0]}


def _batch(data: Arrays, spec: RankingSpec) -> Any:
    return (
        {name: data[name] for name in spec.features},
        {task: data[signatures.label_key(task)] for task in spec.tasks},
        {task: data[signatures.weight_key(task)] for task in spec.tasks},
    )


def run(
    spec: RankingSpec, policies: Sequence[str], days: int, rows: int, seed: int
) -> list[dict[str, Any]]:
    """Runs the policies through one world; returns a record a day."""
    seeded = spec.training.model_copy(update={"seed": seed})
    warm, cold_spec = (
        spec.model_copy(update={"training": seeded.fitted(rows, warm)}) for warm in (True, False)
    )
    contenders: dict[str, Contender] = {}
    window: list[Arrays] = []
    records = []
    simulated = simulate_days(datetime.date(2026, 1, 1), days, rows, seed)
    for number, day in enumerate(simulated):
        data = transformed(day.columns, warm)
        record: dict[str, Any] = {"seed": seed, "day": number, "loss": {}, "rate": {}}
        for name, contender in contenders.items():
            record["loss"][name] = contender.loss(data)
            record["rate"][name] = contender.effective_rate()
        if window and number % COLD_EVERY == 0:
            cold = Contender(cold_spec, window[0])
            for _ in range(cold_spec.training.epochs):
                cold.train(_joined(window), seed)
            record["loss"]["cold start"] = cold.loss(data)
            record["rate"]["cold start"] = cold.effective_rate()
        if not contenders:
            contenders = {name: Contender(warm, data) for name in policies}
        for name, contender in contenders.items():
            age_accumulators(contender.optimizer, POLICIES[name])
            contender.train(data, seed + number)
        window = [*window, data][-warm.training.window_days :]
        records.append(record)
        print(json.dumps(record), flush=True)
    return records


def main() -> None:
    """Runs the worlds and prints, per policy, the loss over the last third of the days."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=180)
    parser.add_argument("--rows", type=int, default=2000, help="events a day")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--set", action="append", default=[], help="override of the demo's spec")
    parser.add_argument("--output", help="JSON file for the figures")
    arguments = parser.parse_args()
    spec = default_spec(["model.preset=tiny", *arguments.set])
    records = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        records += run(spec, arguments.policies, arguments.days, arguments.rows, seed)
        if arguments.output:
            pathlib.Path(arguments.output).write_text(json.dumps(records) + "\n")
    print_table(records, arguments.policies)


def print_table(records: list[dict[str, Any]], policies: Sequence[str]) -> None:
    """Prints each policy's log loss less that of `carry`, by third of the days, over seeds."""
    days = 1 + max(record["day"] for record in records)
    seeds = sorted({record["seed"] for record in records})
    print("policy, then per third of the days: loss less carry's (mean, sd over seeds), rate")
    for name in [*policies, "cold start"]:
        cells = []
        for third in range(3):
            inside = [
                record
                for record in records
                if third * days // 3 <= record["day"] < (third + 1) * days // 3
                and name in record["loss"]
                and "carry" in record["loss"]
            ]
            gaps = [
                np.mean([r["loss"][name] - r["loss"]["carry"] for r in inside if r["seed"] == seed])
                for seed in seeds
            ]
            spread = np.std(gaps, ddof=1) if len(gaps) > 1 else math.nan
            rate = np.mean([record["rate"][name] for record in inside])
            cells.append(f"{np.mean(gaps):+.5f} ({spread:.5f}) {rate:.3f}")
        print(f"  {name:14} " + "   ".join(cells))


if __name__ == "__main__":
    main()
