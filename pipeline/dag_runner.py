"""TFX's BeamDagRunner, with the error of a component kept as it was raised."""

from __future__ import annotations

from tfx.orchestration.beam import beam_dag_runner

from pipeline import failure


class _Node(beam_dag_runner.PipelineNodeAsDoFn):
    """A component, told by Beam to run."""

    def _run_node(self) -> None:
        try:
            super()._run_node()
        except Exception as error:
            # Beam hands on its text alone.
            failure.tell(error)
            raise


class DagRunner(beam_dag_runner.BeamDagRunner):
    """Runs components one after another, in this process; the first error is told."""

    _PIPELINE_NODE_DO_FN_CLS = _Node
