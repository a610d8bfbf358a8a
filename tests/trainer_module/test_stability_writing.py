import dataclasses
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from step_curves import cut
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.planted import BINARY, LAYERS, TASKS, healthy, with_full, with_spike
from schemas.errors import TrainingError
from trainer_module.stability.detection import Detector
from trainer_module.stability.events import DivergenceEvent, Limits
from trainer_module.stability.outcome import Attempt, Stability, load_verdict
from trainer_module.stability.recording import EVENT_MARGIN, StatisticsRecorder, thin
from trainer_module.stability.tensorboard import Scalars
from trainer_module.stability.writing import write_report

HEALTHY = healthy("noisy", 400, 0).statistics()
RECOVERED = with_spike(healthy("noisy", 400, 1), 250, 10, 5.0).statistics()
DIVERGED = with_full(healthy("noisy", 400, 2), 250, "nan").statistics()
BY_VERDICT = {"healthy": HEALTHY, "recovered": RECOVERED, "diverged": DIVERGED}

RATES = {"head-click/kernel": 0.5, "head-like/kernel": float("nan")}


def attempt_at(statistics, **kwargs):
    detector = Detector(statistics.tasks, statistics.binary_tasks, statistics.layers)
    detector.update(statistics)
    return Attempt.of(detector, **kwargs)


def report(folder, statistics, attempts=None):
    recorder = StatisticsRecorder(str(folder / "spool"))
    recorder.append(statistics)
    attempts = [attempt_at(statistics)] if attempts is None else attempts
    return write_report(str(folder / "report"), attempts, recorder, Limits(), RATES)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """For each verdict a report: its folder, and what writing it returned."""
    folder = tmp_path_factory.mktemp("reports")
    return {
        verdict: (folder / verdict / "report", report(folder / verdict, statistics))
        for verdict, statistics in BY_VERDICT.items()
    }


def test_a_few_steps_are_no_verdict(tmp_path):
    written = report(tmp_path, cut(HEALTHY, 0, 3))
    assert written.verdict == load_verdict(str(tmp_path / "report")).verdict == "unjudged"
    assert written.summary == "unjudged after 3 steps, fewer than the 50 that a verdict takes"
    after_a_failure = Stability.of([attempt_at(DIVERGED), attempt_at(cut(HEALTHY, 0, 3))])
    assert after_a_failure.verdict == "unjudged"
    assert attempt_at(cut(HEALTHY, 0, 50)).verdict == "healthy"


@pytest.mark.parametrize("verdict", BY_VERDICT)
def test_a_report_is_read_as_it_was_written(verdict, reports):
    folder, written = reports[verdict]
    assert load_verdict(str(folder)) == written
    assert written.verdict == verdict
    assert written.attempts[0].steps == 400
    assert written.summary == written.attempts[0].summary
    assert written.attempts[0].events == attempt_at(BY_VERDICT[verdict]).events
    content = json.loads((folder / "verdict.json").read_text())
    assert content["limits"] == dataclasses.asdict(Limits())
    assert content["effective_rates"] == {"head-click/kernel": 0.5, "head-like/kernel": None}


@pytest.mark.parametrize("verdict", BY_VERDICT)
def test_plots_are_images_and_events_have_one(verdict, reports):
    folder, _ = reports[verdict]
    expected = {"loss_and_auc.png", "sigma.png"}
    if verdict != "healthy":
        expected.add("event.png")
    assert {path.name for path in folder.glob("*.png")} == expected
    for name in expected:
        image = (folder / name).read_bytes()
        assert image.startswith(b"\x89PNG")
        assert len(image) > 10_000


def test_statistics_are_a_row_a_step(reports):
    folder, _ = reports["recovered"]
    table = pq.read_table(folder / "statistics.parquet")
    np.testing.assert_array_equal(table["step"], np.arange(400))
    np.testing.assert_array_equal(table["loss"], RECOVERED.loss)
    for field, names in (
        ("task_loss", TASKS),
        ("auc", BINARY),
        ("gradient_norm", LAYERS),
        ("update_norm", LAYERS),
        ("sigma_min", LAYERS),
        ("sigma_mean", LAYERS),
        ("skipped", LAYERS),
    ):
        for column, name in enumerate(names):
            values = getattr(RECOVERED, field)[:, column]
            np.testing.assert_array_equal(table[f"{field}/{name}"], values)


def test_tensorboard_reads_the_scalars_of_one_step_in_a_hundred(tmp_path):
    statistics = HEALTHY
    scalars = Scalars(str(tmp_path))
    for first in range(0, 256, 64):
        scalars.write(cut(statistics, first, first + 64))
    written = EventAccumulator(str(tmp_path))
    written.Reload()
    columns = {
        "loss": statistics.loss,
        f"loss/{TASKS[1]}": statistics.task_loss[:, 1],
        f"auc/{BINARY[0]}": statistics.auc[:, 0],
        "gradient_norm": np.linalg.norm(statistics.gradient_norm, axis=1),
        f"clipping_factor/{LAYERS[-1]}": statistics.sigma_min[:, -1],
        "skipped_layers": statistics.skipped.sum(axis=1),
    }
    for name, column in columns.items():
        values = {event.step: event.value for event in written.Scalars(name)}
        assert values == pytest.approx({step: column[step] for step in (63, 191)}, rel=1e-6), name


def test_the_last_attempt_decides():
    healthy_, diverged = attempt_at(HEALTHY, first_step=200), attempt_at(DIVERGED)
    assert Stability.of([diverged, healthy_]).verdict == "recovered"
    assert "attempt 2 from step 200" in Stability.of([diverged, healthy_]).summary
    assert Stability.of([diverged, diverged]).verdict == "diverged"
    assert Stability.of([healthy_]).verdict == "healthy"


def test_attempts_are_kept_with_what_they_changed(tmp_path):
    changes = {"learning_rate": 0.05}
    attempts = [attempt_at(DIVERGED), attempt_at(HEALTHY, first_step=200, changes=changes)]
    report(tmp_path, HEALTHY, attempts)
    read = load_verdict(str(tmp_path / "report"))
    assert read.attempts == tuple(attempts)
    assert read.attempts[1].changes == changes


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(verdict="healthy"),
        lambda c: c.update(verdict="blessed"),
        lambda c: c["attempts"][0].update(verdict="healthy"),
        lambda c: c["attempts"][0].update(verdict="blessed", events=[]),
        lambda c: c["attempts"][0].update(surprise=1),
        lambda c: c["attempts"][0]["events"][-1].pop("kind"),
        lambda c: c.update(attempts=[]),
        lambda c: c.update(attempts=3),
        lambda c: c.update(format=99),
        lambda c: c.pop("format"),
    ],
)
def test_a_verdict_that_cannot_be_trusted_is_refused(change, reports, tmp_path):
    content = json.loads((reports["diverged"][0] / "verdict.json").read_text())
    path = tmp_path / "verdict.json"
    path.write_text(json.dumps(content))
    assert load_verdict(str(tmp_path)) == reports["diverged"][1]
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(TrainingError, match=r"verdict\.json: not a verdict"):
        load_verdict(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '"healthy"'])
def test_a_broken_verdict_is_refused(text, tmp_path):
    (tmp_path / "verdict.json").write_text(text)
    with pytest.raises(TrainingError, match=r"verdict\.json: not a verdict"):
        load_verdict(str(tmp_path))


def test_a_missing_verdict_is_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"verdict\.json: there is no verdict"):
        load_verdict(str(tmp_path / "nothing"))


def test_a_report_cut_short_has_no_verdict(tmp_path, monkeypatch):
    report(tmp_path, HEALTHY)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer_module.stability.writing.plots.draw", killed)
    with pytest.raises(KeyboardInterrupt):
        report(tmp_path, DIVERGED)
    with pytest.raises(TrainingError):
        load_verdict(str(tmp_path / "report"))


@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=10),
    checkpoint_every=st.integers(1, 4),
    kills=st.sets(st.integers(0, 12), max_size=3),
)
@settings(max_examples=20)
def test_a_killed_recording_ends_as_an_unkilled_one(
    tmp_path_factory, lengths, checkpoint_every, kills
):
    folder = str(tmp_path_factory.mktemp("spool"))
    recorder = StatisticsRecorder(folder)
    edges = [0, *np.minimum(np.cumsum(lengths), 400).tolist()]
    done = checkpoint = calls = 0
    kills = set(kills)
    while done < len(edges) - 1:
        recorder.append(cut(HEALTHY, edges[done], edges[done + 1]))
        done += 1
        if done % checkpoint_every == 0:
            recorder.flush()
            checkpoint = done
        calls += 1
        if calls in kills:
            # Parts may be on disk that the checkpoint does not know of.
            recorder.flush()
            recorder = StatisticsRecorder(folder, step=edges[checkpoint])
            done = checkpoint
    table = recorder.read()
    np.testing.assert_array_equal(table["step"], np.arange(edges[-1]))
    np.testing.assert_array_equal(table["loss"], HEALTHY.loss[: edges[-1]])


def test_resuming_within_a_part_drops_its_later_rows(tmp_path):
    recorder = StatisticsRecorder(str(tmp_path))
    recorder.append(cut(HEALTHY, 0, 300))
    recorder.flush()
    recorder = StatisticsRecorder(str(tmp_path), step=120)
    recorder.append(cut(RECOVERED, 120, 200))
    expected = np.concatenate([HEALTHY.loss[:120], RECOVERED.loss[120:200]])
    np.testing.assert_array_equal(recorder.read()["loss"], expected)


def test_earlier_attempts_stay_and_later_ones_go(tmp_path):
    def recorded(attempt, step, end):
        recorder = StatisticsRecorder(str(tmp_path), attempt, step)
        if end > step:
            recorder.append(cut(HEALTHY, step, end))
        table = recorder.read()
        return table["attempt"].to_pylist(), table["step"].to_pylist()

    assert recorded(0, 0, 100) == ([0] * 100, [*range(100)])
    assert recorded(1, 60, 90) == ([0] * 100 + [1] * 30, [*range(100), *range(60, 90)])
    assert recorded(0, 40, 40) == ([0] * 40, [*range(40)])


def event(start, ended):
    return DivergenceEvent("micro", start, start + 2, start + 1, 9.0, 1.0, ("click",), ended)


def test_long_trainings_are_thinned_but_for_events(tmp_path):
    recorder = StatisticsRecorder(str(tmp_path), max_rows=200)
    events = (event(1000, 1030),)
    steps = 20_000
    for first in range(0, steps, 400):
        recorder.append(dataclasses.replace(HEALTHY, first_step=first))
        recorder.flush(events if first >= 800 else ())
        on_disk = sum(pq.read_metadata(path).num_rows for path in tmp_path.glob("*.parquet"))
        assert on_disk <= 2 * 200 + 400 + 31 + 2 * EVENT_MARGIN
    kept = recorder.read([events])["step"].to_numpy()
    assert np.all(np.diff(kept) > 0)
    assert set(range(1000 - EVENT_MARGIN, 1030 + EVENT_MARGIN + 1)) <= set(kept.tolist())
    assert set(range(steps - 100, steps)) <= set(kept.tolist())
    assert len(kept) <= 200 + 31 + 2 * EVENT_MARGIN
    # What is left of the rest lies evenly over the training.
    assert np.diff(kept).max() <= 2 * steps / 100


def test_events_of_every_attempt_are_kept_however_late_they_are_known(tmp_path):
    events = [(event(1000, 1030),), (event(2000, 2030),)]
    for attempt in (0, 1):
        recorder = StatisticsRecorder(str(tmp_path), attempt, max_rows=200)
        for first in range(0, 12_000, 400):  # more than what is buffered, and never flushed
            recorder.append(dataclasses.replace(HEALTHY, first_step=first))
        recorder.flush(events[attempt])
    table = recorder.read(events)
    for attempt, (one,) in enumerate(events):
        kept = table.filter(pa.compute.equal(table["attempt"], attempt))["step"].to_pylist()
        assert set(range(one.start - EVENT_MARGIN, one.ended + EVENT_MARGIN + 1)) <= set(kept)
        assert len(kept) <= 200 + 31 + 2 * EVENT_MARGIN


def test_short_trainings_are_not_thinned(tmp_path):
    recorder = StatisticsRecorder(str(tmp_path), max_rows=400)
    recorder.append(HEALTHY)
    table = recorder.read()
    assert len(table) == 400
    assert thin(table, 400, ()) is table


def test_a_verdict_is_read_without_what_draws_it():
    program = (
        "import sys, trainer_module.stability.outcome\n"
        "print(sorted({'matplotlib', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
