"""Reads the official KuaiRand-Pure CSV files into one clean table of impressions."""

from __future__ import annotations

import pathlib

import numpy as np
import pandas as pd

from schemas.errors import BadDataError

LOG = "log_standard"
USERS = "user_features"
VIDEOS = "video_features_basic"

ONE_HOTS = tuple(f"onehot_feat{i}" for i in range(18))
_IMPRESSION = ["user_id", "video_id", "date", "time_ms"]
_COLUMNS = {
    LOG: [
        *_IMPRESSION,
        "hourmin",
        "tab",
        "duration_ms",
        "play_time_ms",
        "comment_stay_time",
        "is_click",
        "long_view",
        "is_like",
        "is_profile_enter",
    ],
    USERS: [
        "user_id",
        "user_active_degree",
        "is_live_streamer",
        "is_video_author",
        "follow_user_num",
        "fans_user_num",
        "friend_user_num",
        "register_days",
        *ONE_HOTS,
    ],
    VIDEOS: [
        "video_id",
        "author_id",
        "video_type",
        "upload_type",
        "server_width",
        "server_height",
        "music_id",
        "music_type",
        "tag",
    ],
}
_REQUIRED = {
    LOG: _COLUMNS[LOG],
    USERS: ["user_id"],
    VIDEOS: ["video_id", "author_id"],
}


def read_impressions(folder: str) -> pd.DataFrame:
    """Reads impressions with the features of their user and video.

    Files are told by how their names begin, `log_standard*`, `user_features*` and
    `video_features_basic*`, and may be gzipped. Impressions of several files are put together.

    Args:
        folder: a local folder that holds the CSV files.

    Returns:
        One row an impression in order of time, with the official columns that are used;
        `date` is the Beijing day as a timestamp, `hour` its hour.

    Raises:
        BadDataError: a file or a column is missing, or a value is no number.
    """
    log = clean(_read(folder, LOG))
    users = _read(folder, USERS).drop_duplicates("user_id", keep="last")
    videos = _read(folder, VIDEOS).drop_duplicates("video_id", keep="last")
    rows = log.merge(users, on="user_id", how="left").merge(videos, on="video_id", how="left")
    rows["tag"] = rows["tag"].fillna("").astype(str)
    rows["hour"] = rows["hourmin"] // 100
    return rows


def clean(log: pd.DataFrame) -> pd.DataFrame:
    """Keeps each impression once, in order of time.

    Some impressions were logged again with other labels as the video played on; of these the
    longest play has the final labels.

    Args:
        log: rows of the official log.

    Returns:
        The rows that count, with `date` as a timestamp.
    """
    log = log.drop_duplicates()
    log = log.sort_values("play_time_ms", kind="stable").drop_duplicates(_IMPRESSION, keep="last")
    dates = pd.to_datetime(log["date"].astype(str), format="%Y%m%d", errors="coerce")
    if dates.isna().any():
        bad = log["date"][dates.isna()].iloc[0]
        raise BadDataError(f"{LOG}: column 'date': expected YYYYMMDD, got {bad!r}")
    log = log.assign(date=dates)
    return log.sort_values(["date", "time_ms", "user_id", "video_id"]).reset_index(drop=True)


def _read(folder: str, stem: str) -> pd.DataFrame:
    root = pathlib.Path(folder)
    paths = sorted([*root.glob(f"{stem}*.csv"), *root.glob(f"{stem}*.csv.gz")])
    if not paths:
        raise BadDataError(f"{folder}: no file {stem}*.csv or {stem}*.csv.gz")
    return pd.concat([_read_file(str(path), stem) for path in paths], ignore_index=True)


def _read_file(path: str, stem: str) -> pd.DataFrame:
    wanted = _COLUMNS[stem]
    try:
        table = pd.read_csv(path, usecols=lambda name: name in set(wanted), low_memory=False)
    except (OSError, EOFError, ValueError) as error:
        raise BadDataError(f"{path}: cannot be read: {error}") from error
    missing = [name for name in wanted if name not in table]
    if missing:
        raise BadDataError(f"{path}: column {', '.join(map(repr, missing))} missing")
    for name in _REQUIRED[stem]:
        bad = pd.to_numeric(table[name], errors="coerce").isna()
        if bad.any():
            # The header is line 1.
            row = int(np.flatnonzero(bad)[0])
            value = table[name].iloc[row]
            raise BadDataError(f"{path}:{row + 2}: column {name!r}: expected a number, got {value}")
    return table
