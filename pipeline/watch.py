"""After the push: the served version judged on a day that it had not seen, against the one before.

The gate judges a model on one day. On later days the same bounds on the change must hold
between the served version and the version it replaced; where they do not, the version before
is the better one to serve.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import shutil
from collections.abc import Iterator, Sequence

from components.serving_store import ServedVersion
from pipeline.flink.check import with_defaults
from pipeline.workspace import Workspace
from schemas.errors import RankerError
from schemas.spec import RankingSpec


@dataclasses.dataclass(frozen=True)
class Watched:
    """How the served version compares on a later day.

    Attributes:
        date: the day.
        served: the served version.
        before: the version that it replaced.
        reasons: bounds on the change that do not hold; empty if the served one may stay.
        notes: other bounds that do not hold, and what was not counted.
    """

    date: datetime.date
    served: ServedVersion
    before: ServedVersion
    reasons: tuple[str, ...]
    notes: tuple[str, ...]


def choose_versions(versions: Sequence[ServedVersion]) -> tuple[ServedVersion, ServedVersion]:
    """Returns the served version and the newest before it with another model.

    Raises:
        RankerError: there are no two, or they predict different tasks.
    """
    if not versions:
        raise RankerError("nothing is being served yet; there is nothing to watch")
    served = versions[-1]
    others = [v for v in versions if v.info.model_uri != served.info.model_uri]
    if not others:
        raise RankerError(
            f"version {served.version} is served and no version with another model is kept; "
            "there is nothing to compare it with"
        )
    if others[-1].info.tasks_fingerprint != served.info.tasks_fingerprint:
        raise RankerError(
            f"versions {others[-1].version} and {served.version} predict different tasks and "
            "cannot be compared"
        )
    return served, others[-1]


def newest_day(logs_root: str, after: datetime.date) -> datetime.date:
    """Returns the newest day of the logs after a day.

    Raises:
        RankerError: there is none.
    """
    from components.daily_example_gen.sampling import list_days

    newest = list_days(logs_root)[-1]
    if newest <= after:
        raise RankerError(f"{logs_root}: no day after {after}, the served version's, has come yet")
    return newest


@contextlib.contextmanager
def _scratch(workspace: Workspace) -> Iterator[str]:
    """A folder in the workspace, so that the day's shards are linked and not copied.

    Its name is always the same: what a killed watch left goes with the next one.
    """
    folder = os.path.join(workspace.root, ".watch")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def watch(
    workspace: Workspace,
    spec: RankingSpec,
    logs_root: str,
    date: datetime.date,
    versions: Sequence[ServedVersion],
    beam_args: Sequence[str],
) -> Watched:
    """Judges the served version on a day after its own, by the Evaluator's code.

    Args:
        workspace: the workspace, locked.
        spec: the ranking spec.
        logs_root: folder of the daily logs.
        date: the day; it must be after the served version's.
        versions: the whole served versions, oldest first.
        beam_args: Beam options.

    Returns:
        What was found.

    Raises:
        RankerError: the day or the versions do not allow a comparison, or the day's data
            cannot be trusted.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from components.daily_example_gen.executor import make_examples
    from components.evaluator import results
    from components.evaluator.bounds import BASELINE, CANDIDATE
    from components.evaluator.executor import evaluate
    from components.evaluator.verdict import decide
    from components.plan.planning import make_plan
    from trainer_module import signatures

    served, before = choose_versions(versions)
    if date <= served.info.run_date:
        raise RankerError(
            f"{date} is not after {served.info.run_date}, on which version {served.version} was "
            "judged; give a later day"
        )

    def make_pipeline() -> beam.Pipeline:
        return beam.Pipeline(options=PipelineOptions(list(with_defaults(beam_args))))

    with _scratch(workspace) as folder:
        splits = {name: os.path.join(folder, f"Split-{name}") for name in ("train", "eval")}
        make_examples(
            make_plan(spec, date, versions),
            logs_root,
            workspace.day_store,
            splits,
            os.path.join(folder, "quarantine"),
            make_pipeline,
        )
        output = os.path.join(folder, "evaluation")
        with make_pipeline() as pipeline:
            models = {CANDIDATE: served.path, BASELINE: before.path}
            evaluate(pipeline, spec, models, splits["eval"], output)
        failures = results.load_breaches(output, spec)
        estimates = results.load_estimates(output)
    # Where both versions miss an absolute bound, the day is to blame, and going back does not help.
    counted = [f for f in failures if f.is_change or f.task == signatures.FINITE]
    verdict = decide(counted, estimates, spec)
    others = [str(failure) for failure in failures if failure not in counted]
    # A day that cannot tell is not a reason to go back.
    reasons = tuple(reason for reason in verdict.reasons if reason not in verdict.untold)
    return Watched(date, served, before, reasons, (*verdict.untold, *others, *verdict.notes))
