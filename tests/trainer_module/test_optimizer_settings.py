"""The optimizer that a spec names."""

import dataclasses
import typing

import numpy as np
import pytest
from events import small_spec
from trainings import trained

from schemas.training import RULE_THRESHOLDS, OptimizerName, OptimizerSettings, Recovery, Training
from trainer_module import optimizers
from trainer_module.training import make_optimizer, make_rule

NAMES = typing.get_args(OptimizerName)
DEFAULTS = {
    "": optimizers.NoClipping(),
    "clippy": optimizers.Clippy(unit_threshold=3.0),
    "global_clippy": optimizers.GlobalClippy(unit_threshold=3.0),
    "gc": optimizers.GradientClipping(),
    "global_gc": optimizers.GlobalNormClipping(),
    "agc": optimizers.AdaptiveGradientClipping(),
    "unit_agc": optimizers.AdaptiveGradientClipping(unit_wise=True),
    "lamb": optimizers.Lamb(),
    "update_rms": optimizers.UpdateRMSClipping(),
    "adagc": optimizers.AdaGC(),
    "zclip": optimizers.ZClip(),
}


def settings(name, **changes):
    return OptimizerSettings(name=name, initial_accumulator=0.1, **changes)


def test_every_rule_is_there_for_each_base():
    rules = {"", *RULE_THRESHOLDS}
    assert {(settings(n).rule, settings(n).base) for n in NAMES} == {
        (rule, base) for rule in rules for base in ("adagrad", "adam")
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_name_alone_is_the_rule_with_its_own_defaults_but_for_clippys_by_unit(name):
    chosen = settings(name)
    made = make_optimizer(Training(optimizer=chosen))
    base = {"adam": optimizers.ClippedAdam, "adagrad": optimizers.ClippedAdagrad}[chosen.base]
    assert type(made) is base
    assert made.rule == DEFAULTS[chosen.rule]
    assert made.epsilon == chosen.epsilon


@pytest.mark.parametrize("rule", [r for r in RULE_THRESHOLDS if not r.endswith("clippy")])
def test_each_threshold_reaches_the_rule(rule):
    for number, name in enumerate(RULE_THRESHOLDS[rule]):
        value = 0.5 + number
        made = make_rule(settings(f"{rule}_adam", thresholds={name: value}))
        assert made == dataclasses.replace(DEFAULTS[rule], **{name: value})


def test_a_recovery_tightens_the_thresholds_that_bound_a_step():
    def second(name, **changes):
        training = Training(
            optimizer=settings(name, **changes), recovery=(Recovery(thresholds=0.5),)
        )
        return make_rule(training.attempt(1).optimizer)

    clippy, global_clippy = optimizers.Clippy, optimizers.GlobalClippy
    assert second("clippy_adam") == clippy(0.25, 0.005, unit_threshold=1.5)
    assert second("global_clippy_adagrad") == global_clippy(0.25, 0.005, unit_threshold=1.5)
    assert second("clippy_adam", unit_threshold=None) == clippy(0.25, 0.005)
    assert second("gc_adagrad", thresholds={"clip_norm": 3.0}).clip_norm == 1.5
    agc = optimizers.AdaptiveGradientClipping(0.005, unit_wise=True)
    assert second("unit_agc_adagrad") == agc
    # Under 1, the running mean would shrink for ever.
    assert second("adagc_adagrad") == optimizers.AdaGC(absolute_threshold=0.5)


def test_accumulators_are_refused_with_adam():
    with pytest.raises(ValueError, match="'accumulators' are for Adagrad; agc_adam"):
        Training(optimizer=settings("agc_adam"), accumulators={"decay": 0.5})


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rate"), [("global_gc_adagrad", 0.05), ("zclip_adam", 0.003)])
def test_a_run_trains_with_it(name, rate, train_files, tmp_path):
    spec = small_spec(f"training.optimizer.name={name}", f"training.learning_rate={rate}")
    done = trained(spec, train_files, tmp_path)
    assert done.stability.verdict != "diverged"
    assert int(done.optimizer.iterations) > 0
    assert all(np.isfinite(w).all() for w in done.model.get_weights())
