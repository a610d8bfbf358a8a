"""Which day a run is for."""

from __future__ import annotations

import datetime

from schemas.errors import RankerError

_MACROS = ("{{", "[[")


def resolve_run_date(
    given: str, schedule_time: str, lag_days: int, now: datetime.datetime
) -> datetime.date:
    """Returns the day that a run evaluates on.

    It is the one given; else the UTC day of the schedule's time, so that a run that starts
    late or is started again keeps its day; else today's in UTC; the last two less `lag_days`.

    Args:
        given: YYYY-MM-DD, or empty.
        schedule_time: RFC 3339, for which time the orchestrator made the run. Empty, or a
            macro that the orchestrator left as it was (Kubeflow Pipelines before 2.17), if it
            does not say.
        lag_days: whole days until a day's logs are there.
        now: the current time, with a time zone.

    Raises:
        RankerError: a text cannot be read.
    """
    if given.strip():
        try:
            return datetime.date.fromisoformat(given.strip())
        except ValueError as error:
            raise RankerError(f"run date {given!r}: expected a day as YYYY-MM-DD") from error
    time = _parse_time(schedule_time.strip()) or now
    return time.astimezone(datetime.timezone.utc).date() - datetime.timedelta(days=lag_days)


def day_is_the_clocks(given: str, schedule_time: str) -> bool:
    """Whether neither a day nor a time of the schedule says which day a run is for."""
    return not given.strip() and _parse_time(schedule_time.strip()) is None


def _parse_time(text: str) -> datetime.datetime | None:
    if not text or text.startswith(_MACROS):
        return None
    # Python 3.10 reads neither the Z nor a fraction of other than 3 or 6 digits.
    seconds, dot, rest = text.replace("Z", "+00:00").partition(".")
    zone = rest.lstrip("0123456789")
    try:
        time = datetime.datetime.fromisoformat(seconds + zone if dot else seconds)
    except ValueError as error:
        raise RankerError(
            f"schedule time {text!r}: expected a time as YYYY-MM-DDThh:mm:ssZ"
        ) from error
    return time if time.tzinfo else time.replace(tzinfo=datetime.timezone.utc)
