"""Turns KuaiRand-Pure into daily event logs: `python -m examples.kuairand.convert --help`."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from examples.kuairand import recent, source
from schemas.errors import RankerError

_HISTORY = 10
_PART = "part-0.parquet"
_LISTS = {
    "tags": pa.string(),
    "recent_videos": pa.int64(),
    "recent_authors": pa.int64(),
    "recent_tags": pa.string(),
}


def events_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Turns impressions into events: ids, context, user, video, recent views, labels.

    Args:
        rows: of `source.read_impressions`.

    Returns:
        One event a row in the same order, with the fields of `spec.yaml`, and `date`.
    """
    rows = rows.assign(first_tag=rows["tag"].str.split(",").str[0])
    parts = [_ids(rows), _user(rows), _video(rows), _history(rows)]
    return pd.concat([*parts, labels_of(rows).add_prefix("label_")], axis=1)


def labels_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Computes the tasks' labels.

    Args:
        rows: of `source.read_impressions`.

    Returns:
        Labels by name: the five binary ones, `play_seconds`, and `watch_ratio`, play over
        duration within [0, 2], missing where the duration is.
    """
    play = rows["play_time_ms"].clip(lower=0) / 1000.0
    duration = rows["duration_ms"].where(rows["duration_ms"] > 0) / 1000.0
    columns = {
        "click": rows["is_click"],
        "long_view": rows["long_view"],
        "like": rows["is_like"],
        "profile_enter": rows["is_profile_enter"],
        "open_comment": (rows["comment_stay_time"] > 0).astype(np.int64),
        "play_seconds": play,
        "watch_ratio": (play / duration).clip(0.0, 2.0),
    }
    return pd.DataFrame(columns)


def write_logs(events: pd.DataFrame, logs: str) -> list[str]:
    """Writes one Parquet file a day, `<logs>/YYYY-MM-DD/part-0.parquet`.

    A file that is there already is replaced as a whole.

    Args:
        events: of `events_of`.
        logs: local folder of the daily logs.

    Returns:
        The days written.
    """
    days = []
    for name, day in events.groupby(events["date"].dt.strftime("%Y-%m-%d"), sort=True):
        folder = pathlib.Path(logs) / str(name)
        folder.mkdir(parents=True, exist_ok=True)
        # No reader takes a file of another suffix for events.
        unfinished = folder / f"{_PART}.tmp"
        pq.write_table(_table(day.drop(columns="date")), str(unfinished))
        unfinished.replace(folder / _PART)
        days.append(str(name))
    return days


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.kuairand.convert",
        description="Turns KuaiRand-Pure into daily event logs.",
    )
    parser.add_argument("--source", required=True, help="folder of the official CSV files")
    parser.add_argument("--logs", required=True, help="folder to write logs/YYYY-MM-DD into")
    options = parser.parse_args(arguments)
    try:
        events = events_of(source.read_impressions(options.source))
        days = write_logs(events, options.logs)
    except (RankerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return int(getattr(error, "exit_code", 1))
    print(f"{len(events):,} events of {len(days)} days, {days[0]} to {days[-1]}, in {options.logs}")
    return 0


def _ids(rows: pd.DataFrame) -> pd.DataFrame:
    keys = [rows[name].astype(str) for name in ("user_id", "video_id", "time_ms")]
    return pd.DataFrame(
        {
            "event_id": keys[0] + "-" + keys[1] + "-" + keys[2],
            "date": rows["date"],
            "user_id": rows["user_id"],
            "video_id": rows["video_id"],
            "author_id": _integers(rows["author_id"]),
            "music_id": _integers(rows["music_id"]),
            "first_tag": rows["first_tag"],
            "tags": rows["tag"].str.split(",").map(lambda tags: [tag for tag in tags if tag]),
            "tab": rows["tab"],
            "hour": rows["hour"],
        }
    )


def _user(rows: pd.DataFrame) -> pd.DataFrame:
    columns = {
        "user_active_degree": rows["user_active_degree"],
        "is_live_streamer": _integers(rows["is_live_streamer"]),
        "is_video_author": _integers(rows["is_video_author"]),
        "user_follows": rows["follow_user_num"],
        "user_fans": rows["fans_user_num"],
        "user_friends": rows["friend_user_num"],
        "user_days": rows["register_days"],
    }
    one_hots = {name.replace("feat", ""): _integers(rows[name]) for name in source.ONE_HOTS}
    return pd.DataFrame({**columns, **one_hots})


def _video(rows: pd.DataFrame) -> pd.DataFrame:
    width, height = rows["server_width"], rows["server_height"]
    shape = np.log((width / height).where((width > 0) & (height > 0)))
    return pd.DataFrame(
        {
            "duration_seconds": rows["duration_ms"].where(rows["duration_ms"] > 0) / 1000.0,
            "video_shape": pd.Series(shape).clip(-1.6, 1.6),
            "video_type": rows["video_type"],
            "upload_type": rows["upload_type"],
            "music_type": _integers(rows["music_type"]),
        }
    )


def _history(rows: pd.DataFrame) -> pd.DataFrame:
    enjoyed = rows["long_view"] > 0
    tagged = enjoyed & (rows["first_tag"] != "")
    return pd.DataFrame(
        {
            "recent_videos": recent.last_chosen(rows, enjoyed, "video_id", _HISTORY),
            "recent_authors": recent.last_chosen(
                rows, enjoyed & rows["author_id"].notna(), "author_id", _HISTORY
            ),
            "recent_tags": recent.last_chosen(rows, tagged, "first_tag", _HISTORY),
        }
    )


def _integers(values: pd.Series) -> pd.Series:
    """Integers with missing values, from floats or from text that holds numbers."""
    return pd.to_numeric(values, errors="coerce").astype("Int64")


def _table(day: pd.DataFrame) -> pa.Table:
    columns = {
        name: pa.array(day[name].tolist(), pa.list_(_LISTS[name]))
        if name in _LISTS
        else pa.Array.from_pandas(day[name])
        for name in day
    }
    return pa.table(columns)


if __name__ == "__main__":
    sys.exit(main())
