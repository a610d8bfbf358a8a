"""A workspace of many days with all that the report reads, as runs leave it."""

import datetime
import json
import math
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from planted_runs import STATE, Store
from tensorflow_metadata.proto.v0 import anomalies_pb2

from components import serving_store
from components.plan.planning import make_plan
from pipeline.workspace import Workspace
from schemas.loading import load_spec
from trainer_module.stability.events import DivergenceEvent
from trainer_module.stability.outcome import FORMAT, Attempt, Stability

DEMO = os.path.join(os.path.dirname(__file__), "..", "..", "schemas", "demo.yaml")
FIRST = datetime.date(2026, 1, 3)
HOSTILE = "<script>alert('x')</script> & \"quoted\""
COMPONENTS = (
    *("Plan", "DailyExampleGen", "StatisticsGen", "ExampleValidator", "Transform"),
    *("Trainer", "ServingCheck", "Evaluator", "Pusher"),
)
LAYERS = ("shared-0/kernel", "tower-click-0/kernel")


def outcome_of(day):
    """Every 6th day is blocked, every 17th fails, and every 23rd has no run."""
    if day and day % 23 == 0:
        return None
    if day % 17 == 16:
        return "failed"
    return "blocked" if day % 6 == 2 else "pushed"


class PlantedReport:
    """Plants days one after another.

    Attributes:
        space: the workspace.
        dates: of the days that were run.
        failed: slice and task of the bounds that block a day.
    """

    def __init__(self, root):
        self.space = Workspace(str(root))
        os.makedirs(root, exist_ok=True)
        self.spec = load_spec(DEMO)
        self._store = Store(self.space.metadata_path)
        self._executions, self._version, self._model = 0, 0, ""
        self._spec_text = ""
        self.dates = []
        self.failed = [("all events", "click")]

    def days(self, count):
        """Plants as many days."""
        for day in range(count):
            outcome = outcome_of(day)
            if outcome is not None:
                self.day(FIRST + datetime.timedelta(day), outcome, seed=day)
        self._serve()
        return self

    def day(self, date, outcome, *, seed=0, reasons=("click: auc is 0.5, must be at least 0.6",)):
        """Plants a run."""
        self.dates.append(date)
        random = np.random.default_rng(seed)
        context = self._store.context(f"run of {date} {seed}")
        base = self._model
        executions, self._artifacts = [], []
        for component in COMPONENTS:
            self._executions += 1
            failed = outcome == "failed" and component == "ExampleValidator"
            properties = {"run_date": str(date)} if component == "Plan" else {}
            if failed:
                properties["error"] = f"{date}: 1 anomalies\n  eval: device: {HOSTILE}"
            state = STATE.FAILED if failed else STATE.COMPLETE
            executions.append(self._store.new_execution(f"x.{component}", state, **properties))
            if failed:
                break
            writer = getattr(self, f"_{component.lower()}", None)
            if writer:
                writer(date, outcome, random, base, reasons)
        # In one transaction: a year of them is to be planted in seconds.
        self._store.put(executions, self._artifacts, context)

    def _artifact(self, component, output, kind, **properties):
        path = os.path.join(self.space.artifacts, component, output, str(self._executions))
        os.makedirs(path)
        self._artifacts.append(self._store.new_artifact(kind, path, **properties))
        return path

    def _text_of_spec(self):
        if not self._spec_text:
            plan = make_plan(self.spec, FIRST, ())
            folder = os.path.join(self.space.root, "one plan")
            plan.save(folder)
            with open(os.path.join(folder, "spec.yaml"), encoding="utf-8") as file:
                self._spec_text = file.read()
        return self._spec_text

    def _plan(self, date, outcome, random, base, reasons):
        start = "warm start from the version before" if base else "cold start: first"
        properties = {"run_date": str(date), "start": start, "baseline": "compared"}
        if base:
            properties |= {"base_model": base, "served_version": self._version}
        path = self._artifact("Plan", "plan", "RunPlan", **properties)
        _write(os.path.join(path, "spec.yaml"), self._text_of_spec())

    def _dailyexamplegen(self, date, outcome, random, base, reasons):
        counts = {"events": 60_000 + int(random.integers(9000)), "duplicates": 54}
        counts |= {"quarantined": 3, "train_events": 40_000, "eval_events": 20_000}
        held = {str(FIRST): ["click: AUC 0.41"]} if date == FIRST + datetime.timedelta(9) else {}
        self._artifact("DailyExampleGen", "examples", "Examples",
            **counts, held=json.dumps(held), notes=f"{date}: a remark, {HOSTILE}",
        )  # fmt: skip
        path = self._artifact("DailyExampleGen", "quarantine", "QuarantinedEvents")
        fault = {"kind": "no", "field": "b", "raw": ""}
        lines = [
            # As days were stored before kinds were.
            {"file": "/logs/part-0.jsonl", "line": 7, "reason": "field 'a': missing", "raw": ""},
            {"file": "/logs/part-0.jsonl", "line": 9, "reason": "field 'b': no, got 1", **fault},
            {"file": "/logs/part-1.jsonl", "line": 3, "reason": "field 'b': no, got 2", **fault},
        ]
        _write(os.path.join(path, f"{date}.jsonl"), "".join(json.dumps(x) + "\n" for x in lines))

    def _examplevalidator(self, date, outcome, random, base, reasons):
        path = self._artifact("ExampleValidator", "anomalies", "ExampleAnomalies")
        for split, kind in (("eval", "drift"), ("train", "skew")):
            found = anomalies_pb2.Anomalies()
            for field, limit in (("device", 0.2), ("topic", 0.3)):
                info = found.drift_skew_info.add()
                info.path.step.append(field)
                measured = getattr(info, f"{kind}_measurements").add()
                measured.type = type(measured).L_INFTY
                measured.value = limit * float(random.uniform(0.1, 0.6))
                measured.threshold = limit
            os.makedirs(os.path.join(path, f"Split-{split}"))
            with open(os.path.join(path, f"Split-{split}", "SchemaDiff.pb"), "wb") as file:
                file.write(found.SerializeToString())

    def _trainer(self, date, outcome, random, base, reasons):
        healthy = Attempt(0, 400, "healthy", "healthy after 400 steps", ())
        attempts = [healthy]
        if outcome == "blocked":
            event = DivergenceEvent(
                "full", 210, 230, 220, 9.0, 1.0, ("click",), 300, "the loss is not finite"
            )
            attempts = [
                Attempt(0, 300, "diverged", "diverged after 300 steps", (event,)),
                Attempt(0, 400, "healthy", "healthy after 400 steps", (), {"learning_rate": 0.5}),
            ]
        stability = Stability.of(attempts)
        path = self._artifact("Trainer", "stability", "TrainingStability",
            summary=stability.summary, training="400 steps of 64 events",
        )  # fmt: skip
        content = {
            "format": FORMAT,
            "verdict": stability.verdict,
            "attempts": [attempt.to_json() for attempt in attempts],
        }
        _write(os.path.join(path, "verdict.json"), json.dumps(content))
        tables = [_statistics(n, a, random) for n, a in enumerate(attempts)]
        pq.write_table(pa.concat_tables(tables), os.path.join(path, "statistics.parquet"))
        self._model = self._artifact("Trainer", "model", "Model")
        self._artifact("Trainer", "model_run", "ModelRun")

    def _evaluator(self, date, outcome, random, base, reasons):
        day = (date - FIRST).days
        metrics = {"candidate": self._metrics(random, day)}
        if base:
            metrics["baseline"] = self._metrics(random, day - 1)
        overall = {model: slices["all events"] for model, slices in metrics.items()}
        intervals = {}
        for task, values in overall["candidate"].items():
            if "auc" in values:
                auc = {"low": values["auc"] - 0.01, "high": values["auc"] + 0.01}
                intervals[task] = {"auc": auc}
        path = self._artifact(
            "Evaluator",
            "evaluation",
            "ModelEvaluation",
            metrics=json.dumps(overall),
            intervals=json.dumps({"candidate": intervals}),
        )
        blocked = [*reasons] if outcome == "blocked" else []
        verdict = {"blessed": not blocked, "reasons": blocked, "metrics": metrics}
        verdict["failed"] = self.failed if blocked else []
        _write(os.path.join(path, "verdict.json"), json.dumps(verdict))
        self._artifact("Evaluator", "blessing", "ModelBlessing", reasons="\n".join(blocked))

    def _metrics(self, random, day):
        drift = 0.01 * math.sin(day / 20)
        slices = {}
        for name, worse, events in (
            ("all events", 0.0, 20_000.0),
            ("device=ios", -0.01, 9000.0),
            ("device=web", 0.04, 3000.0),
            ("device=tv", 0.2, 40.0),
        ):
            tasks = {}
            for task in self.spec.tasks:
                noise = float(random.normal(0, 0.003))
                if self.spec.tasks[task].kind == "binary":
                    auc = 0.75 + drift + noise - worse
                    tasks[task] = {"auc": auc, "auc_lift": 0.06 + noise}
                else:
                    rmse = 0.74 - drift + noise + worse
                    tasks[task] = {"rmse": rmse, "r2": 0.36}
                    tasks[task]["label_standard_deviation"] = 0.93
                tasks[task]["weighted_example_count"] = events
            slices[name] = {"": {"example_count": events}, **tasks}
        return slices

    def _pusher(self, date, outcome, random, base, reasons):
        properties = {"pushed": int(outcome == "pushed")}
        if outcome == "pushed":
            self._version += 1
            properties["pushed_version"] = str(self._version)
            self._served = (date, self._model)
        else:
            self._model = base
        self._artifacts.append(self._store.new_artifact("PushedModel", "pushed", **properties))

    def _serve(self):
        date, model = self._served
        folder = os.path.join(self.space.serving, str(self._version))
        os.makedirs(os.path.join(folder, "assets.extra"))
        _write(os.path.join(folder, "saved_model.pb"), "a model")
        info = serving_store.ModelInfo(date, date - datetime.timedelta(1), "m", "t", model)
        content = {"run_date": str(info.run_date), "trained_through": str(info.trained_through)}
        content |= {"model_fingerprint": "m", "tasks_fingerprint": "t", "model_uri": model}
        _write(os.path.join(folder, "assets.extra", "version.json"), json.dumps(content))


def _statistics(number, attempt, random):
    steps = np.arange(attempt.steps)
    loss = 1.0 + np.exp(-steps / 80.0) + random.normal(0, 0.05, len(steps))
    if attempt.verdict == "diverged":
        loss[230:] = np.nan
    columns = {
        "attempt": np.full(len(steps), number, np.int32),
        "step": steps,
        "loss": loss.astype(np.float32),
        "auc/click": (0.75 - 0.25 * np.exp(-steps / 60.0)).astype(np.float32),
        "auc/long_view": (0.8 - 0.3 * np.exp(-steps / 60.0)).astype(np.float32),
    }
    for layer in LAYERS:
        sigma = np.clip(random.lognormal(-0.05, 0.3, len(steps)), 0.01, 1.0)
        columns[f"sigma_mean/{layer}"] = sigma.astype(np.float32)
    return pa.table(columns)


def _write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
