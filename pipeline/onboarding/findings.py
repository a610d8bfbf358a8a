"""What `check` finds wrong, and where it says that it is."""

from __future__ import annotations

import dataclasses

from components.daily_example_gen.fields import ID, Field
from schemas.spec import RankingSpec


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something wrong.

    Attributes:
        where: field of the spec, or folder or file of the logs.
        what: what is wrong with it, and what to do.
        stops: whether a run would fail because of it, or be blocked.
    """

    where: str
    what: str
    stops: bool = False

    def __str__(self) -> str:
        return f"{'error' if self.stops else 'warning'}: {self.where}: {self.what}"


def place_of(spec: RankingSpec, field: Field) -> str:
    """Where the spec declares a field of an event."""
    for name, task in spec.tasks.items():
        if task.label == field.name:
            return f"tasks.{name}.label"
    return "events.id" if field.name == ID else f"features.{field.name}"
