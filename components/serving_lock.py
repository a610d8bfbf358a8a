"""The lock of a serving directory: one push or rollback at a time, from wherever it comes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging

from components import storage
from schemas.errors import ServingStoreError

LOCK_FILE = ".lock"
"""File in the serving directory that is locked while versions come and go."""

_WAIT_SECONDS = 900.0
_POLL_SECONDS = 0.2
_REMOTE_POLL_SECONDS = 2.0


@contextlib.contextmanager
def locked(serving_dir: str) -> Iterator[Callable[[], bool]]:
    """Keeps other pushes and rollbacks out of a serving directory, those of other hosts too.

    A local directory, or a volume that several hosts mount, is locked with flock(2); the
    kernel lets go when the holder dies. On `gs://` the lock is an object that only one can
    create. One that a dead holder left is taken over once it has not changed for a quarter of
    an hour.

    Args:
        serving_dir: folder of the served versions; exists.

    Yields:
        A function that says whether the lock is still held. It is, unless another took it over.

    Raises:
        ServingStoreError: others hold the lock for a quarter of an hour, or the file system
            cannot lock.
    """
    path = os.path.join(serving_dir, LOCK_FILE)
    if serving_dir.startswith("gs://"):
        with _object(path) as held:
            yield held
    elif storage.is_local(serving_dir):
        with _file(path):
            yield lambda: True
    else:
        raise ServingStoreError(
            f"{serving_dir}: no lock is known for this file system, so two pushes could not be "
            "kept apart; serve from a mounted folder or from gs://"
        )


@contextlib.contextmanager
def _file(path: str) -> Iterator[None]:
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


@contextlib.contextmanager
def _object(path: str) -> Iterator[Callable[[], bool]]:
    """Holds an object of Cloud Storage that is created, and removed, by its generation.

    See cloud.google.com/storage/docs/request-preconditions.
    """
    from google.api_core.exceptions import NotFound

    blob = _blob(path)
    generation = _create(blob)

    def held() -> bool:
        try:
            blob.reload()
        except NotFound:
            return False
        return blob.generation == generation

    try:
        yield held
    finally:
        try:
            blob.delete(if_generation_match=generation)
        except storage.errors() as error:
            # What was done under the lock is done; the next one waits its time and takes over.
            logging.warning("%s: the lock was not given back: %s", path, error)


def _create(blob: Any) -> int:
    """Creates the object of the lock, or takes a dead one's place; returns its generation."""
    from google.api_core.exceptions import NotFound, PreconditionFailed

    # An attempt whose answer was lost is made again by the client, and then meets its own object.
    token = uuid.uuid4().hex
    seen, since = None, time.monotonic()
    while True:
        try:
            blob.upload_from_string(token, if_generation_match=0)
            return blob.generation
        except PreconditionFailed:
            pass
        try:
            blob.reload()
            generation = blob.generation
            if blob.download_as_text(if_generation_match=generation) == token:
                return generation
            if generation != seen:
                seen, since = generation, time.monotonic()
            elif time.monotonic() - since > _WAIT_SECONDS:
                blob.delete(if_generation_match=seen)
                continue
        except (NotFound, PreconditionFailed):
            # The holder has let go, or another took its place.
            continue
        time.sleep(_REMOTE_POLL_SECONDS)


def _blob(path: str) -> Any:
    from google.cloud.storage import Client

    bucket, _, name = path.removeprefix("gs://").partition("/")
    return Client(project=None).bucket(bucket).blob(name)
