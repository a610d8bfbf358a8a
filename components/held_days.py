"""Days that are kept out of training until a person releases them.

`<day_store>/held/<date>.json` says of a day why it was held and whether it is released. It
is about the day's log files as they were: once these change, the day is judged anew.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import uuid

from components.storage import is_local
from schemas.errors import RankerError

_FOLDER = "held"


@dataclasses.dataclass(frozen=True)
class HeldDay:
    """A day that is or was held.

    Attributes:
        date: the day.
        content: identifies its log files.
        version: the served version that judged it.
        reasons: what the version scores on it, a task each.
        released: whether a person has let it go, or its logs were mended since.
    """

    date: datetime.date
    content: str
    version: int
    reasons: tuple[str, ...]
    released: bool = False

    def __str__(self) -> str:
        return (
            f"{self.date}: held, not trained on, since version {self.version} failed on it: "
            f"{'; '.join(self.reasons)}. Mend its logs. If they are right, the world changed "
            f"(steadyrank release {self.date}), or the version is broken (steadyrank rollback)"
        )


def list_held(day_store: str) -> list[HeldDay]:
    """Returns the days that are held now, oldest first."""
    stems = sorted(name.removesuffix(".json") for name in _names(os.path.join(day_store, _FOLDER)))
    days = [find(day_store, date) for stem in stems if (date := _as_date(stem))]
    return [day for day in days if day is not None and not day.released]


def find(day_store: str, date: datetime.date) -> HeldDay | None:
    """Returns what is known of a day, or None if it was never held.

    Raises:
        RankerError: its file is damaged.
    """
    path = _path(day_store, date)
    text = _read(path)
    if text is None:
        return None
    try:
        content = json.loads(text)
        return HeldDay(**{**content, "date": date, "reasons": tuple(content["reasons"])})
    except (ValueError, TypeError, KeyError) as error:
        raise RankerError(
            f"{path}: cannot tell whether the day is held ({error}). Remove the file to have the "
            "day judged anew"
        ) from error


def save(day_store: str, day: HeldDay) -> None:
    """Writes what is known of a day."""
    _write(_path(day_store, day.date), json.dumps(dataclasses.asdict(day), default=str, indent=2))


def release(day_store: str, date: datetime.date) -> HeldDay:
    """Lets the next run train on a day that is held.

    Raises:
        RankerError: the day is not held.
    """
    day = find(day_store, date)
    if day is None or day.released:
        held = ", ".join(str(other.date) for other in list_held(day_store)) or "none"
        raise RankerError(f"{day_store}: {date} is not held; held days: {held}")
    released = dataclasses.replace(day, released=True)
    save(day_store, released)
    return released


def forget_before(day_store: str, date: datetime.date) -> list[datetime.date]:
    """Forgets the held days before `date`, which no run trains on any more, and returns them."""
    old = [day.date for day in list_held(day_store) if day.date < date]
    for day in old:
        _remove(_path(day_store, day))
    return old


def _path(day_store: str, date: datetime.date) -> str:
    return os.path.join(day_store, _FOLDER, f"{date}.json")


# Beam's file systems, as for all of the day store, but imported for remote ones only: `status`
# looks here, too.


def _names(folder: str) -> list[str]:
    if is_local(folder):
        return os.listdir(folder) if os.path.isdir(folder) else []
    from apache_beam.io.filesystems import FileSystems

    found = FileSystems.match([f"{folder}/*"])[0].metadata_list
    return [os.path.basename(metadata.path) for metadata in found]


def _read(path: str) -> str | None:
    if is_local(path):
        if not os.path.exists(path):
            return None
        with open(path, encoding="utf-8") as file:
            return file.read()
    from apache_beam.io.filesystems import FileSystems

    if not FileSystems.exists(path):
        return None
    with FileSystems.open(path) as remote:
        return remote.read().decode()


def _write(path: str, text: str) -> None:
    if is_local(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        new = f"{path}.{uuid.uuid4().hex}"
        with open(new, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(new, path)
        return
    from apache_beam.io.filesystems import FileSystems

    with FileSystems.create(path) as remote:
        remote.write(text.encode())


def _remove(path: str) -> None:
    if is_local(path):
        os.remove(path)
        return
    from apache_beam.io.filesystems import FileSystems

    FileSystems.delete([path])


def _as_date(text: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        return None
