"""The report's data, held against ML Metadata; how the page looks is `test_html_report_page`."""

import datetime
import html
import json
import os
import re
import shutil
import time
import tracemalloc

import pytest
from planted_report import FIRST, HOSTILE, LAYERS, PlantedReport
from typer.testing import CliRunner

from pipeline import lineage
from pipeline.cli import app
from pipeline.html_report import charts, page, write
from pipeline.html_report.collect import MAX_TRAININGS, collect
from pipeline.html_report.curves import POINTS
from pipeline.workspace import Workspace


@pytest.fixture(scope="module")
def month(tmp_path_factory):
    """A workspace of thirty days."""
    return PlantedReport(tmp_path_factory.mktemp("month")).days(30).space


@pytest.fixture(scope="module")
def report(month):
    return collect(month)


@pytest.fixture(scope="module")
def text(report):
    return page.render(report)


def runs_of(space):
    return lineage.list_runs(lineage.open_store(space.metadata_path))


def test_each_day_has_its_newest_run_and_days_without_one_stay_in_the_calendar(month, report):
    newest = {run.run_date: run for run in runs_of(month)}
    assert [str(day.date) for day in report.days] == [
        str(FIRST + datetime.timedelta(number)) for number in range(30)
    ]
    for day in report.days:
        assert day.run == newest.get(str(day.date))
    assert {day.outcome for day in report.days} == {"pushed", "blocked", "failed", "none"}


def test_run_again_replaces_the_older_run_of_its_day_and_names_it(tmp_path):
    planted = PlantedReport(tmp_path)
    planted.day(FIRST, "failed")
    planted.day(FIRST, "pushed", seed=1)
    (day,) = collect(planted.space).days
    first, second = runs_of(planted.space)
    assert (day.run, list(day.earlier)) == (second, [first])


def test_scores_are_those_of_ml_metadata_with_the_trivial_answer_beside(month, report):
    for day in report.days:
        metrics = day.run.metrics if day.run else {}
        for score in day.scores:
            values = metrics["candidate"][score.task]
            served = metrics.get("baseline", {}).get(score.task, {})
            name = "auc" if score.metric == "AUC" else "rmse"
            assert score.candidate == values[name]
            assert score.served == served.get(name)
            if score.metric == "AUC":
                assert score.gain_over(score.trivial) == pytest.approx(values["auc_lift"])
            else:
                assert score.trivial == values["label_standard_deviation"]
        assert {s.task for s in day.scores} == {t for t in metrics.get("candidate", {}) if t}


def test_intervals_are_those_of_the_evaluation_where_it_has_them(report, text):
    (first, *_) = report.days[0].scores
    assert first.interval == pytest.approx((first.candidate - 0.01, first.candidate + 0.01))
    assert {score.interval is None for score in report.days[0].scores} == {True, False}
    assert '<th scope="col">Interval</th>' in text


def test_gate_is_the_tightest_bound_that_applies(report):
    first, second = (day.scores for day in report.days[:2])
    of_first = {score.task: score for score in first}
    of_second = {score.task: score for score in second}
    # min_auc of 0.6 against the smoothed rates less 0.01.
    click = of_first["click"]
    assert click.gate == pytest.approx(max(0.6, click.trivial - 0.01))
    # With a served model, also its AUC less max_auc_drop.
    like = of_second["like"]
    assert like.gate == pytest.approx(max(0.6, like.served - 0.03))
    # A share of 0.1 of the variance explained, as an RMSE.
    assert of_first["watch_time"].gate == pytest.approx(0.93 * (1 - 0.1) ** 0.5)
    assert of_second["watch_time"].gate == pytest.approx(0.93 * (1 - (0.36 - 0.1)) ** 0.5)


def test_served_version_is_traced_to_its_cold_start(month, report):
    served = report.served
    pushed = [run for run in runs_of(month) if run.outcome == "pushed"]
    assert served.number == pushed[-1].version
    assert [run.run_id for run in served.lineage] == [run.run_id for run in reversed(pushed)]
    assert served.faults == ()


def test_slices_with_enough_events_come_worst_first(report):
    assert report.slices_of == FIRST + datetime.timedelta(29)
    assert {item.name for item in report.slices} == {"device=web"}
    behind = [item.behind for item in report.slices]
    assert behind == sorted(behind, reverse=True)
    assert min(behind) > 0


def test_slice_that_fails_its_bound_comes_first_whatever_its_size(tmp_path):
    planted = PlantedReport(tmp_path)
    planted.failed = [("device=ios", "click")]
    planted.day(FIRST, "blocked")
    first, *others = collect(planted.space).slices
    assert (first.name, first.score.task, first.fails) == ("device=ios", "click", True)
    assert not any(item.fails for item in others)


def test_steps_are_shown_of_the_newest_training_and_of_those_with_trouble(report):
    shown = [t for t in report.trainings if any(a.statistics for a in t.attempts)]
    assert len(shown) == MAX_TRAININGS
    assert shown[-1] == report.trainings[-1]
    troubled = [t.date for t in report.trainings if t.verdict == "recovered"]
    assert {t.date for t in shown} >= set(troubled[-5:])


def test_steps_are_thinned_and_keep_what_is_not_finite(report):
    training = next(t for t in reversed(report.trainings) if t.verdict == "recovered")
    diverged, retried = training.attempts
    assert (diverged.verdict, diverged.changed) == ("diverged", "")
    assert (retried.verdict, retried.changed) == ("healthy", "learning_rate 0.5")
    assert diverged.statistics.not_finite == 300 - 230
    assert len(retried.statistics.step) == POINTS
    assert set(retried.statistics.sigma) == set(LAYERS)
    assert set(retried.statistics.auc) == {"click", "long_view"}
    # Median of noise around a curve, and the curve's own end.
    assert retried.statistics.loss[-1] == pytest.approx(1.0, abs=0.05)
    assert retried.statistics.auc["click"][-1] == pytest.approx(0.75, abs=1e-3)
    assert diverged.statistics.loss[-1] is None


def test_drift_is_what_the_validator_measured(report):
    newest = [d for d in report.drift if d.date == report.days[-1].date]
    assert {(d.field, d.kind, d.measure, round(d.limit, 6)) for d in newest} == {
        (field, kind, "L-infinity", limit)
        for kind in ("drift", "skew")
        for field, limit in (("device", 0.2), ("topic", 0.3))
    }


def test_quarantined_lines_are_counted_by_reason_whatever_the_value(report):
    assert [(q.reason, q.lines) for q in report.quarantine] == [
        ("field 'b': no", 2),
        ("field 'a': missing", 1),
    ]
    assert report.quarantine[0].example == "part-0.jsonl:9: field 'b': no, got 1"


def test_events_of_each_run_are_accounted_for(report):
    for day in report.days:
        if day.run and day.run.events:
            counts = dict(day.run.events)
            assert counts.pop("read") == sum(counts.values())


def test_held_day_is_marked_with_its_reasons(report):
    assert report.days[0].held == ["click: AUC 0.41"]
    assert not any(day.held for day in report.days[1:])


def test_moved_workspace_is_read_where_it_lies(month, report, tmp_path):
    moved = shutil.copytree(month.root, tmp_path / "moved")
    there = collect(Workspace(str(moved)))
    assert there.slices == report.slices
    assert there.trainings == report.trainings
    assert not there.unread


def test_what_retention_removed_is_left_out(month, tmp_path):
    lean = Workspace(str(shutil.copytree(month.root, tmp_path / "lean")))
    shutil.rmtree(lean.artifacts)
    left = collect(lean)
    assert not left.unread
    assert (left.slices, left.trainings, left.drift, left.quarantine) == ([], [], [], [])
    assert [len(day.scores) for day in left.days] == [
        len(day.scores) for day in collect(month).days
    ]
    assert page.render(left).count('class="one-day"') == sum(
        day.run is not None for day in left.days
    )


def test_file_that_cannot_be_read_is_named_and_the_rest_is_shown(month, tmp_path):
    broken = Workspace(str(shutil.copytree(month.root, tmp_path / "broken")))
    newest = runs_of(broken)[-1]
    path = os.path.join(
        broken.artifacts, lineage.place(newest.artifacts["TrainingStability"]), "verdict.json"
    )
    with open(path, "w") as file:
        file.write("{")
    found = collect(broken)
    (fault,) = found.unread
    assert fault.startswith(f"{path}: ")
    assert len(found.trainings) == len(collect(month).trainings) - 1
    assert html.escape(path) in page.render(found)


def test_page_shows_what_ml_metadata_knows(month, text):
    for run in runs_of(month):
        (shown,) = re.findall(
            rf'<details class="one-day" id="day-{run.run_date}">(.*?)</details>', text, re.S
        )
        assert f'<span class="badge {run.outcome}">' in shown
        for task, values in run.metrics.get("candidate", {}).items():
            if "auc" in values:
                assert re.search(rf'"row">{task}</th>.*?<td>{values["auc"]:.4f}</td>', shown)
        if run.events:
            assert f"{run.events['read']:,} read = {run.events['trained']:,} trained" in shown


def test_of_many_quarantined_lines_only_the_first_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.html_report.collect.MAX_QUARANTINED", 2)
    space = PlantedReport(tmp_path).days(1).space
    (path,) = tmp_path.glob("**/quarantine/*/*.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + 20 * (1 << 20) * "x")
    tracemalloc.start()
    found = collect(space)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [q.lines for q in found.quarantine] == [1, 1]
    assert most < 20 << 20


def test_text_of_logs_and_errors_is_escaped(text):
    assert HOSTILE not in text
    assert str(html.escape(HOSTILE)).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in text


def test_json_of_charts_cannot_end_its_script(report):
    spec = {"description": "</script><b>&'"}
    shown = str(page.chart_html(charts.Chart(spec, [("<i>", "var(--line)", "solid")])))
    assert "</script><b>" not in shown
    (content,) = re.findall(r'json">(.*?)</script>', shown)
    assert json.loads(content) == spec
    assert "&lt;i&gt;" in shown


def test_page_names_no_address(text):
    script = page.vega_script()
    shown = text.replace(script, "")
    addresses = set(re.findall(r"https?://[^\"'\s<)]+", shown))
    assert all(address.startswith("https://vega.github.io/schema/") for address in addresses)
    assert not re.findall(r"<(?:link|img|script|iframe)[^>]+(?:src|href)=\"(?!data:)", shown)


@pytest.mark.parametrize("cache", ["writable", "a file", "no home"])
def test_scripts_are_joined_once_where_they_can_be_kept(cache, tmp_path, monkeypatch):
    joined = []
    monkeypatch.setattr("vl_convert.javascript_bundle", lambda: joined.append(1) or "</script")
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "cache"
    if cache == "a file":
        place.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", "" if cache == "no home" else str(place))
    if cache == "no home":
        monkeypatch.setattr("os.path.expanduser", lambda path: path)
    for _ in range(2):
        assert page.vega_script.__wrapped__() == "<\\/script"
    assert len(joined) == (1 if cache == "writable" else 2)
    assert not (tmp_path / "~").exists()


def test_page_before_the_first_run_says_so(tmp_path):
    shown = page.render(collect(Workspace(str(tmp_path))))
    assert "No day has been run yet" in shown
    assert "Nothing is being served yet" in shown


def test_command_writes_the_page_and_prints_where(month, tmp_path):
    done = CliRunner().invoke(app, ["report", "-w", month.root])
    assert (done.exit_code, done.output.strip()) == (0, month.report)
    other = tmp_path / "other.html"
    done = CliRunner().invoke(app, ["report", "-w", month.root, "--output", str(other)])
    assert (done.exit_code, done.output.strip()) == (0, str(other))
    assert "<h1>demo</h1>" in other.read_text()


def test_page_stays_whole_where_it_cannot_be_written(month, tmp_path, monkeypatch):
    target = tmp_path / "report.html"
    target.write_text("old")
    monkeypatch.setattr(page, "render", lambda report: "\ud800")
    with pytest.raises(UnicodeEncodeError):
        write.write(month, str(target))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert target.read_text() == "old"


def test_report_that_fails_after_a_day_changes_nothing(tmp_path):
    space = Workspace(str(tmp_path))
    (tmp_path / "metadata.sqlite").write_text("no database")
    assert write.write_after_day(space) is None
    assert not os.path.exists(space.report)


@pytest.mark.slow
def test_a_year_is_collected_fast_and_its_page_is_small(tmp_path):
    space = PlantedReport(tmp_path).days(365).space
    began = time.process_time()
    shown = page.render(collect(space))
    assert time.process_time() - began < 30
    assert len(shown.encode()) < 5e6
