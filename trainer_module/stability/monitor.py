"""The divergence monitor at work beside a training."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from trainer_module.stability.detection import Detector
from trainer_module.stability.recording import StatisticsRecorder
from trainer_module.stability.statistics import StepStatistics
from trainer_module.stability.tensorboard import Scalars


class Monitor:
    """Looks at the statistics of steps while the next steps run.

    Detector and recorder take microseconds a step in Python, in which the devices would wait.
    Use it in a `with` statement, and call `wait` before the detector or the recorder is read.

    Args:
        detector: takes in all statistics.
        recorder: likewise; None records nothing.
        scalars: likewise; None writes nothing.
    """

    def __init__(
        self, detector: Detector, recorder: StatisticsRecorder | None, scalars: Scalars | None
    ):
        self._observers = [detector.update]
        if scalars is not None:
            self._observers.append(scalars.write)
        if recorder is not None:
            self._observers.append(recorder.append)
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._underway: Future[None] | None = None

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.shutdown()

    def take(self, statistics: StepStatistics) -> None:
        """Starts to look at the next steps, once it is through with those before."""
        self.wait()
        self._underway = self._thread.submit(self._look, statistics)

    def wait(self) -> None:
        """Returns once all that was taken was looked at; raises what went wrong meanwhile."""
        if self._underway is not None:
            self._underway.result()

    def _look(self, statistics: StepStatistics) -> None:
        for observe in self._observers:
            observe(statistics)
