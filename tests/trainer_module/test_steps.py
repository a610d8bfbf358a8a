import pytest

from schemas.training import Training
from trainer_module.steps import describe_steps


@pytest.mark.parametrize(
    ("training", "day_events", "warm", "steps", "words"),
    [
        ({}, 20_000, False, 3_000, "3000 steps of 64 events"),
        ({}, 20_000, True, 312, "312 steps of 64 events"),
        (
            {"batch_size": 1024},
            3_000,
            True,
            3,
            "3 steps of 1024 events, too few to learn from (a warm start takes 20): set "
            "training.batch_size to auto, here 32",
        ),
        (
            {},
            200,
            False,
            90,
            "90 steps of 32 events, too few to learn from (a cold start takes 200): raise "
            "training.window_days or training.epochs",
        ),
    ],
)
def test_too_few_steps_are_said_with_a_remedy(training, day_events, warm, steps, words):
    assert describe_steps(Training(**training), day_events, warm, steps) == words
