import datetime
import json

import numpy as np
import pyarrow as pa
import pytest
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.onboarding import columns
from pipeline.onboarding.check import check_logs
from schemas.errors import BadDataError
from schemas.loading import parse_spec

SPEC = """
name: checked
events: {max_quarantined: 0.1}
features:
  user: {type: categorical, buckets: 64, embedding: 2, field: userId, required: true}
  topics: {type: categorical, multivalued: true, buckets: 16, embedding: 2}
  hour: {type: categorical, dtype: int, buckets: 48, embedding: 2}
  age: {type: dense, minimum: 0, maximum: 100}
tasks:
  click: {kind: binary, label: clicked, gate: {min_auc: 0.5}}
  watch: {kind: regression, label: seconds, optional: true, gate: {max_rmse: 0.9}}
slices: [hour]
min_slice_events: 3
model: {preset: tiny}
training: {window_days: 3, min_window_days: 2}
serving: {score: click}
"""
DAYS = [datetime.date(2026, 1, day) for day in range(1, 5)]
EVENTS = 1000


def event(rng, number, **changes):
    return {
        "event_id": f"e{number}",
        "userId": f"u{rng.integers(20)}",
        "topics": ["a", "b"][: rng.integers(3)],
        "hour": int(rng.integers(24)),
        "age": float(rng.integers(100)),
        "clicked": int(rng.integers(2)),
        "seconds": float(rng.normal(10, 1)),
        **changes,
    }


def write_logs(root, days=DAYS, **changes):
    """`changes`: by field a value, or a function of the event's number."""
    rng = np.random.default_rng(0)
    for day in days:
        folder = root / day.isoformat()
        folder.mkdir(parents=True)
        lines = []
        for number in range(EVENTS):
            changed = {k: v(number) if callable(v) else v for k, v in changes.items()}
            values = event(rng, number, **changed)
            lines.append(json.dumps({k: v for k, v in values.items() if v is not ...}))
        (folder / "part-0.jsonl").write_text("\n".join(lines) + "\n")
    return str(root)


def check(logs, *overrides, date=None):
    return check_logs(parse_spec(SPEC, "spec", overrides), logs, date)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    return write_logs(tmp_path_factory.mktemp("logs"))


def test_nothing_is_wrong_with_a_spec_that_fits(logs):
    result = check(logs)
    assert not result.findings
    assert [sample.date for sample in result.samples] == DAYS[:0:-1]
    assert [sample.events.num_rows for sample in result.samples] == [EVENTS] * 3
    assert {sample.share for sample in result.samples} == {1.0}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("features.user.field=userid", "error: features.user: no event has a field 'userid'; is i"),
        ("features.x={type: dense}", "error: features.x: no event has a field 'x'"),
        ("events.id=eventId", "error: events.id: no event has a field 'eventId'; is it 'event_id'"),
        (
            "tasks.click.label=click",
            "error: tasks.click.label: no event has a field 'click'; is it",
        ),
        (
            "features.hour.dtype=string",
            "error: features.hour: 100.00% of the events: expected a st",
        ),
        ("features.topics.multivalued=false", "error: features.topics: 100.00% of the events: exp"),
        ("features.age.minimum=50", "of the values lie below 50, the smallest is 0: an anomaly"),
        ("features.age.maximum=50", "of the values lie above 50, the largest is 99: an anomaly"),
        (
            "features.user.buckets=8",
            "warning: features.user.buckets: about 20 values share 8 rows;",
        ),
        (
            "features.user.buckets=2000000000",
            "warning: features.user.buckets: embedding tables and",
        ),
        (
            "training.window_days=5",
            "warning: training.window_days: the logs begin on 2026-01-01, within the 5 days before",
        ),
        (
            "validation.min_events=5000",
            "error: validation.min_events: 5000 events are asked for, 202",
        ),
        ("validation.severity={NO_SUCH: ERROR}", "error: validation.severity.NO_SUCH: TFDV knows"),
        ("min_slice_events=500", "warning: slices: no value of hour has min_slice_events, 500, on"),
        ("tasks.watch.gate.max_rmse=2", "warning: tasks.watch.gate.max_rmse: 2 is met by a consta"),
        ("tasks.watch.gate.max_rmse=0.01", "max_rmse: 0.01 is out of reach: the labels' standard"),
        ("tasks.click.gate.min_auc=1", "warning: tasks.click.gate.min_auc: hardly any model reach"),
    ],
)
def test_what_does_not_fit_the_logs_is_found(logs, override, message):
    findings = list(map(str, check(logs, override).findings))
    assert len(findings) == 1
    assert message in findings[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clicked": 2}, "error: tasks.click.label: 100.00% of the events: expected 0 or 1, got 2"),
        (
            {"clicked": 0},
            "error: tasks.click.label: 0 in each of 3,000 events: there is nothing to",
        ),
        ({"seconds": None}, "error: tasks.watch.label: no event has a value of seconds"),
        ({"seconds": ...}, "error: tasks.watch.label: no event has a field 'seconds'"),
        ({"hour": 7}, "warning: features.hour: 7 in every event: it says nothing; drop it"),
        (
            {"clicked": lambda n: n < 30},
            "warning: tasks.click.label: about 30 labels of the rarer kind on",
        ),
        (
            {"clicked": lambda n: n > 29},
            "warning: tasks.click.label: about 30 labels of the rarer kind on",
        ),
        (
            {"seconds": lambda n: n % 9 if n < 40 else None},
            "warning: tasks.watch.label: about 40 labels",
        ),
        ({"topics": []}, "warning: features.topics: empty in every event; drop it"),
        (
            {"event_id": lambda n: n % 10},
            "error: events.id: 99.00% of 2026-01-04's events have the",
        ),
        (
            {"age": lambda n: "n/a" if n < 150 else 1.0},
            "15.00% of the lines are malformed, at most",
        ),
        (
            {"age": lambda n: "n/a" if n < 50 else n % 9},
            "warning: logs of 2026-01-04: 5.00% of the",
        ),
    ],
)
def test_what_is_wrong_with_the_logs_is_found(tmp_path, changes, message):
    findings = list(map(str, check(write_logs(tmp_path, **changes)).findings))
    assert any(message in finding for finding in findings), findings


def rewrite_newest(root, change):
    path = root / "2026-01-04" / "part-0.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(event) + "\n" for event in change(events)))


def test_a_newest_day_that_is_not_complete_is_asked_about(tmp_path):
    logs = write_logs(tmp_path)
    rewrite_newest(tmp_path, lambda events: events[:250])
    (asked, _few) = check(logs).findings
    assert str(asked) == (
        "warning: logs of 2026-01-04: about 250 events, where the days before have 1,000: is the "
        "day complete?"
    )


@pytest.mark.parametrize("own", [0, 800])
def test_a_folder_with_events_of_another_day_is_told(tmp_path, own):
    logs = write_logs(tmp_path)
    before = (tmp_path / "2026-01-03" / "part-0.jsonl").read_text().splitlines()[own:]
    rewrite_newest(tmp_path, lambda events: [*events[:own], *map(json.loads, before)])
    (finding,) = check(logs).findings
    assert str(finding) == (
        f"warning: logs of 2026-01-04: {1 - own / EVENTS:.2%} of the events are among those of "
        "2026-01-03, alike in all fields: a folder must hold its own day alone"
    )


def test_a_field_that_the_newest_day_lacks_is_asked_about(tmp_path):
    logs = write_logs(tmp_path)
    rewrite_newest(tmp_path, lambda events: [{**e, "age": None, "seconds": None} for e in events])
    found = {finding.where: finding.what for finding in check(logs).findings}
    assert set(found) == {"features.age", "tasks.watch.label"}
    assert found["features.age"].startswith("no event of 2026-01-04 has a value, those of days")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {}),
        ({"clicked": 0}, {"tasks.click.label": "0.00% of the labels of 2026-01-04 are 1, 4"}),
        ({"seconds": 1000.0}, {"tasks.watch.label": "values of 2026-01-04 are about 1e+03, those"}),
        ({"age": 5.0}, {"features.age": "values of 2026-01-04 are about 5, those of days before"}),
    ],
)
def test_labels_and_numbers_unlike_those_of_days_before_are_asked_about(tmp_path, change, expected):
    logs = write_logs(tmp_path, age=lambda n: 50.0 + n % 9)
    rewrite_newest(tmp_path, lambda events: [{**event, **change} for event in events])
    found = {
        finding.where: finding.what
        for finding in check(logs).findings
        if finding.what.endswith(("another unit?", "and right?"))
    }
    assert found.keys() == expected.keys()
    assert all(found[where].startswith(what) for where, what in expected.items())


def test_ids_that_are_written_in_another_way_are_asked_about(tmp_path):
    # No hour comes back from any day to the next.
    hours = iter(range(4 * EVENTS))
    logs = write_logs(tmp_path, hour=lambda n: next(hours))
    rewrite_newest(
        tmp_path,
        lambda events: [
            {**event, "userId": event["userId"].upper(), "topics": [*event["topics"], "c"]}
            for event in events
        ],
    )
    (finding,) = [f for f in check(logs).findings if "written in another way" in f.what]
    assert str(finding) == (
        "warning: features.user: 0.00% of 2026-01-04's values are among those of the day before, "
        "of which 100.00% were: are they written in another way?"
    )


def test_a_label_so_rare_that_chance_decides_is_not_asked_about(tmp_path):
    logs = write_logs(tmp_path, clicked=lambda n: n < 12)
    rewrite_newest(tmp_path, lambda events: [{**event, "clicked": 0} for event in events])
    assert not [f for f in check(logs).findings if "are they complete" in f.what]


def test_a_log_of_few_events_a_day_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.onboarding.sizes.FEW_EVENTS", EVENTS + 1)
    findings = list(map(str, check(write_logs(tmp_path)).findings))
    assert findings == [
        f"warning: logs of 2026-01-04: about {EVENTS} events: too few to learn much from, and to "
        "judge a model by; a few thousand a day are enough to start with"
    ]


def test_a_log_whose_models_would_all_be_blocked_for_few_labels_is_told(tmp_path):
    logs = write_logs(tmp_path, clicked=lambda n: n < 40, seconds=lambda n: n if n < 30 else None)
    result = check(logs)
    (stopping,) = [finding for finding in result.findings if finding.stops]
    assert str(stopping).startswith(
        "error: min_class_events: no task has 50 labels of each kind a day: no model would be"
    )
    assert not check(logs, "min_class_events=30").stops


def test_a_number_that_tells_the_label_all_alone_is_asked_about(tmp_path):
    logs = write_logs(tmp_path, clicked=lambda n: n % 2, age=lambda n: n % 2 * 10 + n % 7)
    (finding,) = check(logs).findings
    assert str(finding) == (
        "warning: features.age: tells click on its own (AUC 1.000): is it known before the "
        "impression is shown?"
    )


def test_a_category_that_tells_the_label_all_alone_is_asked_about(tmp_path):
    logs = write_logs(tmp_path, clicked=lambda n: n % 2, hour=lambda n: n % 2 * 9 + n % 7)
    (finding,) = check(logs).findings
    assert str(finding).startswith("warning: features.hour: tells click on its own (AUC 1.000)")


def test_a_number_that_tells_a_measure_is_asked_about(tmp_path):
    logs = write_logs(tmp_path, seconds=lambda n: n % 9, age=lambda n: n % 9 + n % 2)
    found = {finding.where: finding.what for finding in check(logs).findings}
    assert found["features.age"].startswith("tells watch on its own (AUC 0.9")


def test_a_number_that_is_there_with_the_label_alone_is_asked_about(tmp_path):
    logs = write_logs(
        tmp_path,
        clicked=lambda n: n % 3 == 0,
        age=lambda n: n % 7 + 2 if n % 12 == 0 else None,
        hour=lambda n: n % 24 if n % 9 == 0 else None,
    )
    found = {finding.where: finding.what for finding in check(logs).findings}
    assert "has a value of its own only where click is 1" in found["features.age"]
    assert "has a value of its own only where click is 1" in found["features.hour"]


def test_all_is_found_at_once_though_one_fault_hides_another_in_each_event(tmp_path):
    logs = write_logs(tmp_path, days=DAYS[2:], clicked="yes", hour="noon", age="old", seconds=1.0)
    result = check(logs, "features.user.field=nobody", "features.topics.buckets=2")
    assert result.stops
    assert {finding.where for finding in result.findings} == {
        "training.min_window_days",
        "features.user",
        "features.hour",
        "features.age",
        "tasks.click.label",
        "tasks.watch.label",
    }


@pytest.mark.parametrize(
    ("days", "date", "where"),
    [
        (DAYS[:2], DAYS[3], "2026-01-04: no log files there"),
        (DAYS[3:], None, "min_window_days: 2 d"),
    ],
)
def test_missing_days_are_named(tmp_path, days, date, where):
    result = check(write_logs(tmp_path, days), date=date)
    assert any(where in str(finding) for finding in result.findings)
    assert result.stops


def test_a_gap_is_told_from_days_before_the_logs_began(tmp_path):
    result = check(write_logs(tmp_path, [DAYS[0], *DAYS[2:]]), "training.window_days=5")
    told = [str(finding) for finding in result.findings if "window_days" in str(finding)]
    assert len(told) == 2
    assert "the logs begin on 2026-01-01, within the 5 days before 2026-01-04; 2 of" in told[0]
    assert "1 of the 5 days before 2026-01-04 have no logs: 2026-01-02" in told[1]


def test_a_part_of_large_files_from_all_over_them_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("components.daily_example_gen.sampling._MIN_PIECE_BYTES", 1000)
    monkeypatch.setattr("pipeline.onboarding.check.DAY_BYTES", 8000)
    logs = write_logs(tmp_path, age=lambda n: n / 2)
    result = check(logs)
    for sample in result.samples:
        ages = sample.events["age"].to_numpy()
        assert 20 < len(ages) < EVENTS
        assert ages.min() < 10 < 80 < ages.max()
        assert sample.day_events == pytest.approx(EVENTS, rel=0.2)


def test_an_unreadable_file_is_named_and_the_others_are_read(tmp_path):
    logs = write_logs(tmp_path)
    broken = tmp_path / "2026-01-04" / "broken.jsonl.gz"
    broken.write_bytes(b"this is none")
    result = check(logs)
    assert [finding.where for finding in result.findings if finding.stops] == [str(broken)]
    assert result.samples[0].events.num_rows == EVENTS


@pytest.mark.parametrize(
    ("overrides", "code", "text"),
    [
        ([], 0, "nothing wrong"),
        (["--set", "training.window_days=5"], 0, "nothing here stops a run"),
        (["--set", "events.id=x"], 11, "error: events.id: no event has a field 'x'"),
        (["--set", "training.window_days=0"], 3, "training.window_days: must be at least 1"),
        (["--date", "2026-01-03"], 0, "logs begin on 2026-01-01, within the 3 days"),
    ],
)
def test_command_ends_with_the_code_of_what_it_found(logs, tmp_path, overrides, code, text):
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    result = CliRunner().invoke(app, ["check", "-l", logs, "-s", str(spec), *overrides])
    assert result.exit_code == code, result.output
    assert text in result.output


def test_command_says_that_there_are_no_logs(tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    result = CliRunner().invoke(app, ["check", "-l", str(tmp_path), "-s", str(spec)])
    assert result.exit_code == 11
    assert "holds no day but 'spec.yaml'; logs lie in a folder a day" in result.output


def test_why_remote_logs_cannot_be_listed_is_told(monkeypatch):
    def match(patterns):
        raise BeamIOError("Match operation failed", {patterns[0]: "no permission"})

    monkeypatch.setattr(FileSystems, "match", match)
    with pytest.raises(BadDataError, match=r"gs://bucket/logs: cannot be listed .*no permission"):
        check("gs://bucket/logs")


def test_auc_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    scores = rng.integers(5, size=60).astype(float)
    labels = rng.integers(2, size=60)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels == 1] for b in scores[labels == 0]]
    assert columns.auc(scores, labels) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert np.isnan(columns.auc(scores, np.ones(60)))


def test_distinct_values_of_the_whole_are_estimated_from_a_part():
    rng = np.random.default_rng(0)
    drawn = rng.integers(10_000, size=8000)
    column = columns.describe(pa.chunked_array([pa.array(drawn)]))
    assert column.distinct == len(set(drawn.tolist())) < 6000
    assert column.all_distinct == pytest.approx(10_000, rel=0.1)
