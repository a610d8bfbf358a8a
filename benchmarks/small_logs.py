"""Small logs for `benchmarks.first_model` and `benchmarks.tuned`.

`python -m benchmarks.small_logs --help`:

* `kuairand`: KuaiRand-Pure's impressions of a share of its users, from the official CSV files.
* `movielens`: MovieLens 100K (Harper and Konstan 2015, ACM TiiS 5, 4), from RecBole's files
  `ml-100k.inter`, `.user` and `.item`, which the wheel of recbole 1.2.1 has in its folder
  `dataset_example/ml-100k`. It spans seven months with few ratings a day, so twelve parts of equal
  size, in the order of time, stand for days.
* `simulated`: fourteen days of the simulator, in a world of `--shape`.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Iterable

import numpy as np
import pandas as pd

from benchmarks.learning import SHAPES
from examples.kuairand import convert, source
from pipeline.simulate import Shape, write_logs
from schemas.errors import BadDataError, RankerError

_FIRST_DAY = pd.Timestamp("2026-03-01")
_DAYS = 12
_SIMULATED_DAYS = 14
_LIKED = 4
"""Stars from which on a film counts as liked."""


def kuairand(folder: str, users: float, seed: int) -> pd.DataFrame:
    """Returns the converter's events of a random share of the users, with their `date`."""
    events = convert.events_of(source.read_impressions(folder))
    everyone = events["user_id"].unique()
    rng = np.random.default_rng(seed)
    some = rng.choice(everyone, int(len(everyone) * users), replace=False)
    return events[events["user_id"].isin(some)]


def movielens(folder: str) -> pd.DataFrame:
    """Returns ratings with what is known of user and film, and the `date` that each falls on.

    Raises:
        BadDataError: a file is missing or has other columns.
    """
    try:
        ratings, users, films = (
            pd.read_csv(pathlib.Path(folder) / f"ml-100k.{kind}", sep="\t", keep_default_na=False)
            for kind in ("inter", "user", "item")
        )
        for table in (ratings, users, films):
            table.columns = [name.partition(":")[0] for name in table.columns]
        rows = ratings.merge(users, on="user_id").merge(films, on="item_id")
        rows = rows.sort_values("timestamp", kind="stable").reset_index(drop=True)
        return pd.DataFrame(
            {
                "date": _FIRST_DAY + pd.to_timedelta(rows.index * _DAYS // len(rows), unit="D"),
                "eventId": rows.index,
                "userId": rows["user_id"],
                "movieId": rows["item_id"],
                "age": rows["age"],
                "gender": rows["gender"],
                "occupation": rows["occupation"],
                "genres": rows["class"].str.split(" "),
                "releaseYear": pd.to_numeric(rows["release_year"], errors="coerce"),
                "rating": rows["rating"],
                "liked": (rows["rating"] >= _LIKED).astype(int),
            }
        )
    except (OSError, KeyError, ValueError) as error:
        raise BadDataError(f"{folder}: not RecBole's files of MovieLens 100K: {error}") from error


def write(events: pd.DataFrame, logs: str) -> str:
    """Writes a file of JSON lines a day; returns what was written, in words."""
    days = events.groupby(events["date"].dt.strftime("%Y-%m-%d"))
    for name, day in days:
        folder = pathlib.Path(logs) / str(name)
        folder.mkdir(parents=True, exist_ok=True)
        day.drop(columns="date").to_json(folder / "events.jsonl", orient="records", lines=True)
    return _said(len(events), len(days), logs)


def _said(events: int, days: int, logs: str) -> str:
    return f"{events:,} events of {days} days in {logs}"


def main(arguments: Iterable[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small_logs", description=__doc__)
    parser.add_argument("log", choices=("kuairand", "movielens", "simulated"))
    parser.add_argument("--source", help="folder of a real log's own files")
    parser.add_argument("--logs", required=True, help="folder to write YYYY-MM-DD/ into")
    parser.add_argument("--users", type=float, default=0.19, help="share of KuaiRand's users")
    parser.add_argument("--seed", type=int, default=7, help="of the choice of users, or the world")
    parser.add_argument("--shape", choices=SHAPES, help="of the world; the demo's, if not given")
    parser.add_argument("--rows", type=int, default=8000, help="simulated events a day")
    options = parser.parse_args(None if arguments is None else list(arguments))
    if options.log == "simulated":
        shape = SHAPES.get(options.shape, Shape())
        start, days = _FIRST_DAY.date(), _SIMULATED_DAYS
        written = write_logs(
            options.logs, start, days, options.rows, options.seed, shape=shape, malformed=0.0
        )
        print(_said(sum(written.values()), days, options.logs))
        return 0
    if options.source is None:
        parser.error(f"--source is needed: the folder of {options.log}'s own files")
    if not pathlib.Path(options.source).is_dir():
        print(f"skipped: no folder {options.source}")
        return 0
    try:
        if options.log == "kuairand":
            events = kuairand(options.source, options.users, options.seed)
        else:
            events = movielens(options.source)
        print(write(events, options.logs))
    except RankerError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
