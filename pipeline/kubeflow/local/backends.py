"""What the releases of Kubeflow Pipelines do differently, as far as a step can tell.

Source: kubeflow/pipelines, backend/src/v2 at these releases: issue #12098 (2.15), #12616 (2.16),
#13424 and pull request #13175 (2.17), pull request #13986 (3.0, not released: read on its branch).
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from schemas.errors import RankerError


@dataclasses.dataclass(frozen=True)
class Backend:
    """How the releases from one on, up to the next of these, treat a step.

    Attributes:
        since: the first of them.
        task_folder: the output metadata file lies in the task's own folder, and an output
            artifact has a name; else the file is under `/tmp` and there is no name.
        times: what becomes of the macros of the run's creation and its schedule: they are `left`
            as text, `empty`, or `given`.
        logs_by_attempt: each attempt at a step has a log of its own in the bucket.
        metadata_store: ML Metadata keeps the artifacts, and changes values on the way; an output
            that a step does not write is not an error. Without it, metadata comes back as it was
            written, the type of an artifact with it, and a missing output fails the step.
    """

    since: str
    task_folder: bool
    times: Literal["left", "empty", "given"]
    logs_by_attempt: bool
    metadata_store: bool


BACKENDS = (
    Backend("2.5", False, "left", False, True),
    Backend("2.15", True, "left", False, True),
    Backend("2.16", True, "empty", False, True),
    Backend("2.17", True, "given", True, True),
    Backend("3.0", True, "given", True, False),
)

NEWEST = "2.17"
"""The newest that is released."""


def backend_of(version: str) -> Backend:
    """Returns how a release behaves, such as `2.16.1`.

    Raises:
        RankerError: it is not a version, or older or newer than what is known.
    """
    number = re.fullmatch(r"(\d+)\.(\d+)(\.\d+)?", version)
    if number:
        wanted = _number(f"{number[1]}.{number[2]}")
        older = [backend for backend in BACKENDS if _number(backend.since) <= wanted]
        if older and wanted <= _number(BACKENDS[-1].since):
            return older[-1]
    raise RankerError(
        f"Kubeflow Pipelines {version}: how it runs a step is known of "
        f"{BACKENDS[0].since} to {BACKENDS[-1].since}"
    )


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
