"""The plan of one run: what every component of the run must agree on."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from collections.abc import Mapping

from components import storage
from schemas.errors import RankerError
from schemas.loading import parse_spec
from schemas.spec import RankingSpec

_SPEC_FILE = "spec.yaml"
_PLAN_FILE = "plan.json"


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """What a run was told to do, and what it starts from: from nothing, if nothing else is said.

    Attributes:
        spec: the ranking spec with overrides applied.
        run_date: the day that the model is evaluated on.
        window: the days before it that training may use, oldest first.
        base_version: served version whose weights training starts from; None for a cold start.
        base_trained_through: newest day that version was trained on.
        base_seen: what it knows of days, see `ModelInfo.seen`.
        start_reason: why the start is warm or cold, for people.
        baseline_version: served version that the gate compares with; None for no comparison.
        baseline_reason: why there is a comparison or none, for people.
        served_version: the version that is served as the run is planned; None if none is.
        baseline_run_date: day on which that version was evaluated.
        baseline_seen: what it knows of days.
    """

    spec: RankingSpec
    run_date: datetime.date
    window: tuple[datetime.date, ...]
    base_version: int | None = None
    base_trained_through: datetime.date | None = None
    base_seen: Mapping[str, str] = dataclasses.field(default_factory=dict)
    start_reason: str = ""
    baseline_version: int | None = None
    baseline_reason: str = ""
    served_version: int | None = None
    baseline_run_date: datetime.date | None = None
    baseline_seen: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def warm_start(self) -> bool:
        """Whether training starts from a served version's weights."""
        return self.base_version is not None

    def base_missed(self, day: datetime.date) -> bool:
        """Whether training starts from a version that had no events of `day`, but newer ones.

        Of a day before its own window the versions before it may have had some.
        """
        through, seen = self.base_trained_through, self.base_seen
        return (
            through is not None
            and day <= through
            and str(day) not in seen
            and any(known < str(day) for known in seen)
        )

    def train_share(self, day: datetime.date) -> float:
        """Share of `day`'s events, 0 to 1, that this run trains on.

        Days that the weights have not seen count in full, the others by the replay share.
        """
        through = self.base_trained_through
        if through is None or day > through or self.base_missed(day):
            return 1.0
        return self.spec.training.replay_share

    def save(self, directory: str) -> None:
        """Writes the plan into `directory`, which may be remote."""
        storage.makedirs(directory)
        content = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "spec"
        }
        with storage.open(os.path.join(directory, _SPEC_FILE), "w") as file:
            file.write(self.spec.to_yaml())
        with storage.open(os.path.join(directory, _PLAN_FILE), "w") as file:
            file.write(json.dumps(content, default=str, indent=2))


def load_plan(directory: str) -> RunPlan:
    """Reads the plan that `RunPlan.save` wrote into `directory`.

    Raises:
        RankerError: it is damaged.
    """
    spec_file, plan_file = (os.path.join(directory, name) for name in (_SPEC_FILE, _PLAN_FILE))
    with storage.open(spec_file, "r") as file:
        spec = parse_spec(file.read(), source=spec_file)
    with storage.open(plan_file, "r") as file:
        text = file.read()
    try:
        return _parsed(text, spec)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RankerError(f"{plan_file}: damaged ({error!r}). Run the day again") from error


def _parsed(text: str, spec: RankingSpec) -> RunPlan:
    content = json.loads(text)
    # A day may go on under another release than the one that planned it.
    known = {field.name for field in dataclasses.fields(RunPlan)} & content.keys()
    return RunPlan(
        **{
            **{name: content[name] for name in known},
            "spec": spec,
            "run_date": datetime.date.fromisoformat(content["run_date"]),
            "window": tuple(map(datetime.date.fromisoformat, content["window"])),
            **{
                name: datetime.date.fromisoformat(content[name])
                for name in ("base_trained_through", "baseline_run_date")
                if content.get(name) is not None
            },
        }
    )
