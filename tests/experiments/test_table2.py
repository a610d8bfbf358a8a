"""What the experiments print of their rows, against references of their own."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from experiments import causes, table2

TASKS = tuple(table2.spec_of(table2.CPU, "small").tasks)


def row(rule, seed, click, *, model="small", rate=0.5, play_time=1.0, **rest):
    metrics = dict.fromkeys(TASKS, 0.5) | {"click": click, "play_time": play_time}
    head = {"stage": "report", "model": model, "name": rule, "rate": rate, "seed": seed}
    state = {"diverged": False, "jumped": False, "loss_first": 1.0, "loss_largest": 1.0}
    return {**head, "metrics": metrics, **state, **rest}


def cells(line):
    return [part.strip() for part in line.strip("|").split("|")]


def test_rules_are_compared_on_the_seeds_that_they_share_in_whatever_order():
    rng = np.random.default_rng(0)
    own, other = rng.normal(0.72, 0.01, (2, 8))
    rows = [row("clippy_paper", seed, x) for seed, x in enumerate(own)]
    rows += [row("gc", seed, other[seed]) for seed in (5, 1, 3, 7, 2)]
    rows += [row("gc", 99, 0.0)]
    table = table2.paired(rows, ["click"], [0.5]).splitlines()
    found = cells(table[2])[cells(table[0]).index("GC")]
    seeds = [1, 2, 3, 5, 7]
    reference = stats.ttest_rel(100 * own[seeds], 100 * other[seeds])
    low, high = reference.confidence_interval(0.95)
    mean, half = (float(x.strip("\\*")) for x in found.split(" ± "))
    assert mean == pytest.approx((low + high) / 2, abs=0.006)
    assert half == pytest.approx((high - low) / 2, abs=0.006)
    assert ("*" in found) == (reference.pvalue < 0.05)


@pytest.mark.parametrize(("scatter", "stars"), [(1e-4, 2), (1e-2, 1), (5e-2, 0)])
def test_stars_tell_how_sure_a_difference_is(scatter, stars):
    noise = scatter * np.linspace(-1, 1, 6)
    rows = [row("clippy_paper", seed, 0.72 + x) for seed, x in enumerate(noise)]
    rows += [row("agc", seed, 0.71) for seed in range(6)]
    assert table2.paired(rows, ["click"], [0.5]).count("\\*") == stars


def test_a_smaller_error_of_a_regression_is_a_gain():
    rows = [row("clippy_paper", seed, 0.7, play_time=1.0 + 0.01 * seed) for seed in range(3)]
    rows += [row("lamb", seed, 0.7, play_time=1.2 + 0.01 * seed) for seed in range(3)]
    assert "+20.00 ± 0.00" in table2.paired(rows, ["play_time"], [0.5])


def test_the_cost_of_a_jump_is_that_within_a_cell():
    rng = np.random.default_rng(1)
    rows = []
    for rule, level in (("clippy_paper", 0.9), ("gc", 0.6), ("lamb", 0.7)):
        # The better the cell, the more jumps; within a cell a jump costs 2 points.
        share = {"clippy_paper": 15, "gc": 5, "lamb": 10}[rule]
        for seed in range(20):
            jumped = seed < share
            auc = level - 0.02 * jumped + rng.normal(0, 0.001)
            rows.append(row(rule, seed, auc, jumped=jumped, loss_largest=10.0 ** (1 + 2 * jumped)))
    rows.append(row("gc", 20, 0.0, jumped=True, diverged=True))
    lines = table2.after_jumps(rows, "click").splitlines()
    assert "60 trainings that did not diverge, in 3 cells" in lines[0]
    jump, decade = (float(line.partition(": ")[2].split(" ± ")[0]) for line in lines[2:])
    assert jump == pytest.approx(-2.0, abs=0.1)
    assert decade == pytest.approx(-1.0, abs=0.05)


def training(change, rate, seed, diverged, stage="report"):
    return row(
        "none", seed, 0.6 - 0.001 * seed, model=change, rate=rate, diverged=diverged, stage=stage
    )


def test_causes_are_compared_at_the_rate_at_which_half_of_the_searched_trainings_diverge():
    search = [(0.05, 0), (0.1, 3), (0.2, 8)]
    rows = [
        training(causes.WHOLE, rate, seed, seed < lost, "search")
        for rate, lost in search
        for seed in range(8)
    ]
    rows += [training(causes.WHOLE, 0.1, seed, seed < 15) for seed in range(20)]
    rows += [training("1 task", 0.1, seed, seed < 2) for seed in range(20)]
    assert causes.shared_rate(rows) == 0.1
    whole, one = (cells(line) for line in causes.table(rows).splitlines()[-2:])
    assert whole[:3] == [causes.WHOLE, "0.1", "20"]
    assert whole[3].startswith("15 (")
    assert whole[4] == whole[6] == ""
    assert float(one[4]) == pytest.approx(stats.fisher_exact([[2, 18], [15, 5]]).pvalue, rel=0.05)
    assert float(one[6]) == pytest.approx(1.0, abs=0.01)


THINGS = {
    causes.WHOLE: 0,
    "the same, warm-up of 64 steps": 2,
    "play time x 20, a sixth of it a day": 2,
    "the same, gradual, warm-up of 64 steps": 3,
    "1 task, batches of 2048": 2,
}
"""How many things a change is of; the others are of one."""


def test_every_change_is_a_spec_and_differs_from_the_whole_in_what_it_names():
    whole, seen = causes.CHANGES[causes.WHOLE], []
    names = [f.name for f in dataclasses.fields(whole) if f.name not in ("models", "overrides")]
    for change, protocol in causes.CHANGES.items():
        spec = table2.spec_of(protocol, "")
        told = sum(task.loss_weight > 1e-9 for task in spec.tasks.values())
        changed = {name for name in names if getattr(protocol, name) != getattr(whole, name)}
        changed |= {"tasks"} if told != len(TASKS) else set()
        changed |= {"model"} if protocol.models != whole.models else set()
        assert len(changed) == THINGS.get(change, 1), change
        if "task" in change:
            assert told == int(change.split()[0])
        assert not set(protocol.without) & spec.inputs.keys()
        assert ("without" in changed) == (len(spec.inputs) < len(table2.spec_of(whole, "").inputs))
        seen.append((told, protocol))
    assert all(seen.count(one) == 1 for one in seen)
