import threading

import pytest

from benchmarks.planted import healthy
from trainer_module.stability.detection import Detector
from trainer_module.stability.monitor import Monitor
from trainer_module.stability.recording import StatisticsRecorder

STATISTICS = healthy("quiet", 120, 0).statistics()


def new_detector():
    return Detector(STATISTICS.tasks, STATISTICS.binary_tasks, STATISTICS.layers)


def test_all_that_was_taken_was_looked_at_after_waiting(tmp_path):
    detector, recorder = new_detector(), StatisticsRecorder(str(tmp_path))
    with Monitor(detector, recorder, None) as monitor:
        monitor.take(STATISTICS)
        monitor.wait()
        assert detector.step == 120
        assert len(recorder.read()) == 120


def test_steps_are_looked_at_while_the_caller_goes_on(monkeypatch):
    going_on = threading.Event()
    update = Detector.update

    def update_late(self, statistics):
        assert going_on.wait(timeout=60)
        update(self, statistics)

    monkeypatch.setattr(Detector, "update", update_late)
    detector = new_detector()
    with Monitor(detector, None, None) as monitor:
        monitor.take(STATISTICS)
        assert detector.step == 0
        going_on.set()
        monitor.wait()
    assert detector.step == 120


@pytest.mark.parametrize("then", [Monitor.wait, lambda monitor: monitor.take(STATISTICS)])
def test_what_goes_wrong_meanwhile_is_raised_by_the_next_call(then):
    with Monitor(new_detector(), None, None) as monitor:
        monitor.take(STATISTICS)
        monitor.take(STATISTICS)  # again the same steps
        with pytest.raises(ValueError, match="120 comes next"):
            then(monitor)
