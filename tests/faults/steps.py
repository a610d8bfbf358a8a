"""The real executors of a run, from the Trainer's `run_fn` on, one after another."""

from __future__ import annotations

import datetime
import types
from pathlib import Path
from typing import Any

from events import tiny_spec
from stability_reports import write_stability
from tfx.types import standard_artifacts

from components import artifacts, serving_store
from components.evaluator.executor import Executor as Evaluator
from components.pusher.executor import Executor as Pusher
from components.run_plan import RunPlan
from components.serving_check.executor import Executor as ServingCheck
from components.serving_store import TRAINING_STATE, ModelInfo
from trainer_module.run import run_fn

RUN_DATE = datetime.date(2026, 1, 4)


class Steps:
    """One run; what it would push goes over version 1."""

    def __init__(self, folder: Path, examples: Path, graph: Any, files: list[str]):
        self.folder = folder
        self.serving = str(folder / "serving")
        self.model_dir = folder / "model" / "Format-Serving"
        self._examples = examples
        self._graph = graph
        self._files = files
        old = folder / "old"
        old.mkdir()
        (old / "saved_model.pb").write_text("what is served")
        day = RUN_DATE - datetime.timedelta(days=1)
        spec = tiny_spec()
        info = ModelInfo(day, day, spec.model_fingerprint(), spec.tasks_fingerprint(), "model/1")
        serving_store.push(str(old), self.serving, info, None, served_before=None)

    def train(self, spec: Any = None) -> None:
        """Trains for real and exports, or says why not."""
        run_fn(
            types.SimpleNamespace(
                custom_config={
                    "spec": (spec or tiny_spec()).to_yaml(),
                    "history_dir": str(self.folder / "history"),
                    "warm_start_from": None,
                    "checkpoint_dir": str(self.folder / "checkpoints"),
                    "stability_dir": str(self.folder / "stability"),
                    "training_state_subdir": TRAINING_STATE,
                    "run_date": "2026-01-03",
                },
                train_files=self._files,
                eval_files=[],
                transform_output=self._graph.transform_savedmodel_dir.rpartition("/")[0],
                model_run_dir=str(self.folder / "model_run"),
                serving_model_dir=str(self.model_dir),
            )
        )

    def judge_and_push(self, *overrides: str) -> tuple[list[str], Any]:
        """Runs ServingCheck, Evaluator and Pusher; returns the reasons and the pushed artifact."""
        spec = tiny_spec("serving.check_events=50", *overrides)
        RunPlan(
            spec=spec,
            run_date=RUN_DATE,
            window=(),
            base_version=None,
            base_trained_through=None,
            start_reason="",
            baseline_version=None,
            baseline_reason="",
            served_version=1,
        ).save(str(self.folder / "plan"))
        if not (self.folder / "stability").exists():
            write_stability(self.folder / "stability")
        inputs = {
            "plan": self._artifact(artifacts.RunPlan, "plan"),
            "model": self._artifact(standard_artifacts.Model, "model"),
            "stability": self._artifact(artifacts.TrainingStability, "stability"),
            "examples": self._artifact(standard_artifacts.Examples, self._examples),
        }
        inputs["examples"][0].split_names = '["train", "eval"]'
        infra = self._artifact(standard_artifacts.InfraBlessing, "infra")
        ServingCheck().Do(inputs, {"blessing": infra}, {})
        infra[0].set_string_custom_property(
            "blessing_status",
            "INFRA_BLESSED" if infra[0].get_int_custom_property("blessed") else "NOT_BLESSED",
        )
        blessing = self._artifact(standard_artifacts.ModelBlessing, "blessing")
        evaluation = self._artifact(standard_artifacts.ModelEvaluation, "evaluation")
        page = self._artifact(artifacts.Page, "page.html")
        Evaluator().Do(
            {**inputs, "infra_blessing": infra},
            {"blessing": blessing, "evaluation": evaluation, "page": page},
            {},
        )
        pushed = self._artifact(standard_artifacts.PushedModel, "pushed")
        Pusher().Do(
            {**inputs, "infra_blessing": infra, "model_blessing": blessing},
            {"pushed_model": pushed},
            {"serving_dir": self.serving},
        )
        return blessing[0].get_string_custom_property("reasons").splitlines(), pushed[0]

    def _artifact(self, cls: Any, path: str | Path) -> list[Any]:
        instance = cls()
        instance.uri = str(self.folder / path)
        return [instance]
