"""What the commands share: options, error messages, a console, silence of the libraries below."""

from __future__ import annotations

import datetime
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import ExitCode, RankerError

if TYPE_CHECKING:
    from rich.console import Console


def _local_folder(path: str) -> str:
    if "://" in path:
        raise typer.BadParameter(f"{path!r} is a URL; a workspace is a folder on this machine")
    return path


WorkspaceOption = Annotated[
    str,
    typer.Option(
        "--workspace",
        "-w",
        callback=_local_folder,
        help="Folder for metadata, artifacts and versions.",
    ),
]
SpecOption = Annotated[str, typer.Option("--spec", "-s", help="The ranking spec (YAML).")]
LogsOption = Annotated[str, typer.Option("--logs", "-l", help="Folder with one folder per day.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override of the spec: training.learning_rate=0.1. Repeatable."),
]
BeamOption = Annotated[
    list[str] | None,
    typer.Option(
        "--beam-arg",
        help="Beam option of the components, e.g. --runner=PortableRunner; paths are absolute.",
    ),
]
ParameterOption = Annotated[
    list[str] | None,
    typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="A run parameter. Repeatable."),
]
DateArgument = Annotated[
    datetime.datetime, typer.Argument(formats=["%Y-%m-%d"], metavar="YYYY-MM-DD")
]


def dates_between(first: datetime.datetime, last: datetime.datetime) -> list[datetime.date]:
    """Returns the days of a range that a call gives, both ends included.

    Raises:
        BadParameter: the range is empty.
    """
    if last < first:
        raise typer.BadParameter(f"{last:%Y-%m-%d} is before {first:%Y-%m-%d}")
    return [first.date() + datetime.timedelta(days=day) for day in range((last - first).days + 1)]


def parse_parameters(assignments: list[str] | None) -> dict[str, str]:
    """Returns run parameters given as `NAME=VALUE`.

    Raises:
        BadParameter: one is not.
    """
    parsed = {}
    for assignment in assignments or ():
        name, equals, value = assignment.partition("=")
        if not equals:
            raise typer.BadParameter(f"{assignment!r}: expected NAME=VALUE")
        parsed[name] = value
    return parsed


@contextmanager
def messages() -> Iterator[None]:
    """Turns errors meant for people into their message and exit code; all else is silent.

    A command does all its work in here, its imports of TensorFlow and TFX too.
    """
    _silence_libraries()
    try:
        yield
    except RankerError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    except OSError as error:
        # The operating system says what is wrong, with which file.
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {where}{error.strerror or error}", err=True)
        raise typer.Exit(ExitCode.FAILED) from error


def _silence_libraries() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("tensorflow").setLevel("ERROR")


def make_console() -> Console:
    """A console; a table in a file is not folded at 80 columns."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=160)
