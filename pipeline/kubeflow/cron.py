"""Times of a daily schedule, as Kubeflow's schedule controller reads them."""

from __future__ import annotations

import re

from schemas.errors import RankerError

_HIGHEST = (59, 59, 23)
"""Of seconds, minutes and hours."""


def check_cron(cron: str) -> None:
    """Refuses what the server would take for something else, or run more than once a day.

    Raises:
        RankerError: not six fields, or no single time of day.
    """
    fields = cron.split()
    example = "'0 0 3 * * *' is 03:00 every day"
    if len(fields) != 6 or not re.fullmatch(r"[\w*/,?\- ]+", cron):
        raise RankerError(f"cron {cron!r}: expected six fields, seconds first: {example}")
    for value, highest in zip(fields, _HIGHEST, strict=False):
        if not (value.isdecimal() and int(value) <= highest):
            raise RankerError(
                f"cron {cron!r}: {value!r} is not a single second, minute or hour, and a day is "
                f"run once: {example}"
            )
