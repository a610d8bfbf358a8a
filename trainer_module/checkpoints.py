"""Checkpoints of a training: to resume from after a kill, to go back to after a divergence."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from trainer_module.averaging import WeightAverage
from trainer_module.stability.outcome import Attempt

_logger = logging.getLogger(__name__)

_STATE = "state"
_PROGRESS = "progress-2.json"
"""Whose number is that of the format: a checkpoint of another one does not count."""
_KEPT = 3


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a training stands.

    Attributes:
        step: steps taken.
        left_out: ranges of batches of the data, in order and apart, that are not trained on.
        first_step: step at which the current attempt began.
        failed: the attempts before it, all of which diverged.
        monitor: state of the divergence monitor, for JSON.
        start: `soundness.fingerprints` of the training's start.
    """

    step: int = 0
    left_out: tuple[tuple[int, int], ...] = ()
    first_step: int = 0
    failed: tuple[Attempt, ...] = ()
    monitor: dict[str, Any] = dataclasses.field(default_factory=dict)
    start: dict[str, str] = dataclasses.field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one training, each in a folder of its own.

    A checkpoint counts once its progress is there, which is written last: whoever is
    killed while saving leaves the one before as the newest. That of the training's start is
    kept, and the three newest.
    """

    def __init__(self, directory: str, *, writes: bool):
        """Opens the folder.

        Args:
            directory: a folder on any filesystem that TensorFlow knows, here or not.
            writes: whether this process changes the folder: one of those that train together.
        """
        self._directory = directory
        self._writes = writes

    def newest(self) -> Progress | None:
        """Progress of the newest checkpoint; None if there is none."""
        known = self._known()
        if not known:
            return None
        newest = max(known, key=lambda p: (len(p.failed), p.step))
        if self._writes:
            # Whoever was killed in `go_back` left later steps of the failed attempt.
            self._delete(p for p in known if p.step > newest.step)
        return newest

    def save(
        self,
        progress: Progress,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        average: WeightAverage | None = None,
    ) -> None:
        """Saves the training as it is, and deletes what is kept no longer."""
        if not self._writes:
            return
        folder = self._folder(progress)
        if tf.io.gfile.exists(folder):
            # Of one who was killed while saving, or deleting.
            tf.io.gfile.rmtree(folder)
        tf.io.gfile.makedirs(folder)
        _checkpoint(model, optimizer, average).write(os.path.join(folder, _STATE))
        self._write(progress)
        self._delete(self._known()[1:-_KEPT])

    def restore(
        self,
        progress: Progress,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        average: WeightAverage | None = None,
    ) -> None:
        """Restores a checkpoint into a model of the same architecture and a built optimizer."""
        path = os.path.join(self._folder(progress), _STATE)
        status = _checkpoint(model, optimizer, average).read(path)
        status.assert_existing_objects_matched().expect_partial()

    def go_back(self, progress: Progress, failed: Attempt, *, leave_out: bool) -> None:
        """Makes the newest checkpoint from before a divergence the newest of all.

        Args:
            progress: where the training stood when it was stopped.
            failed: the attempt that diverged; its last event is the divergence.
            leave_out: whether not to train on the batches again from the event's start
                until it was noticed.
        """
        if not self._writes:
            return
        start, *later = self._known()
        event = failed.events[-1]
        target = [start, *(p for p in later if p.step < event.start)][-1]
        # Not the target's: it may be from before earlier attempts failed.
        left_out = progress.left_out
        if leave_out:
            batches = (_batch(event.start, left_out), _batch(event.detected, left_out) + 1)
            left_out = _merged((*left_out, batches))
        self._write(
            dataclasses.replace(
                target,
                first_step=target.step,
                failed=(*progress.failed, failed),
                left_out=left_out,
            )
        )
        self._delete(p for p in later if p.step > target.step)

    def _delete(self, checkpoints: Iterable[Progress]) -> None:
        for progress in checkpoints:
            folder = self._folder(progress)
            # First what makes it count, lest half a checkpoint does.
            tf.io.gfile.remove(os.path.join(folder, _PROGRESS))
            tf.io.gfile.rmtree(folder)

    def _folder(self, progress: Progress) -> str:
        return os.path.join(self._directory, f"{progress.step:012d}")

    def _known(self) -> list[Progress]:
        """Whole checkpoints, by step."""
        found = []
        for path in sorted(tf.io.gfile.glob(os.path.join(self._directory, "*", _PROGRESS))):
            with tf.io.gfile.GFile(path) as file:
                text = file.read()
            try:
                found.append(_parsed(text))
            except (ValueError, KeyError, TypeError) as error:
                # A loss of power may leave an empty file.
                _logger.warning("%s: damaged (%r); this checkpoint does not count", path, error)
        return found

    def _write(self, progress: Progress) -> None:
        path = os.path.join(self._folder(progress), _PROGRESS)
        with tf.io.gfile.GFile(path + ".tmp", "w") as file:
            failed = [attempt.to_json() for attempt in progress.failed]
            json.dump({**dataclasses.asdict(progress), "failed": failed}, file)
        tf.io.gfile.rename(path + ".tmp", path, overwrite=True)


def _parsed(text: str) -> Progress:
    content = json.loads(text)
    failed = tuple(map(Attempt.from_json, content["failed"]))
    left_out = tuple((start, end) for start, end in content["left_out"])
    return Progress(**{**content, "failed": failed, "left_out": left_out})


def _merged(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Returns ranges that cover the same, in order and apart."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            start, last = merged.pop()
            end = max(end, last)
        merged.append((start, end))
    return tuple(merged)


def _batch(step: int, left_out: tuple[tuple[int, int], ...]) -> int:
    """Number of the batch that was trained on at a step."""
    for start, end in left_out:
        if step >= start:
            step += end - start
    return step


def _checkpoint(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, average: WeightAverage | None
) -> tf.train.Checkpoint:
    # TensorFlow does not find Keras's generators of dropout masks by itself.
    weights = {id(variable) for variable in model.weights}
    seeds = [variable.value for variable in model.variables if id(variable) not in weights]
    parts = {} if average is None else {"average": average}
    return tf.train.Checkpoint(model=model, optimizer=optimizer, seeds=seeds, **parts)
