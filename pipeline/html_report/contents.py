"""What the report shows, as plain data; it knows nothing of ML Metadata, files or HTML."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence

from components.evaluator.scores import Score, Slice
from pipeline.lineage import Run
from trainer_module.stability.outcome import Attempt


@dataclasses.dataclass(frozen=True)
class Day:
    """A day of the calendar.

    Attributes:
        date: the day.
        run: its newest run; None for a day between others that was never run.
        earlier: its runs before that, oldest first.
        held: why it is or was left out of training; empty if it was not.
        scores: what the newest run's model reached, a task each.
    """

    date: datetime.date
    run: Run | None
    earlier: Sequence[Run] = ()
    held: Sequence[str] = ()
    scores: Sequence[Score] = ()

    @property
    def outcome(self) -> str:
        """`pushed`, `blocked`, `failed`, `running`, or `none` for a day without a run."""
        return self.run.outcome if self.run else "none"


@dataclasses.dataclass(frozen=True)
class Version:
    """The version that is served.

    Attributes:
        number: the version.
        run_date: the day it was evaluated on.
        trained_through: the newest day it was trained on.
        rolled_back_to: the version whose content it is, if it came by a rollback.
        digest: SHA-256 of its files; empty if it was pushed without.
        faults: how its files differ from what was evaluated.
        lineage: the runs its weights went through, newest first.
    """

    number: int
    run_date: datetime.date
    trained_through: datetime.date
    rolled_back_to: int | None
    digest: str
    faults: Sequence[str]
    lineage: Sequence[Run]


@dataclasses.dataclass(frozen=True)
class StepCurves:
    """Statistics of an attempt's steps, thinned to what a chart can show.

    Attributes:
        step: first step of each stretch.
        loss: running median at its end; None where none is finite.
        peak: largest finite loss of the stretch.
        auc: by task, the newest of the stretch.
        sigma: by layer, the running median of its clipping factor.
        not_finite: steps whose loss is not finite.
    """

    step: Sequence[int]
    loss: Sequence[float | None]
    peak: Sequence[float | None]
    auc: Mapping[str, Sequence[float | None]]
    sigma: Mapping[str, Sequence[float | None]]
    not_finite: int


@dataclasses.dataclass(frozen=True)
class ShownAttempt(Attempt):
    """An attempt at a day's training, and its curves.

    Attributes:
        number: from 1.
        statistics: of its steps; None where they are not shown.
    """

    number: int = 1
    statistics: StepCurves | None = None


@dataclasses.dataclass(frozen=True)
class Training:
    """A day's training."""

    date: datetime.date
    verdict: str
    summary: str
    attempts: Sequence[ShownAttempt]

    @property
    def events(self) -> int:
        """Divergence events over all attempts."""
        return sum(len(attempt.events) for attempt in self.attempts)


@dataclasses.dataclass(frozen=True)
class Drift:
    """How far a field's values lie from those of other days, against its limit.

    Attributes:
        date: the run's day.
        field: the field.
        kind: `drift` of the day against the training days, or `skew` the other way round.
        measure: `L-infinity` or `Jensen-Shannon`.
        value: the distance.
        limit: of the spec.
    """

    date: datetime.date
    field: str
    kind: str
    measure: str
    value: float
    limit: float


@dataclasses.dataclass(frozen=True)
class Quarantined:
    """Malformed lines with one reason, of the newest run's days."""

    reason: str
    lines: int
    example: str


@dataclasses.dataclass(frozen=True)
class Report:
    """All that the page shows.

    Attributes:
        name: of the ranker.
        made: when.
        days: from the first day to the last, oldest first.
        served: the version that is served; None if none is.
        slices: those worth a look on the newest judged day, the worst first.
        slices_of: that day.
        trainings: by day, oldest first.
        drift: by day and field.
        quarantine: the most frequent reason first.
        unread: what could not be read, and why.
    """

    name: str
    made: datetime.datetime
    days: Sequence[Day]
    served: Version | None
    slices: Sequence[Slice] = ()
    slices_of: datetime.date | None = None
    trainings: Sequence[Training] = ()
    drift: Sequence[Drift] = ()
    quarantine: Sequence[Quarantined] = ()
    unread: Sequence[str] = ()

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in the order of the newest day that has them."""
        newest_first = (score.task for day in reversed(self.days) for score in day.scores)
        return list(dict.fromkeys(newest_first))

    @property
    def components(self) -> list[str]:
        """Names of the components in the order they ran in."""
        runs = [day.run for day in reversed(self.days) if day.run]
        longest = sorted(runs, key=lambda run: -len(run.components))
        return list(dict.fromkeys(name for run in longest for name in run.components))
