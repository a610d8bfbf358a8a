"""What steps say of their artifacts in ML Metadata: every custom property, with its type.

Executors set them. Later executors, `pipeline.lineage` and the notifications read them, here and
nowhere else. Names and stored types do not change: a workspace keeps the runs of years. Importing
this loads neither TensorFlow nor TFX.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Property(Generic[T]):
    """A custom property of an artifact.

    Attributes:
        kind: name of the artifact's type.
        name: name of the property.
        stored: turns a value into what ML Metadata holds, text or a whole number.
        read: turns that back. Kubeflow hands whole numbers over as floats.
        absent: what an artifact without the property is read as.
    """

    kind: str
    name: str
    stored: Callable[[T], str | int]
    read: Callable[[Any], T]
    absent: T

    def set(self, artifact: Any, value: T) -> None:
        """Sets it on a TFX artifact."""
        stored = self.stored(value)
        if isinstance(stored, int):
            artifact.set_int_custom_property(self.name, stored)
        else:
            artifact.set_string_custom_property(self.name, stored)

    def get(self, artifact: Any) -> T:
        """Reads it from a TFX artifact."""
        # Kubeflow hands every value over as JSON.
        value = artifact.get_json_value_custom_property(self.name)
        if value is not None:
            return self.read(value)
        return self.of(values_of(artifact.mlmd_artifact))

    def of(self, values: Mapping[str, Any]) -> T:
        """Reads it from an artifact's custom properties by name."""
        value = values.get(self.name)
        return self.absent if value is None else self.read(value)


def values_of(node: Any) -> dict[str, Any]:
    """Custom properties of an artifact or execution of ML Metadata, by name, those that are set."""
    return {
        name: getattr(value, field)
        for name, value in node.custom_properties.items()
        if (field := value.WhichOneof("value")) is not None
    }


def _text(kind: str, name: str) -> Property[str]:
    return Property(kind, name, str, str, "")


def _lines(kind: str, name: str) -> Property[Sequence[str]]:
    return Property(kind, name, "\n".join, lambda value: tuple(str(value).splitlines()), ())


def _number(kind: str, name: str) -> Property[int | None]:
    return Property(kind, name, lambda value: int(value or 0), int, None)


def _json(kind: str, name: str) -> Property[Mapping[str, Any]]:
    return Property(kind, name, json.dumps, json.loads, {})


def _renamed(metrics: str) -> str:
    """Metrics of runs from before they had names of our own had TFMA's."""
    for before, name in (("root_mean_squared_error", "rmse"), ("r2_score", "r2")):
        metrics = metrics.replace(f'"{before}"', f'"{name}"')
    return metrics


ERROR = "error"
"""Of a failed execution: what it failed with, for people."""

RUN_DATE = _text("RunPlan", "run_date")
"""The day that is evaluated on. The execution of Plan has what it was asked for under this name."""
START = _text("RunPlan", "start")
"""Why the start is warm or cold."""
COMPARISON = _text("RunPlan", "baseline")
"""Why there is a comparison with the served model, or none."""
SERVED_VERSION = _number("RunPlan", "served_version")
"""The version that is served as the run begins; absent if none is."""
BASE_MODEL = _text("RunPlan", "base_model")
"""URI of the model whose weights the training starts from; absent if cold."""

EVENTS = _number("Examples", "events")
"""Events of the run's days that are well formed and no duplicates."""
QUARANTINED = _number("Examples", "quarantined")
DUPLICATES = _number("Examples", "duplicates")
TRAIN_EVENTS = _number("Examples", "train_events")
EVAL_EVENTS = _number("Examples", "eval_events")
SPLIT_EVENTS = {"train": TRAIN_EVENTS, "eval": EVAL_EVENTS}
DAY_EVENTS = _number("Examples", "day_events")
"""Events of a usual day of the window; settings of the training follow from it."""
HELD = _json("Examples", "held")
"""Days that are left out of training, with the reasons."""
SEEN = _json("Examples", "seen")
"""By day that is trained or evaluated on, an id of its log files; held days are left out."""
INGESTION_NOTES = _lines("Examples", "notes")
"""Gaps, held days, empty and ignored files."""

STATISTICS_NOTES = _lines("ExampleStatistics", "notes")
"""Splits of which the statistics are those of a sample."""

FINDINGS = _lines("ExampleAnomalies", "findings")
"""Anomalies of any severity."""

STABILITY = _text("TrainingStability", "summary")
"""How stable the training was."""
TRAINING = _text("TrainingStability", "training")
"""In how many steps it trained, and whether they are enough."""

COPY_OF = _text("Model", "copy_of")
"""The served version that Plan made this model from; empty if it is none. Only Plan sets it."""
CHECKPOINTS = _text("Model", "checkpoints")
"""Folder of the training's checkpoints, for the step that has the model to delete."""
OWN_URI = _text("Model", "own_uri")
"""URI of an input artifact whose `uri` is the path of a copy; Kubeflow's entry point sets it."""

SERVABLE = _number("InfraBlessing", "blessed")
"""1 or 0. TFX's Pusher reads it, by the name of TFX's InfraValidator."""
UNSERVABLE_REASONS = _lines("InfraBlessing", "reasons")
MODEL_DIGEST = _text("InfraBlessing", "model_digest")
"""Digest of the files that were checked; no others are pushed."""

METRICS = Property[Mapping[str, Any]](
    "ModelEvaluation", "metrics", json.dumps, lambda text: json.loads(_renamed(text)), {}
)
"""Over all events: by model, task and metric."""
INTERVALS = _json("ModelEvaluation", "intervals")
"""Likewise: their confidence intervals, and those of the change between the models."""
EVALUATION_NOTES = _lines("ModelEvaluation", "notes")
NOT_GATED = _lines("ModelEvaluation", "not_gated")
"""Bounds that could not be judged."""

BLESSED = _number("ModelBlessing", "blessed")
"""1 or 0. TFX's Pusher reads it, by the name of TFX's Evaluator."""
REFUSED_REASONS = _lines("ModelBlessing", "reasons")

PUSHED = _number("PushedModel", "pushed")
"""1 or 0; TFX's Pusher sets it."""
PUSHED_VERSION = _number("PushedModel", "pushed_version")
"""TFX's Pusher sets it, as text."""

REMARKS = {
    INGESTION_NOTES: "DailyExampleGen",
    STATISTICS_NOTES: "StatisticsGen",
    FINDINGS: "ExampleValidator",
    EVALUATION_NOTES: "Evaluator",
    NOT_GATED: "Evaluator: not gated",
}
"""Who speaks in which property, a remark a line."""


def events_of(said: Callable[[Property[int | None]], int | None]) -> dict[str, int]:
    """What became of the events of a run's days.

    Args:
        said: reads a property of the run's Examples.

    Returns:
        `read`, and of these `trained`, `evaluated`, `quarantined`, `duplicates` and `unused` (the
        samples of replay and evaluation leave some out); empty if the Examples do not say.
    """
    formed = said(EVENTS)
    if formed is None:
        return {}
    trained, evaluated, quarantined, duplicates = (
        said(count) or 0 for count in (TRAIN_EVENTS, EVAL_EVENTS, QUARANTINED, DUPLICATES)
    )
    return {
        "read": formed + quarantined + duplicates,
        "trained": trained,
        "evaluated": evaluated,
        "quarantined": quarantined,
        "duplicates": duplicates,
        "unused": formed - trained - evaluated,
    }
