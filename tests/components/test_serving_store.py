import concurrent.futures
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import shutil
import threading

import pytest

from components import serving_lock, serving_store, storage
from components.serving_lock import LOCK_FILE
from components.serving_store import (
    TRAINING_STATE,
    VERSION_FILE,
    ModelInfo,
    list_versions,
    rollback,
    served_version,
)
from schemas.errors import ServingStoreError

INFO = ModelInfo(
    run_date=datetime.date(2026, 1, 4),
    trained_through=datetime.date(2026, 1, 3),
    model_fingerprint="model",
    tasks_fingerprint="tasks",
    model_uri="artifacts/Trainer/model/6",
)


def make_model(folder, content="weights"):
    for name in (
        "saved_model.pb",
        os.path.join("variables", "variables.index"),
        os.path.join("assets.extra", "notes.txt"),
        os.path.join(TRAINING_STATE, "state.npz"),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content} {name}")
    return str(folder)


def files_of(folder, *, without=()):
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with open(path) as file:
                found[os.path.relpath(path, folder)] = file.read()
    return {name: text for name, text in found.items() if name not in without}


def push(model, serving, info, keep_versions):
    """A push of a run that was planned just now."""
    served = served_version(serving)
    before = served.version if served else None
    return serving_store.push(model, serving, info, keep_versions, served_before=before)


@pytest.fixture
def serving(tmp_path):
    return str(tmp_path / "serving")


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "model")


def names(serving):
    """What lies in the folder, but the lock."""
    return sorted(set(os.listdir(serving)) - {LOCK_FILE})


def numbers(serving):
    return [item.version for item in list_versions(serving)]


def fail_while_copying(monkeypatch, file_name):
    copy = serving_store.storage.copy

    def failing(source, *args, **kwargs):
        if source.endswith(file_name):
            raise KeyboardInterrupt
        copy(source, *args, **kwargs)

    monkeypatch.setattr(serving_store.storage, "copy", failing)


def test_nothing_is_served_before_the_first_push(serving):
    assert list_versions(serving) == ()
    assert served_version(serving) is None


def test_pushed_version_holds_the_whole_model_and_what_it_is(serving, model):
    pushed = push(model, serving, INFO, keep_versions=3)
    assert served_version(serving) == pushed
    assert pushed.info == INFO
    assert files_of(pushed.path, without={VERSION_FILE}) == files_of(model)
    assert names(serving) == ["1"]


def test_versions_increase_and_only_the_newest_are_kept(serving, model):
    assert [push(model, serving, INFO, 2).version for _ in range(5)] == [1, 2, 3, 4, 5]
    assert numbers(serving) == [4, 5]
    assert names(serving) == ["4", "5"]


def test_rollback_removes_no_version_unless_told_how_many_to_keep(serving, model):
    for _ in range(12):
        push(model, serving, INFO, None)
    rollback(serving, 1)
    assert numbers(serving) == list(range(1, 14))
    rollback(serving, 1, 3)
    assert numbers(serving) == [12, 13, 14]


def test_version_that_cannot_be_removed_does_not_undo_the_push(serving, model, monkeypatch):
    push(model, serving, INFO, 1)

    def refuse(*args):
        raise PermissionError("not yours")

    monkeypatch.setattr(serving_store, "_remove_version", refuse)
    assert push(model, serving, INFO, 1).version == 2
    monkeypatch.undo()
    assert push(model, serving, INFO, 1).version == 3
    assert numbers(serving) == [3]


def test_a_number_is_not_used_again_after_what_holds_it_was_found_incomplete(serving, model):
    os.makedirs(os.path.join(serving, "7", "variables"))
    assert numbers(serving) == []
    assert push(model, serving, INFO, 2).version == 8


def test_fewer_versions_kept_than_before_removes_the_others(serving, model):
    for _ in range(4):
        push(model, serving, INFO, 10)
    push(model, serving, INFO, 1)
    assert numbers(serving) == [5]


@pytest.fixture
def object_store(monkeypatch):
    """Takes the folder for an object store; what is appended to it takes the lock away."""
    takers = []
    monkeypatch.setattr(storage, "is_local", lambda path: False)
    monkeypatch.setattr(
        serving_lock, "locked", lambda path: contextlib.nullcontext(lambda: not takers)
    )
    return takers


@pytest.mark.parametrize(
    "file_name", ["notes.txt", "state.npz", "variables.index", "saved_model.pb"]
)
@pytest.mark.parametrize("where", ["local", "object store"])
def test_push_that_dies_while_copying_leaves_nothing_visible(
    request, serving, model, monkeypatch, file_name, where
):
    first = push(model, serving, INFO, 5)
    if where == "object store":
        request.getfixturevalue("object_store")
    with monkeypatch.context() as patch:
        fail_while_copying(patch, file_name)
        with pytest.raises(KeyboardInterrupt):
            push(model, serving, INFO, 5)
    assert list_versions(serving) == (first,)
    second = push(model, serving, INFO, 5)
    assert second.version > first.version
    assert list_versions(serving) == (first, second)


def test_on_an_object_store_a_version_says_what_it_is_as_soon_as_it_counts(
    serving, model, monkeypatch, object_store
):
    copy = serving_store.storage.copy
    seen = []

    def watched(*args, **kwargs):
        copy(*args, **kwargs)
        seen.append(list_versions(serving))

    monkeypatch.setattr(serving_store.storage, "copy", watched)
    pushed = push(model, serving, INFO, 5)
    assert seen == [()] * (len(seen) - 1) + [(pushed,)]

    push(model, serving, INFO, 5)
    del seen[:]
    back = rollback(serving, 1, 5)
    assert seen[-1][-1] == back
    assert {versions[-1].version for versions in seen[:-1]} == {2}


def test_on_an_object_store_a_push_gives_way_to_one_that_came_in_between(
    serving, model, monkeypatch, object_store
):
    push(model, serving, INFO, 5)
    copy = storage.copy
    before = served_version(serving)

    def interrupted(source, *args, **kwargs):
        copy(source, *args, **kwargs)
        if source.endswith("variables.index") and not os.path.exists(os.path.join(serving, "9")):
            shutil.copytree(before.path, os.path.join(serving, "9"))

    monkeypatch.setattr(storage, "copy", interrupted)
    with pytest.raises(ServingStoreError, match="another version was pushed meanwhile"):
        push(model, serving, INFO, 5)
    assert names(serving) == ["1", "9"]


def test_on_an_object_store_a_push_gives_way_to_one_that_took_its_lock(
    serving, model, monkeypatch, object_store
):
    first = push(model, serving, INFO, 5)
    object_store.append("taken over")
    with pytest.raises(ServingStoreError, match="another version was pushed meanwhile"):
        push(model, serving, INFO, 5)
    assert list_versions(serving) == (first,)


def test_on_an_object_store_old_versions_are_removed_too(serving, model, object_store):
    for _ in range(3):
        push(model, serving, INFO, 2)
    assert names(serving) == ["2", "3"]


def test_reader_never_sees_half_a_version_while_versions_come_and_go(serving, model):
    pushes = 60
    push(model, serving, INFO, 2)
    done = threading.Event()
    problems, seen = [], []

    def read():
        while not done.is_set():
            try:
                versions = list_versions(serving)
                if not versions:
                    problems.append("no version at all")
                    continue
                newest = versions[-1]
                seen.append(newest.version)
                missing = files_of(model).keys() - files_of(newest.path).keys()
                if missing and newest in list_versions(serving):
                    problems.append((newest.version, missing))
            except FileNotFoundError:
                # The version went out of the window between listing and reading it.
                continue
            except Exception as error:
                problems.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(pushes):
            push(model, serving, INFO, 2)
    finally:
        done.set()
        reader.join()
    assert problems == []
    assert seen == sorted(seen)
    assert len(set(seen)) > 1


def test_of_pushes_planned_at_once_one_is_served_and_the_others_are_refused(tmp_path, serving):
    push(make_model(tmp_path / "first"), serving, INFO, 3)
    models = [make_model(tmp_path / f"model{i}", f"weights {i}") for i in range(4)]
    barrier = threading.Barrier(len(models))

    def worker(model):
        barrier.wait(timeout=60)
        return serving_store.push(model, serving, INFO, 3, served_before=1)

    with concurrent.futures.ThreadPoolExecutor(len(models)) as pool:
        done = [pool.submit(worker, model) for model in models]
    errors = [future.exception() for future in done]
    (winner,) = [model for model, error in zip(models, errors, strict=True) if error is None]
    assert files_of(served_version(serving).path, without={VERSION_FILE}) == files_of(winner)
    refused = [str(error) for error in errors if error is not None]
    assert refused == [
        f"{serving}: version 2 is served by now, but the run was planned, and its model judged, "
        "when version 1 was; nothing was pushed. Run the day again"
    ] * (len(models) - 1)
    assert names(serving) == ["1", "2"]


@pytest.mark.parametrize(("planned_with", "refused"), [(None, "no version"), (2, "version 2")])
def test_push_over_another_version_than_it_was_judged_against_is_refused(
    serving, model, planned_with, refused
):
    push(model, serving, INFO, 3)
    before = files_of(serving)
    with pytest.raises(ServingStoreError, match=f"version 1 is served by now.*when {refused} was"):
        serving_store.push(model, serving, INFO, 3, served_before=planned_with)
    assert files_of(serving) == before


MADE = dataclasses.replace(INFO, made_from="0123")


def test_same_push_again_is_recognised_and_changes_nothing(serving, tmp_path):
    first = serving_store.push(make_model(tmp_path / "a"), serving, MADE, 3, served_before=None)
    before = files_of(serving)
    # A pod that is tried again has the plan of before the push, a run that is started again one
    # of after it, and a model that was trained anew.
    for model, served_before in (("a", None), ("b", 1)):
        again = serving_store.push(
            make_model(tmp_path / model, model), serving, MADE, 3, served_before=served_before
        )
        assert again == first
    assert files_of(serving) == before


def test_push_that_was_rolled_back_since_is_no_longer_the_same(serving, model):
    other = dataclasses.replace(INFO, made_from="4567")
    serving_store.push(model, serving, MADE, 5, served_before=None)
    serving_store.push(model, serving, other, 5, served_before=1)
    rollback(serving, 1)
    assert serving_store.push(model, serving, MADE, 5, served_before=3).version == 4


def test_version_number_taken_by_one_that_does_not_lock_leaves_it_and_no_rest(
    serving, model, monkeypatch
):
    def taken(source, target):
        raise OSError("Directory not empty")

    monkeypatch.setattr(serving_store.os, "rename", taken)
    with pytest.raises(ServingStoreError, match=r"/1: the model cannot be pushed \(Directory not"):
        push(model, serving, INFO, 5)
    assert names(serving) == []


def test_folder_without_a_saved_model_is_not_pushed(serving, tmp_path):
    with pytest.raises(ServingStoreError, match=r"no saved_model\.pb; nothing was pushed"):
        push(str(tmp_path), serving, INFO, 5)
    assert not os.path.exists(serving)


def test_staging_folder_of_a_killed_push_is_removed_by_the_next(serving, model):
    make_model(pathlib.Path(serving, ".staging-0123"))
    assert numbers(serving) == []
    push(model, serving, INFO, 5)
    assert names(serving) == ["1"]


def test_rollback_serves_the_old_content_as_a_new_version(serving, tmp_path):
    for i in range(3):
        push(make_model(tmp_path / f"m{i}", f"weights {i}"), serving, INFO, 5)
    old, *_ = list_versions(serving)
    back = rollback(serving, 1, 5)
    assert served_version(serving) == back
    assert back.version == 4
    assert dataclasses.replace(back.info, files={}) == dataclasses.replace(
        old.info, rolled_back_to=1
    )
    assert set(back.info.files) == set(files_of(old.path, without={VERSION_FILE}))
    without = {VERSION_FILE}
    assert files_of(back.path, without=without) == files_of(old.path, without=without)


def test_rollback_to_the_oldest_kept_version_copies_it_before_it_goes(serving, tmp_path):
    for i in range(2):
        push(make_model(tmp_path / f"m{i}", f"weights {i}"), serving, INFO, 2)
    back = rollback(serving, 1, 2)
    assert numbers(serving) == [2, 3]
    assert files_of(back.path)["saved_model.pb"] == "weights 0 saved_model.pb"


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (2, r"version 2 is being served already"),
        (9, r"no version 9; there is: 1, 2"),
        (0, r"no version 0; there is: 1, 2"),
    ],
)
def test_rollback_to_what_cannot_be_rolled_back_to_changes_nothing(
    serving, model, version, message
):
    push(model, serving, INFO, 5)
    push(model, serving, INFO, 5)
    before = files_of(serving)
    with pytest.raises(ServingStoreError, match=message):
        rollback(serving, version, 5)
    assert files_of(serving) == before


def test_rollback_before_the_first_push_says_that_there_is_no_version(serving):
    with pytest.raises(ServingStoreError, match=r"no version 1; there is: none"):
        rollback(serving, 1, 5)


def without_field(field):
    content = {**dataclasses.asdict(INFO)}
    del content[field]
    return json.dumps(content, default=str)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        without_field("run_date"),
        without_field("model_uri"),
        json.dumps({**dataclasses.asdict(INFO), "run_date": "yesterday"}, default=str),
        json.dumps({**dataclasses.asdict(INFO), "unknown": 1}, default=str),
    ],
)
def test_unreadable_version_file_is_an_error_that_names_it(serving, model, content):
    pushed = push(model, serving, INFO, 5)
    path = os.path.join(pushed.path, VERSION_FILE)
    pathlib.Path(path).write_text(content)
    with pytest.raises(ServingStoreError, match="cannot tell what this version is") as caught:
        list_versions(serving)
    assert path in str(caught.value)


def test_missing_version_file_is_an_error(serving, model):
    os.remove(os.path.join(push(model, serving, INFO, 5).path, VERSION_FILE))
    with pytest.raises(ServingStoreError, match="cannot tell what this version is"):
        served_version(serving)


def test_files_and_folders_that_are_no_version_are_ignored(serving, model):
    pushed = push(model, serving, INFO, 5)
    for name in ("README", "v2", "-3", "4.5", ".staging-x"):
        os.makedirs(os.path.join(serving, name))
    assert list_versions(serving) == (pushed,)
