"""The named errors of the project and the exit code that each one maps to."""

from __future__ import annotations

import enum


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

    @classmethod
    def of_damaged_day(cls, path: str, error: Exception) -> BadDataError:
        """Says that a file of a day in the day store is damaged, and that a run makes it again."""
        return cls(
            f"{path}: damaged ({error}). Remove its folder, which is a day of the day store, and "
            "the next run ingests the day again"
        )

    @classmethod
    def of_damaged(cls, path: str, error: Exception) -> BadDataError:
        """Says that a file beside a day's shards is damaged, and that a run makes it again."""
        return cls(
            f"{path}: damaged ({error}). It was made of the day's events; remove it, and the next "
            f"run makes it again"
        )


class TrainingError(RankerError):
    """Training could not produce a model that may be exported."""


class ServingStoreError(RankerError):
    """The directory of served versions is not in the state the operation needs."""
