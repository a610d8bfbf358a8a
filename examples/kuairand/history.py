"""What the days before an impression's day say about its user, video, author, tag and tab.

Nothing here looks at the impression's own day: days are gone through in order, and each is
counted only after its rows have been described.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

BINARY = ("click", "long_view", "like", "profile_enter", "open_comment")
MEANS = ("log_play", "watch_ratio")

ENTITIES: Mapping[str, tuple[str, ...]] = {
    "user": ("user_id",),
    "video": ("video_id",),
    "author": ("author_id",),
    "tag": ("first_tag",),
    "user_tab": ("user_id", "tab"),
}
"""What is counted, by the columns that name it."""

_PERSONAL = ("user", "user_tab")
_STRENGTH = {"click": (8.0, 15.0), "long_view": (8.0, 15.0)}
_RARE_STRENGTH = (30.0, 60.0)
_MEAN_STRENGTH = 4.0
# What is believed of all impressions before the first day, and how firmly.
_PRIOR = np.array([0.4, 0.3, 0.02, 0.02, 0.04, 2.0, 0.5])
_PRIOR_STRENGTH = 50.0


def rates_and_counts(rows: pd.DataFrame) -> pd.DataFrame:
    """Describes each row by counts and smoothed rates over the days before its own.

    Args:
        rows: impressions with `date`, the columns of `ENTITIES`, and each of `BINARY` and
            `MEANS` as numbers; a mean's missing value counts as 0.

    Returns:
        For each entity `<entity>_count`, its impressions, `<entity>_<task>`, the logit of
        its smoothed rate, and `<entity>_<mean>`, its smoothed mean. float32 [rows].
    """
    signals = rows[[*BINARY, *MEANS]].fillna(0.0).to_numpy(np.float64)
    days = days_of(rows)
    overall = totals_before(np.zeros(len(rows), np.int64), days, signals)
    prior = _smoothed(overall, _PRIOR, np.full(len(_PRIOR), _PRIOR_STRENGTH))
    columns = {}
    for entity, names in ENTITIES.items():
        codes = rows.groupby(list(names), sort=False, dropna=False).ngroup().to_numpy()
        totals = totals_before(codes, days, signals)
        smoothed = _smoothed(totals, prior, _strengths(entity))
        columns[f"{entity}_count"] = totals[:, 0]
        for i, task in enumerate(BINARY):
            columns[f"{entity}_{task}"] = _logit(smoothed[:, i])
        for i, mean in enumerate(MEANS, start=len(BINARY)):
            columns[f"{entity}_{mean}"] = smoothed[:, i]
    return pd.DataFrame(columns, index=rows.index).astype(np.float32)


def recent(rows: pd.DataFrame, chosen: pd.Series, column: str, size: int) -> pd.Series:
    """Lists what each row's user chose last on the days before the row's own.

    Args:
        rows: impressions in order of time, with `date` and `user_id`.
        chosen: which of them the lists are made of, bool [rows].
        column: whose values are listed.
        size: length of the longest list.

    Returns:
        Lists of distinct values, the newest first; empty where there is nothing.
    """
    users = rows["user_id"].to_numpy()
    values = rows[column].to_numpy()
    picked = chosen.to_numpy(bool)
    result = np.empty(len(rows), object)
    newest: dict[Any, list[Any]] = {}
    for today in days_of(rows):
        for position in today:
            result[position] = newest.get(users[position], [])
        for position in today[picked[today]]:
            user, value = users[position], values[position]
            older = [other for other in newest.get(user, []) if other != value]
            newest[user] = [value, *older[: size - 1]]
    return pd.Series(result, index=rows.index)


def days_of(rows: pd.DataFrame) -> list[np.ndarray]:
    """Returns the positions of each day's rows, oldest day first."""
    numbers = pd.factorize(rows["date"], sort=True)[0]
    return [np.flatnonzero(numbers == day) for day in range(int(numbers.max(initial=-1)) + 1)]


def totals_before(codes: np.ndarray, days: Sequence[np.ndarray], signals: np.ndarray) -> np.ndarray:
    """Sums over earlier days of the rows with the same code.

    Args:
        codes: number of each row's entity, [rows].
        days: positions of each day's rows, oldest day first.
        signals: [rows, signals].

    Returns:
        float64 [rows, 1 + signals]: how many rows there were, then the sums of the signals.
    """
    values = np.column_stack([np.ones(len(codes)), signals])
    state = np.zeros((int(codes.max(initial=-1)) + 1, values.shape[1]))
    result = np.empty_like(values)
    for today in days:
        result[today] = state[codes[today]]
        for i in range(values.shape[1]):
            state[:, i] += np.bincount(codes[today], values[today, i], minlength=len(state))
    return result


def _smoothed(totals: np.ndarray, prior: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    return (totals[:, 1:] + strengths * prior) / (totals[:, :1] + strengths)


def _strengths(entity: str) -> np.ndarray:
    """How many impressions the prior weighs, for each signal."""
    column = 0 if entity in _PERSONAL else 1
    rates = [_STRENGTH.get(task, _RARE_STRENGTH)[column] for task in BINARY]
    return np.array([*rates, *[_MEAN_STRENGTH] * len(MEANS)])


def _logit(rate: np.ndarray) -> np.ndarray:
    return np.log(rate) - np.log1p(-rate)
