"""One day's run under TFX's BeamDagRunner, in a process of its own.

TFX, TensorFlow and Beam write to standard output and error at will, from C++ too; as a
process of its own a run has a log file of its own, and a crash of native code is the end of
one run only.

Usage: python -m pipeline.beam_run REQUEST.json --direct_running_mode=in_memory
(the option is read by the Beam pipeline that BeamDagRunner itself makes)
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import sys
import traceback

from pipeline.flink.check import check_workers, with_defaults
from pipeline.imports import without
from pipeline.workspace import Workspace


@dataclasses.dataclass(frozen=True)
class Request:
    """What to run.

    Attributes:
        workspace: root of the workspace.
        pipeline_name: the pipeline's name.
        spec_path: the ranking spec's YAML file.
        overrides: assignments such as `training.learning_rate=0.1`.
        run_date: YYYY-MM-DD.
        logs_root: folder of the daily logs.
        beam_args: Beam options of the components.
    """

    workspace: str
    pipeline_name: str
    spec_path: str
    overrides: tuple[str, ...]
    run_date: str
    logs_root: str
    beam_args: tuple[str, ...]


def run(request: Request) -> None:
    """Runs one day; what a component raises comes out of Beam as text, and is told before that."""
    from apache_beam.options.pipeline_options import PipelineOptions

    # Beam parses them in the middle of a component otherwise; here argparse says what is wrong
    # with them before there is anything to undo.
    PipelineOptions(list(request.beam_args)).get_all_options()
    check_workers(with_defaults(request.beam_args), request.workspace)

    # TFX's Kubernetes client would check manifests with it, by grammars that take a second.
    with without("kubernetes_validate"):
        from tfx.orchestration.metadata import sqlite_metadata_connection_config

        from pipeline.dag import RunParameters, create_pipeline
        from pipeline.dag_runner import DagRunner

    _freeze()
    _end_bundles_at_once()
    workspace = Workspace(request.workspace)
    DagRunner().run(
        create_pipeline(
            request.pipeline_name,
            workspace.artifacts,
            RunParameters(
                spec_path=request.spec_path,
                overrides=json.dumps(request.overrides),
                run_date=request.run_date,
                logs_root=request.logs_root,
                day_store=workspace.day_store,
                serving_dir=workspace.serving,
                checkpoint_root=workspace.checkpoints,
            ),
            beam_pipeline_args=request.beam_args,
            metadata_connection_config=sqlite_metadata_connection_config(workspace.metadata_path),
        )
    )


def _freeze() -> None:
    """Takes what is there out of garbage collection for good, and turns that on."""
    gc.freeze()
    gc.enable()


def _end_bundles_at_once() -> None:
    """Has Beam's sampler of states look a hundred times a second.

    It sleeps between two looks, by default up to 0.2 s, and the end of each bundle waits for it.
    Beam has no option for that.
    """
    from apache_beam.runners.worker.statesampler import StateSampler

    StateSampler.__init__ = functools.partialmethod(  # type: ignore[assignment]
        StateSampler.__init__, sampling_period_ms=10
    )


def main(request_file: str) -> None:
    """Runs the request, tells an error and notes it in ML Metadata; exits with its code."""
    # The imports make millions of objects, which all stay: to walk them again and again takes a
    # fifth of their time.
    gc.disable()
    from absl import logging

    from components.serving_check.process import started_early
    from pipeline import failure

    logging.set_verbosity(logging.INFO)
    with open(request_file, encoding="utf-8") as file:
        content = json.load(file)
    request = Request(
        **{
            **content,
            "overrides": tuple(content["overrides"]),
            "beam_args": tuple(content["beam_args"]),
        }
    )
    try:
        # On another core than the imports that come now.
        with started_early():
            run(request)
    except Exception as error:
        traceback.print_exc()
        told = failure.tell(error)
        from pipeline import lineage

        store = lineage.open_store(Workspace(request.workspace).metadata_path)
        if store is not None:
            lineage.set_error(store, told.message)
        sys.exit(told.exit_code)
    finally:
        # Or Python walks them all once more as it ends: seconds.
        _freeze()


if __name__ == "__main__":
    main(sys.argv[1])
