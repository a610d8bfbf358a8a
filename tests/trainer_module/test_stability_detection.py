import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from step_curves import cut

from benchmarks.planted import FULL, LAYERS, NOISES, healthy, with_full, with_spike
from trainer_module.stability.detection import Detector
from trainer_module.stability.events import Limits

START = 300


def detector_of(statistics, limits=Limits()):  # noqa: B008
    names = (statistics.tasks, statistics.binary_tasks, statistics.layers)
    return Detector(*names, limits=limits)


def detect(curves, limits=Limits()):  # noqa: B008
    statistics = curves.statistics() if hasattr(curves, "statistics") else curves
    detector = detector_of(statistics, limits)
    detector.update(statistics)
    return detector


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noise", NOISES)
def test_healthy_training_is_healthy(noise, seed):
    detector = detect(healthy(noise, 1000, seed))
    assert not detector.diverged
    if noise == "autocorrelated":  # there, what lasts is noise, and may look like an event
        assert detector.verdict != "diverged"
    else:
        assert detector.events == ()
        assert detector.verdict == "healthy"
        assert detector.healthy
        assert detector.summary() == "healthy after 1000 steps"


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("height", [1.0, 10.0, 1e6])
def test_a_single_hard_batch_is_no_event(noise, height):
    assert detect(with_spike(healthy(noise, 600, 3), START, 1, height)).events == ()


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(("width", "height"), [(3, 3.0), (10, 1.0), (40, 5.0), (100, 100.0)])
def test_spike_that_passes_is_a_micro_divergence(noise, width, height):
    curves = with_spike(healthy(noise, 700, 4), START, width, height)
    detector = detect(curves)
    assert detector.verdict == "recovered"
    (event,) = detector.events
    assert event.kind == "micro"
    assert START - 2 <= event.start <= START + 1
    assert event.start <= event.detected <= START + 4
    assert START <= event.peak < START + width
    assert START + width - 5 <= event.ended <= START + width + 20
    loss = curves.statistics().loss
    assert event.loss_rise == pytest.approx(loss[START : START + width].max() - 1.7, rel=0.5)
    assert "click" in event.tasks
    assert "1 micro-divergence" in detector.summary()


def test_depth_counts_scales():
    def depth(height):
        curves = with_spike(healthy("quiet", 500, 0), START, 5, height)
        (event,) = detect(curves).events
        return event.depth

    # The scale of the total loss is about its floor, 2 %.
    assert depth(np.e - 1.0) == pytest.approx(1.0 / 0.02, rel=0.5)
    assert depth(np.e**3 - 1.0) > 2.5 * depth(np.e - 1.0)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(
    ("shape", "within", "reason"),
    [
        ("nan", 35, "not finite"),
        ("constant", 200, "lost|above its level"),
        ("slow", 230, "lost|above its level"),
        ("dead", 100, "gradients dead"),
        ("chance", 230, "lost"),
        ("frozen", 25, "not finite"),
    ],
)
def test_full_divergence_is_called(noise, shape, within, reason):
    detector = detect(with_full(healthy(noise, 700, 5), START, shape))
    assert detector.verdict == "diverged"
    assert detector.diverged
    *_, event = detector.events
    assert event.kind == "full"
    assert START - 5 <= event.start <= START + 30
    assert event.ended <= START + within
    assert any(word in event.reason for word in reason.split("|"))
    assert event.reason in detector.summary()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("doubling", [200, 300, 400, 500])
def test_loss_that_creeps_up_for_good_is_full_divergence(doubling, seed):
    curves = healthy("quiet", 2600, seed)
    curves.task_loss *= np.maximum(1.0, 10.0 * np.exp(-np.arange(2600) / 60.0))[:, None]
    rise = np.arange(2000)
    curves.task_loss[600:] *= 2.0 ** (rise / doubling)[:, None]
    detector = detect(curves)
    assert detector.verdict == "diverged"
    *_, event = detector.events
    assert event.kind == "full"
    assert "above its level" in event.reason
    assert event.ended <= 600 + 2 * doubling + Limits().window + Limits().patience


def test_loss_that_crept_up_unnoticed_and_comes_back_is_a_micro_divergence():
    curves = healthy("noisy", 1600, 0)
    rise = np.concatenate([np.linspace(0.0, 1.3, 400), np.full(150, 1.3), np.zeros(450)])
    curves.task_loss[600:] *= 2.0 ** rise[:, None]
    (event,) = detect(curves).events
    assert event.kind == "micro"
    assert 1000 < event.detected < 1150
    assert 1145 <= event.ended <= 1160


def test_rough_start_of_a_loss_that_falls_is_no_divergence():
    curves = healthy("falling", 600, 0)
    curves.auc[:] = 0.51  # a long warm-up
    curves.task_loss[10:16] *= 6.0
    assert detect(curves).verdict != "diverged"


@pytest.mark.parametrize("step", [1, 5, 30])
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize(("height", "diverged"), [(50.0, False), (200.0, True), (1e10, True)])
def test_start_that_blows_up_and_learns_nothing_has_diverged(step, width, height, diverged):
    curves = healthy("noisy", 600, 0)
    curves.auc[:] = 0.5
    curves.task_loss[step : step + width] *= height
    detector = detect(curves)
    assert detector.diverged == diverged
    if diverged:
        reason = detector.events[-1].reason
        assert reason == "loss blew up at the start, AUC at chance for 200 steps"


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("height", [200.0, 1e10])
def test_start_that_blows_up_and_learns_after_all_has_recovered(width, height):
    curves = healthy("noisy", 600, 0)
    curves.auc[:100] = 0.5
    curves.task_loss[1 : 1 + width] *= height
    assert detect(curves).verdict == "recovered"


@pytest.mark.parametrize("shape", FULL)
@pytest.mark.parametrize("start", [1, 5, 30])
def test_divergence_right_at_the_start_is_called(shape, start):
    curves = with_full(healthy("noisy", 600, 6), start, shape)
    # Nothing was learned before: the loss is that of a constant predictor, the AUC 0.5.
    curves.task_loss[:start] *= 1.25
    curves.auc[:] = 0.5
    detector = detect(curves)
    if shape == "chance":  # such a loss is where it began: no learning, but no divergence
        assert detector.verdict != "healthy" or start < 5
    else:
        assert detector.diverged


@pytest.mark.parametrize("shape", ["constant", "slow", "dead", "chance"])
def test_training_that_ends_before_it_recovers_has_diverged(shape):
    statistics = with_full(healthy("noisy", START + 60, 7), START, shape).statistics()
    detector = detector_of(statistics)
    detector.update(cut(statistics, 0, START))
    assert detector.verdict == "healthy"
    detector.update(cut(statistics, START, START + 60))
    assert not detector.diverged  # patience has not run out
    assert not detector.healthy
    assert detector.events[-1].kind == "open"
    assert detector.events[-1].ended is None
    assert detector.verdict == "diverged"


@pytest.mark.parametrize("patience", [50, 200])
def test_patience_decides_when_loss_is_given_up(patience):
    curves = with_full(healthy("quiet", 700, 8), START, "constant")
    detector = detect(curves, Limits(patience=patience))
    assert detector.events[-1].ended == pytest.approx(START + patience, abs=2)
    spike = with_spike(healthy("quiet", 700, 8), START, 100, 10.0)
    assert detect(spike, Limits(patience=patience)).diverged == (patience < 100)


def test_no_snapshot_is_taken_while_gradients_are_dead():
    curves = healthy("noisy", 400, 18)
    curves.gradient_norm[START:, :3] = 0.0
    statistics = curves.statistics()
    detector = detector_of(statistics)
    detector.update(cut(statistics, 0, START))
    assert detector.healthy
    detector.update(cut(statistics, START, START + 1))
    assert not detector.healthy
    assert detector.verdict == "healthy"  # the AUC has not suffered


def test_a_higher_loss_that_ranks_as_well_is_a_shift_of_level():
    curves = healthy("noisy", 1200, 9)
    curves.task_loss[START:] *= 1.5
    detector = detect(curves)
    assert [event.kind for event in detector.events] == ["shift"]
    assert detector.verdict == "recovered"
    # The new level is learned: an event above it is seen.
    curves = with_spike(curves, 1000, 10, 1.0)
    assert [event.kind for event in detect(curves).events] == ["shift", "micro"]


def test_one_task_that_is_lost_is_named():
    curves = healthy("noisy", 800, 10)
    lost = with_full(healthy("noisy", 800, 10), START, "constant")
    curves.task_loss[:, 1], curves.auc[:, 1] = lost.task_loss[:, 1], lost.auc[:, 1]
    detector = detect(curves)
    assert detector.diverged
    assert detector.events[-1].tasks == ("rare",)
    assert "rare" in detector.events[-1].reason


def test_lost_auc_is_an_event_even_if_no_loss_shows_it():
    curves = healthy("noisy", 800, 11)
    fading = np.exp(-np.arange(800 - START) / 50.0)[:, None]
    curves.auc[START:] = 0.5 + (curves.auc[START:] - 0.5) * fading
    detector = detect(curves)
    assert detector.diverged
    assert set(detector.events[-1].tasks) >= {"click", "rare"}


def test_an_auc_that_was_never_measured_does_not_count():
    curves = healthy("noisy", 800, 12)
    curves.auc[:, 1] = np.nan
    assert detect(curves).verdict == "healthy"
    assert detect(with_full(curves, START, "dead")).diverged


@pytest.mark.parametrize("shape", ["nan", "constant", "slow"])
def test_regression_alone_diverges_by_its_loss(shape):
    def alone(curves):
        whole = curves.statistics()
        return dataclasses.replace(
            whole,
            tasks=("watch",),
            binary_tasks=(),
            loss=whole.task_loss[:, 2],
            task_loss=whole.task_loss[:, 2:],
            auc=whole.auc[:, :0],
        )

    assert detect(alone(healthy("heavy tails", 800, 13))).verdict == "healthy"
    assert detect(alone(with_full(healthy("heavy tails", 800, 13), START, shape))).diverged


def test_batches_without_labels_do_not_count():
    curves = healthy("noisy", 800, 14)
    curves.task_loss[np.random.default_rng(0).random(800) < 0.5, 2] = 0.0
    assert detect(curves).verdict == "healthy"


def test_a_few_steps_that_are_not_finite_are_survived():
    curves = healthy("noisy", 600, 15)
    curves.task_loss[START : START + 5] = np.nan
    curves.skipped[START : START + 5] = True
    detector = detect(curves)
    assert detector.verdict == "recovered"
    assert detector.events[0].depth == pytest.approx(0.0, abs=20.0)
    json.dumps(detector.events[0].to_json(), allow_nan=False)


def test_steps_after_full_divergence_are_not_looked_at():
    statistics = with_full(healthy("quiet", 900, 16), START, "nan").statistics()
    detector = detector_of(statistics)
    detector.update(cut(statistics, 0, 400))
    events = detector.events
    detector.update(cut(statistics, 400, 900))
    assert detector.step == 900
    assert detector.events == events


def test_an_events_steps_do_not_become_the_level():
    """Two spikes of one height, the second right after the first, are both seen in full."""
    curves = with_spike(healthy("quiet", 800, 17), START, 80, 1.0)
    curves = with_spike(curves, START + 120, 80, 1.0)
    first, second = detect(curves).events
    assert second.depth == pytest.approx(first.depth, rel=0.2)


planted = [
    with_spike(with_spike(healthy("heavy tails", 500, 1), 200, 10, 3.0), 350, 4, 5.0).statistics(),
    with_full(healthy("falling", 500, 2), 150, "dead").statistics(),
    with_full(healthy("noisy", 500, 3), 2, "nan").statistics(),
    with_full(healthy("noisy", 400, 4), 120, "slow").statistics(),
]


@given(
    index=st.sampled_from(range(len(planted))),
    cuts=st.lists(st.integers(0, 500), max_size=12),
    restored=st.booleans(),
)
@settings(max_examples=25)
def test_neither_chunks_nor_a_restart_change_anything(index, cuts, restored):
    statistics = planted[index]
    whole = detect(statistics)
    detector = detector_of(statistics)
    edges = [0, *sorted(min(c, len(statistics)) for c in cuts), len(statistics)]
    for first, end in itertools.pairwise(edges):
        detector.update(cut(statistics, first, end))
        if restored:
            state = json.loads(json.dumps(detector.to_state(), allow_nan=False))
            detector = Detector.from_state(state)
    assert detector.to_state() == whole.to_state()
    assert detector.events == whole.events
    assert detector.summary() == whole.summary()


def test_a_state_keeps_the_limits():
    statistics = planted[0]
    detector = detector_of(statistics, Limits(patience=77))
    assert Detector.from_state(detector.to_state()).limits == Limits(patience=77)


def test_steps_out_of_order_are_refused():
    statistics = planted[0]
    detector = detector_of(statistics)
    detector.update(cut(statistics, 0, 10))
    with pytest.raises(ValueError, match="steps from 11 on were given, 10 comes next"):
        detector.update(cut(statistics, 11, 20))


def test_other_layers_are_refused():
    statistics = planted[0]
    detector = Detector(statistics.tasks, statistics.binary_tasks, LAYERS[::-1])
    with pytest.raises(ValueError, match="other tasks or layers"):
        detector.update(statistics)
