"""The process that runs a day."""

import time

from apache_beam.runners.worker.statesampler import StateSampler
from apache_beam.utils.counters import CounterFactory

from pipeline import beam_run


def test_the_end_of_a_bundle_does_not_wait_for_beams_sampler(monkeypatch):
    monkeypatch.setattr(StateSampler, "__init__", StateSampler.__init__)
    beam_run._end_bundles_at_once()
    samplers = [StateSampler("", CounterFactory()) for _ in range(4)]
    # Where they sleep 0.2 s at a time, one of them has just gone to sleep when it is told to end.
    for sampler in samplers:
        sampler.start()
        time.sleep(0.05)
    time.sleep(1.5)
    told = time.perf_counter()
    for sampler in samplers:
        sampler.stop()
    assert time.perf_counter() - told < 0.1
