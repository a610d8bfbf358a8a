"""Reports on a training's stability, as the Trainer leaves them."""

from __future__ import annotations

import pytest

from trainer_module.stability.events import DivergenceEvent, Limits
from trainer_module.stability.outcome import Attempt
from trainer_module.stability.recording import StatisticsRecorder
from trainer_module.stability.writing import write_report

HEALTHY = Attempt(0, 100, "healthy", "healthy after 100 steps", ())
DIVERGED = Attempt(
    0,
    40,
    "diverged",
    "diverged after 40 steps",
    (DivergenceEvent("full", 10, 20, 15, 9.0, 1.0, ("click",), 40, "the loss is not finite"),),
)


def write_stability(folder, attempt=HEALTHY):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer_module.stability.plots.draw", lambda *args: {})
        write_report(
            str(folder), [attempt], StatisticsRecorder(str(folder / "statistics")), Limits(), {}
        )
