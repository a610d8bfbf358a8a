"""The named errors of the project and the exit code that each one maps to."""

from __future__ import annotations

import enum
import re


class ExitCode(enum.IntEnum):
    """Exit codes of the command line; 2 is what typer itself uses for a bad call."""

    PUSHED = 0
    FAILED = 1
    USAGE = 2
    BAD_SPEC = 3
    BLOCKED = 10
    BAD_DATA = 11


class RankerError(Exception):
    """Base of every error that a person is meant to read.

    The message says what is wrong, where (file, line, field), and what to do about it.
    """

    exit_code = ExitCode.FAILED


class SpecError(RankerError):
    """The ranking spec, an override of it, or the values of a deployment are invalid."""

    exit_code = ExitCode.BAD_SPEC


class BadDataError(RankerError):
    """The day's events cannot be trusted: absent, too malformed, or anomalous."""

    exit_code = ExitCode.BAD_DATA


class TrainingError(RankerError):
    """Training could not produce a model that may be exported."""


class ServingStoreError(RankerError):
    """The directory of served versions is not in the state the operation needs."""


def error_named(name: str) -> type[RankerError] | None:
    """Returns the error class called `name`, or None.

    An executor's exception crosses Beam and ML Metadata as text; this is the way back.
    """
    pending = [RankerError]
    while pending:
        cls = pending.pop()
        if cls.__name__ == name:
            return cls
        pending.extend(cls.__subclasses__())
    return None


def error_in(text: str) -> tuple[str, str]:
    """Finds what a run failed with.

    Args:
        text: a formatted traceback; exceptions cross Beam's runner as text.

    Returns:
        Name and message of the first error of `schemas.errors` in it, or else of its last
        exception.
    """
    ours = re.search(
        r"^(?:\w+: )?schemas\.errors\.(\w+): (.*?)(?=^\S*Traceback|\n\n| \[while running|\Z)",
        text,
        re.MULTILINE | re.DOTALL,
    )
    if ours:
        return ours.group(1), ours.group(2).strip()
    lines = [line for line in text.strip().splitlines() if line and not line.startswith(" ")]
    return "", re.sub(r" \[while running .*", "", lines[-1])
