"""The report's charts, as Vega-Lite specifications made by Altair.

Colours are names of the page's CSS variables, so that a chart follows the page from light to
dark without being drawn anew. Keys are the page's, which wraps them on a phone.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.html_report.contents import Report, ShownAttempt, StepCurves
from pipeline.imports import without

# jsonschema, which Altair imports, would make grammars of addresses with it, for formats that no
# chart has: a second.
with without("rfc3987_syntax"):
    import altair as alt
    from altair.utils.schemapi import debug_mode

_SERIES = tuple(f"var(--series-{number})" for number in range(1, 9))
"""Okabe and Ito's palette, which the colour-blind can tell apart, for each background."""
_SHAPES = {"pushed": "circle", "blocked": "square", "failed": "cross", "running": "diamond"}
_LINES = {
    "model": ("var(--series-1)", [1, 0]),
    "served then": ("var(--series-2)", [7, 3]),
    "trivial": ("var(--muted)", [2, 3]),
    "gate": ("var(--failed)", [1, 0]),
}
_VERDICTS = {
    "healthy": "var(--pushed)",
    "recovered": "var(--blocked)",
    "diverged": "var(--failed)",
    "unjudged": "var(--muted)",
}
_FATES = {
    "trained": "var(--series-1)",
    "evaluated": "var(--series-3)",
    "unused": "var(--line-strong)",
    "duplicates": "var(--series-6)",
    "quarantined": "var(--failed)",
}
_FEW_DAYS = 14
"""Up to as many days have bars of one width, and points that show a line of a single day."""
_DAY_LABELS = 6
_CONFIG = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelFontSize": 11,
        "labelOverlap": True,
        "tickCount": 5,
    },
}


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart for the page.

    Attributes:
        spec: Vega-Lite.
        key: what it shows: name, colour and dashes (CSS's `solid`, `dashed` or `dotted`).
    """

    spec: dict[str, Any]
    key: Sequence[tuple[str, str, str]] = ()


def unchecked() -> contextlib.AbstractContextManager[None]:
    """Altair checks no data in it; checking each row takes most of the time that charts take."""
    checks: contextlib.AbstractContextManager[None] = debug_mode(False)
    return checks


def task_chart(report: Report, task: str) -> Chart:
    """A task over the days: the model, the served one, what is trivial, and the gate."""
    lines, points = [], []
    for day in report.days:
        for score in day.scores:
            if score.task != task:
                continue
            values = (score.candidate, score.served, score.trivial, score.gate)
            known = {
                name: _short(value)
                for name, value in zip(_LINES, values, strict=True)
                if value is not None
            }
            lines += [
                {"date": str(day.date), "series": name, "value": value}
                for name, value in known.items()
            ]
            low, high = score.interval or (None, None)
            point: dict[str, Any] = {"value": _short(score.candidate), "low": low, "high": high}
            points.append({**point, **known, "date": str(day.date), "verdict": day.outcome})
    names = [name for name in _LINES if any(line["series"] == name for line in lines)]
    x = _days(report)
    value = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False, nice=True))
    line = (
        alt.Chart(alt.InlineData(values=lines))
        .mark_line(strokeWidth=1.7, point=_dots(report))
        .encode(
            x=x,
            y=value,
            color=_color("series", {name: _LINES[name][0] for name in names}),
            strokeDash=alt.StrokeDash(
                "series:N",
                legend=None,
                scale=alt.Scale(domain=names, range=[_LINES[name][1] for name in names]),
            ),
        )
    )
    verdicts = [name for name in _SHAPES if any(p["verdict"] == name for p in points)]
    marks = (
        alt.Chart(alt.InlineData(values=points))
        .mark_point(filled=True, size=60, opacity=1)
        .encode(
            x=x,
            y=value,
            color=_color("verdict", {name: f"var(--{name})" for name in verdicts}),
            shape=alt.Shape(
                "verdict:N",
                legend=None,
                scale=alt.Scale(domain=verdicts, range=[_SHAPES[v] for v in verdicts]),
            ),
            tooltip=_tooltip("date:N", "verdict:N", *(f"{name}:Q" for name in names)),
        )
    )
    layers = [line, marks]
    if any(point["low"] is not None for point in points):
        band = alt.Chart(alt.InlineData(values=points)).mark_area(
            color="var(--series-1)", opacity=0.18
        )
        layers.insert(0, band.encode(x=x, y=alt.Y("low:Q", title=None), y2=alt.Y2("high:Q")))
    chart = alt.layer(*layers).resolve_scale(color="independent", shape="independent")
    styles = dict.fromkeys(names, "solid") | {"served then": "dashed", "trivial": "dotted"}
    key = [(name, _LINES[name][0], styles[name]) for name in names]
    return _finished(chart, f"{task} by day: {', '.join(names)}", key)


def events_chart(report: Report) -> Chart:
    """What became of each run's events."""
    rows = [
        {"date": str(day.date), "fate": fate, "events": day.run.events.get(fate, 0)}
        for day in report.days
        if day.run and day.run.events
        for fate in _FATES
    ]
    return _stacked(report, rows, "fate", "events", _FATES, "Events of each run by their fate")


def cost_chart(report: Report) -> Chart:
    """Seconds of each component by day."""
    rows = [
        {"date": str(day.date), "component": name, "seconds": round(seconds, 1)}
        for day in report.days
        if day.run
        for name, seconds in day.run.component_seconds.items()
    ]
    colors = _cycle(report.components)
    return _stacked(report, rows, "component", "seconds", colors, "Seconds of each component")


def attempts_chart(report: Report) -> Chart:
    """Attempts of each day's training, and how it ended."""
    rows = [
        {"date": str(t.date), "verdict": t.verdict, "attempts": len(t.attempts)}
        for t in report.trainings
    ]
    colors = {n: c for n, c in _VERDICTS.items() if any(row["verdict"] == n for row in rows)}
    text = "Attempts at each day's training"
    return _stacked(report, rows, "verdict", "attempts", colors, text, height=90)


def drift_chart(report: Report) -> Chart:
    """Each field's distance as a share of its limit."""
    rows = [
        {
            "date": str(drift.date),
            "field": f"{drift.field}, {drift.kind}",
            "share": _short(drift.value / drift.limit),
            "distance": _short(drift.value),
            "limit": _short(drift.limit),
        }
        for drift in report.drift
        if drift.limit
    ]
    colors = _cycle(dict.fromkeys(str(row["field"]) for row in rows))
    line = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_line(point=alt.OverlayMarkDef(size=30), strokeWidth=1.6)
        .encode(
            x=_days(report),
            y=alt.Y("share:Q", title=None, axis=alt.Axis(format="%")),
            color=_color("field", colors),
            tooltip=_tooltip("date:N", "field:N", "distance:Q", "limit:Q"),
        )
    )
    limit = (
        alt.Chart(alt.InlineData(values=[{"share": 1}]))
        .mark_rule(color="var(--failed)", strokeWidth=1.4)
        .encode(y=alt.Y("share:Q"))
    )
    key = [*_solid(colors), ("limit", "var(--failed)", "solid")]
    return _finished(alt.layer(line, limit), "Drift of fields as a share of their limits", key)


def loss_chart(attempts: Sequence[ShownAttempt]) -> Chart:
    """Loss over the steps of a training's attempts, with its events."""
    rows = [
        {"step": step, "attempt": f"attempt {attempt.number}", "loss": loss, "peak": peak}
        for attempt, statistics in _with_steps(attempts)
        for step, loss, peak in zip(statistics.step, statistics.loss, statistics.peak, strict=True)
    ]
    positive = all(loss is None or loss > 0 for _, s in _with_steps(attempts) for loss in s.loss)
    scale = alt.Scale(type="log" if positive else "symlog", nice=False)
    colors = _cycle(dict.fromkeys(str(row["attempt"]) for row in rows))
    base = alt.Chart(alt.InlineData(values=rows)).encode(x=_STEP, color=_color("attempt", colors))
    peaks = base.mark_line(strokeWidth=0.7, opacity=0.4).encode(
        y=alt.Y("peak:Q", title=None, scale=scale)
    )
    loss = base.mark_line(strokeWidth=1.8).encode(y=alt.Y("loss:Q", title=None, scale=scale))
    chart = alt.layer(*_shades(attempts), peaks, loss)
    return _finished(chart, "Loss over steps", _solid(colors) if len(colors) > 1 else ())


def auc_chart(attempts: Sequence[ShownAttempt]) -> Chart:
    """Streaming AUC of the last attempt, a line a task."""
    last = _with_steps(attempts)[-1:]
    values = {task: column for _, s in last for task, column in s.auc.items()}
    chance = (
        alt.Chart(alt.InlineData(values=[{"value": 0.5}]))
        .mark_rule(color="var(--muted)", strokeDash=[2, 3])
        .encode(y=alt.Y("value:Q"))
    )
    lines = _lines(last, values, alt.Scale(zero=False))
    chart = alt.layer(*_shades([attempt for attempt, _ in last]), chance, lines)
    key = [*_solid(_cycle(values)), ("chance", "var(--muted)", "dotted")]
    return _finished(chart, "AUC over a fading window of steps, by task", key)


def sigma_chart(attempts: Sequence[ShownAttempt]) -> Chart:
    """Clipping factors of the last attempt, a line a layer."""
    last = _with_steps(attempts)[-1:]
    values = {
        layer: [None if value is None or value <= 0 else value for value in column]
        for _, statistics in last
        for layer, column in statistics.sigma.items()
    }
    lines = _lines(last, values, alt.Scale(type="log", nice=False))
    chart = alt.layer(*_shades([attempt for attempt, _ in last]), lines)
    return _finished(chart, "Clipping factor sigma by layer over steps", _solid(_cycle(values)))


def _with_steps(attempts: Sequence[ShownAttempt]) -> list[tuple[ShownAttempt, StepCurves]]:
    return [(a, a.statistics) for a in attempts if a.statistics]


_STEP = alt.X("step:Q", title=None, scale=alt.Scale(nice=False), axis=alt.Axis(grid=False))


def _lines(
    attempts: Sequence[tuple[ShownAttempt, StepCurves]],
    values: Mapping[str, Sequence[float | None]],
    scale: alt.Scale,
) -> alt.Chart:
    rows = [
        {"step": step, "name": name, "value": value}
        for _, statistics in attempts
        for name, column in values.items()
        for step, value in zip(statistics.step, column, strict=True)
    ]
    return (
        alt.Chart(alt.InlineData(values=rows))
        .mark_line(strokeWidth=1.6)
        .encode(
            x=_STEP,
            y=alt.Y("value:Q", title=None, scale=scale),
            color=_color("name", _cycle(values)),
        )
    )


def _shades(attempts: Sequence[ShownAttempt]) -> list[alt.Chart]:
    rows = [
        {
            "step": event.start,
            "end": max(event.ended or attempt.steps, event.start + 1),
            "event": str(event),
        }
        for attempt in attempts
        for event in attempt.events
    ]
    if not rows:
        return []
    return [
        alt.Chart(alt.InlineData(values=rows))
        .mark_rect(color="var(--failed)", opacity=0.16)
        .encode(x=_STEP, x2=alt.X2("end:Q"), tooltip=_tooltip("event:N"))
    ]


def _days(report: Report) -> alt.X:
    """Each day of the calendar has its place, and few of them their name."""
    dates = [str(day.date) for day in report.days]
    every = -(-len(dates) // _DAY_LABELS)
    axis = alt.Axis(
        values=dates[:: max(every, 1)],
        labelExpr="utcFormat(toDate(datum.value), '%-d %b')",
        labelAngle=0,
        grid=False,
    )
    return alt.X("date:O", title=None, scale=alt.Scale(domain=dates), axis=axis)


def _dots(report: Report) -> alt.OverlayMarkDef | bool:
    return alt.OverlayMarkDef(size=18) if len(report.days) <= _FEW_DAYS else False


def _stacked(
    report: Report,
    rows: Sequence[Mapping[str, Any]],
    name: str,
    value: str,
    colors: Mapping[str, str],
    description: str,
    height: int = 190,
) -> Chart:
    order = {key: number for number, key in enumerate(colors)}
    ordered = [{**row, "order": order[str(row[name])]} for row in rows]
    base = alt.Chart(alt.InlineData(values=ordered))
    totals: collections.Counter[str] = collections.Counter()
    for row in rows:
        totals[row["date"]] += row[value]
    # No half attempts on the axis.
    ticks = max(min(5, round(max(totals.values(), default=1))), 1)
    bars = base.mark_bar(size=22) if len(report.days) <= _FEW_DAYS else base.mark_bar()
    chart = bars.encode(
        x=_days(report),
        y=alt.Y(f"{value}:Q", title=None, stack=True, axis=alt.Axis(format="~s", tickCount=ticks)),
        color=_color(name, colors),
        order=alt.Order("order:Q"),
        tooltip=_tooltip("date:N", f"{name}:N", f"{value}:Q"),
    )
    return _finished(chart, description, _solid(colors), height)


def _tooltip(*fields: str) -> list[alt.Tooltip]:
    """What Altair makes of fields' names takes it milliseconds each, as for any channel."""
    return [alt.Tooltip(field) for field in fields]


def _color(name: str, colors: Mapping[str, str]) -> alt.Color:
    scale = alt.Scale(domain=list(colors), range=list(colors.values()))
    return alt.Color(f"{name}:N", scale=scale, legend=None)


def _cycle(names: Sequence[str] | Mapping[str, Any]) -> dict[str, str]:
    return {name: _SERIES[number % len(_SERIES)] for number, name in enumerate(names)}


def _solid(colors: Mapping[str, str]) -> list[tuple[str, str, str]]:
    return [(name, color, "solid") for name, color in colors.items()]


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _finished(
    chart: alt.TopLevelMixin,
    description: str,
    key: Sequence[tuple[str, str, str]],
    height: int = 200,
) -> Chart:
    sized = chart.properties(width="container", height=height, description=description)
    spec = sized.to_dict(validate=False)
    spec["config"] = _CONFIG
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    return Chart(spec, key)
