"""Writes the report of a workspace."""

from __future__ import annotations

import os

from absl import logging

from pipeline.workspace import Workspace


def write(workspace: Workspace, path: str | None = None) -> str:
    """Writes the page in place of an older one.

    Args:
        workspace: what to report on.
        path: the file; the workspace's own if not given.

    Returns:
        The file.

    Raises:
        RankerError: ML Metadata or the serving folder cannot be read.
        OSError: the file cannot be written.
    """
    from pipeline.html_report.collect import collect
    from pipeline.html_report.page import render

    path = path or workspace.report
    page = render(collect(workspace))
    new = f"{path}.{os.getpid()}.new"
    try:
        with open(new, "w", encoding="utf-8") as file:
            file.write(page)
        # Whoever has the page open never sees half of it.
        os.replace(new, path)
    except BaseException:
        if os.path.exists(new):
            os.remove(new)
        raise
    return path


def write_after_day(workspace: Workspace) -> str | None:
    """Writes the page after a run, whose outcome it can never change; None if it cannot."""
    if not os.path.exists(workspace.metadata_path):
        # The run died before it began: there is nothing to report on.
        return None
    try:
        return write(workspace)
    except Exception as error:
        logging.warning("%s: the report was not written: %s", workspace.report, error)
        return None
