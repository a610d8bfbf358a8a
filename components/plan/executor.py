"""The work of `Plan`."""

from __future__ import annotations

import datetime
import os
from typing import Any

from absl import logging
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.utils import io_utils, path_utils

from components import properties, serving_store
from components.channels import Channels, Given
from components.plan.planning import make_plan
from components.plan.run_date import day_is_the_clocks, resolve_run_date
from schemas.errors import SpecError
from schemas.loading import parse_overrides, parse_spec
from schemas.tfdv_schema import tfdv_schema


class Executor(base_executor.BaseExecutor):
    """Resolves the plan and links what of the served model the run needs."""

    def Do(  # noqa: N802
        self, input_dict: Given, output_dict: Given, exec_properties: dict[str, Any]
    ) -> None:
        """Does the work; see `component.Plan`."""
        path = exec_properties["spec_path"]
        try:
            with fileio.open(path, "r") as file:
                text = file.read()
        except Exception as error:
            raise SpecError(f"{path}: cannot be read: {error}") from error
        spec = parse_spec(text, path, parse_overrides(exec_properties["overrides"]))
        versions = serving_store.list_versions(exec_properties["serving_dir"])
        run_date = resolve_run_date(
            exec_properties["run_date"],
            exec_properties["schedule_time"],
            exec_properties["run_date_lag_days"],
            datetime.datetime.now(datetime.timezone.utc),
        )
        if day_is_the_clocks(exec_properties["run_date"], exec_properties["schedule_time"]):
            logging.warning(
                "%s: the day was taken from the clock, since no time of a schedule was given "
                "(Kubeflow Pipelines gives it from 2.17.0 on); a run that starts on a later day "
                "than it was meant for takes a wrong day: give run_date",
                run_date,
            )
        plan = make_plan(spec, run_date, versions)
        logging.info("%s: %s; %s", plan.run_date, plan.start_reason, plan.baseline_reason)

        outputs = Channels(output_dict)
        plan_artifact = outputs["plan"]
        plan.save(plan_artifact.uri)
        properties.RUN_DATE.set(plan_artifact, str(plan.run_date))
        properties.START.set(plan_artifact, plan.start_reason)
        properties.COMPARISON.set(plan_artifact, plan.baseline_reason)
        if plan.served_version is not None:
            properties.SERVED_VERSION.set(plan_artifact, plan.served_version)
        io_utils.write_pbtxt_file(
            os.path.join(outputs.uri("schema"), "schema.pbtxt"),
            tfdv_schema(spec),
        )
        by_version = {version.version: version for version in versions}
        base = by_version.get(plan.base_version or 0)
        if base is not None:
            properties.BASE_MODEL.set(plan_artifact, base.info.model_uri)
        _link_served(
            base,
            outputs["base_model"],
            training_state=True,
            absent=plan.start_reason,
        )
        _link_served(
            by_version.get(plan.baseline_version or 0),
            outputs["baseline_model"],
            training_state=False,
            absent=plan.baseline_reason,
        )


def _link_served(
    version: serving_store.ServedVersion | None,
    model: types.Artifact,
    *,
    training_state: bool,
    absent: str,
) -> None:
    """Links a served version's training state, or all but that, into a Model artifact."""
    properties.COPY_OF.set(model, version.path if version else "")
    if version is None:
        # Object stores have no empty folders, and an artifact must hold something.
        io_utils.write_string_file(os.path.join(model.uri, "ABSENT"), absent)
        return
    target = path_utils.serving_model_dir(model.uri)
    serving_store.link_out(version, target, training_state=training_state)
