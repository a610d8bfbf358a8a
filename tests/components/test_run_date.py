import datetime

import hypothesis.strategies as st
import pytest
from hypothesis import given
from planned import UTC

from components.plan.run_date import resolve_run_date
from schemas.errors import RankerError

NOW = datetime.datetime(2026, 1, 10, 0, 30, tzinfo=UTC)
MACRO = "{{$.pipeline_job_schedule_time_utc}}"


@pytest.mark.parametrize(
    ("given_date", "schedule_time", "lag_days", "expected"),
    [
        pytest.param("2026-01-03", "2026-01-09T06:00:00Z", 1, "2026-01-03", id="given"),
        pytest.param("", "2026-01-09T06:00:00Z", 1, "2026-01-08", id="schedule"),
        pytest.param(" ", "2026-01-09T06:00:00.25Z", 0, "2026-01-09", id="fraction of a second"),
        pytest.param("", "2026-01-09T01:00:00+02:00", 1, "2026-01-07", id="another time zone"),
        pytest.param("", "", 1, "2026-01-09", id="today"),
        pytest.param("", MACRO, 3, "2026-01-07", id="macro that the back end does not know"),
        pytest.param("", "[[ScheduledTime]]", 1, "2026-01-09", id="macro of version 1"),
    ],
)
def test_run_date_is_the_given_one_else_the_schedules_else_todays(
    given_date, schedule_time, lag_days, expected
):
    assert str(resolve_run_date(given_date, schedule_time, lag_days, NOW)) == expected


@given(time=st.datetimes(timezones=st.timezones()), lag_days=st.integers(0, 30))
def test_any_schedule_time_is_read_as_its_utc_day(time, lag_days):
    try:
        expected = time.astimezone(UTC).date() - datetime.timedelta(days=lag_days)
    except OverflowError:
        return
    if time.utcoffset().seconds % 60 == 0:
        assert resolve_run_date("", time.isoformat(), lag_days, NOW) == expected


@pytest.mark.parametrize(
    ("given_date", "schedule_time", "message"),
    [
        ("03.01.2026", "", r"run date '03\.01\.2026': expected a day as YYYY-MM-DD"),
        ("", "six o'clock", r"schedule time \"six o'clock\": expected a time as"),
    ],
)
def test_date_that_cannot_be_read_is_refused(given_date, schedule_time, message):
    with pytest.raises(RankerError, match=message):
        resolve_run_date(given_date, schedule_time, 1, NOW)
