"""Tells whoever watches where a training is: a small file that is written anew as it goes on."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time

from schemas.training import Training

VARIABLE = "STEADYRANK_LIVE"
"""Environment variable with the file; nothing is told where it is not set."""

_EVERY_SECONDS = 1.0


class Teller:
    """Writes where an attempt is, at most once a second.

    The file is JSON: `attempt`, from 1; `step`, steps done; `loss` of the last one, or null if
    it is not finite; `batch_size` and `epochs`.
    """

    def __init__(self, training: Training, attempt: int) -> None:
        """Makes it for an attempt with the settings `training`, which have no `auto`."""
        self._path = os.environ.get(VARIABLE, "")
        self._settings = {"batch_size": training.batch_size, "epochs": training.epochs}
        self._attempt = attempt
        self._due = 0.0

    def tell(self, step: int, loss: float) -> None:
        """Says how many steps are done, and the loss of the last one."""
        now = time.monotonic()
        if not self._path or now < self._due:
            return
        self._due = now + _EVERY_SECONDS
        said = {"attempt": self._attempt, "step": step, **self._settings}
        content = json.dumps({**said, "loss": loss if math.isfinite(loss) else None})
        # That nobody can look on must not end a training.
        with contextlib.suppress(OSError):
            with open(f"{self._path}.new", "w", encoding="utf-8") as file:
                file.write(content)
            os.replace(f"{self._path}.new", self._path)
