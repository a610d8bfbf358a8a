"""What a field is taken for, and the reason."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

from components.daily_example_gen.fields import Field
from pipeline.onboarding.columns import Column

REPEATS = 1.5
"""Events of a value from which on an id comes back."""
FEW = 32
"""Values up to which whole numbers are taken for a category, whatever their name."""
STAND_IN = "{:g} is the only value below 0: if it says that there is none, leave it empty"


class Role(enum.Enum):
    """What a field is to the ranker."""

    EVENT_ID = "id of the event"
    BINARY = "label of a binary task"
    REGRESSION = "label of a regression task"
    CATEGORICAL = "categorical feature"
    DENSE = "dense feature"
    UNUSED = "left out"


@dataclasses.dataclass(frozen=True)
class Guess:
    """What a field is taken for.

    Attributes:
        field: the field, as ingestion read it for the guess.
        role: what it is to the ranker.
        why: the reason, in words.
        column: what its values are; None where it could not be read.
        remark: what a person should look at; empty if nothing.
    """

    field: Field
    role: Role
    why: str
    column: Column | None = None
    remark: str = ""


def of_roles(guesses: Sequence[Guess], *roles: Role) -> list[Guess]:
    """The guesses of some roles, in their order."""
    return [guess for guess in guesses if guess.role in roles]
