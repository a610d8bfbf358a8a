"""The files of a model: copied, linked, digested, made durable. On any file system."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping

from components import storage

SAVED_MODEL = "saved_model.pb"

_CHUNK = 1 << 22


def list_files(folder: str, skip: str | None = None) -> list[str]:
    """Returns the files under a folder, relative to it, but the file or folder `skip`.

    `saved_model.pb`, without which no folder counts as a model, comes last.
    """
    files: list[str] = []
    for parent, _, names in storage.walk(folder):
        inside = os.path.relpath(parent, folder)
        files.extend(os.path.normpath(os.path.join(inside, name)) for name in names)
    if skip is not None:
        files = [file for file in files if not (file + os.sep).startswith(skip + os.sep)]
    return sorted(files, key=lambda file: (file == SAVED_MODEL, file))


def copy(source: str, target: str, files: Iterable[str]) -> None:
    """Copies files, named relative to both folders, in the order given."""
    for file in files:
        storage.copy(os.path.join(source, file), _place(target, file), overwrite=True)


def link(source: str, target: str, files: Iterable[str]) -> None:
    """As `copy`, by links where the file systems allow."""
    for file in files:
        storage.link(os.path.join(source, file), _place(target, file))


def digests(folder: str, files: Iterable[str]) -> dict[str, str]:
    """Returns the SHA-256 of files, hexadecimal, by their name relative to the folder."""
    return {file: _digest(os.path.join(folder, file)) for file in files}


def digest_of(files: Mapping[str, str]) -> str:
    """Returns one digest for what `digests` returned."""
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()


def damage(folder: str, files: Mapping[str, str]) -> list[str]:
    """Says, a line for each file, which files are not what their digests say."""
    faults = []
    for file, expected in files.items():
        path = os.path.join(folder, file)
        try:
            if _digest(path) != expected:
                faults.append(f"{path}: has other content than when it was written")
        except storage.errors() as error:
            missing = not storage.exists(path)
            faults.append(f"{path}: " + ("is missing" if missing else f"cannot be read ({error})"))
    return faults


def make_durable(folder: str) -> None:
    """Has a local folder and all in it outlive a loss of power."""
    for parent, _, names in os.walk(folder):
        for path in (*(os.path.join(parent, name) for name in names), parent):
            sync(path)


def sync(path: str) -> None:
    """Waits until a local file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: str) -> str:
    if storage.is_local(path) and os.path.lexists(path) and not os.path.isfile(path):
        raise OSError("it is not a file")  # Nobody may ever write into a pipe.
    content = hashlib.sha256()
    with storage.open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            content.update(chunk)
    return content.hexdigest()


def _place(folder: str, file: str) -> str:
    path = os.path.join(folder, file)
    storage.makedirs(os.path.dirname(path))
    return path
