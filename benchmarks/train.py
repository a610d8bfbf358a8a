"""Training throughput: this project's training against a plain Keras `fit`.

The same model, batches and files: ours is `trainer_module.training.train` (Clippy Adagrad,
several steps a call, checkpoints, TensorBoard); the peer is `compile` with Keras's own
Adagrad and `fit`, as a Keras user writes it. Contenders take turns.

    python -m benchmarks.train
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from benchmarks.simulated import write_events
from schemas.loading import load_spec
from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask
from trainer_module.distribution import make_strategy
from trainer_module.inputs import training_batches
from trainer_module.model import build_model
from trainer_module.training import train

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "train.json"
CASES = (("laptop", 128, 50_000), ("laptop", 1024, 60_000), ("small", 1024, 60_000))
"""Preset, batch size, events."""
PASSES = 16
"""Of the longer training; so many that its set-up, which scatters by a second, is little."""


def keras_losses(spec: RankingSpec) -> dict[str, keras.losses.Loss]:
    """Returns each task's loss in Keras's terms: over its labelled events, by the number of all."""
    return {
        name: (
            keras.losses.BinaryCrossentropy(from_logits=True)
            if isinstance(task, BinaryTask)
            else keras.losses.MeanSquaredError()
        )
        for name, task in spec.tasks.items()
    }


def ours(spec: RankingSpec, files: list[str]) -> None:
    """Trains as the pipeline does."""
    with tempfile.TemporaryDirectory() as folder:
        train(
            spec,
            files,
            strategy=make_strategy(spec.training),
            warm_start_from=None,
            checkpoint_dir=f"{folder}/checkpoints",
            stability_dir=f"{folder}/stability",
            tensorboard_dir=f"{folder}/tensorboard",
        )


def plain(spec: RankingSpec, files: list[str]) -> None:
    """Trains as a Keras user does."""
    keras.utils.set_random_seed(spec.training.seed)
    model = build_model(spec)
    model.compile(
        optimizer=keras.optimizers.Adagrad(spec.training.learning_rate),
        loss=keras_losses(spec),
        loss_weights={name: task.loss_weight for name, task in spec.tasks.items()},
        jit_compile=False,
    )
    model.fit(training_batches(files, spec), verbose=0)


def seconds(work: Callable[..., None], *arguments: Any) -> npt.NDArray[np.float64]:
    """Wall and CPU time of a call."""
    start = np.array([time.perf_counter(), time.process_time()])
    work(*arguments)
    return np.array([time.perf_counter(), time.process_time()]) - start


def measure(preset: str, batch_size: int, events: int, repetitions: int) -> dict[str, Any]:
    """Measures one case.

    A call's set-up (building, tracing) is the same for short and long trainings and is not
    throughput: both contenders are timed on one and on `PASSES` passes; the difference counts.
    """
    spec, longer = (
        load_spec(
            str(ROOT / "schemas" / "demo.yaml"),
            [
                f"model.preset={preset}",
                f"training.batch_size={batch_size}",
                f"training.epochs={passes}",
            ],
        ).fitted(events, warm=False)
        for passes in (1, PASSES)
    )
    contenders = {"ours": ours, "plain Keras fit": plain}
    taken: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as folder:
        files = write_events(spec, events, folder)
        for work in contenders.values():
            work(spec, files)  # The process's first call has costs of its own.
        for _ in range(repetitions):
            for name, work in contenders.items():
                once = seconds(work, spec, files)
                taken[name].append(seconds(work, longer, files) - once)
    trained = (PASSES - 1) * events
    wall, cpu = np.moveaxis(np.array(taken["plain Keras fit"]) / np.array(taken["ours"]), 1, 0)
    return {
        "case": f"{preset}, batch {batch_size}",
        "events_per_second": {
            name: round(trained / statistics.median(wall for wall, _ in times))
            for name, times in taken.items()
        },
        "ratio": {
            "median": round(float(np.median(wall)), 2),
            "min": round(float(np.min(wall)), 2),
            "max": round(float(np.max(wall)), 2),
        },
        "ratio_by_cpu_time": round(float(np.median(cpu)), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    repetitions = parser.parse_args().repetitions
    results = []
    for case in CASES:
        results.append(measure(*case, repetitions))
        print(json.dumps(results[-1]), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"cores": os.cpu_count(), "cases": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
