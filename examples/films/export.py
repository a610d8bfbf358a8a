"""Writes the export that docs/tutorial.md starts from: `python -m examples.films.export FOLDER`."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

FIRST_DAY = pd.Timestamp("2026-03-01", tz="UTC")
GENRES = ("action", "animation", "comedy", "crime", "documentary", "drama", "horror", "romance")
DEVICES = ("android", "iOS", "TV", "web")

_USERS, _FILMS, _TASTES = 1500, 600, 8


def make_events(days: int, rows: int, seed: int = 0) -> pd.DataFrame:
    """Simulates impressions of films: users have tastes, films have genres and an appeal.

    Args:
        days: number of days from `FIRST_DAY` on, in UTC.
        rows: impressions a day.
        seed: of the random numbers.

    Returns:
        One impression a row, in the order of time, with field names as applications have them.
    """
    rng = np.random.default_rng(seed)
    genres = rng.dirichlet(np.full(_TASTES, 0.3), _FILMS)
    tastes = rng.normal(size=(_USERS, _TASTES))
    appeal, mood = rng.normal(0, 0.7, _FILMS), rng.normal(0, 0.5, _USERS)
    minutes = rng.integers(60, 200, _FILMS)
    named = ["|".join(GENRES[i] for i in np.flatnonzero(film > 0.2)) for film in genres]
    popular = rng.permutation(1 / np.arange(2, _FILMS + 2) ** 0.7)
    count = days * rows
    user = rng.choice(_USERS, count, p=(busy := rng.gamma(1.0, size=_USERS)) / busy.sum())
    film = rng.choice(_FILMS, count, p=popular / popular.sum())
    second = np.sort(rng.integers(86_400, size=(days, rows)), axis=1)
    time = int(FIRST_DAY.timestamp()) + 86_400 * np.repeat(np.arange(days), rows) + second.ravel()
    liking = appeal[film] + mood[user] + 1.5 * (tastes[user] * genres[film]).sum(axis=1)
    clicked = rng.random(count) < 1 / (1 + np.exp(0.8 - liking))
    watched = clicked * minutes[film] * rng.beta(1.5 + np.clip(liking, -1, 3), 1.5)
    rated = clicked & (rng.random(count) < 0.2)
    stars = np.clip(np.round(2 * (3.2 + 0.8 * liking + rng.normal(0, 0.5, count))) / 2, 0.5, 5)
    return pd.DataFrame(
        {
            "timestamp": time,
            "userId": user + 1,
            "filmId": film + 1,
            "genres": np.array(named, dtype=object)[film],
            "filmMinutes": minutes[film],
            "releaseYear": (1960 + rng.integers(66, size=_FILMS))[film],
            "deviceType": np.array(DEVICES)[rng.choice(4, count, p=[0.4, 0.3, 0.1, 0.2])],
            "isClicked": clicked.astype(int),
            "minutesWatched": watched.round(1),
            "rating": np.where(rated, stars, np.nan),
        }
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.films.export", description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--rows", type=int, default=8000, help="impressions a day")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    events = make_events(options.days, options.rows)
    events.to_csv(options.folder / "impressions.csv", index=False)
    print(f"{len(events):,} impressions in {options.folder / 'impressions.csv'}")


if __name__ == "__main__":
    main()
