"""The fresh process that serves requests, `probe`; it may be started before it is needed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

Process = subprocess.Popen[str]

_ready: list[Process] = []


@contextlib.contextmanager
def started_early() -> Iterator[None]:
    """Starts the process that the next `take` gives.

    It imports TensorFlow, which takes seconds, while this process does something else, and
    then waits to be told what to do.
    """
    process = _start()
    _ready.append(process)
    try:
        yield
    finally:
        if process in _ready:
            _ready.remove(process)
            process.kill()
            process.communicate()


def take() -> Process:
    """Returns a process that has done nothing yet: one that is ready, or else a new one."""
    while _ready:
        process = _ready.pop()
        if process.poll() is None:
            return process
    return _start()


def _start() -> Process:
    return subprocess.Popen(
        [sys.executable, "-m", "components.serving_check.probe"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # What TensorFlow says may quote bytes of a request.
        encoding="utf-8",
        errors="replace",
    )
