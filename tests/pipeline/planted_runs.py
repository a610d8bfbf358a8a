"""An ML Metadata store with planted runs."""

import json

from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as mlmd

STATE = mlmd.Execution.State
COMPONENTS = (
    "components.plan.component.Plan",
    "components.statistics_gen.component.StatisticsGen",
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
        self._types = {}
        self._context_type = self._store.put_context_type(mlmd.ContextType(name="pipeline_run"))

    def context(self, run_id):
        context = mlmd.Context(type_id=self._context_type, name=run_id)
        (context.id,) = self._store.put_contexts([context])
        return context.id

    def other_context(self, type_name, name):
        type_id = self._store.put_context_type(mlmd.ContextType(name=type_name))
        self._store.put_contexts([mlmd.Context(type_id=type_id, name=name)])

    def execution(self, context, type_name, state, **properties):
        self.put([self.new_execution(type_name, state, **properties)], [], context)

    def artifact(self, context, type_name, uri, **properties):
        self.put([], [self.new_artifact(type_name, uri, **properties)], context)

    def _type(self, kind, name):
        if name not in self._types:
            put = getattr(self._store, f"put_{kind.lower()}_type")
            self._types[name] = put(getattr(mlmd, f"{kind}Type")(name=name))
        return self._types[name]

    def new_execution(self, type_name, state, **properties):
        execution = mlmd.Execution(
            type_id=self._type("Execution", type_name), last_known_state=state
        )
        for name, value in properties.items():
            _set(execution, name, value)
        return execution

    def new_artifact(self, type_name, uri, **properties):
        artifact = mlmd.Artifact(type_id=self._type("Artifact", type_name), uri=uri)
        for name, value in properties.items():
            _set(artifact, name, value)
        return artifact

    def put(self, executions, artifacts, context):
        (known,) = self._store.get_contexts_by_id([context])
        self._store.put_lineage_subgraph(executions, artifacts, [known], [])

    def run(self, run_id, date, *, end="pushed", version=None, base=None, reasons="", auc=0.7):
        """Writes a run; `end` is pushed, blocked, or the component that it is or failed at."""
        executions, artifacts = [], []
        last = end.removeprefix("failed ").removeprefix("running ")
        for name in COMPONENTS:
            state = STATE.COMPLETE
            if name.endswith(f".{last}"):
                state = STATE.FAILED if end.startswith("failed") else STATE.RUNNING
            asked = {"run_date": date} if name.endswith("Plan") else {}
            executions.append(self.new_execution(name, state, **asked))
            if state != STATE.COMPLETE:
                break
            artifacts += self._outputs(name, run_id, date, end, version, base, reasons, auc)
        self.put(executions, artifacts, self.context(run_id))

    def _outputs(self, name, run_id, date, end, version, base, reasons, auc):
        if name.endswith(".Plan"):
            start = f"warm start from {base}" if base else "cold start: first"
            properties = {"run_date": date, "start": start, "baseline": "absolute bounds only"}
            if base:
                properties["base_model"] = f"model/{base}"
            yield self.new_artifact("Model", f"base/{run_id}", copy_of="serving/1")
            yield self.new_artifact("RunPlan", f"plan/{run_id}", **properties)
            events = {"events": 2000, "quarantined": 3, "duplicates": 5, "train_events": 1200}
            events |= {"eval_events": 700, "notes": "2026-01-01: no events\npart-1: empty"}
            yield self.new_artifact("Examples", f"examples/{run_id}", **events)
            yield self.new_artifact("Examples", f"transformed/{run_id}")
        if name.endswith(".Trainer"):
            yield self.new_artifact("Model", f"model/{run_id}")
        if name.endswith(".Evaluator"):
            metrics = {"candidate": {"click": {"auc": auc}, "": {"example_count": 9.0}}}
            error = {"low": -0.004, "high": 0.004, "standard_error": 0.002}
            change = {"value": 0.0, "degrees_of_freedom": 63, **error}
            yield self.new_artifact(
                "ModelEvaluation",
                "e",
                metrics=json.dumps(metrics),
                intervals=json.dumps({"change": {"click": {"auc": change}}}),
                not_gated="a slice",
            )
            yield self.new_artifact("ModelBlessing", "b", reasons=reasons)
        if name.endswith(".Pusher"):
            properties = {"pushed": int(end == "pushed")}
            if end == "pushed":
                properties["pushed_version"] = str(version)
            yield self.new_artifact("PushedModel", "p", **properties)


def _set(node, name, value):
    if isinstance(value, int):
        node.custom_properties[name].int_value = value
    else:
        node.custom_properties[name].string_value = value
