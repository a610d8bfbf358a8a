"""The store of encoded days: what is ingested again, killed, at once, or remotely."""

import os
import pathlib
import shutil

import pytest
from ingestion import (
    DAYS,
    event,
    ingest_day,
    make_pipeline,
    no_pipeline,
    plan,
    run,
    stored,
    users,
    write_day,
)

from components import held_days
from components.daily_example_gen import day_store, ingest
from components.daily_example_gen.executor import make_examples
from schemas.errors import BadDataError


def test_stored_days_are_not_parsed_again(root):
    run(plan(), root)
    run(plan(base_trained_through=DAYS[2]), root, root / "again")


@pytest.mark.parametrize("change", ["same size", "late file", "removed file"])
def test_changed_day_alone_is_parsed_again_and_its_old_form_removed(root, monkeypatch, change):
    before = stored(root, DAYS[1]).directory
    late = write_day(root / "logs", DAYS[1], [event(7777)], "part-1.jsonl")
    if change == "late file":
        expected = 101
    else:
        before = ingest_day(root, DAYS[1]).directory
        expected = 100
        if change == "removed file":
            late.unlink()
        else:
            expected = 101
            write_day(root / "logs", DAYS[1], [event(8888)], "part-1.jsonl")
    parsed = []
    original = ingest.pieces_of
    monkeypatch.setattr(
        ingest, "pieces_of", lambda logs: parsed.append(logs.date) or original(logs)
    )
    result = run(plan(), root, make_pipeline=make_pipeline)
    assert set(parsed) == {DAYS[1]}
    assert result.days[DAYS[1]].manifest.events == expected
    if change == "same size":
        assert "u8888" in users(root / "out/Split-train")
        assert "u7777" not in users(root / "out/Split-train")
    assert not os.path.exists(before)
    assert len(list((root / "store").glob(f"*/{DAYS[1]}/*"))) == 1


def test_events_encoded_otherwise_are_stored_apart(root):
    changed = plan(features__age__required="true")
    run(changed, root, make_pipeline=make_pipeline)
    run(changed, root, root / "again")
    run(plan(), root, root / "third")


def test_killed_run_leaves_no_day_that_looks_whole(root, monkeypatch):
    path = write_day(root / "logs", DAYS[0], [event(1)])

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(day_store, "_publish", die)
    with pytest.raises(KeyboardInterrupt):
        ingest_day(root, DAYS[0])
    assert stored(root, DAYS[0]) is None
    monkeypatch.undo()
    assert ingest_day(root, DAYS[0]).manifest.events == 1
    assert path.exists()
    assert not list((root / "store").glob("*/.work/*"))


@pytest.mark.parametrize("content", ["", "{}", '{"shards": 3'])
def test_damaged_manifest_is_named_and_its_day_made_again_once_it_is_gone(root, content):
    write_day(root / "logs", DAYS[0], [event(1)])
    manifest = pathlib.Path(ingest_day(root, DAYS[0]).directory, day_store.MANIFEST)
    manifest.write_text(content)
    with pytest.raises(BadDataError, match=f"{manifest.name}: damaged .*Remove its folder"):
        ingest_day(root, DAYS[0])
    shutil.rmtree(manifest.parent)
    assert ingest_day(root, DAYS[0]).manifest.events == 1


def test_of_two_runs_storing_a_day_at_once_both_get_a_whole_one(root, monkeypatch):
    write_day(root / "logs", DAYS[0], [event(n) for n in range(20)])
    publish = day_store._publish

    def publish_second(staged, final):
        if not os.path.exists(final):
            shutil.copytree(staged, final)
        publish(staged, final)

    monkeypatch.setattr(day_store, "_publish", publish_second)
    day = ingest_day(root, DAYS[0])
    assert day.manifest.events == 20
    assert len(os.listdir(day.directory)) == 16 + 2


def test_logs_that_change_while_they_are_read_are_an_error(root, monkeypatch):
    write_day(root / "logs", DAYS[0], [event(1)])
    original = ingest._run

    def run_slowly(*args):
        result = original(*args)
        write_day(root / "logs", DAYS[0], [event(2)], "part-9.jsonl")
        return result

    monkeypatch.setattr(ingest, "_run", run_slowly)
    with pytest.raises(BadDataError, match="changed while they were read"):
        ingest_day(root, DAYS[0])


@pytest.mark.parametrize("name", ["b.jsonl", "b.csv", "b.jsonl.gz", "b.parquet"])
def test_log_that_goes_before_it_is_read_is_a_change_too(root, monkeypatch, name):
    path = write_day(root / "logs", DAYS[0], [event(1)], name)
    original = ingest._run

    def run_late(*args):
        path.unlink()
        return original(*args)

    monkeypatch.setattr(ingest, "_run", run_late)
    with pytest.raises(BadDataError, match=rf"{DAYS[0]}: .* while they were read\. Run again"):
        ingest_day(root, DAYS[0])


def test_work_left_by_a_killed_run_is_removed_after_days(root):
    old = next((root / "store").glob("*")) / ".work" / "20200101T000000-dead"
    old.mkdir(parents=True)
    (old / "x.arrow").write_text("")
    write_day(root / "logs", DAYS[0], [event(1)])
    ingest_day(root, DAYS[0])
    assert not old.exists()


def test_logs_and_store_may_be_remote(root):
    def ingest_remotely(make_pipeline):
        return make_examples(
            plan(),
            f"objects://{root}/logs",
            f"objects://{root}/remote",
            {"train": str(root / "out/Split-train"), "eval": f"objects://{root}/out/Split-eval"},
            str(root / "out/quarantine"),
            make_pipeline,
        )

    result = ingest_remotely(make_pipeline)
    assert result.total("events") == 400
    former = result.days[DAYS[0]].directory.removeprefix("objects://")
    assert len(os.listdir(former)) == 16 + 2
    assert len(users(root / "out/Split-train")) == 300
    assert len(users(root / "out/Split-eval")) == 100
    shutil.rmtree(root / "out")
    ingest_remotely(no_pipeline)
    write_day(root / "logs", DAYS[0], [event(1)])
    shutil.rmtree(root / "out")
    assert ingest_remotely(make_pipeline).total("events") == 301
    assert not os.path.isdir(former) or not os.listdir(former)
    assert not [path for path in (root / "remote").glob("*/.work/*/*") if path.is_file()]


def test_held_days_may_be_remembered_remotely(tmp_path):
    store = f"objects://{tmp_path}/store"
    assert held_days.list_held(store) == []
    assert held_days.find(store, DAYS[0]) is None
    days = [held_days.HeldDay(date, "c", 1, ("click",)) for date in DAYS[:3]]
    for day in days:
        held_days.save(store, day)
    assert held_days.list_held(store) == days
    assert held_days.release(store, DAYS[1]).released
    assert held_days.forget_before(store, DAYS[1]) == [DAYS[0]]
    assert held_days.list_held(store) == [days[2]]


@pytest.mark.parametrize("scheme", ["", "objects://"])
def test_path_with_the_characters_of_a_pattern_is_taken_as_it_is(tmp_path, scheme):
    root = tmp_path / "br[ab]*?"
    write_day(root / "logs", DAYS[0], [event(1)])
    write_day(tmp_path / "bra*?" / "logs", DAYS[0], [event(1)], "other.jsonl")
    assert ingest_day(root, DAYS[0], scheme=scheme).manifest.events == 1
    write_day(root / "logs", DAYS[0], [event(2), event(3)])
    day = ingest_day(root, DAYS[0], scheme=scheme)
    assert [file["name"] for file in day.manifest.files] == ["part-0.jsonl"]
    stored_files = [path for path in (root / "store").rglob("*") if path.is_file()]
    assert len(stored_files) == 16 + 2
    assert not [path for path in stored_files if ".work" in path.parts]
