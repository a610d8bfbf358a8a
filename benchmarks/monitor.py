"""What the divergence monitor costs: training steps with it against the same without.

Both run `TrainingLoop`'s graph on the same files. Without the monitor the optimizer exports no
statistics, predictions are not counted, and what a call returns is not looked at; with it
detector, fading AUC, recorder and TensorBoard take in every call's steps, as in
`trainer_module.training.train`. The contenders take turns of several calls.

    python -m benchmarks.monitor
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import tensorflow as tf

from benchmarks.simulated import write_events
from benchmarks.train import ROOT
from schemas.loading import load_spec
from schemas.spec import RankingSpec
from trainer_module.distribution import batches_of_replicas
from trainer_module.inputs import Batch, training_batches
from trainer_module.model import build_model
from trainer_module.optimizers import STATISTICS, ClippedAdagrad, Clippy
from trainer_module.stability.detection import Detector
from trainer_module.stability.monitor import Monitor
from trainer_module.stability.recording import StatisticsRecorder
from trainer_module.stability.streaming_auc import BINS
from trainer_module.stability.tensorboard import Scalars
from trainer_module.training_loop import TrainingLoop

RESULTS = ROOT / "benchmarks" / "results" / "monitor.json"
CASES = (("laptop", 128), ("laptop", 1024), ("small", 1024), ("small", 4096))
"""Preset, batch size."""
EVENTS = 20_000
TURNS = 30
"""Timed turns of each contender, after one that traces."""
SECONDS = 0.7
"""A turn's, about."""


class Unwatched(TrainingLoop):
    """The same steps; the statistics are constants, so that nothing computes them."""

    def _step(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        self._clipped.statistics = tf.zeros([len(self.layers), len(STATISTICS)])
        task_loss, layers, _ = super()._step(batch)
        return task_loss, layers, tf.zeros([len(self.binary_tasks) * 2 * BINS])


def turns(
    spec: RankingSpec, files: list[str], folder: str, *, watched: bool
) -> Callable[[int], float]:
    """Makes a training; returns what runs its next calls and tells the seconds of a step."""
    model = build_model(spec)
    optimizer = ClippedAdagrad(spec.training.learning_rate, Clippy(), export_statistics=watched)
    optimizer.build(model.trainable_variables)
    strategy = tf.distribute.get_strategy()
    loop = (TrainingLoop if watched else Unwatched)(model, optimizer, spec, strategy)
    batches = batches_of_replicas(strategy, lambda **parts: training_batches(files, spec, **parts))
    monitor = Monitor(
        Detector(loop.tasks, loop.binary_tasks, loop.layers),
        StatisticsRecorder(os.path.join(folder, "rows")),
        Scalars(os.path.join(folder, "scalars")),
    )
    step = 0
    steps = spec.training.steps_per_execution

    def turn(calls: int) -> float:
        nonlocal step
        start = time.perf_counter()
        for _ in range(calls):
            if watched:
                monitor.take(loop.run(batches, steps, step))
            else:
                loop._run(batches, tf.constant(steps))
            step += steps
        monitor.wait()
        return (time.perf_counter() - start) / (calls * steps)

    return turn


def measure(preset: str, batch_size: int) -> dict[str, object]:
    """Measures one case."""
    overrides = [f"model.preset={preset}", f"training.batch_size={batch_size}"]
    spec = load_spec(str(ROOT / "schemas" / "demo.yaml"), [*overrides, "training.epochs=1000"])
    spec = spec.fitted(EVENTS, warm=False)
    with tempfile.TemporaryDirectory() as folder:
        files = write_events(spec, EVENTS, folder)
        with_it, without = (
            turns(spec, files, folder, watched=watched) for watched in (True, False)
        )
        with_it(1), without(1)
        calls = max(1, round(SECONDS / spec.training.steps_per_execution / without(2)))
        pairs = [(with_it(calls), without(calls)) for _ in range(TURNS)]
    quartiles = statistics.quantiles((a / b for a, b in pairs), n=4)
    return {
        "case": f"{preset}, batch {batch_size}",
        "ms_per_step": {
            "with the monitor": round(statistics.median(a for a, _ in pairs) * 1e3, 3),
            "without": round(statistics.median(b for _, b in pairs) * 1e3, 3),
        },
        "ratio": {
            name: round(value, 3)
            for name, value in zip(
                ("lower quartile", "median", "upper quartile"), quartiles, strict=True
            )
        },
        "ratio_of_minima": round(min(a for a, _ in pairs) / min(b for _, b in pairs), 3),
    }


def main() -> None:
    """Measures all cases."""
    results = []
    for preset, batch_size in CASES:
        results.append(measure(preset, batch_size))
        print(json.dumps(results[-1]), flush=True)
    RESULTS.write_text(json.dumps({"cores": os.cpu_count(), "cases": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
