"""Which events of a day count, and which days can be trusted."""

import dataclasses
import json
import os
import re
import shutil

import pytest
from ingestion import (
    DAYS,
    RUN_DATE,
    event,
    ingest_day,
    make_pipeline,
    plan,
    records,
    run,
    stored,
    users,
    write_day,
)

from components.daily_example_gen import ingest
from components.daily_example_gen.day_store import list_logs
from components.pusher.executor import newest_day
from schemas.errors import BadDataError


def test_last_event_in_file_order_counts_of_those_with_one_id(root):
    write_day(root / "logs", DAYS[0], [event(1, user="b1"), event(2, user="b2")], "b.jsonl")
    write_day(
        root / "logs", DAYS[0], [event(1, user="a1"), event(3, user="x"), event(3)], "a.jsonl"
    )
    (root / f"logs/{DAYS[0]}/part-0.jsonl").unlink()
    day = ingest_day(root, DAYS[0])
    assert (day.manifest.events, day.manifest.duplicates) == (3, 2)
    run(plan(events__max_duplicates=0.5), root)
    train = users(root / "out/Split-train")
    assert {"b1", "b2", "u3"} <= set(train)
    assert not {"a1", "x"} & set(train)


def test_files_that_each_number_their_own_events_are_an_error_that_names_two_of_them(root):
    for hour in range(24):
        lines = [event(n, user=f"u{hour}") for n in range(50)]
        write_day(root / "logs", DAYS[2], lines, f"hour-{hour:02d}.jsonl")
    (root / f"logs/{DAYS[2]}/part-0.jsonl").unlink()
    with pytest.raises(BadDataError) as error:
        run(plan(), root, make_pipeline=make_pipeline)
    message = str(error.value)
    assert "1 150 of 1 200 events were left out" in message
    assert "95.8 %), limit 10 %" in message
    assert re.search(r'"e\d+" in hour-00.jsonl, and again in hour-23.jsonl', message)
    allowed = run(plan(events__max_duplicates=0.96), root)
    assert allowed.total("duplicates") == 1150
    (note,) = [note for note in allowed.notes if "left out" in note]
    assert note.startswith(f"{DAYS[2]}: 1 150 of 1 200 events")


@pytest.mark.parametrize(("repeats", "fails"), [(11, False), (12, True)])
def test_share_of_duplicates_is_of_all_events_of_the_day(root, repeats, fails):
    lines = [event(n) for n in range(100)] + [event(n, user="new") for n in range(repeats)]
    write_day(root / "logs", RUN_DATE, lines)
    if fails:
        with pytest.raises(BadDataError, match=r'\n  "e\d+" in part-0.jsonl\n'):
            run(plan(), root, make_pipeline=make_pipeline)
    else:
        assert run(plan(), root, make_pipeline=make_pipeline).eval_events == 100


def test_formats_mix_in_a_day_and_ids_compare_as_text(root):
    write_day(root / "logs", DAYS[0], [event(0, event_id=7)])
    write_day(root / "logs", DAYS[0], ["event_id,user,clicked", "7,u,1", "8,v,0"], "q.csv")
    day = ingest_day(root, DAYS[0])
    assert (day.manifest.events, day.manifest.duplicates) == (2, 1)


def test_fields_without_values_and_cut_lists_and_files_without_events_are_noted(root):
    events = [event(n, age=None, topics=["t"] * (3 if n < 5 else 2)) for n in range(50)]
    write_day(root / "logs", RUN_DATE, [{**e, "ages": 1.0} for e in events])
    write_day(root / "logs", RUN_DATE, ["event_id,user,clicked"], "header.csv")
    limited = plan(features__topics__max_length=2)
    result = run(limited, root, make_pipeline=make_pipeline)
    notes = [note for note in result.notes if str(RUN_DATE) in note]
    assert notes == [
        f"{root}/logs/{RUN_DATE}/header.csv: no events in its 1 lines",
        f"{RUN_DATE}: 5 lists of 'topics' were cut to the 2 elements of its max_length",
        f"{RUN_DATE}: no event has a value of 'age'",
    ]
    for record in records(root / "out/Split-eval"):
        assert list(record["topics"].bytes_list.value) == [b"t", b"t"]
    stored_notes = run(limited, root, root / "again").notes
    assert stored_notes == result.notes


def test_list_of_very_many_ids_is_cut_by_default(root):
    write_day(root / "logs", RUN_DATE, [event(1, topics=[f"t{n}" for n in range(250_000)])])
    run(plan(), root, make_pipeline=make_pipeline)
    (record,) = records(root / "out/Split-eval")
    assert len(record["topics"].bytes_list.value) == 1000


def test_empty_and_unknown_files_are_noted_and_markers_are_not(root):
    for name in ("empty.jsonl", "readme.txt", "_SUCCESS", ".hidden.jsonl"):
        write_day(root / "logs", RUN_DATE, [], name)
    result = run(plan(), root, make_pipeline=make_pipeline)
    notes = "\n".join(result.notes)
    assert "empty.jsonl: empty" in notes
    assert "readme.txt: ignored" in notes
    assert "_SUCCESS" not in notes
    assert ".hidden" not in notes
    assert result.eval_events == 100


@pytest.mark.parametrize("scheme", ["", "objects://"])
def test_what_is_no_file_in_a_day_is_noted(root, scheme):
    day = root / "logs" / str(DAYS[0])
    for path in ("hour=01/part-0.jsonl", "x.parquet/part-0.parquet", "_temporary/0.jsonl"):
        (day / path).parent.mkdir()
        (day / path).write_text("")
    expected = ["hour=01", "x.parquet"]
    if not scheme:
        (day / "link.jsonl").symlink_to(day / "gone.jsonl")
        expected.insert(1, "link.jsonl")
    logs = list_logs(f"{scheme}{root}/logs", DAYS[0])
    assert [file.name for file in logs.files] == ["part-0.jsonl"]
    assert [note.partition(": ignored, it is not a file")[0] for note in logs.notes] == [
        f"{scheme}{day}/{name}" for name in expected
    ]


def test_day_that_cannot_be_listed_is_an_error_and_no_gap(root, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(BadDataError, match=rf"{DAYS[0]}: cannot be listed \(Permission denied\)"):
        list_logs(str(root / "logs"), DAYS[0])


@pytest.mark.parametrize("date", [DAYS[1], RUN_DATE])
def test_day_of_nothing_but_subdirectories_says_so(root, date):
    day = root / "logs" / str(date)
    (day / "hour=01").mkdir()
    (day / "part-0.jsonl").rename(day / "hour=01" / "part-0.jsonl")
    if date == RUN_DATE:
        with pytest.raises(BadDataError, match=r"no log files.*\n.*hour=01: ignored"):
            run(plan(), root)
        return
    assert f"{day}/hour=01: ignored" in "\n".join(run(plan(), root).notes)
    with pytest.raises(BadDataError, match=r"min_window_days.*\n.*hour=01: ignored"):
        run(plan(training__min_window_days=3), root, root / "again")


def test_file_name_that_is_no_utf8_is_shown_with_its_bytes(root):
    name, other = (os.fsdecode(b"part-\xff" + suffix) for suffix in (b".jsonl", b".txt"))
    write_day(root / "logs", RUN_DATE, [event(1), "oops"], name)
    write_day(root / "logs", RUN_DATE, [], other)
    result = run(plan(), root, make_pipeline=make_pipeline)
    manifest = result.days[RUN_DATE].manifest
    (line,) = (root / f"out/quarantine/{RUN_DATE}.jsonl").read_bytes().splitlines()
    assert json.loads(line)["file"] == f"{root}/logs/{RUN_DATE}/part-\\xff.jsonl"
    assert manifest.events == 101
    assert "part-\\xff.jsonl:2: not valid JSON" in manifest.reasons[0]
    assert "part-\\xff.txt: ignored" in "\n".join(result.notes)


def test_large_file_is_cut_into_ranges_with_line_numbers_of_the_file(root, monkeypatch):
    monkeypatch.setattr(ingest, "_PIECE_BYTES", 1000)
    lines = [event(n) for n in range(100)]
    lines[57] = "oops"
    path = write_day(root / "logs", DAYS[0], lines)
    assert len(ingest.pieces_of(list_logs(str(root / "logs"), DAYS[0]))) > 5
    day = ingest_day(root, DAYS[0])
    assert day.manifest.events == 99
    with open(day.quarantine, encoding="utf-8") as file:
        (record,) = map(json.loads, file)
    assert record["file"] == str(path)
    assert record["line"] == 58
    assert record["raw"] == "oops"


def test_malformed_lines_below_the_limit_are_counted_and_quarantined(root):
    lines = [event(n) for n in range(99)]
    lines.insert(11, event(500, age="n/a"))
    path = write_day(root / "logs", DAYS[2], lines)
    result = run(plan(), root, make_pipeline=make_pipeline)
    assert (result.total("quarantined"), result.total("events")) == (1, 399)
    (line,) = (root / f"out/quarantine/{DAYS[2]}.jsonl").read_text().splitlines()
    reason = "field 'age': expected a number, got \"n/a\""
    assert json.loads(line) == {
        "file": str(path),
        "line": 12,
        "reason": reason,
        "raw": json.dumps(event(500, age="n/a")),
        "kind": "expected a number",
        "field": "age",
    }


def test_malformed_lines_above_the_limit_fail_the_run_and_stay_in_the_store(root):
    path = write_day(root / "logs", DAYS[2], [event(1), "oops", event(2, clicked=3)])
    with pytest.raises(BadDataError) as error:
        run(plan(), root, make_pipeline=make_pipeline)
    message = str(error.value)
    assert "2 of 3 lines are malformed (66.7 %, limit 10 %)" in message
    assert f"{path}:3: field 'clicked': expected 0 or 1, got 3" in message
    quarantine = stored(root, DAYS[2]).quarantine
    assert quarantine in message
    with open(quarantine, encoding="utf-8") as file:
        assert len(file.readlines()) == 2
    with pytest.raises(BadDataError, match="2 of 3 lines"):
        run(plan(), root)
    assert run(plan(events__max_quarantined=1.0), root).total("quarantined") == 2


@pytest.mark.parametrize("how", ["missing", "empty directory", "empty file"])
def test_run_date_without_events_is_an_error(root, how):
    shutil.rmtree(root / f"logs/{RUN_DATE}")
    if how == "empty directory":
        (root / f"logs/{RUN_DATE}").mkdir()
    if how == "empty file":
        write_day(root / "logs", RUN_DATE, [])
    with pytest.raises(BadDataError, match=rf"{RUN_DATE}: .* no (log files|events)"):
        run(plan(), root, make_pipeline=make_pipeline)


def test_days_before_the_first_that_has_events_are_told_in_one_note(root):
    for date in DAYS[:2]:
        shutil.rmtree(root / f"logs/{date}")
    notes = run(plan(training__min_window_days=1), root).notes
    assert notes == (f"the events begin on {DAYS[2]}: 1 of the 3 days of the window hold some",)


def test_logs_that_are_gone_are_told_from_those_that_never_were(root):
    for date in DAYS[:2]:
        shutil.rmtree(root / f"logs/{date}")
    served = dataclasses.replace(
        plan(training__min_window_days=1), baseline_seen={str(DAYS[1]): "a"}
    )
    notes = run(served, root).notes
    assert len(notes) == 2
    assert notes[0].startswith(f"{DAYS[1]}: no events any more, though the served version knows")
    assert notes[1].startswith(f"the events begin on {DAYS[2]}")


def test_a_day_that_came_late_is_trained_on_in_full_by_a_warm_start(root):
    warm = plan(base_trained_through=DAYS[2], training__exposures=1.0)
    result = run(dataclasses.replace(warm, base_seen={str(DAYS[0]): "a", str(DAYS[2]): "c"}), root)
    assert {day.date: day.share for day in result.training} == {
        DAYS[0]: 0.0,
        DAYS[1]: 1.0,
        DAYS[2]: 0.0,
    }
    assert f"{DAYS[1]}: came late or was held, and is trained on in full now" in result.notes


@pytest.mark.parametrize("gap", [1, 2])
@pytest.mark.parametrize("how", ["missing", "empty file"])
def test_gap_in_the_window_is_noted_and_the_run_goes_on(root, how, gap):
    shutil.rmtree(root / f"logs/{DAYS[gap]}")
    if how == "empty file":
        write_day(root / "logs", DAYS[gap], [])
    result = run(plan(), root, make_pipeline=make_pipeline)
    others = [date for date in DAYS[:3] if date != DAYS[gap]]
    assert [day.date for day in result.training] == others
    assert f"{DAYS[gap]}: no events, a gap in the window" in result.notes
    # A later run tells by the shards which days were trained on: this one is still to come.
    assert newest_day(str(root / "out" / "Split-train")) == others[-1]


def test_fewer_window_days_than_wanted_are_an_error_that_names_them(root):
    for date in DAYS[:2]:
        shutil.rmtree(root / f"logs/{date}")
    with pytest.raises(BadDataError, match=r"1 of the 3 days .* 2026-01-01, 2026-01-02"):
        run(plan(), root)


def test_nothing_to_train_on_is_an_error(root):
    with pytest.raises(BadDataError, match="no events to train on"):
        run(plan(base_trained_through=DAYS[2], training__exposures=1.0), root)


@pytest.mark.parametrize(("fewest", "what"), [(101, "100 events"), (1, None)])
def test_too_few_events_on_the_run_date_are_an_error(root, fewest, what):
    limited = plan(validation__min_events=fewest)
    if what is None:
        run(limited, root)
    else:
        with pytest.raises(BadDataError, match=f"{RUN_DATE}: {what}, fewer than the {fewest}"):
            run(limited, root)


def test_too_few_events_to_train_on_are_an_error(root):
    limited = plan(DAYS[2], validation__min_events=90, training__exposures=1.01)
    with pytest.raises(BadDataError, match="events to train on before"):
        run(limited, root)


def test_corrupt_file_is_an_error_and_other_days_are_kept(root):
    (root / f"logs/{DAYS[0]}/cut.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00")
    write_day(root / "logs", DAYS[1], [event(n) for n in range(50)])
    with pytest.raises(BadDataError, match=r"cut\.jsonl\.gz: the gzip stream breaks off"):
        run(plan(), root, make_pipeline=make_pipeline)
    assert stored(root, DAYS[0]) is None
    assert stored(root, DAYS[1]).manifest.events == 50
