"""How well the divergence monitor tells healthy from diverging trainings.

    python -m benchmarks.detection --cache DIR

Planted curves (`benchmarks.planted`), and real trainings of the project's model on simulated
events, whose statistics are collected once into the cache and judged from there. What a real
training is, the monitor has no say in: it has diverged if its weights or its predictions of
held-out events are not finite, or if those predictions' AUC is within 0.02 of 0.5 for most
binary tasks; it is healthy if none is that near and no squared error exceeds the label's
variance; others are ambiguous. The limits were chosen on the seeds `TUNED`.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks import planted
from benchmarks.daily import as_columns
from benchmarks.learning import default_spec
from benchmarks.quality import metric
from benchmarks.simulated import transformed
from pipeline.simulate import simulate_days
from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask
from trainer_module import signatures
from trainer_module.distribution import make_strategy
from trainer_module.model import build_model, initialise_from_data
from trainer_module.optimizers import ClippedAdagrad, ClippedAdam, ClippedOptimizer, Clippy
from trainer_module.stability.detection import Detector
from trainer_module.stability.events import DivergenceEvent, Limits
from trainer_module.stability.statistics import StepStatistics
from trainer_module.training_loop import TrainingLoop

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "detection.json"
TUNED = (0, 1)
"""Seeds on which the limits were chosen; the others are reported."""
SEEDS = range(8)
DAYS, ROWS, HELD_OUT = 4, 12_000, 8_000
"""Of a simulated world; the last day is held out."""


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One kind of training.

    Attributes:
        name: of the scenario.
        optimizer: `adagrad`, `clippy` (on Adagrad), `adam`, or `delayed` (Adagrad with the
            delayed accumulator, starting at 0.001).
        rate: learning rate.
        batch: examples a step.
        steps: steps recorded.
        preset: size of the model.
        overrides: of the spec.
        warm_up: steps over which the learning rate rises.
        discarded: steps before the recorded ones; a warm start.
        bump: first step, number of steps, factor on the learning rate.
        by_day: the days one after another, a drift, instead of at random.
    """

    name: str
    optimizer: str
    rate: float
    batch: int = 128
    steps: int = 600
    preset: str = "laptop"
    overrides: tuple[str, ...] = ()
    warm_up: int = 20
    discarded: int = 0
    bump: tuple[int, int, float] | None = None
    by_day: bool = False


_SECONDS = ("tasks.watch_time.transform=none", "tasks.watch_time.loss_weight=0.01")
SCENARIOS = (
    Scenario("clippy", "clippy", 0.1),
    Scenario("by day", "adagrad", 0.05, steps=270, preset="tiny", by_day=True),
    Scenario("large batch", "clippy", 0.1, batch=1024, steps=300),
    Scenario("warm start", "clippy", 0.1, discarded=300, steps=500),
    Scenario("seconds", "clippy", 0.02, preset="tiny", overrides=_SECONDS),
    Scenario("adam", "adam", 0.001, preset="tiny"),
    Scenario("bump", "adagrad", 0.1, bump=(250, 2, 8.0)),
    Scenario("hot", "adagrad", 5.0, warm_up=100),
    Scenario("hot delayed", "delayed", 0.5, batch=1024, steps=250),
    Scenario("hot adam", "adam", 0.3),
    Scenario("raised", "adagrad", 0.1, bump=(250, 10_000, 30.0)),
    Scenario("large bump", "adagrad", 0.1, bump=(250, 3, 30.0)),
    Scenario("cross", "delayed", 1.0, batch=1024, steps=250, overrides=("model.cross_layers=1",)),
    Scenario("hot seconds", "adagrad", 0.5, overrides=_SECONDS[:1]),
)


def examples(spec: RankingSpec, world: int) -> dict[str, np.ndarray]:
    """Returns a simulated world's transformed examples, and the `day` of each."""
    parts = []
    for number, day in enumerate(simulate_days(datetime.date(2026, 1, 1), DAYS, ROWS, world)):
        part = {"day": np.full(len(day.columns["hour"]), number)}
        part |= {name: as_columns(value) for name, value in transformed(day, spec).items()}
        parts.append(part)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def batch_of(data: dict[str, np.ndarray], spec: RankingSpec, rows: np.ndarray) -> Any:
    """Returns features, labels and weights of these rows."""
    return (
        {name: data[name][rows] for name in spec.features},
        {task: data[signatures.label_key(task)][rows] for task in spec.tasks},
        {task: data[signatures.weight_key(task)][rows] for task in spec.tasks},
    )


def batches(
    scenario: Scenario, data: dict[str, np.ndarray], spec: RankingSpec, seed: int
) -> tf.data.Dataset:
    """Gives the training days' batches, as many as there are steps."""
    rng = np.random.default_rng(seed)
    steps = scenario.steps + scenario.discarded
    days = [np.flatnonzero(data["day"] == day) for day in range(DAYS - 1)]
    if scenario.by_day:
        order = np.concatenate([rng.permutation(day) for day in days])
    else:
        passes = 1 + steps * scenario.batch // sum(map(len, days))
        order = np.concatenate([rng.permutation(np.concatenate(days)) for _ in range(passes)])
    dataset = tf.data.Dataset.from_tensor_slices(
        order[: steps * scenario.batch].reshape(-1, scenario.batch)
    )
    features, labels, weights = (
        {name: tf.constant(values) for name, values in part.items()}
        for part in batch_of(data, spec, np.arange(len(data["day"])))
    )
    return dataset.map(
        lambda rows: tuple(
            {name: tf.gather(values, rows) for name, values in part.items()}
            for part in (features, labels, weights)
        )
    ).prefetch(4)


def make_optimizer(scenario: Scenario) -> ClippedOptimizer:
    """Makes the scenario's optimizer; its learning rate is set from outside."""
    if scenario.optimizer == "adam":
        return ClippedAdam(scenario.rate, export_statistics=True)
    delayed = scenario.optimizer == "delayed"
    return ClippedAdagrad(
        scenario.rate,
        rule=Clippy() if scenario.optimizer == "clippy" else None,
        initial_accumulator_value=0.001 if delayed else 0.1,
        accumulator_update="delayed" if delayed else "standard",
        export_statistics=True,
    )


def rate_of(scenario: Scenario, step: int) -> float:
    """Learning rate of a step; a warm start has a warm-up of its own."""
    step -= scenario.discarded if step >= scenario.discarded else 0
    rate = scenario.rate * min(1.0, (step + 1) / scenario.warm_up)
    if scenario.bump is not None:
        at, length, factor = scenario.bump
        if at <= step < at + length:
            rate *= factor
    return rate


def train(scenario: Scenario, seed: int, data: dict[str, np.ndarray], spec: RankingSpec) -> Any:
    """Trains; returns the statistics of the recorded steps, and what became of the model."""
    keras.utils.set_random_seed(seed)
    model = build_model(spec)
    optimizer = make_optimizer(scenario)
    optimizer.build(model.trainable_variables)
    sample = np.flatnonzero(data["day"] < DAYS - 1)[:: DAYS - 1]
    initialise_from_data(model, [batch_of(data, spec, sample)], spec)
    strategy = make_strategy(spec.training)
    iterator = iter(batches(scenario, data, spec, seed))
    loop = TrainingLoop(model, optimizer, spec, strategy)
    chunks: list[StepStatistics] = []
    step = 0
    while True:
        if step == scenario.discarded:
            chunks = []
            loop = TrainingLoop(model, optimizer, spec, strategy)
        # The learning rate is set between calls, so it takes calls of a step while it changes.
        steps = 1
        while steps < 16 and rate_of(scenario, step + steps) == rate_of(scenario, step):
            steps += 1
        optimizer.learning_rate = rate_of(scenario, step)
        chunks.append(loop.run(iterator, steps, step - scenario.discarded))
        step += len(chunks[-1])
        if len(chunks[-1]) < steps:
            return joined(chunks), outcome(model, data, spec)


def joined(chunks: list[StepStatistics]) -> StepStatistics:
    """Returns consecutive statistics as one."""
    arrays = {
        name: np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in array_fields()
    }
    return dataclasses.replace(chunks[0], **arrays)


def array_fields() -> list[str]:
    names = [field.name for field in dataclasses.fields(StepStatistics)]
    return [n for n in names if n not in ("first_step", "tasks", "binary_tasks", "layers")]


def outcome(model: keras.Model, data: dict[str, np.ndarray], spec: RankingSpec) -> dict[str, Any]:
    """Judges a trained model by events of the day after: see the module."""
    rows = np.flatnonzero(data["day"] == DAYS - 1)[:HELD_OUT]
    features, labels, weights = batch_of(data, spec, rows)
    outputs = {name: value.numpy()[:, 0] for name, value in model(features).items()}
    finite = all(np.isfinite(values).all() for values in outputs.values())
    finite = finite and all(np.isfinite(np.asarray(w)).all() for w in model.trainable_variables)
    if not finite:
        return {"label": "diverged", "finite": False}
    aucs, useless = {}, False
    for name, task in spec.tasks.items():
        label = np.where(weights[name][:, 0] > 0, labels[name][:, 0], np.nan).astype(np.float64)
        value = metric(task, label, outputs[name].astype(np.float64))
        if isinstance(task, BinaryTask):
            aucs[name] = value
        else:
            useless = useless or value > 1.05 * float(np.nanstd(label))
    near = sum(abs(value - 0.5) < 0.02 for value in aucs.values())
    label = "diverged" if 2 * near > len(aucs) else "ambiguous" if near or useless else "healthy"
    return {"label": label, "finite": True, "auc": aucs}


def collect(cache: pathlib.Path) -> None:
    """Runs the trainings that the cache lacks."""
    for seed in SEEDS:
        for scenario in SCENARIOS:
            file = cache / f"{scenario.name.replace(' ', '-')}-{seed}.npz"
            if file.exists():
                continue
            overrides = [
                f"model.preset={scenario.preset}",
                f"training.batch_size={scenario.batch}",
                f"training.seed={seed}",
                *scenario.overrides,
            ]
            spec = default_spec(overrides).fitted(ROWS, warm=False)
            # A world of its own for the seeds that are reported.
            world = 0 if seed in TUNED else 1
            seconds = "seconds" if _SECONDS[0] in scenario.overrides else "log"
            source = cache / "worlds" / f"{world}-{seconds}.npz"
            if not source.exists():
                source.parent.mkdir(parents=True, exist_ok=True)
                np.savez(source, **examples(spec, world))
            with np.load(source) as content:
                data = dict(content)
            statistics, result = train(scenario, seed, data, spec)
            keras.backend.clear_session()
            names = {key: getattr(statistics, key) for key in ("tasks", "binary_tasks", "layers")}
            meta = {"scenario": scenario.name, "seed": seed, "outcome": result, "names": names}
            arrays = {name: getattr(statistics, name) for name in array_fields()}
            np.savez_compressed(file, meta=json.dumps(meta), **arrays)
            print(f"{file.name}: {result}", flush=True)


def cached(cache: pathlib.Path) -> Iterator[tuple[dict[str, Any], StepStatistics]]:
    """Yields the trainings of the cache: what they are, and their statistics."""
    for file in sorted(cache.glob("*.npz")):
        with np.load(file) as content:
            meta = json.loads(str(content["meta"]))
            names = {key: tuple(value) for key, value in meta["names"].items()}
            yield (
                meta,
                StepStatistics(
                    first_step=0, **names, **{name: content[name] for name in array_fields()}
                ),
            )


def detect(statistics: StepStatistics, limits: Limits) -> Detector:
    """Runs the detector over a whole training."""
    names = (statistics.tasks, statistics.binary_tasks, statistics.layers)
    detector = Detector(*names, limits=limits)
    detector.update(statistics)
    return detector


def true_start(meta: dict[str, Any], statistics: StepStatistics) -> int:
    """First bad step of a diverged training, in hindsight.

    Where the learning rate was raised, the step after; else the first one whose loss is not
    finite, or at which half of the layers' gradients are zero, or the first of three in a row
    with twice the median loss of the steps before.
    """
    scenario = next(s for s in SCENARIOS if s.name == meta["scenario"])
    if scenario.bump is not None:
        return scenario.bump[0] + 1
    loss = statistics.loss.astype(np.float64)
    high = np.array(
        [not loss[i] <= 2.0 * np.median(loss[: max(1, i)][-50:]) for i in range(len(loss))]
    )
    lasting = high & np.append(high[1:], True) & np.append(high[2:], [True, True])
    dead = np.mean(statistics.gradient_norm == 0, axis=1) >= 0.5
    bad = ~np.isfinite(loss) | lasting | dead
    return int(np.argmax(bad)) if bad.any() else 0


def delay(events: tuple[DivergenceEvent, ...], start: int) -> tuple[int, int] | None:
    """Steps from `start` to noticing, and to calling it full divergence (None: never)."""
    full = [event for event in events if event.kind in ("full", "open")]
    if not full or full[-1].ended is None:
        return None
    noticed = min(event.detected for event in events if event.ended is None or event.ended >= start)
    return max(0, noticed - start), full[-1].ended - start


def summary(values: list[int]) -> dict[str, float]:
    if not values:
        return {}
    return {
        "median": float(np.median(values)),
        "90th percentile": float(np.quantile(values, 0.9)),
        "largest": max(values),
    }


def judge_real(cache: pathlib.Path, limits: Limits, tuned: bool) -> dict[str, Any]:
    """Holds the detector's verdicts against the outcomes, for one half of the seeds."""
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    runs, noticed, called = [], [], []
    healthy_steps = 0
    for meta, statistics in cached(cache):
        if (meta["seed"] in TUNED) != tuned:
            continue
        detector = detect(statistics, limits)
        label = meta["outcome"]["label"]
        counts[label][detector.verdict] += 1
        if label == "healthy":
            healthy_steps += len(statistics)
        found = {"run": f"{meta['scenario']} {meta['seed']}", "label": label}
        if label == "diverged" and detector.verdict == "diverged":
            start = true_start(meta, statistics)
            delays = delay(detector.events, start)
            found["start"] = start
            if delays:
                noticed.append(delays[0])
                called.append(delays[1])
                found["noticed_after"], found["called_after"] = delays
        runs.append({**found, "monitor": detector.summary()})
    return {
        "trainings": {label: dict(count) for label, count in counts.items()},
        "false_alarms": counts["healthy"]["diverged"],
        "misses": sum(n for v, n in counts["diverged"].items() if v != "diverged"),
        "healthy_steps": healthy_steps,
        "steps_until_noticed": summary(noticed),
        "steps_until_called_full": summary(called),
        "runs": runs,
    }


def without_runs(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "runs"}


def judge_planted(limits: Limits, seeds: range) -> dict[str, Any]:
    """Verdicts on planted curves, by what was planted and the noise."""
    steps, start = 1000, 400
    results: dict[str, Any] = {}
    for noise in planted.NOISES:
        row: dict[str, Any] = {}
        verdicts = collections.Counter(
            detect(planted.healthy(noise, steps, seed).statistics(), limits).verdict
            for seed in seeds
        )
        row["healthy"] = dict(verdicts)
        for width, height in (
            (1, 5.0),
            (3, 0.2),
            (3, 2.0),
            (10, 0.2),
            (10, 1.0),
            (50, 0.2),
            (50, 5.0),
        ):
            outcomes: collections.Counter = collections.Counter()
            for seed in seeds:
                curves = planted.healthy(noise, steps, seed)
                detector = detect(
                    planted.with_spike(curves, start, width, height).statistics(), limits
                )
                hit = any(abs(e.start - start) <= width for e in detector.events)
                outcomes["diverged" if detector.diverged else "seen" if hit else "not seen"] += 1
            row[f"spike of {width} steps, +{100 * height:.0f} %"] = dict(outcomes)
        for shape in planted.FULL:
            delays, missed = [], 0
            for seed in seeds:
                curves = planted.with_full(planted.healthy(noise, steps, seed), start, shape)
                detector = detect(curves.statistics(), limits)
                found = delay(detector.events, start)
                if found is None:
                    missed += 1
                else:
                    delays.append(found[1])
            row[f"full, {shape}"] = {"misses": missed, "steps_until_called_full": summary(delays)}
        results[noise] = row
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=pathlib.Path, required=True, help="folder for statistics")
    parser.add_argument("--planted-seeds", type=int, default=20)
    options = parser.parse_args()
    collect(options.cache)
    limits = Limits()
    results = {
        "limits": dataclasses.asdict(limits),
        "real": judge_real(options.cache, limits, tuned=False),
        "real, seeds the limits were chosen on": judge_real(options.cache, limits, tuned=True),
        "real, by patience": {
            patience: without_runs(
                judge_real(options.cache, dataclasses.replace(limits, patience=patience), False)
            )
            for patience in (25, 50, 100, 200, 400)
        },
        "planted": judge_planted(limits, range(100, 100 + options.planted_seeds)),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    for name in ("real", "real, seeds the limits were chosen on"):
        print(f"{name}: {json.dumps(without_runs(results[name]))}")


if __name__ == "__main__":
    main()
