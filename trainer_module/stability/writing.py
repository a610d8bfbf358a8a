"""The report on a training's stability: verdict, statistics of steps, plots."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence

import tensorflow as tf

from trainer_module.stability import plots
from trainer_module.stability.events import Limits
from trainer_module.stability.outcome import (
    FORMAT,
    STATISTICS_FILE,
    VERDICT_FILE,
    Attempt,
    Stability,
)
from trainer_module.stability.recording import StatisticsRecorder, write_parquet


def write_report(
    folder: str,
    attempts: Sequence[Attempt],
    recorder: StatisticsRecorder,
    limits: Limits,
    effective_rates: Mapping[str, float],
) -> Stability:
    """Writes the report on a training that is over.

    `verdict.json` (see `docs/stability.md`), `statistics.parquet` (see
    `StatisticsRecorder.read`), and plots of loss and AUC, of clipping factors, of the
    evaluations and, where there was an event, of what led to it. The verdict is written last: a
    folder without it is one whose writer was killed.

    Args:
        folder: may be remote; files of these names are replaced.
        attempts: in order; the last is the one that the recorder is at.
        recorder: of all attempts' steps.
        limits: the thresholds that applied.
        effective_rates: of each variable, at the end; see `training_state.effective_rates`.

    Returns:
        The verdict.
    """
    stability = Stability.of(attempts)
    tf.io.gfile.makedirs(folder)
    path = os.path.join(folder, VERDICT_FILE)
    if tf.io.gfile.exists(path):
        tf.io.gfile.remove(path)
    table = recorder.read([attempt.events for attempt in attempts])
    write_parquet(table, os.path.join(folder, STATISTICS_FILE))
    images = plots.draw(table, [attempt.events for attempt in attempts])
    evaluations = [(found.step, found.metrics) for found in attempts[-1].evaluations]
    for name, image in {**images, **plots.draw_evaluations(evaluations)}.items():
        with tf.io.gfile.GFile(os.path.join(folder, name), "wb") as file:
            file.write(image)
    content = {
        "format": FORMAT,
        "verdict": stability.verdict,
        "summary": stability.summary,
        "attempts": [attempt.to_json() for attempt in attempts],
        "limits": dataclasses.asdict(limits),
        # What a diverged training left may be no number.
        "effective_rates": {
            name: rate if math.isfinite(rate) else None for name, rate in effective_rates.items()
        },
    }
    with tf.io.gfile.GFile(path, "w") as file:
        file.write(json.dumps(content, indent=2, allow_nan=False) + "\n")
    return stability
