"""Training a ranker: start, loop, divergence and recovery."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from schemas.errors import TrainingError
from schemas.spec import RankingSpec
from schemas.training import OptimizerSettings, Training
from schemas.values import FOLLOWS
from trainer_module import optimizers, soundness
from trainer_module.averaging import WeightAverage
from trainer_module.checkpoints import Checkpoints, Progress
from trainer_module.distribution import barrier, batches_of_replicas, is_chief
from trainer_module.evaluation import DayEvaluation
from trainer_module.inputs import parser, training_batches
from trainer_module.live_file import Teller
from trainer_module.model import build_model, initialise_from_data
from trainer_module.stability.detection import Detector
from trainer_module.stability.monitor import Monitor
from trainer_module.stability.outcome import Attempt, Evaluation, Stability
from trainer_module.stability.recording import StatisticsRecorder
from trainer_module.stability.tensorboard import Scalars
from trainer_module.stability.writing import write_report
from trainer_module.training_loop import TrainingLoop
from trainer_module.training_state import age_accumulators, effective_rates, restore_state

_logger = logging.getLogger(__name__)

_STATISTICS = "statistics"
"""Folder beside the checkpoints."""

_COLD_START_SAMPLE = 200_000
"""Events that normalisation and base rates are estimated from."""


def _clippy(rule: type[optimizers.Clippy]) -> Callable[..., optimizers.Rule]:
    def make(
        relative_threshold: float, absolute_threshold: float, unit_threshold: float | None
    ) -> optimizers.Rule:
        return rule(relative_threshold, absolute_threshold, unit_threshold=unit_threshold)

    return make


_RULES: Mapping[str, Callable[..., optimizers.Rule]] = {
    "": optimizers.NoClipping,
    "clippy": _clippy(optimizers.Clippy),
    "global_clippy": _clippy(optimizers.GlobalClippy),
    "gc": optimizers.GradientClipping,
    "global_gc": optimizers.GlobalNormClipping,
    "agc": optimizers.AdaptiveGradientClipping,
    "unit_agc": functools.partial(optimizers.AdaptiveGradientClipping, unit_wise=True),
    "lamb": optimizers.Lamb,
    "update_rms": optimizers.UpdateRMSClipping,
    "adagc": optimizers.AdaGC,
    "zclip": optimizers.ZClip,
}
"""By the spec's names."""


@keras.saving.register_keras_serializable("steadyrank")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly to `peak` over the first `steps`, then stays."""

    def __init__(self, peak: float, steps: int):
        """Makes the schedule; `steps` of 0 is a constant learning rate."""
        self.peak = peak
        self.steps = steps

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of the step numbered `step`, from 0."""
        if not self.steps:
            return self.peak
        done = (keras.ops.cast(step, "float32") + 1.0) / self.steps
        return self.peak * keras.ops.minimum(done, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"peak": self.peak, "steps": self.steps}


def make_rule(settings: OptimizerSettings) -> optimizers.Rule:
    """Makes the clipping rule that the spec names, with its thresholds."""
    return _RULES[settings.rule](**settings.rule_thresholds)


def make_optimizer(training: Training) -> keras.optimizers.Optimizer:
    """Makes the optimizer: Adagrad or Adam, with the rule on all but the embeddings."""
    settings = training.optimizer
    common: dict[str, Any] = {
        "learning_rate": WarmUp(training.learning_rate, training.warmup_steps),
        "rule": make_rule(settings),
        "excluded_learning_rate": WarmUp(training.embedding_rate, training.warmup_steps),
        "epsilon": settings.epsilon,
        "export_statistics": True,
    }
    if settings.base == "adam":
        optimizer: keras.optimizers.Optimizer = optimizers.ClippedAdam(**common)
    else:
        optimizer = optimizers.ClippedAdagrad(
            initial_accumulator_value=settings.initial_accumulator,
            accumulator_update="delayed" if settings.delayed_accumulator else "standard",
            **common,
        )
    if training.mixed_precision == "float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def make_average(
    model: keras.Model, training: Training, strategy: tf.distribute.Strategy
) -> WeightAverage | None:
    """Starts the average of the weights that `training.averaging` asks for, if it does."""
    if not training.averaging:
        return None
    return WeightAverage(model.trainable_variables, training.averaging, strategy)


@contextlib.contextmanager
def _policy(training: Training) -> Iterator[None]:
    before = keras.config.dtype_policy()
    if training.mixed_precision != "none":
        keras.config.set_dtype_policy(f"mixed_{training.mixed_precision}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training ended with.

    Attributes:
        model: the trained model.
        optimizer: its optimizer, with its slots.
        stability: the verdict on the training; of a diverged one the model is good for nothing.
        faults: why the model must not be exported though the training has not diverged.
    """

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    stability: Stability
    faults: tuple[str, ...] = ()


def train(
    spec: RankingSpec,
    files: Sequence[str],
    *,
    strategy: tf.distribute.Strategy,
    warm_start_from: str | None,
    checkpoint_dir: str,
    stability_dir: str,
    tensorboard_dir: str,
    eval_files: Sequence[str] = (),
) -> Trained:
    """Trains a ranker on one run's data; a killed call goes on where it was when called again.

    A training that diverges is stopped, taken back to its newest checkpoint from before, and
    tried again as the next rung of `training.recovery` says. It has diverged for good when no
    rung, or no batch to train on, is left.

    Args:
        spec: the ranking spec, with no `auto` in its settings (`RankingSpec.fitted`).
        files: gzipped TFRecords of encoded events.
        strategy: of `trainer_module.distribution.make_strategy`.
        warm_start_from: folder of a training state; None for a cold start.
        checkpoint_dir: folder for checkpoints, one for all processes; one that holds some is
            resumed from.
        stability_dir: folder for the report on the training's stability.
        tensorboard_dir: folder for TensorBoard scalars, a run for each attempt.
        eval_files: like `files`, of the run date; nothing is evaluated without them.

    Returns:
        The model and how it ended.

    Raises:
        TrainingError: there is no batch to train on, or the state to start from does not fit.
        ValueError: a setting is `auto`.
    """
    if FOLLOWS in (spec.training.batch_size, spec.training.epochs):
        raise ValueError("the spec has settings that are 'auto'; call RankingSpec.fitted first")
    if not files:
        raise TrainingError("there are no events to train on")
    chief, cold = is_chief(strategy), warm_start_from is None
    checkpoints = Checkpoints(checkpoint_dir, writes=chief)
    parse = parser(spec)
    read = functools.partial(training_batches, files, parse=parse)
    while True:
        progress = checkpoints.newest()
        failed = progress.failed if progress else ()
        keras.utils.set_random_seed(spec.training.seed)
        training = spec.training.attempt(len(failed))
        with _policy(training), strategy.scope():
            model = build_model(spec)
            optimizer = make_optimizer(training)
            optimizer.build(model.trainable_variables)
        average = make_average(model, training, strategy)
        if progress is None:
            _start(model, optimizer, spec, read, warm_start_from)
            progress = Progress(start=soundness.fingerprints(model, optimizer))
            checkpoints.save(progress, model, optimizer, average)
        else:
            _logger.info("going on after %d steps", progress.step)
            checkpoints.restore(progress, model, optimizer, average)
        recorder = scalars = evaluate = None
        if chief:
            if eval_files and training.evaluation_steps:
                evaluate = DayEvaluation(model, spec, eval_files, parse)
            folder = os.path.join(checkpoint_dir, _STATISTICS)
            recorder = StatisticsRecorder(folder, len(failed), progress.step)
            scalars = Scalars(os.path.join(tensorboard_dir, f"attempt_{len(failed) + 1}"))
        loop = TrainingLoop(model, optimizer, spec, strategy, average)
        batches = batches_of_replicas(
            strategy, functools.partial(read, spec, leave_out=progress.left_out, skip=progress.step)
        )
        progress, detector, evaluations = _run(
            loop,
            batches,
            progress,
            training,
            save=lambda now: checkpoints.save(now, model, optimizer, average),  # noqa: B023
            recorder=recorder,
            scalars=scalars,
            teller=Teller(training, len(failed) + 1) if chief else None,
            evaluate=evaluate,
        )
        if progress.step == 0 and not failed:
            raise TrainingError(
                "there is no batch to train on: no events, or over several"
                f" replicas fewer than one whole batch of {spec.training.batch_size}"
            )
        attempts = failed
        # One without a step has nothing of its own to be judged by.
        if progress.step > progress.first_step:
            rung = training.recovery[len(failed) - 1].model_dump() if failed else None
            attempt = Attempt.of(detector, progress.first_step, rung, evaluations)
            _logger.info("attempt %d: %s", len(failed) + 1, attempt.summary)
            attempts = (*failed, attempt)
        stability = Stability.of(attempts)
        rungs = training.recovery[len(failed) :]
        if stability.verdict != "diverged" or not rungs or attempts == failed:
            if recorder is not None:
                rates = effective_rates(model, optimizer, training)
                write_report(stability_dir, attempts, recorder, detector.limits, rates)
            faults: tuple[str, ...] = ()
            if stability.verdict != "diverged":
                faults = soundness.faults(model, optimizer, progress.start, spec, cold)
                if average is not None and not faults:
                    average.assign()
                    # Its limits hold for what is exported, too.
                    faults = soundness.faults(model, optimizer, progress.start, spec, cold)
            return Trained(model, optimizer, stability, faults)
        checkpoints.go_back(progress, attempts[-1], leave_out=rungs[0].skip_batches)
        barrier(strategy)


def _run(
    loop: TrainingLoop,
    batches: Iterator[Any],
    progress: Progress,
    training: Training,
    *,
    save: Callable[[Progress], None],
    recorder: StatisticsRecorder | None,
    scalars: Scalars | None,
    teller: Teller | None,
    evaluate: DayEvaluation | None,
) -> tuple[Progress, Detector, list[Evaluation]]:
    """Trains until the batches end or training diverges; returns where and how that was."""
    evaluations: list[Evaluation] = []
    if progress.monitor:
        detector = Detector.from_state(progress.monitor["detector"])
        loop.auc.restore(progress.monitor["auc"])
        evaluations = [Evaluation(**e) for e in progress.monitor.get("evaluations", ())]
    else:
        detector = Detector(loop.tasks, loop.binary_tasks, loop.layers)
    saved = progress.step
    evaluated = evaluations[-1].step if evaluations else 0
    with Monitor(detector, recorder, scalars) as monitor:
        while True:
            statistics = loop.run(batches, training.steps_per_execution, progress.step)
            monitor.wait()
            if detector.diverged:
                # These last steps count for nothing.
                break
            monitor.take(statistics)
            progress = dataclasses.replace(progress, step=progress.step + len(statistics))
            if teller is not None and len(statistics):
                teller.tell(progress.step, float(statistics.loss[-1]))
            ended = len(statistics) < training.steps_per_execution
            due = progress.step - evaluated >= training.evaluation_steps
            if evaluate is not None and (due or (ended and progress.step > evaluated)):
                metrics = evaluate()
                evaluated = progress.step
                evaluations.append(Evaluation.of(evaluated, metrics))
                if scalars is not None:
                    scalars.write_evaluation(evaluated, metrics)
            if not ended and progress.step - saved < training.checkpoint_steps:
                continue
            monitor.wait()
            if ended:
                break
            if detector.healthy:
                if recorder is not None:
                    recorder.flush(detector.events)
                state = {
                    "detector": detector.to_state(),
                    "auc": loop.auc.to_state(),
                    "evaluations": [evaluation.to_json() for evaluation in evaluations],
                }
                save(dataclasses.replace(progress, monitor=state))
                saved = progress.step
    if recorder is not None:
        recorder.flush(detector.events)
    return progress, detector, evaluations


def _start(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    spec: RankingSpec,
    read: Callable[[RankingSpec], tf.data.Dataset],
    warm_start_from: str | None,
) -> None:
    if warm_start_from is not None:
        restore_state(model, optimizer, warm_start_from)
        age_accumulators(optimizer, spec.training.accumulators)
        return
    one_pass = spec.training.model_copy(update={"epochs": 1})
    batches = read(spec.model_copy(update={"training": one_pass}))
    sample = batches.take(max(1, _COLD_START_SAMPLE // spec.training.batch_size))
    initialise_from_data(model, sample.as_numpy_iterator(), spec)
