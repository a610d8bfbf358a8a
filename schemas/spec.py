"""The ranking spec: features, tasks, gates, model and training, declared once.

Everything else follows from it: the TFDV schema (`schemas.tfdv_schema`), preprocessing,
the model's inputs and heads, the TFMA EvalConfig, and the limits that stop a run. Reading
a spec needs neither TensorFlow nor TFX.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import pydantic
import yaml
from pydantic import Field

from schemas import formula
from schemas.features import (
    RESERVED_FEATURES,
    SMALL_TABLE,
    CategoricalFeature,
    DenseFeature,
    Feature,
    HistoryFeature,
    history_column,
    small_tables,
)
from schemas.tasks import (
    RESERVED_TASKS,
    WITHIN_GROUPS,
    BinaryTask,
    Evaluation,
    ScoreBounds,
    Task,
)
from schemas.training import PRESETS, Architecture, Training
from schemas.values import Bounds, FieldName, Name, Share, SpecName, SpecPart


class Events(SpecPart):
    """The daily logs.

    Attributes:
        id: field of the logs with an id unique to the impression; if several events have the
            same id, the last in file order counts.
        max_quarantined: largest share of a day's lines that may be malformed; above it the run
            fails.
        max_duplicates: largest share of a day's events whose id a later event repeats; above it
            the run fails. Raise it for logs that repeat an event to correct it.
    """

    id: FieldName = "event_id"
    max_quarantined: Share = 0.01
    max_duplicates: Share = 0.1


class Validation(SpecPart):
    """Limits on anomalies of the data.

    Attributes:
        min_events: fewest events that the run date and the training days may have.
        max_eval_events: size of the random sample of the run date that is evaluated; if null, or
            if the day has fewer events, the whole day is.
        max_statistics_events: size of the random sample of each split (the training days, the run
            date) that the statistics are of; if null, or if the split has fewer events, they are of
            the whole split.
        stop_at: smallest severity of an anomaly that stops the run before training.
        severity: severity by TFDV's type of anomaly (`AnomalyInfo.Type`), instead of TFDV's own.
        max_auc_fall: how far the served model's AUC of a task may fall on a window day that it
            has not seen, compared with the day of its gate; a day beyond that is held. If null,
            no day is judged.
        min_positives: events of each label that a task needs on a day to be judged there.
    """

    min_events: int = Field(default=1, ge=1)
    max_eval_events: int | None = Field(default=None, ge=1)
    max_statistics_events: int | None = Field(default=200_000, ge=1000)
    stop_at: Literal["WARNING", "ERROR", "NEVER"] = "ERROR"
    severity: dict[str, Literal["IGNORE", "WARNING", "ERROR"]] = Field(default={})
    max_auc_fall: Share | None = 0.1
    min_positives: int = Field(default=200, ge=1)


class Serving(SpecPart):
    """What is served.

    Attributes:
        score: the combined ranking score: a formula over task names, in the units of the labels
            (probabilities for binary tasks).
        score_scale: bounds on the standard deviation of the score, divided by that of the served
            model's score on the same events.
        score_shift: bounds on the mean score minus that of the served model, in standard
            deviations of the served model's score.
        min_score_correlation: lower bound on the correlation of the score with that of the served
            model on the same events; below 0 it ranks the other way round.
        score_gate: what the score must reach, and how sure all its bounds must be.
        keep_versions: how many pushed versions are kept, the served one included.
        check_events: events of the run date that the exported model must answer in a fresh
            process before the gate counts.
        max_age_days: most days between the served version's day and a run's; beyond that a
            notification says that the served version is old.
        check_seconds: time that this process has to load the model and answer the events.
        max_latency_ms: longest time, in milliseconds, that the exported model may take to answer a
            request for `latency_batch` events: the median of several, on the machine of the check.
        latency_batch: events of such a request, and of the larger warm-up request.
    """

    score: str
    score_scale: Bounds | None = (0.5, 2.0)
    score_shift: Bounds | None = (-1.0, 1.0)
    min_score_correlation: float | None = Field(default=0.2, ge=-1.0, le=1.0)
    score_gate: ScoreBounds = ScoreBounds()
    keep_versions: int = Field(default=10, ge=1)
    check_events: int = Field(default=512, ge=2)
    max_age_days: int | None = Field(default=3, ge=1)
    check_seconds: float = Field(default=900.0, gt=0.0)
    max_latency_ms: float | None = Field(default=None, gt=0.0)
    latency_batch: int = Field(default=64, ge=1, le=10_000)


class Retention(SpecPart):
    """What a workspace keeps on disk of runs that are over; see `pipeline.retention`.

    Attributes:
        runs: how many of the newest runs keep everything; the run of the served model does too.
        reports: how many of the newest runs keep their log and all but examples and models.
        days: how many encoded days stay beyond those that the runs kept whole may train on.
    """

    runs: int = Field(default=3, ge=1)
    reports: int = Field(default=90, ge=1)
    days: int = Field(default=7, ge=0)


class RankingSpec(SpecPart):
    """The whole declaration; field names are those of the YAML file.

    Attributes:
        name: name of the ranker and of its pipeline.
        events: the daily logs.
        features: the model's inputs, by name.
        tasks: what is predicted, by the name of the output; `score` and `all_finite` are taken.
        slices: single-valued categorical features; each of their values is evaluated on its own.
        min_slice_events: fewest events with a task's label that a slice needs for the task to be
            gated there.
        min_class_events: fewest positives, and fewest negatives, that a binary task needs to be
            gated; for a regression task, fewest events with the label.
        evaluation: how a day's model is judged, whatever the task.
        model: sizes of the network, or a preset and what differs from it.
        training: how the model is trained.
        validation: limits on anomalies of the data.
        serving: what is served.
        retention: what a workspace keeps on disk.
    """

    name: SpecName
    events: Events = Events()
    features: dict[Name, Feature] = Field(min_length=1)
    tasks: dict[Name, Task] = Field(min_length=1)
    slices: tuple[Name, ...] = ()
    min_slice_events: int = Field(default=500, ge=1)
    min_class_events: int = Field(default=50, ge=1)
    evaluation: Evaluation = Evaluation()
    model: Architecture
    training: Training = Training()
    validation: Validation = Validation()
    serving: Serving
    retention: Retention = Retention()

    @pydantic.field_validator("model", mode="before")
    @classmethod
    def _expand_preset(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or "preset" not in value:
            return value
        rest = {key: val for key, val in value.items() if key != "preset"}
        if not isinstance(value["preset"], str) or value["preset"] not in PRESETS:
            raise ValueError(
                f"preset {value['preset']!r} does not exist; choose from {', '.join(PRESETS)}"
            )
        return {**PRESETS[value["preset"]].model_dump(), **rest}

    @pydantic.model_validator(mode="after")
    def _parts_fit(self) -> RankingSpec:
        faults = list(
            misfits(
                self.events,
                self.features,
                self.tasks,
                self.slices,
                self.serving.score,
                self.evaluation.group_by,
            )
        )
        if self.evaluation.group_by is None:
            faults += _without_groups(self.tasks, self.serving.score_gate)
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def fitted(self, day_events: float, warm: bool) -> RankingSpec:
        """The spec with a number for each `auto`; see `Training.fitted`."""
        return self.model_copy(update={"training": self.training.fitted(day_events, warm)})

    @functools.cached_property
    def categorical(self) -> dict[str, CategoricalFeature]:
        """Categorical features by name, in the order of the file."""
        return {n: f for n, f in self.features.items() if isinstance(f, CategoricalFeature)}

    @functools.cached_property
    def history(self) -> dict[str, HistoryFeature]:
        """History features by name, in the order of the file."""
        return {n: f for n, f in self.features.items() if isinstance(f, HistoryFeature)}

    @functools.cached_property
    def inputs(self) -> dict[str, CategoricalFeature | DenseFeature]:
        """What the model takes, by name, in the order of the file.

        A history feature is a dense input for its count and one for each rate
        (`history_column`), any other one an input of its own name.
        """
        result: dict[str, CategoricalFeature | DenseFeature] = {}
        for name, feature in self.features.items():
            if isinstance(feature, HistoryFeature):
                result.update(self.history_columns(name))
            else:
                result[name] = feature
        return result

    @functools.cached_property
    def dense(self) -> dict[str, DenseFeature]:
        """Dense inputs by name, in the order of the file."""
        return {n: f for n, f in self.inputs.items() if isinstance(f, DenseFeature)}

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, in the order of the tasks."""
        return tuple(task.label for task in self.tasks.values())

    @functools.cached_property
    def sliced_features(self) -> tuple[str, ...]:
        """Features by whose values events are evaluated apart, in the order of their names."""
        gated = {name for task in self.tasks.values() for name in task.gate.slices}
        return tuple(sorted({*self.slices, *gated}))

    @functools.cached_property
    def logged(self) -> dict[str, CategoricalFeature | DenseFeature]:
        """Features that events have a field for, by name, in the order of the file."""
        return {n: f for n, f in self.features.items() if not isinstance(f, HistoryFeature)}

    @property
    def history_days(self) -> int:
        """Days before an event's day that its history looks back on."""
        return max((feature.days for feature in self.history.values()), default=0)

    def history_columns(self, name: str) -> dict[str, DenseFeature]:
        """The inputs that history feature `name` stands for."""
        rate = DenseFeature(type="dense", required=True)
        count = rate.model_copy(update={"scale": "log1p", "minimum": 0.0})
        rates = {history_column(name, task): rate for task in self.history_tasks(name)}
        return {history_column(name): count, **rates}

    def history_tasks(self, name: str) -> dict[str, Task]:
        """Tasks whose rates history feature `name` takes."""
        chosen = self.history[name].tasks
        return self.tasks if chosen is None else {task: self.tasks[task] for task in chosen}

    def table_of(self, name: str) -> str:
        """Name of the feature that owns the embedding table of feature `name`."""
        return self.categorical[name].table or name

    def to_yaml(self) -> str:
        """The spec with presets and overrides applied; `parse_spec` reads it back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def events_fingerprint(self) -> str:
        """Identifies how an event is encoded; encoded days of another one are not reused."""
        return _fingerprint(
            {
                "id": self.events.id,
                "features": {
                    name: (
                        [
                            feature.field,
                            feature.dtype,
                            feature.multivalued and [feature.max_length, feature.too_long],
                            feature.required,
                        ]
                        if isinstance(feature, CategoricalFeature)
                        else [feature.field, "dense", feature.required]
                    )
                    for name, feature in sorted(self.logged.items())
                },
                "labels": sorted(
                    (
                        task.label,
                        task.field or task.label,
                        task.kind,
                        task.optional,
                        *((task.minimum, task.maximum) if task.kind == "regression" else ()),
                    )
                    for task in self.tasks.values()
                ),
            }
        )

    def totals_fingerprint(self, name: str) -> str:
        """Identifies what history feature `name` counts in encoded days."""
        tasks = self.history_tasks(name).items()
        return _fingerprint([self.history[name].of, sorted(map(_meaning, tasks))])

    def history_fingerprint(self) -> str:
        """Identifies how an event's history follows from the days before it."""
        return _fingerprint(
            [
                [name, feature.model_dump(exclude={"serving"}), self.totals_fingerprint(name)]
                for name, feature in sorted(self.history.items())
            ]
        )

    def model_fingerprint(self) -> str:
        """Identifies the meaning of every weight; a warm start needs the same one.

        Features and tasks count with their order: it is that of the concatenated input.
        """
        wide = [n for n, t in self.tasks.items() if isinstance(t, BinaryTask) and t.wide_categories]
        return _fingerprint(
            {
                "features": [
                    [
                        name,
                        feature.model_dump(
                            exclude={
                                "field",
                                "max_length",
                                "too_long",
                                "required",
                                "minimum",
                                "maximum",
                                "max_drift",
                                "max_skew",
                                "max_ids",
                                "serving",
                            }
                        ),
                    ]
                    for name, feature in self.features.items()
                ],
                "tasks": [_meaning(item) for item in self.tasks.items()],
                "regression": "in units of its label's deviation",
                # A part that a later release adds, and that is off, changes no weight.
                "model": self.model.model_dump(
                    exclude={"dropout", "activation_limit"}, exclude_defaults=True
                ),
                **({"wide_categories": wide} if wide else {}),
            }
        )

    def tasks_fingerprint(self) -> str:
        """Identifies what is predicted; two models are compared only where it is the same."""
        return _fingerprint([_meaning(item) for item in sorted(self.tasks.items())])


def _meaning(item: tuple[str, Task]) -> list[str | None]:
    name, task = item
    return [name, task.kind, getattr(task, "transform", None), task.label]


def misfits(
    events: Events,
    features: Mapping[str, Feature],
    tasks: Mapping[str, Task],
    slices: Sequence[str],
    score: str,
    group_by: str | None,
) -> Iterator[str]:
    """What does not fit together, as `field: what`, though each part is well-formed."""
    for name, feature in features.items():
        if name in RESERVED_FEATURES:
            yield f"features.{name}: the name is taken by {RESERVED_FEATURES[name]}"
        if isinstance(feature, CategoricalFeature) and feature.table is not None:
            shared = features.get(feature.table)
            if not isinstance(shared, CategoricalFeature) or shared.table is not None:
                yield (
                    f"features.{name}.table: {feature.table!r} is not a categorical feature "
                    "with a table of its own"
                )
        if isinstance(feature, HistoryFeature):
            yield from _history_misfits(f"features.{name}", feature, features, tasks)
    claims = [
        (f"features.{name}", name, feature.field or name)
        for name, feature in features.items()
        if not isinstance(feature, HistoryFeature)
    ]
    claims += [(f"tasks.{name}.label", t.label, t.field or t.label) for name, t in tasks.items()]
    names: dict[str, str] = {}
    fields = {events.id: "events.id"}
    for owner, name, field in claims:
        if field in fields:
            yield f"{owner}: the event field {field!r} is already {fields[field]}"
        elif name in names:
            yield f"{owner}: the name {name!r} is already {names[name]}"
        fields.setdefault(field, owner)
        names.setdefault(name, owner)
    for name, task in tasks.items():
        if name in RESERVED_TASKS:
            yield f"tasks.{name}: the name is taken by {RESERVED_TASKS[name]}"
        if isinstance(task, BinaryTask) and task.wide_categories and not small_tables(features):
            rows = f"a table of at most {SMALL_TABLE} rows"
            yield f"tasks.{name}.wide_categories: no categorical feature has {rows}"
        yield from _no_slices(task.gate.slices, features, f"tasks.{name}.gate.slices")
    yield from _no_slices(slices, features, "slices")
    if group_by is not None:
        yield from _no_slices([group_by], features, "evaluation.group_by")
    try:
        formula.parse(score, names=tasks)
    except ValueError as error:
        yield f"serving.score: {error}"


def _without_groups(tasks: Mapping[str, Task], score: ScoreBounds) -> Iterator[str]:
    """Bounds that need groups, where there are none."""
    gates: list[tuple[str, SpecPart]] = [("serving.score_gate", score)]
    for name, task in tasks.items():
        where = f"tasks.{name}.gate"
        gates.append((where, task.gate))
        gates += [(f"{where}.slices.{key}", part) for key, part in task.gate.slices.items()]
    for where, gate in gates:
        for field in type(gate).model_fields:
            metric = field.removeprefix("min_").removeprefix("max_").removesuffix("_drop")
            if metric in WITHIN_GROUPS and getattr(gate, field) is not None:
                yield f"{where}.{field}: needs evaluation.group_by, the feature that groups events"


def _no_slices(names: Iterable[str], features: Mapping[str, Feature], where: str) -> Iterator[str]:
    for name in names:
        feature = features.get(name)
        if not isinstance(feature, CategoricalFeature) or feature.multivalued:
            yield f"{where}: {name!r} is not a single-valued categorical feature"


def _history_misfits(
    where: str, history: HistoryFeature, features: Mapping[str, Feature], tasks: Mapping[str, Task]
) -> Iterator[str]:
    yield from _no_slices(history.of, features, f"{where}.of")
    for repeated in sorted({name for name in history.of if history.of.count(name) > 1}):
        yield f"{where}.of: {repeated!r} appears twice"
    for task in history.tasks or ():
        if task not in tasks:
            yield f"{where}.tasks: {task!r} is not a task; known: {', '.join(tasks)}"


def _fingerprint(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
