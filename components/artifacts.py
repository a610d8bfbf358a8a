"""Artifact types of our own; the others are TFX's standard ones."""

from tfx.types import artifact


class RunPlan(artifact.Artifact):
    """A `components.run_plan.RunPlan`, as `spec.yaml` and `plan.json`."""

    TYPE_NAME = "RunPlan"


class QuarantinedEvents(artifact.Artifact):
    """Malformed lines of the run's days, as JSON lines with file, line and reason."""

    TYPE_NAME = "QuarantinedEvents"


class HistoryTables(artifact.Artifact):
    """What the days up to the run date say of each id, a Parquet file a history feature."""

    TYPE_NAME = "HistoryTables"


class TrainingStability(artifact.Artifact):
    """The report of `trainer_module.stability.writing`: verdict, statistics, plots."""

    TYPE_NAME = "TrainingStability"


class Page(artifact.Artifact):
    """An HTML page for people, as `page.html`; on Kubeflow the one object at the URI.

    Kubeflow's UI shows artifacts of this type.
    """

    TYPE_NAME = "system.HTML"
