"""An ML Metadata store with planted runs."""

import json

from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as mlmd

STATE = mlmd.Execution.State
COMPONENTS = (
    "components.plan.component.Plan",
    "tfx.components.statistics_gen.component.StatisticsGen",
    "components.trainer.component.Trainer",
    "components.evaluator.component.Evaluator",
    "components.pusher.component.Pusher",
)


class Store:
    """An ML Metadata store with runs in it as TFX writes them."""

    def __init__(self, path):
        config = mlmd.ConnectionConfig()
        config.sqlite.filename_uri = path
        config.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        self.path = path
        self._store = MetadataStore(config)
        self._context_type = self._store.put_context_type(mlmd.ContextType(name="pipeline_run"))

    def context(self, run_id):
        context = mlmd.Context(type_id=self._context_type, name=run_id)
        (context.id,) = self._store.put_contexts([context])
        return context.id

    def execution(self, context, type_name, state, **properties):
        type_id = self._store.put_execution_type(mlmd.ExecutionType(name=type_name))
        execution = mlmd.Execution(type_id=type_id, last_known_state=state)
        self._put(execution, [], context, properties)

    def artifact(self, context, type_name, uri, **properties):
        type_id = self._store.put_artifact_type(mlmd.ArtifactType(name=type_name))
        artifact = mlmd.Artifact(type_id=type_id, uri=uri)
        for name, value in properties.items():
            _set(artifact, name, value)
        (artifact.id,) = self._store.put_artifacts([artifact])
        self._store.put_attributions_and_associations(
            [mlmd.Attribution(artifact_id=artifact.id, context_id=context)], []
        )

    def _put(self, execution, artifacts, context, properties):
        for name, value in properties.items():
            _set(execution, name, value)
        (execution.id,) = self._store.put_executions([execution])
        self._store.put_attributions_and_associations(
            [], [mlmd.Association(execution_id=execution.id, context_id=context)]
        )

    def run(self, run_id, date, *, end="pushed", version=None, base=None, reasons="", auc=0.7):
        """Writes a run; `end` is pushed, blocked, or the component that it is or failed at."""
        context = self.context(run_id)
        last = end.removeprefix("failed ").removeprefix("running ")
        for name in COMPONENTS:
            state = STATE.COMPLETE
            if name.endswith(f".{last}"):
                state = STATE.FAILED if end.startswith("failed") else STATE.RUNNING
            asked = {"run_date": date} if name.endswith("Plan") else {}
            self.execution(context, name, state, **asked)
            if state != STATE.COMPLETE:
                return
            self._outputs(context, name, run_id, date, end, version, base, reasons, auc)

    def _outputs(self, context, name, run_id, date, end, version, base, reasons, auc):
        if name.endswith(".Plan"):
            start = f"warm start from {base}" if base else "cold start: first"
            properties = {"run_date": date, "start": start, "baseline": "absolute bounds only"}
            if base:
                properties["base_model"] = f"model/{base}"
            self.artifact(context, "Model", f"base/{run_id}", copy_of="serving/1")
            self.artifact(context, "RunPlan", f"plan/{run_id}", **properties)
        if name.endswith(".Trainer"):
            self.artifact(context, "Model", f"model/{run_id}")
        if name.endswith(".Evaluator"):
            metrics = {"candidate": {"click": {"auc": auc}, "": {"example_count": 9.0}}}
            self.artifact(context, "ModelEvaluation", "e", metrics=json.dumps(metrics))
            self.artifact(context, "ModelBlessing", "b", reasons=reasons)
        if name.endswith(".Pusher"):
            properties = {"pushed": int(end == "pushed")}
            if end == "pushed":
                properties["pushed_version"] = str(version)
            self.artifact(context, "PushedModel", "p", **properties)


def _set(node, name, value):
    if isinstance(value, int):
        node.custom_properties[name].int_value = value
    else:
        node.custom_properties[name].string_value = value
