"""The report on a training's stability: verdict, statistics of steps, plots."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import tensorflow as tf

from schemas.errors import TrainingError
from trainer_module.stability import plots
from trainer_module.stability.detection import Detector
from trainer_module.stability.events import Event, Limits, Verdict
from trainer_module.stability.recording import StatisticsRecorder, write_parquet

VERDICT_FILE = "verdict.json"
STATISTICS_FILE = "statistics.parquet"
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One attempt at training.

    Attributes:
        first_step: step it began at: 0, or that of the snapshot it went back to.
        steps: steps that the weights at its end have behind them.
        verdict: how it ended.
        summary: the same in a line.
        events: what happened from the training's start on, as this attempt came from there.
        changes: what it did differently from the settings asked for; JSON types.
    """

    first_step: int
    steps: int
    verdict: Verdict
    summary: str
    events: tuple[Event, ...]
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls, detector: Detector, first_step: int = 0, changes: Mapping[str, Any] | None = None
    ) -> Attempt:
        """Describes an attempt that is over, as its detector saw it."""
        return cls(
            first_step,
            detector.step,
            detector.verdict,
            detector.summary(),
            detector.events,
            dict(changes or {}),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the attempt as JSON types."""
        events = [event.to_json() for event in self.events]
        return {**dataclasses.asdict(self), "events": events, "changes": dict(self.changes)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Attempt:
        """Makes the attempt that `to_json` described.

        Raises:
            KeyError, TypeError, ValueError: `content` is no such description.
        """
        attempt = cls(**{**content, "events": tuple(map(Event.from_json, content["events"]))})
        if attempt.verdict not in get_args(Verdict):
            raise ValueError(f"verdict {attempt.verdict!r}")
        undecided = bool(attempt.events) and attempt.events[-1].kind in ("open", "full")
        if undecided != (attempt.verdict == "diverged"):
            raise ValueError(f"verdict {attempt.verdict!r} contradicts the events")
        return attempt


@dataclasses.dataclass(frozen=True)
class Stability:
    """The verdict on a whole training.

    Attributes:
        verdict: of the last attempt; a healthy one after another that diverged is
            `recovered`.
        summary: one line.
        attempts: in order; at least one.
    """

    verdict: Verdict
    summary: str
    attempts: tuple[Attempt, ...]

    @classmethod
    def of(cls, attempts: Sequence[Attempt]) -> Stability:
        """Judges a training by its attempts, at least one."""
        last = attempts[-1]
        if len(attempts) == 1:
            return cls(last.verdict, last.summary, (last,))
        verdict: Verdict = "recovered" if last.verdict == "healthy" else last.verdict
        tries = f"attempt {len(attempts)}"
        summary = f"{verdict}: {tries} from step {last.first_step} was {last.summary}"
        return cls(verdict, summary, tuple(attempts))


def write_report(
    folder: str,
    attempts: Sequence[Attempt],
    recorder: StatisticsRecorder,
    limits: Limits,
    effective_rates: Mapping[str, float],
) -> Stability:
    """Writes the report on a training that is over.

    `verdict.json` (see `docs/stability.md`), `statistics.parquet` (see
    `StatisticsRecorder.read`), and plots of loss and AUC, of clipping factors and, where
    there was an event, of what led to it. The verdict is written last: a folder without
    it is one whose writer was killed.

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
    for name, image in plots.draw(table, [attempt.events for attempt in attempts]).items():
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


def load_verdict(folder: str) -> Stability:
    """Reads the verdict that `write_report` left, for the gate.

    Raises:
        TrainingError: there is none, or it cannot be trusted; the model must not be pushed.
    """
    path = os.path.join(folder, VERDICT_FILE)
    try:
        with tf.io.gfile.GFile(path) as file:
            content = json.load(file)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}, expected {FORMAT}")
        attempts = tuple(map(Attempt.from_json, content["attempts"]))
        if not attempts:
            raise ValueError("no attempts")
        stability = Stability.of(attempts)
        if content["verdict"] != stability.verdict:
            raise ValueError(f"verdict {content['verdict']!r} contradicts the attempts")
    except tf.errors.NotFoundError as error:
        raise TrainingError(
            f"{path}: there is no verdict on the training's stability; train again"
        ) from error
    except (tf.errors.OpError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise TrainingError(
            f"{path}: not a verdict on a training's stability ({error!r}); train again"
        ) from error
    return stability
