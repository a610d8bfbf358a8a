"""The report as one HTML page, which needs no network and no other file."""

from __future__ import annotations

import calendar
import contextlib
import functools
import importlib.metadata
import itertools
import json
import os
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import jinja2
import markupsafe

from components.pages import templates
from pipeline.html_report import charts
from pipeline.html_report.contents import Day, Report
from pipeline.lineage import Run

OPEN_MONTHS = 2
"""Months whose calendar and days are open when the page is."""

_WORDS = {
    "pushed": "pushed",
    "blocked": "blocked",
    "failed": "failed",
    "running": "running",
    "none": "not run",
}
_SIGNS = {"pushed": "✓", "blocked": "■", "failed": "✕", "running": "…", "none": ""}


def render(report: Report) -> str:
    """Returns the page; all text in it is escaped."""
    environment = templates.environment("pipeline.html_report")
    environment.filters |= {
        "duration": duration,
        "chart": chart_html,
        "word": _WORDS.__getitem__,
        "sign": _SIGNS.__getitem__,
    }
    environment.globals["vega"] = vega_script
    template = environment.get_template("page.html")
    with charts.unchecked():
        return _render(template, report)


def _render(template: jinja2.Template, report: Report) -> str:
    months = _months(report.days)
    judged = [day for day in report.days if day.scores]
    return template.render(
        report=report,
        charts=charts,
        months=months,
        open_months=OPEN_MONTHS,
        newest=report.days[-1] if report.days else None,
        judged=judged,
        counts=_counts(report.days),
        costs=_costs(report),
        newest_drift=[d for d in report.drift if d.date == report.drift[-1].date],
        shown_trainings=[
            training
            for training in reversed(report.trainings)
            if any(attempt.statistics for attempt in training.attempts)
        ],
    )


def duration(seconds: float) -> str:
    """Seconds, or minutes and seconds."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


@functools.cache
def vega_script() -> markupsafe.Markup:
    """Vega, Vega-Lite and Vega-Embed as one script.

    Joining them takes nearly two seconds of each run's end, so the script is kept in the user's
    cache folder where that can be written.
    """
    import vl_convert

    # Without a home, as a container's user may be, the path stays as it is and names no folder.
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    version = importlib.metadata.version("vl-convert-python")
    kept = pathlib.Path(folder) / "steadyrank" / f"vega-{version}.js"
    try:
        script = kept.read_text("utf-8")
    except OSError:
        # Its stub asks for an argument that has a default.
        script = vl_convert.javascript_bundle()  # type: ignore[call-arg]
        if kept.is_absolute():
            with contextlib.suppress(OSError):
                kept.parent.mkdir(parents=True, exist_ok=True)
                unfinished = kept.with_suffix(f".{os.getpid()}")
                unfinished.write_text(script, "utf-8")
                unfinished.replace(kept)
    # Nothing in a script may look like its end.
    return markupsafe.Markup(script.replace("</script", "<\\/script"))


def chart_html(chart: charts.Chart) -> markupsafe.Markup:
    """A chart's place with the chart as JSON in it, escaped as jinja's `tojson` does, and a key."""
    content = json.dumps(chart.spec, separators=(",", ":"), allow_nan=False)
    for character in "<>&'":
        content = content.replace(character, f"\\u{ord(character):04x}")
    items = markupsafe.Markup().join(
        markupsafe.Markup(
            '<li><i style="border-top: 3px {2} {1}" aria-hidden="true"></i>{0}</li>'
        ).format(*item)
        for item in chart.key
    )
    key = markupsafe.Markup('<ul class="key">{}</ul>').format(items) if items else ""
    place = f'<div class="chart"><script type="application/json">{content}</script></div>'
    return markupsafe.Markup(place) + key


def _months(days: Sequence[Day]) -> list[dict[str, Any]]:
    """Months with their days, the newest first; weeks of seven, from Monday."""
    months = []
    for name, group in itertools.groupby(days, lambda day: templates.month(day.date)):
        of_month = list(group)
        first = of_month[0].date
        by_number = {day.date.day: day for day in of_month}
        weeks = [
            [(number, by_number.get(number)) for number in week]
            for week in calendar.Calendar().monthdayscalendar(first.year, first.month)
        ]
        months.append({"name": name, "weeks": weeks, "days": of_month[::-1]})
    return months[::-1]


def _counts(days: Sequence[Day]) -> list[tuple[str, int]]:
    """How many days there are of each outcome, and how many were held."""
    found = [(word, sum(day.outcome == word for day in days)) for word in _WORDS]
    found.append(("held", sum(bool(day.held) for day in days)))
    return [(word, count) for word, count in found if count]


def _costs(report: Report) -> list[tuple[str, float, float, float]]:
    """Of each component: seconds of its newest run, the median, and the largest."""
    runs: list[Run] = [day.run for day in report.days if day.run]
    costs = []
    for name in report.components:
        seconds = [r.component_seconds[name] for r in runs if name in r.component_seconds]
        if seconds:
            costs.append((name, seconds[-1], statistics.median(seconds), max(seconds)))
    return costs
