"""Jinja's templates of a page, which escape all text; a page needs no network and no other file."""

from __future__ import annotations

import datetime
import functools
import math

import jinja2
import markupsafe

_ABSENT = "\N{EN DASH}"
_MONTHS = (
    "",
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def environment(package: str) -> jinja2.Environment:
    """Makes the templates in `package`'s folder `template` ready, and those in this one's."""
    loader = jinja2.ChoiceLoader(
        [jinja2.PackageLoader(p, "template") for p in (package, __package__)]
    )
    made = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"figure": figure, "gain": gain, "long_date": long_date}
    made.globals["asset"] = functools.partial(_asset, made)
    return made


def figure(value: float | None) -> str:
    """A metric or a distance, as people read it."""
    if value is None or not math.isfinite(value):
        return _ABSENT
    # A diverged regression may be off by any power of ten.
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.2e}"


def gain(value: float | None) -> str:
    """A difference with its sign; a true minus, which screen readers say."""
    return _ABSENT if value is None else f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def month(date: datetime.date) -> str:
    """`January 2026`, whatever the locale."""
    return f"{_MONTHS[date.month]} {date.year}"


def long_date(date: datetime.date) -> str:
    """`3 January 2026`."""
    return f"{date.day} {month(date)}"


def _asset(made: jinja2.Environment, name: str) -> markupsafe.Markup:
    """A file of a template's folder as it is: our own, and so no text to escape."""
    assert made.loader is not None
    source, _, _ = made.loader.get_source(made, name)
    return markupsafe.Markup(source)
