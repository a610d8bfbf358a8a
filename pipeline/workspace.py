"""Where a local deployment keeps its state."""

from __future__ import annotations

import dataclasses
import os

LOCK_FILE = ".lock"
"""File in a workspace that is locked while days are run in it."""


@dataclasses.dataclass(frozen=True)
class Workspace:
    """The folders and files under one root."""

    root: str

    @property
    def metadata_path(self) -> str:
        """The sqlite file of ML Metadata."""
        return os.path.join(self.root, "metadata.sqlite")

    @property
    def artifacts(self) -> str:
        """The pipeline root."""
        return os.path.join(self.root, "artifacts")

    @property
    def day_store(self) -> str:
        """The encoded days."""
        return os.path.join(self.root, "day_store")

    @property
    def serving(self) -> str:
        """The served versions."""
        return os.path.join(self.root, "serving")

    @property
    def checkpoints(self) -> str:
        """Checkpoints of trainings that have not ended."""
        return os.path.join(self.root, "checkpoints")

    @property
    def report(self) -> str:
        """The page for people; see `pipeline.html_report`."""
        return os.path.join(self.root, "report.html")

    @property
    def tensorboard(self) -> str:
        """What TensorBoard reads, a folder a run; see `components.trainer`."""
        return os.path.join(self.artifacts, "Trainer", "model_run")

    @property
    def run_logs(self) -> str:
        """What TFX, TensorFlow and Beam print, a file for each run."""
        return os.path.join(self.root, "run_logs")
