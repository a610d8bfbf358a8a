"""How a run's plan follows from its spec, its date and what is being served."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from components.run_plan import RunPlan
from components.serving_store import ServedVersion
from schemas.errors import RankerError
from schemas.spec import RankingSpec


def make_plan(
    spec: RankingSpec, run_date: datetime.date, versions: Sequence[ServedVersion]
) -> RunPlan:
    """Decides the window, the start and the baseline of a run.

    A warm start takes the newest version that was pushed for an earlier day: training on
    the weights of the same day's run would count its events twice.

    Args:
        spec: the ranking spec.
        run_date: the day to evaluate on.
        versions: the whole served versions, oldest first; the last is being served.

    Returns:
        The plan.

    Raises:
        RankerError: a later day's model is being served, or another ranker's; a push would
            serve an older one, or take the other's place.
    """
    served = versions[-1] if versions else None
    if served is not None and served.info.ranker not in ("", spec.name):
        raise RankerError(
            f"the served version {served.version} is of the ranker {served.info.ranker!r}, and the "
            f"spec's name is {spec.name!r}: a push would take the other's place. Give another "
            f"serving folder, or, if it is the same ranker, keep its name"
        )
    if served is not None and served.info.run_date > run_date:
        raise RankerError(
            f"run date {run_date} is before that of the served version {served.version} "
            f"({served.info.run_date}); roll back to an earlier version first, or give "
            "another serving folder"
        )
    base, start_reason = _base(spec, run_date, versions)
    baseline, baseline_reason = _baseline(spec, served)
    days = range(spec.training.window_days, 0, -1)
    window = tuple(run_date - datetime.timedelta(days=day) for day in days)
    return RunPlan(
        spec=spec,
        run_date=run_date,
        window=window,
        base_version=base.version if base else None,
        base_trained_through=base.info.trained_through if base else None,
        base_seen=base.info.seen if base else {},
        start_reason=start_reason,
        baseline_version=baseline.version if baseline else None,
        baseline_reason=baseline_reason,
        served_version=served.version if served else None,
        baseline_run_date=baseline.info.run_date if baseline else None,
        baseline_seen=baseline.info.seen if baseline else {},
    )


def _base(
    spec: RankingSpec, run_date: datetime.date, versions: Sequence[ServedVersion]
) -> tuple[ServedVersion | None, str]:
    earlier = [version for version in versions if version.info.run_date < run_date]
    if not earlier:
        return None, "cold start: there is no version of an earlier day"
    if not spec.training.warm_start:
        return None, "cold start: training.warm_start is false"
    newest = earlier[-1]
    trained_through = newest.info.trained_through
    if newest.info.model_fingerprint != spec.model_fingerprint():
        return None, (
            f"cold start: the spec's features, tasks or model differ from those of version "
            f"{newest.version}, so its weights have another meaning"
        )
    reason = f"warm start from version {newest.version}, trained through {trained_through}"
    missed = (run_date - trained_through).days - spec.training.window_days - 1
    if missed > 0:
        reason += f"; {missed} days since have left the window and are not trained on"
    return newest, reason


def _baseline(spec: RankingSpec, served: ServedVersion | None) -> tuple[ServedVersion | None, str]:
    if served is None:
        return None, "absolute bounds only: nothing is being served yet"
    if served.info.tasks_fingerprint != spec.tasks_fingerprint():
        return None, (
            f"absolute bounds only: the tasks differ from those of the served version "
            f"{served.version}"
        )
    return served, f"compared with the served version {served.version}"
