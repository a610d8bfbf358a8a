"""What the days before an impression's day say about what its user viewed.

Nothing here looks at the impression's own day: days are gone through in order, and each is
counted only after its rows have been described.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def last_chosen(rows: pd.DataFrame, chosen: pd.Series, column: str, size: int) -> pd.Series:
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
