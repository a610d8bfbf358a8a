"""Encoded days, each stored once: `<root>/<events>/<date>/<content>/` of shards and a manifest.

`<events>` identifies how an event is encoded, `<content>` the log files. A day is whole
if and only if it has a `manifest.json`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import re
import shutil
import stat
import uuid
from collections.abc import Iterator, Sequence

from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.filesystems import FileSystems

from components import storage
from components.daily_example_gen.parts import Part, create, open_stored, printable
from components.daily_example_gen.readers import SUFFIXES
from components.daily_example_gen.shards import Shard
from schemas.errors import BadDataError

MANIFEST = "manifest.json"
QUARANTINE = "quarantine.jsonl"
_FORMAT = 3  # Raise it when the same logs are to be encoded differently.
_WORK = ".work"
_QUOTED = 3
_STALE_WORK = datetime.timedelta(days=2)
_TIMESTAMP = "%Y%m%dT%H%M%S"


@dataclasses.dataclass(frozen=True)
class LogFile:
    """A log file as its file system lists it; `version` changes with its content."""

    name: str
    path: str
    size: int
    version: str


@dataclasses.dataclass(frozen=True)
class DayLogs:
    """The log files of a day, in file order.

    Attributes:
        date: the day.
        directory: where its logs lie, or would.
        files: the files that hold events.
        notes: what was passed over, for people.
    """

    date: datetime.date
    directory: str
    files: tuple[LogFile, ...]
    notes: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Identifies the content of the files, without reading it."""
        content = [_FORMAT, *((file.name, file.size, file.version) for file in self.files)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a stored day holds.

    Attributes:
        date: the day, ISO format.
        fingerprint: of the logs it was made from.
        events: well-formed events with an id of their own.
        quarantined: malformed lines.
        duplicates: events left out since a later one has their id.
        shards: number of events by shard.
        files: by log file its name, size, version, lines, events and malformed lines.
        reasons: the first malformed lines, each as `file:line: reason`.
        repeated: some of the ids that repeat, each with the files it is in.
        notes: what was passed over, cut or is missing, for people.
    """

    date: str
    fingerprint: str
    events: int
    quarantined: int
    duplicates: int
    shards: tuple[int, ...]
    files: tuple[dict[str, str | int], ...]
    reasons: tuple[str, ...]
    repeated: tuple[str, ...]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class StoredDay:
    """A whole day in the store."""

    directory: str
    manifest: Manifest

    @property
    def quarantine(self) -> str:
        """JSON lines with file, line, reason and text of the malformed lines."""
        return os.path.join(self.directory, QUARANTINE)

    def shard(self, number: int) -> str:
        """Path of a shard."""
        return os.path.join(self.directory, shard_name(number, len(self.manifest.shards)))


def list_logs(logs_root: str, date: datetime.date) -> DayLogs:
    """Lists a day's logs; none where the day is missing.

    The version of a file is its time of modification, which one listing gives for all
    files, and which differs on an object store for every upload. Where the file system has
    none, it is the checksum that it keeps.

    Raises:
        BadDataError: the directory is there, but cannot be listed.
    """
    directory = FileSystems.join(logs_root, date.isoformat())
    files, notes = [], []
    entries = (
        _local_entries(directory) if storage.is_local(directory) else _remote_entries(directory)
    )
    for name, metadata in entries:
        if name.startswith((".", "_")):
            continue
        shown = printable(FileSystems.join(directory, name))
        if metadata is None:
            notes.append(f"{shown}: ignored, it is not a file; files lie in the day's directory")
            continue
        if not name.endswith(SUFFIXES):
            notes.append(f"{shown}: ignored, its suffix is not one of {', '.join(SUFFIXES)}")
            continue
        if metadata.size_in_bytes == 0:
            notes.append(f"{shown}: empty")
        updated = metadata.last_updated_in_seconds
        version = repr(updated) if updated else str(FileSystems.checksum(metadata.path))
        files.append(LogFile(name, metadata.path, metadata.size_in_bytes, version))
    files.sort(key=lambda file: file.name)
    return DayLogs(date, directory, tuple(files), tuple(sorted(notes)))


def _local_entries(directory: str) -> Iterator[tuple[str, FileMetadata | None]]:
    """What lies in a directory, by name; None for what is not a file."""
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise BadDataError(
            f"{printable(directory)}: cannot be listed ({error.strerror}). Let the run read it"
        ) from error
    for name in names:
        path = os.path.join(directory, name)
        try:
            status = os.stat(path)
        except OSError:  # A link that leads nowhere.
            yield name, None
            continue
        is_file = stat.S_ISREG(status.st_mode)
        yield name, FileMetadata(path, status.st_size, status.st_mtime) if is_file else None


def _remote_entries(directory: str) -> Iterator[tuple[str, FileMetadata | None]]:
    """As `_local_entries`; an object store has directories only by its files' names."""
    directories = set()
    for metadata in _match(directory, "**"):
        name, below, _ = metadata.path[len(directory) + 1 :].partition("/")
        if name and not below:
            yield name, metadata
        elif name and name not in directories:
            directories.add(name)
            yield name, None


def _match(directory: str, pattern: str) -> list[FileMetadata]:
    """The files under a directory that match a pattern; the directory is taken literally."""
    # Beam cannot quote these characters: let any stand there, and look again afterwards.
    loose = re.sub(r"[\[*?]", "?", directory)
    found = FileSystems.match([FileSystems.join(loose, pattern)])[0].metadata_list
    return [metadata for metadata in found if metadata.path.startswith(directory + "/")]


def _paths(directory: str, pattern: str) -> list[str]:
    """Paths under a directory of the store that match a pattern."""
    if storage.is_local(directory):
        return [str(path) for path in pathlib.Path(directory).glob(pattern)]
    return [metadata.path for metadata in _match(directory, pattern)]


class DayStore:
    """The store of one encoding of events."""

    def __init__(self, root: str, events_fingerprint: str) -> None:
        """Opens the store; it need not exist.

        Args:
            root: directory of the store; may be remote.
            events_fingerprint: `RankingSpec.events_fingerprint()`.
        """
        self._root = os.path.join(root, events_fingerprint)

    def find(self, logs: DayLogs) -> StoredDay | None:
        """The stored form of just these logs, if it is there and whole.

        Raises:
            BadDataError: its manifest is damaged.
        """
        return self.find_content(logs.date, logs.fingerprint)

    def find_content(self, date: datetime.date, fingerprint: str) -> StoredDay | None:
        """As `find`, by the fingerprint of what the day is made of."""
        directory = self._directory(date, fingerprint)
        path = os.path.join(directory, MANIFEST)
        if not FileSystems.exists(path):
            return None
        with open_stored(path) as file:
            text = file.read()
        try:
            content = json.loads(text)
            for name in ("shards", "files", "reasons", "repeated", "notes"):
                content[name] = tuple(content[name])
            return StoredDay(directory, Manifest(**content))
        except (ValueError, TypeError, KeyError) as error:
            raise BadDataError.of_damaged_day(path, error) from error

    @contextlib.contextmanager
    def work_dir(self) -> Iterator[str]:
        """A directory of one run's own, gone afterwards."""
        now = datetime.datetime.now(datetime.timezone.utc)
        work = os.path.join(self._root, _WORK)
        for path in _paths(work, "*/*"):
            abandoned = os.path.dirname(path)
            stamp = os.path.basename(abandoned).split("-")[0]
            if stamp < (now - _STALE_WORK).strftime(_TIMESTAMP):
                _delete_tree(abandoned)
        directory = os.path.join(work, f"{now.strftime(_TIMESTAMP)}-{uuid.uuid4().hex}")
        if storage.is_local(directory):
            os.makedirs(directory)
        try:
            yield directory
        finally:
            _delete_tree(directory)

    def commit(
        self,
        logs: DayLogs,
        parts: Sequence[Part],
        shards: Sequence[Shard],
        notes: Sequence[str],
        work_dir: str,
    ) -> StoredDay:
        """Stores a day; see `publish`.

        Args:
            logs: the day's logs, as listed before they were read.
            parts: what became of each piece of them.
            shards: the shards, in `work_dir`; moved from there.
            notes: what people should know of the content.
            work_dir: directory of this run's own, on the same file system.

        Returns:
            The stored day.
        """
        staged = self.staging(logs.date, logs.fingerprint, work_dir)
        parts = sorted(parts, key=lambda part: part.piece.order)
        shards = sorted(shards, key=lambda shard: shard.bucket)
        names = [shard_name(shard.bucket, len(shards)) for shard in shards]
        moved = [(shard.path, name) for shard, name in zip(shards, names, strict=True)]
        moved += [
            (shard.columns, name + shard.columns.removeprefix(shard.path))
            for shard, name in zip(shards, names, strict=True)
            if shard.columns
        ]
        FileSystems.rename(
            [path for path, _ in moved], [os.path.join(staged, name) for _, name in moved]
        )
        reasons = _write_quarantine(os.path.join(staged, QUARANTINE), parts)
        manifest = Manifest(
            date=logs.date.isoformat(),
            fingerprint=logs.fingerprint,
            events=sum(shard.events for shard in shards),
            quarantined=sum(part.malformed for part in parts),
            duplicates=sum(shard.duplicates for shard in shards),
            shards=tuple(shard.events for shard in shards),
            files=tuple(_file_report(file, parts) for file in logs.files),
            reasons=tuple(reasons),
            repeated=tuple(filter(None, (shard.repeated for shard in shards)))[:_QUOTED],
            notes=(*logs.notes, *notes),
        )
        return self.publish(staged, manifest)

    def staging(self, date: datetime.date, fingerprint: str, work_dir: str) -> str:
        """The directory in which a day's files are put together for `publish`.

        Args:
            date: the day.
            fingerprint: of what it is made of.
            work_dir: directory of this run's own, on the same file system.
        """
        final = self._directory(date, fingerprint)
        if not storage.is_local(final):
            return final
        staged = os.path.join(work_dir, date.isoformat())
        os.makedirs(staged)
        return staged

    def publish(self, staged: str, manifest: Manifest) -> StoredDay:
        """Makes a day whole, then removes what was stored of its former content.

        A local day appears in one rename. A remote one is complete before its manifest
        is; of two runs that write the same day, either's files will do.

        Args:
            staged: of `staging`, holding all of the day's files but the manifest.
            manifest: says what they hold.

        Returns:
            The stored day.
        """
        date = datetime.date.fromisoformat(manifest.date)
        final = self._directory(date, manifest.fingerprint)
        with create(os.path.join(staged, MANIFEST)) as file:
            file.write(json.dumps(dataclasses.asdict(manifest), indent=2).encode())
        if staged != final:
            _publish(staged, final)
        self._remove_former(date, manifest.fingerprint)
        stored = self.find_content(date, manifest.fingerprint)
        if stored is None:
            raise FileNotFoundError(f"{final}: removed by another run")
        return stored

    def _directory(self, date: datetime.date, fingerprint: str) -> str:
        return os.path.join(self._root, date.isoformat(), fingerprint)

    def _remove_former(self, date: datetime.date, fingerprint: str) -> None:
        day = os.path.join(self._root, date.isoformat())
        for manifest in _paths(day, f"*/{MANIFEST}"):
            directory = os.path.dirname(manifest)
            if os.path.basename(directory) != fingerprint:
                with contextlib.suppress(OSError):
                    FileSystems.delete([manifest])
                _delete_tree(directory)


def _publish(staged: str, final: str) -> None:
    os.makedirs(os.path.dirname(final), exist_ok=True)
    if os.path.isdir(final) and not os.path.exists(os.path.join(final, MANIFEST)):
        shutil.rmtree(final, ignore_errors=True)
    try:
        os.rename(staged, final)
    except OSError:
        # Another run was faster; what it stored is made of the same logs.
        if not os.path.exists(os.path.join(final, MANIFEST)):
            raise


def _write_quarantine(path: str, parts: Sequence[Part]) -> list[str]:
    reasons: list[str] = []
    first_line: dict[str, int] = {}
    with create(path) as target:
        for part in parts:
            log = printable(part.piece.path)
            offset = first_line.get(log, 0)
            first_line[log] = offset + part.lines
            if not part.quarantine:
                continue
            with open_stored(part.quarantine) as source:
                for line in source:
                    record = {"file": log, **json.loads(line)}
                    record["line"] += offset
                    target.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
                    if len(reasons) < _QUOTED:
                        reasons.append(f"{log}:{record['line']}: {record['reason']}")
    return reasons


def _file_report(file: LogFile, parts: Sequence[Part]) -> dict[str, str | int]:
    own = [part for part in parts if part.piece.path == file.path]
    return {
        "name": file.name,
        "size": file.size,
        "version": file.version,
        "lines": sum(part.lines for part in own),
        "events": sum(part.events for part in own),
        "quarantined": sum(part.malformed for part in own),
    }


def shard_name(number: int, shards: int) -> str:
    """Name of a shard's file."""
    return f"shard-{number:05d}-of-{shards:05d}.gz"


def _delete_tree(directory: str) -> None:
    if storage.is_local(directory):
        shutil.rmtree(directory, ignore_errors=True)
        return
    paths = _paths(directory, "**")
    with contextlib.suppress(OSError):
        FileSystems.delete(paths)
