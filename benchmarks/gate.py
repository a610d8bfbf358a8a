"""How often the gate blocks a healthy model, and how often it passes one whose AUC fell.

Days are simulated: labels, and the predictions of a served and of a new model, which err alike in
part, on users as on events. A healthy new model is as good as the served one; a planted one has
an AUC that is lower by `FALL`. Each day is judged by the gate's own sums, errors and bounds.

    python -m benchmarks.gate [--days 200] [--events 10000 30000 100000 300000 1000000]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from components.evaluator.bounds import Bound
from components.evaluator.estimates import BLOCKS, Estimate, estimate
from components.evaluator.metrics import METRICS
from components.evaluator.sums import Floats, Integers, Sums, merge, sums_by_group

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "gate.json"

FALL = 0.005
RATES = {"20 % positives": 0.2, "2 % positives": 0.02}
OF_USER = 20
"""Events of a user on a day, on average."""
NOISE = 0.7
"""Standard deviation of a model's error in the log odds, of which the signal's is 1."""
ALIKE = 0.8
"""Share of the error's variance that two models of successive days have in common."""
OF_USERS = 0.5
"""Share of the error's variance, and of what no model knows, that a user's events share."""
BATCH = 32_768
AUC = next(metric for metric in METRICS if metric.name == "auc")

BOUNDS = {
    "point estimate, max_auc_drop 0.02": Bound("auc", low=-0.02, is_change=True),
    "point estimate, max_auc_drop 0.0025": Bound("auc", low=-0.0025, is_change=True),
    "confidence 0.95, max_auc_drop 0.005": Bound(
        "auc", low=-0.005, is_change=True, confidence=0.95
    ),
    "confidence 0.95, max_auc_drop 0.02": Bound("auc", low=-0.02, is_change=True, confidence=0.95),
}


@dataclasses.dataclass(frozen=True)
class Day:
    """A simulated day of one task.

    Attributes:
        labels: 0 or 1, [events].
        models: the served, the healthy and the planted model's predictions, [events].
        user: of each event, [events].
    """

    labels: Floats
    models: tuple[Floats, Floats, Floats]
    user: Integers


def simulate(rng: np.random.Generator, events: int, rate: float, more: float) -> Day:
    """Draws a day.

    Args:
        rng: source of randomness.
        events: number of events.
        rate: share of positives, roughly.
        more: standard deviation of the error that the planted model has on top.

    Returns:
        The day.
    """
    users = max(events // OF_USER, 2)
    user = rng.integers(0, users, events)

    def noise(scale: float) -> Floats:
        of_user = rng.normal(0.0, np.sqrt(OF_USERS), users)[user]
        return scale * (of_user + rng.normal(0.0, np.sqrt(1.0 - OF_USERS), events))

    signal = rng.normal(0.0, 1.0, events)
    base = np.log(rate / (1.0 - rate)) - 0.4
    labels = (rng.random(events) < _sigmoid(base + signal + noise(0.5))).astype(np.float32)
    alike, own = NOISE * np.sqrt(ALIKE), NOISE * np.sqrt(1.0 - ALIKE)
    error = noise(alike)
    served, healthy = (signal + error + noise(own) for _ in range(2))
    planted = healthy + noise(more)
    # Each model knows how far its own log odds can be trusted.
    shrunk = [1.0 / (1.0 + NOISE**2)] * 2 + [1.0 / (1.0 + NOISE**2 + more**2)]
    answers = [
        _sigmoid(base + trust * logit).astype(np.float32)
        for trust, logit in zip(shrunk, (served, healthy, planted), strict=True)
    ]
    return Day(labels, (answers[0], answers[1], answers[2]), user)


def _sigmoid(logit: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-logit))


def sum_up(day: Day, blocks: Integers) -> Iterator[Sums]:
    """Sums up a day for each model, as the evaluator does batch by batch."""
    for predictions in day.models:
        parts = []
        for start in range(0, len(day.labels), BATCH):
            rows = slice(start, start + BATCH)
            number = len(day.labels[rows])
            parts += sums_by_group(
                "binary",
                day.labels[rows],
                predictions[rows],
                np.ones(number),
                blocks[rows],
                np.zeros(number, np.int64),
                1,
            )
        yield merge(parts)


def changes(day: Day) -> list[Estimate]:
    """Change of the AUC against the served model: of the healthy, of the planted model."""
    served, *others = sum_up(day, day.user % BLOCKS)
    of_served, weights = AUC.estimate(served), served.columns["weight"]
    return [estimate(AUC.estimate(other) - of_served, weights) for other in others]


def find_more(rate: float) -> float:
    """How much more a model must err to lose `FALL`."""
    low, high = 0.0, 1.0
    for _ in range(9):
        more = (low + high) / 2.0
        day = simulate(np.random.default_rng(0), 2_000_000, rate, more)
        _, healthy, planted = (
            float(AUC.estimate(item)[0]) for item in sum_up(day, day.user % BLOCKS)
        )
        low, high = (more, high) if healthy - planted < FALL else (low, more)
    return (low + high) / 2.0


def measure(task: str, days: int, size: int, more: float) -> dict[str, Any]:
    """Simulates and judges days of one task and size; `more` is of `find_more`."""
    rate = RATES[task]
    rng = np.random.default_rng([size, round(1000 * rate)])
    found = [changes(simulate(rng, size, rate, more)) for _ in range(days)]
    healthy, planted = ([pair[index] for pair in found] for index in (0, 1))
    return {
        "standard_error": float(np.mean([item.error for item in healthy])),
        "scatter": float(np.std([item.value for item in healthy])),
        "fall": float(-np.mean([item.value for item in planted])),
        "covered": float(
            np.mean([item.interval[0] <= 0.0 <= item.interval[1] for item in healthy])
        ),
        "bounds": {
            name: {
                "healthy_blocked": blocked(bound, healthy),
                "planted_passed": 1.0 - blocked(bound, planted),
            }
            for name, bound in BOUNDS.items()
        },
    }


def blocked(bound: Bound, found: list[Estimate]) -> float:
    """Share of days on which a bound does not hold."""
    return float(np.mean([not bound.holds(bound.judged(item)) for item in found]))


def main() -> int:
    """Measures, and adds to the results of before."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--days", type=int, default=200)
    parser.add_argument(
        "--events", type=int, nargs="+", default=[10_000, 30_000, 100_000, 300_000, 1_000_000]
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--tasks", nargs="+", choices=RATES, default=list(RATES))
    asked = parser.parse_args()
    found: dict[str, Any] = {"days": asked.days, "fall": FALL, "tasks": {}}
    if asked.output.exists():
        before = json.loads(asked.output.read_text())
        found = before if before["days"] == asked.days else found
    for task in asked.tasks:
        more = find_more(RATES[task])
        of_task = found["tasks"].setdefault(task, {})
        for size in asked.events:
            of_task[str(size)] = measure(task, asked.days, size, more)
            print(task, size, json.dumps(of_task[str(size)]), flush=True)
            # What took minutes is not lost with what follows.
            asked.output.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
