"""Real trainings, healthy and diverging, whose statistics of every step are kept in a cache.

`benchmarks.detection` holds the divergence monitor against them. What a training is, the monitor
has no say in. A task is useless if, on the day after, its AUC is within 0.02 of 0.5 or its loss is
over 1.1 times that of the best constant. A training has diverged if its weights or its predictions
are not finite, or most of its tasks are useless; it is healthy if none is; others are ambiguous.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import multiprocessing
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import scipy.special
import tensorflow as tf

from benchmarks.daily import Columns, metric
from benchmarks.learning import default_spec
from benchmarks.simulated import transformed
from examples import frames
from examples.kuairand import arrays, convert, source
from pipeline.simulate import Shape, simulate_days
from schemas.loading import load_spec
from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask
from trainer_module import signatures, training
from trainer_module.distribution import make_strategy
from trainer_module.model import build_model, initialise_from_data
from trainer_module.optimizers import ClippedAdagrad, ClippedAdam, ClippedOptimizer, Clippy
from trainer_module.stability.statistics import StepStatistics
from trainer_module.training_loop import TrainingLoop

TRAINED_DAYS = 3
"""A training's days; it is judged by the day after."""
_ROWS, _HELD_OUT = 12_000, 20_000
"""Events of a simulated day, and at most so many that a model is judged by."""
_CHANCE, _WORSE = 0.02, 1.1


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One kind of training.

    Attributes:
        name: of the scenario.
        optimizer: `adagrad`, `clippy` (on Adagrad), `adam`, `delayed` (Adagrad with the
            delayed accumulator, starting at 0.001), or `spec`, the spec's own with its rates.
        rate: learning rate; unused with `spec`.
        batch: examples a step.
        steps: steps recorded.
        preset: size of the model.
        overrides: of the spec.
        warm_up: steps over which the learning rate rises.
        discarded: steps before the recorded ones; a warm start.
        bump: first step, number of steps, factor on the learning rate.
        by_day: the days one after another, a drift, instead of at random.
        seconds: time is learned in raw seconds; with a small loss weight if "light".
    """

    name: str
    optimizer: str
    rate: float = 1.0
    batch: int = 128
    steps: int = 600
    preset: str = "laptop"
    overrides: tuple[str, ...] = ()
    warm_up: int = 20
    discarded: int = 0
    bump: tuple[int, int, float] | None = None
    by_day: bool = False
    seconds: str = ""


SCENARIOS = (
    Scenario("clippy", "clippy", 0.1),
    Scenario("by day", "adagrad", 0.05, steps=270, preset="tiny", by_day=True),
    Scenario("large batch", "clippy", 0.1, batch=1024, steps=300),
    Scenario("warm start", "clippy", 0.1, discarded=300, steps=500),
    Scenario("seconds", "clippy", 0.02, preset="tiny", seconds="light"),
    Scenario("adam", "adam", 0.001, preset="tiny"),
    Scenario("bump", "adagrad", 0.1, bump=(250, 2, 8.0)),
    Scenario("hot", "adagrad", 5.0, warm_up=100),
    Scenario("hot delayed", "delayed", 0.5, batch=1024, steps=250),
    Scenario("hot adam", "adam", 0.3),
    Scenario("raised", "adagrad", 0.1, bump=(250, 10_000, 30.0)),
    Scenario("large bump", "adagrad", 0.1, bump=(250, 3, 30.0)),
    Scenario("cross", "delayed", 1.0, batch=1024, steps=250, overrides=("model.cross_layers=1",)),
    Scenario("hot seconds", "adagrad", 0.5, seconds="heavy"),
)
_UNTREATED = ("training.optimizer.name=adagrad",)
UNSEEN_SCENARIOS = (
    *SCENARIOS,
    Scenario("product", "spec"),
    Scenario("product hot, untreated", "spec", overrides=(*_UNTREATED, "training.learning_rate=5")),
    Scenario(
        "product with a cross layer, untreated",
        "spec",
        overrides=(*_UNTREATED, "training.learning_rate=2", "model.cross_layers=2"),
    ),
)
"""Kinds of training that the limits were not chosen on, beside those that they were."""


@dataclasses.dataclass(frozen=True)
class Log:
    """Where the events are from.

    Attributes:
        name: of the log.
        world: number of the simulated world; none for KuaiRand-Pure.
        shape: of the simulated world.
        overrides: of the spec.
    """

    name: str
    world: int | None = None
    shape: Shape = dataclasses.field(default_factory=Shape)
    overrides: tuple[str, ...] = ()

    @property
    def regression(self) -> str:
        """The task that is a time in seconds."""
        return "play_time" if self.world is None else "watch_time"


@dataclasses.dataclass(frozen=True)
class Group:
    """Trainings that are reported together: each scenario with each seed.

    Attributes:
        logs: taken in turn, by seed.
        seeds: of weights and order.
        scenarios: kinds of training.
    """

    logs: Sequence[Log]
    seeds: range
    scenarios: Sequence[Scenario] = SCENARIOS


GROUPS: Mapping[str, Group] = {
    "chosen on": Group((Log("demo", 0),), range(2)),
    "reported first": Group((Log("demo", 1),), range(2, 8)),
    "unseen, simulated": Group(
        (
            Log("demo", 2),
            Log("strong drift", 3, Shape(drift=3.0)),
            Log("rare likes and shares", 4, Shape(rarity=3.0)),
            Log("few users, many items", 5, Shape(users=0.02, items=0.5)),
        ),
        range(8, 25),
        UNSEEN_SCENARIOS,
    ),
    "unseen, KuaiRand": Group(
        (
            Log("kuairand"),
            Log("kuairand, the tower alone", overrides=("model.wide=false", "model.curves=0")),
        ),
        range(22, 34),
        UNSEEN_SCENARIOS,
    ),
}
"""The detector's limits were chosen on the first, and frozen before the last two were trained."""


def spec_of(scenario: Scenario, log: Log, seed: int, events: int) -> RankingSpec:
    """Returns what the scenario trains on this log; `events` are a day's."""
    task = f"tasks.{log.regression}"
    overrides = [
        f"model.preset={scenario.preset}",
        f"training.batch_size={scenario.batch}",
        f"training.seed={seed}",
        *([f"{task}.transform=none"] if scenario.seconds else []),
        *([f"{task}.loss_weight=0.01"] if scenario.seconds == "light" else []),
        *log.overrides,
        *scenario.overrides,
    ]
    spec = load_spec(arrays.SPEC, overrides) if log.world is None else default_spec(overrides)
    return spec.fitted(events, warm=False)


@functools.lru_cache(maxsize=1)
def _kuairand(folder: str) -> Any:
    return convert.events_of(source.read_impressions(folder))


@functools.lru_cache(maxsize=4)
def _every_day(log: Log, seconds: bool, folder: str | None) -> Columns:
    scenario = Scenario("", "", seconds="heavy" if seconds else "")
    spec = spec_of(scenario, log, 0, _ROWS)
    if log.world is None:
        assert folder
        return frames.transformed(frames.with_history(_kuairand(folder), spec), spec)
    parts = []
    start = datetime.date(2026, 1, 1)
    for number, day in enumerate(
        simulate_days(start, TRAINED_DAYS + 1, _ROWS, log.world, log.shape)
    ):
        part = transformed(day.columns, spec)
        parts.append({"day": np.full(day.columns.num_rows, number), **part})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def examples(log: Log, seconds: bool, seed: int, folder: str | None) -> Columns:
    """Returns the days of a training and the one after, transformed, and the `day` of each event.

    Args:
        log: the events.
        seconds: whether time is in raw seconds.
        seed: chooses which days, where there are more.
        folder: of KuaiRand's CSV files.
    """
    columns = _every_day(log, seconds, folder)
    # The first day of KuaiRand has no history.
    choices = max(1, int(columns["day"].max()) - TRAINED_DAYS)
    first = 1 + seed % choices if log.world is None else 0
    rows = (columns["day"] >= first) & (columns["day"] <= first + TRAINED_DAYS)
    found = {name: values[rows] for name, values in columns.items()}
    return {**found, "day": found["day"] - first}


def batch_of(data: Columns, spec: RankingSpec, rows: np.ndarray) -> Any:
    """Returns features, labels and weights of these rows."""
    return (
        {name: data[name][rows] for name in spec.inputs},
        {task: data[signatures.label_key(task)][rows] for task in spec.tasks},
        {task: data[signatures.weight_key(task)][rows] for task in spec.tasks},
    )


def batches(scenario: Scenario, data: Columns, spec: RankingSpec, seed: int) -> tf.data.Dataset:
    """Gives the training days' batches, as many as there are steps."""
    rng = np.random.default_rng(seed)
    steps = scenario.steps + scenario.discarded
    days = [np.flatnonzero(data["day"] == day) for day in range(TRAINED_DAYS)]
    if scenario.by_day:
        order = np.concatenate([rng.permutation(day) for day in days])
    else:
        passes = 1 + steps * scenario.batch // sum(map(len, days))
        order = np.concatenate([rng.permutation(np.concatenate(days)) for _ in range(passes)])
    steps = min(steps, len(order) // scenario.batch)
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


def make_optimizer(scenario: Scenario, spec: RankingSpec) -> ClippedOptimizer:
    """Makes the scenario's optimizer; but for the spec's own, its rate is set from outside."""
    if scenario.optimizer == "spec":
        return training.make_optimizer(spec.training)
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


def train(scenario: Scenario, seed: int, data: Columns, spec: RankingSpec) -> Any:
    """Trains; returns the statistics of the recorded steps, and what became of the model."""
    keras.utils.set_random_seed(seed)
    model = build_model(spec)
    optimizer = make_optimizer(scenario, spec)
    optimizer.build(model.trainable_variables)
    sample = np.flatnonzero(data["day"] < TRAINED_DAYS)[::TRAINED_DAYS]
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
        steps = 16
        if scenario.optimizer != "spec":
            # The learning rate is set between calls, so it takes calls of a step while it changes.
            rates = [rate_of(scenario, step + ahead) for ahead in range(16)]
            steps = next((n for n, rate in enumerate(rates) if rate != rates[0]), 16)
            optimizer.learning_rate = rates[0]
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


def log_loss(label: np.ndarray, probability: npt.ArrayLike) -> float:
    """Returns the mean log loss over labelled events, [events]; of one probability or of each."""
    p = np.clip(np.asarray(probability, np.float64), 1e-7, 1 - 1e-7)
    return float(np.nanmean(-label * np.log(p) - (1 - label) * np.log1p(-p)))


def outcome(model: keras.Model, data: Columns, spec: RankingSpec) -> dict[str, Any]:
    """Judges a trained model by events of the day after: see the module."""
    rows = np.flatnonzero(data["day"] == TRAINED_DAYS)[:_HELD_OUT]
    features, labels, weights = batch_of(data, spec, rows)
    outputs = {name: value.numpy()[:, 0] for name, value in model(features).items()}
    finite = all(np.isfinite(values).all() for values in outputs.values())
    finite = finite and all(np.isfinite(np.asarray(w)).all() for w in model.trainable_variables)
    if not finite:
        return {"label": "diverged", "finite": False}
    found: dict[str, dict[str, float]] = {}
    for name, task in spec.tasks.items():
        label = np.where(weights[name][:, 0] > 0, labels[name][:, 0], np.nan).astype(np.float64)
        output = outputs[name].astype(np.float64)
        value = metric(task, label, output)
        if isinstance(task, BinaryTask):
            loss = log_loss(label, scipy.special.expit(output))
            of_constant = log_loss(label, np.nanmean(label))
            found[name] = {"auc": value, "loss": loss, "loss of the constant": of_constant}
        else:
            found[name] = {"loss": value**2, "loss of the constant": float(np.nanvar(label))}
    useless = sum(
        abs(task.get("auc", 1.0) - 0.5) < _CHANCE
        or not task["loss"] <= _WORSE * task["loss of the constant"]
        for task in found.values()
    )
    label = "diverged" if 2 * useless > len(found) else "ambiguous" if useless else "healthy"
    return {"label": label, "finite": True, "tasks": found}


def collect(group: str, cache: pathlib.Path, folder: str | None) -> None:
    """Runs the trainings of a group that the cache lacks.

    Args:
        group: of `GROUPS`.
        cache: folder of all groups' trainings.
        folder: of KuaiRand's CSV files.
    """
    (cache / group).mkdir(parents=True, exist_ok=True)
    # TensorFlow keeps what it has compiled for as long as its process lives.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for seed in GROUPS[group].seeds:
            pool.apply(_collect_seed, (group, seed, cache, folder))


def _collect_seed(group: str, seed: int, cache: pathlib.Path, folder: str | None) -> None:
    wanted = GROUPS[group]
    log = wanted.logs[seed % len(wanted.logs)]
    for scenario in wanted.scenarios:
        file = cache / group / f"{seed}-{scenario.name.replace(' ', '-')}.npz"
        if file.exists():
            continue
        data = examples(log, bool(scenario.seconds), seed, folder)
        spec = spec_of(scenario, log, seed, len(data["day"]) // (TRAINED_DAYS + 1))
        statistics, result = train(scenario, seed, data, spec)
        keras.backend.clear_session()
        names = {key: getattr(statistics, key) for key in ("tasks", "binary_tasks", "layers")}
        meta = {
            "scenario": scenario.name,
            "log": log.name,
            "seed": seed,
            "outcome": result,
            "names": names,
        }
        arrays = {name: getattr(statistics, name) for name in array_fields()}
        unfinished = file.with_suffix(".partial")
        with unfinished.open("wb") as out:
            np.savez_compressed(out, meta=json.dumps(meta), **arrays)
        unfinished.rename(file)
        print(f"{file.stem}, {log.name}: {result['label']}", flush=True)


def cached(group: str, cache: pathlib.Path) -> Iterator[tuple[dict[str, Any], StepStatistics]]:
    """Yields a group's trainings: what they are, and their statistics."""
    for file in sorted((cache / group).glob("*.npz")):
        with np.load(file) as content:
            meta = json.loads(str(content["meta"]))
            names = {key: tuple(value) for key, value in meta["names"].items()}
            yield (
                meta,
                StepStatistics(
                    first_step=0, **names, **{name: content[name] for name in array_fields()}
                ),
            )
