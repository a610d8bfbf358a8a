"""Files on this machine or on an object store; TensorFlow is only imported for the latter.

The functions are those of `tfx.dsl.io.fileio`, which imports TensorFlow for any path. With
these, a command that only looks at local files answers at once, and an error names its file.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterable
from typing import Any

from tfx.dsl.io.filesystem import NotFoundError

__all__ = [
    "NotFoundError",
    "copy",
    "errors",
    "exists",
    "is_local",
    "isdir",
    "link",
    "listdir",
    "makedirs",
    "open",
    "remove",
    "rmtree",
    "walk",
]


def errors() -> tuple[type[Exception], ...]:
    """What file systems fail with: Python's errors; TensorFlow's and Google's if in use."""
    found: list[type[Exception]] = [OSError]
    if tensorflow := sys.modules.get("tensorflow"):
        found.append(tensorflow.errors.OpError)
    if api := sys.modules.get("google.api_core.exceptions"):
        found.append(api.GoogleAPIError)
    if auth := sys.modules.get("google.auth.exceptions"):
        found.append(auth.GoogleAuthError)
    return tuple(found)


def is_local(path: str) -> bool:
    """Whether a path is one of this machine's file system, without a scheme."""
    return "://" not in path


def open(path: str, mode: str = "r") -> Any:
    """Opens a file, text as UTF-8; a context manager."""
    if is_local(path):
        return builtins.open(path, mode, encoding=None if "b" in mode else "utf-8")
    return _remote().open(path, mode)


def copy(source: str, target: str, overwrite: bool = False) -> None:
    """Copies a file's content, from any file system to any other."""
    if not (is_local(source) and is_local(target)):
        _remote().copy(source, target, overwrite)
        return
    if not overwrite and os.path.exists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    shutil.copyfile(source, target)


def link(source: str, target: str) -> None:
    """Has a file go by a second name, which takes no room; copies it where that cannot be.

    Neither may be written to in place afterwards. A `target` that is there is replaced.
    """
    if is_local(source) and is_local(target):
        with contextlib.suppress(FileNotFoundError):
            os.remove(target)
        with contextlib.suppress(OSError):
            # Another file system, one without links, or a source that is not there.
            os.link(source, target)
            return
    copy(source, target, overwrite=True)


def exists(path: str) -> bool:
    """Whether there is a file or a folder; a link that leads nowhere is neither."""
    return os.path.exists(path) if is_local(path) else bool(_remote().exists(path))


def isdir(path: str) -> bool:
    """Whether there is a folder."""
    return os.path.isdir(path) if is_local(path) else bool(_remote().isdir(path))


def listdir(path: str) -> list[str]:
    """Names in a folder; object stores may end those of folders with a slash."""
    return os.listdir(path) if is_local(path) else list(_remote().listdir(path))


def makedirs(path: str) -> None:
    """Makes a folder and those above it; one that is there already is fine."""
    if is_local(path):
        os.makedirs(path, exist_ok=True)
    else:
        _remote().makedirs(path)


def remove(path: str) -> None:
    """Removes a file."""
    if is_local(path):
        os.remove(path)
    else:
        _remote().remove(path)


def rmtree(path: str) -> None:
    """Removes a folder with all that it holds."""
    if is_local(path):
        if not os.path.isdir(path):  # shutil would wait for a pipe's other end.
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        shutil.rmtree(path)
    else:
        _remote().rmtree(path)


def walk(path: str) -> Iterable[tuple[str, list[str], list[str]]]:
    """Yields each folder under `path`, itself included, with its folders and files by name.

    Links to folders are named and not followed: one may lead back to where it lies.
    """
    return os.walk(path) if is_local(path) else _remote().walk(path)


def _remote() -> Any:
    from tfx.dsl.io import fileio

    return fileio
