"""The whole measurement: sharpness over trainings, and each optimizer's stable rate."""

from __future__ import annotations

from collections.abc import Callable

from schemas.spec import RankingSpec
from trainer_module.inputs import Batch
from trainer_module.risk.batches import batch_count, pick
from trainer_module.risk.over_run import SharpnessPoint, measured_steps, sharpness_over_run
from trainer_module.risk.stable_rate import RateOutcome, StableRate, search, train_once
from trainer_module.risk.trainee import Trainee

OnProgress = Callable[[str], None]
"""Called with what is being done."""


def with_training(spec: RankingSpec, optimizer: str, learning_rate: float) -> RankingSpec:
    """Returns the spec with another optimizer, by the spec's name of it, and learning rate."""
    content = spec.model_dump()
    settings = content["training"]["optimizer"]
    if settings["name"] != optimizer:
        # Another rule has thresholds of its own.
        settings |= {"name": optimizer, "thresholds": {}}
    content["training"]["learning_rate"] = learning_rate
    return RankingSpec.model_validate(content)


def measure_sharpness(
    spec: RankingSpec,
    batches: Batch,
    *,
    steps: int,
    seeds: int,
    warm_start_from: str | None = None,
    on_progress: OnProgress = lambda text: None,
) -> tuple[SharpnessPoint, ...]:
    """Measures sharpness over one training for each seed, with the spec's own optimizer.

    Args:
        spec: the ranking spec.
        batches: what to train on, stacked; the first is the probe, and not trained on.
        steps: of each training.
        seeds: how many trainings; their seeds count up from `training.seed`.
        warm_start_from: folder of a training state; None for cold starts.
        on_progress: told about each measurement.

    Returns:
        The measurements, by seed and step.
    """
    probe, rest = pick(batches, 0), pick(batches, range(1, batch_count(batches)))
    trainee = Trainee(spec, rest, warm_start_from)
    found: list[SharpnessPoint] = []
    for seed in _seeds(spec, seeds):
        found += sharpness_over_run(
            trainee,
            probe,
            seed,
            measured_steps(steps),
            on_point=lambda p: on_progress(f"sharpness, seed {p.seed}: step {p.step} of {steps}"),
        )
    return tuple(found)


def find_stable_rate(
    spec: RankingSpec,
    optimizer: str,
    batches: Batch,
    *,
    steps: int,
    seeds: int,
    budget: int,
    jumps: bool = False,
    warm_start_from: str | None = None,
    on_progress: OnProgress = lambda text: None,
) -> StableRate:
    """Searches an optimizer's largest stable learning rate, from the spec's rate on.

    The rate searched is `training.learning_rate`, under the spec's warm-up; the embeddings
    follow it unless the spec gives them one of their own.

    Args:
        spec: the ranking spec.
        optimizer: the spec's name of the optimizer.
        batches: what to train on, stacked; the first is the probe, and not trained on.
        steps: of each training.
        seeds: trainings at each rate.
        budget: trainings at most; rates are tried with all seeds or not at all.
        jumps: whether jumps of the loss are counted in place of divergence.
        warm_start_from: folder of a training state; None for cold starts.
        on_progress: told about each training.

    Returns:
        The bracket, and what was tried.
    """
    probe, rest = pick(batches, 0), pick(batches, range(1, batch_count(batches)))

    def attempt(rate: float) -> RateOutcome:
        trainee = Trainee(with_training(spec, optimizer, rate), rest, warm_start_from)
        trials = []
        for number, seed in enumerate(_seeds(spec, seeds)):
            on_progress(f"{optimizer} at {rate:.4g}: training {number + 1} of {seeds}")
            trials.append(train_once(trainee, probe, seed, steps, jumps=jumps))
        return RateOutcome(rate, tuple(trials))

    return search(attempt, spec.training.learning_rate, attempts=budget // seeds)


def _seeds(spec: RankingSpec, count: int) -> range:
    return range(spec.training.seed, spec.training.seed + count)
