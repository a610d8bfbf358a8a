"""With default settings a first model learns, in a small simulated world of known limits."""

import numpy as np
import pytest

from benchmarks.daily import run_days, simulated
from benchmarks.learning import default_spec
from pipeline.simulate import Shape

COLD, LAST = 4, 4
BEFORE = (
    "training.batch_size=1024",
    "training.epochs=1",
    "training.learning_rate=0.05",
    "training.embedding_learning_rate=0.05",
    "training.warmup_steps=0",
    "training.optimizer.initial_accumulator=0.1",
)


@pytest.mark.slow
def test_a_default_model_of_a_small_log_learns_where_few_large_steps_do_not():
    spec = default_spec([])
    columns, best_of_days = simulated(spec, Shape(), LAST + 1, 3_000, 7)

    def mean(days):
        return {name: np.mean([day[name] for day in days]) for name in spec.tasks}

    def reached(settings):
        return mean(run_days(default_spec(settings), columns, range(COLD), LAST, 0))

    best, default, before = mean(best_of_days[COLD:]), reached([]), reached(BEFORE)
    for name, task in spec.tasks.items():
        if task.kind == "binary":
            assert before[name] + 0.05 < default[name] < best[name]
        else:
            assert best[name] < default[name] < 0.95 * before[name]
