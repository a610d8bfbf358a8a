"""The lock of a serving directory: one push or rollback at a time, from wherever it comes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from components import storage
from schemas.errors import ServingStoreError

LOCK_FILE = ".lock"
"""File in the serving directory that is locked while versions come and go."""

_WAIT_SECONDS = 900.0
_POLL_SECONDS = 0.2


@contextlib.contextmanager
def locked(serving_dir: str) -> Iterator[None]:
    """Keeps other pushes and rollbacks out of a serving directory, those of other hosts too.

    A local directory, or a volume that several hosts mount, is locked with flock(2); the
    kernel lets go when the holder dies. Other file systems have no lock.

    Args:
        serving_dir: folder of the served versions; exists.

    Raises:
        ServingStoreError: others hold the lock for a quarter of an hour, or the file system
            cannot lock.
    """
    if not storage.is_local(serving_dir):
        yield
        return
    path = os.path.join(serving_dir, LOCK_FILE)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _wait(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _wait(descriptor: int, path: str) -> None:
    give_up = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > give_up:
                raise ServingStoreError(
                    f"{path}: another push or rollback has held the lock for "
                    f"{_WAIT_SECONDS / 60:.0f} minutes; look for a process that hangs, end it, "
                    "and try again"
                ) from error
        except OSError as error:
            raise ServingStoreError(
                f"{path}: the file system cannot lock files ({error.strerror}), so two pushes "
                "could not be kept apart; mount it with locks, or serve from another folder"
            ) from error
        time.sleep(_POLL_SECONDS)
