"""The verdict on a training's stability, as the gate and the report read it.

Nothing is drawn here, and TensorFlow is imported only to read a folder: what reads verdicts
stays light.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from schemas.errors import TrainingError
from trainer_module.stability.events import DivergenceEvent, TrainingVerdict

if TYPE_CHECKING:
    from trainer_module.stability.detection import Detector

VERDICT_FILE = "verdict.json"
STATISTICS_FILE = "statistics.parquet"
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How good the model was on the run date.

    Attributes:
        step: steps that it had behind it.
        metrics: by task, AUC or RMSE; None where its events did not tell.
    """

    step: int
    metrics: Mapping[str, float | None]

    @classmethod
    def of(cls, step: int, metrics: Mapping[str, float]) -> Evaluation:
        """Makes it of numbers that may be NaN."""
        return cls(step, {n: v if math.isfinite(v) else None for n, v in metrics.items()})

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON types."""
        return {"step": self.step, "metrics": dict(self.metrics)}


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
        evaluations: on the run date, in order.
    """

    first_step: int
    steps: int
    verdict: TrainingVerdict
    summary: str
    events: tuple[DivergenceEvent, ...]
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    evaluations: tuple[Evaluation, ...] = ()

    @property
    def changed(self) -> str:
        """The changes in words."""
        return ", ".join(
            f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.changes.items()
        )

    @classmethod
    def of(
        cls,
        detector: Detector,
        first_step: int = 0,
        changes: Mapping[str, Any] | None = None,
        evaluations: Sequence[Evaluation] = (),
    ) -> Attempt:
        """Describes an attempt that is over, as its detector saw it."""
        return cls(
            first_step,
            detector.step,
            detector.verdict,
            detector.summary(),
            detector.events,
            dict(changes or {}),
            tuple(evaluations),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the attempt as JSON types."""
        events = [event.to_json() for event in self.events]
        return {
            **dataclasses.asdict(self),
            "events": events,
            "changes": dict(self.changes),
            "evaluations": [evaluation.to_json() for evaluation in self.evaluations],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Attempt:
        """Makes the attempt that `to_json` described.

        Raises:
            KeyError, TypeError, ValueError: `content` is not such a description.
        """
        events = tuple(map(DivergenceEvent.from_json, content["events"]))
        # Reports of older versions have none.
        evaluations = tuple(Evaluation(**found) for found in content.get("evaluations", ()))
        attempt = cls(**{**content, "events": events, "evaluations": evaluations})
        if attempt.verdict not in get_args(TrainingVerdict):
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

    verdict: TrainingVerdict
    summary: str
    attempts: tuple[Attempt, ...]

    @classmethod
    def of(cls, attempts: Sequence[Attempt]) -> Stability:
        """Judges a training by its attempts, at least one."""
        last = attempts[-1]
        if len(attempts) == 1:
            return cls(last.verdict, last.summary, (last,))
        verdict: TrainingVerdict = "recovered" if last.verdict == "healthy" else last.verdict
        tries = f"attempt {len(attempts)}"
        summary = f"{verdict}: {tries} from step {last.first_step} was {last.summary}"
        return cls(verdict, summary, tuple(attempts))


def parse_verdict(text: str, path: str) -> Stability:
    """Reads the content of `VERDICT_FILE`.

    Args:
        text: the content.
        path: where it is from, for the error.

    Raises:
        TrainingError: it cannot be trusted; the model must not be pushed.
    """
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}, expected {FORMAT}")
        attempts = tuple(map(Attempt.from_json, content["attempts"]))
        if not attempts:
            raise ValueError("no attempts")
        stability = Stability.of(attempts)
        if content["verdict"] != stability.verdict:
            raise ValueError(f"verdict {content['verdict']!r} contradicts the attempts")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TrainingError(
            f"{path}: not a verdict on a training's stability ({error!r}); train again"
        ) from error
    return stability


def load_verdict(folder: str) -> Stability:
    """Reads the verdict that `trainer_module.stability.writing.write_report` left.

    Args:
        folder: of the report; may be remote.

    Raises:
        TrainingError: there is none, or it cannot be trusted; the model must not be pushed.
    """
    import tensorflow as tf

    path = os.path.join(folder, VERDICT_FILE)
    try:
        with tf.io.gfile.GFile(path) as file:
            text = file.read()
    except tf.errors.NotFoundError as error:
        raise TrainingError(
            f"{path}: there is no verdict on the training's stability; train again"
        ) from error
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        raise TrainingError(
            f"{path}: not a verdict on a training's stability ({error!r}); train again"
        ) from error
    return parse_verdict(text, path)
