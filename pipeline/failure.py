"""What a process failed with, as data: whoever started it reads a file, not what it printed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import traceback

from schemas.errors import ExitCode, RankerError

VARIABLE = "STEADYRANK_FAILURE"
"""Environment variable with the file; nothing is written where it is not set."""

_LAST_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Failure:
    """An error.

    Attributes:
        kind: name of its class in `schemas.errors`; empty for any other error.
        message: what is wrong, where, and what to do about it.
        exit_code: what a process that fails with it ends with.
    """

    kind: str
    message: str
    exit_code: ExitCode

    def __str__(self) -> str:
        """With the name of the class."""
        return f"{self.kind}: {self.message}" if self.kind else self.message


def failure_of(error: Exception) -> Failure:
    """Describes an error; one that is not ours as Python prints it, with the name of its class."""
    if isinstance(error, RankerError):
        return Failure(type(error).__name__, str(error), error.exit_code)
    text = "".join(traceback.format_exception_only(type(error), error)).strip()
    if "Traceback (most recent call last):" in text:
        # What a worker of Beam raised comes with its whole traceback; the error is at the end.
        text = next(line for line in reversed(text.splitlines()) if not line.startswith(" "))
    return Failure("", text, ExitCode.FAILED)


def tell(error: Exception) -> Failure:
    """Writes what this process failed with; the first to tell is the one who knows.

    Runners wrap an error into others, as text. So it is told where it is still an exception, and
    once more at the end of the process, for what failed elsewhere.

    Returns:
        The failure that was told first.
    """
    path = os.environ.get(VARIABLE, "")
    if told := read(path):
        return told
    failure = failure_of(error)
    if path:
        # A full disk is bad enough; what it is told by is the log, then.
        with contextlib.suppress(OSError), open(path, "w", encoding="utf-8") as file:
            json.dump(dataclasses.asdict(failure), file)
    return failure


def read(path: str) -> Failure | None:
    """Reads what a process told; None if it told nothing."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        return Failure(content["kind"], content["message"], ExitCode(content["exit_code"]))
    except (OSError, ValueError, KeyError):
        return None


def last_line(log_path: str) -> str:
    """Returns the last line of a log that says anything, for a process that died without a word."""
    try:
        with open(log_path, "rb") as file:
            # Libraries may have written gigabytes before.
            file.seek(max(0, os.path.getsize(log_path) - _LAST_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
